"""auto: a stack of methods, each counting by how well it tells the changes of groups that were left out.

A member predicts a cell's change, which the shares average. Shares are learned where no member has seen the answer:
groups (types, donors, clusters) are left out in turn, as those were that are asked for, every member is fitted without
them, and its change from one half of their control is compared with the real one from the other half, which no member
has seen either. Closed forms by default, in seconds; networks by `members=local,scgen,trvae,comp`, which are trained
once more for every fold. A member whose share is next to nothing is not trained on all cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from cellalign.methods.base import (
    BATCH,
    CONDITION,
    COVARIATE,
    Distribution,
    Latent,
    Layout,
    Method,
    Minibatch,
    Point,
    Predicts,
    Role,
)
from cellalign.methods.capabilities import Stacks, Trains
from cellalign.methods.local import Local
from cellalign.methods.registry import get

FIRST = "local"
CLOSED = ("local", "lemur")
MANY = 20  # conditions, for each of which lemur would keep a subspace: it is no member by default then


class Auto(Stacks, Predicts, Method):
    """Members and their shares."""

    name = "auto"
    summary = "a stack of methods with shares learned by leaving groups out: closed forms, or networks too"
    reference = "Wolpert 1992"
    needs_condition = True
    condition_kinds = ("categorical", "number")

    class Hyperparameters(BaseModel):
        """Which members, and how they are tried."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        members: tuple[str, ...] = Field(
            CLOSED, min_length=1, max_length=20, description="methods, by their own defaults; local always is one"
        )
        folds: int = Field(3, ge=2, le=100, description="times that members are tried, where networks are among them")
        fold_epochs: float = Field(0.5, gt=0, le=1, description="epochs of networks there, in parts of all")

        @field_validator("members", mode="before")
        @classmethod
        def _listed(cls, value: Any) -> Any:
            return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

        @field_validator("members")
        @classmethod
        def _able(cls, value: tuple[str, ...]) -> tuple[str, ...]:
            for name in value:
                _check_member(name)
            return tuple(dict.fromkeys((FIRST, *value)))

    shares: Tensor  # [members] summing up to 1
    evidence: Tensor  # [left out, 1 + members + 1] squared error of the stack, of each member and of the mean shift

    def __init__(self, hyperparameters: Any, layout: Layout) -> None:
        super().__init__(hyperparameters, layout)
        kind = "number" if layout.continuous else "categorical"
        able = [name for name in self.hp.members if kind in get(name).condition_kinds]
        if self.hp.members == CLOSED and layout.n_conditions > MANY:
            able = [FIRST]
        self.members = nn.ModuleDict({name: _built(get(name), layout) for name in able})
        self.register_buffer("shares", torch.full((len(able),), 1 / len(able)))
        self.register_buffer("evidence", torch.zeros(0, len(able) + 2))
        self.register_load_state_dict_pre_hook(_make_room)

    @property
    def first(self) -> Local:
        """The member that knows groups, and gives cells their embedding."""
        found = self.members[FIRST]
        assert isinstance(found, Local)
        return found

    @classmethod
    def trains(cls, hyperparameters: Any) -> bool:
        """Whether a network is among the members."""
        return any(issubclass(get(name), Trains) for name in hyperparameters.members)

    @classmethod
    def version_of(cls, hyperparameters: Any) -> int:
        """Its own, with those of its members."""
        members = (get(name) for name in hyperparameters.members)
        return cls.version + sum(each.version_of(each.Hyperparameters()) - 1 for each in members)

    @classmethod
    def uses_kind(cls, kind: str, hyperparameters: Any) -> bool:
        """Whether a member does."""
        members = (get(name) for name in hyperparameters.members)
        able = [each for each in members if each.uses() & {BATCH, COVARIATE}]
        return any(each.uses_kind(kind, each.Hyperparameters()) for each in able)

    def learned(self, shares: Tensor, evidence: Tensor) -> None:
        """Keep the shares, and what they follow from."""
        self.shares, self.evidence = shares.to(self.shares), evidence.to(self.shares)

    @property
    def embedding_needs_condition(self) -> bool:
        """Components do not depend on the condition."""
        return False

    def encode(self, batch: Minibatch) -> Latent:
        """Principal components; no spread."""
        return self.first.encode(batch)

    @property
    def responds_to(self) -> frozenset[Role]:
        """The condition."""
        return frozenset({CONDITION})

    def predict(self, batch: Minibatch, do: Mapping[str, Any], *, draw: bool = False) -> Distribution:
        """The cell plus the changes that members predict, by their shares."""
        condition = self.layout.condition
        if condition is None or condition.name not in do:
            return Point(batch.x)
        x = batch.x
        for share, member in zip(self.shares.tolist(), self.members.values(), strict=True):
            if share > 0:
                assert isinstance(member, Predicts)
                x = x + share * (member.predict(batch, do).mean - member.predict(batch, {}).mean)
        return Point(x)

    def caveats(self, sources: Sequence[int], targets: Sequence[int]) -> list[str]:
        """Conditions without a group in common."""
        return self.first.caveats(sources, targets)

    def findings(self) -> list[str]:
        """The shares, and the errors that they follow from."""
        names = list(self.members)
        said = ", ".join(f"{name} {share:.2f}" for name, share in zip(names, self.shares.tolist(), strict=True))
        if not len(self.evidence):
            return [f"auto: {said}; no two groups to leave out"]
        own, *errors, shift = self.evidence.mean(0).tolist()
        each = ", ".join(f"{name} {error:.3f}" for name, error in zip(names, errors, strict=True))
        return [
            f"auto: shares {said}; error on {len(self.evidence)} groups left out in turn, in parts of their squared "
            f"change: {own:.3f} ({each}, mean shift {shift:.3f})",
            *(self.first.findings() if self.shares[0] > 0 else []),
        ]


def _check_member(name: str) -> None:
    """ValueError where a method cannot be one."""
    from cellalign.errors import UsageError

    try:
        method = get(name)
    except UsageError as error:
        raise ValueError(str(error)) from error
    if name == Auto.name or not issubclass(method, Predicts):
        raise ValueError(f"method {name!r} cannot be a member: it does not predict expression")
    if method.reads(method.Hyperparameters()) != "log":
        raise ValueError(f"method {name!r} cannot be a member: it reads counts")


def _built(cls: type[Method], layout: Layout) -> Method:
    """A member with its own defaults."""
    own = dict(cls.defaults_of_number(layout.n_genes) if layout.continuous else {})
    own |= cls.defaults_of_any(layout.n_genes) if layout.signed else {}
    known = cls.Hyperparameters.model_fields
    return cls(cls.Hyperparameters(**{key: value for key, value in own.items() if key in known}), layout)


def _make_room(module: nn.Module, weights: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """A buffer of the size of the one that is read."""
    assert isinstance(module, Auto)
    read = weights.get(prefix + "evidence")
    if read is not None and read.dim() == 2 and read.shape[1] == module.evidence.shape[1]:
        module.evidence = torch.empty_like(read, device=module.shares.device)
