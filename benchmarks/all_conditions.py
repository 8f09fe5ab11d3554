"""A cell type held out under every condition but the control, and predicted under each: trVAE's figure 5f.

    python benchmarks/all_conditions.py --seeds 3 --csv all.csv

The paper's cells of the gut are not at hand. Simulated are 3,000 cells of five types under three levels of a dose, and
without one; levels are conditions without an order here. Finished rows are kept in the CSV.
"""

from __future__ import annotations

import argparse

import anndata
import numpy as np

import cellalign
from cellalign import simulate
from cellalign.tasks.benchmark_table import printed

CHANGES = ["r_change_all", "r_change_de10", "r_change_de", "r_change_de100"]
METRICS = [*CHANGES, "r2_means", "r2_means_de10", "r2_means_de100", "r2_variances"]


def levels(n_cells: int, n_genes: int) -> anndata.AnnData:
    """Preprocessed cells with obs `level`: none, low, middle, high."""
    made = simulate.ifnb(n_cells, n_genes, n_cell_types=5, doses=True)
    dose = made.obs["dose"].to_numpy(dtype=float)
    top = dose.max()
    names = ["low", "middle", "high"]
    made.obs["level"] = np.select([dose == 0, dose < top / 3, dose < 2 * top / 3], ["none", *names[:2]], names[2])
    return cellalign.preprocess(made, n_top_genes=0)


def main() -> None:
    """Print the table of means over groups and conditions, with standard errors over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["linear", "scgen", "trvae", "comp"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cells", type=int, default=3000)
    parser.add_argument("--genes", type=int, default=600)
    parser.add_argument("--csv", default="all_conditions.csv")
    options = parser.parse_args()
    table = cellalign.benchmark(
        levels(options.cells, options.genes),
        methods=options.methods,
        condition="level",
        control="none",
        label="cell_type",
        holdout_each="cell_type",
        holdout_conditions="all",
        seeds=range(options.seeds),
        results=options.csv,
        progress=print,
    )
    columns, rows = printed(table, METRICS, people=True)
    print("\n| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")


if __name__ == "__main__":
    main()
