"""New cells on an old model: raw counts of cells that it never saw, by one command's function each.

    python benchmarks/new_cells.py kang_2k.h5ad --splits 0 1 2

500 cells are held back before anything is done, and their genes shuffled. A model is trained on the raw counts of the
rest. Latents of the new cells from their raw counts stand beside those of all cells preprocessed together; accuracy of
their annotation with all genes, with a tenth of the model's genes missing, at half the depth, and normalised to another
total stands beside that of cells preprocessed along.
"""

from __future__ import annotations

import argparse
import logging

import anndata
import numpy as np
import pandas as pd
import torch
from scipy import sparse

import cellalign
from cellalign.engine.device import own_process

HELD_BACK = 500


def variants(new: anndata.AnnData, genes: list[str], rng: np.random.Generator) -> dict[str, anndata.AnnData]:
    """The new cells as other laboratories would have them."""
    lost = rng.choice(genes, len(genes) // 10, replace=False)
    half = new.copy()
    half.X = sparse.csr_matrix(half.X)
    half.X.data = rng.binomial(half.X.data.astype(int), 0.5).astype(np.float32)
    log = cellalign.preprocess(new, n_top_genes=0, target_sum=1e4)
    del log.layers["counts"], log.uns["cellalign"]
    return {
        "raw": new,
        "a tenth lost": new[:, ~new.var_names.isin(lost)].copy(),
        "half depth": half,
        "log at 10,000": log,
    }


def run(cells: anndata.AnnData, seed: int, method: str, epochs: int | None) -> dict[str, float]:
    """Differences of latents, and accuracies, of one split."""
    rng = np.random.default_rng(seed)
    held = np.zeros(cells.n_obs, dtype=bool)
    held[rng.permutation(cells.n_obs)[:HELD_BACK]] = True
    old = cells[~held].copy()
    new = cells[held][:, rng.permutation(cells.n_vars)].copy()
    model = cellalign.train(old, method=method, condition="stim", seed=seed, epochs=epochs)
    assert model.target_sum is not None
    along = cellalign.preprocess(cells, n_top_genes=0, target_sum=model.target_sum)[new.obs_names].copy()
    latents = model.embed(along)
    predicted = model.counterfactual(new, to="stimulated").X
    found = {
        "latents differ": float(np.abs(model.embed(new) - latents).max()),
        "latents sd": float(latents.std()),
        "predictions differ": float(np.abs(predicted - model.counterfactual(along, to="stimulated").X).max()),
    }
    for name, asked in {"along": along, **variants(new, model.genes, rng)}.items():
        table = cellalign.annotate(asked, model, reference=old, label="cell_type", missing_genes="zero", seed=seed)
        right = table["cell_type_predicted"].astype(str).to_numpy() == asked.obs["cell_type"].astype(str).to_numpy()
        found[f"accuracy {name}"] = float(right.mean())
    return found


def main() -> None:
    """Print every split, and their mean."""
    own_process()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--splits", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--method", default="comp")
    parser.add_argument("--epochs", type=int)
    options = parser.parse_args()
    logging.getLogger("cellalign").setLevel(logging.ERROR)
    cells = anndata.read_h5ad(options.file)
    table = pd.DataFrame({seed: run(cells, seed, options.method, options.epochs) for seed in options.splits})
    table["mean"] = table.mean(axis=1)
    print(f"{options.method}, {torch.get_num_threads()} threads\n" + table.to_string(float_format="{:.4g}".format))


if __name__ == "__main__":
    main()
