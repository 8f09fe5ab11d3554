"""What holds no cells is named for what it is; outputs in both formats, which every anndata reads; several files."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import pickle
import subprocess
import tarfile
import zipfile
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
from corpus.drive import digest, one_error
from corpus.manifest import cells
from running import in_this_process
from scipy import sparse

# Python programs with the anndata of an age each, to read what is written here: CELLALIGN_ANNDATAS=/a/python:/b/python
ANNDATAS = [path for path in os.environ.get("CELLALIGN_ANNDATAS", "").split(os.pathsep) if path]


def run(folder: Path, *words: object, status: int = 0) -> str:
    """What a command says, or of one that fails its error."""
    done = in_this_process(words, folder)
    if status:
        return one_error(done.returncode, done.stderr, done.stderr)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("cells.h5ad", "no cells")
    return file.getvalue()


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as packed:
        packed.addfile(tarfile.TarInfo("matrix.mtx"), io.BytesIO())
    return file.getvalue()


def _h5seurat() -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as handle:
        handle.attrs["project"], handle.attrs["version"] = "SeuratProject", "3.1.5.9900"
        handle.attrs["active.assay"] = "RNA"
        handle.create_group("assays/RNA")["features"] = np.array(cells.SYMBOLS, dtype="S")
        handle["cell.names"] = np.array(cells.BARCODES, dtype="S")
        handle.create_group("meta.data")
    return file.getvalue()


def _keras() -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as handle:
        handle.create_group("model_weights")
    return file.getvalue()


# a name, its bytes, and the words of which one has to be said beside the name
CONTAINERS = {
    "cells.rds": (
        gzip.compress(b"X\n\x00\x00\x00\x03\x00\x04\x03\x00", mtime=0),
        ("RDS", "R object", "saveRDS", " R "),
    ),
    "cells.RData": (gzip.compress(b"RDX3\nX\n", mtime=0), ("RData", "R object", " R ")),
    "cells.h5seurat": (_h5seurat(), ("Seurat",)),
    "cells.h5": (_keras(), ("HDF5",)),
    "cells.zip": (_zip(), ("zip",)),
    "cells.tar.gz": (_tar(), ("tar",)),
    "cells.h5ad.bz2": (bz2.compress(b"no cells"), ("bzip2", "bz2", "compressed", "table")),
    "cells.pkl": (pickle.dumps({"X": [1]}), ("pickle",)),
    "cells.parquet": (b"PAR1....PAR1", ("parquet",)),
    "cells.npz": (_zip(), ("zip", "npz", "NumPy")),
    "cells.xlsx": (_zip(), ("zip", "xlsx", "Excel")),
    "empty.h5ad": (b"", ("empty",)),
    "page.h5ad": (b"<!DOCTYPE html><html>Sign in</html>", ("HTML", "web page")),
    "pointer.h5ad": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", ("LFS",)),
}
MAY_BE_DAMAGED = ("empty.h5ad", "cells.h5")


@pytest.mark.parametrize("name", CONTAINERS)
def test_what_is_no_file_of_cells(name, tmp_path):
    content, words = CONTAINERS[name]
    (tmp_path / name).write_bytes(content)
    before = digest(tmp_path)
    for line in (("preprocess", name, "-o", "o.h5ad"), ("train", name, "--method", "vae", "-m", "m")):
        error = run(tmp_path, *line, status=3)
        said = error.replace(name, "")
        assert name in error and any(word.lower() in said.lower() for word in words), error
        assert "damaged" not in error or name in MAY_BE_DAMAGED, error
    assert digest(tmp_path) == before


def test_a_folder_of_nothing(tmp_path):
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "notes.txt").write_text("nothing")
    assert "cells" in run(tmp_path, "preprocess", "cells", "-o", "o.h5ad", status=3)


@pytest.mark.slow
def test_outputs_as_zarr(corpus, reference, tmp_path):
    run(tmp_path, "preprocess", corpus / "plain.h5ad", "-o", "pp.zarr", "--n-top-genes", 0)
    model = reference.folder / "comp"
    run(tmp_path, "embed", "pp.zarr", "-m", model, "-o", "e.zarr")
    run(tmp_path, "counterfactual", "pp.zarr", "-m", model, "--to", "stimulated", "-o", "c.zarr")
    run(tmp_path, "annotate", "pp.zarr", "-m", model, "--label", "cell_type", "-o", "a.zarr")
    run(tmp_path, "evaluate", "c.zarr", "--against", "pp.zarr", "--condition", "stim")
    made, wanted = ad.read_zarr(tmp_path / "e.zarr"), reference.read("e.h5ad")
    assert list(made.obs_names) == list(wanted.obs_names)
    np.testing.assert_allclose(made.obsm["X_comp"], wanted.obsm["X_comp"], atol=1e-5)
    x, known = ad.read_zarr(tmp_path / "c.zarr").X, reference.read("c.h5ad").X
    np.testing.assert_allclose(np.asarray(x), np.asarray(known), atol=1e-4)
    error = run(tmp_path, "embed", "pp.zarr", "-m", model, "-o", "e.zarr", status=2)
    assert "--force" in error
    run(tmp_path, "embed", "pp.zarr", "-m", model, "-o", "e.zarr", "--force")


@pytest.mark.parametrize("output", ["o.csv", "o.loom", "o.txt", "new/", "there"])
def test_outputs_that_are_refused_before_the_work(output, corpus, reference, tmp_path):
    (tmp_path / "there").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())
    for line in (
        ("preprocess", corpus / "plain.h5ad"),
        ("embed", corpus / "plain.h5ad", "-m", reference.folder / "comp"),
        ("counterfactual", corpus / "plain.h5ad", "-m", reference.folder / "comp", "--to", "stimulated"),
    ):
        done = in_this_process([*line, "-o", output], tmp_path)
        error = one_error(done.returncode, done.stderr, done.stderr)
        assert done.returncode in (2, 3) and output.strip("/") in error, error
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_several_files(corpus, tmp_path):
    whole = ad.read_h5ad(corpus / "plain.h5ad")
    whole[:25].write_h5ad(tmp_path / "one.h5ad")
    second = whole[25:].copy()
    second = second[:, ::-1].copy()  # genes in another order
    second.X = sparse.csc_matrix(second.X)
    second.write_h5ad(tmp_path / "two.h5ad")
    run(tmp_path, "preprocess", "one.h5ad", "two.h5ad", "--file-key", "file", "-o", "pp.h5ad", "--n-top-genes", 0)
    made = ad.read_h5ad(tmp_path / "pp.h5ad")
    assert made.n_obs == whole.n_obs and made.obs["file"].nunique() == 2
    assert [str(v) for v in made.obs["file"]] == sorted(str(v) for v in made.obs["file"])
    counts = made[:, list(whole.var_names)].layers["counts"].toarray()
    np.testing.assert_array_equal(counts, whole.X.toarray())


READ = """
import sys, anndata
for path in sys.argv[1:]:
    cells = anndata.read_h5ad(path)
    assert cells.shape == ({n}, {g}), (path, cells.shape)
    assert list(cells.obs_names) == {names!r} and set(cells.obs["stim"]) <= {conditions!r}
