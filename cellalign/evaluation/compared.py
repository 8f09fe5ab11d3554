"""The cells by which a prediction is scored: predicted, real and control cells of every cell type, on one scale.

A change is a difference from control cells, whose own noise is in it. Whatever is compared with the real change may
therefore not start from the control cells that the real change starts from: these are halved anew in each of a few
splits, the prediction starts from one half and the truth from the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from cellalign.data.columns import column
from cellalign.data.stored import rows_in
from cellalign.data.values import known, listed
from cellalign.errors import InputError, option
from cellalign.evaluation.baselines import Groups
from cellalign.evaluation.group_names import as_groups
from cellalign.evaluation.inputs import Inputs, NotApplicable
from cellalign.evaluation.metrics import response as res
from cellalign.evaluation.references import References
from cellalign.evaluation.scales import note, on_one_scale, positions, real_values, sources
from cellalign.evaluation.seen import SEEN, status_of, trained_on
from cellalign.evaluation.table import WHOLE

if TYPE_CHECKING:
    from anndata import AnnData

MIN_CELLS_PER_GROUP = 5  # of a cell type, under each condition, for its response to be scored
SPLITS = 5  # of the control cells
TOGETHER = 20_000  # cells of which a mean is taken at once
MOST_CELLS = 10_000  # of a group and kind that are scored: they are dense while they are
BETWEEN = ", "  # a cell type and its donor


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
    status : str
        Whether the model has seen the real cells: `FITTED`, `PREDICTED`, `TUNED`, "" where that is not known.
    baselines : callable
        From a control mean [G] to every baseline's change [G], by name.
    neighbours : array [G], optional
        Control mean of the other groups, weighted by their likeness.
    """

    name: str
    predicted: np.ndarray
    real: np.ndarray
    control: np.ndarray
    source: np.ndarray
    start: np.ndarray | None = None
    status: str = ""
    baselines: Callable[[np.ndarray], dict[str, np.ndarray]] = field(default=lambda control: {})
    neighbours: np.ndarray | None = None

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

    def predicted_rows(self, split: Split) -> np.ndarray:
        """Predicted cells whose sources are in the split's first half; all where sources are not known."""
        mine = np.flatnonzero(np.isin(self.source, split.start))
        return mine if len(mine) else np.arange(len(self.predicted))

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
    """All groups of cells: those named can be scored; baselines learn from these and from all others.

    Attributes
    ----------
    names : list of str
    usable : list of str
        All that have enough real cells, predicted or not.
    predicted : list of str
        All that are predicted, with real cells or without.
    of : callable
        A group's cells by its name: dense, so made when they are asked for. One without enough real cells has no
        baselines.
    """

    names: list[str]
    usable: list[str]
    predicted: list[str]
    of: Callable[[str], CellType]


def compare(inputs: Inputs, origin: str, to: str) -> Compared:
    """The cells of one prediction beside the real ones.

    Raises
    ------
    InputError
        The real cells lack predicted genes, the condition, or the scale of the prediction.
    NotApplicable
        No group has enough cells.
    """
    against = inputs.against
    assert against is not None
    target, source = _target_and_source(inputs, against, origin, to)
    source = _within(inputs, against, target, source)
    grouping = _grouping(inputs, against)
    predicted, real = grouping.predicted, grouping.real
    at, x = sources(inputs.adata, against), real_values(inputs)
    seen, prints = trained_on(inputs)
    x_p, x_r, x_s = on_one_scale(inputs, x, with_sources=bool((at < 0).any()))
    usable = _usable(inputs, grouping, target, source)
    status = {n: status_of(inputs, predicted == n, target & (real == n), seen, prints) for n in usable}
    under = _conditions(inputs, against, target | source, seen) if origin else {}
    groups = _groups(x_r, usable, real, target, source, inputs)
    learned = References(groups, list(usable), [status[n] for n in usable], _parts(inputs, to, under))
    names = [n for n in usable if n in predicted]
    _say_drawn(inputs, names, {"predicted": predicted, "real": real[target], "control": real[source]})

    def scored_by(name: str) -> dict[str, Any]:
        if name not in usable:
            return {}
        baselines = learned.of(name, _means_under(x_r, real == name, under))
        return {"status": status[name], "baselines": baselines, "neighbours": learned.neighbours(name)}

    def of(name: str) -> CellType:
        rng = np.random.default_rng(inputs.seed)
        rows = _drawn(np.flatnonzero(predicted == name), rng)
        controls = _drawn(np.flatnonzero(source & (real == name)), rng, first=at[rows])
        strangers = x_s is not None and (at[rows] < 0).all()
        return CellType(
            name,
            res.dense(rows_in(x_p, rows)),
            res.dense(rows_in(x_r, _drawn(np.flatnonzero(target & (real == name)), rng))),
            res.dense(rows_in(x_r, controls)),
            positions(at[rows], controls),
            res.dense(rows_in(x_s, rows)) if strangers else None,
            **scored_by(name),
        )

    return Compared(names, list(usable), [str(name) for name in dict.fromkeys(predicted) if name], of)


