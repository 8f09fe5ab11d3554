"""Inputs that failed once, by the numbers of `cases.CASES`: columns and values, options, evaluation, the machine."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import tempfile
from io import StringIO
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from end_to_end.cases import Shell, counts, dense, logged, mentions, train
from scipy import sparse

LONG = "CD4-positive, alpha-beta T cell"


@pytest.fixture
def shell(tmp_path) -> Shell:
    return Shell(tmp_path)


def drawn(n: int, *values: object) -> np.ndarray:
    return np.random.default_rng(0).choice(np.array(values), n)


# Options


USED = [
    ("svae+", "--condition cond", "--batch batch"),
    ("scgen", "--condition cond", "--batch batch"),
    ("linear", "--condition cond", "--batch batch"),
    ("vae", "", "--batch batch"),
    ("comp", "--condition cond", "--covariate cell_type"),
    ("vae", "", "--condition cond"),
]


@pytest.mark.parametrize(("method", "always", "more"), USED)
def test_case_04_batch_and_covariate_ignored(shell, method, always, more):
    """Whether the latents differ shows nothing: the columns also decide which cells are validated on."""
    shell.write("in.h5ad", logged(counts()))
    said = shell(train(method, f"{always} {more}"), status=(0, 2)).stderr
    marked = [text for text in said.splitlines() if "warning" in text or "error" in text]
    assert any(word in text for text in marked for word in more.split()), f"{method} does not use {more}: {said}"


def test_case_08_dose_nan_inf(shell):
    a = logged(counts())
    a.obs["dose"] = drawn(a.n_obs, 0.0, 10, 100)
    shell.write("in.h5ad", a)
    shell(train("comp", "--condition dose --continuous"))
    for value in ("nan", "inf", "-inf", "NaN"):
        done = shell(f"counterfactual -m m --to={value} --from 0 -o c.h5ad", status=(2, 3))
        assert mentions(done.stderr, value)
        assert not (shell.folder / "c.h5ad").exists()
    for bad in (np.nan, np.inf):
        a.obs.loc[a.obs_names[3], "dose"] = bad
        shell.write("bad.h5ad", a)
        assert mentions(
            shell(train("comp", "--condition dose --continuous", "bad.h5ad", "m2"), status=3).stderr, "dose"
        )


# Values


@pytest.mark.slow
def test_case_09_integer_batch_against_float(shell):
    a = logged(counts())
    a.obs["lib"] = np.arange(a.n_obs) % 3
    shell.write("in.h5ad", a)
    shell(train("invae", "--batch lib --covariate cell_type"))
    shell("embed in.h5ad -m m -o e0.h5ad")
    wanted = shell.read("e0.h5ad").obsm["X_invae_spurious"]
    integers = a.obs["lib"].copy()
    for change in (
        integers.astype(float),
        integers.astype(str),
        integers.astype("Int64"),
        integers.astype(float).astype("category"),
        integers.astype(float).astype(str),
    ):
        a.obs["lib"] = change
        shell.write("q.h5ad", a)
        shell("embed q.h5ad -m m -o e1.h5ad --force")
        np.testing.assert_allclose(shell.read("e1.h5ad").obsm["X_invae_spurious"], wanted, atol=1e-6)


CONTROLS = ("NT", "NTC", "nontargeting", "NegCtrl", "DMSO_TF", "mock", "PBS", "WT", "unstimulated", "control_0.0", "0")


@pytest.mark.parametrize("name", [*CONTROLS, "scramble"])
def test_case_11_control_not_recognised(shell, name):
    a = logged(counts())
    a.obs["guide"] = pd.Categorical(drawn(a.n_obs, name, "KLF1", "CEBPE"))
    shell.write("in.h5ad", a)
    said = shell(train("cvae", "--condition guide")).stderr
    shell("counterfactual in.h5ad -m m --to KLF1 -o c.h5ad")
    if set(shell.read("c.h5ad").obs["guide_source"].astype(str)) != {name}:
        assert mentions(said, name, "--control"), f"{name} is not taken for the control, and nothing is said"
        shell(train("cvae", f"--condition guide --control {name}"))
        shell("counterfactual in.h5ad -m m --to KLF1 -o c.h5ad --force")
    assert set(shell.read("c.h5ad").obs["guide_source"].astype(str)) == {name}


@pytest.mark.slow
def test_case_12_dose_names_hint(shell):
    a = logged(counts())
    dose = drawn(a.n_obs, 0.0, 10, 100, 1000)
    a.obs["dose"], a.obs["drug"] = dose, pd.Categorical([f"Quis_{x}" for x in dose])
    shell.write("in.h5ad", a)
    shell(train("comp", "--condition dose"))
    for to, more in (("1000", ""), ("1000.0", "--from 0"), ("1e3", "--where dose=0")):
        shell(f"counterfactual -m m --to {to} {more} -o c.h5ad --force")
        made = shell.read("c.h5ad")
        assert {float(value) for value in made.obs["dose"]} == {1000.0}
        if more:
            assert made.n_obs == (dose == 0).sum()
    shell(train("comp", "--condition drug"))
    done = shell("counterfactual -m m --to Quis_1000 -o c.h5ad --force", status=(0, 3))
    assert "Quis_100.0'?" not in done.stderr, "the suggestion is ten times off"
    done = shell("counterfactual -m m --to Quis_10000 -o c.h5ad --force", status=3)
    assert "Did you mean" not in done.stderr, done.stderr


@pytest.mark.slow
def test_case_13_preprocess_batch_of_numbers(shell):
    a = counts()
    n = np.arange(a.n_obs)
    columns = {
        "int": n % 3,
        "bool": n % 2 == 0,
        "float": (n % 3).astype(float),
        "Int64": pd.array(n % 3, dtype="Int64"),
    }
    made = {}
    for name, column in {**columns, "text": (n % 3).astype(str)}.items():
        a.obs["lib"] = column
        shell.write(f"{name}.h5ad", a)
        shell(f"preprocess {name}.h5ad -o o.h5ad --n-top-genes 30 --batch lib --force")
        made[name] = shell.read("o.h5ad")
        assert list(made[name].obs["lib"].astype(str)) == list(a.obs["lib"].astype(str))
    for name in ("int", "float", "Int64"):
        assert list(made[name].var_names) == list(made["text"].var_names)
    a.obs["lib"] = [f"s{i}" for i in n]
    shell.write("unique.h5ad", a)
    done = shell("preprocess unique.h5ad -o o.h5ad --n-top-genes 30 --batch lib --force", status=(0, 2, 3))
    assert mentions(done.stderr, "lib") or mentions(done.stderr, "--batch"), "one value per cell, and nothing is said"


def test_case_20_comma_in_category(shell):
    a = shell.write("in.h5ad", logged(counts(types=("B cell", LONG))))
    shell(train("linear", "--condition cond"))

    def named(line: str) -> None:
        """As it is typed first, or else quoted as the error says."""
        done = shell(line.format(f"'cell_type={LONG}'"), status=(0, 2, 3))
        if done.returncode:
            quoted = f'cell_type=\\"{LONG}\\"'
            assert f'"{LONG}"' in done.stderr or "quot" in done.stderr, done.stderr
            shell(line.format(f'"{quoted}"'))

    named("counterfactual -m m --to stim --where {} -o c.h5ad --force")
    assert set(shell.read("c.h5ad").obs["cell_type"]) == {LONG}
    named("train in.h5ad --method linear --condition cond --holdout {} -m m2 --force")
    import cellalign

    held = int((a.obs["cell_type"] == LONG).sum())
    found = cellalign.load(shell.folder / "m2").record.cells
    assert found.trained + found.validation == a.n_obs - held
    shell("benchmark in.h5ad --methods linear --holdout-each cell_type --condition cond -o b.csv")
    with open(shell.folder / "b.csv") as file:
        assert {row["held_out"] for row in csv.DictReader(file)} == {"B cell", LONG}


def test_case_27_pairs_named_as_in_gears(shell):
    a = logged(counts())
    a.obs["condition"] = pd.Categorical(drawn(a.n_obs, "ctrl", "KLF1+ctrl", "ctrl+CEBPE", "FOSB+ctrl"))
    shell.write("in.h5ad", a)
    shell(train("svae+", "--condition condition"))
    sources = int((a.obs["condition"] == "ctrl").sum())
    for to in ("KLF1+CEBPE", "KLF1"):
        shell(f"counterfactual -m m --to {to} -o c.h5ad --force")
        made = shell.read("c.h5ad")
        assert made.n_obs == sources and set(made.obs["condition_source"].astype(str)) == {"ctrl"}
    shell("counterfactual -m m --to KLF1+ctrl+ctrl+CEBPE -o c.h5ad --force", status=(0, 2, 3))


def test_case_28_some_labels_missing(shell):
    a = logged(counts())
    labels = a.obs["cell_type"].astype(object)
    labels.iloc[:3] = np.nan
    a.obs["cell_type"] = pd.Categorical(labels)
    shell.write("in.h5ad", a)
    shell(train("linear", "--condition cond --holdout cell_type=T0,cond=stim"))
    shell(train("linear", "--condition cond"))
    shell("counterfactual -m m --to stim --where cell_type=T0 -o c.h5ad")
    assert set(shell.read("c.h5ad").obs["cell_type"]) == {"T0"}
    shell("counterfactual -m m --to stim -o c.h5ad --force")
    said = shell("evaluate c.h5ad --against in.h5ad --condition cond --label cell_type").stderr
    assert mentions(said, "cell_type", "3") or mentions(said, "cell_type", "2"), "cells left out without a word"
    shell("benchmark in.h5ad --methods linear --holdout-each cell_type --condition cond -o b.csv")


@pytest.mark.slow
def test_case_28_drawn(shell):
    a = logged(counts())
    labels = a.obs["cell_type"].astype(object)
    labels.iloc[:3] = np.nan
    a.obs["cell_type"] = pd.Categorical(labels)
    shell.write("in.h5ad", a)
    shell(train("linear", "--condition cond"))
    shell("embed -m m -o e.h5ad --plot u.png --color cell_type")
    assert (shell.folder / "u.png").stat().st_size


@pytest.mark.parametrize("batch", ["site", "cond"])
def test_case_38_confounded_or_same_column(shell, batch):
    a = logged(counts())
    a.obs["site"] = a.obs["cond"].astype(str).map({"ctrl": "s1", "stim": "s2"}).astype("category")
    shell.write("in.h5ad", a)
    said = shell(train("cvae", f"--condition cond --batch {batch}"), status=(0, 2, 3)).stderr
    marked = "\n".join(line for line in said.splitlines() if "warning" in line.lower() or "error" in line.lower())
    assert mentions(marked, batch) and mentions(marked, "cond"), f"nothing is said of {batch}: {said}"


def test_case_38_one_cell(shell):
    a = logged(counts())
    condition = a.obs["cond"].astype(object)
    condition.iloc[0] = "rare"
    a.obs["cond"] = pd.Categorical(condition)
    shell.write("in.h5ad", a)
    said = shell(train("comp", "--condition cond"), status=(0, 3)).stderr
    assert mentions(said, "rare"), said


@pytest.mark.parametrize("method", ["cvae", "linear"])
def test_case_49_missing_as_text(shell, method):
    import cellalign

    a = logged(counts())
    condition = a.obs["cond"].astype(object)
    condition.iloc[:3], condition.iloc[3:6], condition.iloc[6:9] = "nan", "", "NA"
    a.obs["cond"] = pd.Categorical(condition)
    shell.write("in.h5ad", a)
    done = shell(train(method, "--condition cond"), status=(0, 3))
    assert mentions(done.stderr, "9") or mentions(done.stderr, "NA", "nan"), "text that means missing is not named"
    if done.returncode == 0 and set(cellalign.load(shell.folder / "m").conditions) != {"ctrl", "stim"}:
        assert mentions(done.stderr, "warning"), done.stderr


# Evaluation


def test_case_34_sparse_obsm(shell):
    a = logged(counts())
    latents = np.random.default_rng(0).normal(size=(a.n_obs, 3))
    a.obsm["X_dense"], a.obsm["X_sparse"] = latents, sparse.csr_matrix(latents)
    shell.write("in.h5ad", a)
    line = "evaluate in.h5ad --condition cond --embedding {} --panel mixing --k 10 --format csv"
    tables = [shell(line.format(key)).stdout.replace(key, "X") for key in ("X_dense", "X_sparse")]
    assert tables[0] == tables[1] and tables[0]


def test_case_36_prediction_of_another_tool(shell):
    a = shell.write("in.h5ad", logged(counts()))
    other = a[a.obs["cond"] == "ctrl"].copy()
    other.obs["cond"] = "stim"
    del other.layers["counts"]
    other.uns = {}
    shell.write("other.h5ad", other)
    table = shell("evaluate other.h5ad --against in.h5ad --condition cond --label cell_type --format csv").stdout
    assert any(row["panel"] == "response" for row in csv.DictReader(StringIO(table)))


# The machine


@pytest.fixture
def public():
    """A folder that another user may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owner here")
