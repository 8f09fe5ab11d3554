"""trVAE's figure 3 with numbers: digits with normal strokes turned thin and thick, of digits never seen so.

    python benchmarks/digits.py                            # three seeds, about 5 minutes of one core each
    python benchmarks/digits.py --seeds 0 --picture docs/digits.png
    python benchmarks/digits.py --methods cvae,pca

Training has every digit's normal strokes, and the thin and thick ones of 1, 3, 6 and 7. Thin and thick 0, 2, 4, 5, 8
and 9 are predicted from normal ones. A classifier trained on the real ones reads what is predicted; stroke widths are
compared.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd
import yaml
from anndata import AnnData

import cellalign
from cellalign.evaluation.metrics.images import brightness
from cellalign.evaluation.panels.images import ImagesOfCondition

STROKES = ("thin", "thick")
HELD_OUT = ["seen=no,stroke=thin", "seen=no,stroke=thick"]
LABELS = {"scgen": "digit", "linear": "digit"}
PICTURED = 12  # images of the picture


def scores(result: cellalign.Evaluation, stroke: str, **of: object) -> list[dict[str, object]]:
    """The panel's rows of digits that were held out, and of all."""
    rows = [row for row in result.rows if row.panel == "images" and row.group in ("held out", "all")]
    return [{**of, "stroke": stroke, "group": r.group, "system": r.system, r.metric: r.value} for r in rows]


def picture(digits: AnnData, predicted: dict[str, AnnData], path: str) -> None:
    """Normal, predicted and real strokes of some held-out digits."""
    from cellalign.plots.images import rows

    unseen = predicted["thick"].obs
    unseen = unseen[unseen["held_out"].to_numpy()]
    kinds = [
        unseen.index[unseen["digit"] == digit]
        for digit in unseen["digit"].cat.remove_unused_categories().cat.categories
    ]
    chosen = [kind[i] for i in range(PICTURED // len(kinds)) for kind in kinds]
    originals = unseen.loc[chosen, "image"].to_list()

    def strip(adata: AnnData, stroke: str) -> np.ndarray:
        own = adata[adata.obs["stroke"] == stroke]
        place = dict(zip(own.obs["image"], range(own.n_obs), strict=True))
        return brightness(np.asarray(own.X)[[place[name] for name in originals]], (32, 32, 1))

    block = {"normal": strip(digits, "normal")}
    for stroke in STROKES:
        block |= {f"{stroke}, predicted": strip(predicted[stroke], stroke), f"{stroke}, real": strip(digits, stroke)}
    rows({"digits never seen thin or thick in training": block}).savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", default="trvae")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--images", type=int, default=1797)
    parser.add_argument("--picture", help="of the first method and seed")
    parser.add_argument("--output", default="digits.csv")
    asked = parser.parse_args()
    digits = cellalign.simulate.digits(asked.images)
    given = {key: yaml.safe_load(value) for key, _, value in (item.partition("=") for item in asked.set)}
    table: list[dict[str, object]] = []
    for seed in map(int, asked.seeds.split(",")):
        for method in asked.methods.split(","):
            began = time.process_time()
            model = cellalign.train(
                digits, method=method, condition="stroke", control="normal", label=LABELS.get(method),
                holdout=HELD_OUT, settings=given, epochs=asked.epochs, seed=seed, device="cpu",
            )  # fmt: skip
            seconds = time.process_time() - began
            predicted = {stroke: model.counterfactual(digits, to=stroke, device="cpu") for stroke in STROKES}
            for stroke, found in predicted.items():
                result = cellalign.evaluate(
                    found, against=digits, condition="stroke", label="digit", panels=[ImagesOfCondition()], seed=seed
                )
                table += scores(result, stroke, method=method, seed=seed, cpu_seconds=seconds)
            if asked.picture:
                picture(digits, predicted, asked.picture)
                asked.picture = None
            print(method, seed, f"{seconds:.0f} s of CPU", flush=True)
    keys = ["method", "seed", "cpu_seconds", "stroke", "group", "system"]
    frame = pd.DataFrame(table).groupby(keys, sort=False).first().reset_index()
    frame.to_csv(asked.output, index=False)
    by = frame.groupby(["method", "stroke", "group", "system"], sort=False)[
        ["cpu_seconds", "stroke_width", "width_error", "read", "read_of_real"]
    ]
    print(pd.concat({"mean": by.mean(), "sd": by.std()}, axis=1).round(3).to_string())


if __name__ == "__main__":
    main()
