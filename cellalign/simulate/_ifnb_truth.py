"""The stored truth of the cells `ifnb` makes, and the expected counts that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cellalign.errors import InputError, spoken

EC50 = 0.2  # dose at which the response is half its plateau
TECHNICAL = ("batch", "site")
BIOLOGICAL_SCALE = "truth_log_scale_biological"


def level(dose: Any) -> Any:
    """Return the share of the full response at a dose in [0, 1]: it saturates, half-way at a dose of one seventh."""
    return np.asarray(dose) * (1 + EC50) / (np.asarray(dose) + EC50)


def expected(
    adata: AnnData, condition: str | float, cells: slice | np.ndarray | None = None, *, technical: bool = True
) -> np.ndarray:
    """Return the true mean counts of cells under a condition, whichever they were simulated in.

    Parameters
    ----------
    adata
        Output of `ifnb`, whole or a subset of its cells and genes.
    condition
        One of the simulated conditions, or a dose in [0, 1].
    cells
        Rows to compute (slice, indices or mask); default all. Use slices where the dense result would be too large.
    technical
        Include the effects of site and batch. Without them the means are those of one common measurement, where a
        site neither shifts genes nor scales library sizes; donors and disease still differ. A correction can be
        compared with these.

    Returns
    -------
    ndarray, float32 [cells, genes]
        Expected raw counts.

    Raises
    ------
    InputError
        If `adata` holds no simulated truth, or was not simulated under `condition`, or has batches but no sites
        and the means without technical effects are asked for: these need sites.
    """
    needed = {"truth_baseline", "truth_response", "truth_programs"}
    if "simulation" not in adata.uns or "truth_log_scale" not in adata.obsm or not needed <= set(adata.varm):
        how = spoken(python="cellalign.simulate.ifnb()", command="`cellalign simulate ifnb`")
        raise InputError(f"no simulated truth in the data; make it with {how}")
    names = list(adata.uns["simulation"]["conditions"])
    if isinstance(condition, str) and condition not in names:
        raise InputError(f"condition {condition!r} was not simulated; choose from {', '.join(names)}")
    rows = np.arange(adata.n_obs)[slice(None) if cells is None else cells]
    share = np.float32(names.index(condition) if isinstance(condition, str) else level(condition))
    scales = np.asarray(adata.obsm[_scale_key(adata, technical)])[rows]
    log_scale = (1 - share) * scales[:, :1] + share * scales[:, 1:]
    return np.exp(log_rate(Truth.of(adata, technical), rows, np.full(len(rows), share)) + log_scale)


def _scale_key(adata: AnnData, technical: bool) -> str:
    """Key of the cells' log scales in `obsm`: the gene total they divide by changes with the technical effects."""
    if technical or not any(f"truth_{key}" in adata.varm for key in TECHNICAL):
        return "truth_log_scale"
    if BIOLOGICAL_SCALE not in adata.obsm:
        raise InputError("means without technical effects are kept only with sites; simulate with 2 or more sites")
    return BIOLOGICAL_SCALE


@dataclass(frozen=True)
class Truth:
    """The stored truth as arrays; genes last, so that a chunk of cells is a few row look-ups and one product."""

    baseline: np.ndarray
    response: np.ndarray
    program_loadings: np.ndarray
    cell_type: np.ndarray
    strength: np.ndarray
    programs: np.ndarray
    effects: tuple[tuple[np.ndarray, np.ndarray], ...]

    @classmethod
    def of(cls, adata: AnnData, technical: bool = True) -> Truth:
        def loadings(key: str) -> np.ndarray:
            return np.ascontiguousarray(np.asarray(adata.varm[key], dtype=np.float32).T)

        described = adata.uns["simulation"]
        cell_type = _codes(adata, "cell_type", described["cell_types"])
        kept = [*TECHNICAL, "donor", "disease"] if technical else ["donor", "disease"]
        keys = [key for key in kept if f"truth_{key}" in adata.varm]
        return cls(
            loadings("truth_baseline"),
            loadings("truth_response"),
            loadings("truth_programs"),
            cell_type,
            np.asarray(adata.obs["response_strength"], dtype=np.float32),
            np.asarray(adata.obsm["truth_programs"], dtype=np.float32),
            tuple(_effect(key, loadings(f"truth_{key}"), adata, cell_type) for key in keys),
        )


def _effect(key: str, loadings: np.ndarray, adata: AnnData, cell_type: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of effects on the log rate [rows, genes], and for each cell the row that applies to it."""
    described = adata.uns["simulation"]
    codes = _codes(adata, key, described[f"{key}_names"])
    if key == "site":
        codes = codes * len(described["cell_types"]) + cell_type
    if key == "disease":  # row 0: healthy
        loadings, codes = np.vstack([np.zeros_like(loadings[:1]), loadings]), codes * (1 + cell_type)
    return loadings, codes


def _codes(adata: AnnData, key: str, names: Sequence[str]) -> np.ndarray:
    """Positions of a column's values in `names`; a subset's own categories may lack some."""
    return pd.Index(list(names)).get_indexer(adata.obs[key].astype(str))


def log_rate(truth: Truth, rows: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Log mu up to the cell's scale under a share of the full response, float32 [rows, genes]."""
    cell_type = truth.cell_type[rows]
    rate = truth.programs[rows] @ truth.program_loadings
    rate += truth.baseline[cell_type]
    for loadings, codes in truth.effects:
        rate += loadings[codes[rows]]
    if share.any():
        rate += truth.response[cell_type] * (share * truth.strength[rows]).astype(np.float32)[:, None]
    return rate
