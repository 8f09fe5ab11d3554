"""Commands take files of any format, several at once, and write what the output ends in."""

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.io import mmwrite

FAST = ["--set", "hidden=[8]", "--set", "latent_dim=3", "--epochs", 1]


@pytest.fixture
def here(kang_raw, kang_like, tmp_path, cellalign):
    """A folder with raw and preprocessed cells, and the command in it."""
    for source, name in ((kang_raw, "raw"), (kang_like, "pp")):
        cells = ad.read_h5ad(source)
        cells[::2].copy().write_h5ad(tmp_path / f"{name}1.h5ad")
        cells[1::2].copy().write_zarr(tmp_path / f"{name}2.zarr")
    run = cellalign(cwd=tmp_path)

    def works(*arguments):
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
        return done

    works.folder, works.run = tmp_path, run
    return works


@pytest.mark.slow
def test_every_command_takes_several_files_and_writes_a_store(here):
    folder = here.folder
    done = here("preprocess", "raw1.h5ad", "raw2.zarr", "--file-key", "lane", "-o", "pp.zarr", "--batch", "lane")
    assert "2 files: 400 cells (raw1 200, raw2 200)" in done.stderr
    here(
        "train",
        "pp1.h5ad",
        "pp2.zarr",
        "--file-key",
        "lane",
        "--condition",
        "stim",
        "--batch",
        "lane",
        *FAST,
        "--method",
        "cvae",
        "-o",
        "t.zarr",
    )
    here("embed", "-o", "again.zarr")  # the training files, read as in training
    trained, again = ad.read_zarr(folder / "t.zarr"), ad.read_zarr(folder / "again.zarr")
    assert list(again.obs["lane"].cat.categories) == ["pp1", "pp2"] and again.n_obs == 400
    np.testing.assert_array_equal(trained.obsm["X_cvae"], again.obsm["X_cvae"])
    assert "counts" in again.layers
    here("counterfactual", "--to", "stimulated", "-o", "c.zarr")
    here("counterfactual", "pp1.h5ad", "pp2.zarr", "--file-key", "lane", "--to", "stimulated", "-o", "c.h5ad")
    same = ad.read_zarr(folder / "c.zarr"), ad.read_h5ad(folder / "c.h5ad")
    np.testing.assert_array_equal(same[0].X, same[1].X)
    np.testing.assert_array_equal(same[0].layers["source"].toarray(), same[1].layers["source"].toarray())
    here("annotate", "pp2.zarr", "--label", "cell_type", "-o", "n.zarr")
    assert "cell_type_predicted" in ad.read_zarr(folder / "n.zarr").obs
    here("evaluate", "c.zarr", "--against", "pp2.zarr", "--condition", "stim", "--label", "cell_type")
    here("evaluate", "t.zarr", "--condition", "stim", "--panel", "probe")
    here(
        "tune",
        "pp1.h5ad",
        "pp2.zarr",
        "--condition",
        "stim",
        "--grid",
        "beta=1",
        "--seeds",
        1,
        "--method",
        "cvae",
        *FAST,
        "-m",
        "tuned",
    )
    told = here.run("embed", "-o", "x.h5ad", "--modality", "rna")
    assert told.returncode == 2 and "--modality rna needs INPUT" in told.stderr
    (folder / "pp2.zarr" / "X" / "extra").write_text("changed")
    told = here.run("embed", "-o", "x.h5ad")
    assert told.returncode == 3 and "pp2.zarr has changed since training" in told.stderr


