"""Simulated cells whose truth is known: every cell's expected counts under each condition.

`ifnb` resembles peripheral blood mononuclear cells without and with interferon beta (Kang et al. 2018, Nature
Biotechnology 36:89, GEO GSE96583). The counts x of cell n, gene g are negative binomial with mean

    mu_ng(c) = s_n(c) exp(b_tg + w_g . u_n + level(c) a_n d_tg + batch_g + donor_g + site_tg + disease_tg)

and variance mu + phi_g mu^2, where b_t is the log profile of the cell's type t, u_n are continuous programs within
its type, level is 0 for control and 1 for stimulated cells, or saturates with the dose, d_t is the type's response,
a_n the strength of response of that one cell, and s_n(c) sets its library size. Batch and site are technical, donor
and disease biological: `expected` also gives mu without the technical effects, so that a correction that removes too
little or too much can be measured. The cell's factors are kept in `obsm` and `obs`, the genes' in `varm`, so the
truth costs a few numbers per cell and `expected` rebuilds mu for either condition, also after cells or genes were
dropped.

Profiles and responses of 488 marker, interferon-response and abundant genes are rounded values of the real cells;
the remaining 8,314 genes keep their real symbol and abundance rank, and their differences are random.

Against 2,000 of the real cells, on the same 8,802 genes (r and fold changes: stimulated against control):

    ====================================  ==============  ==============
    quantity                              real            simulated
    ====================================  ==============  ==============
    median library size; sd of its log    1,240; 0.53     1,238; 0.49
    zero counts                           93.6 %          93.2 %
    gene means, quartiles                 .011 .025 .070  .013 .029 .080
    gene means, 95 and 99 % quantile      0.39, 2.53      0.41, 2.48
    (var - mean)/mean^2, mean 0.1 to 0.3  1.7             1.7
    (var - mean)/mean^2, mean 0.3 to 1    1.4             1.3
    (var - mean)/mean^2, mean above 3     0.45            0.53
    genes up 2-fold, 4-fold in CD14 Mono  218, 74         176, 68
    genes up 2-fold, 4-fold in CD4 T      118, 39         98, 46
    genes up 2-fold, 4-fold in B          96, 54          84, 51
    r of log means, CD14 Mono, CD4 T, B   .84, .96, .93   .86, .96, .94
    cell type by 15 neighbours in PCA     0.86            0.89
    ====================================  ==============  ==============

The table shows a fit, not a validation: profiles and constants were set on these real cells (seed 0 shown).
Cell types have the real proportions. Unlike the real sample, Mk cells occur in both conditions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from cellalign.simulate._ifnb_draws import (
    CELL_TYPES,
    Cells,
    Disease,
    Parameters,
    Sites,
    check,
    check_scales,
    check_sites_and_disease,
    choose_genes,
    draw_cells,
    draw_disease,
    draw_genes,
    draw_sites,
    genes,
    shares_of,
)
from cellalign.simulate._ifnb_truth import BIOLOGICAL_SCALE, Truth, expected, level, log_rate
from cellalign.threads import workers

__all__ = ["CELL_TYPES", "expected", "genes", "ifnb", "level"]

CHUNK = 2_000_000  # values drawn at once: about 50 MB of temporaries per thread


def ifnb(
    n_cells: int = 2000,
    n_genes: int = 2000,
    *,
    n_cell_types: int = 8,
    proportions: Mapping[str, float] | None = None,
    rare: float | None = None,
    batches: int = 0,
    donors: int = 0,
    batch_effect: float = 0.25,
    donor_effect: float = 0.15,
    sites: int = 0,
    site_effect: float = 0.5,
    diseased: float = 0.0,
    disease_effect: float = 0.4,
    stimulated: float = 0.5,
    response_scale: float = 1.0,
    library_size: float = 1.0,
    conditions: Sequence[str] = ("control", "stimulated"),
    doses: bool = False,
    truth_layers: bool = False,
    seed: int = 0,
    threads: int | None = None,
) -> AnnData:
    """Simulate raw counts of blood cells, by default half of them stimulated with interferon beta.

    Parameters
    ----------
    n_cells, n_genes
        Size of the matrix. Up to 488 genes, those that differ most between cell types and conditions are taken;
        beyond them, genes of every abundance (at most 8,802). As in a gene panel, a cell's counts are
        those the chosen genes would have among all.
    n_cell_types
        The most frequent 1 to 8 of `CELL_TYPES`.
    proportions
        Share of cells by cell type; types not named share the rest in their real proportions.
    rare
        Share given to each type that makes up less than 5 % of the real cells (CD16 Mono, DC, Mk) and is not named
        in `proportions`. Every type keeps at least one cell per condition that occurs.
    batches, donors
        Number of batches and donors, crossed as in pooled samples; 0 leaves the column out.
    batch_effect, donor_effect
        Standard deviation over genes of the log expression of one batch or donor; donors also differ in strength of
        response.
    sites
        Number of sites, at least 2, where every donor is measured, as with pooled reference samples: cells are
        assigned to sites at random, whatever their donor, batch, type and condition. 0 leaves the column out.
    site_effect
        Standard deviation over genes of the log expression of one site, the same in all cell types. 0.3 of it is
        added for each cell type by itself, as protocols do not change all types alike; 0.6 of it is the standard
        deviation of the log of a factor on the library size of all cells of a site.
    diseased
        Share of donors with a disease, at least one and not all; needs 2 donors. 0 leaves the column out.
    disease_effect
        Standard deviation of the change in log expression, the same in all cell types, over the random fifth of
        genes that the disease changes. Half of it is added for each cell type by itself.
    stimulated
        Share of stimulated cells in each cell type, below 1. At 0 no cell is stimulated: obs["stim"] keeps its two
        categories, of which one occurs, and `expected` still gives both conditions. Not to be set with `doses`.
    response_scale
        Factor on every log response; 0 makes both conditions alike.
    library_size
        Factor on the library size; 1 gives a median near 1,240 counts over all genes.
    conditions
        Names of the unstimulated and the stimulated condition in `obs["stim"]`.
    doses
        Every cell has a dose of its own in obs["dose"], in place of a condition in obs["stim"]: 0 for one cell in
        ten, else uniform in (0, 1]. The response follows `level` of the dose.
    truth_layers
        Also store `expected` for both conditions, dense, as `layers["expected_<condition>"]`.
    seed
        The same arguments give the same cells on any number of threads.
    threads
        Threads that draw counts; default: all processors, at most 4.

    Returns
    -------
    AnnData [n_cells, n_genes]
        X: raw counts, CSR float32. obs: stim, cell_type, batch, donor, site (site1, ...), disease (healthy or
        diseased, the same in all cells of a donor), and the truth that `expected` reads (response_strength; obsm,
        varm and var entries named truth_*; uns["simulation"]). varm["truth_site"] [n_genes, sites * types] holds
        the log effect of site s on type t in column s * types + t, varm["truth_disease"] [n_genes, types] that of
        the disease; uns["simulation"]["site_library"] [sites] the factors on the library size.

    Raises
    ------
    UsageError
        If an argument is out of range.
    """
    types = CELL_TYPES[:n_cell_types] if 1 <= n_cell_types <= len(CELL_TYPES) else ()
    names = tuple(str(name) for name in conditions)
    check(n_cells, n_genes, types, names, rare, batches, donors, stimulated)
    check_sites_and_disease(sites, donors, diseased, doses, stimulated)
    check_scales(
        library_size,
        batch_effect=batch_effect,
        donor_effect=donor_effect,
        site_effect=site_effect,
        disease_effect=disease_effect,
        response_scale=response_scale,
    )
    shares = shares_of(types, proportions, rare)
    # Sites and disease draw from streams of their own: all else is the same with and without them.
    gene_seed, cell_seed, count_seed, site_seed, disease_seed = np.random.SeedSequence(seed).spawn(5)
    every = draw_genes(np.random.default_rng(gene_seed), batches, donors, batch_effect, donor_effect, response_scale)
    panel = choose_genes(n_genes)
    share = np.exp(every.baseline[panel]).sum(0) / np.exp(every.baseline).sum(0)
    chosen = every.subset(panel)
    cells = draw_cells(
        np.random.default_rng(cell_seed), n_cells, shares, batches, donors, donor_effect, doses, stimulated
    )
    size = cells.size * library_size * share[cells.cell_type]
    adata = AnnData(obs=_obs(cells, types, names, batches, donors), var=pd.DataFrame(index=genes().symbols[panel]))
    _store_truth(adata, chosen, cells, types, names)
    if sites:
        _add_sites(adata, draw_sites(np.random.default_rng(site_seed), n_cells, sites, site_effect), panel, types)
    if diseased:
        drawn = draw_disease(np.random.default_rng(disease_seed), donors, diseased, disease_effect)
        _add_disease(adata, drawn, cells.donor, panel, types)
    adata.uns["simulation"] |= {"seed": seed, "response_scale": float(response_scale)}
    adata.X, scales = _draw_counts(adata, np.log(size), response_scale, count_seed, threads)
    for key, log_scale in scales.items():
        adata.obsm[key] = log_scale
    if truth_layers:
        for name in names:
            adata.layers[f"expected_{name}"] = expected(adata, name)
    return adata


def _obs(cells: Cells, types: Sequence[str], names: Sequence[str], batches: int, donors: int) -> pd.DataFrame:
    obs = pd.DataFrame(index=_barcodes(len(cells.size)))
    if cells.dose is None:
        obs["stim"] = pd.Categorical.from_codes(cells.stimulated.astype(int), list(names))
    else:
        obs["dose"] = cells.dose
    obs["cell_type"] = pd.Categorical.from_codes(cells.cell_type, list(types))
    if batches:
        obs["batch"] = pd.Categorical.from_codes(cells.batch, _numbered("batch", batches))
    if donors:
        obs["donor"] = pd.Categorical.from_codes(cells.donor, _numbered("donor", donors))
    obs["response_strength"] = cells.strength.astype(np.float32)
    return obs


def _numbered(what: str, count: int) -> list[str]:
    return [f"{what}{i + 1}" for i in range(count)]


def _barcodes(n: int) -> list[str]:
    """Distinct 14-letter barcodes: an odd factor permutes the numbers below 4^14."""
    numbers = (np.arange(n, dtype=np.uint64) * 173_205_081 + 141_421_357) % 4**14
    letters = np.array(list("ACGT"))[(numbers[:, None] // 4 ** np.arange(14, dtype=np.uint64)) % 4]
    return ["".join(row) + "-1" for row in letters]


def _store_truth(adata: AnnData, chosen: Parameters, cells: Cells, types: Sequence[str], names: Sequence[str]) -> None:
    adata.var["truth_dispersion"] = chosen.dispersion
    adata.varm["truth_baseline"] = chosen.baseline[:, : len(types)]
    adata.varm["truth_response"] = chosen.response[:, : len(types)]
    adata.varm["truth_programs"] = chosen.programs
    adata.obsm["truth_programs"] = cells.programs.astype(np.float32)
    described: dict[str, Any] = {"kind": "ifnb", "conditions": list(names), "cell_types": list(types)}
    for key, loadings in (("batch", chosen.batch), ("donor", chosen.donor)):
        if loadings.shape[1]:
            adata.varm[f"truth_{key}"] = loadings
            described[f"{key}_names"] = _numbered(key, loadings.shape[1])
    adata.uns["simulation"] = described


def _add_sites(adata: AnnData, drawn: Sites, panel: np.ndarray, types: Sequence[str]) -> None:
    names = _numbered("site", len(drawn.log_library))
    effect = drawn.effect[panel, :, : len(types)].reshape(len(panel), -1)
    adata.obs["site"] = pd.Categorical.from_codes(drawn.of_cell, names)
    adata.varm["truth_site"] = effect.astype(np.float32)
    adata.uns["simulation"] |= {"site_names": names, "site_library": np.exp(drawn.log_library)}


def _add_disease(adata: AnnData, drawn: Disease, donor: np.ndarray, panel: np.ndarray, types: Sequence[str]) -> None:
    names = ["healthy", "diseased"]
    adata.obs["disease"] = pd.Categorical.from_codes(drawn.of_donor[donor].astype(int), names)
    adata.varm["truth_disease"] = drawn.effect[panel, : len(types)].astype(np.float32)
    adata.uns["simulation"] |= {"disease_names": names}


def _versions(adata: AnnData, log_size: np.ndarray) -> dict[str, tuple[Truth, np.ndarray]]:
    """By `obsm` key of the cells' scales, the truth and the log library sizes [cells] these come from."""
    if "site" not in adata.obs:
        return {"truth_log_scale": (Truth.of(adata), log_size)}
    at_site = log_size + np.log(adata.uns["simulation"]["site_library"])[adata.obs["site"].cat.codes]
    return {
        "truth_log_scale": (Truth.of(adata), at_site),
        BIOLOGICAL_SCALE: (Truth.of(adata, technical=False), log_size),
    }


