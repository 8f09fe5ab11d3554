"""Inputs that failed once, by the numbers of `cases.CASES`: formats, matrices, scales, new cells on an old model."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from end_to_end.cases import CASES, LEFT_OUT, Shell, as_compound, counts, dense, logged, mentions, scaled, train
from scipy import sparse

PREPROCESS = "preprocess {} -o o.h5ad --n-top-genes 0 --force"


@pytest.fixture
def shell(tmp_path) -> Shell:
    return Shell(tmp_path)


def test_every_case_has_a_test():
    beside = Path(__file__).parent
    tested = set()
    for name in ("test_cases.py", "test_cases_of_columns.py"):
        tested |= {int(number) for number in re.findall(r"def test_case_(\d+)_", (beside / name).read_text())}
    assert tested == set(CASES) and not tested & set(LEFT_OUT)


# Formats


def renamed_index(group) -> None:
    """The index under another name, and its text once more as a column named _index."""
    from anndata.io import read_elem

    group.move("_index", "rownames")
    group.attrs["_index"] = "rownames"
    group.create_dataset(
        "_index", data=np.asarray(read_elem(group["rownames"]), dtype=object), dtype=h5py.string_dtype()
    )
    group["_index"].attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
    group.attrs.create("column-order", np.array(["_index"], dtype=object), dtype=h5py.string_dtype())


def test_case_14_reserved_index_column(shell):
    a = counts()
    b = logged(a)
    del b.layers["counts"]
    b.raw = a
    shell.write("raw_var.h5ad", b)
    shell.write("var.h5ad", a)
    for name, place in (("raw_var", "raw/var"), ("var", "var")):
        with h5py.File(shell.folder / f"{name}.h5ad", "r+") as handle:
            renamed_index(handle[place])
        shell(PREPROCESS.format(f"{name}.h5ad"))
        made = shell.read("o.h5ad")
        assert list(made.var_names) == list(a.var_names)
        np.testing.assert_array_equal(dense(made.layers["counts"]), dense(a.X))


def test_case_16_mudata_file(shell):
    from anndata.io import write_elem

    rna, protein = counts(), counts(g=12, seed=1)
    protein.var_names = [f"p{name}" for name in protein.var_names]
    with h5py.File(shell.folder / "cells.h5mu", "w", userblock_size=512) as handle:
        handle.attrs.update({"encoding-type": "MuData", "encoding-version": "0.1.0", "encoder": "mudata", "axis": 0})
        for name, modality in (("rna", rna), ("prot", protein)):
            write_elem(handle.require_group("mod"), name, modality)
        handle["mod"].attrs["mod-order"] = ["rna", "prot"]
        write_elem(handle, "obs", rna.obs[[]])
        write_elem(handle, "var", pd.concat([rna.var, protein.var])[[]])
    with open(shell.folder / "cells.h5mu", "r+b") as file:
        file.write(b"MuData (format-version=0.1.0;creator=mudata;creator-version=0.3.1)")
    shutil.copy(shell.folder / "cells.h5mu", shell.folder / "named.h5ad")
    for name in ("cells.h5mu", "named.h5ad"):
        for line in (PREPROCESS.format(name), train("scvi", file=name)):
            said = shell(line, status=(2, 3)).stderr
            assert mentions(said, "rna", "prot", "--modality"), said
            shell(f"{line} --modality rna")
        assert list(shell.read("o.h5ad").var_names) == list(rna.var_names)


@pytest.mark.slow
def test_case_17_legacy_anndata_file(shell):
    new = shell.write("new.h5ad", logged(counts()))
    as_compound(new, shell.folder / "old.h5ad")
    for age in ("old", "new"):
        shell(train("comp", "--condition cond", f"{age}.h5ad", f"m-{age}"))
        shell(f"embed {age}.h5ad -m m-new -o e-{age}.h5ad" if age == "new" else "embed new.h5ad -m m-old -o e0.h5ad")
    shell("embed old.h5ad -m m-new -o e-old.h5ad")
    old, new = shell.read("e-old.h5ad"), shell.read("e-new.h5ad")
    np.testing.assert_allclose(old.obsm["X_comp"], new.obsm["X_comp"], atol=1e-6)
    assert list(old.obs["cell_type"]) == list(new.obs["cell_type"])
    shell("counterfactual old.h5ad -m m-new --to stim -o c.h5ad")
    shell("evaluate c.h5ad --against old.h5ad --condition cond")


def test_case_18_tenx_and_loom(shell):
    a = counts()
    with h5py.File(shell.folder / "a.loom", "w") as handle:
        handle["matrix"] = dense(a.X).T
        handle.create_group("row_attrs")["Gene"] = np.array(a.var_names, dtype="S")
        handle.create_group("col_attrs")["CellID"] = np.array(a.obs_names, dtype="S")
    with h5py.File(shell.folder / "tenx.h5", "w") as handle:  # without its features: nothing can read it
        group = handle.create_group("matrix")
        group["data"], group["indices"], group["indptr"] = a.X.data.astype("int32"), a.X.indices, a.X.indptr
        group["shape"], group["barcodes"] = np.array(a.shape[::-1]), np.array(a.obs_names, dtype="S")
    for name, kind in (("tenx.h5", "10x"), ("a.loom", "loom")):
        for line in (PREPROCESS.format(name), train("scvi", file=name)):
            done = shell(line, status=(0, 3))
            if done.returncode:
                assert mentions(done.stderr.replace("a.loom", ""), kind) and "damaged" not in done.stderr, done.stderr


def test_case_41_api_backed(shell):
    import cellalign

    a = shell.write("in.h5ad", counts())
    backed = ad.read_h5ad(shell.folder / "in.h5ad", backed="r")
    try:
        made = cellalign.preprocess(backed)
    except cellalign.errors.InputError as error:
        assert "to_memory()" in str(error)
        made = cellalign.preprocess(backed.to_memory())
    np.testing.assert_array_equal(dense(made.layers["counts"]), dense(a.X))


def test_case_47_root_encoding_name(shell):
    a = shell.write("in.h5ad", counts())
    with h5py.File(shell.folder / "in.h5ad", "r+") as handle:
        handle.attrs["encoding-type"] = "AnnData"
    shell(PREPROCESS.format("in.h5ad"))
    np.testing.assert_array_equal(dense(shell.read("o.h5ad").layers["counts"]), dense(a.X))
    shell(train("scvi"))
    shell("embed in.h5ad -m m -o e.h5ad")
    assert shell.read("e.h5ad").shape == a.shape


# Matrices and scales


def scores(shell, against: str) -> pd.DataFrame | None:
    """The response panel's table, or None where the comparison is refused for its scale."""
    line = f"evaluate c.h5ad --against {against}.h5ad --condition cond --panel response --format csv"
    done = shell(line, status=(0, 3))
    if done.returncode:
        assert mentions(done.stderr, "counts") or mentions(done.stderr, "scale") or mentions(done.stderr, "total")
        return None
    from io import StringIO

    return pd.read_csv(StringIO(done.stdout))


