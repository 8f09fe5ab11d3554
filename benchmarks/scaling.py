"""Time per cell and peak memory from ten thousand cells to a million: in memory and streamed, beside scvi-tools.

    python benchmarks/scaling.py kang_2k.h5ad --cells 10000 100000 1000000 --folder scaling

Cells are those of FILE drawn again and again, with the 2,000 genes of which most was counted; their order is random, or
--sorted by the condition. Each command runs in a process of its own, whose peak memory is the system's (`ru_maxrss`).
Beside the commands that are measured by default there are, by --commands, `evaluate` (of the embedding), `against` (of
the prediction), `benchmark` and `tune` (a type held out, of closed forms), `reproduce`, and `backed` (Python's `train`
of an AnnData opened so).
Finished rows are kept in FOLDER/scaling.csv: a second run goes on from it. Files of a size are removed when all of it
is done, but with --keep. A million cells take about 25 GB of disk at most, fewer with `--commands`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata.io import write_elem
from scipy import sparse

from cellalign.data.formats.writing import Rows

GENES, TOGETHER = 2000, 20_000
COMMANDS = ("preprocess", "comp", "scvi", "embed", "counterfactual")
MORE = ("evaluate", "against", "benchmark", "tune", "reproduce", "backed", "scvi-tools")
BACKED = """
import sys, anndata, cellalign
backed = "r" if sys.argv[2] == "stream" else None
cellalign.train(anndata.read_h5ad(sys.argv[1], backed=backed), method="comp", condition="stim", epochs=1)
"""
SCVI = """
import sys, time, anndata, scvi
adata = anndata.read_h5ad(sys.argv[1])
scvi.model.SCVI.setup_anndata(adata, layer="counts", categorical_covariate_keys=["stim"])
model = scvi.model.SCVI(adata, n_layers=2)
began = time.perf_counter()
model.train(max_epochs=2, batch_size=128, accelerator="cpu", enable_progress_bar=False)
print(f"scvi-tools: 2 epochs in {time.perf_counter() - began:.0f} s", file=sys.stderr)
"""


SCORED = ["--condition", "stim", "--label", "cell_type"]
HELD = ["--condition", "stim", "--holdout-each", "cell_type", "--group", "NK"]
GRID = ["--condition", "stim", "--label", "cell_type", "--holdout", "cell_type=NK,stim=stimulated"]
GRID += ["--grid", "change=shift,ridge", "--seeds", "1", "--force"]


def make(source: Path, target: Path, n: int, in_order: bool, seed: int = 0) -> None:
    """Write so many cells drawn from a file of raw counts, block by block."""
    cells = anndata.read_h5ad(source)
    x = sparse.csr_matrix(cells.X, dtype=np.float32)
    most = np.sort(np.argsort(-np.asarray(x.sum(0)).ravel(), kind="stable")[:GENES])
    rng = np.random.default_rng(seed)
    rows, x = rng.integers(cells.n_obs, size=n), x[:, most]
    if in_order:
        rows = rows[np.argsort(cells.obs["stim"].cat.codes.to_numpy()[rows], kind="stable")]
    obs = cells.obs[["stim", "cell_type"]].iloc[rows].set_axis([f"cell{i}" for i in range(n)])
    with h5py.File(target, "w") as handle:
        write_elem(handle, "/", anndata.AnnData(obs=obs, var=cells.var.iloc[most][[]]))
        if "X" in handle:
            del handle["X"]
        writer = None
        for start in range(0, n, TOGETHER):
            block = x[rows[start : start + TOGETHER]]
            if writer is None:
                writer = Rows(handle, "X", block)
            else:
                writer.append(block)
        assert writer is not None
        writer.close()


def measured(words: list[str], log: Path) -> tuple[dict[str, float], str]:
    """Seconds, those of CPUs, peak memory in GiB, and the last line of a command that must succeed."""
    with open(log, "w") as out:
        began = time.perf_counter()
        process = subprocess.Popen(words, stdout=out, stderr=out)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    lines = log.read_text().splitlines()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n" + "\n".join(lines[-5:]))
    found = {"seconds": seconds, "CPU seconds": usage.ru_utime + usage.ru_stime, "GiB": usage.ru_maxrss / 2**20}
    return found, lines[-1] if lines else ""


def commands(folder: Path, how: str, ending: str, peer: str) -> dict[str, list[str]]:
    """The words of each command."""
    run = [sys.executable, "-m", "cellalign"]
    cells, place = str(folder / f"pp.{ending}"), [f"--{how}"]
    train = [*run, "train", cells, "--condition", "stim", "--epochs", "2", "--force", "--restart", *place]
    comp = str(folder / f"comp-{how}")
    more = [*place, "--force", "-o"]
    predicted = [*run, "counterfactual", cells, "-m", comp, "--to", "stimulated", "--with-control", *more]
    return {
        "preprocess": [*run, "preprocess", str(folder / "raw.h5ad"), *more, cells],
        "comp": [*train, "--method", "comp", "-m", comp],
        "scvi": [*train, "--method", "scvi", "-m", str(folder / f"scvi-{how}")],
        "embed": [*run, "embed", cells, "-m", comp, *more, str(folder / f"emb.{ending}")],
        "counterfactual": [*predicted, str(folder / f"cf.{ending}")],
        "evaluate": [*run, "evaluate", str(folder / f"emb.{ending}"), *SCORED, *place],
        "against": [*run, "evaluate", str(folder / f"cf.{ending}"), "--against", cells, *SCORED, *place],
        "benchmark": [*run, "benchmark", cells, "--methods", "linear", *HELD, "-o", str(folder / f"{how}.csv"), *place],
        "tune": [*run, "tune", cells, "--method", "linear", *GRID, "-m", str(folder / f"tuned-{how}"), *place],
        "reproduce": [*run, "reproduce", comp, *place],
        "backed": [sys.executable, "-c", BACKED, cells, how],
        "scvi-tools": [peer, "-c", SCVI, cells],
    }


def main() -> None:
    """Measure what is not measured yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--how", nargs="+", default=["stream", "in-memory"], choices=["stream", "in-memory"])
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=[*COMMANDS, *MORE])
    parser.add_argument("--ending", default="h5ad", choices=["h5ad", "zarr"])
    parser.add_argument("--sorted", action="store_true", help="by the condition")
    parser.add_argument("--folder", type=Path, default=Path("scaling"))
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--peer", default=sys.executable, help="the Python that has scvi-tools, for that command")
    given = parser.parse_args()
    results = given.folder / "scaling.csv"
    given.folder.mkdir(parents=True, exist_ok=True)
    rows = pd.read_csv(results).to_dict("records") if results.exists() else []
    for n in given.cells:
        folder = given.folder / f"{n}{'-sorted' if given.sorted else ''}"
        folder.mkdir(exist_ok=True)
        if not (folder / "raw.h5ad").exists():
            make(given.file, folder / "raw.h5ad", n, given.sorted)
        for how in given.how:
            for name, words in commands(folder, how, given.ending, given.peer).items():
                key = {"cells": n, "how": how, "command": name, "ending": given.ending, "sorted": given.sorted}
                done = any(all(row[k] == v for k, v in key.items()) for row in rows)
                if name not in given.commands or done:
                    continue
                found, said = measured(words, folder / f"{name}-{how}.log")
                rows.append(key | found | {"us per cell": 1e6 * found["seconds"] / n, "said": said})
                pd.DataFrame(rows).to_csv(results, index=False)
                print(rows[-1], flush=True)
            for output in ("emb", "cf"):  # these are not read again
                made = folder / f"{output}.{given.ending}"
                shutil.rmtree(made) if made.is_dir() else made.unlink(missing_ok=True)
        if not given.keep:
            shutil.rmtree(folder)
    print(pd.DataFrame(rows).drop(columns="said").round(2).to_string(index=False))


if __name__ == "__main__":
    main()
