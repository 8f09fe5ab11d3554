"""Local shift: a group changes as the groups do whose controls are like its own.

The change of a group (a cell type, a donor, a type of a donor) is the mean of others' changes, weighted by the likeness
of their control means, by how many cells tell them, and by what the groups have in common; less a part of the group's
own deviation, because states converge under treatment; as a difference or a fold change, or between. How much of each
is settled by leaving groups out (`cellalign.group_changes`), the way the cells that are asked for were left out. A gene
on whose change groups do not agree within its error hardly changes (`group_changes.agreed`).

A cell changes as its group does; what falls, falls in proportion, so that nothing is below zero and the mean is the
group's. A cell of which a column is not known belongs to the groups it may be of, by its principal components. Where
there is no column but the condition, groups are clusters of cells, found after the conditions' means are levelled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from cellalign.group_changes import (
    LeftOut,
    Setting,
    changes,
    columns_asked,
    others,
    settings_to_try,
    soft_choice,
)
from cellalign.methods.base import CONDITION, Distribution, Layout, Minibatch, Point, Role
from cellalign.methods.capabilities import Batches, as_in_memory
from cellalign.methods.group_means import GroupMeans, Halves
from cellalign.methods.pca import PCA
from cellalign.methods.states import states

MOST_LEFT_OUT = 64  # groups and targets that are left out in turn, at most
MIN_CELLS = 10  # of a control that is halved, where there are such
MEAN, LOCAL = Setting(0, 0, 1, 0), Setting(4, 0, 1, 0)
BUFFERS = ("settings", "shares", "evidence", "centres", "levels")


class Local(PCA):
    """Changes of like groups, of any columns or of clusters."""

    name = "local"
    summary = "changes of the groups whose controls are alike, in closed form, settled by leaving groups out"
    reference = "baseline"
    needs_condition = True
    condition_kinds = ("categorical", "number")
    also_uses: ClassVar[tuple[Role, ...]] = ("condition", "batch", "covariate", "label")
    column_kinds = ("categorical",)  # which make groups
    version = 2  # a gene on which groups do not agree hardly changes
    plan_defaults: ClassVar[Mapping[str, Any]] = {"validation": 0.0}  # groups are left out, not cells

    class Hyperparameters(PCA.Hyperparameters):
        """How many states stand for cell types that are not known."""

        states: int = Field(0, ge=0, le=1000, description="clusters where no column makes groups; 0: by cells")

    settings: Tensor  # [C, 7] that count, as `Setting`
    shares: Tensor  # [C] summing up to 1
    evidence: Tensor  # [left out, 3] squared error of the choice, of the mean shift and of the local shift
    centres: Tensor  # [states, p] of clusters, among components with the conditions levelled
    levels: Tensor  # [conditions, p] what is taken from components to level them
    spread: Tensor  # [p] variance of components within groups

    def __init__(self, hyperparameters: Any, layout: Layout) -> None:
        super().__init__(hyperparameters, layout)
        self.groups = GroupMeans(layout)
        self.clusters = not self.groups.columns
        self.groups.states = self.clusters
        self._changes: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        p = self.components.shape[1]
        for name, shape in (
            ("settings", (0, len(Setting._fields))),
            ("shares", (0,)),
            ("evidence", (0, 3)),
            ("centres", (0, p)),
        ):
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("levels", torch.zeros(0, p))
        self.register_buffer("spread", torch.ones(p))
        self.register_load_state_dict_pre_hook(_make_room)

    @property
    def embedding_needs_condition(self) -> bool:
        """Components do not depend on the condition."""
        return False

    def fit_closed_form(self, batches: Batches) -> None:
        """Components, clusters where groups need them, means, and the choice by groups left out."""
        super().fit_closed_form(batches)
        self._changes = {}
        self.groups.find_doses(batches)
        if self.clusters:
            self.find_states(batches)
        halves = self.groups.fit(batches, self.state if self.clusters else None)
        self.find_spread(batches)
        self.choose(halves)

    def find_states(self, batches: Batches) -> None:
        """Clusters that stand for cell types."""
        y = torch.cat([self.embedding(batch) for batch in batches()])
        condition = torch.cat([self.groups.conditions(batch.condition) for batch in batches()])
        order = as_in_memory(batches, y)
        self.centres, self.levels = states(y[order], condition[order], self.hp.states)

    def state(self, batch: Minibatch) -> Tensor:
        """The cluster of each cell, [B]."""
        moved = self.embedding(batch) - self.levels[self.groups.conditions(batch.condition)]
        return torch.cdist(moved, self.centres).argmin(1)

    def find_spread(self, batches: Batches) -> None:
        """Variance of components within groups."""
        whole = self.groups.whole(self.groups.groups)
        total, n, groups, places = torch.zeros_like(self.spread), 0, self.groups.groups[whole], self.places[whole]
        for batch in batches():
            member = (self.codes(batch)[:, None] == groups).all(2)
            inside = member.any(1)
            place = places[member[inside].float().argmax(1)]
            total += (self.embedding(batch)[inside] - place).square().sum(0)
            n += int(inside.sum())
        self.spread = (total / max(1, n - len(groups))).clamp(min=1e-6)

    def codes(self, batch: Minibatch) -> Tensor:
        """Condition and values of cells, [B, 1 + F]."""
        return self.groups.codes(batch, self.state(batch) if self.clusters else None)

    @property
    def places(self) -> Tensor:
        """Components of the groups' means, [n, p]."""
        return (self.groups.means - self.centre) @ self.components

    def choose(self, halves: Halves) -> None:
        """Shares of the settings, by how well they tell the changes of groups that are left out."""
        tried = settings_to_try(signed=self.layout.signed, related=self.groups.n_columns > 1)
        left = [each.products() for each in self.left_out(halves, [*tried, MEAN, LOCAL])]
        found = np.array([products.diagonal() for products in left]).reshape(-1, len(tried) + 2)
        share = soft_choice(found[:, :-2])
        kept = np.flatnonzero(share)
        device = self.centre.device
        self.settings = torch.tensor([tried[i] for i in kept], dtype=torch.float32, device=device)
        self.shares = torch.tensor(share[kept], dtype=torch.float32, device=device)
        mixed = [share @ products[:-2, :-2] @ share for products in left]
        self.evidence = torch.tensor(
            np.column_stack([mixed, found[:, -2:]]) if left else np.zeros((0, 3)),
            dtype=torch.float32,
            device=device,
        )

    def left_out(self, halves: Halves, tried: Sequence[Setting]) -> Iterator[LeftOut]:
        """Groups in turn, each without those that share what the groups asked for lack."""
        source = self.groups.source
        rows = self.groups.of(source).cpu().numpy()
        place = {row: i for i, row in enumerate(rows.tolist())}
        asked_for = []
        for target in self.groups.groups[:, 0].unique().tolist():
            if target == source:
                continue
            known, before = self.groups.known(source, target)
            without = np.setdiff1d(rows, before)
            all_groups, sizes = self.groups.groups.cpu().numpy(), self.groups.sizes.cpu().numpy()
            columns = columns_asked(all_groups[without, 1:], sizes[without], known.values)
            for i, row in enumerate(before.tolist()):
                stays = others(known, i, columns)
                if stays.any() and halves.usable(place[row]):
                    asked_for.append((int(sizes[row]) >= MIN_CELLS, known, i, stays, halves.means[place[row]]))
        enough = [each for each in asked_for if each[0]]
        asked_for = enough if len(enough) > 2 else asked_for
        step = max(1, -(-len(asked_for) // MOST_LEFT_OUT))
        for _, known, i, stays, half in asked_for[::step]:
            others_known = known.among(stays)
            truth = known.treated[i] - half[:, 1]
            predicted = [changes(one, known.values[i], others_known, tried) for one in half[:, 0]]
            yield LeftOut(truth, np.array(predicted))

    def findings(self) -> list[str]:
        """What was chosen, and how it did on the groups that were left out."""
        like = self.settings[:, 4] == 0
        share = float(self.shares[like].sum())
        chosen = (self.shares[like] @ self.settings[like] / max(share, 1e-9)).tolist()
        sharpness, shrink, offset, kinship, *_ = (f"{value:.2g}" for value in chosen)
        doubt = float(self.shares @ self.settings[:, Setting._fields.index("doubt")])
        said = f"local: {share:.0%} by likeness (sharpness {sharpness}, shrink {shrink}"
        said += "" if self.layout.signed else f", offset {offset}"
        said += f", kinship {kinship}" if self.groups.n_columns > 1 else ""
        said += f", doubt {doubt:.2g}" if doubt else ""
        said += ")" if share > 0.995 else f"), {1 - share:.0%} by regression"
        said += f", on average of {len(self.shares)} settings"
        n = len(self.evidence)
        if n < 2:
            return [f"{said}; no two groups to leave out, so all settings count alike"]
        own, mean, local = self.evidence.mean(0).tolist()
        return [
            f"{said}; error on {n} groups left out in turn, in parts of their squared change: {own:.3f} "
            f"(mean shift {mean:.3f}, local shift {local:.3f})"
        ]

    @property
    def responds_to(self) -> frozenset[Role]:
        """The condition."""
        return frozenset({CONDITION})

    def predict(self, batch: Minibatch, do: Mapping[str, Any], *, draw: bool = False) -> Distribution:
        """The cell plus its group's change."""
        condition = self.layout.condition
        if condition is None or condition.name not in do:
            return Point(batch.x)
        if self.layout.continuous:
            return Point(batch.x + self.towards(batch, float(batch.do(do).condition.reshape(-1)[0])))
        target = self.layout.target(do)
        return Point(batch.x if target is None else batch.x + self.change(batch, target))

    def towards(self, batch: Minibatch, value: float) -> Tensor:
        """Change of each cell to a value of a condition that is a number: between those to its neighbours."""
        doses = self.groups.doses
        above = min(int((doses < value).sum()), len(doses) - 1)
        below = max(0, above - 1)
        if doses[above] <= value or below == above:
            return self.change(batch, above)
        part = float((value - doses[below]) / (doses[above] - doses[below]))
        if part <= 0:
            return self.change(batch, below)
        return (1 - part) * self.change(batch, below) + part * self.change(batch, above)

    def change(self, batch: Minibatch, target: int) -> Tensor:
        """From each cell's condition to the target's, [B, G]."""
        codes = self.codes(batch)
        change = torch.zeros_like(batch.x)
        for source in codes[:, 0].unique().tolist():
            if source == target:
                continue
            rows = codes[:, 0] == source
            rise, fall = self.changes(source, target)
            belongs = self.belongs(self.embedding(batch)[rows], codes[rows, 1:], source)
            change[rows] = belongs @ rise + (belongs @ fall) * batch.x[rows]
        return change

    def belongs(self, y: Tensor, values: Tensor, source: int) -> Tensor:
        """Probability of each group of a condition [B, n] for cells at these components, of these values.

        Those groups count that agree with the cell in most columns; among several, those near it. Trained cells of
        which a column is not known are no group that a cell may be of, unless there is no other.
        """
        own = self.groups.of(source)
        groups = self.groups.groups[own, 1:]
        agree = (values[:, None] == groups).sum(2).masked_fill(~self.groups.whole(groups), -1)
        scale = self.spread.rsqrt()
        logit = self.groups.sizes[own].log() - 0.5 * torch.cdist(y * scale, self.places[own] * scale).square()
        return logit.masked_fill(agree < agree.max(1, keepdim=True).values, -torch.inf).softmax(1)

    def changes(self, source: int, target: int) -> tuple[Tensor, Tensor]:
        """Of the groups of a condition what is added [n, G], and the part of its value that a cell loses [n, G]."""
        if (source, target) not in self._changes:
            own = self.groups.of(source)
            change = self.of_groups(own, source, target)
            mean = self.groups.means[own]
            part = torch.zeros_like(change)
            if not self.layout.signed:
                falls = (change < 0) & (mean > 0)
                part = torch.where(falls, (change / mean.clamp(min=1e-9)).clamp(min=-1), part)
                change = change.clamp(min=0)
            self._changes[source, target] = change, part
        return self._changes[source, target]

    def of_groups(self, rows: Tensor, source: int, target: int) -> Tensor:
        """Mean change of groups of the source, [rows, G]."""
        known, _ = self.groups.known(source, target)
        if not len(known):  # conditions that have no group in common
            if not len(self.groups.of(target)):
                return torch.zeros_like(self.groups.means[rows])
            apart = self.groups.of_all(target) - self.groups.of_all(source)
            return apart.expand(len(rows), -1).clone()
        settings = [Setting(*each) for each in self.settings.cpu().double().round(decimals=6).tolist()]
        shares = self.shares.cpu().double().numpy()
        means, values = self.groups.means.cpu().double().numpy(), self.groups.groups[:, 1:].cpu().numpy()
        found = [shares @ changes(means[row], values[row], known, settings) for row in rows.tolist()]
        return torch.from_numpy(np.array(found)).to(self.groups.means)

    def caveats(self, sources: Sequence[int], targets: Sequence[int]) -> list[str]:
        """Conditions without a group in common."""
        condition = self.layout.condition
        if condition is None or not condition.categories:
            return []
        names = condition.categories
        return [
            f"no group was trained on under both {names[source]!r} and {names[target]!r}: the change between them is "
            "that of all their cells, in which other cells count as change"
            for source in sources
            for target in targets
            if source != target and not len(self.groups.known(source, target)[0])
        ]


def _make_room(module: nn.Module, weights: dict[str, Any], prefix: str, *_: Any) -> None:
    """Buffers of the size of those that are read, if these are of one piece; loading refuses them otherwise."""
    assert isinstance(module, Local)
    settings = weights.get(prefix + "settings")
    if settings is not None and settings.shape[1:] == (len(Setting._fields) - 1,):  # of before there was doubt: none
        weights[prefix + "settings"] = nn.functional.pad(settings, (0, 1))
    read = {name: weights[prefix + name] for name in BUFFERS if prefix + name in weights}
    if len(read) < len(BUFFERS) or any(value.dim() == 0 for value in read.values()):
        return
    p = module.components.shape[1]
    widths = {"settings": (len(Setting._fields),), "shares": (), "evidence": (3,), "centres": (p,), "levels": (p,)}
    fits = all(tuple(read[name].shape[1:]) == width for name, width in widths.items())
    if fits and len(read["settings"]) == len(read["shares"]):
        module._changes = {}
        for name in BUFFERS:
            setattr(module, name, torch.empty_like(read[name], device=module.centre.device))
