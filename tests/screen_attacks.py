"""What gets good scores of a screen without a prediction of it: each starts from the mean response.

A screen is of several perturbations that share control cells, or of one stimulus to several cell types with control
cells of their own. Its cells are dense counts; what is predicted is written as counts or as log1p of 10,000 a cell.
An attack is given the screen, its mean response (`start`) and random numbers, and returns its own cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from cellalign.records import Counterfactual, Provenance
from cellalign.records.provenance import Target

GENES, GROUPS, CELLS, CONTROLS = 150, 8, 60, 120
TOTAL = 1e4


@dataclass(frozen=True)
class Made:
    """A screen whose answer is known: of each group counts [n, G], and the control cells it shares or has by itself."""

    real: dict[str, np.ndarray]
    control: dict[str, np.ndarray]
    of_types: bool

    @property
    def own(self) -> dict[str, np.ndarray]:
        """How far each group's control lies from that of the others, as log fold change [G]: its noise too."""
        levels = {name: level(x) for name, x in self.control.items()}
        return {name: levels[name] - np.mean([v for k, v in levels.items() if k != name], 0) for name in levels}


@dataclass(frozen=True)
class Predicted:
    """Cells of each group, expected counts [n, G], the control cells they are of, and what a file says of these."""

    x: dict[str, np.ndarray]
    of: dict[str, np.ndarray]
    source: dict[str, np.ndarray]
    known: bool = True  # whether they bear the names of what they were predicted from
    more: dict[str, np.ndarray] = field(default_factory=dict)  # cells that it says are of the control

    def each(self, change: Callable[[str, np.ndarray], np.ndarray]) -> Predicted:
        return replace(self, x={name: change(name, x) for name, x in self.x.items()})


def made(seed: int, of_types: bool) -> Made:
    """Groups share a part of their change, and each has one of its own."""
    rng = np.random.default_rng(seed)
    base, shared = rng.gamma(1, 6, GENES) + 0.5, rng.normal(0, 0.4, GENES) * (rng.random(GENES) < 0.4)

    def cells(rate: np.ndarray, n: int) -> np.ndarray:
        scatter = rng.gamma(4, 1 / 4, (n, GENES)) * rng.gamma(10, 1 / 10, (n, 1))
        return rng.poisson(rate * scatter).astype(float)

    common, real, control = cells(base, CONTROLS), {}, {}
    for i in range(GROUPS):
        mine = base * np.exp(rng.normal(0, 0.2, GENES)) if of_types else base
        change = shared + rng.normal(0, 0.5, GENES) * (rng.random(GENES) < 0.4)
        control[f"p{i}"] = cells(mine, CELLS) if of_types else common
        real[f"p{i}"] = cells(mine * np.exp(change), CELLS)
    return Made(real, control, of_types)


def level(x: np.ndarray) -> np.ndarray:
    """Profile [G] of some cells."""
    return np.log1p(5e4 * x.sum(0) / x.sum())


def start(screen: Made) -> Predicted:
    """Control cells that all change as the groups do on average."""
    change = np.mean([level(screen.real[name]) - level(screen.control[name]) for name in screen.real], 0)
    x = {name: c * np.exp(change) for name, c in screen.control.items()}
    of = {name: np.arange(len(c)) for name, c in screen.control.items()}
    return Predicted(x, of, dict(screen.control))


def mean_response(screen, cells, rng):
    return cells


def control_pasted(screen, cells, rng):
    return cells.each(lambda name, x: screen.control[name])


def mean_pasted(screen, cells, rng):
    """Every cell is the mean, of no scatter."""
    return cells.each(lambda name, x: np.repeat(x.mean(0)[None], len(x), 0))


def inflated(screen, cells, rng):
    return replace(cells.each(lambda name, x: x * rng.gamma(0.3, 1 / 0.3, x.shape)), known=False)


