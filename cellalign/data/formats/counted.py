"""What Cell Ranger and its like write: 10x .h5 files, folders of a Matrix Market file with its names, and loom."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData

from cellalign.data.formats.detect import opened
from cellalign.data.structure import check_cells
from cellalign.errors import InputError, option

log = logging.getLogger("cellalign.reading")
GENES = "Gene Expression"
INSTALL = "pip install 'cellalign[formats]'"


def read_10x(path: Path, name: str, modality: str | None) -> AnnData:
    """A 10x .h5 file of any version of Cell Ranger, by scanpy; genes under their symbols, made unique.

    Raises
    ------
    InputError
        It holds no names of genes, or several genomes or kinds of features and not the one asked for.
    """
    from cellalign.nn.kernels.packages import compiled_elsewhere

    genome = None
    with h5py.File(path) as handle:
        if "matrix" in handle:
            if "features" not in handle["matrix"]:
                raise InputError(f"{name} is a 10x file without its genes (matrix/features); export it again")
        else:
            genome = _one_of(list(handle), modality, name, "genomes")
    with compiled_elsewhere():
        import scanpy as sc

        adata = sc.read_10x_h5(path, gex_only=False, genome=genome)
    return _of_features(told_apart(adata, name), name, None if genome else modality)


def read_mtx(path: Path, name: str, modality: str | None) -> AnnData:
    """A Matrix Market file with the names of its genes and cells beside it, as Cell Ranger, STARsolo and R write them.

    Raises
    ------
    InputError
        The names are missing, or are not as many as the matrix has rows and columns.
    """
    from anndata.io import read_mtx as matrix_market

    folder, file = (path, _matrix_in(path, name)) if path.is_dir() else (path.parent, path)
    prefix = file.name[: file.name.rindex("matrix")] if "matrix" in file.name else ""
    genes = _names_beside(folder, prefix, ("features", "genes"), name)
    cells = _names_beside(folder, prefix, ("barcodes", "cells"), name)
    _check_size(file, len(genes) * len(cells), name)
    adata = matrix_market(file)
    if adata.shape == (len(genes), len(cells)):  # also where there are as many: genes are in rows, as 10x has them
        adata = adata.T
    elif adata.shape != (len(cells), len(genes)):
        rows, columns = adata.shape
        raise InputError(f"{name}: {rows} x {columns} values, but {len(genes)} genes and {len(cells)} cells are named")
    return _of_features(told_apart(_with_names(adata, genes, cells), name), name, modality)


def _check_size(file: Path, named: int, name: str) -> None:
    """Refuse a matrix that says it has other rows and columns than are named, before memory is taken for them."""
    with opened(file) as text:
        said = next((line for line in islice(text, 1000) if not line.startswith(b"%") and line.strip()), b"")
    sides = said.split()[:2]
    if not all(side.isdigit() and len(side) < 12 for side in sides) or len(sides) < 2:
        raise InputError(f"{name} is damaged: it does not say how many rows and columns it has; copy it again")
    rows, columns = map(int, sides)
    if rows * columns > max(10 * named, 1 << 24):
        raise InputError(f"{name}: {rows} x {columns} values, but names for {named} are beside it")


def read_loom(path: Path, name: str) -> AnnData:
    """A loom file, by loompy: cells and genes under the names that velocyto, loompy, Seurat and SCENIC give them.

    Raises
    ------
    InputError
        loompy is not installed, or there are no names.
    """
    try:
        import loompy  # noqa: F401
    except ImportError as error:
        raise InputError(f"{name} is a loom file, which loompy reads; run: {INSTALL}") from error
    from anndata.io import read_loom as by_loompy

    with h5py.File(path) as handle:
        cells = _first_there(handle["col_attrs"], ("CellID", "obs_names", "cell_names", "barcodes", "Barcode"))
        genes = _first_there(handle["row_attrs"], ("Gene", "var_names", "gene_names", "GeneName", "Accession"))
    if cells is None or genes is None:
        what = "cells (col_attrs/CellID)" if cells is None else "genes (row_attrs/Gene)"
        raise InputError(f"{name} is a loom file without names of its {what}")
    # the main matrix, which is of counts: layers such as velocyto's come beside it
    adata = by_loompy(str(path), X_name="", obs_names=cells, var_names=genes, validate=False)
    return told_apart(adata, name)


def _first_there(group: Any, names: Sequence[str]) -> str | None:
    return next((key for key in names if key in group), None)


def _one_of(there: Sequence[str], asked: str | None, name: str, what: str) -> str:
    """The one asked for, or the only one."""
    if asked in there:
        return str(asked)
    if asked is None and len(there) == 1:
        return there[0]
    listed = ", ".join(there)
    if asked is None:
        raise InputError(f"{name} holds several {what}: {listed}; name one with {option('modality', hint='NAME')}")
    raise InputError(f"{name} has no {option('modality', asked)}; {what}: {listed}")


def _of_features(adata: AnnData, name: str, modality: str | None) -> AnnData:
    """Of several kinds of features (genes, antibodies, guides) the one asked for, by default the genes."""
    if "feature_types" not in adata.var:
        if modality is not None:
            log.warning("%s has one kind of features; %s changes nothing", name, option("modality", modality))
        return adata
    types = adata.var["feature_types"].astype(str)
    kinds = list(dict.fromkeys(types))
    asked = GENES if modality is None and GENES in kinds else modality
    kept = (types == _one_of(kinds, asked, name, "kinds of features")).to_numpy()
    if kept.all():
        return adata
    left = {kind: int((types[~kept] == kind).sum()) for kind in dict.fromkeys(types[~kept])}
    said = ", ".join(f"{n} of {kind!r}" for kind, n in left.items())
    log.info("%s: %d features read, left out %s (%s)", name, kept.sum(), said, option("modality", hint="NAME"))
    return adata[:, kept].copy()


def told_apart(adata: AnnData, name: str) -> AnnData:
    """Cells as they were just read, their genes of one symbol told apart by a number, as scanpy does."""
    check_cells(adata, name)  # before anything takes a part of them
    twice = int(adata.var_names.duplicated().sum())
    if twice:
        log.info("%s: %d gene names occur more than once; they are numbered (GENE-1)", name, twice)
        adata.var_names_make_unique()
    return adata


def _matrix_in(folder: Path, name: str) -> Path:
    found = sorted(file for file in folder.iterdir() if file.name.endswith(("matrix.mtx", "matrix.mtx.gz")))
    if len(found) > 1 and {file.name.removesuffix(".gz") for file in found} != {found[0].name.removesuffix(".gz")}:
        listed = ", ".join(file.name for file in found[:10])
        raise InputError(f"{name} holds {len(found)} matrices: {listed}; name one of these files")
    return found[0]


def _names_beside(folder: Path, prefix: str, words: Sequence[str], name: str) -> pd.DataFrame:
    """The table of names of rows or columns that lies beside a matrix."""
    for word in words:
        for ending in (".tsv.gz", ".tsv", ".txt", ".txt.gz", ".csv"):
            file = folder / f"{prefix}{word}{ending}"
            if file.is_file():
                with opened(file) as text:
                    sep = "," if ending == ".csv" else "\t"
                    return pd.read_csv(text, sep=sep, header=None, dtype=str, keep_default_na=False)
    wanted = " or ".join(f"{prefix}{word}.tsv(.gz)" for word in words)
    raise InputError(f"{name} is a Matrix Market matrix without {wanted} beside it; put that file there")


def _with_names(adata: AnnData, genes: pd.DataFrame, cells: pd.DataFrame) -> AnnData:
    """Cells and genes under the names of the tables: a gene's symbol is in the second column where there is one."""
    symbols = genes[1] if genes.shape[1] > 1 else genes[0]
    adata.obs_names = np.asarray(cells[0], dtype=object)
    adata.var_names = np.asarray(symbols, dtype=object)
    if genes.shape[1] > 1:
        adata.var["gene_ids"] = np.asarray(genes[0], dtype=object)
    if genes.shape[1] > 2:
        adata.var["feature_types"] = np.asarray(genes[2], dtype=object)
    return adata