@pytest.mark.slow
def test_a_matrix_folder_with_its_metadata_in_a_table(here):
    cells, folder = ad.read_h5ad(here.folder / "raw1.h5ad"), here.folder / "matrices"
    folder.mkdir()
    mmwrite(folder / "matrix.mtx", cells.X.T.astype(int))
    pd.Series(cells.var_names).to_csv(folder / "features.tsv", header=False, index=False)
    pd.Series(cells.obs_names + "-1").to_csv(folder / "barcodes.tsv", header=False, index=False)
    cells.obs[["stim", "cell_type"]].to_csv(here.folder / "cells.csv")
    done = here("preprocess", "matrices", "--obs", "cells.csv", "-o", "o.h5ad", "--n-top-genes", 50)
    assert "200 of 200 cells matched" in done.stderr
    here("train", "o.h5ad", "--condition", "stim", "--method", "cvae", *FAST)
    # also for a model trained with it: the table is read again
    o = ad.read_h5ad(here.folder / "o.h5ad")
    del o.obs["stim"]
    o.write_h5ad(here.folder / "bare.h5ad")
    here("train", "bare.h5ad", "--obs", "cells.csv", "--condition", "stim", "--method", "cvae", *FAST, "--force")
    here("embed", "-o", "e.h5ad")
    assert "stim" in ad.read_h5ad(here.folder / "e.h5ad").obs


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("o.csv", "--output o.csv ends in .csv; cells are written to .h5ad or .zarr (- is standard output)"),
        pytest.param("o", "--output o has no ending", marks=pytest.mark.slow),
        pytest.param("new/", "--output new/ is a folder; name a file in it", marks=pytest.mark.slow),
        pytest.param("there", "--output there is a folder; name a file in it", marks=pytest.mark.slow),
        ("there.zarr", "output there.zarr exists and is no zarr store, so it is not replaced"),
        pytest.param("there.h5ad", "output there.h5ad is a folder and is not replaced", marks=pytest.mark.slow),
    ],
)
def test_an_output_that_is_no_file_of_cells_is_refused_before_the_work(here, output, says):
    for name in ("there", "there.zarr", "there.h5ad"):
        (here.folder / name).mkdir()
        (here.folder / name / "mine").write_text("kept")
    commands = [
        ("preprocess", "none.h5ad"),
        ("train", "none.h5ad", "-m", "m"),
        ("simulate", "ifnb"),
        ("simulate", "sparse-shift"),
    ]
    for command in commands:
        told = here.run(*command, "-o", output, "--force")
        assert told.returncode == 2 and says in told.stderr, (command, told.stderr)
    assert (here.folder / output / "mine").exists() == (output.startswith("there"))


@pytest.mark.slow
def test_a_store_is_replaced_whole_or_not_at_all(here):
    here("preprocess", "raw1.h5ad", "-o", "o.zarr")
    assert here.run("preprocess", "raw2.zarr", "-o", "o.zarr").returncode == 2
    here("preprocess", "raw2.zarr", "-o", "o.zarr", "--force", "--n-top-genes", 30)
    assert ad.read_zarr(here.folder / "o.zarr").n_vars == 30
    assert here.run("preprocess", "o.zarr", "-o", "o.zarr", "--force").returncode == 2
    assert not [path.name for path in here.folder.iterdir() if "partial" in path.name]


def test_what_anndata_013_wrote_goes_through_every_command(here):
    cells = ad.read_h5ad(here.folder / "pp1.h5ad")
    for key in ("stim", "cell_type"):
        cells.obs[key] = pd.array(cells.obs[key].astype(str), dtype="string")
    cells.obs_names = pd.Index(list(cells.obs_names), dtype="string")
    with ad.settings.override(allow_write_nullable_strings=True):
        ad.AnnData.write_h5ad(cells, here.folder / "new.h5ad", convert_strings_to_categoricals=False)
    here("preprocess", "new.h5ad", "-o", "p.h5ad")
    here("train", "new.h5ad", "--condition", "stim", "--method", "cvae", *FAST, "-o", "t.h5ad")
    here("embed", "new.h5ad", "-o", "e.h5ad")
    here("counterfactual", "new.h5ad", "--to", "stimulated", "-o", "c.h5ad")
    here("annotate", "new.h5ad", "--label", "cell_type", "-o", "n.h5ad")
    for name in "ptecn":
        with h5py.File(here.folder / f"{name}.h5ad") as handle:
            found = set()
            handle.visititems(lambda _, element, found=found: found.add(element.attrs.get("encoding-type")))
        assert not found & {"nullable-string-array", "null"}, name


@pytest.mark.slow
def test_a_modality_of_a_mudata_file(here):
    cells = ad.read_h5ad(here.folder / "pp1.h5ad")
    with h5py.File(here.folder / "x.h5mu", "w", userblock_size=512) as handle:
        handle.attrs.update({"encoding-type": "MuData", "encoding-version": "0.1.0", "axis": 0})
        mod = handle.create_group("mod")
        ad.io.write_elem(mod, "rna", cells)
        ad.io.write_elem(mod, "prot", cells[:, :5].copy())
    told = here.run("train", "x.h5mu", "--condition", "stim", "--method", "cvae", *FAST)
    assert told.returncode == 3 and "name one with --modality NAME: prot, rna" in told.stderr
    here("train", "x.h5mu", "--modality", "rna", "--condition", "stim", "--method", "cvae", *FAST)
    here("embed", "-o", "e.h5ad")
    assert ad.read_h5ad(here.folder / "e.h5ad").n_vars == cells.n_vars