def test_case_02_evaluate_against_raw_counts(shell):
    a = shell.write("raw.h5ad", counts())
    shell.write("log.h5ad", logged(a))
    shell.write("log1e4.h5ad", logged(a, 1e4))
    shell(train("linear", "--condition cond", "log.h5ad"))
    shell("counterfactual -m m --to stim -o c.h5ad")
    right = scores(shell, "log")
    assert right is not None
    numbers = right.select_dtypes("number")
    for other in ("raw", "log1e4"):
        found = scores(shell, other)
        if found is not None:
            np.testing.assert_allclose(found.select_dtypes("number"), numbers, rtol=0.02, atol=1e-3)


def test_case_03_query_other_target_sum(shell):
    shell.write("raw.h5ad", counts(200, 100))
    shell("preprocess raw.h5ad -o ref.h5ad --n-top-genes 0")
    shell("preprocess raw.h5ad -o q.h5ad --n-top-genes 0 --target-sum 10000")
    shell("train ref.h5ad --method vae --epochs 5 --set hidden=[32] -m m")
    shell("annotate ref.h5ad -m m --label cell_type -o a0.h5ad")
    done = shell("annotate q.h5ad -m m --label cell_type -o a1.h5ad", status=(0, 3))
    assert mentions(done.stderr.replace(",", ""), "10000"), "the other total is not named"
    if done.returncode:
        assert shell.obey(done)
    else:
        a0, a1 = (shell.read(f"a{i}.h5ad").obs["cell_type_predicted"].astype(str) for i in (0, 1))
        assert (a0.to_numpy() == a1.to_numpy()).mean() >= 0.99
    total = shell.read("ref.h5ad").uns["cellalign"]["preprocess"]["target_sum"]
    assert f"{total:g}" in (shell.folder / "m" / "model.yaml").read_text(), "the model does not keep its total"


