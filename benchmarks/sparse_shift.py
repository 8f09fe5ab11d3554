"""The simulation tables of the sVAE+ paper (table 1; table 5 by latent dimensions), beside the published numbers.

    python benchmarks/sparse_shift.py                          # table 1: five methods, 15 latents, three seeds
    python benchmarks/sparse_shift.py --variant code           # data as the authors' code makes it
    python benchmarks/sparse_shift.py --methods svae+ --latents 5 10 15 20

100 interventions of 500 cells, 80 trained on; latents scored on the trained cells (Pearson and Spearman MCC, R^2),
the graph of the trained interventions under the matching of absolute and of signed correlations, and the
interventional NLL of the other 20 after transfer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import cellalign
from cellalign import simulate
from cellalign.tasks.options import key_values

# networks and plan are the same for all; vae alone has other defaults
SAME = {"latent_dim": 15, "hidden": [128, 128], "negative_slope": 0.0, "likelihood": "nb", "lr": 4e-3}
NAMES = {"vae": "VAE", "beta-vae": "beta-VAE", "ivae": "iVAE", "svae": "sVAE", "svae+": "sVAE+"}
PUBLISHED = Path(__file__).resolve().parents[1].parent / "shared" / "published"


def run(method: str, latents: int, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """One method on one simulated data set."""
    cells = simulate.sparse_shift(n_latent=latents, variant=options.variant, seed=seed)
    train = cells[cells.obs["split"] == "train"].copy()
    heldout = cells[cells.obs["split"] == "heldout"].copy()
    settings = (SAME if method == "vae" else {}) | {"latent_dim": latents} | key_values(options.set)
    conditional = method not in ("vae", "beta-vae")
    key = "perturbation" if conditional else None
    model = cellalign.train(train, method=method, condition=key, settings=settings, seed=seed)
    cellalign.embed(train, model)
    scored = cellalign.evaluate(train, condition="perturbation", model=model, panels=["identifiability"])
    wider = cellalign.transfer(heldout, model) if conditional else model
    result = {row.system + " " + row.metric: row.value for row in scored.rows}
    if options.particles:
        result["interventional nll"] = float(wider.nll(heldout, particles=options.particles).mean())
    return result | {"seconds": model.record.outcome.seconds}


def main() -> None:
    """Print a row per method and number of latents: mean and standard deviation over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(NAMES))
    parser.add_argument("--latents", type=int, nargs="+", default=[15])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variant", default="text")
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    for latents in options.latents:
        for method in options.methods:
            runs = pd.DataFrame([run(method, latents, seed, options) for seed in options.seeds])
            print(f"\n{NAMES[method]}, {latents} latents, {options.variant} {' '.join(options.set)}")
            print(runs.round(3).to_string(index=False))
            mean, sd = runs.mean(), runs.std(ddof=0)
            print("mean (sd): " + ", ".join(f"{k} {mean[k]:.3f} ({sd[k]:.3f})" for k in runs), flush=True)
    for name in ("svae_simulation_d15.csv", "svae_mcc_by_latent_dim.csv"):
        if (PUBLISHED / name).is_file():
            print(f"\npublished ({name}):\n{pd.read_csv(PUBLISHED / name).replace(np.nan, '').to_string(index=False)}")
    print(f"{torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
