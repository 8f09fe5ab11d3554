"""Means of cells by condition and group, where a group is a value of every column there is: type, donor, site.

`condition_means` knows types alone; here whatever is known of cells makes groups, the noise of their means is kept, and
while they are fitted the control cells of each are halved, so that a choice can be made by what was not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cellalign.group_changes import Known
from cellalign.methods.base import BATCH, COVARIATE, LABEL, Layout, Minibatch
from cellalign.methods.capabilities import Batches, as_in_memory

MOST_VALUES = 12  # of a condition that is a number; more are pooled into as many
SPLITS = 3
BUFFERS = ("groups", "sizes", "means", "noise", "doses")
UNITS = "units"  # which models of before do not have


@dataclass(frozen=True)
class Halves:
    """Means of two halves of the cells of groups, [groups, splits, 2, G]; groups with a cell alone have NaN."""

    means: np.ndarray

    def usable(self, row: int) -> bool:
        """Whether both halves of every split have cells."""
        return bool(np.isfinite(self.means[row, :, :, 0]).all())


class GroupMeans(nn.Module):
    """What is kept of the trained cells.

    Attributes
    ----------
    groups : Tensor [n, 1 + F]
        Codes of the condition, then of every column; -1 where a value is unknown. In ascending order.
    sizes : Tensor [n]
        Cells of each.
    means : Tensor [n, G]
    noise : Tensor [n]
        Variance within each, summed up over genes; of a cell alone that within all groups.
    doses : Tensor [V]
        Values of a condition that is a number, in ascending order; their places are its codes.
    units : Tensor [G]
        Of any real values the standard deviation of each gene within groups, 0 where that is not known; else 1.
    """

    groups: Tensor
    sizes: Tensor
    means: Tensor
    noise: Tensor
    doses: Tensor
    units: Tensor

    def __init__(self, layout: Layout, *, states: bool = False) -> None:
        super().__init__()
        self.layout, self.states = layout, states
        named = [layout.fields.of(role) for role in (LABEL, BATCH, COVARIATE)]
        self.columns = [field.name for of_role in named for field in of_role if field.kind == "categorical"]
        width = 1 + self.n_columns
        # empty until they are fitted or read: how many groups there are is not known before
        self.register_buffer("groups", torch.zeros(0, width, dtype=torch.int64))
        self.register_buffer("sizes", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("means", torch.zeros(0, layout.n_genes))
        self.register_buffer("noise", torch.zeros(0))
        self.register_buffer("doses", torch.zeros(0))
        self.register_buffer(UNITS, torch.ones(layout.n_genes))
        self.register_load_state_dict_pre_hook(_make_room)

    @property
    def n_columns(self) -> int:
        """Columns that make groups; a state that stands for a cell type is one."""
        return max(1, len(self.columns) + self.states)

    @property
    def source(self) -> int:
        """Code of the condition from which changes are chosen."""
        return self.layout.control or 0

    def conditions(self, column: Tensor) -> Tensor:
        """Codes [B] of a condition's column: of a number those of the nearest value trained on."""
        if not self.layout.continuous:
            return column
        return (column.reshape(-1, 1) - self.doses).abs().argmin(1)

    def codes(self, batch: Minibatch, state: Tensor | None = None) -> Tensor:
        """Condition and values of cells, [B, 1 + F]."""
        found = [self.conditions(batch.condition)]
        by_name = {field.name: column for field, column in zip(batch.fields, batch.columns, strict=True)}
        found += [by_name[name] for name in self.columns]
        if state is not None:
            found.append(state)
        if len(found) == 1:
            found.append(torch.zeros_like(found[0]))
        return torch.stack(found, 1)

    def find_doses(self, batches: Batches) -> None:
        """The values of a condition that is a number."""
        if self.layout.continuous:
            seen = torch.cat([batch.condition.reshape(-1) for batch in batches()])
            self.doses = pooled(seen)

    @torch.no_grad()
    def fit(self, batches: Batches, state: Callable[[Minibatch], Tensor] | None = None) -> Halves:
        """Means of all groups, and of halves of those of the source, in the order in which `of` gives them."""
        codes = torch.cat([self.codes(batch, state and state(batch)) for batch in batches()])
        self.groups, place, self.sizes = codes.unique(dim=0, return_inverse=True, return_counts=True)
        rows = self.of(self.source)
        half = torch.full((len(codes), SPLITS), -1, device=codes.device)
        generator = torch.Generator().manual_seed(0)
        rank = as_in_memory(batches, codes).argsort()
        for row in rows.tolist():
            own = (place == row).nonzero()[:, 0]
            own = own[rank[own].argsort()]
            for split in range(SPLITS):
                order = torch.randperm(len(own), generator=generator).to(own.device)
                half[own[order], split] = (torch.arange(len(own), device=own.device) >= len(own) // 2).long()
        return self._add_up(batches, place, half, rows)

    def _add_up(self, batches: Batches, place: Tensor, half: Tensor, rows: Tensor) -> Halves:
        n, genes, first = len(self.sizes), self.layout.n_genes, 0
        device = place.device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        sums = torch.zeros(n, genes, dtype=dtype, device=device)
        squares, of_genes = (torch.zeros(size, dtype=dtype, device=device) for size in (n, genes))
        halved = torch.zeros(len(rows), SPLITS, 2, genes, dtype=dtype, device=device)
        counts = torch.zeros(len(rows), SPLITS, 2, 1, dtype=dtype, device=device)
        about = self._centre(batches)
        for batch in batches():
            part = slice(first, first := first + len(batch))
            x, own = batch.x - about, place[part]
            present = own.unique()
            # products, not an index, which adds up in an order that differs between runs
            member = (own[:, None] == present).to(x.dtype)
            sums[present] += (member.T @ x).to(dtype)
            squared = x.square()
            squares[present] += (member.T @ squared.sum(1)).to(dtype)
            if self.layout.signed:
                of_genes += squared.sum(0).to(dtype)
            source = (own[:, None] == rows).to(x.dtype)
            for split in range(SPLITS):
                for side in range(2):
                    taken = source * (half[part, split, None] == side)
                    halved[:, split, side] += (taken.T @ x).to(dtype)
                    counts[:, split, side, 0] += taken.sum(0).to(dtype)
        means = sums / self.sizes[:, None]
        within = (squares - self.sizes * means.square().sum(1)).clamp(min=0)
        freedom = self.sizes - 1
        pooled_noise = within.sum() / freedom.sum().clamp(min=1)
        self.means = (about + means).float()
        # a cell alone does not show how its like vary: it is no group without noise
        self.noise = torch.where(freedom > 0, within / freedom.clamp(min=1), pooled_noise).float()
        if self.layout.signed:
            apart = (of_genes - self.sizes.to(dtype) @ means.square()).clamp(min=0)
            self.units = (apart / freedom.sum().clamp(min=1)).sqrt().float() * (freedom.sum() > 0)
        return Halves((about + halved / counts).cpu().numpy())

    def _centre(self, batches: Batches) -> Tensor:
        """Near which values are added up, [G]: any real ones may be large beside their spread."""
        x = next(iter(batches())).x
        return x.mean(0) if self.layout.signed else torch.zeros_like(x[0])

    def of(self, condition: int) -> Tensor:
        """Rows of the groups of a condition."""
        return (self.groups[:, 0] == condition).nonzero()[:, 0]

    @staticmethod
    def whole(groups: Tensor) -> Tensor:
        """Mask [n] of the groups [n, F] of which every value is known; all where there is none."""
        known = (groups >= 0).all(1)
        return known if bool(known.any()) else torch.ones_like(known)

    def known(self, source: int, target: int) -> tuple[Known, np.ndarray]:
        """Groups with cells under both, and their rows under the source; those of which all is known, if any."""
        ours, theirs = self.of(source), self.of(target)
        values = dict(zip(map(tuple, self.groups[theirs, 1:].tolist()), theirs.tolist(), strict=True))
        mine = zip(map(tuple, self.groups[ours, 1:].tolist()), ours.tolist(), strict=True)
        pairs = [(row, values[key]) for key, row in mine if key in values]
        whole = [pair for pair in pairs if bool((self.groups[pair[0], 1:] >= 0).all())]
        before, after = np.array(whole or pairs, int).reshape(-1, 2).T
        means, noise = self.means.cpu().double().numpy(), (self.noise / self.sizes).cpu().double().numpy()
        found = Known(
            means[before],
            means[after],
            np.stack([noise[before], noise[after]], 1),
            self.groups.cpu().numpy()[before, 1:],
            self.units.cpu().double().numpy() if self.layout.signed else 1.0,
        )
        return found, before

    def of_all(self, condition: int) -> Tensor:
        """Mean of all cells of a condition, [G]."""
        own = self.of(condition)
        weight = self.sizes[own].to(self.means.dtype)
        return (weight / weight.sum()) @ self.means[own]


def pooled(values: Tensor) -> Tensor:
    """The distinct ones of many numbers, or means of at most MOST_VALUES runs of them."""
    found = values.unique()
    if len(found) > MOST_VALUES:
        found = torch.stack([part.mean() for part in values.sort().values.tensor_split(MOST_VALUES)]).unique()
    return found


def _make_room(module: nn.Module, weights: dict[str, Any], prefix: str, *_: Any) -> None:
    """Buffers of the size of those that are read, if these are of one piece; loading refuses them otherwise."""
    assert isinstance(module, GroupMeans)
    if any(prefix + name in weights for name in BUFFERS):
        weights.setdefault(prefix + UNITS, torch.ones_like(module.units))
    read = {name: weights[prefix + name] for name in BUFFERS if prefix + name in weights}
    if len(read) < len(BUFFERS) or any(value.dim() == 0 for value in read.values()):
        return
    groups, n, doses = read["groups"], len(read["sizes"]), len(read["doses"])
    shapes = {"groups": (n, 1 + module.n_columns), "sizes": (n,), "means": (n, module.layout.n_genes), "noise": (n,)}
    if any(read[name].shape != shape for name, shape in shapes.items()) or read["doses"].dim() != 1:
        return
    conditions = doses if module.layout.continuous else module.layout.n_conditions
    known = (groups[:, 0] >= 0) & (groups[:, 0] < conditions) & (groups >= -1).all(1) & (read["sizes"] > 0)
    if n and bool(known.all()):
        for name in BUFFERS:
            setattr(module, name, torch.empty_like(read[name], device=module.means.device))
