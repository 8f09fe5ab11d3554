"""What every file of the corpus holds, and what may be expected of it: 60 cells, 40 genes, `make/cells.py`."""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent


def _cells() -> ModuleType:
    """make/cells.py, which knows nothing of this repository."""
    spec = importlib.util.spec_from_file_location("corpus_cells", HERE / "make" / "cells.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


cells = _cells()


@dataclass(frozen=True)
class File:
    """A file of the corpus.

    Attributes
    ----------
    name : str
        Of the file, or of the folder.
    origin : str
        What wrote it, in the table's words.
    counts : bool
        Whether it holds raw counts, in whatever place; else normalised log1p expression.
    columns : bool
        Whether it holds stim, cell_type and batch; else they are in obs.csv.
    genes : {"symbol", "ensembl", "versions", "repeated"}
        Which names its index of genes holds.
    conditions : pair of str
        The values of stim, control first.
    fast : bool
        Whether it is tried at every change.
    needs : tuple of str
        Libraries without which it need not be read, only named for what it is.
    refused : mapping of command to words
        What cannot be done with it, and the words that the error has to hold.
    """

    name: str
    origin: str
    counts: bool = True
    columns: bool = True
    genes: str = "symbol"
    conditions: tuple[str, str] = cells.CONDITIONS
    fast: bool = False
    needs: tuple[str, ...] = field(default=())
    refused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


# 0 and 1 where the model knows control and stimulated: nobody but the user can say which is which
_CODES = {command: ("stim",) for command in ("embed", "counterfactual", "annotate", "against", "targets")}
_NO_COUNTS = {"targets": ("no raw counts",)}  # the model reads counts
_AGES = ("0.5", "0.6", "0.7", "0.8", "0.9", "0.10", "0.11", "0.12", "0.13")
FILES = {
    file.name: file
    for file in (
        File("plain.h5ad", "counts as sparse rows", fast=True),
        *(File(f"anndata-{age}.h5ad", f"anndata {age}", fast=age in ("0.6", "0.7", "0.13")) for age in _AGES),
        File("anndata-0.12-v2.zarr", "anndata 0.12, zarr format 2", fast=True),
        File("anndata-0.12-v3.zarr", "anndata 0.12, zarr format 3"),
        File("anndata-0.13-v2.zarr", "anndata 0.13, zarr format 2"),
        File("anndata-0.13-v3.zarr", "anndata 0.13, zarr format 3", fast=True),
        File("zellkonverter.h5ad", "zellkonverter (R)"),
        File("anndataR.h5ad", "anndataR (R), a Seurat object", fast=True),
        File("seuratdisk.h5ad", "SeuratDisk (R): factors as numbers", conditions=("0", "1"), fast=True, refused=_CODES),
        File("seurat-5.h5ad", "Seurat 5 (R): scaled data in X, counts in raw"),
        File("mudataseurat.h5ad", "MuDataSeurat (R)", fast=True),
        File("byte-strings.h5ad", "text as bytes", fast=True),
        File("index-as-column.h5ad", "a column named _index in var"),
        File("root-name.h5ad", "another name at the root"),
        File("cellxgene.h5ad", "CELLxGENE: Ensembl ids, counts in raw", genes="ensembl", fast=True),
        File("ensembl-versions.h5ad", "Ensembl ids with versions", genes="versions"),
        File("repeated-symbols.h5ad", "symbols that occur twice", genes="repeated", fast=True),
        File("scanpy-raw.h5ad", "scanpy: X scaled, raw log, counts in a layer"),
        File("velocity.h5ad", "scVelo: layers with NaN"),
        File("only-log.h5ad", "log expression, no counts", counts=False, fast=True, refused=_NO_COUNTS),
        File("only-layers.h5ad", "no X, counts in a layer", fast=True),
        File("no-obs-columns.h5ad", "obs without columns", columns=False),
        File("odd-columns.h5ad", "odd columns, uns and obsm", fast=True),
        File("dense.h5ad", "dense X"),
        File("csc.h5ad", "X by columns"),
        File("chunked.h5ad", "dense X in chunks"),
        File("int64-values.h5ad", "counts as int64"),
        File("int64-indices.h5ad", "indices as int64"),
        File("big-endian.h5ad", "X big-endian", fast=True),
        File("stored-zeros.h5ad", "zeros stored in a sparse X"),
        File("unsorted-indices.h5ad", "indices in no order"),
        File("blosc.h5ad", "compressed by a filter of a plug-in", fast=True, needs=("hdf5plugin",)),
        File("packed.h5ad.gz", "an .h5ad packed by gzip", fast=True),
        File("cellranger-2.h5", "Cell Ranger 2, .h5", columns=False),
        File("cellranger-3.h5", "Cell Ranger 3, .h5, with antibodies", columns=False, fast=True),
        File("cellranger-2-mtx", "Cell Ranger 2, folder of matrix.mtx", columns=False),
        File("cellranger-3-mtx", "Cell Ranger 3, folder of matrix.mtx.gz", columns=False, fast=True),
        File("loompy.loom", "loompy 3", needs=("loompy",)),
        File("velocyto.loom", "loom of velocyto's age", needs=("loompy",)),
        File("two-modalities.h5mu", "mudata: RNA and protein", fast=True),
        File("mudata-named.h5ad", "the same, named .h5ad"),
        File("counts.csv", "a table, cells in rows", columns=False, fast=True),
        File("counts.tsv.gz", "the same, tab-separated and packed", columns=False),
    )
}


def unpack(folder: Path, *names: str) -> None:
    """The files of these names, or all of them and obs.csv, into a folder."""
    for packed in sorted((HERE / "files").glob("*.zip")):
        if not names or packed.stem in names:
            with zipfile.ZipFile(packed) as file:
                file.extractall(folder)