print(anndata.__version__)
"""


@pytest.mark.slow
@pytest.mark.skipif(not ANNDATAS, reason="CELLALIGN_ANNDATAS names no Python")
@pytest.mark.parametrize("python", ANNDATAS)
@pytest.mark.parametrize(
    "name", ["plain.h5ad", "anndata-0.13.h5ad", "anndata-0.6.h5ad", "odd-columns.h5ad", "cellxgene.h5ad"]
)
def test_every_anndata_reads_what_is_written(name, python, corpus, reference, tmp_path):
    run(tmp_path, "preprocess", corpus / name, "-o", "pp.h5ad", "--n-top-genes", 0)
    more = ("--gene-key", "feature_name") if name == "cellxgene.h5ad" else ()
    run(tmp_path, "embed", corpus / name, "-m", reference.folder / "comp", "-o", "e.h5ad", *more)
    run(
        tmp_path,
        "annotate",
        corpus / name,
        "-m",
        reference.folder / "comp",
        "--label",
        "cell_type",
        "-o",
        "a.h5ad",
        *more,
    )
    expected = {
        "n": cells.N_CELLS,
        "g": len(cells.SYMBOLS),
        "names": cells.BARCODES,
        "conditions": set(cells.CONDITIONS),
    }
    program = READ.format(**expected)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    files = [str(tmp_path / made) for made in ("pp.h5ad", "e.h5ad", "a.h5ad")]
    done = subprocess.run(
        [python, "-W", "ignore", "-c", program, *files], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
