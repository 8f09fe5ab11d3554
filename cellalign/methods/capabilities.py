"""What only some methods can do: small classes of abstract methods, which a method's class inherits.

Commands ask `isinstance(method, LearnsGraph)` and nothing else; the registry checks when it loads a class that what it
inherits it also implements, and messages list the able methods from there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cellalign.nn.distributions import Distribution
from cellalign.nn.minibatch import Fields, Minibatch, Role

if TYPE_CHECKING:
    from cellalign.methods.base import Method

Batches = Callable[[], Iterator[Minibatch]]


class Passes:
    """Batches of the same cells in the same order, as often as they are asked for.

    Attributes
    ----------
    places : Tensor [n], optional
        Of cells that are read from disk, in blocks: where each of the order in memory is found among them.
    """

    def __init__(self, batches: Batches, places: Tensor | None = None) -> None:
        self.batches, self.places = batches, places

    def __call__(self) -> Iterator[Minibatch]:
        """One pass over them."""
        return self.batches()


def as_in_memory(batches: Batches, values: Tensor) -> Tensor:
    """Places [n] by which values of all cells [n, ...] come into the order that they have in memory.

    What starts from the first cells, or draws among them, would give another result wherever the cells lie.
    """
    places = batches.places if isinstance(batches, Passes) else None
    return torch.arange(len(values), device=values.device) if places is None else places


@dataclass(frozen=True)
class Loss:
    """The scalar to minimise, and its named parts for history.csv (detached scalars).

    Attributes
    ----------
    by_player : dict of str to Tensor
        Of a method with several players (`HasPlayers`) what each of them minimises; `total` is then for the record.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    by_player: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Player:
    """Parameters with an optimiser of their own.

    Attributes
    ----------
    parameters : sequence of Parameter
    lr : float
        Times the plan's learning rate.
    """

    parameters: Sequence[nn.Parameter]
    lr: float = 1.0


@dataclass(frozen=True)
class Graph:
    """Which latents each condition targets: `effect` and `probability`, [conditions, p] each."""

    effect: Tensor
    probability: Tensor


class Capability(ABC):
    """Base of all capabilities.

    Attributes
    ----------
    does : str
        What a method of it does, as it ends a sentence: "method 'vae' does not ...".
    """

    does: ClassVar[str]


class Trains(Capability):
    """Learns by gradient steps on a loss."""

    does = "train by gradient steps"

    @abstractmethod
    def forward(self, batch: Minibatch, warmup: float = 1.0) -> Loss:
        """The objective on one batch; `warmup` in [0, 1] scales the KL term and rises over the first epochs."""


class HasPlayers(Trains):
    """Has players with an optimiser and a loss each, such as generators and discriminators."""

    does = "train several players against each other"

    @abstractmethod
    def players(self) -> Mapping[str, Player]:
        """Every parameter, in exactly one of them; `Loss.by_player` has a loss for each name."""


class FitsInClosedForm(Capability):
    """Computes something from the trained cells at once: all of it, or what follows from trained networks."""

    does = "fit in closed form"

    @abstractmethod
    def fit_closed_form(self, batches: Batches) -> None:
        """Called by the engine after training, or in its place where there is no `Trains`; no gradient is recorded.

        Parameters
        ----------
        batches : callable
            Gives an iterator over all training cells, as often as it is called, in the same order each time.
        """


class Stacks(Capability):
    """Consists of other methods, its modules `members` by name, which the engine fits, and of shares of theirs."""

    does = "stack other methods"
    members: nn.ModuleDict

    @property
    @abstractmethod
    def first(self) -> Any:
        """The member that is fitted first, and knows groups (`Local`)."""

    @classmethod
    @abstractmethod
    def trains(cls, hyperparameters: Any) -> bool:
        """Whether a network is among the members."""

    @abstractmethod
    def learned(self, shares: Tensor, evidence: Tensor) -> None:
        """Take the shares of the members [M], and the errors of each group left out: of the stack, of all, of none."""


def by_steps(cls: type[Any], hyperparameters: Any) -> bool:
    """Whether a method trains a network by gradient steps: its own, or a member's."""
    return issubclass(cls, Trains) or (issubclass(cls, Stacks) and cls.trains(hyperparameters))


Rule = Literal["observed", "expression", "latent"]


