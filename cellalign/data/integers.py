"""Counts as integers: exact ones, such as arithmetic blurred, and estimated ones that are rounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from cellalign.data.noise import INTEGER, off_by
from cellalign.data.scale import LARGEST_LOG, Scale
from cellalign.data.stored import Stored
from cellalign.data.structure import sum_duplicates
from cellalign.errors import spoken

if TYPE_CHECKING:
    import pandas as pd

    Names = tuple[pd.Index, pd.Index]  # of cells and genes

ROUNDING = "takes estimated counts as the nearest integers"
LOOKED_AT = 4_000_000  # values at a time
MOSTLY_WRONG = 0.75  # more values than this that are no integers: no estimated counts, unless the user says so


def as_counts(x: Any, scale: Scale, names: Names | None = None, *, rounded: bool = False) -> tuple[Any | None, str]:
    """The counts that a matrix holds, and what was done to them; or None, and why it holds none.

    Parameters
    ----------
    x : sparse or dense matrix [n_cells, n_genes]
        Finite and not negative.
    scale : Scale
        Its own.
    names : pair of Index, optional
        Of cells and genes, for what is said.
    rounded : bool
        Whether to round estimated counts.
    """
    if scale.kind not in ("counts", "nearly counts", "other") or scale.all_zero:
        return None, scale.said
    x = without_duplicates(x)
    share, first, noise = _no_integers(x)
    if share == 0:
        return x, ""
    percent = f"{100 * share:.{2 if share < 0.1 else 3}g} %" if share >= 1e-4 else "under 0.01 %"
    value = x.facts.first_value if isinstance(x, Stored) else float(values_of(x).ravel()[first])
    said = f"{percent} of values are not integers, the first {value:.4g} in {position(x, first, names)}"
    if scale.mixed:
        return None, f"{said}; {scale.said}"
    by_itself = noise <= INTEGER
    if not by_itself and not rounded:
        if scale.kind == "other" and share > MOSTLY_WRONG and scale.largest <= LARGEST_LOG:
            return None, said
        rounding = spoken(python="rounded=True of preprocess or train", command="--round of preprocess or train")
        return None, f"{said}; {rounding} {ROUNDING}"
    result = _rounded(x)
    lost, kept = _changed(x, result)
    if not 0.8 < kept < 1.25 or (lost > 0.5 and not by_itself):
        return None, f"{said}; rounding would make {100 * lost:.0f} % of them zero, and {kept:.2g} of their sum"
    if by_itself:
        return result, f"integers but for {noise:.1g}, as of arithmetic: rounded"
    return result, f"{percent} of values were not integers: rounded"


def without_duplicates(x: Any) -> Any:
    """The same matrix; of a sparse one a copy where it holds an entry in parts, or numbers that scipy does not take."""
    if not sparse.issparse(x):  # one on disk has none
        return x
    if x.format not in ("csr", "csc"):
        x = x.tocsr()
    half = x.data.dtype == np.float16
    if half or not (x.data.dtype.isnative and x.indices.dtype.isnative and x.indptr.dtype.isnative):
        parts = (native(x.data.astype(np.float32) if half else x.data), native(x.indices), native(x.indptr))
        x = (sparse.csr_matrix if x.format == "csr" else sparse.csc_matrix)(parts, shape=x.shape)
    if not x.has_canonical_format:
        x = x.copy()
        sum_duplicates(x)
    return x


def native(values: np.ndarray) -> np.ndarray:
    """The same numbers in this machine's order of bytes."""
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))


def values_of(x: Any) -> np.ndarray:
    """The stored values, of a dense matrix all."""
    return x.data if sparse.issparse(x) else np.asarray(x)


def largest(x: Any) -> float:
    """The largest value of a matrix that is not negative."""
    return max(0.0, x.facts.high) if isinstance(x, Stored) else float(values_of(x).max(initial=0))


def smallest(x: Any) -> float:
    """The smallest stored value of a matrix, or zero."""
    return min(0.0, x.facts.low) if isinstance(x, Stored) else float(values_of(x).min(initial=0))


def position(x: Any, first: int, names: Names | None = None) -> str:
    """Cell and gene of a stored value, by name or number, in words."""
    if not sparse.issparse(x):
        row, column = divmod(first, x.shape[1])
    else:
        major = int(np.searchsorted(x.indptr, first, side="right")) - 1
        minor = int(x.indices[first])
        row, column = (major, minor) if x.format == "csr" else (minor, major)
    if names is None:
        return f"cell {row} (from 0), gene {column}"
    return f"cell {str(names[0][row])!r}, gene {str(names[1][column])!r}"


def _rounded(x: Any) -> Any:
    if isinstance(x, Stored):
        return x.mapped(_rounded)
    if not sparse.issparse(x):
        return np.rint(x)
    result = x.copy()
    result.data = np.rint(result.data)
    result.eliminate_zeros()
    return result


def _changed(x: Any, rounded: Any) -> tuple[float, float]:
    """Share of the values that became zero, and of the sum that is left."""
    if isinstance(x, Stored):
        facts = x.facts
        return 1 - facts.rounded_held / max(facts.not_zero, 1), facts.rounded_total / max(facts.total, 1e-300)
    before, after = values_of(x), values_of(rounded)
    lost = 1 - int(np.count_nonzero(after)) / max(int(np.count_nonzero(before)), 1)
    return lost, float(after.sum(dtype=np.float64)) / max(float(before.sum(dtype=np.float64)), 1e-300)


def _no_integers(x: Any) -> tuple[float, int, float]:
    """Share of the values other than zero that are no integers, the place of the first, and how far off they are.

    Of large values an error of single precision is not counted as more than the noise of small ones.
    """
    if x.dtype.kind in "iub":
        return 0.0, -1, 0.0
    if isinstance(x, Stored):
        facts = x.facts
        return facts.off / max(facts.not_zero, 1), facts.first, facts.noise
    off, held, first, worst = 0, 0, -1, 0.0
    for start, part in _parts(values_of(x)):
        wrong = part != np.rint(part)
        held += int(np.count_nonzero(part))
        if not wrong.any():
            continue
        off += int(wrong.sum())
        first = start + int(np.argmax(wrong)) if first < 0 else first
        worst = max(worst, off_by(part[wrong]))
    return off / max(held, 1), first, worst


def _parts(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Values some at a time, float64, each with the number of those before."""
    flat = values.reshape(-1)  # a copy only of what is not contiguous
    for start in range(0, len(flat), LOOKED_AT):
        yield start, flat[start : start + LOOKED_AT].astype(np.float64)