def _log_scales(truth: Truth, log_size: np.ndarray, rows: np.ndarray, response_scale: float) -> np.ndarray:
    """Log scale of each cell that gives it its library size under each condition, float32 [rows, 2]."""
    scales = np.empty((len(rows), 2), dtype=np.float32)
    for condition in (0, 1):
        total = np.exp(log_rate(truth, rows, np.full(len(rows), condition))).sum(1, dtype=np.float64)
        # Stimulated cells hold about a tenth more counts.
        scales[:, condition] = log_size[rows] + 0.1 * response_scale * condition - np.log(total)
    return scales


def _draw_counts(
    adata: AnnData, log_size: np.ndarray, response_scale: float, seed: np.random.SeedSequence, threads: int | None
) -> tuple[sparse.csr_matrix, dict[str, np.ndarray]]:
    """Draw counts chunk by chunk; each chunk has its own stream, so threads do not change the result.

    Returns the counts [cells, genes] and, by key in `obsm`, the log scale of each cell under each condition
    [cells, 2], with sites also that without technical effects.
    """
    versions = _versions(adata, log_size)
    truth = versions["truth_log_scale"][0]
    shape = (1 / adata.var["truth_dispersion"].to_numpy()).astype(np.float32)
    share = level(adata.obs["dose"]) if "dose" in adata.obs else adata.obs["stim"].cat.codes.to_numpy()
    share = share.astype(np.float32)
    rows_at_once = max(1, CHUNK // adata.n_vars)
    starts = range(0, adata.n_obs, rows_at_once)

    def draw(start: int, stream: np.random.SeedSequence) -> tuple[sparse.csr_matrix, dict[str, np.ndarray]]:
        rng, rows = np.random.default_rng(stream), np.arange(start, min(start + rows_at_once, adata.n_obs))
        scales = {key: _log_scales(*version, rows, response_scale) for key, version in versions.items()}
        none, full = scales["truth_log_scale"].T
        log_scale = none + share[rows] * (full - none)
        means = np.exp(log_rate(truth, rows, share[rows]) + log_scale[:, None])
        means *= rng.standard_gamma(shape, means.shape, dtype=np.float32) / shape
        return sparse.csr_matrix(rng.poisson(means).astype(np.float32)), scales

    jobs = threads or min(workers(), 4)
    with ThreadPoolExecutor(jobs) as pool:
        parts = list(pool.map(draw, starts, seed.spawn(len(starts))))
    counts = sparse.vstack([part[0] for part in parts], format="csr")
    return counts, {key: np.concatenate([part[1][key] for part in parts]) for key in versions}
