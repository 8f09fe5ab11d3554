"""What Parse Biosciences' pipeline writes: a folder of a Matrix Market file of cells x genes and two tables.

`DGE.mtx` (split-pipe) or `count_matrix.mtx` (Trailmaker) lies beside `all_genes.csv` and `cell_metadata.csv`, of which
the rows are genes and cells in the matrix's order. Samples, wells and counts of cells become columns of obs.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from anndata import AnnData

from cellalign.data.formats.as_written import read_as_written
from cellalign.data.formats.detect import opened
from cellalign.errors import InputError

MATRICES = ("DGE.mtx", "count_matrix.mtx")
GENES, CELLS = "all_genes.csv", "cell_metadata.csv"
NAMES, IDS = ("gene_name", "gene_symbol", "name"), ("gene_id", "id")
BARCODES = ("bc_wells", "cell_id", "barcode")


def matrix_in(folder: Path) -> Path | None:
    """The matrix of such a folder; None where it is none."""
    if not all((folder / name).is_file() for name in (GENES, CELLS)):
        return None
    there = (folder / f"{name}{packed}" for name in MATRICES for packed in ("", ".gz"))
    return next((path for path in there if path.is_file()), None)


def read_parse(path: Path, name: str) -> AnnData:
    """The cells of such a folder, or of the matrix in it.

    Raises
    ------
    InputError
        The tables are not as long as the matrix, or do not name cells and genes.
    """
    from anndata.io import read_mtx
    from scipy import sparse

    folder = path if path.is_dir() else path.parent
    file = matrix_in(folder)
    if file is None:
        raise InputError(f"{name} holds no {' or '.join(MATRICES)} beside {GENES} and {CELLS}; put it there")
    genes, cells = _table(folder / GENES), _table(folder / CELLS)
    adata = read_mtx(file)
    shape = len(cells), len(genes)
    if adata.shape == shape[::-1] != shape:
        adata = adata.T
    elif adata.shape != shape:
        rows, columns = adata.shape
        raise InputError(f"{name}: {rows} x {columns} values, but {shape[0]} cells and {shape[1]} genes are named")
    symbols, barcodes = _column(genes, NAMES, GENES, name), _column(cells, BARCODES, CELLS, name)
    obs = cells.drop(columns=barcodes.name).set_axis(pd.Index(barcodes.to_numpy(dtype=object)), axis=0)
    var = genes.drop(columns=symbols.name).set_axis(pd.Index(symbols.to_numpy(dtype=object)), axis=0)
    found = AnnData(sparse.csr_matrix(adata.X), obs, var.rename(columns={key: "gene_ids" for key in IDS}))
    found.obs_names_make_unique()
    found.var_names_make_unique()
    return found


def _table(path: Path) -> pd.DataFrame:
    with opened(path) as text:
        return read_as_written(text, [*NAMES, *BARCODES])


def _column(table: pd.DataFrame, words: tuple[str, ...], file: str, name: str) -> pd.Series:
    """The column of names; InputError where it has none."""
    found = next((word for word in words if word in table), None)
    if found is None:
        raise InputError(f"{name}: {file} has none of the columns {', '.join(words)}; it has: {', '.join(table)}")
    return table[found].astype(str)