def test_case_30_unreadable_file(public):
    shell = Shell(public)
    shell.write("in.h5ad", logged(counts()))
    (public / "in.h5ad").chmod(0)
    root = os.geteuid() == 0
    if root:  # who may read everything
        os.seteuid(65534)
    try:
        lines = (train("vae"), "preprocess in.h5ad -o o.h5ad", "evaluate in.h5ad --condition cond")
        said = [shell(line, status=3).stderr for line in lines]
    finally:
        if root:
            os.seteuid(0)
    for text in said:
        assert "damaged" not in text and "no such file" not in text, text
        assert mentions(text, "in.h5ad") and (mentions(text, "permission") or mentions(text, "may not be read")), text


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs to become another user")
def test_case_31_no_home_read_only_package(public):
    counts().write_h5ad(public / "in.h5ad")
    (public / "in.h5ad").chmod(0o644)
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-m", "cellalign"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA", "MPL", "XDG"))}
    environment["HOME"] = "/nonexistent"

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([*user, *arguments], cwd=public, env=environment, capture_output=True, text=True)

    if shutil.which("setpriv") is None or run("--version").returncode:
        pytest.skip("another user cannot reach this environment")
    done = run("preprocess", "in.h5ad", "-o", "o.h5ad", "--n-top-genes", "30")
    assert done.returncode == 0, done.stderr
    assert ad.read_h5ad(public / "o.h5ad").n_vars == 30
    assert dense(ad.read_h5ad(public / "o.h5ad").X).any()
