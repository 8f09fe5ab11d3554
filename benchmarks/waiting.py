"""How long a training waits for cells of memory, a file, a sorted one, a dense one, a store and three files.

    python benchmarks/waiting.py kang_2k.h5ad --cells 100000 --folder waiting

Cells are drawn again and again from FILE (scaling.py). Two epochs of each method, each in a process of its own; cells
per second and the share of waiting are those of `train`'s last line, medians of --times. At most 5 % was asked for.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scaling import make, measured

RUN = [sys.executable, "-m", "cellalign"]


def sources(raw: Path, in_order: Path, folder: Path) -> dict[str, list[str]]:
    """The words that name the same cells in every place, which are made where they are not there."""
    file, ordered, store, dense = (folder / name for name in ("pp.h5ad", "sorted.h5ad", "pp.zarr", "dense.h5ad"))
    parts = [folder / f"part{i}.h5ad" for i in range(3)]
    for source, target in ((raw, file), (in_order, ordered), (raw, store)):
        if not target.exists():
            measured([*RUN, "preprocess", str(source), "-o", str(target), "--stream"], folder / "made.log")
    if not dense.exists():
        cells = ad.read_h5ad(file)
        for part, rows in zip(parts, np.array_split(np.arange(cells.n_obs), 3), strict=True):
            cells[rows].copy().write_h5ad(part)
        cells.X = np.asarray(cells.X.toarray(), dtype=np.float32)
        cells.write_h5ad(dense)
    return {
        "memory": [str(file), "--in-memory"],
        "h5ad": [str(file), "--stream"],
        "h5ad, sorted by condition": [str(ordered), "--stream"],
        "h5ad, dense X": [str(dense), "--stream"],
        "zarr": [str(store), "--stream"],
        "three files": [*map(str, parts), "--file-key", "part", "--stream"],
    }


def main() -> None:
    """Print a row per method and source."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--methods", nargs="+", default=["comp", "scvi"])
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("waiting"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    raw, ordered = (given.folder / f"{name}.h5ad" for name in ("raw", "raw-sorted"))
    for target, in_order in ((raw, False), (ordered, True)):
        if not target.exists():
            make(given.file, target, given.cells, in_order)
    rows = []
    for place, words in sources(raw, ordered, given.folder).items():
        for method in given.methods:
            for _ in range(given.times):
                train = [*RUN, "train", *words, "--method", method, "--condition", "stim", "--epochs", "2", "--force"]
                log = given.folder / "train.log"
                found, _ = measured([*train, "--restart", "-m", str(given.folder / "m")], log)
                said = re.findall(r"([\d,]+) cells/s, ([\d.]+) % of the time waiting", log.read_text())[-1]
                speed, waited = float(said[0].replace(",", "")), float(said[1])
                took = {name: found[name] for name in ("seconds", "CPU seconds")}
                rows.append({"cells of": place, "method": method, "cells/s": speed, "waiting, %": waited} | took)
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows).groupby(["method", "cells of"], sort=False).median()
    print(table.round({"seconds": 0, "CPU seconds": 0}).to_string())


if __name__ == "__main__":
    main()