def test_case_05_concat_zero_filled_counts(shell):
    a, b = counts(), counts(seed=1)
    a.layers["counts"] = a.X.copy()
    b.obs_names = [f"d{name}" for name in b.obs_names]
    whole = shell.write("in.h5ad", ad.concat([a, b], join="outer", label="dataset"))
    done = shell(PREPROCESS.format("in.h5ad"), status=(0, 3))
    assert mentions(done.stderr, "counts")
    if done.returncode == 0:
        np.testing.assert_array_equal(dense(shell.read("o.h5ad").layers["counts"]), dense(whole.X))
    else:
        assert mentions(done.stderr, "--layer X"), "what reads the counts is not said"
        shell(PREPROCESS.format("in.h5ad") + " --layer X")
        assert shell.read("o.h5ad").n_obs == whole.n_obs


def test_case_06_explicit_zeros(shell):
    a = counts()
    x = dense(a.X)
    x[:, 50:] = 0
    full = sparse.csr_matrix(x + 1)
    full.data -= 1
    twice = sparse.csr_matrix(x)  # every value in two parts
    halves = np.repeat(np.floor(twice.data / 2), 2)
    halves[1::2] = twice.data - halves[::2]
    doubled = sparse.csr_matrix(x.shape, dtype="float32")
    doubled.data, doubled.indices, doubled.indptr = halves, np.repeat(twice.indices, 2), twice.indptr * 2
    made = {}
    for name, matrix in (("clean", twice), ("zeros", full), ("doubled", doubled)):
        a.X = matrix
        shell.write(f"{name}.h5ad", a)
        shell(PREPROCESS.format(f"{name}.h5ad") + " --min-genes 30 --min-cells 60")
        made[name] = shell.read("o.h5ad")
    for name in ("zeros", "doubled"):
        assert made[name].shape == made["clean"].shape
        pd.testing.assert_frame_equal(made[name].obs, made["clean"].obs)
        np.testing.assert_allclose(dense(made[name].X), dense(made["clean"].X), rtol=1e-6)


def test_case_21_scaled_x_beside_counts(shell):
    a = counts()
    layer = logged(a)
    layer.X = scaled(layer.X)
    raw = logged(a)
    del raw.layers["counts"]
    raw.raw = a
    raw = raw[:, :40].copy()
    raw.X = scaled(raw.X)
    other = logged(a)
    other.layers["scale.data"] = scaled(other.X)
    for name, made in (("layer", layer), ("raw", raw), ("other", other)):
        shell.write(f"{name}.h5ad", made)
        shell(PREPROCESS.format(f"{name}.h5ad"))
        np.testing.assert_array_equal(dense(shell.read("o.h5ad").layers["counts"]), dense(a.X))


def test_case_22_nan_in_unused_layer(shell):
    a = counts()
    velocity = np.full(a.shape, np.nan, "float32")
    velocity[:10] = 1
    a.layers["velocity"] = velocity
    shell.write("in.h5ad", a)
    shell(PREPROCESS.format("in.h5ad"))
    np.testing.assert_array_equal(dense(shell.read("o.h5ad").layers["counts"]), dense(a.X))


def nearly(kind: str) -> ad.AnnData:
    a = counts()
    x = dense(a.X).astype("float64")
    some = (x > 1) & (np.random.default_rng(0).random(x.shape) < 0.02)
    made = {"noise": np.where(x > 0, x - 1e-6, 0), "em": np.where(some, x - 0.5, x), "soup": x * 0.97}
    a.X = sparse.csr_matrix(made[kind])
    return a


