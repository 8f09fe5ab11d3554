"""Means of cells by condition and cell type, and the change between two conditions that they tell.

A mean change is one of condition alone if the same cell types are compared. Which these are is a question of the two
conditions: what a third one lacks does not matter. So all groups there are are kept, and every pair is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cellalign.methods.capabilities import Batches
from cellalign.nn.minibatch import LABEL, Layout, Minibatch

UNLABELLED = NO_CONDITION = -1


class ConditionMeans(nn.Module):
    """What is kept of the trained cells: of every condition and cell type the mean and the number of cells.

    Attributes
    ----------
    groups : Tensor [n, 2]
        Codes of condition and type of the groups that have cells, -1 for cells without a label. Cells without a
        condition are in none.
    sizes : Tensor [n]
        Cells of each.
    means : Tensor [n, width]
    """

    def __init__(self, layout: Layout, width: int) -> None:
        super().__init__()
        self.layout, self.width = layout, width
        self.groups: Tensor
        self.sizes: Tensor
        self.means: Tensor
        # empty until they are fitted or read: how many groups there are is not known before
        self.register_buffer("groups", torch.zeros(0, 2, dtype=torch.int64))
        self.register_buffer("sizes", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("means", torch.zeros(0, width))
        self.register_load_state_dict_pre_hook(_make_room)

    def fit(self, batches: Batches, of: Callable[[Minibatch], Tensor]) -> None:
        """Means of `of` [B, width] over all cells that have a condition."""
        types = self.layout.n_labels + 1
        codes = torch.cat([(batch.condition * types + batch.label + 1)[batch.condition >= 0] for batch in batches()])
        present, sizes = codes.unique(return_counts=True)
        dtype = torch.float32 if codes.device.type == "mps" else torch.float64
        sums = torch.zeros(len(present), self.width, dtype=dtype, device=codes.device)
        for batch in batches():
            known = batch.condition >= 0
            own, place = (batch.condition * types + batch.label + 1)[known].unique(return_inverse=True)
            # a product, not an index, which adds up in an order that differs between runs
            member = (place[:, None] == torch.arange(len(own), device=own.device)).float()
            sums[torch.searchsorted(present, own)] += (member.T @ of(batch)[known]).to(dtype)
        self.groups = torch.stack([present // types, present % types - 1], 1)
        self.sizes = sizes
        self.means = (sums / sizes[:, None]).float()

    @property
    def complete(self) -> bool:
        """Whether there are cells of every condition."""
        return len(self.groups[:, 0].unique()) == self.layout.n_conditions

    def keep(self, before: ConditionMeans) -> None:
        """Take over the groups of earlier cells, of which none were seen now, as far from the control as they were.

        The groups that were seen both times say what else the new cells differ in, such as a batch: that is no change
        by a condition.
        """
        there = {tuple(group) for group in self.groups.tolist()}
        rest = [row for row, group in enumerate(before.groups.tolist()) if tuple(group) not in there]
        means = before.means[rest].to(self.means) + self._moved(before, before.groups[rest, 1])
        groups = torch.cat([self.groups, before.groups[rest].to(self.groups)])
        types = self.layout.n_labels + 1
        order = (groups[:, 0] * types + groups[:, 1]).argsort()
        self.groups = groups[order]
        self.sizes = torch.cat([self.sizes, before.sizes[rest].to(self.sizes)])[order]
        self.means = torch.cat([self.means, means])[order]

    def _moved(self, before: ConditionMeans, kinds: Tensor) -> Tensor:
        """By how much cells of some types [n] are elsewhere now than earlier ones, [n, width].

        As the control's cells of that type, of any where it has none, or as those of other conditions; 0 where there is
        no group that was seen both times.
        """
        place = {tuple(group): row for row, group in enumerate(self.groups.tolist())}
        both = [(row, place[tuple(group)]) for row, group in enumerate(before.groups.tolist()) if tuple(group) in place]
        if not both:
            return self.means.new_zeros(len(kinds), self.width)
        old, new = (list(rows) for rows in zip(*both, strict=True))
        moved, (condition, kind) = self.means[new] - before.means[old].to(self.means), before.groups[old].unbind(1)
        own = condition == (-1 if self.layout.control is None else self.layout.control)
        if bool(own.any()):
            moved, kind = moved[own], kind[own]
        found = self.means.new_empty(len(kinds), self.width)
        for row, each in enumerate(kinds.tolist()):
            like = kind == each
            found[row] = moved[like if bool(like.any()) else slice(None)].mean(0)
        return found

    def shared(self, source: int, target: int) -> tuple[Tensor, Tensor] | None:
        """Rows of the groups of both conditions, of the labelled types that both have, in one order, if any."""
        condition, kind = self.groups.unbind(1)
        ours, theirs = ((condition == code) & (kind != UNLABELLED) for code in (source, target))
        ours, theirs = ours & torch.isin(kind, kind[theirs]), theirs & torch.isin(kind, kind[ours])
        # groups are in order of condition and then of type
        return (ours.nonzero()[:, 0], theirs.nonzero()[:, 0]) if bool(ours.any()) else None

    def pair(self, source: int, target: int) -> tuple[Tensor, Tensor]:
        """Means of both over the types they share, [types, width] each; of all their cells where they share none."""
        rows = self.shared(source, target)
        if rows is not None:
            return self.means[rows[0]], self.means[rows[1]]
        return self._of_all(source), self._of_all(target)

    def change(self, source: int, target: int) -> Tensor:
        """Mean change from one condition to another, [width], types counting alike."""
        before, after = self.pair(source, target)
        return (after - before).mean(0)

    def changes(self, conditions: Tensor, target: int) -> Tensor:
        """The same of every cell from its condition [B], [B, width]."""
        found = self.means.new_zeros(len(conditions), self.width)
        for source in conditions.unique().tolist():
            found[conditions == source] = self.change(source, target)
        return found

    def added(self, conditions: Tensor, targets: Sequence[int]) -> Tensor:
        """The same to several at once, [B, width]: each one's change from the control, or else from the cell's own."""
        control = self.layout.control
        if len(targets) == 1 or control is None:
            return torch.stack([self.changes(conditions, target) for target in targets]).sum(0)
        apart = torch.stack([self.change(control, target) for target in targets]).sum(0)
        return self.changes(conditions, control) + apart

    def caveats(self, sources: Iterable[int], targets: Iterable[int]) -> list[str]:
        """One sentence for each pair of conditions that share no type, though there are labels."""
        condition, label = self.layout.condition, self.layout.fields.one(LABEL)
        if condition is None or label is None or not bool((self.groups[:, 1] != UNLABELLED).any()):
            return []
        names, seen = condition.categories, list(targets)
        return [
            f"no {label.name!r} was trained on under both {names[source]!r} and {names[target]!r}: the change between "
            "them is that of all their cells, in which other cell types count as change"
            for source in sources
            for target in seen
            if source != target and self.shared(source, target) is None
        ]

    def _of_all(self, condition: int) -> Tensor:
        """Mean of all cells of a condition, [1, width]."""
        own = self.groups[:, 0] == condition
        weight = self.sizes[own].to(self.means.dtype)
        return (weight / weight.sum()) @ self.means[own][None]


def of_centres(weights: dict[str, Any], old: str, prefix: str) -> None:
    """Means by condition [conditions, width], as models of before hold them, as groups without a label."""
    centres = weights.pop(old)
    codes = torch.arange(len(centres))
    weights[prefix + "groups"] = torch.stack([codes, torch.full_like(codes, UNLABELLED)], 1)
    weights[prefix + "sizes"] = torch.ones_like(codes)
    weights[prefix + "means"] = centres


def _make_room(module: nn.Module, weights: dict[str, Any], prefix: str, *_: Any) -> None:
    """Buffers of the size of those that are read, if these are of one piece; loading refuses them otherwise.

    Models of before have groups of cells without a condition too, where it may be missing; these are dropped.
    """
    assert isinstance(module, ConditionMeans)
    groups, sizes, means = (weights.get(prefix + name) for name in ("groups", "sizes", "means"))
    if groups is None or sizes is None or means is None:
        return
    n = len(sizes)
    if (groups.shape, sizes.shape, means.shape) != ((n, 2), (n,), (n, module.width)):
        return
    condition = module.layout.condition
    if condition is not None and condition.may_be_missing:
        kept = groups[:, 0] != NO_CONDITION
        groups, sizes, means = groups[kept], sizes[kept], means[kept]
        weights.update({prefix + "groups": groups, prefix + "sizes": sizes, prefix + "means": means})
    most = groups.new_tensor([module.layout.n_conditions, module.layout.n_labels])
    known = (groups < most) & (groups >= groups.new_tensor([0, UNLABELLED]))
    if bool(known.all() & (sizes > 0).all()):
        device = module.means.device
        module.groups = torch.empty_like(groups, device=device)
        module.sizes = torch.empty_like(sizes, device=device)
        module.means = torch.empty_like(means, device=device)
