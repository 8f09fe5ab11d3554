"""scVI beside scvi-tools on the same cells: cells per second and validation ELBO after the same number of epochs.

    python benchmarks/scvi_speed.py ../shared/data/kang_2k.h5ad --peer /path/to/python-with-scvi-tools

Real counts resampled to 20,000 cells, 2,000 genes, two layers of 128, latent 10, batches of 128. Both run here, one
after the other, with as many threads as they take by themselves; the table's last column is the ratio.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import anndata
import numpy as np

import cellalign
from cellalign.engine.device import own_process

PEER = Path(__file__).resolve().parents[1].parent / "shared" / "bench" / "peer_scvi.py"


def resampled(path: str, n_cells: int, n_genes: int) -> anndata.AnnData:
    """The cells the peer trains on: drawn with replacement by its seed, but for the choice of genes."""
    adata = cellalign.preprocess(anndata.read_h5ad(path), n_top_genes=n_genes)
    made = adata[np.random.default_rng(0).integers(0, adata.n_obs, n_cells)].copy()
    made.obs_names = [f"cell{i}" for i in range(n_cells)]
    return made


def peer(python: str, options: argparse.Namespace, write: Path) -> dict[str, Any]:
    """What scvi-tools does with them."""
    command = [python, PEER, options.file, "--cells", options.cells, "--genes", options.genes, "--write", write]
    command += ["--batch-size", options.batch_size, "--epochs", options.epochs, "--layers", options.layers]
    command += ["--likelihood", options.likelihood]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def ours(adata: anndata.AnnData, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """What cellalign does with the same."""
    settings = {"hidden": (128,) * options.layers, "likelihood": options.likelihood}
    model = cellalign.train(
        adata,
        method="scvi",
        batch=["stim"],
        settings=settings,
        epochs=options.epochs + 1,  # the first one warms up, as in the peer's run
        batch_size=options.batch_size,
        validation=0.0,  # the peer does not look at its validation cells in training either
        layer="counts",
        seed=seed,
    )
    seconds = [row["seconds"] for row in model.history]
    per_epoch = (seconds[-1] - seconds[0]) / options.epochs
    fresh = cellalign.train(
        adata,
        method="scvi",
        batch=["stim"],
        settings=settings,
        epochs=options.epochs,
        batch_size=options.batch_size,
        layer="counts",
        seed=seed,
    )
    started = time.perf_counter()
    fresh.embed(adata)
    embedding = time.perf_counter() - started
    held_back = adata[fresh.validation_rows(adata)]
    return {
        "tool": "cellalign",
        "cells_per_second": round(options.cells / per_epoch),
        "embed_cells_per_second": round(options.cells / embedding),
        "validation_elbo": float(fresh.nelbo(held_back).mean()),
    }


def main() -> None:
    """Print both, and their ratio."""
    own_process()  # as the command line prepares its process: glibc keeps freed memory
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--peer", help="a Python with scvi-tools")
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--likelihood", default="zinb")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shared, theirs = Path(folder) / "cells.h5ad", None
        if options.peer:
            theirs = peer(options.peer, options, shared)
            print(json.dumps(theirs))
        cells = anndata.read_h5ad(shared) if theirs else resampled(options.file, options.cells, options.genes)
    for seed in options.seeds:
        found = ours(cells, options, seed)
        if theirs is not None:
            found["ratio"] = round(found["cells_per_second"] / theirs["cells_per_second"], 2)
        print(json.dumps({"seed": seed} | found), flush=True)


if __name__ == "__main__":
    main()
