"""Style-transfer GAN: a generator per direction with cycle consistency (Zhu et al. 2017; trVAE paper, table 7).

For every condition one generator translates cells from the reference to it and one back, each judged by a
discriminator of the domain it ends in. No encoder, no prior, no likelihood: what a cell keeps is its expression
under the reference. Other conditions than the reference reach each other through it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from cellalign.methods.base import (
    CONDITION,
    Distribution,
    FitsInClosedForm,
    HasPlayers,
    Latent,
    Layout,
    Loss,
    Method,
    Minibatch,
    Player,
    Point,
    Predicts,
    Role,
    Width,
)
from cellalign.methods.capabilities import Batches
from cellalign.nn.networks import MLP
from cellalign.nn.products import Linear


class Generator(nn.Module):
    """Expression in, expression out, [B, G] -> [B, G], through a bottleneck."""

    def __init__(self, n_genes: int, hidden: tuple[int, ...], *, signed: bool = False, **shape: Any) -> None:
        super().__init__()
        middle = hidden.index(min(hidden)) + 1
        self.down = MLP(n_genes, hidden[:middle], **shape)
        self.up = MLP(hidden[middle - 1], hidden[middle:], **shape) if hidden[middle:] else None
        self.out = nn.Sequential(
            Linear(hidden[-1], n_genes), nn.BatchNorm1d(n_genes), nn.Identity() if signed else nn.ReLU()
        )

    def bottleneck(self, x: Tensor) -> Tensor:
        """Units of the narrowest layer."""
        return self.down(x, _no_context(x))

    def forward(self, x: Tensor) -> Tensor:
        """Translated cells, not negative unless values may be."""
        h = self.bottleneck(x)
        return self.out(h if self.up is None else self.up(h, _no_context(x)))


class Discriminator(nn.Module):
    """Logit that a cell [B, G] is a real one of its domain, [B]."""

    def __init__(self, n_genes: int, hidden: tuple[int, ...], **shape: Any) -> None:
        super().__init__()
        self.body = MLP(n_genes, hidden, **shape)
        self.out = nn.Linear(hidden[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.out(self.body(x, _no_context(x)))[:, 0]


class STGAN(HasPlayers, FitsInClosedForm, Predicts, Method):
    """Translates between the reference condition and each other one by adversarial training."""

    name = "stgan"
    summary = "style-transfer GAN: a generator per direction, cycle-consistent"
    reference = "Zhu et al. 2017"
    also_uses: ClassVar[tuple[Role, ...]] = (CONDITION,)
    removes: ClassVar[tuple[Role, ...]] = (CONDITION,)
    # no loss of a GAN falls with its quality: the last weights are kept, not those of the lowest
    plan_defaults: ClassVar[Mapping[str, Any]] = {
        "balanced": True,
        "lr": 5e-3,
        "validation": 0.0,
        "early_stopping": False,
        "weight_decay": 0.0,
    }
    renamed_settings: ClassVar = {"judge": "discriminator_hidden", "judge_dropout": "discriminator_dropout"}

    class Hyperparameters(BaseModel):
        """Networks of trVAE table 7; the losses weigh to each other as in the CycleGAN paper, ten times as much."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        hidden: tuple[Width, ...] = Field(
            (700, 100, 50, 100, 700),
            min_length=1,
            max_length=100,
            description="generator widths; the narrowest is the embedding",
        )
        discriminator_hidden: tuple[Width, ...] = Field(
            (700, 100), min_length=1, max_length=100, description="discriminator widths"
        )
        discriminator_dropout: float = Field(
            0.5, ge=0, lt=1, description="share of the discriminators' units dropped in training, lest they win"
        )
        batch_norm: bool = Field(True, description="batch normalisation after every hidden layer")
        dropout: float = Field(0.0, ge=0, lt=1, description="share of hidden units dropped in training")
        negative_slope: float = Field(0.2, ge=0, le=1, description="slope of the leaky ReLU below zero")
        discriminator_lr: float = Field(1.0, gt=0, le=100, description="their learning rate, times the generators'")
        cycle: float = Field(100.0, ge=0, le=1e6, description="weight of there and back again")
        identity: float = Field(50.0, ge=0, le=1e6, description="weight of leaving cells of the target alone")

    def __init__(self, hyperparameters: Any, layout: Layout) -> None:
        super().__init__(hyperparameters, layout)
        hp, n_genes = self.hp, layout.n_genes
        shape: dict[str, Any] = dict(batch_norm=hp.batch_norm, dropout=hp.dropout, negative_slope=hp.negative_slope)
        of = shape | {"signed": layout.signed}
        self.reference_code = layout.control or 0
        self.others = [code for code in range(layout.n_conditions) if code != self.reference_code]
        self.to_condition = nn.ModuleDict({str(k): Generator(n_genes, hp.hidden, **of) for k in self.others})
        self.to_reference = nn.ModuleDict({str(k): Generator(n_genes, hp.hidden, **of) for k in self.others})
        shape["dropout"] = hp.discriminator_dropout
        self.discriminators = nn.ModuleList(
            Discriminator(n_genes, hp.discriminator_hidden, **shape) for _ in range(layout.n_conditions)
        )
        self.register_load_state_dict_pre_hook(_rename_networks)

    def players(self) -> Mapping[str, Player]:
        """Generators and discriminators."""
        generators = [*self.to_condition.parameters(), *self.to_reference.parameters()]
        return {
            "generators": Player(generators),
            "discriminators": Player(list(self.discriminators.parameters()), self.hp.discriminator_lr),
        }

    def forward(self, batch: Minibatch, warmup: float = 1.0) -> Loss:
        """A loss for each player, who takes the other's weights as given."""
        reference = batch.x[batch.condition == self.reference_code]
        parts: dict[str, Tensor] = {}
        for k in self.others:
            other = batch.x[batch.condition == k]
            if min(len(reference), len(other)) < 2:  # batch normalisation needs two
                continue
            for name, value in self.pair(k, reference, other).items():
                parts[name] = parts.get(name, torch.zeros_like(value)) + value
        if not parts:
            nothing = torch.zeros((), device=reference.device)
            return Loss(nothing, dict.fromkeys(("adversarial", "cycle", "identity", "discrimination"), nothing))
        hp = self.hp
        generators = parts["adversarial"] + hp.cycle * parts["cycle"] + hp.identity * parts["identity"]
        by_player = {"generators": generators, "discriminators": parts["discrimination"]}
        detached = {name: value.detach() for name, value in parts.items()}
        return Loss(generators + parts["discrimination"], detached, by_player)

    def pair(self, k: int, reference: Tensor, other: Tensor) -> dict[str, Tensor]:
        """Losses of the two generators and two discriminators between the reference and condition k.

        Parameters
        ----------
        reference, other : Tensor [n, G], [m, G]
            Real cells of the reference and of condition k.
        """
        to_other, to_reference = self.to_condition[str(k)], self.to_reference[str(k)]
        of_reference, of_other = self.discriminators[self.reference_code], self.discriminators[k]
        as_other, as_reference = to_other(reference), to_reference(other)
        return {
            "adversarial": _real(of_other(as_other)) + _real(of_reference(as_reference)),
            # squared, not absolute as for images: the median of nearly every gene is zero
            "cycle": F.mse_loss(to_reference(as_other), reference) + F.mse_loss(to_other(as_reference), other),
            "identity": F.mse_loss(to_other(other), other) + F.mse_loss(to_reference(reference), reference),
            "discrimination": 0.5
            * (
                _real(of_other(other))
                + _real(of_reference(reference))
                + _fake(of_other(as_other.detach()))
                + _fake(of_reference(as_reference.detach()))
            ),
        }

    def fit_closed_form(self, batches: Batches) -> None:
        """Batch normalisation's means and variances anew, of the cells each generator translates.

        In training it also met cells made up or of its own domain; under the mixture's statistics a translation is off.
        Where no batch has two of those cells, training's statistics stay.
        """
        for k in self.others:
            for generator, source in ((self.to_condition[str(k)], self.reference_code), (self.to_reference[str(k)], k)):
                cells = (batch.x[batch.condition == source] for batch in batches())
                _normalise_anew(generator, (x for x in cells if len(x) > 1))

    def at_reference(self, batch: Minibatch) -> Tensor:
        """Every cell as it would be under the reference, [B, G]."""
        return self._translate(batch.x, batch.condition, self.to_reference)

    def encode(self, batch: Minibatch) -> Latent:
        """Bottleneck of the first generator from the reference, [B, min(hidden)]: all cells enter it as reference."""
        generator = self.to_condition[str(self.others[0])]
        assert isinstance(generator, Generator)
        return Latent.point(generator.bottleneck(self.at_reference(batch)))

    @property
    def responds_to(self) -> frozenset[Role]:
        """The condition."""
        return frozenset({CONDITION})

    def predict(self, batch: Minibatch, do: Mapping[str, Any], *, draw: bool = False) -> Distribution:
        """To the reference, and from there to the target; cells that nothing is done to stay as they are."""
        target = self.layout.target(do)
        if target is None:
            return Point(batch.x)
        condition = torch.full_like(batch.condition, target)
        return Point(self._translate(self.at_reference(batch), condition, self.to_condition))

    def _translate(self, x: Tensor, condition: Tensor, generators: nn.ModuleDict) -> Tensor:
        """Cells by the generator of their condition; those of the reference stay as they are."""
        result = x.clone()
        for k in self.others:
            rows = condition == k
            if bool(rows.any()):
                result[rows] = generators[str(k)](x[rows])
        return result