class Predicts(Capability):
    """Predicts the expression of cells under an intervention."""

    does = "predict expression"

    @property
    def combines_in(self) -> tuple[Rule, ...]:
        """Where the effects of several conditions at once may be added up, the default first.

        In expression the engine adds what the conditions change by themselves; in the latents the method has a rule of
        its own, and `predict` takes several. A model that keeps what was observed (`methods.observed`) has that rule
        besides, and before them.
        """
        return ("expression",)

    keeps_observed: ClassVar[bool] = True  # False of a method whose own rule is no worse: it is not kept twice

    @property
    @abstractmethod
    def responds_to(self) -> frozenset[Role]:
        """Roles of the fields whose change changes a prediction."""

    def caveats(self, sources: Sequence[int], targets: Sequence[int]) -> list[str]:
        """What whoever reads a prediction from these conditions to those should know: one sentence each, or none."""
        return []

    @property
    def keeps_residual(self) -> bool:
        """Whether a cell keeps by default what is not explained of it: the observed cell plus the predicted change."""
        return True

    @abstractmethod
    def predict(self, batch: Minibatch, do: Mapping[str, Any], *, draw: bool = False) -> Distribution:
        """Expression [B, G] of the batch's cells under an intervention.

        Parameters
        ----------
        batch : Minibatch
            Cells under their own condition.
        do : mapping of column to value
            As `Minibatch.do` takes it; empty: as they are.
        draw : bool
            From a draw of each cell's posterior in place of its mean.
        """


class CombinesConditions(Predicts):
    """Predicts several conditions at once: their effects on the latents add up."""

    does = "predict several conditions at once"

    @property
    def combines_in(self) -> tuple[Rule, ...]:
        """In the latents by default."""
        return "latent", "expression"

    @abstractmethod
    def shifts(self) -> Tensor:
        """What each condition adds to the latents, [conditions, p]; zeros for the control."""


class Reconstructs(Capability):
    """Has a reconstruction of cells in its loss, of which is known what it is worth."""

    does = "reconstruct cells"

    @abstractmethod
    def nll_of_alike(self, batch: Minibatch, mean: Tensor, variance: Tensor) -> Tensor:
        """The reconstruction [B] of cells that were all alike: what whoever looks at cells should beat.

        Parameters
        ----------
        mean, variance : Tensor [G]
            Of the genes, over all cells.
        """


class HasLikelihood(Capability):
    """Gives cells a likelihood."""

    does = "have a likelihood"

    @property
    @abstractmethod
    def comparable(self) -> bool:
        """Whether it can be compared between models: the prior's normaliser is known."""

    @abstractmethod
    def nelbo(self, batch: Minibatch) -> Tensor:
        """Negative evidence lower bound of each cell with one posterior draw, [B], in nats."""

    @abstractmethod
    def importance_weighted_nll(self, batch: Minibatch, particles: int) -> Tensor:
        """Negative importance-weighted ELBO of each cell, [B], in nats (sVAE+ eq. 18)."""


class LearnsGraph(Capability):
    """Learns which latents each condition targets."""

    does = "learn a graph from perturbations to latents"

    @abstractmethod
    def graph(self) -> Graph:
        """Effect and probability of every edge, on the CPU."""


class Extends(Capability):
    """Can learn conditions it was not trained on."""

    does = "learn an embedding per intervention, which transfer extends"

    @abstractmethod
    def with_conditions(self, fields: Fields, shifts: np.ndarray) -> Method:
        """The same model for more conditions.

        Parameters
        ----------
        fields : Fields
            The model's, the condition's categories followed by new ones.
        shifts : array [n_new, p]
            Mean latents of the new ones.
        """


@dataclass(frozen=True)
class ContextWeight:
    """A parameter that has an entry for each column of what its network is given of fields.

    Attributes
    ----------
    roles : tuple of roles
        Of these fields, in the order of `Minibatch.context`.
    dim, before : int
        The dimension of the parameter along which these entries lie, and how many others come first.
    embeds : bool
        Whether the embedding of a cell depends on it.
    """

    roles: tuple[Role, ...]
    dim: int = 0
    before: int = 0
    embeds: bool = True


class LearnsOn(Capability):
    """Has weights for each condition or batch, which can be learned of new ones while all others stay."""

    does = "have weights for each condition or batch, which can be learned of new ones"

    @abstractmethod
    def context_weights(self) -> Mapping[str, ContextWeight]:
        """By name of the parameter, all whose shape depends on what values the fields have."""


class Labels(Capability):
    """Predicts labels by a classifier of its own."""

    does = "predict labels by itself"

    @abstractmethod
    def label_probability(self, z: Tensor) -> Tensor:
        """Probability of each label [B, labels] at an embedding [B, p]."""


class InfersCondition(Capability):
    """Infers the condition of cells where it is missing."""

    does = "take cells whose condition is missing"

    @abstractmethod
    def inferred_condition(self, batch: Minibatch) -> Tensor:
        """Probability of each condition for every cell [B, conditions]; 1 for the condition of a cell that has one."""