def _drawn(rows: np.ndarray, rng: np.random.Generator, first: np.ndarray | None = None) -> np.ndarray:
    """At most `MOST_CELLS` of increasing rows, in their order: those that are also in `first`, the others at random."""
    if len(rows) <= MOST_CELLS:
        return rows
    order = rng.permutation(rows)
    if first is not None:
        order = order[np.argsort(~np.isin(order, first), kind="stable")]
    return np.sort(order[:MOST_CELLS])


def _say_drawn(inputs: Inputs, names: Sequence[str], kinds: Mapping[str, np.ndarray]) -> None:
    """Note which groups have more cells than are scored."""
    many = []
    for name in names:
        counts = {kind: int((of == name).sum()) for kind, of in kinds.items()}
        if max(counts.values()) > MOST_CELLS:
            many.append(f"{name} ({', '.join(f'{n:,} {kind}' for kind, n in counts.items())})")
    if many:
        note(
            inputs,
            f"of groups with more cells {MOST_CELLS:,} of a kind are scored, drawn at random, so that a mean is off by "
            f"{1.96 / np.sqrt(MOST_CELLS):.2g} of a cell's standard deviation at most (95 %): {', '.join(many)}",
        )


def _usable(inputs: Inputs, grouping: _Grouping, target: np.ndarray, source: np.ndarray) -> dict[str, tuple[str, str]]:
    """Groups with enough real cells under both conditions, each with its cell type and its place; others are noted."""
    predicted, real = grouping.predicted, grouping.real
    counts = {
        str(n): [int((m & (real == n)).sum()) for m in (target, source)]
        for n in np.unique(np.concatenate([predicted, real[real != ""]]))
    }
    usable = [n for n, c in counts.items() if min(c) >= MIN_CELLS_PER_GROUP]
    skipped = [f"{n} ({c[0]} real, {c[1]} source)" for n, c in counts.items() if n in predicted and n not in usable]
    if skipped:
        inputs.notes.append(
            f"response skips cell types with fewer than {MIN_CELLS_PER_GROUP} cells: {listed(skipped, len(skipped))}"
        )
    if not any(n in predicted for n in usable):
        what = f"{'no cell type has' if inputs.label else 'there are not'} {MIN_CELLS_PER_GROUP} cells under both"
        sizes = listed(skipped, 8) if inputs.label else ", ".join(skipped).removeprefix(WHOLE).strip(" ()")
        sizes = sizes or "none of what is predicted"
        raise NotApplicable(f"{what} conditions in {option('against')}: {sizes}")
    return {n: grouping.parts[n] for n in usable}


def _groups(
    x: Any, usable: Mapping[str, tuple[str, str]], real: np.ndarray, target: np.ndarray, source: np.ndarray, of: Inputs
) -> Groups:
    """Means of the groups' real cells, and of halves of their control cells."""
    rng, found = np.random.default_rng(of.seed), []
    for name in usable:
        controls = np.flatnonzero(source & (real == name))
        halves = [_mean(x, rows) for rows in _halves(rng, controls)]
        found.append((_mean(x, np.flatnonzero(target & (real == name))), _mean(x, controls), *halves))
    treated, control, *halves = (np.array(each) for each in zip(*found, strict=True))
    kinds, places = zip(*usable.values(), strict=True)
    return Groups(kinds, places, treated, control, np.array(halves))


def _mean(x: Any, rows: np.ndarray) -> np.ndarray:
    """Mean [G] of rows, in float64; of very many some at a time."""
    total = np.zeros(x.shape[1])
    for start in range(0, len(rows), TOGETHER):
        some = rows_in(x, rows[start : start + TOGETHER])
        some = some if sparse.issparse(some) else np.ascontiguousarray(some)  # sums are the same wherever it lies
        total += np.asarray(some.sum(0, dtype=np.float64)).ravel()
    return total / len(rows)


def _conditions(inputs: Inputs, against: AnnData, asked: np.ndarray, seen: np.ndarray | None) -> dict[str, np.ndarray]:
    """Rows of the real cells under every other condition; those alone that the model has seen, where it says so."""
    if inputs.condition is None or inputs.continuous:
        return {}
    values = column(against.obs, inputs.condition, purpose="condition", missing=True)
    codes = np.where(asked, -1, values.codes)
    found = {str(name): np.flatnonzero(codes == code) for code, name in enumerate(values.categories)}
    found = {name: rows for name, rows in found.items() if len(rows)}
    if seen is not None:
        # cells that it has not seen, as of a group held out under all conditions, tell a baseline nothing either
        known_of = {name: rows[seen[rows]] for name, rows in found.items() if seen[rows].mean() > SEEN}
        found = known_of or found
    return found


