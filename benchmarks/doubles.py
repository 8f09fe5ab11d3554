"""Two genes at once, from what each does by itself: every method's additive rules beside that of the observed means.

    python benchmarks/doubles.py perturbench_devel.h5ad                      # all methods, seeds 0, 1, 2
    python benchmarks/doubles.py perturbench_devel.h5ad --methods comp,svae+ --seeds 0 -o doubles.csv

Norman et al. 2019, K562: the five doubles whose single perturbations are there too are held out of training, all at
once, and predicted from the control cells. Figures are correlations of the change from control over all genes, by
`--combine expression` and, where a method has a rule of its own, `--combine latent`. The first columns take the
observed change from all control cells, as the additive rule's published figures do; the last, mean over doubles, takes
prediction and truth from two halves of them, five times (the noise of one control correlates everything).

Beside them, of the observed cells: the additive rule (control + the changes of both singles), with its error, the
standard deviation when cells are drawn anew; and half of the double's cells against the other half.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import anndata as ad
import numpy as np
import pandas as pd

import cellalign
from cellalign.methods.observed import rules
from cellalign.methods.registry import get

CONDITION, CONTROL = "perturbation", "control"
DOUBLES = ["KLF1+MAP2K6", "KLF1+TGFBR2", "MAPK1+TGFBR2", "MAP2K3+MAP2K6", "MAP2K3+SLC38A2"]
METHODS = ["linear", "celligner", "scgen", "cvae", "vfae", "trvae", "comp", "mmd-ae", "ivae", "svae", "svae+"]
HALVES = "own halves"
SPLITS, DRAWS = 5, 200


def norman(path: str) -> ad.AnnData:
    cells = ad.read_h5ad(path)
    cells = cells[(cells.obs["dataset"] == "norman19") & (cells.obs["cell_type"] == "k562")].copy()
    cells.obs[CONDITION] = cells.obs[CONDITION].cat.remove_unused_categories()
    return cells


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) > 0 else 0.0  # no change tells nothing of one


class Real:
    """The observed cells of every condition, and halves of the control."""

    def __init__(self, cells: ad.AnnData) -> None:
        x, under = np.asarray(cells.X.toarray(), dtype=np.float64), cells.obs[CONDITION].astype(str).to_numpy()
        self.of = {name: x[under == name] for name in np.unique(under)}
        self.control = self.of[CONTROL]
        rng = np.random.default_rng(0)
        self.halves = [np.array_split(rng.permutation(len(self.control)), 2) for _ in range(SPLITS)]

    def scores(self, changes: dict[str, np.ndarray]) -> dict[str, float]:
        """Of predicted changes of every control cell [n, G], by double; and from halves."""
        found, halves = {}, []
        for double, change in changes.items():
            true = self.of[double].mean(0)
            found[double] = pearson(change.mean(0), true - self.control.mean(0))
            halves += [pearson(change[a].mean(0), true - self.control[b].mean(0)) for a, b in self.halves]
        return found | {HALVES: float(np.mean(halves))}

    def additive(self, double: str, of: dict[str, np.ndarray] | None = None) -> np.ndarray:
        """Sum of the changes of both singles, of all cells' means or those given."""
        of = of or {name: cells.mean(0) for name, cells in self.of.items()}
        return sum(of[single] - of[CONTROL] for single in double.split("+"))

    def baselines(self) -> Iterator[dict]:
        """Rows of the observed cells alone."""
        found, errors, halves, split = {}, {}, [], {}
        rng = np.random.default_rng(0)
        for double in DOUBLES:
            real = self.of[double]
            found[double] = pearson(self.additive(double), real.mean(0) - self.control.mean(0))
            named = [double, CONTROL, *double.split("+")]
            drawn = []
            for _ in range(DRAWS):
                means = {n: self.of[n][rng.integers(0, len(self.of[n]), len(self.of[n]))].mean(0) for n in named}
                drawn.append(pearson(self.additive(double, means), means[double] - means[CONTROL]))
            errors[double] = float(np.std(drawn))
            for a, b in self.halves:
                means = {name: cells.mean(0) for name, cells in self.of.items()} | {CONTROL: self.control[a].mean(0)}
                halves.append(pearson(self.additive(double, means), real.mean(0) - self.control[b].mean(0)))
            own = [np.array_split(rng.permutation(len(real)), 2) for _ in range(SPLITS)]
            mean = self.control.mean(0)
            split[double] = np.mean([pearson(real[a].mean(0) - mean, real[b].mean(0) - mean) for a, b in own])
        yield {"method": "additive rule", "rule": "observed", "seed": 0} | found | {HALVES: np.mean(halves)}
        yield {"method": "its error", "rule": "observed", "seed": 0} | errors
        yield {"method": "split half", "rule": "observed", "seed": 0} | split


def predicted(cells: ad.AnnData, real: Real, method: str, seed: int, epochs: int | None) -> Iterator[dict]:
    # the file has no counts
    settings = {"likelihood": "gaussian"} if get(method).reads(get(method).Hyperparameters()) == "counts" else {}
    start = time.perf_counter()
    model = cellalign.train(
        cells,
        method=method,
        condition=CONDITION,
        control=CONTROL,
        holdout=[f"{CONDITION}={double}" for double in DOUBLES],
        settings=settings,
        seed=seed,
        epochs=epochs,
        device="cpu",
    )
    seconds = time.perf_counter() - start
    for number, rule in enumerate(rules(model.method)):
        changes = {}
        for double in DOUBLES:
            found = model.counterfactual(cells, to=double, combine=rule, device="cpu")
            changes[double] = np.asarray(found.X, dtype=np.float64) - real.control
        name = rule if number else f"{rule} (default)"
        yield {"method": method, "rule": name, "seed": seed} | real.scores(changes) | {"seconds": round(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="perturbench_devel.h5ad: log-normalised, obs perturbation, dataset, cell_type")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, help="fewer than by default, for a quick look")
    parser.add_argument("-o", "--output", help="all rows, as CSV")
    options = parser.parse_args()
    cells = norman(options.input)
    real = Real(cells)
    rows = list(real.baselines())
    for method in options.methods.split(","):
        for seed in map(int, options.seeds.split(",")):
            rows += predicted(cells, real, method, seed, options.epochs)
            if options.output:
                pd.DataFrame(rows).to_csv(options.output, index=False)
        print(f"# {method} done", flush=True)
    table = pd.DataFrame(rows)
    columns = [*DOUBLES, HALVES]
    means = table.groupby(["method", "rule"], sort=False)[columns].agg(["mean", "std"]).round(3)
    print(means.to_string())


if __name__ == "__main__":
    main()
