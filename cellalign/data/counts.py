"""Where the raw counts of a file are, or normalised expression: every matrix is looked at; why one fails is said."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from cellalign.data.integers import ROUNDING, as_counts
from cellalign.data.matrices import check_matrix, matrix_of, may_be_log
from cellalign.data.said import tell
from cellalign.data.scale import Scale, scale_of
from cellalign.data.stored import Stored
from cellalign.errors import InputError, UsageError, option

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from cellalign.data.integers import Names


# layers that are taken for counts by their name, where they hold such; the first fit one
NAMED_COUNTS = "raw_?counts?|counts?_?raw|raw counts? umis? .*raw_?counts?.* .*counts?.* .*umi.* matrix spliced".split()
AT_ONCE = 4_000_000  # values of a matrix
PLAIN = ("counts", "nearly counts", "log", "normalised", "fractions")  # where zero means that nothing was seen


class NoCounts(InputError):
    """No matrix serves as counts.

    Attributes
    ----------
    looked : str
        Every matrix that was looked at, and why it does not serve.
    unfit : bool
        One would serve but for something that has to be mended.
    """

    def __init__(self, looked: str, unfit: bool) -> None:
        mend = "" if ROUNDING in looked else '; put them into layers["counts"], X or raw, or name the layer'
        super().__init__(f"no raw counts ({looked}){mend}")
        self.looked, self.unfit = looked, unfit


@dataclass(frozen=True, eq=False)
class Place:
    """A matrix of a file.

    Attributes
    ----------
    where : str
        "X", "raw", or a layer's name.
    matrix : sparse or dense matrix [n_cells, n_genes]
    var : DataFrame
        Its genes.
    cells : Index
    said : str
        What messages call it.
    """

    where: str
    matrix: Any
    var: pd.DataFrame
    cells: pd.Index
    said: str

    @property
    def names(self) -> Names:
        """Of cells and genes."""
        return self.cells, self.var.index

    @cached_property
    def scale(self) -> Scale:
        """On which it is."""
        return scale_of(self.matrix)


def places(adata: AnnData, *, layer: str | None = None, raw: bool = False) -> list[Place]:
    """Every matrix, in the order in which counts are looked for; with `layer` or `raw` that one only.

    Raises
    ------
    UsageError
        Both are given.
    InputError
        There is no such matrix.
    """
    if layer is not None and raw:
        raise UsageError(f"{option('layer', layer)} and {option('raw', True)} name two matrices; give one")

    def own(key: str) -> Place:
        said = "X" if key == "X" else f'layers["{key}"]'
        return Place(key, matrix_of(adata, key), adata.var, adata.obs_names, said)

    def of_raw() -> Place:
        return Place("raw", adata.raw.X, adata.raw.var, adata.obs_names, "raw")

    if layer is not None:
        return [own(layer)]
    if raw:
        if adata.raw is None:
            raise InputError("the input has no raw; leave that option out, or name a layer")
        return [of_raw()]
    layers = [name for name in adata.layers if name]  # of anndata 0.13 X is the layer None
    found = [own("counts")] if "counts" in layers else []
    found += [own("X")] if adata.X is not None else []
    found += [of_raw()] if adata.raw is not None else []
    others = sorted((name for name in layers if name != "counts"), key=_preference)
    return found + [own(name) for name in others]


def find_counts(adata: AnnData, *, layer: str | None = None, raw: bool = False, rounded: bool = False) -> Place:
    """The raw counts, and where they are: layers["counts"], X, raw, then another layer of such a name.

    Parameters
    ----------
    layer : str, optional
        Look there only: a layer, or "X".
    raw : bool
        Look in raw only.
    rounded : bool
        Estimated counts are rounded.

    Returns
    -------
    Place
        Its matrix holds integers, no duplicates; it is a copy only where they had to be rounded or added up.

    Raises
    ------
    UsageError
        `layer` and `raw`.
    NoCounts
        Nowhere: why each matrix does not serve.
    """
    return _say(*_first_counts(places(adata, layer=layer, raw=raw), rounded, named=raw or layer is not None))


def find_log(adata: AnnData, *, layer: str | None = None, raw: bool = False) -> Place | None:
    """The first matrix of expression that was normalised, with or without a logarithm: X, raw, then the layers."""
    for place in places(adata, layer=layer, raw=raw):
        try:
            check_matrix(place.matrix, place.said, place.names)
        except InputError:
            continue
        scale, taken = place.scale, ("log", "normalised", "fractions")
        if scale.kind in taken or (may_be_log(place.matrix, scale) and (place.where == "X" or layer or raw)):
            return place
    return None


def counts_of(adata: AnnData, preferred: str, *, rounded: bool = False) -> Place:
    """As `find_counts`, but looked for in the `preferred` matrix before all others, under any name."""
    order = places(adata)
    first = [place for place in order if place.where == preferred and place.said != "raw"]
    others = [place for place in order if place not in first]
    found, said = _first_counts(first + others, rounded, known=preferred)
    return found if found.where == preferred and not said else _say(found, said)


def has_counts(adata: AnnData, *, rounded: bool = False) -> bool:
    """Whether raw counts are anywhere."""
    try:
        _first_counts(places(adata), rounded)
    except NoCounts:
        return False
    return True


def _first_counts(
    order: Sequence[Place], rounded: bool, *, named: bool = False, known: str | None = None
) -> tuple[Place, str]:
    """The first of several matrices that holds counts, and what was done to them.

    Of a layer its name has to say that it holds counts, unless the user named it.
    """
    reasons: dict[str, str] = {}
    unfit = False
    for place in order:
        counts, said = _counts_in(place, rounded)
        layer = place.said not in ("X", "raw")
        if counts is None:
            reasons[place.said] = said
            lost = place.where == "counts" and place.scale.all_zero  # which no other matrix stands in for unasked
            unfit |= lost or place.scale.kind in ("counts", "nearly counts")
        elif layer and not named and place.where != known and _preference(place.where)[0] == len(NAMED_COUNTS):
            reasons[place.said] = f"counts, but its name does not say so: {option('layer', place.where)}"
        elif layer and (empty := _empty(place.cells, counts, order)):
            if named:
                tell(logging.WARNING, "%s is %s", place.said, empty)
                return _found(place, counts, said)
            reasons[place.said], unfit = empty, True
        else:
            for other, reason in reasons.items():
                if other == 'layers["counts"]':
                    tell(logging.WARNING, "%s does not serve: %s", other, reason)
            return _found(place, counts, said)
    looked = "; ".join(f"{where}: {reason}" for where, reason in reasons.items()) or "there is no matrix"
    raise NoCounts(looked, unfit)


def _found(place: Place, counts: Any, said: str) -> tuple[Place, str]:
    return Place(place.where, counts, place.var, place.cells, place.said), said


def _say(place: Place, said: str) -> Place:
    tell(logging.INFO, "counts in %s%s", place.said, f" ({said})" if said else "")
    return place


def _counts_in(place: Place, rounded: bool) -> tuple[Any | None, str]:
    """The counts of a matrix and what was done to them, or None and why it holds none."""
    try:
        check_matrix(place.matrix, "it", place.names)
    except InputError as error:
        return None, re.split("; (?:remove|take|copy) |, as where ", str(error).removeprefix("it "))[0]
    return as_counts(place.matrix, place.scale, place.names, rounded=rounded)


def _empty(cells: pd.Index, counts: Any, others: Iterable[Place]) -> str:
    """Of how many cells all counts are zero though another matrix holds their expression, in words, or nothing.

    Joining files of which one lacks a layer fills it with zeros there.
    """
    empty = _held(counts, np.ones(len(cells), dtype=bool)) == 0
    if not empty.any():
        return ""
    for other in others:
        if other.said not in ("X", "raw") or other.scale.kind not in PLAIN:
            continue
        wrong = empty & (_held(other.matrix, empty) > 0)
        if wrong.any():
            first = str(cells[int(np.argmax(wrong))])
            return (
                f"all zero in {int(wrong.sum())} of {len(cells)} cells that have expression in {other.said}, the first "
                f"{first!r}, as where files were joined of which one had no such layer; give these cells their counts, "
                "or leave them out"
            )
        return ""
    return ""


def _held(x: Any, asked: np.ndarray) -> np.ndarray:
    """Of every cell how many values are not zero; of a dense matrix only where asked."""
    if isinstance(x, Stored):
        return x.facts.held
    if not sparse.issparse(x):
        held = np.zeros(x.shape[0], dtype=np.int64)
        rows = np.flatnonzero(asked)
        for part in np.array_split(rows, len(rows) // 1024 + 1):
            held[part] = np.count_nonzero(np.asarray(x[part]), axis=1)
        return held
    n, by_rows = x.shape[0], x.format == "csr"
    held = np.diff(x.indptr).astype(np.int64) if by_rows else np.zeros(n, dtype=np.int64)
    for start in range(0, len(x.data), AT_ONCE):  # a number for each value would be as much as the matrix
        part = x.data[start : start + AT_ONCE]
        if not by_rows:
            held += np.bincount(x.indices[start : start + AT_ONCE][part != 0], minlength=n)
        elif np.count_nonzero(part) < len(part):
            zeros = start + np.flatnonzero(part == 0)
            held -= np.bincount(np.searchsorted(x.indptr, zeros, side="right") - 1, minlength=n)
    return held


def _preference(name: str) -> tuple[int, str]:
    """Where a layer stands among those that hold counts by their name."""
    lower = name.lower()
    place = (i for i, pattern in enumerate(NAMED_COUNTS) if re.fullmatch(pattern, lower))
    return next(place, len(NAMED_COUNTS)), name
