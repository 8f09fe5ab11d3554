"""Changes of groups that were held out, by closed forms and by methods, each from halves of its control.

    python benchmarks/closed_forms.py kang_2k.h5ad --label cell_type --each cell_type
    python benchmarks/closed_forms.py two_donors.h5ad --label cell_type --batch donor --each donor

Each value of a column is held out under the other condition; so is one half of its controls, which no method and no
baseline sees: from it the truth is a change, from the other half all predictions start. Scored are the groups (by
label, where there is one) with enough cells, by correlation of the change over 50 DE genes and over all, and squared
error x 1000; a seed draws the halves, and the networks. Baselines: the mean shift, the local shift, and the
change of the same label elsewhere (matched).
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

import cellalign
from cellalign.evaluation.metrics.response import de_genes
from cellalign.group_changes import local_shift

HALF, FEWEST = "unseen_half", 10


def mean(cells: anndata.AnnData) -> np.ndarray:
    """Of the cells, [G]."""
    return np.asarray(cells.X.mean(0), float).ravel()


def dense(cells: anndata.AnnData) -> np.ndarray:
    """Expression, [n, G]."""
    return cells.X.toarray() if sparse.issparse(cells.X) else np.asarray(cells.X)


def group_of(cells: anndata.AnnData, keys: list[str]) -> pd.Series:
    """Values of some columns, joined."""
    return cells.obs[keys].astype(str).agg(" | ".join, axis=1)


def scores(change: np.ndarray, truth: np.ndarray, genes: np.ndarray) -> dict[str, float]:
    """Of one group."""
    return {
        "r_de": float(np.corrcoef(change[genes], truth[genes])[0, 1]) if change[genes].std() else 0.0,
        "r_all": float(np.corrcoef(change, truth)[0, 1]) if change.std() else 0.0,
        "error": float(((change - truth) ** 2).mean() * 1e3),
    }


class Held:
    """Cells of which a value is held out, and what is known of them.

    Attributes
    ----------
    cells : AnnData
        With a column that says which controls nobody sees.
    groups : list of str
        Those that are scored.
    """

    def __init__(self, cells: anndata.AnnData, value: str, seed: int, options: argparse.Namespace) -> None:
        self.options, self.value = options, value
        self.keys = list(dict.fromkeys([*([options.label] if options.label else []), *options.batch, options.each]))
        self.cells = cells.copy()
        self.group = group_of(cells, self.keys)
        self.is_control = (cells.obs[options.condition] == options.control).to_numpy()
        self.held = (cells.obs[options.each].astype(str) == value).to_numpy()
        rng = np.random.default_rng(seed)
        unseen = np.zeros(cells.n_obs, bool)
        self.groups = []
        for name in sorted(set(self.group[self.held])):
            own = (self.group == name).to_numpy()
            control = rng.permutation(np.flatnonzero(own & self.is_control))
            unseen[control[len(control) // 2 :]] = True
            if min(len(control), (own & ~self.is_control).sum()) >= options.min_cells:
                self.groups.append(name)
        self.unseen = unseen
        self.cells.obs[HALF] = np.where(unseen, "yes", "no")

    def of(self, name: str) -> tuple[anndata.AnnData, np.ndarray, np.ndarray]:
        """Controls of a group that are seen, the true change from the others, and the DE genes."""
        own = (self.group == name).to_numpy()
        start, end = (self.cells[own & self.is_control & half] for half in (~self.unseen, self.unseen))
        treated = self.cells[own & ~self.is_control]
        genes = de_genes(dense(self.cells[own & self.is_control]), dense(treated), 50)
        return start, mean(treated) - mean(end), genes

    def known(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Groups that are not held out, their control means and changes."""
        names, controls, changes = [], [], []
        for name in sorted(set(self.group[~self.held])):
            own = (self.group == name).to_numpy()
            if (own & self.is_control).sum() >= FEWEST / 2 and (own & ~self.is_control).sum() >= FEWEST / 2:
                before = mean(self.cells[own & self.is_control])
                names.append(name)
                controls.append(before)
                changes.append(mean(self.cells[own & ~self.is_control]) - before)
        return names, np.array(controls), np.array(changes)

    def baselines(self, name: str) -> dict[str, np.ndarray]:
        """Changes that need no method."""
        names, controls, changes = self.known()
        start, _, _ = self.of(name)
        found = {"mean shift": changes.mean(0), "local shift": local_shift(mean(start), controls, changes)}
        label = name.split(" | ")[0]
        same = [i for i, other in enumerate(names) if other.split(" | ")[0] == label]
        if self.options.label and self.options.each != self.options.label and same:
            found["matched"] = changes[same].mean(0)
        return found

    def trained(self, method: str, seed: int, settings: dict[str, object]) -> cellalign.Model:
        """A method on all that is not held out."""
        o = self.options
        treated = [c for c in self.cells.obs[o.condition].astype(str).unique() if c != o.control]
        held = [f"{o.each}={self.value},{o.condition}={c}" for c in treated] + [f"{HALF}=yes"]
        return cellalign.train(
            self.cells,
            method=method,
            condition=o.condition,
            control=o.control,
            label=o.label,
            batch=o.batch,
            settings=settings,
            holdout=held,
            seed=seed,
            threads=1,
        )


