"""Embeddings, predictions, likelihoods and attributions in batches, for any method of the capability."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice, repeat
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from cellalign.data.loader import Cells
from cellalign.engine.draws import alike, moved
from cellalign.engine.ranks import current
from cellalign.errors import ModelError
from cellalign.methods.base import (
    Distribution,
    HasLikelihood,
    InfersCondition,
    Labels,
    Method,
    Minibatch,
    Predicts,
)
from cellalign.methods.observed import observed_changes

T = TypeVar("T")


@torch.inference_mode()
def in_batches(
    method: Any, cells: Cells, of: Callable[[Minibatch], Tensor], *, device: torch.device, batch_size: int = 4096
) -> np.ndarray:
    """`of` every batch of cells in file order, float32 [n, ...]; the method is on the device and not in training."""
    method.to(device).eval()
    parts = ({"": of(batch).float().cpu().numpy()} for batch in cells.in_order(batch_size, device))
    return _joined(parts, len(cells))[""]


def _joined(parts: Iterable[Mapping[str, np.ndarray]], n: int) -> dict[str, np.ndarray]:
    """Arrays [n, p] of those of batches [B, p], each written where it belongs as it comes.

    Kept until all are there, the small ones lie in what the large ones of a step have left, and each step takes new
    memory: 1.5 GB of a million cells.
    """
    found: dict[str, np.ndarray] = {}
    first = 0
    for part in parts:
        for key, values in part.items():
            if key not in found:
                found[key] = np.empty((n, *values.shape[1:]), values.dtype)
            found[key][first : first + len(values)] = values
        first += len(next(iter(part.values())))
    return found


def _by_all_ranks(
    cells: Cells, of: Callable[[int, Minibatch], T], *, device: torch.device, batch_size: int
) -> Iterator[T]:
    """`of` the number of every batch and the batch, in file order; ranks take turns, and all get all."""
    parts = (part for _, part in _by_this_rank(cells, of, device=device, batch_size=batch_size))
    ranks = current()
    yield from parts if ranks.alone else ranks.one_after_another(parts, -(-len(cells) // batch_size))


def _by_this_rank(
    cells: Cells, of: Callable[[int, Minibatch], T], *, device: torch.device, batch_size: int, turn: int = 0
) -> Iterator[tuple[int, T]]:
    """The same of the batches that are this rank's, each with the number of its first cell; alone it has all.

    Ranks take turns: the first batch is that of rank `turn`, counted round.
    """
    ranks = current()
    if ranks.alone:
        for number, batch in enumerate(cells.in_order(batch_size, device)):
            yield number * batch_size, of(number, batch)
        return
    numbers = range((ranks.rank - turn) % ranks.world, -(-len(cells) // batch_size), ranks.world)
    starts = torch.tensor([number * batch_size for number in numbers], dtype=torch.int64)
    rows = (starts[:, None] + torch.arange(batch_size)).flatten()
    own = cells.part(rows[rows < len(cells)]).in_order(batch_size, device)
    for number, batch in zip(numbers, own, strict=False):
        yield number * batch_size, of(number, batch)


@torch.inference_mode()
def embeddings(
    method: Method, cells: Cells, *, device: torch.device, draw_seed: int | None = None, batch_size: int = 4096
) -> dict[str, np.ndarray]:
    """All that the method embeds, float32 [n, p] each, by suffix (see `Method.embeddings`), in the cells' order.

    With `draw_seed` one draw of every cell's posterior, by that seed: the same on every device and for every batch
    size. ModelError of a method whose posterior has no spread.
    """
    method = method.to(device).eval()
    noise = None if draw_seed is None else _Noise(draw_seed)

    def of(number: int, batch: Minibatch) -> dict[str, np.ndarray]:
        if noise is None:
            embedded = method.embeddings(batch)
        else:
            embedded = method.parts(_drawn(method, batch, noise, number * batch_size))
        return {key: values.float().cpu().numpy() for key, values in embedded.items()}

    found = _joined(_by_all_ranks(cells, of, device=device, batch_size=batch_size), len(cells))
    for values in found.values():
        check_finite(values, "embeds with")
    return found


class _Noise:
    """Normal noise of the cells in their order, whichever of them are asked for."""

    def __init__(self, seed: int) -> None:
        self.rng, self.cell = np.random.default_rng(seed), 0

    def of(self, first: int, shape: tuple[int, ...]) -> Tensor:
        """Of a run of cells behind those that were asked for before, float32 [B, p]."""
        passed = first - self.cell
        self.cell = first + shape[0]
        if passed:
            self.rng.standard_normal((passed, *shape[1:]), dtype=np.float32)
        return torch.from_numpy(self.rng.standard_normal(shape, dtype=np.float32))


def _drawn(method: Method, batch: Minibatch, noise: _Noise, first: int) -> Tensor:
    """A draw of the posterior of every cell of a batch, [B, p]; `first` is the number of its first."""
    latent = method.encode(batch)
    if not bool((latent.sd > 0).any()):
        raise ModelError(f"method {method.name!r} has no posterior to draw from: its embedding is exact")
    return latent.mean + latent.sd * noise.of(first, tuple(latent.mean.shape)).to(latent.mean.device)


def embed(method: Method, cells: Cells, *, device: torch.device, batch_size: int = 4096) -> np.ndarray:
    """Posterior means float32 [n, p], in the order of the cells."""
    return embeddings(method, cells, device=device, batch_size=batch_size)[""]


@torch.inference_mode()
def label_probability(method: Labels, z: np.ndarray, *, device: torch.device) -> np.ndarray:
    """Probability of each label at embeddings [n, p], float32 [n, labels]."""
    assert isinstance(method, Method)
    method.to(device).eval()
    return method.label_probability(torch.from_numpy(z).to(device)).float().cpu().numpy()


def posterior(
    method: Method, cells: Cells, *, device: torch.device, batch_size: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means and standard deviations float32 [n, p], in the order of the cells."""

    def both(batch: Minibatch) -> Tensor:
        latent = method.encode(batch)
        return torch.stack([latent.mean, latent.sd.expand_as(latent.mean)], 1)

    mean, sd = in_batches(method, cells, both, device=device, batch_size=batch_size).swapaxes(0, 1)
    return mean, sd


