"""Does our scVI end where scvi-tools' does? Validation ELBO and scIB scores of both, over seeds, on the same cells.

    python benchmarks/scvi_agreement.py ../shared/data/kang_2k.h5ad --peer /path/to/python-with-scvi-tools

Both train on the same 90 % of the cells with scvi-tools' defaults and are asked for the evidence lower bound of the
same other cells and for the latents of all. Batches are equal, of at most 128 cells: scvi-tools by itself ends every
epoch with a smaller one (of 8, with 1,800 cells), and its scores fall. `--method scanvi` compares scANVI, told the
types of half of the cells. It prints one line per tool and seed.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import anndata
import numpy as np

NO_TYPE = "Unknown"


def prepare(path: Path, n_genes: int) -> anndata.AnnData:
    """Cells by their most variable genes; every tenth is held back, and of half of the others the type is not told."""
    import cellalign

    cells = cellalign.preprocess(anndata.read_h5ad(path), n_top_genes=n_genes)
    order = np.random.default_rng(0).permutation(cells.n_obs)
    cells.obs["held_back"] = order % 10 == 0
    cells.obs["told"] = np.where(order // 10 % 2 == 0, cells.obs["cell_type"].astype(str), NO_TYPE)
    return cells


def ours(cells: anndata.AnnData, method: str, epochs: int, seed: int) -> tuple[np.ndarray, float]:
    """Latents of all cells, and the bound of those held back."""
    import cellalign

    held_back = cells.obs["held_back"].to_numpy()
    label: dict[str, Any] = {"label": "told", "unlabelled": NO_TYPE} if method == "scanvi" else {}
    model = cellalign.train(
        cells[~held_back].copy(),
        method=method,
        batch=["stim"],
        layer="counts",
        epochs=epochs,
        validation=0.0,
        seed=seed,
        **label,
    )
    return model.embed(cells), float(model.nelbo(cells[held_back]).mean())


def theirs(folder: Path, method: str, epochs: int, seed: int) -> None:
    """The same by scvi-tools, in its own environment: what it finds is left in the folder."""
    import scvi

    scvi.settings.seed = seed
    cells = anndata.read_h5ad(folder / "cells.h5ad")
    held_back = cells.obs["held_back"].to_numpy()
    training = cells[~held_back].copy()
    options: dict[str, Any] = {"enable_progress_bar": False, "logger": False, "accelerator": "cpu", "train_size": 1.0}
    options["batch_size"] = math.ceil(len(training) / math.ceil(len(training) / 128))
    if method == "scanvi":
        scvi.model.SCANVI.setup_anndata(
            training, layer="counts", batch_key="stim", labels_key="told", unlabeled_category=NO_TYPE
        )
        model = scvi.model.SCANVI(training)
    else:
        scvi.model.SCVI.setup_anndata(training, layer="counts", batch_key="stim")
        model = scvi.model.SCVI(training)
    model.train(max_epochs=epochs, **options)
    np.save(folder / "z.npy", model.get_latent_representation(cells))
    bound = -float(model.get_elbo(cells[held_back].copy()))
    (folder / "bound.json").write_text(json.dumps(bound))


def main() -> None:
    """Print one line per tool and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--peer", help="a Python with scvi-tools")
    parser.add_argument("--method", choices=["scvi", "scanvi"], default="scvi")
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--theirs", action="store_true", help=argparse.SUPPRESS)  # what the peer is called with
    options = parser.parse_args()
    if options.theirs:
        theirs(options.file, options.method, options.epochs, options.seeds[0])
        return
    from cellalign.evaluation import scib_scores

    cells = prepare(options.file, options.genes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cells.write_h5ad(folder / "cells.h5ad")
        for seed in options.seeds:
            found = {"cellalign": ours(cells, options.method, options.epochs, seed)}
            if options.peer:
                command = [options.peer, __file__, folder, "--theirs", "--method", options.method]
                command += ["--epochs", options.epochs, "--seeds", seed]
                subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
                found["scvi-tools"] = np.load(folder / "z.npy"), json.loads((folder / "bound.json").read_text())
            for tool, (z, bound) in found.items():
                scores = scib_scores(z, cells.obs["stim"].to_numpy(), cells.obs["cell_type"].to_numpy(), seed=seed)
                means = {k: round(scores[k], 3) for k in ("bio conservation", "batch correction", "total")}
                print(json.dumps({"tool": tool, "seed": seed, "negative ELBO": round(bound, 2)} | means), flush=True)


if __name__ == "__main__":
    main()
