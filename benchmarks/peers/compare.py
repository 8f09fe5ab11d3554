"""Peers and cellalign's methods on the same cells, genes and split, scored by the same code.

    sh benchmarks/peers/make.sh FOLDER
    python benchmarks/peers/compare.py kang_2k.h5ad --peers FOLDER --methods local scgen trvae comp linear
    python benchmarks/peers/compare.py kang_2k.h5ad --peers FOLDER --only cellflow --types B NK --seeds 0 1 2
    python benchmarks/peers/compare.py kang_2k.h5ad --methods "auto members=local,scgen,trvae"
    python benchmarks/peers/compare.py --csv peers.csv --table              # of what is there, nothing is run

Each type's stimulated cells are left out in turn, of the file that a runner is given, and predicted from its control
cells. FILE holds raw counts, obs stim (control, stimulated) and cell_type; genes are chosen once, of all cells. A
change is scored from halves of the control: the predicted one starts from one half, the real one from the other. What
has run is kept in the CSV, a row per method, what it wrote, type and seed; what fails or takes too long has none.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import pandas as pd

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]  # of this checkout, whichever one is installed

from shared import CONDITION, CONTROL, LABEL, TARGET, dense  # noqa: E402

import cellalign  # noqa: E402
from cellalign.evaluation.metrics import response  # noqa: E402

PEERS = {"scgen (pertpy)": ("pertpy", "run_scgen.py"), "CellFlow": ("cellflow", "run_cellflow.py")}
PEERS |= {"CPA": ("cpa", "run_cpa.py")}
LEAST = 5  # cells of a type under each condition
KEY = ["method", "wrote", "type", "seed"]
AS_IT_IS = "its own"  # what a method writes without being asked for something else
# the change over 10, 50, 100 DE genes and all; squared error and energy distance of the cells
METRICS = ["r_change_de10", "r_change_de", "r_change_de100", "r_change_all", "mse_all", "energy"]
# as published benchmarks count: higher, since the control's own noise agrees with itself
SHARED = "r_change_de100, one control"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
ONE_THREAD["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"


def types_of(cells: anndata.AnnData) -> list[str]:
    """The types that have cells under both conditions."""
    counts = pd.crosstab(cells.obs[LABEL].astype(str), cells.obs[CONDITION].astype(str))
    return [str(name) for name in counts.index[(counts[[CONTROL, TARGET]] >= LEAST).all(axis=1)]]


def prepared(cells: anndata.AnnData, held: str) -> anndata.AnnData:
    """What a runner is given: all cells but a type's stimulated ones, the type's control cells marked as `predict`.

    Parameters
    ----------
    cells : AnnData
        As `cellalign.preprocess` returns them.
    held : str
        The type.
    """
    own = (cells.obs[LABEL].astype(str) == held).to_numpy()
    under = cells.obs[CONDITION].astype(str).to_numpy()
    seen = ~(own & (under == TARGET))
    obs = cells.obs.loc[seen, [LABEL, CONDITION, "n_counts"]].copy()
    obs["predict"] = (own & (under == CONTROL))[seen]
    found = anndata.AnnData(cells.X[seen], obs=obs, var=cells.var[[]].copy())
    found.layers["counts"] = cells.layers["counts"][seen]
    found.uns["total"] = float(cells.uns["cellalign"]["preprocess"]["target_sum"])
    return found


def scored(predicted: anndata.AnnData, cells: anndata.AnnData, held: str) -> dict[str, dict[str, float]]:
    """Metrics by system ("prediction", the baselines, halves of the real cells) of one type's predicted cells."""
    asked: dict[str, Any] = {
        "condition": CONDITION,
        "label": LABEL,
        "control": CONTROL,
        "panels": ["response"],
        "more_genes": True,
    }
    frame = cellalign.evaluate(predicted, against=cells, **asked).frame()
    frame = frame[(frame["group"] == held) & frame["metric"].isin(METRICS)]
    return {
        str(system): dict(zip(part["metric"], part["value"], strict=True)) for system, part in frame.groupby("system")
    }


