"""Which cells are held out, and which of the others are validated on, stratified by condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cellalign.data.columns import having, parse_where, select
from cellalign.errors import InputError, option

if TYPE_CHECKING:
    import pandas as pd

HOLDOUT = "holdout"


def held_out(
    obs: pd.DataFrame,
    items: Sequence[str],
    *,
    must_exist: bool = True,
    control: str | None = None,
    quiet: bool = False,
) -> np.ndarray:
    """Mask [n] of the cells that meet all terms of any "key=value,key=value" item.

    Parameters
    ----------
    must_exist : bool
        Whether a column or value that is not there is an error, and not just met by no cell.
    control : str, optional
        Where a column is the condition: what adds nothing in "a+control".
    quiet : bool
        Whether cells that have no value, and so are not held out, go unsaid.

    Raises
    ------
    InputError
        An item names no cell, or a column that is not there; unless `must_exist` is false.
    """
    mask = np.zeros(len(obs), dtype=bool)
    for item in [items] if isinstance(items, str) else items:
        terms = parse_where([item], obs, HOLDOUT)
        if not must_exist:
            if all(key in obs for key in terms):
                each = [having(obs, key, value, control=control) for key, value in terms.items()]
                mask |= np.logical_and.reduce(each)
            continue
        chosen = select(obs, terms, control=control, quiet=quiet)
        if not chosen.any():
            raise InputError(f"{option(HOLDOUT, [item])} names no cell")
        mask |= chosen
    return mask


def rows_left(obs: pd.DataFrame, items: Sequence[str], *, control: str | None = None, least: int = 1) -> np.ndarray:
    """Mask [n] of the cells that are not held out; InputError where fewer than `least` are left, or as `held_out`."""
    left = ~held_out(obs, items, control=control)
    if left.sum() < least:
        given = f"{option(HOLDOUT, list(items))}: " if len(items) else ""
        are = "cell is" if left.sum() == 1 else "cells are"
        raise InputError(f"{given}{left.sum()} {are} left to train on; at least {least} are needed")
    return left


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
