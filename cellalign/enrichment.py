"""Which gene sets a latent moves: the genes that change most when it does, against sets from a file.

Fisher's exact test, one-sided, of the overlap of two sets of genes among all genes of the model, its p-values corrected
for all latents and sets together (Benjamini & Hochberg 1995).
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cellalign.data.gene_sets import GeneSets, membership
from cellalign.engine import attribution
from cellalign.engine.device import computing
from cellalign.errors import InputError, ModelError, UsageError, option
from cellalign.methods.autoencoder import Autoencoder
from cellalign.model import Model

log = logging.getLogger("cellalign")
LEAST = 3  # genes of a set that the model has to know, for it to be tested
CELLS = 1000  # at most, over which a latent's effect is averaged
SIGNIFICANT = 0.05
MOVED = 50  # genes that a latent is taken to move, of few genes half of them
COLUMNS = ["latent", "gene_set", "size", "in_model", "moved", "overlap", "odds_ratio", "p", "q", "direction", "genes"]


def add_enrichment(
    graph: AnnData, model: Model, adata: AnnData, sets: GeneSets, top_genes: int | None = None, **options: Any
) -> AnnData:
    """Test which gene sets are among the genes that each latent moves.

    The genes a latent moves are the `top_genes` (50, of fewer than 100 half of them) whose decoded log expression
    changes most, if it changes at all, when it goes from one standard deviation of the prior below a cell's latents to
    one above, on average over at most 1,000 control cells (without a control: cells). The background is the model's
    genes.

    Parameters
    ----------
    graph : AnnData
        As `targets` returns it; changed in place: uns["enrichment"], var["gene_sets"] (those of q <= 0.05, the
        smallest p first, separated by "; ").
    adata : AnnData
        Cells on the scale the model reads.
    sets : mapping of name to genes
    options
        missing_genes, seed, device, threads.

    Returns
    -------
    AnnData
        Of uns["enrichment"] the columns are latent, gene_set, size (of the set), in_model (genes of it that the model
        knows), moved (genes that the latent moves), overlap, odds_ratio (infinite where a set is moved as a whole),
        p, q, direction (share of the overlap that rises with the latent), genes (the overlap).

    Raises
    ------
    UsageError
        top_genes is not positive, or not less than the model's genes.
    InputError
        No set has at least 3 of the model's genes.
    """
    n_genes = len(model.genes)
    top_genes = max(1, min(MOVED, n_genes // 2)) if top_genes is None else top_genes
    if not 1 <= top_genes < n_genes:
        raise UsageError(f"{option('top_genes', top_genes)} is not between 1 and {n_genes - 1}, all but one gene")
    member = membership(sets, model.genes, model.record.other_names)
    tested = member.sum(1) >= LEAST
    if not tested.any():
        raise InputError(
            f"{option('gene_sets')}: none of {len(sets)} sets has {LEAST} of the model's {n_genes} genes; "
            "take larger sets, or train on more genes"
        )
    if not tested.all():
        log.info("%d of %d gene sets are tested: they have %d genes of the model", tested.sum(), len(sets), LEAST)
    effect = latent_effects(model, adata, **options)
    names = [name for name, chosen in zip(sets, tested, strict=True) if chosen]
    sizes = [len(members) for members, chosen in zip(sets.values(), tested, strict=True) if chosen]
    table = enrichment(effect, member[tested], names, sizes, np.array(model.genes), list(graph.var_names), top_genes)
    graph.uns["enrichment"] = table
    found = table[table["q"] <= SIGNIFICANT]
    graph.var["gene_sets"] = ["; ".join(found["gene_set"][found["latent"] == name]) for name in graph.var_names]
    return graph


def latent_effects(model: Model, adata: AnnData, **options: Any) -> np.ndarray:
    """Change of the decoded log expression per standard deviation of each latent, [latents, genes]."""
    method = model.method
    if not isinstance(method, Autoencoder):
        raise ModelError(f"method {model.name!r} has no decoder to say which genes a latent moves, for gene sets")
    cells = model.cells(adata, missing_genes=options.get("missing_genes", "error"), with_condition=False)
    rng = np.random.default_rng(options.get("seed", 0))
    chosen = np.sort(rng.permutation(model.reference_rows(adata))[:CELLS])
    with computing(options.get("device", "auto"), options.get("threads")) as device:
        return attribution.latent_effects(method, cells, chosen, device=device)


def enrichment(
    effect: np.ndarray,
    member: np.ndarray,
    names: list[str],
    sizes: list[int],
    genes: np.ndarray,
    latents: list[str],
    top_genes: int,
) -> pd.DataFrame:
    """The table of `add_enrichment`, by latent and p.

    Parameters
    ----------
    effect : array [latents, genes]
    member : bool array [sets, genes]
    """
    from scipy.stats import false_discovery_control

    moved = np.zeros(effect.shape, dtype=bool)
    for row, order in zip(moved, np.argsort(-np.abs(effect), axis=1, kind="stable"), strict=True):
        row[order[:top_genes]] = True
    moved &= effect != 0  # a latent that the decoder does not read moves none
    n_moved = moved.sum(1)
    overlap = moved.astype(np.int64) @ member.T.astype(np.int64)
    p, odds = fisher(overlap, n_moved[:, None], member.sum(1), len(genes))
    rows = []
    for i, latent in enumerate(latents):
        for j in np.argsort(p[i], kind="stable"):
            both = np.flatnonzero(moved[i] & member[j])
            both = both[np.argsort(-np.abs(effect[i, both]), kind="stable")]
            rising = float((effect[i, both] > 0).mean()) if len(both) else np.nan
            sized = (sizes[j], int(member[j].sum()), int(n_moved[i]), int(overlap[i, j]))
            rows.append((latent, names[j], *sized, odds[i, j], p[i, j], np.nan, rising, " ".join(genes[both])))
    table = pd.DataFrame(rows, columns=COLUMNS)
    table["q"] = false_discovery_control(table["p"].to_numpy())
    return table


def fisher(
    overlap: np.ndarray, moved: int | np.ndarray, members: np.ndarray, n_genes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fisher's exact test that sets overlap more than by chance: p-values and sample odds ratios.

    Parameters
    ----------
    overlap : int array [..., sets]
    moved : int, or int array that broadcasts
        Genes that are moved.
    members : int array [sets]
        Genes of each set.
    n_genes : int
        Of which both are taken.

    Returns
    -------
    p, odds_ratio : arrays [..., sets]
        P(overlap or more) under the hypergeometric distribution; the ratio is infinite where a set is moved as a whole
        or nothing else is.
    """
    from scipy.stats import hypergeom

    p = np.minimum(hypergeom.sf(overlap - 1, n_genes, members, moved), 1.0)
    neither = n_genes - moved - members + overlap
    hits, misses = overlap * neither, (moved - overlap) * (members - overlap)
    odds = np.divide(hits, misses, out=np.full(np.shape(p), np.inf), where=misses > 0)
    return p, np.where((misses == 0) & (hits == 0), np.nan, odds)
