"""On which scale a matrix is: counts, normalised, log, scaled, judged by its values and by the sums of its cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["counts", "nearly counts", "normalised", "log", "double log", "fractions", "scaled", "other"]


@dataclass(frozen=True)
class Scale:
    """What a matrix was found to be.

    Attributes
    ----------
    kind : str
        "counts" are integers, "nearly counts" almost (estimated counts, rounding); "normalised" has equal sums of
        cells without a logarithm, "fractions" sums of 1; "log" is log1p of normalised expression, "double log" that of
        it again; "scaled" is centred.
    total : float, optional
        Of "normalised" and "log": what the cells' normalised expression sums up to, where it is the same in all.
    said : str
        The evidence in words, such as "2 % of values are no integers, the first 3.27 in cell 4, gene 17".
    """

    kind: Kind
    total: float | None
    said: str


def scale_of(x: Any) -> Scale:
    """The scale of a sparse or dense matrix [n_cells, n_genes], by random cells and genes."""
    import numpy as np
    from scipy import sparse

    values = x.data if sparse.issparse(x) else np.asarray(x)
    if values.size and values.min() < 0:
        return Scale("scaled", None, "negative")
    if np.all(values == np.round(values)):
        return Scale("counts", None, "integers")
    sums = np.asarray((x.expm1() if sparse.issparse(x) else np.expm1(x)).sum(1)).ravel()
    total = float(np.median(sums)) if np.ptp(sums) < 1e-3 * sums.max() else None
    return Scale("log" if values.max() < 50 else "normalised", total, "")
