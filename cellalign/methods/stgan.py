"""Style-transfer GAN: a generator per direction with cycle consistency (Zhu et al. 2017; trVAE paper, table 7).

For every condition one generator translates cells from the reference to it and one back, each judged by a
discriminator of the domain it ends in. No encoder, no prior, no likelihood: what a cell keeps is its expression
under the reference. Other conditions than the reference reach each other through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from cellalign.methods.base import Dimensions, Latent, Loss, Method, Target
from cellalign.nn.batch import Batch
from cellalign.nn.networks import MLP


class Generator(nn.Module):
    """Expression in, expression out, [B, G] -> [B, G], through a bottleneck."""

    def __init__(self, n_genes: int, hidden: tuple[int, ...], **shape: Any) -> None:
        super().__init__()
        middle = hidden.index(min(hidden)) + 1
        self.down = MLP(n_genes, hidden[:middle], **shape)
        self.up = MLP(hidden[middle - 1], hidden[middle:], **shape) if hidden[middle:] else None
        self.out = nn.Sequential(nn.Linear(hidden[-1], n_genes), nn.BatchNorm1d(n_genes), nn.ReLU())

    def bottleneck(self, x: Tensor) -> Tensor:
        """Units of the narrowest layer."""
        return self.down(x, _no_context(x))

    def forward(self, x: Tensor) -> Tensor:
        """Translated cells, not negative."""
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

    def frozen(self, x: Tensor) -> Tensor:
        """The same logit; the gradient reaches x and not the weights."""
        weights = {name: value.detach() for name, value in self.named_parameters()}
        return torch.func.functional_call(self, weights, (x,))


class STGAN(Method):
    """Translates between the reference condition and each other one by adversarial training."""

    name = "stgan"
    summary = "style-transfer GAN: a generator per direction, cycle-consistent"
    reference = "Zhu et al. 2017"
    # no loss of a GAN falls with its quality: the last weights are kept, not those of the lowest
    plan_defaults: ClassVar[Mapping[str, Any]] = {
        "balanced": True,
        "lr": 5e-3,
        "validation": 0.0,
        "early_stopping": False,
        "weight_decay": 0.0,
    }

    class Hyperparameters(BaseModel):
        """Networks of trVAE table 7; the losses weigh to each other as in the CycleGAN paper, ten times as much."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        hidden: tuple[int, ...] = Field(
            (700, 100, 50, 100, 700), min_length=1, description="generator widths; the narrowest is the embedding"
        )
        judge: tuple[int, ...] = Field((700, 100), min_length=1, description="discriminator widths")
        judge_dropout: float = Field(
            0.5, ge=0, lt=1, description="share of the discriminators' units dropped in training, lest they win"
        )
        batch_norm: bool = Field(True, description="batch normalisation after every hidden layer")
        dropout: float = Field(0.0, ge=0, lt=1, description="share of hidden units dropped in training")
        negative_slope: float = Field(0.2, ge=0, le=1, description="slope of the leaky ReLU below zero")
        cycle: float = Field(100.0, ge=0, le=1e6, description="weight of there and back again")
        identity: float = Field(50.0, ge=0, le=1e6, description="weight of leaving cells of the target alone")

    def __init__(self, hyperparameters: Any, dimensions: Dimensions) -> None:
        super().__init__(hyperparameters, dimensions)
        hp, n_genes = self.hp, dimensions.genes
        shape = dict(batch_norm=hp.batch_norm, dropout=hp.dropout, negative_slope=hp.negative_slope)
        self.origin = dimensions.control or 0
        self.others = [code for code in range(dimensions.conditions) if code != self.origin]
        self.leave = nn.ModuleDict({str(k): Generator(n_genes, hp.hidden, **shape) for k in self.others})
        self.back = nn.ModuleDict({str(k): Generator(n_genes, hp.hidden, **shape) for k in self.others})
        shape["dropout"] = hp.judge_dropout
        self.judges = nn.ModuleList(Discriminator(n_genes, hp.judge, **shape) for _ in range(dimensions.conditions))

    def loss(self, batch: Batch, warmup: float) -> Loss:
        """Both players at once: each sees the other's weights as given, so one gradient step moves both."""
        home = batch.x[batch.condition == self.origin]
        parts: dict[str, Tensor] = {}
        for k in self.others:
            away = batch.x[batch.condition == k]
            if min(len(home), len(away)) < 2:  # batch normalisation needs two
                continue
            for name, value in self.pair(k, home, away).items():
                parts[name] = parts.get(name, torch.zeros_like(value)) + value
        if not parts:
            nothing = torch.zeros((), device=home.device, requires_grad=True)
            return Loss(nothing, dict.fromkeys(("adversarial", "cycle", "identity", "judge"), nothing.detach()))
        hp = self.hp
        total = parts["adversarial"] + parts["judge"] + hp.cycle * parts["cycle"] + hp.identity * parts["identity"]
        return Loss(total, {name: value.detach() for name, value in parts.items()})

    def pair(self, k: int, home: Tensor, away: Tensor) -> dict[str, Tensor]:
        """Losses of the two generators and two discriminators between the reference and condition k.

        Parameters
        ----------
        home, away : Tensor [n, G], [m, G]
            Real cells of the reference and of condition k.
        """
        leave, back = self.leave[str(k)], self.back[str(k)]
        judge_home, judge_away = self.judges[self.origin], self.judges[k]
        assert isinstance(judge_home, Discriminator) and isinstance(judge_away, Discriminator)
        to_away, to_home = leave(home), back(away)
        return {
            "adversarial": _real(judge_away.frozen(to_away)) + _real(judge_home.frozen(to_home)),
            # squared, not absolute as for images: the median of nearly every gene is zero
            "cycle": F.mse_loss(back(to_away), home) + F.mse_loss(leave(to_home), away),
            "identity": F.mse_loss(leave(away), away) + F.mse_loss(back(home), home),
            "judge": 0.5
            * (
                _real(judge_away(away))
                + _real(judge_home(home))
                + _fake(judge_away(to_away.detach()))
                + _fake(judge_home(to_home.detach()))
            ),
        }

    def finish(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Batch normalisation's means and variances anew, of the cells each generator translates.

        In training it also met cells made up or of its own domain; under the mixture's statistics a translation is off.
        Where no batch has two of those cells, training's statistics stay.
        """
        for k in self.others:
            for generator, source in ((self.leave[str(k)], self.origin), (self.back[str(k)], k)):
                cells = (batch.x[batch.condition == source] for batch in batches())
                _normalise_anew(generator, (x for x in cells if len(x) > 1))

    def at_reference(self, batch: Batch) -> Tensor:
        """Every cell as it would be under the reference, [B, G]."""
        return self._translate(batch.x, batch.condition, self.back)

    def encode(self, batch: Batch) -> Latent:
        """What a counterfactual keeps of a cell: its expression under the reference, [B, G], without spread."""
        z = self.at_reference(batch)
        return Latent.without_spread(z)

    def predict(self, z: Tensor, batch: Batch) -> Tensor:
        """Cells [B, G] under the reference, taken to the batch's condition."""
        return self._translate(z, batch.condition, self.leave)

    def embedding(self, batch: Batch) -> Tensor:
        """Bottleneck of the generator that leaves the reference, [B, min(hidden)]: all cells enter it as reference."""
        leave = self.leave[str(self.others[0])]
        assert isinstance(leave, Generator)
        return leave.bottleneck(self.at_reference(batch))

    def counterfactual(self, batch: Batch, to: Target, n_samples: int = 0) -> tuple[Tensor, Tensor | None]:
        """To the reference, and from there to the target; generators draw nothing, so the spread is zero."""
        mean = self.predict(self.at_reference(batch), batch.with_condition(to.codes[0]))
        return mean, torch.zeros_like(mean) if n_samples else None

    def _translate(self, x: Tensor, condition: Tensor, generators: nn.ModuleDict) -> Tensor:
        """Cells by the generator of their condition; those of the reference stay as they are."""
        result = x.clone()
        for k in self.others:
            rows = condition == k
            if bool(rows.any()):
                result[rows] = generators[str(k)](x[rows])
        return result


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
