"""Gene sets of other cells in a real screen's latents: does the interferon pathway move interferon genes?

    python benchmarks/gene_sets.py papalexi_thp1.h5ad kang_2k.h5ad --seeds 0 1 2

Sets are made from blood cells of another study (Kang et al. 2018): genes that rise under interferon beta within
its large cell types, and markers of each type among control cells (the genes of most significant Wilcoxon test). They
are written as GMT, and `targets --gene-sets` tests them in what `svae+` learned of a CRISPR screen of THP-1 cells.
Without interferon's receptor or what it signals by, cells of the screen do not answer to interferon gamma.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy.stats import chi2, false_discovery_control, mannwhitneyu
from screen import CONDITION, PATHWAY

import cellalign

LARGE, SIZE = ("B", "CD14 Mono", "CD4 T", "CD8 T", "NK"), 60


def rises(x: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """One-sided p [G] of genes that are higher after."""
    p = np.ones(x.shape[1])
    there = np.flatnonzero((x[before] > 0).any(0) | (x[after] > 0).any(0))
    p[there] = mannwhitneyu(x[after][:, there], x[before][:, there], alternative="greater").pvalue
    return p


def sets_of(cells: ad.AnnData, known: set[str]) -> dict[str, list[str]]:
    """Interferon genes and markers, among genes that the screen has too."""
    cells = cells[:, cells.var_names.isin(known)]
    x = np.asarray(cells.X.toarray())
    stimulated = (cells.obs["stim"] == "stimulated").to_numpy()
    kinds = cells.obs["cell_type"].astype(str).to_numpy()
    each = np.array([rises(x[kinds == k], ~stimulated[kinds == k], stimulated[kinds == k]) for k in LARGE])
    over_all = chi2.sf(-2 * np.log(each.clip(min=1e-300)).sum(0), 2 * len(LARGE))  # Fisher's
    found = {"rises under interferon beta": cells.var_names[false_discovery_control(over_all) < 0.01].tolist()}
    for kind in LARGE:
        p = rises(x[~stimulated], (kinds != kind)[~stimulated], (kinds == kind)[~stimulated])
        found[f"marker of {kind}"] = cells.var_names[np.argsort(p)[:SIZE][np.sort(p)[:SIZE] < 1e-4]].tolist()
    return found


def main() -> None:
    """Print the sets, and what is enriched at q <= 0.05 in the latents that a target has an edge to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("screen")
    parser.add_argument("blood")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--gmt", type=Path, default=Path("blood.gmt"))
    options = parser.parse_args()
    screen = cellalign.preprocess(ad.read_h5ad(options.screen), n_top_genes=0)
    sets = sets_of(cellalign.preprocess(ad.read_h5ad(options.blood), n_top_genes=0), set(screen.var_names))
    options.gmt.write_text("".join("\t".join([name, "", *genes]) + "\n" for name, genes in sets.items()))
    print({name: len(genes) for name, genes in sets.items()}, flush=True)
    tables = []
    for seed in options.seeds:
        model = cellalign.train(screen, method="svae+", condition=CONDITION, latent_dim=10, seed=seed)
        graph = cellalign.targets(model, screen, gene_sets=options.gmt)
        opened = {
            latent: set(graph.obs_names[np.asarray(graph.layers["probability"])[:, i] >= 0.5])
            for i, latent in enumerate(graph.var_names)
        }
        found = graph.uns["enrichment"].assign(seed=seed)
        found["targets"] = ["+".join(sorted(opened[str(latent)])) or "-" for latent in found["latent"]]
        tables.append(
            found[(found["q"] <= 0.05) & (found["targets"] != "-") | (found["targets"] == "+".join(sorted(PATHWAY)))]
        )
        print(f"# seed {seed} done", flush=True)
    shown = ["seed", "targets", "gene_set", "in_model", "moved", "overlap", "odds_ratio", "p", "q", "direction"]
    print(pd.concat(tables)[shown].sort_values(["seed", "targets", "p"]).to_string(index=False))


if __name__ == "__main__":
    main()