def inferred_condition(
    method: InfersCondition, cells: Cells, *, device: torch.device, batch_size: int = 4096
) -> np.ndarray:
    """Probability of each condition for every cell, float32 [n, conditions]."""
    return in_batches(method, cells, method.inferred_condition, device=device, batch_size=batch_size)


def nelbo(
    method: HasLikelihood, cells: Cells, *, device: torch.device, seed: int = 0, batch_size: int = 4096
) -> np.ndarray:
    """Negative ELBO [n] of every cell with one posterior draw."""
    torch.manual_seed(seed)
    return in_batches(method, cells, method.nelbo, device=device, batch_size=batch_size)


def importance_weighted_nll(
    method: HasLikelihood,
    cells: Cells,
    particles: int,
    *,
    device: torch.device,
    seed: int = 0,
    batch_size: int = 256,
) -> np.ndarray:
    """Negative importance-weighted ELBO [n] of every cell; the method bounds what it decodes at once."""
    torch.manual_seed(seed)

    def of(batch: Minibatch) -> Tensor:
        return method.importance_weighted_nll(batch, particles)

    return in_batches(method, cells, of, device=device, batch_size=batch_size)


def predictions(
    method: Predicts, cells: Cells, do: Mapping[str, Any], *, device: torch.device, **how: Any
) -> Iterator[dict[str, np.ndarray]]:
    """Expression of cells under an intervention, batch by batch in the cells' order.

    Parameters
    ----------
    method, cells, do
        What is done to which cells.
    residual : bool
        Residual transfer: the observed cell plus the predicted change, so that it keeps what the model does not
        explain of it; otherwise the decoded mean.
    at_least : float, optional
        Lower values become this: there is no log expression below zero.
    samples : int
        0 predicts from the mean of each cell's posterior; n > 0 averages over n of its draws.
    draws : int
        0 predicts the mean; n > 0 n cells of each, drawn from the prediction.
    drawn : bool
        Beside the mean, one cell drawn from the prediction.
    seed : int
    batch_size : int
    together : sequence of mappings
        Further interventions: what each of them changes from `do` is added up in expression.
    observed : sequence of int
        Codes of conditions whose observed mean changes are added besides (`methods.observed`).

    Yields
    ------
    dict of float32 arrays [B, G]
        "X", and "drawn" where it is asked for; with draws "X" is [draws, B, G]. With samples or draws "sd", the
        standard deviation of a cell's expression under the prediction, where the method has a likelihood; with samples
        "sd_of_mean", the part of it that comes from not knowing a cell's latents.
    """
    of, size = _predicting(method, cells, do, device=device, **how)
    yield from _by_all_ranks(cells, of, device=device, batch_size=size)


