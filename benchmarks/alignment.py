"""The comparison of the CoMP and trVAE papers on 2,000 real cells: mixing, cell types and response of every method.

    python benchmarks/alignment.py kang_2k.h5ad --csv alignment.csv

Beside each method stand the authors' code on the same cells (one seed) and the published kBET and m-kBET on all
13,576 cells. Finished rows are kept in the CSV: a second run goes on from it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import anndata
import pandas as pd
from response import run

import cellalign

METHODS = ["pca", "vae", "cvae", "vfae", "trvae", "comp", "scgen", "mmd-ae", "stgan", "celligner", "linear"]
SHARED = Path(__file__).resolve().parents[1].parent / "shared"
AUTHORS = {
    "kBET": "kbet",
    "s": "s",
    "m-kBET": "m_kbet",
    "cell type 15-NN": "label_acc",
    "r_all": "r_all",
    "r_de": "r_de",
}


def beside() -> pd.DataFrame:
    """The authors' code on these cells, and the published figures, where they lie."""
    rows = {}
    bench, published = SHARED / "bench" / "authors_kang_2k.json", SHARED / "published" / "comp_pbmc_kbet.csv"
    if bench.is_file():
        for found in json.loads(bench.read_text())["results"]:
            rows[f"authors' {found['method']}"] = {ours: found.get(theirs) for ours, theirs in AUTHORS.items()}
    if published.is_file():
        for _, found in pd.read_csv(published).iterrows():
            rows[f"published {found['model']}"] = {"kBET": found["kbet"], "m-kBET": found["m_kbet"]}
    return pd.DataFrame(rows).T


def main() -> None:
    """Print mean and standard deviation over seeds, then what they stand beside."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--min-cells", type=int, default=150)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--csv", type=Path, default=Path("alignment.csv"))
    options = parser.parse_args()
    cells = cellalign.preprocess(anndata.read_h5ad(options.file), n_top_genes=options.genes)
    done = pd.read_csv(options.csv) if options.csv.is_file() else pd.DataFrame(columns=["method", "seed"])
    for method in options.methods:
        for seed in options.seeds:
            if ((done["method"] == method) & (done["seed"] == seed)).any():
                continue
            options.method = method
            row = pd.DataFrame([{"method": method, "seed": seed} | run(cells, seed, options)])
            done = row if done.empty else pd.concat([done, row], ignore_index=True)
            done.to_csv(options.csv, index=False)
            print(row.round(4).to_string(index=False, header=len(done) == 1), flush=True)
    ours = done[done["method"].isin(options.methods)].drop(columns="seed").groupby("method", sort=False)
    mean, spread = ours.mean().map("{:.3f}".format), ours.std().map("({:.3f})".format)
    print("\nmean (sd over seeds)\n" + (mean + " " + spread).to_string())
    others = beside()
    if len(others):
        print("\n" + others.to_string(na_rep="-", float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