def inflated_in_pairs(screen, cells, rng):
    """Cells that scatter, and their sum does not: noise is claimed that the prediction has not."""

    def spread(name, x):
        off = rng.random((len(x) // 2, x.shape[1])) < 0.5
        off = np.concatenate([off, ~off])
        return x.mean(0) * np.where(off, 1.9, 0.1)

    return replace(cells.each(spread), known=False)


def tiled(screen, cells, rng):
    def five(of):
        return {name: np.concatenate([each] * 5) for name, each in of.items()}

    return replace(cells, x=five(cells.x), of=five(cells.of), source=five(cells.source))


def tiled_strangers(screen, cells, rng):
    return replace(tiled(screen, cells, rng), known=False)


def permuted(screen, cells, rng):
    """Real cells under names at random: their mean is the mean response."""
    every = rng.permutation(np.concatenate(list(screen.real.values())))
    parts = np.array_split(every, len(screen.real))
    x = dict(zip(screen.real, parts, strict=True))
    return Predicted(x, {n: np.zeros(len(v), int) for n, v in x.items()}, {n: 0 * v + 1 for n, v in x.items()}, False)


def twisted_controls(screen, cells, rng):
    """Cells it says it was predicted from lie off by what the control deviates by."""
    source = {name: x * np.exp(0.4 * screen.own[name]) for name, x in cells.source.items()}
    more = {name: x * np.exp(screen.own[name]) for name, x in cells.source.items()}
    return replace(cells, source=source, more=more)


def twisted_strangers(screen, cells, rng):
    return replace(twisted_controls(screen, cells, rng), known=False)


def absolute(screen, cells, rng):
    def up(name, x):
        fold = x.sum(0) / np.maximum(screen.control[name].sum(0), 1)
        return screen.control[name] * np.maximum(fold, 1 / np.maximum(fold, 1e-9))

    return cells.each(up)


def leaning(screen, cells, rng):
    return cells.each(lambda name, x: x * np.exp(-0.4 * screen.own[name]))


def leaning_strangers(screen, cells, rng):
    return replace(leaning(screen, cells, rng), known=False)


ATTACKS = [
    mean_response,
    control_pasted,
    mean_pasted,
    inflated,
    inflated_in_pairs,
    tiled,
    tiled_strangers,
    permuted,
    twisted_controls,
    twisted_strangers,
    absolute,
    leaning,
    leaning_strangers,
]


def written(x: np.ndarray, log: bool, rng: np.random.Generator) -> np.ndarray:
    """Expected counts as a file has them: counts by chance rounded up or down, or log expression."""
    if log:
        return np.log1p(TOTAL * x / np.maximum(x.sum(1, keepdims=True), 1e-9)).astype(np.float32)
    return np.floor(x + rng.random(x.shape)).astype(np.float32)


def files(screen: Made, cells: Predicted, log: bool, rng: np.random.Generator) -> tuple[ad.AnnData, ad.AnnData]:
    """The prediction, as cellalign writes it, and the real cells."""
    kind = "kind" if screen.of_types else "target"
    to = "stim" if screen.of_types else None

    def frame(parts: list) -> tuple[np.ndarray, pd.DataFrame]:
        obs = pd.concat([pd.DataFrame({**more, "cell": names}) for _, names, more in parts], ignore_index=True)
        x = np.concatenate([x for x, *_ in parts])
        return x, obs

    parts, sources, real = [], [], []
    for i, name in enumerate(screen.real):
        control = [f"ctrl{i if screen.of_types else 0}-{j}" for j in range(len(screen.control[name]))]
        under, above = ({"stim": "ctrl", kind: name}, {"stim": "stim", kind: name})
        if not screen.of_types:
            under, above = {kind: "ctrl"}, {kind: name}
        if screen.of_types or not i:
            real.append((screen.control[name], control, under))
        real.append((screen.real[name], [f"{name}-{j}" for j in range(len(screen.real[name]))], above))
        names = np.array(control)[cells.of[name]] if cells.known else [f"x{i}-{j}" for j in range(len(cells.x[name]))]
        parts.append((cells.x[name], names, above))
        sources.append(cells.source[name])
        if name in cells.more:
            parts.append((cells.more[name], [f"more{i}-{j}" for j in range(len(cells.more[name]))], under))
            sources.append(cells.more[name])
    genes = pd.DataFrame(index=[f"g{i}" for i in range(GENES)])
    x, obs = frame(real)
    x = written(x, log, rng) if log else x.astype(np.float32)
    against = ad.AnnData(sparse.csr_matrix(x), obs=obs.set_index("cell"), var=genes)
    x, obs = frame(parts)
    obs.index = [f"row{i}" for i in range(len(obs))]
    predicted = ad.AnnData(sparse.csr_matrix(written(x, log, rng)), obs=obs, var=genes)
    predicted.layers["source"] = sparse.csr_matrix(written(np.concatenate(sources), log, rng))
    asked = {"method": "cvae", "from_": "ctrl", "expression": "log" if log else "counts", "source": "cell"}
    if to is None:
        targets = tuple(Target(to=name, from_="ctrl", changes={kind: name}) for name in screen.real)
        record = Counterfactual(condition=kind, to="all", targets=targets, **asked)
    else:
        record = Counterfactual(condition="stim", to=to, **asked)
    predicted.uns["cellalign"] = Provenance().with_steps(record).plain()
    return predicted, against
