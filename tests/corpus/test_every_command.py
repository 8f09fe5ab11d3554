"""Every file of the corpus through every command: done, and rightly so, or refused with advice that works.

`drive.py` types the commands and obeys the advice; here is what has to come of it. docs/files.md is the table of it.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from corpus.drive import COMMANDS, Driven, drive
from corpus.manifest import FILES, File, cells
from running import in_this_process
from scipy import sparse

# in the fast suite every file chosen for it is preprocessed, and the others of these commands are shared out among them
FAST_FOR_ALL = ("preprocess",)
FAST = {
    "train": ("anndata-0.13.h5ad", "packed.h5ad.gz"),
    "counterfactual": ("anndata-0.6.h5ad", "anndata-0.13-v3.zarr"),
    "embed": ("anndata-0.6.h5ad", "anndata-0.13.h5ad", "anndata-0.13-v3.zarr", "cellxgene.h5ad", "seuratdisk.h5ad"),
    "annotate": ("anndata-0.13.h5ad", "cellxgene.h5ad"),
    "against": ("anndata-0.6.h5ad", "two-modalities.h5mu"),
    "targets": ("anndata-0.13.h5ad",),
    "benchmark": ("anndata-0.13.h5ad",),
}
TUNED = ("anndata-0.6.h5ad", "anndata-0.13.h5ad", "anndata-0.13-v3.zarr", "cellranger-3.h5", "two-modalities.h5mu")


def is_fast(file: File, command: str) -> bool:
    return file.fast and (command in FAST_FOR_ALL or file.name in FAST.get(command, ()))


PAIRS = [
    pytest.param(file, command, id=f"{command}-{file.name}", marks=() if is_fast(file, command) else pytest.mark.slow)
    for file in FILES.values()
    for command in COMMANDS
    if command != "tune" or file.name in TUNED
]


@pytest.mark.parametrize(("file", "command"), PAIRS)
def test_a_file_through_a_command(file, command, corpus, reference, tmp_path):
    driven = drive(command, file, corpus, tmp_path, reference)
    if driven.status == 0:
        RIGHT[command](driven, file, tmp_path, reference)


# What is right


def dense(x) -> np.ndarray:
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


def output(driven: Driven, folder: Path) -> ad.AnnData:
    return ad.read_h5ad(folder / str(driven.line[driven.line.index("-o") + 1]))


def assert_cells(adata: ad.AnnData) -> None:
    assert list(adata.obs_names) == cells.BARCODES


def symbols(adata: ad.AnnData) -> list[str]:
    """The genes of an output by the symbols of the truth, whichever names it bears."""
    known = dict(zip(cells.ENSEMBL, cells.SYMBOLS, strict=True))
    return [known.get(name.split(".")[0], name) for name in adata.var_names.astype(str)]


def assert_genes(adata: ad.AnnData, file: File) -> None:
    assert adata.var_names.is_unique
    found = symbols(adata)
    if file.genes == "repeated" and sorted(found) != sorted(cells.SYMBOLS):  # mended by making the symbols unique
        assert len(found) == len(cells.SYMBOLS)
    else:
        assert sorted(found) == sorted(cells.SYMBOLS)


def in_order(x: np.ndarray, adata: ad.AnnData) -> np.ndarray:
    """Columns of the truth in the order of an output's genes."""
    found = symbols(adata)
    if sorted(found) != sorted(cells.SYMBOLS):
        return x
    return x[:, [cells.SYMBOLS.index(name) for name in found]]


def right_preprocessing(driven, file, folder, reference):
    made = output(driven, folder)
    assert_cells(made)
    assert_genes(made, file)
    np.testing.assert_allclose(dense(made.X), in_order(cells.logged(cells.counts()), made), rtol=1e-5, atol=1e-6)
    if file.counts:
        np.testing.assert_array_equal(dense(made.layers["counts"]), in_order(cells.counts(), made))
    else:
        assert "counts" not in made.layers
    if file.columns:
        assert_columns(made, file)
    assert_every_anndata_reads(folder / str(driven.line[driven.line.index("-o") + 1]))


def assert_columns(made: ad.AnnData, file: File) -> None:
    code = dict(zip(cells.CONDITIONS, file.conditions, strict=True))
    assert [str(value) for value in made.obs["stim"]] == [code[value] for value in cells.STIM]
    if file.conditions == cells.CONDITIONS:
        assert list(made.obs["cell_type"].astype(str)) == cells.CELL_TYPE


