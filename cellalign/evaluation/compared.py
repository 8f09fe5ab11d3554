"""The cells by which a prediction is scored: predicted, real and control cells of every cell type, on one scale.

A change is a difference from control cells, whose own noise is in it. Whatever is compared with the real change may
therefore not start from the control cells that the real change starts from: these are halved anew in each of a few
splits, the prediction starts from one half and the truth from the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.data.columns import column
from cellalign.data.matrices import is_counts
from cellalign.data.values import known
from cellalign.errors import InputError, option
from cellalign.evaluation.inputs import Inputs, NotApplicable
from cellalign.evaluation.metrics import response as res
from cellalign.evaluation.predictions import check_finite, check_library_sizes, source_names

if TYPE_CHECKING:
    from anndata import AnnData

MIN_CELLS_PER_GROUP = 5  # of a cell type, under each condition, for its response to be scored
SPLITS = 5  # of the control cells
UNKNOWN = -1  # a predicted cell whose source is not among the real cells


@dataclass(frozen=True)
class Split:
    """Halves of a cell type's control and real cells.

    Attributes
    ----------
    start, other : int arrays
        Control cells that a prediction starts from, and those that the real change starts from.
    real, rest : int arrays
        Halves of the real cells, for comparing one with the other.
    """

    start: np.ndarray
    other: np.ndarray
    real: np.ndarray
    rest: np.ndarray


@dataclass(frozen=True)
class CellType:
    """One cell type's cells, dense [n, G] each: log1p expression, or whatever values the prediction is of.

    Attributes
    ----------
    name : str
    predicted, real, control : arrays
        Predicted, and real under the predicted condition and under that of the source.
    source : int array [n_predicted]
        Which of the control cells each was predicted from; -1 where that is not known.
    start : array [n_predicted, G], optional
        The cells it was predicted from, where they are known but are not among the control cells.
    """

    name: str
    predicted: np.ndarray
    real: np.ndarray
    control: np.ndarray
    source: np.ndarray
    start: np.ndarray | None = None

    def splits(self, seed: int) -> Iterator[Split]:
        """A few random halvings; of the control, the cells that were predicted from are halved by themselves."""
        rng = np.random.default_rng(seed)
        used = np.unique(self.source[self.source >= 0])
        idle = np.setdiff1d(np.arange(len(self.control)), used)
        for _ in range(SPLITS):
            parts = [_halves(rng, rows) for rows in (used, idle)]
            # the odd cell of one goes to the first half, of the other to the second
            start, other = (np.concatenate(both) for both in zip(parts[0], parts[1][::-1], strict=True))
            yield Split(start, other, *_halves(rng, np.arange(len(self.real))))

    def predicted_change(self, split: Split) -> np.ndarray:
        """Mean change [G] of the predicted cells whose sources are in the split's first half, from these sources.

        Where the sources are not known, of all predicted cells from the first half of the control.
        """
        if self.start is not None:
            return self.predicted.mean(0) - self.start.mean(0)
        mine = np.isin(self.source, split.start)
        if not mine.any():
            return self.predicted.mean(0) - self.control[split.start].mean(0)
        return self.predicted[mine].mean(0) - self.control[self.source[mine]].mean(0)

    def true_change(self, split: Split) -> np.ndarray:
        """Mean change [G] of all real cells from the second half of the control."""
        return self.real.mean(0) - self.control[split.other].mean(0)


def _halves(rng: np.random.Generator, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows in two random halves; the first has the odd one."""
    order = rng.permutation(rows)
    return order[: -(-len(rows) // 2)], order[-(-len(rows) // 2) :]


@dataclass(frozen=True)
class Compared:
    """All cell types: those named can be scored, `shifts` has the mean change of these and of all others.

    Attributes
    ----------
    names : list of str
    shifts : dict of arrays [G]
    of : callable
        A cell type's cells by its name: dense, so made when they are asked for.
    """

    names: list[str]
    shifts: dict[str, np.ndarray]
    of: Callable[[str], CellType]

    def mean_shift(self, name: str) -> np.ndarray | None:
        """Mean change [G] of all other cell types, each counting the same; None where there is no other."""
        others = [shift for other, shift in self.shifts.items() if other != name]
        return np.mean(others, axis=0) if others else None


def compare(inputs: Inputs, origin: str, to: str) -> Compared:
    """The cells of one prediction beside the real ones.

    Raises
    ------
    InputError
        The real cells lack predicted genes, the condition, or the scale of the prediction.
    NotApplicable
        No cell type has enough cells.
    """
    against = inputs.against
    assert against is not None
    columns = _shared_genes(inputs.adata, against)
    target, source = _target_and_source(inputs, against, origin, to)
    source = _within(inputs, against, target, source)
    label_p, label_r = _labels(inputs, against)
    at = _sources(inputs.adata, against)
    x_p, x_r, x_s = _on_one_scale(inputs, against, columns, with_sources=bool((at < 0).any()))
    counts = {
        str(n): [int((m & (label_r == n)).sum()) for m in (target, source)]
        for n in np.unique(np.concatenate([label_p, label_r[label_r != ""]]))
    }
    usable = [n for n, c in counts.items() if min(c) >= MIN_CELLS_PER_GROUP]
    names = [n for n in usable if n in label_p]
    skipped = [f"{n} ({c[0]} real, {c[1]} source)" for n, c in counts.items() if n in label_p and n not in usable]
    if skipped:
        inputs.notes.append(
            f"response skips cell types with fewer than {MIN_CELLS_PER_GROUP} cells: {', '.join(skipped)}"
        )
    if not names:
        raise NotApplicable(f"no cell type has {MIN_CELLS_PER_GROUP} cells under both conditions")

    def of(name: str) -> CellType:
        rows, controls = np.flatnonzero(label_p == name), np.flatnonzero(source & (label_r == name))
        strangers = x_s is not None and (at[rows] < 0).all()
        return CellType(
            name,
            res.dense(x_p[rows]),
            res.dense(x_r[np.flatnonzero(target & (label_r == name))]),
            res.dense(x_r[controls]),
            _positions(at[rows], controls),
            res.dense(x_s[rows]) if strangers else None,
        )

    shifts = {n: _mean(x_r, target & (label_r == n)) - _mean(x_r, source & (label_r == n)) for n in usable}
    return Compared(names, shifts, of)


def _mean(x: Any, rows: np.ndarray) -> np.ndarray:
    """Mean [G] of the rows of a mask, in float64."""
    return np.asarray(x[np.flatnonzero(rows)].mean(0, dtype=np.float64)).ravel()


def _shared_genes(predicted: AnnData, against: AnnData) -> np.ndarray:
    missing = predicted.var_names.difference(against.var_names)
    if len(missing):
        raise InputError(
            f"{option('against')} lacks {len(missing)} of the predicted genes, the first {str(missing[0])!r}"
        )
    return against.var_names.get_indexer(predicted.var_names)


def _target_and_source(inputs: Inputs, against: AnnData, origin: str, to: str) -> tuple[np.ndarray, np.ndarray]:
    """Masks [n] of the real cells under the predicted condition, and under that of the source."""
    target = inputs.under(against.obs, to)
    source = inputs.under(against.obs, origin) if origin else ~target
    if not target.any() and inputs.continuous:
        raise NotApplicable(f"{option('against')} has no cell of {inputs.condition}={to} to compare with")
    if not target.any():
        raise InputError(f"{option('against')} has no cell of {inputs.condition}={to!r} to compare with")
    return target, source


def _within(inputs: Inputs, against: AnnData, target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Mask [n] of the source cells of those donors, plates, ... that cells under the condition are of."""
    if inputs.within is None:
        return source
    codes = column(against.obs, inputs.within, purpose="within", missing=True).codes
    return source & np.isin(codes, np.unique(codes[target & (codes >= 0)]))


def _labels(inputs: Inputs, against: AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the predicted cells, and of the real ones as the predicted ones are called; "" without one."""
    if inputs.label is None:
        return np.full(inputs.adata.n_obs, "all"), np.full(against.n_obs, "all")
    predicted = inputs.labels()
    values = column(against.obs, str(inputs.label), purpose="label", missing=True)
    names = known(tuple(map(str, dict.fromkeys(predicted))))
    codes = names.codes(list(values.categories))
    called = [names.names[code] if code >= 0 else str(v) for code, v in zip(codes, values.categories, strict=True)]
    n = int((values.codes < 0).sum())
    if n:
        inputs.notes.append(f"{n} cells of {option('against')} have no {inputs.label!r} and are left out")
    return predicted, np.array([*called, ""], dtype=str)[values.codes]


def _sources(predicted: AnnData, against: AnnData) -> np.ndarray:
    """Which real cell [n] each was predicted from, by its name; -1 where there is none of it."""
    if not against.obs_names.is_unique:
        return np.full(predicted.n_obs, UNKNOWN)
    return against.obs_names.astype(str).get_indexer(source_names(predicted))


def _positions(rows: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Where each row stands in an increasing array; -1 where it is not in it."""
    place = np.searchsorted(among, rows).clip(max=len(among) - 1)
    return np.where(among[place] == rows, place, UNKNOWN)


def _on_one_scale(inputs: Inputs, real: AnnData, columns: np.ndarray, *, with_sources: bool) -> tuple[Any, Any, Any]:
    """Expression of predicted, real and source cells (None where these are not kept, or not needed).

    Counts are compared as log1p at the real cells' median library size, and by draws: log1p of an expected count is
    above the expectation of log1p, which is what a mean over real cells estimates.
    """
    from cellalign.data.matrices import default_matrix, matrix_of

    record, adata = inputs.predictions[0], inputs.adata
    predicted, started = adata.X, adata.layers.get("source") if record.method and with_sources else None
    check_finite(predicted, "the prediction's X")
    if record.expression != "counts":
        x = matrix_of(real, "X", option("against"))[:, columns]
        note = None
        if not (record.method or record.expression == "any"):
            note = check_library_sizes(predicted, x, option("against"))
        _note(inputs, note)
        return predicted, x, started
    x = matrix_of(real, default_matrix(real, "counts"), option("against"))[:, columns]
    if not is_counts(x):
        raise InputError(f"the prediction is of counts, but {option('against')} holds none; name the cells trained on")
    if "drawn" in adata.layers:
        predicted = adata.layers["drawn"]
        check_finite(predicted, "the prediction's layer 'drawn'")
    elif not is_counts(predicted):
        _note(
            inputs,
            "the prediction holds expected counts and no draws (an earlier version wrote it): their log is above the "
            "mean of logs that real cells have, and scores are too low; predict again",
        )
    from sklearn.preprocessing import normalize

    size = float(np.median(np.asarray(x.sum(1))))
    # l1 normalisation keeps a sparse matrix sparse
    of = [None if m is None else np.log1p(normalize(m, "l1") * size) for m in (predicted, x, started)]
    return of[0], of[1], of[2]


def _note(inputs: Inputs, note: str | None) -> None:
    if note and note not in inputs.notes:
        inputs.notes.append(note)
