"""The same cells from memory, a file, a store, three files and sorted files: figures beside the spread of seeds.

    python benchmarks/places.py kang_2k.h5ad --method cvae --folder places

Trains without the stimulated B cells, scores their prediction and the mixing of the embedding. In memory under several
seeds, from every other place under the first of them, or the first --elsewhere. A file of two thousand cells is read at
once, and so shuffled as a whole: the last rows shuffle sorted files worse than any file on disk is, by blocks of 64
neighbours of which 256 cells are shuffled together. Finished rows are kept in FOLDER/places.csv.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

import cellalign
from cellalign.data import files

HELD, WORSE = ["cell_type=B,stim=stimulated"], [64, 256]
METRICS = ("r_change_de", "own share", "kBET", "validation loss")


def places(source: Path, folder: Path) -> dict[str, tuple[list[Path], bool, list[int] | None]]:
    """Of each place its files, whether they are streamed, and the order in which they are shuffled."""
    cells = cellalign.preprocess(anndata.read_h5ad(source))
    by = {key: np.argsort(cells.obs[key].astype(str).to_numpy(), kind="stable") for key in ("cell_type", "stim")}
    made = {"pp.h5ad": cells, "pp.zarr": cells}
    made |= {
        f"{name}.h5ad": cells[rows] for name, rows in zip("abc", np.array_split(np.arange(cells.n_obs), 3), strict=True)
    }
    made |= {f"by-{key}.h5ad": cells[rows] for key, rows in by.items()}
    for name, part in made.items():
        if not (folder / name).exists():
            files.write(part.copy(), folder / name)
    found: dict[str, tuple[list[Path], bool, list[int] | None]] = {
        "in memory": ([folder / "pp.h5ad"], False, None),
        "h5ad": ([folder / "pp.h5ad"], True, None),
        "zarr": ([folder / "pp.zarr"], True, None),
        "three files": ([folder / f"{name}.h5ad" for name in "abc"], True, None),
    }
    for key in by:
        found[f"sorted by {key}"] = ([folder / f"by-{key}.h5ad"], True, None)
    for key in by:
        found[f"sorted by {key}, {WORSE[0]} of {WORSE[1]}"] = ([folder / f"by-{key}.h5ad"], True, WORSE)
    return found


def scored(place: tuple[list[Path], bool, list[int] | None], seed: int, options: Mapping[str, Any]) -> dict[str, float]:
    """Train from a place, and score what is held out and the mixing of all."""
    paths, stream, order = place
    cells = cellalign.read(*paths, stream=stream)
    model = cellalign.train(cells, condition="stim", holdout=HELD, seed=seed, order=order, **options)
    whole = cellalign.read(*paths, stream=False)
    predicted = model.counterfactual(whole, to="stimulated", where={"cell_type": "B"})
    response = cellalign.evaluate(
        predicted, against=whole, condition="stim", label="cell_type", panels=["response"], seed=0
    ).frame()
    own = response[(response["system"] == "prediction") & (response["group"] == "B")].set_index("metric")["value"]
    whole.obsm["X_it"] = model.embed(whole)
    mixing = cellalign.evaluate(whole, condition="stim", embedding="X_it", panels=["mixing"], seed=0)
    outcome = model.record.outcome
    loss = float("nan") if outcome is None or outcome.validation_loss is None else outcome.validation_loss
    return {
        "r_change_de": float(own["r_change_de"]),
        "own share": mixing.value("own share"),
        "kBET": mixing.value("kBET"),
        "validation loss": loss,
    }


def main() -> None:
    """Train what is not trained yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--method", default="cvae")
    parser.add_argument("--seeds", type=int, default=4, help="in memory")
    parser.add_argument("--elsewhere", type=int, default=1, help="seeds from every other place")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--only", nargs="+", help="these places")
    parser.add_argument("--folder", type=Path, default=Path("places"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    results = given.folder / "places.csv"
    rows = pd.read_csv(results).to_dict("records") if results.exists() else []
    options = {"method": given.method, "epochs": given.epochs}
    for name, place in places(given.file, given.folder).items():
        if given.only and name not in given.only:
            continue
        for seed in range(given.seeds if name == "in memory" else given.elsewhere):
            key = {"method": given.method, "place": name, "seed": seed}
            if not any(all(row[k] == v for k, v in key.items()) for row in rows):
                rows.append(key | scored(place, seed, options))
                pd.DataFrame(rows).to_csv(results, index=False)
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    table = table[table["method"] == given.method].drop(columns="method")
    of_memory = table[table["place"] == "in memory"][list(METRICS)]
    mean, sd = of_memory.mean(), of_memory.std(ddof=1)
    print(table.round(4).to_string(index=False))
    print("mean of seeds, and its distance from the mean of memory in standard deviations of the seeds there:")
    others = table[table["place"] != "in memory"].groupby("place", sort=False)[list(METRICS)].mean()
    print(others.round(4).to_string())
    print(((others - mean) / sd).round(2).to_string())


if __name__ == "__main__":
    main()
