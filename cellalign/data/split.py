"""Splits cells into training and validation, stratified by condition."""

from __future__ import annotations

import numpy as np


def stratified_split(strata: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a validation set with the same share of every stratum.

    A stratum keeps at least one cell for training; one too small for a cell of its share gives none away.

    Parameters
    ----------
    strata : int array [n]
        Condition codes.
    fraction : float
        Share of cells to validate on, in [0, 1).
    seed : int

    Returns
    -------
    train, validation : int arrays
        Sorted row numbers.
    """
    rng = np.random.default_rng(seed)
    held: list[np.ndarray] = []
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        n = min(int(round(fraction * len(rows))), len(rows) - 1)
        held.append(rng.permutation(rows)[:n])
    validation = np.sort(np.concatenate(held)) if held else np.empty(0, dtype=np.int64)
    mask = np.ones(len(strata), dtype=bool)
    mask[validation] = False
    return np.flatnonzero(mask), validation
