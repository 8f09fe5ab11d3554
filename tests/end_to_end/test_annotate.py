"""cellalign annotate: cell types into a copy of the query, a table of scores, and no file touched by a mistake."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tempfile
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

COLUMNS = ["cell_type_predicted", "cell_type_probability", "cell_type_unknown"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, kang_like, cellalign):
    """Half of the cells as reference, a PCA and a VAE of them, the other half as query; the reference without NK."""
    folder = tmp_path_factory.mktemp("annotate")
    cells = ad.read_h5ad(kang_like)
    half = np.arange(cells.n_obs) % 2 == 0
    cells[half].copy().write_h5ad(folder / "reference.h5ad")
    cells[~half].copy().write_h5ad(folder / "query.pp.h5ad")
    run = cellalign(cwd=folder)
    for method, options in (("pca", ()), ("vae", ("--epochs", 3, "--set", "hidden=[32]"))):
        label = ("--label", "cell_type", "--set", "latent_dim=10", "-m", method)
        done = run("train", "reference.h5ad", "--method", method, *label, *options)
        assert done.returncode == 0, done.stderr
    few = cells[half & ~cells.obs["cell_type"].isin(["NK"])].copy()
    few.write_h5ad(folder / "without_nk.h5ad")
    return folder


@pytest.fixture
def run(workplace, cellalign):
    return cellalign(cwd=workplace)


def accuracy(cells):
    return np.mean(cells.obs["cell_type_predicted"].astype(str) == cells.obs["cell_type"].astype(str))


def digest(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def test_a_copy_with_three_columns_and_a_table(run, workplace):
    done = run("annotate", "query.pp.h5ad", "-m", "pca")
    assert done.returncode == 0, done.stderr
    before, after = (ad.read_h5ad(workplace / name) for name in ("query.pp.h5ad", "query.annotated.h5ad"))
    assert list(after.obs) == [*before.obs, *COLUMNS]
    assert (after.X != before.X).nnz == 0 and (after.layers["counts"] != before.layers["counts"]).nnz == 0
    assert after.obs["cell_type_predicted"].dtype == "category"
    assert after.obs["cell_type_probability"].dtype == np.float32 and after.obs["cell_type_unknown"].dtype == bool
    assert accuracy(after) > 0.7
    record = after.uns["cellalign"]
    annotation = record["annotation"]["cell_type"]
    assert "preprocess" in record and annotation["classifier"] == "auto" and annotation["method"] == "pca"
    assert annotation["reference"].endswith("reference.h5ad")
    for word in ("average ↑", "minimum", "maximum", "median", "all cells", "macro F1 ↑", "unknown ↓", "CD14 Mono"):
        assert word in done.stdout
    assert "200 cells" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_tables_for_programs_say_the_same(run, workplace):
    as_json = run("annotate", "query.pp.h5ad", "-m", "pca", "--force", "--format", "json", "-q")
    as_csv = run("annotate", "query.pp.h5ad", "-m", "pca", "--force", "--format", "csv", "-q")
    assert as_json.returncode == as_csv.returncode == 0 and as_json.stderr == ""
    rows = json.loads(as_json.stdout)["scores"]
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows] == list(
        csv.DictReader(io.StringIO(as_csv.stdout))
    )
    value = {(row["panel"], row["group"], row["metric"]): row["value"] for row in rows}
    after = ad.read_h5ad(workplace / "query.annotated.h5ad")
    right = (after.obs["cell_type_predicted"].astype(str) == after.obs["cell_type"].astype(str)).to_numpy()
    each = right[after.obs["cell_type"] == "B"].mean()
    assert value["accuracy over cell_type", "all", "all cells"] == pytest.approx(right.mean())
    assert value["cell_type", "B", "accuracy"] == pytest.approx(each)


def test_another_reference_without_one_of_the_types(run, workplace):
    options = ("-m", "pca", "--reference", "without_nk.h5ad", "--classifier", "knn", "--k", 5, "-o", "two.h5ad")
    done = run("annotate", "query.pp.h5ad", *options, "--format", "csv")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    novel = [row for row in rows if row["panel"] == "not in the reference"]
    assert [(row["group"], row["metric"]) for row in novel] == [("NK", "unknown")]
    after = ad.read_h5ad(workplace / "two.h5ad")
    flagged = after.obs.loc[after.obs["cell_type"] == "NK", "cell_type_unknown"]
    assert float(novel[0]["value"]) == pytest.approx(flagged.mean()) and int(novel[0]["n_cells"]) == len(flagged)
    assert "NK" not in after.obs["cell_type_predicted"].cat.categories
    assert after.uns["cellalign"]["annotation"]["cell_type"]["k"] == 5


@pytest.mark.slow
def test_through_pipes_with_a_network_and_without_labels(workplace, cellalign):
    query = ad.read_h5ad(workplace / "query.pp.h5ad")
    del query.obs["cell_type"]
    with tempfile.TemporaryDirectory() as folder:
        query.write_h5ad(Path(folder) / "bare.h5ad")
        piped = (Path(folder) / "bare.h5ad").read_bytes()
        done = cellalign(cwd=workplace)("annotate", "-", "-m", "vae", "-o", "-", stdin=piped, text=False)
        assert done.returncode == 0, done.stderr
        (Path(folder) / "out.h5ad").write_bytes(done.stdout)
        after = ad.read_h5ad(Path(folder) / "out.h5ad")
        printed = cellalign(cwd=workplace)(
            "annotate", Path(folder) / "bare.h5ad", "-m", "vae", "-o", f"{folder}/o.h5ad"
        )
        again = ad.read_h5ad(Path(folder) / "o.h5ad")
    assert list(after.obs) == [*query.obs, *COLUMNS]
    assert after.obs["cell_type_probability"].between(0.01, 1).all()
    assert after.obs.equals(again.obs)
    assert "predicted" in printed.stdout and "no cell has a 'cell_type'" in printed.stderr


def test_mistakes_change_nothing(run, workplace, mistaken):
    cells = ad.read_h5ad(workplace / "reference.h5ad")
    cells[cells.obs["cell_type"] == "B"].copy().write_h5ad(workplace / "one.h5ad")
    cells[:, 3:].copy().write_h5ad(workplace / "fewer.h5ad")
    (workplace / "there.h5ad").write_bytes(b"a user's file")
    if not (workplace / "bare").exists():
        assert run("train", "reference.h5ad", "--method", "pca", "-m", "bare").returncode == 0
    base, out = ("annotate", "query.pp.h5ad"), ("-m", "pca", "-o", "new.h5ad")
    before = digest(workplace)
    for arguments, status, says in (
        ((*base, *out, "--label", "celltype"), 3, "'cell_type'"),
        ((*base, *out, "--reference", "one.h5ad"), 3, "one label only"),
        ((*base, *out, "--reference", "fewer.h5ad"), 3, "reference: the input lacks 3"),
        (("annotate", "nothing.h5ad", *out), 3, "no such file"),
        ((*base, "-m", "pca", "-o", "query.pp.h5ad", "--force"), 2, "is the input"),
        ((*base, "-m", "pca", "-o", "reference.h5ad", "--force"), 2, "is the input"),
        ((*base, "-m", "pca", "-o", "there.h5ad"), 2, "--force"),
        ((*base, "-m", "pca", "-o", "no/folder/n.h5ad"), 3, "no/folder"),
        ((*base, "-m", "bare", "-o", "new.h5ad"), 2, "--label"),
        ((*base, "-m", "none", "-o", "new.h5ad"), 4, "no model directory"),
        ((*base, *out, "--k", "0"), 2, "--k"),
        ((*base, *out, "--classifier", "forest"), 2, "--classifier"),
    ):
        done = mistaken(cwd=workplace)(*arguments)
        assert done.returncode == status, (arguments, done.stderr)
        assert says in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert done.stdout == "" and digest(workplace) == before, arguments


def test_a_training_file_that_is_gone(kang_like, cellalign, tmp_path):
    run = cellalign(cwd=tmp_path)
    (tmp_path / "cells.h5ad").write_bytes(kang_like.read_bytes())
    assert run("train", "cells.h5ad", "--method", "pca", "--label", "cell_type", "-m", "pca").returncode == 0
    (tmp_path / "cells.h5ad").unlink()
    before = digest(tmp_path)
    done = run("annotate", kang_like, "-m", "pca", "-o", "new.h5ad")
    assert done.returncode == 3 and "gone" in done.stderr and "--reference FILE" in done.stderr, done.stderr
    assert digest(tmp_path) == before
    named = run("annotate", kang_like, "-m", "pca", "-o", "new.h5ad", "--reference", kang_like)
    assert named.returncode == 0 and (tmp_path / "new.h5ad").is_file(), named.stderr