def _rename_networks(module: nn.Module, weights: dict[str, Any], prefix: str, *_: Any) -> None:
    """Models of format 1 call them leave, back and judges."""
    renamed = {"leave.": "to_condition.", "back.": "to_reference.", "judges.": "discriminators."}
    for old, new in renamed.items():
        for key in [key for key in weights if key.startswith(prefix + old)]:
            weights[prefix + new + key.removeprefix(prefix + old)] = weights.pop(key)


def _normalise_anew(generator: nn.Module, batches: Iterator[Tensor]) -> None:
    """Set batch normalisation's statistics to those of the cells given, if any; dropout is off."""
    first = next(batches, None)
    generator.eval()
    if first is None:
        return
    norms = [m for m in generator.modules() if isinstance(m, nn.BatchNorm1d)]
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over batches
        norm.train()
    for cells in chain([first], batches):
        generator(cells)
    for norm, was in zip(norms, momentum, strict=True):
        norm.eval().momentum = was


def _no_context(x: Tensor) -> Tensor:
    return x.new_empty(len(x), 0)


def _real(logit: Tensor) -> Tensor:
    """Cross-entropy of calling these cells real."""
    return F.softplus(-logit).mean()


def _fake(logit: Tensor) -> Tensor:
    """Cross-entropy of calling these cells made up."""
    return F.softplus(logit).mean()
