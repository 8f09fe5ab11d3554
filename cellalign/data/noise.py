"""Integers up to the noise of arithmetic."""

from __future__ import annotations

import numpy as np

INTEGER = 1e-3  # an integer up to that noise


def whole(values: np.ndarray) -> np.ndarray:
    """Mask of the values that are integers, up to the noise of arithmetic; what would be rounded to zero is not."""
    nearest = np.rint(values)
    return (np.abs(values - nearest) <= np.minimum(INTEGER + 2e-6 * np.abs(values), 0.2)) & (nearest != 0)


def off_by(found: np.ndarray) -> float:
    """How far values are off the integers, at most."""
    noise = np.abs(found - np.rint(found))
    return float(np.where(whole(found), np.minimum(noise, INTEGER), noise).max())


def noise_of(values: np.ndarray) -> tuple[int, int, float, int, float]:
    """Of some values how many are no integers, the first of them, and how far they are off; of all once rounded how
    many are not zero, and their sum.
    """
    flat = values.reshape(-1)
    if flat.dtype.kind in "iub":
        return 0, -1, 0.0, int(np.count_nonzero(flat)), float(flat.sum(dtype=np.float64))
    nearest = np.rint(flat)
    wrong = flat != nearest
    found = int(np.count_nonzero(nearest)), float(nearest.sum(dtype=np.float64))
    if not wrong.any():
        return 0, -1, 0.0, *found
    return int(wrong.sum()), int(np.argmax(wrong)), off_by(flat[wrong].astype(np.float64)), *found