@pytest.mark.parametrize("kind", ["noise", "em", "soup"])
def test_case_23_nearly_integer_counts(shell, kind):
    a = shell.write("in.h5ad", nearly(kind))
    line = PREPROCESS.format("in.h5ad")
    done = shell(line, status=0 if kind == "noise" else (0, 3))
    if done.returncode:
        assert mentions(done.stderr, "--round", "X") and re.search(r"\d[.,]\d", done.stderr), done.stderr
        shell(f"{line} --round")
    found = dense(shell.read("o.h5ad").layers["counts"])
    assert np.array_equal(found, np.round(found))
    assert np.abs(found - dense(a.X)).max() <= 0.5 + 1e-6
    if kind == "noise":
        np.testing.assert_array_equal(found, dense(counts().X))


def test_case_23_trained_on(shell):
    shell.write("in.h5ad", nearly("em"))
    for line in (train("scvi"), train("comp", "--condition cond")):
        done = shell(line, status=(0, 3))
        assert mentions(done.stderr, "round"), done.stderr
        if done.returncode:
            assert "--round" in done.stderr
            assert shell.obey(done) or shell(f"{line} --round")


def test_case_24_counts_in_another_layer(shell):
    a = logged(counts())
    a.layers["raw_counts"] = a.layers.pop("counts")
    shell.write("in.h5ad", a)
    done = shell(PREPROCESS.format("in.h5ad"), status=(0, 3))
    assert mentions(done.stderr, "raw_counts"), done.stderr
    if done.returncode:
        assert mentions(done.stderr, "--layer")
    shell(PREPROCESS.format("in.h5ad") + " --layer raw_counts")
    np.testing.assert_array_equal(dense(shell.read("o.h5ad").layers["counts"]), dense(counts().X))


@pytest.mark.slow
def test_case_25_only_log_expression(shell):
    a = logged(counts())
    del a.layers["counts"]
    log = shell.write("log.h5ad", a)
    a = log.copy()
    a.raw = log
    a.X = scaled(a.X)
    shell.write("scaled.h5ad", a)
    shell("preprocess log.h5ad -o o.h5ad --n-top-genes 0")
    made = shell.read("o.h5ad")
    np.testing.assert_allclose(dense(made.X), dense(log.X), rtol=1e-6)
    assert "counts" not in made.layers
    shell(train("comp", "--condition cond", "log.h5ad"))
    for line in (PREPROCESS.format("scaled.h5ad"), train("comp", "--condition cond", "scaled.h5ad")):
        done = shell(line, status=(0, 3))
        if done.returncode:
            if "--raw" in done.stderr:
                shell(f"{line} --raw")
            else:
                advised = shell.obey(done)
                assert advised, done.stderr
                shell(line.replace("scaled.h5ad", advised[-1].split(" -o ")[-1].split()[0]))
        elif line.startswith("preprocess"):
            np.testing.assert_allclose(dense(shell.read("o.h5ad").X), dense(log.X), rtol=1e-6)


@pytest.mark.slow
def test_case_37_false_warning_of_scanpy(shell):
    a = logged(counts())
    a.uns["log1p"] = {"base": None}
    shell.write("in.h5ad", a)
    command = [sys.executable, "-m", "cellalign", *"preprocess in.h5ad -o o.h5ad --n-top-genes 30 -q".split()]
    done = subprocess.run(command, cwd=shell.folder, capture_output=True, text=True)  # scanpy writes past the test
    assert done.returncode == 0 and done.stderr == "" == done.stdout, done.stderr


def test_case_39_not_logged_but_small(shell):
    x = dense(counts().X)
    share = x / x.sum(1, keepdims=True)
    matrices = {"median": share * np.median(x.sum(1)) / 4, "fractions": share, "clipped_z": np.clip(scaled(x), 0, 10)}
    words = {"median": ("log", "normalised"), "fractions": ("fraction", "sum"), "clipped_z": ("scaled", "z-score")}
    for name, matrix in matrices.items():
        a = counts()
        a.X = sparse.csr_matrix(matrix.astype("float32"))
        shell.write(f"{name}.h5ad", a)
        done = shell(train("linear", "--condition cond", f"{name}.h5ad"), status=(0, 3))
        assert any(mentions(done.stderr.replace(f"{name}.h5ad", ""), word) for word in words[name]), done.stderr