def own_predictions(
    method: Predicts, cells: Cells, do: Mapping[str, Any], *, device: torch.device, turn: int = 0, **how: Any
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """The same of the batches that are this rank's, each with the number of its first cell; alone it has all.

    Parameters
    ----------
    turn : int
        The rank whose the first batch is, counted round.
    """
    of, size = _predicting(method, cells, do, device=device, **how)
    yield from _by_this_rank(cells, of, device=device, batch_size=size, turn=turn)


def n_batches(n: int, draws: int = 0, batch_size: int = 4096) -> int:
    """How many batches n cells are predicted in: of equal size, and of fewer cells where each is drawn many times."""
    return max(1, -(-n // max(1, batch_size // max(1, draws))))


def _predicting(
    method: Predicts,
    cells: Cells,
    do: Mapping[str, Any],
    *,
    device: torch.device,
    residual: bool = False,
    at_least: float | None = None,
    samples: int = 0,
    draws: int = 0,
    drawn: bool = False,
    seed: int = 0,
    batch_size: int = 4096,
    together: Sequence[Mapping[str, Any]] = (),
    observed: Sequence[int] = (),
) -> tuple[Callable[[int, Minibatch], dict[str, np.ndarray]], int]:
    """What `predictions` makes of a batch, given its number, and how many cells one has."""
    assert isinstance(method, Method)
    method = method.to(device).eval()
    under = partial(_under, method, do=do, together=together, observed=observed)
    size = max(1, -(-len(cells) // n_batches(len(cells), draws, batch_size)))

    def of(number: int, batch: Minibatch) -> dict[str, np.ndarray]:
        # whoever reads a batch does so under their own random stream and with gradients
        with torch.inference_mode(), torch.random.fork_rng(_gpus(batch)):
            torch.manual_seed(1_000_003 * seed + number)
            # of draws the mean is not asked for, and without samples nothing else needs the cells as they are
            found = _moments(method, batch, under, residual and (samples > 0 or not draws), samples)
            if not (samples or draws):
                found.pop("sd", None)
            if draws:
                others = islice(alike(method, batch) if residual else repeat(batch), draws)
                found["X"] = torch.stack([_draw(method, batch, each, under, residual, at_least) for each in others])
            elif drawn:
                found["drawn"] = under(batch, draw=True).sample()
            if at_least is not None:
                found["X"] = found["X"].clamp(min=at_least)
            arrays = {key: value.float().cpu().numpy() for key, value in found.items()}
        for values in arrays.values():
            check_finite(values, "predicts", number * size)
        return arrays

    return of, size


def check_finite(values: np.ndarray, does: str, first: int = 0) -> None:
    """Refuse what a model makes of cells [..., B, G], of which `first` is the number of the first: ModelError."""
    wrong = ~np.isfinite(values)
    if wrong.any():
        cells = np.flatnonzero(wrong.any(-1).reshape(-1, values.shape[-2]).any(0))
        raise ModelError(
            f"the model {does} NaN or infinite values for {len(cells)} of {values.shape[-2]} cells, the first cell "
            f"{first + cells[0] + 1}; its weights or these cells are out of range: look at the cells, or train again"
        )


def _gpus(batch: Minibatch) -> list[torch.device]:
    """Devices whose random streams a computation on the batch uses, besides the CPU's."""
    return [batch.device] if batch.device.type == "cuda" else []


def _under(
    method: Predicts,
    batch: Minibatch,
    do: Mapping[str, Any],
    together: Sequence[Mapping[str, Any]],
    observed: Sequence[int] = (),
    *,
    draw: bool = False,
) -> Distribution:
    """Expression under an intervention, and all that further ones change from it, at the same draw of the latents."""
    others = []
    for other in together:
        with torch.random.fork_rng(_gpus(batch)):
            others.append(method.predict(batch, other, draw=draw))
    found = method.predict(batch, do, draw=draw)
    if observed:
        assert isinstance(method, Method)
        found = found.shifted(observed_changes(method, batch, observed))
    return found.changed(others) if others else found


def _moments(
    method: Predicts, batch: Minibatch, under: Callable[..., Distribution], residual: bool, samples: int
) -> dict[str, Tensor]:
    """Mean, standard deviation, and with samples the part of it that comes from the latents."""
    n = max(1, samples)
    mean = squares = variance = torch.zeros_like(batch.x)
    for i in range(1, n + 1):  # Welford's update: the draws are never kept
        with torch.random.fork_rng(_gpus(batch)):  # the same draw of the latents for both
            own = method.predict(batch, {}, draw=samples > 0).mean if residual else None
        target = under(batch, draw=samples > 0)
        location = target.mean if own is None else batch.x + (target.mean - own)
        change = location - mean
        mean = mean + change / i
        squares = squares + change * (location - mean)
        variance = variance + target.variance / n
    between = squares / max(n - 1, 1)
    found = {"X": mean}
    if target.has_spread:
        found["sd"] = (variance + between).sqrt()
    return found | ({"sd_of_mean": between.sqrt()} if samples else {})


def _draw(
    method: Predicts,
    batch: Minibatch,
    other: Minibatch,
    under: Callable[..., Distribution],
    residual: bool,
    at_least: float | None,
) -> Tensor:
    """One draw of every cell [B, G].

    From the likelihood, or with residual transfer: the cell, or another that is like it, changed as that is predicted
    to at a draw of its latents. A normal likelihood has one spread for all genes of a cell; real
    cells differ by gene, so what the model leaves unexplained is taken from them. Log expression, of which there is
    nothing below zero, changes by counts (`engine.draws`): the share of zeros moves with the mean, as in real cells.
    """
    if not residual:
        return under(batch, draw=True).sample()
    if at_least != 0:
        return other.x + (under(batch, draw=True).mean - method.predict(other, {}).mean)
    with torch.random.fork_rng(_gpus(batch)):  # the same draw of the latents for both
        before = method.predict(other, {}, draw=True).mean
    return moved(other.x, under(other, draw=True).mean - before)