def _means_under(x: Any, group: np.ndarray, under: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A group's means [G] under the conditions of which it has enough cells."""
    rows = {name: some[group[some]] for name, some in under.items()}
    return {name: _mean(x, some) for name, some in rows.items() if len(some) >= MIN_CELLS_PER_GROUP}


def _parts(inputs: Inputs, to: str, under: Mapping[str, np.ndarray]) -> list[str]:
    """Of several conditions at once what each alone is called among the real cells, or as it is written."""
    parts = [part.strip() for part in to.split("+")]
    own = known(tuple(under), inputs.reference)
    return [own.name(part) or part for part in parts] if len(parts) > 1 else []


def _target_and_source(inputs: Inputs, against: AnnData, origin: str, to: str) -> tuple[np.ndarray, np.ndarray]:
    """Masks [n] of the real cells under the predicted condition, and under that of the source."""
    target = inputs.under(against.obs, to)
    source = inputs.under(against.obs, origin) if origin else ~target
    if not target.any() and inputs.continuous:
        raise NotApplicable(f"{option('against')} has no cell of {inputs.condition}={to} to compare with")
    if not target.any():
        raise InputError(f"{option('against')} has no cell of {inputs.condition}={to!r} to compare with")
    if not source.any() and inputs.condition is not None:
        there = column(against.obs, inputs.condition, purpose="condition", missing=True).categories
        of = f"{inputs.condition}={origin!r}" if origin else f"{inputs.condition} but {to!r}"
        raise InputError(
            f"{option('against')} has no cell of {of}, which the change is counted from; its values: {listed(there, 8)}"
        )
    return target, source


def _within(inputs: Inputs, against: AnnData, target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Mask [n] of the source cells of those donors, plates, ... that cells under the condition are of."""
    if inputs.within is None:
        return source
    codes = column(against.obs, inputs.within, purpose=option("within"), missing=True).codes
    return source & np.isin(codes, np.unique(codes[target & (codes >= 0)]))


@dataclass(frozen=True)
class _Grouping:
    """Names of the groups of predicted and of real cells, "" without one; the cell type and the place of each."""

    predicted: np.ndarray
    real: np.ndarray
    parts: dict[str, tuple[str, str]]


def _grouping(inputs: Inputs, against: AnnData) -> _Grouping:
    """Cells by their label, of a donor, plate or batch where they are compared within these."""
    kinds = kinds_of(inputs, against)
    if inputs.within is None or inputs.within not in inputs.adata.obs:  # of which donor a cell is, it does not say
        return _Grouping(*kinds, {str(kind): (str(kind), "") for kind in np.unique(np.concatenate(kinds))})
    places = called(inputs, against, inputs.within)
    parts: dict[str, tuple[str, str]] = {}
    named = []
    for kind, place in zip(kinds, places, strict=True):
        pairs, codes = np.unique(np.stack([kind, place]), axis=1, return_inverse=True)
        names = [BETWEEN.join(pair) if all(pair) else "" for pair in pairs.T.tolist()]
        parts |= {name: (str(pair[0]), str(pair[1])) for name, pair in zip(names, pairs.T.tolist(), strict=True)}
        named.append(np.array(names)[codes.ravel()])
    return _Grouping(named[0], named[1], parts)


def kinds_of(inputs: Inputs, against: AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Labels of predicted and of real cells, called alike; of one kind where no label is named."""
    if inputs.label is None:
        return np.full(inputs.adata.n_obs, WHOLE), np.full(against.n_obs, WHOLE)
    return called(inputs, against, inputs.label)


def called(inputs: Inputs, against: AnnData, key: str) -> tuple[np.ndarray, np.ndarray]:
    """A column of predicted cells and of real ones, called as groups and alike; "" without a value."""
    predicted = inputs.column(key)
    values = column(against.obs, key, purpose="label", missing=True)
    names = known(tuple(map(str, dict.fromkeys(predicted))))
    codes = names.codes(list(values.categories))
    called = [names.names[code] if code >= 0 else str(v) for code, v in zip(codes, values.categories, strict=True)]
    n = int((values.codes < 0).sum())
    if n:
        note(inputs, f"{n} cells of {option('against')} have no {key!r} and are left out")
    return as_groups(predicted), as_groups(np.array([*called, ""], dtype=str)[values.codes])
