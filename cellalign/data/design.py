"""What the columns of a training say of each other: what cannot work is refused, what will mislead is said.

All of it is about the cells trained on. A message says what was found, with numbers, and what it would do.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.data.columns import column, text_that_is_missing
from cellalign.data.controls import control_of
from cellalign.data.said import Note
from cellalign.data.values import known, listed
from cellalign.errors import InputError, UsageError, option
from cellalign.nn.minibatch import BATCH, CONDITION, COVARIATE, LABEL, Fields, Role

if TYPE_CHECKING:
    from anndata import AnnData

FEW = 10  # cells of a value
MANY = 20  # values from which half as many as cells are one per cell
SHOWN = 8  # names in a message
TOGETHER_ALLOWED = ({"covariate", "label"},)  # annotation hides it from the encoder
NO_LABEL = ("unknown", "unassigned", "unlabelled", "unlabeled", "not assigned", "other")


def check_apart(named: Mapping[str, Sequence[str]]) -> None:
    """Refuse a column in two roles, or twice in one.

    Parameters
    ----------
    named : mapping of role to columns

    Raises
    ------
    UsageError
    """
    uses = [(role, key) for role, keys in named.items() for key in keys]
    for (role, key), (other, same) in itertools.combinations(uses, 2):
        if key != same or {role, other} in TOGETHER_ALLOWED:
            continue
        if role == other:
            raise UsageError(f"{option(role, [key])} is given twice; once is enough")
        one, two = (option(r, [key] if r in (BATCH, COVARIATE) else key) for r in (role, other))
        raise UsageError(
            f"{key!r} is both {one} and {two}: what is taken out as the one cannot be kept as the other; choose one"
        )


def check_design(cells: AnnData, fields: Fields) -> list[Note]:
    """Look at the columns of the training cells together.

    Parameters
    ----------
    cells : AnnData [n_cells, n_genes]
        Those that are trained on; obs is read.
    fields : Fields
        As fitted to them.

    Returns
    -------
    list of Note
        What is to be said of them.

    Raises
    ------
    InputError
        A column of categories has a value per cell.
    """
    every: tuple[Any, ...] = tuple(fields)
    codes = {field: field.encode(cells) for field in every if field.kind == "categorical"}
    for field, own in codes.items():
        _check_levels(field, own)
    notes = list(_of_control(fields.one(CONDITION)))
    for field, own in codes.items():
        notes += [*_of_missing(field, own, cells), *_of_sizes(field, own), *_of_names(field, cells)]
    for one, other in _pairs(fields):
        notes += _of_confounding(one, _groups(one, cells, codes), other, _groups(other, cells, codes))
    return notes


def _check_levels(field: Any, codes: np.ndarray) -> None:
    """Refuse as many values as cells, or nearly."""
    n, levels = len(codes), len(field.categories)
    if levels == n or (levels > MANY and levels > n / 2):
        raise InputError(
            f"{field.role} column {field.name!r} has {levels} values in {n} cells, about one per cell: nothing can be "
            f"learned of any; name a column of groups of cells"
        )


def _of_control(field: Any) -> Iterator[Note]:
    """The control that is taken, or that there is none and what that does."""
    if field is None or not field.categories:
        return
    found = control_of(field.categories)
    alike = [name for name in found.alike if name != field.reference]
    if field.reference is not None:
        others = f" (called like a control too: {listed(alike, SHOWN)})" if alike else ""
        yield logging.INFO, f"control: {field.reference}, of {field.name!r}{others}"
        return
    without = "counterfactuals start from every other condition"
    if len(field.categories) == 2:
        without = "each is predicted from the other"
    if alike:
        looks = "looks like one" if len(alike) == 1 else "look like one"
        message = f"no control taken of {field.name!r}, but {listed(alike, SHOWN)} {looks}"
        yield logging.WARNING, f"{message}: {option('control', hint='VALUE')} names it; without, {without}"
    else:
        message = f"no value of {field.name!r} is called as controls are"
        yield logging.INFO, f"{message}: {option('control', hint='VALUE')} names one; without, {without}"


def _of_missing(field: Any, codes: np.ndarray, cells: AnnData) -> Iterator[Note]:
    """Cells that have no value, and text that stands for none."""
    n = int((codes < 0).sum())
    if n:
        text = text_that_is_missing(cells.obs, field.name, field.named)
        found = ", ".join(f"{name!r} {number}" for name, number in text.items())
        how = f" (text that means missing: {found})" if found else ""
        then = {
            LABEL: "they are trained on as unlabelled",
            COVARIATE: "they count as unknown",
            CONDITION: "theirs is inferred",
        }.get(field.role, "they count as unknown")
        yield logging.INFO, f"{n} cells have no {field.role} {field.name!r}{how}: {then}"
    if field.role == LABEL:
        like = [name for name in field.categories if name.strip().lower() in NO_LABEL]
        if like:
            said = option("unlabelled", like[0])
            yield logging.INFO, f"{like[0]!r} of {field.name!r} is taken for a label; if it means none: {said}"


def _of_sizes(field: Any, codes: np.ndarray) -> Iterator[Note]:
    """Values of a handful of cells."""
    sizes = np.bincount(codes[codes >= 0], minlength=len(field.categories))
    few = [(name, int(n)) for name, n in zip(field.categories, sizes, strict=True) if n < FEW]
    if len(field.categories) == 1 and field.role in (BATCH, COVARIATE):
        yield logging.WARNING, f"{field.role} {field.name!r} is {field.categories[0]!r} in all cells: it tells nothing"
    if field.role == LABEL or not few:
        return
    named = listed((f"{name} ({n})" for name, n in few), SHOWN)
    then = "a prediction of them rests on these cells" if field.role == CONDITION else "little is learned of them"
    one = "; of a single cell there is no spread to learn" if any(n == 1 for _, n in few) else ""
    kind = "condition" if field.role == CONDITION else "value"
    found = f"{len(few)} {kind}s of {field.name!r} have" if len(few) > 1 else f"one {kind} of {field.name!r} has"
    yield logging.WARNING, f"{found} fewer than {FEW} cells: {named}; kept, but {then}{one}"


def _of_names(field: Any, cells: AnnData) -> Iterator[Note]:
    """Categories that differ as text alone, and conditions that are known without the control in their name."""
    groups = [" and ".join(map(repr, group)) for group in known(field.categories).alike()]
    if groups:
        message = f"{field.role} {field.name!r} holds {listed(groups, SHOWN)}, which differ as text alone"
        yield logging.WARNING, f"{message}: taken as different"
    if field.role != CONDITION or not any("+" in name for name in cells.obs[field.name].dropna().astype(str).unique()):
        return
    names = [str(name) for name in column(cells.obs, field.name, missing=True, named=field.named).categories]
    others = [(name, field.known.name(name)) for name in names if name not in field.categories]
    if others:
        taken = listed((f"{name} is {short}" for name, short in others), 3)
        yield logging.INFO, f"conditions of {field.name!r} without the control in their names, in one order: {taken}"


def _pairs(fields: Fields) -> Iterator[tuple[Any, Any]]:
    """Fields of which one had better not determine the other, the one that is taken out first."""
    order: tuple[tuple[Role, Role], ...] = ((BATCH, CONDITION), (BATCH, COVARIATE), (LABEL, CONDITION))
    for one, other in order:
        yield from itertools.product(fields.of(one), fields.of(other))


def _groups(field: Any, cells: AnnData, codes: Mapping[Any, np.ndarray]) -> np.ndarray | None:
    """Group of every cell, -1 where it has none; None for what makes no groups."""
    if field in codes:
        return codes[field]
    if field.kind != "number":
        return None
    values = field.encode(cells)
    groups = np.unique(values, return_inverse=True)[1]
    return groups if groups.max(initial=0) < len(groups) / 2 else None


def _of_confounding(one: Any, a: np.ndarray | None, other: Any, b: np.ndarray | None) -> Iterator[Note]:
    """That one column determines the other, with numbers and what it does."""
    if a is None or b is None:
        return
    both = (a >= 0) & (b >= 0)
    if not both.any() or min(len(np.unique(a[both])), len(np.unique(b[both]))) < 2:
        return
    table = np.zeros((a.max() + 1, b.max() + 1), dtype=np.int64)
    np.add.at(table, (a[both], b[both]), 1)
    table = table[table.any(1)][:, table.any(0)]
    forwards, backwards = bool(((table > 0).sum(1) == 1).all()), bool(((table > 0).sum(0) == 1).all())
    if other.role == COVARIATE and not (forwards and backwards):
        return  # donors of one site each are a usual design
    if not forwards and not (backwards and other.role == CONDITION and one.role == BATCH):
        return
    if forwards and backwards:
        how = f"{one.role} {one.name!r} and {other.role} {other.name!r} say the same"
    elif forwards:
        how = f"{one.role} {one.name!r} determines {other.role} {other.name!r}"
    else:
        how = f"each {other.role} of {other.name!r} is in one {one.role} of {one.name!r} only"
    if one.role == LABEL:
        then = "no label is under two conditions, so what a condition does cannot be told from what a label is"
    else:
        then = f"the effect of the one cannot be told from that of the other, and removing the {one.role} removes both"
    yield logging.WARNING, f"{how} ({_counts(one, a, other, b)}): {then}"


def _counts(one: Any, a: np.ndarray, other: Any, b: np.ndarray) -> str:
    """Cells of the first few combinations."""
    pairs, sizes = np.unique(np.stack([a, b], 1)[(a >= 0) & (b >= 0)], axis=0, return_counts=True)

    def name(field: Any, code: int) -> str:
        return str(field.categories[code]) if field.categories else f"{field.name} {code + 1}"

    found = (f"{name(one, x)} is {name(other, y)}: {n} cells" for (x, y), n in zip(pairs, sizes, strict=True))
    return listed(found, 4)
