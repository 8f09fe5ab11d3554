"""cellalign benchmark: one table over methods, a CSV that grows, and a second run that computes nothing again."""

import json

import pandas as pd


def test_benchmark_goes_on_from_its_file(cellalign, kang_like, tmp_path):
    run = cellalign(cwd=tmp_path)
    arguments = ("--holdout-each", "cell_type", "--condition", "stim", "--group", "B", "--group", "CD4 T")
    done = run("benchmark", kang_like, "--methods", "linear,pca", *arguments, "--format", "json")
    assert done.returncode == 0, done.stderr
    rows = {row["method"]: row for row in json.loads(done.stdout)}
    assert set(rows) == {"linear", "pca", "no change", "mean shift", "ceiling"}
    assert float(rows["ceiling"]["mean"]) > float(rows["linear"]["mean"]) > 0.3
    table = pd.read_csv(tmp_path / "benchmark.csv")
    assert len(table) == 10 and set(table["held_out"]) == {"B", "CD4 T"}
    again = run("benchmark", kang_like, "--methods", "linear", *arguments)
    assert again.returncode == 0 and "seed 0" not in again.stderr and "linear" in again.stdout
    ridge = ("--set", "linear.change=ridge", "-o", "ridge.csv")
    assert run("benchmark", kang_like, "--methods", "linear", *arguments, *ridge).returncode == 0
    other = pd.read_csv(tmp_path / "ridge.csv").set_index(["method", "held_out"])["r_change_de"]
    first = table.set_index(["method", "held_out"])["r_change_de"]
    assert other["linear", "B"] != first["linear", "B"] and other["mean shift", "B"] == first["mean shift", "B"]


def test_mistakes(mistaken, kang_like, tmp_path):
    run = mistaken(cwd=tmp_path)
    base = ("benchmark", kang_like, "--condition", "stim", "--holdout-each", "cell_type")
    for arguments, status, says in (
        ((*base, "--methods", "lineer"), 2, "'linear'"),
        ((*base, "--methods", "linear", "--set", "change=ridge"), 2, "METHOD.KEY=VALUE"),
        ((*base, "--methods", "linear", "--group", "Nk"), 3, "'Nk'"),
        ((*base[:2], "--holdout-each", "cell_type", "--methods", "linear"), 2, "--condition"),
        (("benchmark", "nothing.h5ad", *base[2:], "--methods", "linear"), 3, "nothing.h5ad"),
    ):
        done = run(*arguments)
        assert done.returncode == status, done.stderr
        assert says in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert not list(tmp_path.iterdir())
