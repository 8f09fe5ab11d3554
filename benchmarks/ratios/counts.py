"""scVI and scANVI beside scvi-tools, and beside a bare MLP of the same layers: cells per second, epoch by epoch.

The engine calls its progress between two epochs; there the other side has its turn, so that both have the machine to
themselves, in turn, and the figure is that of whole epochs as the engine runs them.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import IO, Any

import anndata
import numpy as np
import torch
from scvi_speed import resampled  # the script beside bench.py
from torch import Tensor, nn

import cellalign
from ratios.measured import Measured, Run, compared

PEER = Path(__file__).resolve().with_name("peer.py")
CELLS, GENES, HIDDEN, LATENT, DROPOUT, NO_TYPE = 20_000, 2_000, 128, 10, 0.1, "Unknown"


@cache
def _cells(path: Path, n: int) -> anndata.AnnData:
    """Resampled real cells; of half of them the type is told."""
    cells = resampled(str(path), n, GENES)
    told = np.random.default_rng(1).random(n) < 0.5
    cells.obs["told"] = np.where(told, cells.obs["cell_type"].astype(str), NO_TYPE)
    return cells


class _Turns:
    """Progress of a training that lets the other side run an epoch after each of its own."""

    def __init__(self, other: Callable[[], float]) -> None:
        self.other, self.started = other, time.perf_counter()
        self.pairs: list[tuple[float, float]] = []

    def update(self, epoch: int, epochs: int, row: dict[str, float]) -> None:
        """Note the seconds of both."""
        ours = time.perf_counter() - self.started
        self.pairs.append((ours, self.other()))
        self.started = time.perf_counter()


def _in_turn(
    cells: anndata.AnnData, other: Callable[[], float], epochs: int, method: str, batch_size: int, precision: Any
) -> list[tuple[float, float]]:
    """Cells per second of a method and of the other side in every epoch but the first, which warms up."""
    turns = _Turns(other)
    labels: dict[str, Any] = {"label": "told", "unlabelled": NO_TYPE} if method == "scanvi" else {}
    cellalign.train(
        cells,
        method=method,
        batch=["stim"],
        settings={"hidden": (HIDDEN, HIDDEN), "likelihood": "zinb"},
        epochs=epochs + 1,
        batch_size=batch_size,
        validation=0.0,
        layer="counts",
        precision=precision,
        progress=turns,
        **labels,
    )
    return [(cells.n_obs / ours, cells.n_obs / theirs) for ours, theirs in turns.pairs[1:]]


def _per_second(value: float) -> str:
    return f"{value:,.0f} cells/s"


# scvi-tools


class _Peer:
    """A process of another Python that trains an epoch whenever it is asked to."""

    def __init__(self, run: Run, cells: anndata.AnnData, epochs: int, method: str, batch_size: int) -> None:
        file = run.folder / f"cells-{cells.n_obs}.h5ad"
        if not file.exists():
            cells.write_h5ad(file)
        command = [run.peer, PEER, file, "--method", method, "--batch-size", batch_size, "--epochs", epochs]
        command += ["--hidden", HIDDEN, "--latent", LATENT, "--no-type", NO_TYPE]
        # its own packages, and not this one's
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.complaints = (run.folder / "peer.log").open("w+")
        self.process = subprocess.Popen(
            list(map(str, command)), env=environment, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.complaints,
        )  # fmt: skip
        self.name = self.answer()

    def answer(self) -> Any:
        """Its next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.complaints.seek(0)
            raise RuntimeError(f"scvi-tools ended: {self.complaints.read().strip()[-2000:]}")
        return json.loads(line)

    def epoch(self) -> float:
        """Seconds of its next epoch."""
        stdin: IO[str] | None = self.process.stdin
        assert stdin is not None
        stdin.write("go\n")
        return self.answer()

    def __enter__(self) -> _Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.complaints.close()


def scvi_tools(run: Run, method: str, batch_size: int, precision: str) -> Measured:
    """Cells per second of a method beside those of scvi-tools' on the same cells, as many threads as each takes."""
    assert run.data is not None
    cells, rounds = _cells(run.data, 2_000 if run.quick else CELLS), run.rounds(6)
    with _Peer(run, cells, rounds + 1, method, batch_size) as peer:
        pairs = _in_turn(cells, peer.epoch, rounds, method, batch_size, precision)
        return compared(pairs, _per_second, named=f"{peer.name}, {'SCANVI' if method == 'scanvi' else 'SCVI'}")


# A bare MLP


class _Bare(nn.Module):
    """The linear layers, norms and activations of scvi with ZINB, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*self.block(GENES, DROPOUT), *self.block(HIDDEN, DROPOUT))
        self.to_mean, self.to_variance = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)
        self.decoder = nn.Sequential(*self.block(LATENT, 0.0), *self.block(HIDDEN, 0.0))
        self.to_rho, self.to_dropout = nn.Linear(HIDDEN, GENES), nn.Linear(HIDDEN, GENES)

    @staticmethod
    def block(n_in: int, dropout: float) -> list[nn.Module]:
        """A hidden layer."""
        layers: list[nn.Module] = [nn.Linear(n_in, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU()]
        return [*layers, nn.Dropout(dropout)] if dropout else layers

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, 2000] -> both outputs [B, 2000]; the latents are the sum of both heads, so that both learn."""
        h = self.encoder(x)
        h = self.decoder(self.to_mean(h) + self.to_variance(h))
        return self.to_rho(h), self.to_dropout(h)


class _BareTraining:
    """Epochs of the bare MLP on dense cells in memory."""

    def __init__(self, x: Tensor, batch_size: int, precision: str) -> None:
        self.x, self.batch_size, self.rounded = x, batch_size, precision == "bfloat16"
        self.network = _Bare().train()
        self.optimiser = torch.optim.AdamW(self.network.parameters(), fused=True)

    def epoch(self) -> float:
        """Seconds of one."""
        started = time.perf_counter()
        for rows in torch.randperm(len(self.x)).split(self.batch_size):
            with torch.autocast("cpu", torch.bfloat16) if self.rounded else nullcontext():
                rho, dropout = self.network(self.x[rows])
            loss = rho.square().mean() + dropout.square().mean()
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
        return time.perf_counter() - started


def bare_mlp(run: Run, batch_size: int, precision: str) -> Measured:
    """Cells per second of scvi beside those of its layers alone, in the same precision."""
    assert run.data is not None
    cells = _cells(run.data, 2_000 if run.quick else CELLS)
    x = torch.from_numpy(cells.layers["counts"].astype(np.float32).toarray()).log1p_()
    bare = _BareTraining(x, batch_size, precision)
    pairs = _in_turn(cells, bare.epoch, run.rounds(10), "scvi", batch_size, precision)
    return compared(pairs, _per_second)