def rows_of(held: Held, seed: int, options: argparse.Namespace) -> list[dict[str, object]]:
    """Scores of baselines and methods on the groups that are held out."""
    rows: list[dict[str, object]] = []

    def noted(by: str, name: str, change: np.ndarray, seconds: float = 0.0) -> None:
        _, truth, genes = held.of(name)
        rows.append(
            {"by": by, "seed": seed, "group": name, "seconds": seconds} | scores(np.asarray(change), truth, genes)
        )

    for name in held.groups:
        for by, change in held.baselines(name).items():
            noted(by, name, change)
    for asked in options.methods:
        method, _, members = asked.partition(":")
        began = time.process_time()
        model = held.trained(method, seed, {"members": members} if members else {})
        seconds = time.process_time() - began
        for name in held.groups:
            start = held.of(name)[0].copy()
            predicted = cellalign.counterfactual(start, model, to=options.to, from_=options.control, threads=1)
            noted(asked, name, np.asarray(predicted.X, float).mean(0) - mean(start), seconds)
    return rows


def table(found: pd.DataFrame) -> str:
    """Means over groups, mean and standard deviation over seeds; and the worst group beside its best baseline."""
    by_seed = found.groupby(["by", "seed"], sort=False)[["r_de", "r_all", "error", "seconds"]].mean()
    each, spread = by_seed.groupby("by", sort=False).mean(), by_seed.groupby("by", sort=False).std(ddof=1).fillna(0)
    wide = found.pivot_table(index=["group", "seed"], columns="by", values="r_de")
    simple = [c for c in ("mean shift", "local shift", "matched") if c in wide]
    best = wide[simple].groupby("group").mean().idxmax(axis=1)
    head = ("", "r, 50 DE genes", "r, all genes", "error x 1000", "CPU s", "worst group beside its best baseline")
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for name, row in each.iterrows():
        sd = spread.loc[name]
        apart = {g: wide.loc[g, name] - wide.loc[g, best[g]] for g in best.index}
        worst = min(apart, key=lambda g: apart[g].mean())
        worst_said = f"{worst} {apart[worst].mean():+.3f} ({apart[worst].std(ddof=1):.3f})"
        lines.append(
            f"| {name} | {row['r_de']:.3f} ({sd['r_de']:.3f}) | {row['r_all']:.3f} ({sd['r_all']:.3f}) "
            f"| {row['error']:.2f} ({sd['error']:.2f}) | {row['seconds']:.0f} | {worst_said} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table; rows go to a CSV, from which a second run goes on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--condition", default="stim")
    parser.add_argument("--control", default="control")
    parser.add_argument("--to", default="stimulated")
    parser.add_argument("--label")
    parser.add_argument("--batch", nargs="*", default=[])
    parser.add_argument("--each", required=True, help="column whose values are held out in turn")
    parser.add_argument("--methods", nargs="*", default=["local", "lemur", "auto"], help="auto:local,scgen has members")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--min-cells", type=int, default=FEWEST)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    logging.getLogger("cellalign").setLevel(logging.WARNING)
    cells = anndata.read_h5ad(options.file)
    if np.allclose(cells.X[:50].sum(1) % 1, 0):
        cells = cellalign.preprocess(cells, n_top_genes=options.genes)
    rows: list[dict[str, object]] = []
    if options.csv and options.csv.is_file():
        rows = pd.read_csv(options.csv).to_dict("records")
    done = {(row["seed"], row["value"]) for row in rows}
    for seed in options.seeds:
        for value in sorted(set(cells.obs[options.each].astype(str))):
            if (seed, value) in done:
                continue
            held = Held(cells, value, seed, options)
            if held.groups:
                rows += [row | {"value": value} for row in rows_of(held, seed, options)]
                if options.csv:
                    pd.DataFrame(rows).to_csv(options.csv, index=False)
    print(table(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()
