"""cellalign benchmark: one table over methods, a CSV that grows, and a second run that computes nothing again."""

import json

import pandas as pd
import pytest


def test_benchmark_goes_on_from_its_file(cellalign, kang_like, tmp_path):
    run = cellalign(cwd=tmp_path)
    arguments = ("--holdout-each", "cell_type", "--condition", "stim", "--group", "B", "--group", "CD4 T")
    done = run("benchmark", kang_like, "--methods", "linear,pca", *arguments, "--format", "json")
    assert done.returncode == 0, done.stderr
    rows = {row["method"]: row for row in json.loads(done.stdout)}
    baselines = {"mean shift", "nearest cell type", "local shift", "shrunk local shift", "linear model"}
    assert set(rows) == {"linear", "pca", "no change", "split half", "attainable"} | baselines
    assert rows["linear"]["best_baseline"] in baselines and rows["mean shift"]["difference"] is None
    assert rows["attainable"]["mean"] > rows["linear"]["mean"] > 0.3
    assert {(row["metric"], row["better"]) for row in rows.values()} == {("r_change_de", "up")}
    table = pd.read_csv(tmp_path / "benchmark.csv")
    assert len(table) == 2 * len(rows) and set(table["held_out"]) == {"B", "CD4 T"}
    again = run("benchmark", kang_like, "--methods", "linear", *arguments)
    assert again.returncode == 0 and "seed 0" not in again.stderr and "linear" in again.stdout
    errors = run("benchmark", kang_like, "--methods", "linear", *arguments, "--metric", "mse_de")
    assert errors.stdout.lstrip().startswith("mse_de ↓ (lower is better), cell_type held out")
    words = [line.split() for line in errors.stdout.splitlines() if line.strip()]
    assert "beside the best baseline" in errors.stdout and "best baseline by mse_de" in errors.stderr
    means = [float(line[-1]) for line in words if line[-1][0] == "0"]
    assert len(means) == 9 and means == sorted(means)
    ridge = ("--set", "linear.change=ridge", "-o", "ridge.csv")
    assert run("benchmark", kang_like, "--methods", "linear", *arguments, *ridge).returncode == 0
    other = pd.read_csv(tmp_path / "ridge.csv").set_index(["method", "held_out"])["r_change_de"]
    first = table.set_index(["method", "held_out"])["r_change_de"]
    assert other["linear", "B"] != first["linear", "B"] and other["mean shift", "B"] == first["mean shift", "B"]


@pytest.mark.slow
def test_a_grid_with_nothing_held_out(cellalign, kang_like, tmp_path):
    arguments = ("--methods", "linear", "--condition", "stim", "--label", "cell_type", "--grid", "change=shift,ridge")
    asked = ("--metric", "kBET,own share,r_change_de", "--seeds", "2")
    done = cellalign(cwd=tmp_path)("benchmark", kang_like, *arguments, *asked)
    assert done.returncode == 0, done.stderr
    title, *lines = [line for line in done.stdout.splitlines() if line.strip()]
    assert "nothing held out: fitted, not predicted, ± standard error over seeds" in title
    assert "kBET →permuted" in lines[0] and "kBET permuted" in lines[0]
    both = [line for line in lines if line.lstrip().startswith("linear change=")]
    assert len(both) == 2 and all("±" in line for line in both)


def test_mistakes(mistaken, kang_like, tmp_path):
    run = mistaken(cwd=tmp_path)
    base = ("benchmark", kang_like, "--condition", "stim", "--holdout-each", "cell_type")
    for arguments, status, says in (
        ((*base, "--methods", "lineer"), 2, "'linear'"),
        ((*base, "--methods", "linear", "--set", "change=ridge"), 2, "METHOD.KEY=VALUE"),
        ((*base, "--methods", "linear", "--group", "Nk"), 3, "'Nk'"),
        ((*base[:2], "--holdout-each", "cell_type", "--methods", "linear"), 2, "--condition"),
        (("benchmark", "nothing.h5ad", *base[2:], "--methods", "linear"), 3, "nothing.h5ad"),
        # before any cell is read, and with it before anything is trained
        (("benchmark", "nothing.h5ad", *base[2:], "--methods", "linear", "--metric", "mse_dee"), 2, "'mse_de'?"),
        (("benchmark", "nothing.h5ad", *base[2:], "--methods", "linear", "--metric", "kBET"), 2, "leave out --holdout"),
        (("benchmark", kang_like, "--condition", "stim", "--methods", "linear", "--grid", "chnge=1"), 2, "chnge"),
    ):
        done = run(*arguments)
        assert done.returncode == status, done.stderr
        assert says in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert not list(tmp_path.iterdir())
