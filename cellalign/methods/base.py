"""What every method is: an autoencoder trained on one objective, told apart by six choices.

    loss = reconstruction(x | decoder(z, .)) + beta * KL(q(z | .) || prior) + gamma * penalty

A method's own file states what its encoder and decoder see, its posterior, prior, likelihood and penalty. The
engine, the API, the evaluation and the command line use nothing but this interface, so a new method is one
file (in this folder, or in another package under the entry-point group `cellalign.methods`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from cellalign.nn.batch import Batch

CONDITION, BATCHES, COVARIATES = "condition", "batches", "covariates"


@dataclass(frozen=True)
class Dimensions:
    """The sizes a method is built for.

    Attributes
    ----------
    genes : int
    conditions : int
        Number of conditions, 1 where none is given.
    batches, covariates : tuple of int
        Categories of each technical and each biological covariate that has them.
    numeric_batches, numeric_covariates : int
        How many technical and biological covariates are numbers.
    labels : int
    control : int, optional
        Code of the reference condition.
    cells : int
        Number of cells trained on.
    continuous : bool
        The condition is a number, of which a batch holds the `value`.
    unknown : bool
        The condition of some cells is unknown.
    """

    genes: int
    conditions: int = 1
    batches: tuple[int, ...] = ()
    covariates: tuple[int, ...] = ()
    labels: int = 0
    control: int | None = None
    cells: int = 1
    continuous: bool = False
    unknown: bool = False
    numeric_batches: int = 0
    numeric_covariates: int = 0


@dataclass(frozen=True)
class Target:
    """What a counterfactual predicts.

    Attributes
    ----------
    codes : tuple of int
        Of one condition, or of several at once; or of one batch.
    value : float
        Of a continuous condition.
    batch : int, optional
        Which technical covariate changes, where it is not the condition.
    """

    codes: tuple[int, ...] = ()
    value: float = 0.0
    batch: int | None = None


@dataclass(frozen=True)
class Latent:
    """Posterior of a batch: `mean` [B, p], `scale` [] or [B, p] (standard deviation), and a draw `z` [B, p]."""

    mean: Tensor
    scale: Tensor
    z: Tensor

    @classmethod
    def without_spread(cls, z: Tensor) -> Latent:
        """Of a method that draws nothing: mean and draw are z."""
        return cls(z, z.new_zeros(()), z)


@dataclass(frozen=True)
class Step:
    """What a penalty may look at: one forward pass over a batch.

    Attributes
    ----------
    batch : Batch
    latent : Latent
    encoder_hidden, decoder_hidden : Tensor [B, H]
        Units of the first hidden layer of each network.
    warmup : float
        In [0, 1], rises over the first epochs.
    """

    batch: Batch
    latent: Latent
    encoder_hidden: Tensor
    decoder_hidden: Tensor
    warmup: float


@dataclass(frozen=True)
class Graph:
    """Which latents each condition targets: `effect` and `probability`, [conditions, p] each."""

    effect: Tensor
    probability: Tensor


@dataclass(frozen=True)
class Loss:
    """The scalar to minimise, and its named parts for history.csv (detached scalars)."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Hyperparameters(BaseModel):
    """What every autoencoder takes; a method's own class adds to it. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    latent_dim: int = Field(40, ge=1, le=10_000, description="number of latent dimensions")
    hidden: tuple[int, ...] = Field(
        (512, 512, 512), min_length=1, description="encoder widths; the decoder mirrors them"
    )
    batch_norm: bool = Field(True, description="batch normalisation after every hidden layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of hidden units dropped in training")
    negative_slope: float = Field(0.01, ge=0, le=1, description="slope of the leaky ReLU below zero")
    beta: float = Field(1.0, ge=0, description="weight of the KL term")


class Method(nn.Module):
    """Base class of all methods.

    A subclass states `name`, `summary`, `reference`, its `Hyperparameters`, and implements `encode`, `predict`
    and `loss`. `plan_defaults` holds the method's own defaults of the training plan (learning rate, epochs, ...).
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    reference: ClassVar[str] = ""
    scale: ClassVar[str] = "log"  # the expression it reads: "log" (normalised, log1p) or "counts"
    needs_condition: ClassVar[bool] = True
    needs_label: ClassVar[bool] = False
    has_graph: ClassVar[bool] = False  # implements `graph`
    disentangles: ClassVar[bool] = False  # each latent should mean one thing: `tune` ranks by UDR
    combines_conditions: ClassVar[bool] = False  # predicts two conditions at once
    takes_continuous: ClassVar[bool] = False  # the condition may be a number
    takes_unknown: ClassVar[bool] = False  # infers the condition of cells where it is unknown
    plan_defaults: ClassVar[Mapping[str, Any]] = {}
    Hyperparameters: ClassVar[type[BaseModel]] = Hyperparameters

    def __init__(self, hyperparameters: Any, dimensions: Dimensions) -> None:
        super().__init__()
        self.hp = hyperparameters
        self.dimensions = dimensions

    @classmethod
    def reads(cls, hyperparameters: Any) -> str:
        """The expression it reads under these hyperparameters: "log" or "counts"."""
        return cls.scale

    @property
    def embedding_needs_condition(self) -> bool:
        """Whether cells without a known condition cannot be embedded."""
        return self.needs_condition

    def encode(self, batch: Batch) -> Latent:
        """Posterior of the batch's cells and one reparameterised draw."""
        raise NotImplementedError

    def predict(self, z: Tensor, batch: Batch) -> Tensor:
        """Expected expression [B, G] of latents z [B, p] under the batch's condition and batches."""
        raise NotImplementedError

    def loss(self, batch: Batch, warmup: float) -> Loss:
        """The objective on one batch; `warmup` in [0, 1] scales the KL term and rises over the first epochs."""
        raise NotImplementedError

    @property
    def sees_condition(self) -> bool:
        """Whether a counterfactual condition changes what is predicted."""
        return self.needs_condition

    @property
    def sees_batches(self) -> bool:
        """Whether another batch changes what is predicted."""
        return False

    @property
    def does_without_covariates(self) -> bool:
        """Whether the encoder learned to embed cells of which neither batches nor covariates are known."""
        return False

    @property
    def normalised(self) -> bool:
        """Whether its likelihood is comparable between models: the prior's normaliser is known."""
        return True

    def embedding(self, batch: Batch) -> Tensor:
        """What `embed` writes: the posterior mean, [B, p]."""
        return self.encode(batch).mean

    def embeddings(self, batch: Batch) -> dict[str, Tensor]:
        """All that `embed` writes, [B, p] each, by what the obsm key X_<method> is followed by."""
        return {"": self.embedding(batch)}

    def finish(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Called by the engine after training, for what follows from the trained cells in closed form.

        Parameters
        ----------
        batches : callable
            Gives an iterator over all training cells, as often as it is called; no gradient is recorded.
        """

    def means_by_condition(self, batches: Callable[[], Iterator[Batch]], of: Callable[[Batch], Tensor]) -> Tensor:
        """Means of `of` [B, width] by condition and cell type, over the types that all conditions share.

        Returns
        -------
        Tensor [conditions, types, width]
            Cells without a label are a type of their own. Where no type is under every condition there is one type,
            of all cells.
        """
        k, n_labels = self.dimensions.conditions, self.dimensions.labels + 1
        added: list[tuple[Tensor, Tensor]] = []
        for batch in batches():
            # a product, not an index, which adds up in an order that differs between runs
            member = _one_hot(batch.condition * n_labels + batch.label + 1, k * n_labels)
            added.append((member.T @ of(batch), member.sum(0)))
        sums = torch.stack([total for total, _ in added]).sum(0).view(k, n_labels, -1)
        sizes = torch.stack([size for _, size in added]).sum(0).view(k, n_labels, 1)
        shared = (sizes > 0).all(0)[:, 0]
        if not bool(shared.any()):
            return sums.sum(1, keepdim=True) / sizes.sum(1, keepdim=True).clamp(min=1)
        return sums[:, shared] / sizes[:, shared]

    def intervene(self, z: Tensor, batch: Batch, to: Target) -> tuple[Tensor, Batch]:
        """What a counterfactual changes: here the condition the decoder sees; z stays (CoMP eq. 1).

        Parameters
        ----------
        z : Tensor [B, p]
            Latents of the batch's cells under their own condition.
        to : Target
            Several codes only where `combines_conditions`.
        """
        if to.batch is not None:
            return z, batch.with_batch(to.batch, to.codes[0])
        return z, batch.with_value(to.value) if self.dimensions.continuous else batch.with_condition(to.codes[0])

    def counterfactual(self, batch: Batch, to: Target, n_samples: int = 0) -> tuple[Tensor, Tensor | None]:
        """Abduct z, act on it or on the condition, decode (CoMP eq. 1).

        Parameters
        ----------
        batch : Batch
        to : Target
        n_samples : int
            0 decodes the posterior mean; n > 0 averages the predictions of n posterior draws.

        Returns
        -------
        mean : Tensor [B, G]
        std : Tensor [B, G] or None
            Standard deviation over the draws.
        """
        if n_samples == 0:
            return self.predict(*self.intervene(self.encode(batch).mean, batch, to)), None
        # Welford's update: the draws are never kept
        mean = squares = torch.zeros_like(batch.x)
        for n in range(1, n_samples + 1):
            draw = self.predict(*self.intervene(self.encode(batch).z, batch, to))
            change = draw - mean
            mean = mean + change / n
            squares = squares + change * (draw - mean)
        return mean, (squares / max(n_samples - 1, 1)).sqrt()

    def before_epoch(self, done: float, step: float) -> None:
        """Called by the engine before every epoch, for what changes over a run.

        It may depend on these two numbers alone, so that a resumed run does the same.

        Parameters
        ----------
        done : float
            Part of the planned epochs that is over, in [0, 1).
        step : float
            Part that one epoch is.
        """

    def graph(self) -> Graph:
        """Which latents each condition targets, where `has_graph`."""
        raise NotImplementedError

    def nelbo(self, batch: Batch) -> Tensor:
        """Negative evidence lower bound per cell [B], of methods with a likelihood."""
        raise NotImplementedError

    def importance_weighted_nll(self, batch: Batch, particles: int) -> Tensor:
        """Negative importance-weighted ELBO per cell [B], of methods with a likelihood."""
        raise NotImplementedError

    def inferred_condition(self, batch: Batch) -> Tensor:
        """Probability of each condition for every cell [B, conditions], where `dimensions.unknown`."""
        raise NotImplementedError

    def label_probability(self, z: Tensor) -> Tensor:
        """Probability of each label [B, labels] at an embedding [B, p], of methods with a classifier of their own."""
        raise NotImplementedError

    def context(self, batch: Batch, seen: tuple[str, ...]) -> Tensor:
        """What a network is told besides its input, [B, n_context(seen)]: one-hot codes, and numbers as they are.

        What is unknown of a cell (code -1) is told as zeros.
        """
        columns, d = [], self.dimensions
        if CONDITION in seen and d.continuous:
            columns.append(batch.value[:, None])
        elif CONDITION in seen and d.conditions > 1:
            columns.append(_one_hot(batch.condition, d.conditions))
        if BATCHES in seen:
            columns += [_one_hot(batch.batches[:, i], n) for i, n in enumerate(d.batches)]
            if d.numeric_batches:
                columns.append(batch.numbers[:, : d.numeric_batches])
        if COVARIATES in seen:
            columns += [_one_hot(batch.covariates[:, i], n) for i, n in enumerate(d.covariates)]
            if d.numeric_covariates:
                columns.append(batch.numbers[:, d.numeric_batches :])
        if len(columns) == 1:
            return columns[0]
        return torch.cat(columns, 1) if columns else batch.value.new_empty(len(batch), 0)

    def n_context(self, seen: tuple[str, ...]) -> int:
        """Width of `context`."""
        d = self.dimensions
        condition = 1 if d.continuous else d.conditions if d.conditions > 1 else 0
        batches, covariates = sum(d.batches) + d.numeric_batches, sum(d.covariates) + d.numeric_covariates
        return condition * (CONDITION in seen) + batches * (BATCHES in seen) + covariates * (COVARIATES in seen)


def _one_hot(codes: Tensor, n: int) -> Tensor:
    """Float [B, n] with a one at each code, and none where the code is -1."""
    return (codes[:, None] == torch.arange(n, device=codes.device)).float()
