"""Shuffled batches of cells from disk: cellalign's loader beside scDataset's and annbatch's, on the same file.

    cellalign convert cells.h5ad -o cells.zarr
    python benchmarks/loaders.py cells.h5ad cells.zarr --rival scdataset=PYTHON --rival annbatch=PYTHON

Each epoch runs in a process of its own, with nothing but the loader in it: batches of 512 cells as sparse rows, one sum
of each. Both others read blocks of so many neighbours as ours, and as many cells at once. How well an epoch is shuffled
is the mean entropy of the label within a batch, beside that of all cells: of a file sorted by the label it tells.
PYTHON is an environment with the package; annbatch (Python 3.12 and later) reads zarr alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Batches = Iterator[tuple[np.ndarray, float]]
SIZE, NEIGHBOURS, TOGETHER = 512, 16, 16_384


def cellalign(path: str, seed: int) -> Batches:
    """Ours, as `train --stream` has it."""
    import torch

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import cellalign
    from cellalign.data.loader import Cells, shuffled
    from cellalign.data.source import as_matrix
    from cellalign.methods.base import Fields

    x = cellalign.read(path, stream=True).X
    cells = Cells(as_matrix(x), Fields(()), (), x.shape[0])
    parts = shuffled(torch.arange(len(cells)), SIZE, torch.Generator().manual_seed(seed), *cells.order)
    for rows, batch in zip(parts, cells.batches(parts), strict=True):
        yield rows.numpy(), float(batch.nonzeros.value.sum())


def scdataset(path: str, seed: int) -> Batches:
    """scDataset's, over anndata's matrix on disk."""
    import anndata
    from scdataset import BlockShuffling, MultiIndexable, scDataset

    if path.endswith(".zarr"):
        import zarr

        x: Any = anndata.io.sparse_dataset(zarr.open_group(path, mode="r")["X"])
    else:
        x = anndata.read_h5ad(path, backed="r").X
    cells = scDataset(
        Sized(x),
        BlockShuffling(block_size=NEIGHBOURS),
        batch_size=SIZE,
        fetch_factor=TOGETHER // SIZE,
        fetch_callback=lambda these, rows: MultiIndexable(x=these[rows], rows=np.asarray(rows)),
        seed=seed,
    )
    for batch in cells:
        yield batch["rows"], float(batch["x"].of.sum())


class Sized:
    """Rows of a sparse matrix, on disk or not, and how many there are."""

    def __init__(self, of: Any) -> None:
        self.of = of

    def __len__(self) -> int:
        return self.of.shape[0]

    def __getitem__(self, rows: Any) -> Sized:
        return Sized(self.of[rows])


def annbatch(path: str, seed: int) -> Batches:
    """annbatch's."""
    import anndata
    import zarr
    from annbatch import Loader

    x = anndata.io.sparse_dataset(zarr.open_group(path, mode="r")["X"])
    loader = Loader(
        batch_size=SIZE,
        chunk_size=NEIGHBOURS,
        preload_nchunks=TOGETHER // NEIGHBOURS,
        shuffle=True,
        return_index=True,
        preload_to_gpu=False,
        rng=np.random.default_rng(seed),
    ).add_adata(anndata.AnnData(X=x))
    for batch in loader:
        yield np.asarray(batch["index"]), float(batch["X"].sum())


def one(loader: str, path: str, seed: int) -> dict[str, Any]:
    """An epoch of a loader in this process."""
    batches = {"cellalign": cellalign, "scdataset": scdataset, "annbatch": annbatch}[loader](path, seed)
    first = next(batches)  # with what is imported and opened for it
    began, cpu = time.perf_counter(), time.process_time()
    rows, sums = [first[0]], first[1]
    for own, total in batches:
        rows.append(own)
        sums += total
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    n = sum(map(len, rows))
    assert len(np.unique(np.concatenate(rows))) == n, "a cell came twice"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "cells/s": (n - len(first[0])) / seconds,
        "CPU s": cpu,
        "GiB": peak,
        "rows": [own.tolist() for own in rows],
        "sum": sums,
    }


def entropy(codes: np.ndarray) -> float:
    """Of categories, in nats."""
    shares = np.bincount(codes) / len(codes)
    return float(-sum(p * np.log(p) for p in shares if p))


def run(loader: str, python: str, path: str, seed: int) -> dict[str, Any] | str:
    """The same in a process of its own; the last line of what it said where that failed."""
    words = [python, __file__, path, "--one", loader, "--seeds", str(seed)]
    done = subprocess.run(words, capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else (done.stderr.strip().splitlines() or ["failed"])[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--label", default="cell_type")
    parser.add_argument("--rival", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one, args.files[0], args.seeds[0])))
        return
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from cellalign import read

    print(f"| file | loader | cells/s | CPU s | GiB | entropy of {args.label}, of all |\n|{' --- |' * 6}")
    for path in args.files:
        codes = np.unique(np.asarray(read(path, stream=True).obs[args.label]).astype(str), return_inverse=True)[1]
        found: dict[str, list[dict[str, Any]]] = {}
        for seed in args.seeds:  # in turn, so that a machine whose speed drifts treats all alike
            for name, python in [("cellalign", sys.executable), *(r.split("=", 1) for r in args.rival)]:
                outcome = run(name, python, path, seed)
                if isinstance(outcome, str):
                    print(f"# {name} on {path}: {outcome}", file=sys.stderr)
                else:
                    found.setdefault(name, []).append(outcome)
        for name, runs in found.items():
            mixed = statistics.mean(entropy(codes[rows]) for run in runs for rows in run["rows"]) / entropy(codes)
            speeds = [run["cells/s"] for run in runs]
            spread = f"{statistics.median(speeds):,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f})"
            cpu, peak = statistics.median(run["CPU s"] for run in runs), max(run["GiB"] for run in runs)
            print(f"| {Path(path).name} | {name} | {spread} | {cpu:.1f} | {peak:.2f} | {mixed:.3f} |", flush=True)


if __name__ == "__main__":
    main()