def shared(predicted: anndata.AnnData, cells: anndata.AnnData, held: str) -> float:
    """Correlation of changes over 100 DE genes, both from the mean of all control cells of the type."""
    own, under = cells.obs[LABEL].astype(str) == held, cells.obs[CONDITION].astype(str)
    control, real = (dense(cells.X[(own & (under == name)).to_numpy()]) for name in (CONTROL, TARGET))
    de = response.de_genes(control, real, 100)
    change, true = (x.mean(0)[de] - control.mean(0)[de] for x in (dense(predicted.X), real))
    return response.pearson(change, true)


def rows_of(
    written: anndata.AnnData, cells: anndata.AnnData, key: dict[str, object], took: dict[str, float]
) -> Iterator[dict[str, object]]:
    """A row for each prediction that a runner wrote, and those of the baselines (once a type and seed)."""
    said = json.loads(written.uns["peer"])
    took = took | {"fit": said["seconds"]}
    held = str(key["type"])
    for name in [AS_IT_IS, *written.layers]:
        predicted = anndata.AnnData(written.X if name == AS_IT_IS else written.layers[name], obs=written.obs.copy())
        predicted.var_names = written.var_names
        for system, values in scored(predicted, cells, held).items():
            if system == "prediction":
                found = {"findings": said["settings"].get("findings", "")}
                yield key | {"wrote": name} | took | found | values | {SHARED: shared(predicted, cells, held)}
            elif name == AS_IT_IS:
                yield key | {"method": system, "wrote": "baseline"} | values


def command(method: str, folder: Path | None) -> list[str] | None:
    """How a method's runner is started; None where the peer's environment is not there."""
    if method not in PEERS:
        return [sys.executable, str(HERE / "run_cellalign.py"), method]
    environment, runner = PEERS[method]
    python = None if folder is None else folder / environment / "bin" / "python"
    return None if python is None or not python.exists() else [str(python), str(HERE / runner)]