def assert_every_anndata_reads(path: Path) -> None:
    """Nothing in an output is of a kind that anndata 0.8 does not know."""
    import h5py

    known = {"anndata", "dict", "dataframe", "array", "csr_matrix", "csc_matrix", "string", "string-array"}
    known |= {"categorical", "numeric-scalar", "nullable-integer", "nullable-boolean", "raw", "rec-array", None}

    def check(name, element):
        kind = element.attrs.get("encoding-type")
        assert kind in known, f"{name} is a {kind}, which anndata 0.8 does not read"

    with h5py.File(path) as handle:
        assert handle.attrs["encoding-type"] == "anndata"
        handle.visititems(check)


def right_training(driven, file, folder, reference):
    import cellalign

    model = cellalign.load(folder / "m")
    assert set(model.conditions) == set(file.conditions)
    assert len(model.record.genes) == len(cells.SYMBOLS)
    assert model.record.cells.all == cells.N_CELLS


def right_embedding(driven, file, folder, reference):
    made, wanted = output(driven, folder), reference.read("e.h5ad")
    assert_cells(made)
    np.testing.assert_allclose(made.obsm["X_comp"], wanted.obsm["X_comp"], atol=1e-5)
    # the user's own stays
    if file.columns and not driven.advice:
        assert_columns(made, file)
    assert_every_anndata_reads(folder / str(driven.line[driven.line.index("-o") + 1]))


def right_counterfactual(driven, file, folder, reference):
    made, wanted = output(driven, folder), reference.read("c.h5ad")
    assert list(made.obs_names) == list(wanted.obs_names)
    assert set(made.obs["stim"].astype(str)) == {"stimulated"}
    order = {name: i for i, name in enumerate(symbols(made))}
    columns = [order[name] for name in symbols(wanted)]
    np.testing.assert_allclose(dense(made.X)[:, columns], dense(wanted.X), atol=1e-4)
    assert_every_anndata_reads(folder / str(driven.line[driven.line.index("-o") + 1]))


def right_annotation(driven, file, folder, reference):
    made, wanted = output(driven, folder), reference.read("a.h5ad")
    assert_cells(made)
    if (
        "as unknown" in driven.messages
    ):  # the condition that the encoder sees is not in the file, or not under its names
        assert set(made.obs["cell_type_predicted"]) <= set(wanted.obs["cell_type_predicted"])
        return
    assert list(made.obs["cell_type_predicted"].astype(str)) == list(wanted.obs["cell_type_predicted"].astype(str))


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def right_evaluation(driven, file, folder, reference):
    """The prediction is scored against this file as it is against the plainest."""
    line = [
        "evaluate",
        "c.h5ad",
        "--against",
        "pp.h5ad",
        "--condition",
        "stim",
        "--label",
        "cell_type",
        "--format",
        "csv",
    ]
    wanted = pd.DataFrame(rows(in_this_process(line, reference.folder).stdout))
    found = pd.DataFrame(rows(driven.output))
    assert len(found) == len(wanted) > 0
    values = [column for column in wanted if pd.to_numeric(wanted[column], errors="coerce").notna().any()]
    for column in values:
        ours, theirs = (pd.to_numeric(table[column], errors="coerce") for table in (found, wanted))
        np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-3)


def right_targets(driven, file, folder, reference):
    made = folder / "t.csv"
    assert "stimulated" in made.read_text()


def right_benchmark(driven, file, folder, reference):
    found = rows((folder / "b.csv").read_text())
    assert found
    if file.conditions == cells.CONDITIONS:
        assert {row["held_out"] for row in found} == set(cells.CELL_TYPES)


def right_tuning(driven, file, folder, reference):
    import cellalign

    assert set(cellalign.load(folder / "m").conditions) == set(file.conditions)


RIGHT = {
    "preprocess": right_preprocessing,
    "train": right_training,
    "embed": right_embedding,
    "counterfactual": right_counterfactual,
    "annotate": right_annotation,
    "against": right_evaluation,
    "targets": right_targets,
    "benchmark": right_benchmark,
    "tune": right_tuning,
}
