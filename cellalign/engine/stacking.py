"""How a stack of methods is fitted: members without some groups, what they say of these, shares, members on all cells.

What is left out is what was left out of the cells that are asked for: a type, a donor, or else a group by itself. Of a
group that is left out, members see one half of the control; from there they predict, and the other half is what the
truth is a change from.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cellalign.data.loader import Cells
from cellalign.engine.checkpoint import Checkpoint
from cellalign.engine.keeping import begin_parts
from cellalign.engine.plan import Plan
from cellalign.engine.settings import resolve_settings
from cellalign.engine.state import State
from cellalign.errors import counted
from cellalign.group_changes import LeftOut, columns_asked, stacked
from cellalign.methods.base import Method, Trains
from cellalign.methods.capabilities import Stacks
from cellalign.methods.registry import get

log = logging.getLogger("cellalign")
MOST_FOLDS = 8  # of closed forms
MOST_TARGETS = 8  # conditions that are looked at
FEWEST = 4  # control cells of a group that is left out: two halves of two


@dataclass(frozen=True)
class _Fold:
    """Groups that are left out together.

    Attributes
    ----------
    kept : bool array [n]
        Rows of `rows` that members see.
    groups : list of (start, truth) by target
        Rows of cells that predictions start from, and the change from the other half, [G].
    """

    kept: np.ndarray
    groups: list[tuple[int, np.ndarray, np.ndarray]]


@dataclass
class _Members:
    """How members of a stack are fitted: what all of them are given, and how far their networks are.

    Attributes
    ----------
    fit : callable
        `engine.fit.fit`.
    progress : optional
        Told of the epochs of all networks as of one training's; losses are of the one that goes on.
    epochs, before : int
        Of all networks, and of those that are done.
    """

    stack: Any
    cells: Cells
    train: Tensor
    validation: Tensor
    plan: Plan
    device: torch.device
    seed: int
    fit: Callable[..., State]
    checkpoint: Checkpoint | None
    progress: Any
    epochs: int = 0
    before: int = 0

    def fitted(self, member: Any, kept: Callable[[Tensor], Tensor], fold: int = 0) -> State:
        """Fit a member to what is `kept` of the rows, in a fold (from 1) or for good (0); a network goes on."""
        torch.manual_seed(self.seed)
        trained, n = isinstance(member, Trains), len(self.train)
        part = self.stack.hp.fold_epochs if fold and trained else 1
        own = _plan_of(type(member), self.plan, n, part)
        learns, checks = kept(self.train), kept(self.validation.cpu())
        given = {"device": self.device, "seed": self.seed}
        if not trained:  # which has no use for cells kept back
            learns, checks = torch.cat([learns, checks]).sort().values, checks[:0]
            return self.fit(member, self.cells, learns, checks, own, **given)
        place = None if self.checkpoint is None else self.checkpoint.part(f"{member.name}-{fold}")
        given |= {"checkpoint": place, "more_follows": True, "progress": None if self.progress is None else self}
        state = self.fit(member, self.cells, learns, checks, own, **given)
        self.before += own.resolve_epochs(n)
        return state

    def expect(self, folds: int) -> None:
        """Count the epochs of all networks, in every fold and on all cells."""
        for member in self.stack.members.values():
            if isinstance(member, Trains):
                cls: Any = type(member)
                for part in [*[self.stack.hp.fold_epochs] * folds, 1]:
                    self.epochs += _plan_of(cls, self.plan, len(self.train), part).resolve_epochs(len(self.train))

    def update(self, epoch: int, epochs: int, row: dict[str, float]) -> None:
        """Called by the engine."""
        self.progress.update(self.before + epoch, max(self.epochs, self.before + epochs), row)


def fit_stack(
    method: Stacks,
    cells: Cells,
    train: Tensor,
    validation: Tensor,
    plan: Plan,
    device: torch.device,
    seed: int,
    *,
    fit: Callable[..., State],
    checkpoint: Checkpoint | None = None,
    progress: Any = None,
    part_of: str = "",
) -> State:
    """Fit a stack in place; parameters are `fit`'s, and `fit` itself for the members.

    Each network leaves its state in a part of the checkpoint, and is taken up from there; closed forms take seconds.
    """
    assert isinstance(method, Method)
    method.to(device)
    started = time.monotonic()
    members = _Members(method, cells, train, validation, plan, device, seed, fit, checkpoint, progress)
    states = [members.fitted(method.first, lambda rows: rows)]
    rows = torch.cat([train, validation.cpu()]).sort().values
    networks = any(isinstance(member, Trains) for member in method.members.values())
    if networks and checkpoint is not None:
        begin_parts(checkpoint, cells.order)
    left, shifts = [], []
    if len(method.members) > 1:
        folds = _folds(method, cells, rows, device, networks)
        members.expect(len(folds))
        for number, fold in enumerate(folds, 1):
            level = logging.DEBUG if part_of and not networks else logging.INFO  # of many refits in seconds
            this, left_out = f"{part_of}, auto" if part_of else "auto", counted(len(fold.groups), "group")
            log.log(level, "%s: fold %d of %d, %s left out", this, number, len(folds), left_out)
            found, shift = _tried(method, cells, rows, fold, partial(members.fitted, fold=number), device)
            left += found
            shifts += shift
    shares = stacked(left) if len(left) > 1 else np.eye(len(method.members))[0]
    mixed = [LeftOut(e.truth, (shares @ e.predicted)[:, None]).errors()[0] for e in left]
    table = [[own, *each.errors(), shift] for own, each, shift in zip(mixed, left, shifts, strict=True)]
    evidence = torch.tensor(table if len(left) > 1 else np.zeros((0, len(shares) + 2)), dtype=torch.float32)
    method.learned(torch.tensor(shares, dtype=torch.float32), evidence)
    for share, member in list(zip(shares, method.members.values(), strict=True))[1:]:
        if share > 0:
            assert isinstance(member, Method)
            states.append(members.fitted(member, lambda rows: rows))
    method.eval()
    return State(
        epoch=max(state.epoch for state in states),
        step=sum(state.step for state in states),
        seconds=time.monotonic() - started,
        order=cells.order,
    )


def _plan_of(cls: type[Method], plan: Plan, n: int, part: float) -> Plan:
    """A member's own plan, with what was asked for of the stack's."""
    asked = {key: value for key, value in plan.model_dump().items() if value != getattr(Plan(), key)}
    own = resolve_settings(cls, named=asked)[1]
    return own.model_copy(update={"epochs": max(1, round(part * own.resolve_epochs(n)))})


def times_trained(hyperparameters: Any, plan: Plan, n: int) -> list[tuple[str, Plan, float]]:
    """Networks of a stack, the plan of each on n cells, and how often it is trained: in each fold, and on all cells."""
    times = 1 + hyperparameters.folds * hyperparameters.fold_epochs
    networks = [get(name) for name in hyperparameters.members]
    return [(cls.name, _plan_of(cls, plan, n, 1), times) for cls in networks if issubclass(cls, Trains)]


def fits_of(cls: type[Any]) -> int:
    """How often closed forms are fitted in one training, at most."""
    return 1 + MOST_FOLDS if issubclass(cls, Stacks) else 1


def _folds(method: Any, cells: Cells, rows: Tensor, device: torch.device, networks: bool) -> list[_Fold]:
    """What to leave out in turn; none of a condition that is a number, or where there are no two groups."""
    if method.layout.continuous:
        return []
    local, first = method.first, method.first.groups
    with torch.no_grad():
        codes = torch.cat([local.codes(cells.batch(part).to(device)) for part in rows.split(4096)]).cpu().numpy()
    source = first.source
    targets = [int(t) for t in np.unique(codes[:, 0]) if t != source and len(first.known(source, t)[0])][:MOST_TARGETS]
    known = {tuple(v) for t in targets for v in first.known(source, t)[0].values.tolist()}
    unit, column = _units(first, source, sorted(known))
    names = sorted(set(unit.values()), key=lambda name: (-sum(u == name for u in unit.values()), name))
    most = method.hp.folds if networks else MOST_FOLDS
    if len(names) < 2:
        return []
    parts: list[list[Any]] = [names[i :: min(most, len(names))] for i in range(min(most, len(names)))]
    rng = np.random.default_rng(0)
    found = []
    for part in parts:
        gone = {v for v, u in unit.items() if u in part}
        shares = np.isin(codes[:, 1 + column], part) if column is not None else _among(codes, gone)
        found.append(_fold(codes, rows, gone, shares, source, targets, rng, cells))
    return [fold for fold in found if fold.groups]


def _among(codes: np.ndarray, groups: set[Any]) -> np.ndarray:
    """Mask [n] of the cells of some groups."""
    return np.array([tuple(v) in groups for v in codes[:, 1:].tolist()])


def _units(first: Any, source: int, known: list[tuple[int, ...]]) -> tuple[dict[Any, Any], int | None]:
    """What each group is left out with: a value of the column that is asked for, and that column; or itself."""
    own = first.of(source).cpu().numpy()
    groups, sizes = first.groups.cpu().numpy()[own], first.sizes.cpu().numpy()[own]
    asked = np.array([tuple(v) not in known for v in groups[:, 1:].tolist()])
    columns = columns_asked(groups[asked, 1:], sizes[asked], np.array(known).reshape(len(known), groups.shape[1] - 1))
    if columns and len({v[columns[0]] for v in known}) > 1:
        return {v: v[columns[0]] for v in known}, columns[0]
    return {v: v for v in known}, None


def _fold(
    codes: np.ndarray,
    rows: Tensor,
    gone: set[Any],
    shares: np.ndarray,
    source: int,
    targets: Sequence[int],
    rng: np.random.Generator,
    cells: Cells,
) -> _Fold:
    """Leave out the cells of the mask `shares` [n] but for controls, of which the groups that are `gone` lose half."""
    kept, groups = ~shares | (codes[:, 0] == source), []
    # of a condition that no cell is left of members can say nothing, and are not asked
    targets = [target for target in targets if (kept & (codes[:, 0] == target)).any()]
    for values in sorted(gone):
        own = (codes[:, 1:] == values).all(1)
        control = rng.permutation(np.flatnonzero(own & (codes[:, 0] == source)))
        if len(control) < FEWEST:
            continue
        start, end = np.array_split(control, 2)
        kept[end] = False
        apart = _mean(cells, rows[end])
        for target in targets:
            treated = np.flatnonzero(own & (codes[:, 0] == target))
            if len(treated):
                groups.append((target, rows[np.sort(start)].numpy(), _mean(cells, rows[treated]) - apart))
    return _Fold(kept, groups)


def _mean(cells: Cells, rows: Tensor) -> np.ndarray:
    total = torch.stack([cells.batch(part.to(cells.device)).x.double().sum(0) for part in rows.split(4096)]).sum(0)
    return (total / len(rows)).cpu().numpy()


def _tried(
    method: Any, cells: Cells, rows: Tensor, fold: _Fold, fitted: Callable[..., State], device: torch.device
) -> tuple[list[LeftOut], list[float]]:
    """What members, fitted without a fold, say of its groups; and the error of the mean shift."""
    seen = torch.zeros(int(rows.max()) + 1, dtype=torch.bool)
    seen[rows[torch.from_numpy(fold.kept)]] = True
    predicted: list[list[np.ndarray]] = [[] for _ in fold.groups]
    shift: list[np.ndarray] = []
    condition = method.layout.condition
    for name, member in method.members.items():
        fresh = type(member)(member.hp, method.layout)
        fitted(fresh, lambda part: part[seen[part]])
        if name == "local":
            known = [fresh.groups.known(fresh.groups.source, target)[0] for target, *_ in fold.groups]
            shift = [(k.treated - k.controls).mean(0) if len(k) else np.zeros(method.layout.n_genes) for k in known]
        for place, (target, start, _) in enumerate(fold.groups):
            do = {condition.name: condition.categories[target]}
            predicted[place].append(_change(fresh, cells, start, do, device))
    left = [
        LeftOut(truth[None], np.array(said)[None]) for (*_, truth), said in zip(fold.groups, predicted, strict=True)
    ]
    alone = [LeftOut(e.truth, s[None, None]).errors()[0] for e, s in zip(left, shift, strict=True)]
    return left, alone


@torch.inference_mode()
def _change(member: Any, cells: Cells, rows: np.ndarray, do: dict[str, Any], device: torch.device) -> np.ndarray:
    """Mean change [G] of some cells."""
    member.to(device).eval()
    total = np.zeros(member.layout.n_genes)
    for part in torch.from_numpy(rows).split(4096):
        batch = cells.batch(part.to(cells.device)).to(device)
        change = member.predict(batch, do).mean - member.predict(batch, {}).mean
        total += change.double().sum(0).cpu().numpy()
    return total / len(rows)
