"""Names of cell types as groups of scores, apart from those of rows that are of no type."""

from __future__ import annotations

import numpy as np

ROWS = ("all", "mean", "mean within cell types", "validation cells", "held out")
BEGINNING = "mean of "  # of one condition


def as_group(name: str) -> str:
    """How tables call a cell type: in quotation marks where a row of another meaning is called so.

    A type `mean` would stand in the place of the mean over types, or be left out of the groups.
    """
    return repr(name) if name in ROWS or name.startswith(BEGINNING) else name


def as_groups(names: np.ndarray) -> np.ndarray:
    """The same of an array of names."""
    found, codes = np.unique(names, return_inverse=True)
    return np.array([as_group(str(name)) for name in found], dtype=str)[codes] if len(found) else names