def test_case_43_qc_columns_overwritten(shell):
    a = counts()
    a.obs["n_counts"], a.obs["n_genes"] = 12345.0, 999
    shell.write("in.h5ad", a)
    shell(PREPROCESS.format("in.h5ad"))
    made = shell.read("o.h5ad").obs
    assert set(made["n_counts"]) == {12345.0} and set(made["n_genes"]) == {999}


# New cells on an old model, and its own outputs


def test_case_26_new_cells_hint(shell):
    shell.write("ref.h5ad", counts(120, 80))
    new = shell.write("new.h5ad", counts(100, 80, seed=5))
    shell("preprocess ref.h5ad -o ref.pp.h5ad --n-top-genes 40")
    shell(train("vae", file="ref.pp.h5ad"))
    shell("embed new.h5ad -m m -o e.h5ad")
    shell("preprocess new.h5ad --like m -o new.pp.h5ad")
    shell("embed new.pp.h5ad -m m -o e2.h5ad")
    e, e2 = shell.read("e.h5ad"), shell.read("e2.h5ad")
    assert list(e.obs_names) == list(new.obs_names)
    np.testing.assert_allclose(e.obsm["X_vae"], e2.obsm["X_vae"], atol=1e-5)
    # what was done to these cells is what was done to the training file
    reference, known = shell.read("ref.pp.h5ad"), shell.read("new.pp.h5ad")
    assert list(known.var_names) == list(reference.var_names)
    total = reference.uns["cellalign"]["preprocess"]["target_sum"]
    x = dense(new.X)
    wanted = np.log1p(x / x.sum(1, keepdims=True) * total)
    columns = [list(new.var_names).index(name) for name in known.var_names]
    np.testing.assert_allclose(dense(known.X), wanted[:, columns], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_case_44_own_prediction_refused(shell):
    shell.write("in.h5ad", logged(counts()))
    shell(train("linear", "--condition cond"))
    shell("counterfactual -m m --to ctrl --from stim -o c.h5ad")
    older = shell.read("c.h5ad")  # before predictions of log expression ended at zero
    older.X = older.X - np.float32(0.2)
    shell.write("older.h5ad", older)
    for name in ("c", "older"):
        shell(f"embed {name}.h5ad -m m -o e.h5ad --force")
        shell(f"annotate {name}.h5ad -m m --label cell_type -o a.h5ad --force")
        shell(train("vae", file=f"{name}.h5ad", model="m2"))


def test_case_45_counts_model_new_file(shell):
    a = shell.write("raw.h5ad", counts())
    shell.write("pp.h5ad", logged(a))
    shell(train("scvi", file="pp.h5ad"))
    shell(train("scvi", file="raw.h5ad", model="m2"))
    for model in ("m", "m2"):
        for file in ("raw", "pp"):
            shell(f"embed {file}.h5ad -m {model} -o {file}.{model}.h5ad")
        one, other = (shell.read(f"{file}.{model}.h5ad").obsm["X_scvi"] for file in ("raw", "pp"))
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.slow
def test_case_40_damaged_model_yaml(shell):
    import yaml

    shell.write("in.h5ad", logged(counts()))
    shell(train("vae"))
    path = shell.folder / "m" / "model.yaml"
    whole = path.read_text()
    keys = list(yaml.safe_load(whole))
    for key in keys:
        path.write_text(yaml.safe_dump({k: v for k, v in yaml.safe_load(whole).items() if k != key}))
        done = shell("embed in.h5ad -m m -o e.h5ad --force", status=(0, 4))
        if key in ("genes", "matrix", "method", "hyperparameters", "fields"):
            assert done.returncode == 4 and mentions(done.stderr, "model.yaml"), (key, done.stderr)
    short = yaml.safe_load(whole)
    short["genes"].pop()
    path.write_text(yaml.safe_dump(short))
    shell("embed in.h5ad -m m -o e.h5ad --force", status=4)