def started(line: list[str], limit: float) -> tuple[dict[str, float], str]:
    """Wall and CPU seconds of a command on one thread, and what went wrong ("" where nothing did)."""
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        done = subprocess.run(line, env=os.environ | ONE_THREAD, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {}, f"took more than {limit:.0f} s"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    wrong = "" if done.returncode == 0 else f"status {done.returncode}: {last}"
    return {"wall": time.perf_counter() - begun, "cpu": cpu}, wrong


def kept(csv: Path) -> pd.DataFrame:
    """The rows of the file, none where there is no file."""
    return pd.read_csv(csv) if csv.is_file() else pd.DataFrame(columns=KEY)


def lacking(done: pd.DataFrame, found: list[dict[str, object]]) -> list[dict[str, object]]:
    """Those rows that are not in the table yet."""
    have = set(map(tuple, done[KEY].astype({"seed": int}).itertuples(index=False))) if len(done) else set()
    return [row for row in found if tuple(row[k] for k in KEY) not in have]


def table(done: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One metric by method (and what it wrote) and type, their mean, and the spread of the mean over seeds."""
    seeds = done.pivot_table(index=["method", "wrote", "seed"], columns="type", values=metric)
    seeds["mean"] = seeds.mean(axis=1, skipna=False)  # of all types, or of none
    by_method = seeds.groupby(["method", "wrote"])
    found = by_method.mean()
    found["sd"], found["seeds"] = by_method["mean"].std(), by_method["mean"].count()  # of those with every type
    for seconds in ("wall", "cpu"):
        found[seconds] = done.groupby(["method", "wrote"])[seconds].mean()
    return found.sort_values("mean", ascending=metric in ("mse_all", "energy"))


HEADER = (
    "| method | wrote | 10 | 50 | 100 | all genes | error x 1000 | energy | 100, one control | CPU s | seeds |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def summary(done: pd.DataFrame) -> Iterator[str]:
    """A line for each method: means over types and seeds, in brackets the spread over seeds; best over 50 genes first.

    Methods that lack a type have no line, since means over other types would stand beside each other.
    """
    tables = {metric: table(done, metric) for metric in [*METRICS, SHARED] if metric in done}
    for name in tables["r_change_de"].dropna(subset="mean").index:
        cells = []
        for metric in [*METRICS, SHARED]:
            row = tables[metric].loc[name] if metric in tables and name in tables[metric].index else {"mean": math.nan}
            value, sd = row["mean"] * (1000 if metric == "mse_all" else 1), row.get("sd", math.nan)
            sd *= 1000 if metric == "mse_all" else 1
            digits = 1 if metric == "mse_all" else 3
            spread = "" if math.isnan(sd) else f" ({sd:.{digits}f})"
            cells.append("" if math.isnan(value) else f"{value:.{digits}f}{spread}")
        row = tables["r_change_de"].loc[name]
        cpu = "" if math.isnan(row["cpu"]) else f"{row['cpu']:.0f}"
        yield f"| {' | '.join([*name, *cells, cpu, str(int(row['seeds']))])} |"


def main() -> int:
    """Run what is not finished, print the tables; status 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?")
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="where make.sh put the environments")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="PEER", help=f"of {', '.join(PEERS)}, or their folders"
    )
    parser.add_argument("--methods", nargs="*", default=[], help="of cellalign")
    parser.add_argument("--types", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--limit", type=float, default=900, help="seconds of one run")
    parser.add_argument("--csv", type=Path, default=Path("peers.csv"))
    parser.add_argument("--table", action="store_true", help="run nothing, print what the CSV holds")
    options = parser.parse_args()
    done, failed = kept(options.csv), 0
    if not options.table:
        if options.file is None:
            parser.error("FILE is needed, but for --table")
        done, failed = measured(options, done)
    for metric in [m for m in [*METRICS, SHARED] if m in done]:
        print(f"\n{metric}\n{table(done, metric).round(3).to_string()}")
    if len(done):
        print("\n" + "\n".join([HEADER, *summary(done)]))
    return int(failed > 0)


def measured(options: argparse.Namespace, done: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The table with what was not in it yet, and how many runs failed."""
    cells = cellalign.preprocess(anndata.read_h5ad(options.file), n_top_genes=options.genes)
    asked = [peer for peer, (folder, _) in PEERS.items() if {peer, folder} & set(options.only)]
    asked = asked or ([] if options.peers is None or options.only else list(PEERS))
    each = itertools.product(options.seeds, [*asked, *options.methods], options.types or types_of(cells))
    failed = 0
    for seed, method, held in each:
        key: dict[str, object] = {"method": method, "wrote": AS_IT_IS, "type": held, "seed": seed}
        if not lacking(done, [key]):
            continue
        line = command(method, options.peers)
        found, wrong = one(line, cells, key, options.limit) if line else ([], "no environment; make.sh makes it")
        if wrong:
            print(f"{method}, {held}, seed {seed}: {wrong}", flush=True)
            failed += 1
            continue
        done = kept(options.csv)  # another run may have written to it
        fresh = pd.DataFrame(lacking(done, found))
        done = pd.concat([done, fresh], ignore_index=True) if len(done) else fresh
        done.to_csv(options.csv, index=False)
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in found[0].items()}, flush=True)
    return done, failed


def one(
    line: list[str], cells: anndata.AnnData, key: dict[str, object], limit: float
) -> tuple[list[dict[str, object]], str]:
    """The rows of one run, its own prediction first, and what went wrong ("" where nothing did)."""
    with tempfile.TemporaryDirectory() as folder:
        given, written = Path(folder, "cells.h5ad"), Path(folder, "predicted.h5ad")
        prepared(cells, str(key["type"])).write_h5ad(given)
        took, wrong = started([*line, str(given), str(written), "--seed", str(key["seed"])], limit)
        if wrong:
            return [], wrong
        rows = list(rows_of(anndata.read_h5ad(written), cells, key, took))
    return sorted(rows, key=lambda row: row["method"] != key["method"]), ""


if __name__ == "__main__":
    sys.exit(main())
