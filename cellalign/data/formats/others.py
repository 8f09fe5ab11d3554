"""Files that are not read: each named for what it is, with the command of the tool that converts it."""

from __future__ import annotations

ENDINGS = ".h5ad, .zarr, .h5mu, .loom, 10x .h5, a 10x matrix or Parse folder, .csv or .tsv"

# of each kind: what it is, and what to do; {path} and {stem} stand for the file
_OTHERS = {
    "empty": ("is empty (0 bytes)", "copy or download it again"),
    "damaged archive": ("is a compressed file that is truncated or damaged", "copy or download it again"),
    "rds": (
        "is an R object (.rds)",
        """in R: x <- readRDS("{path}"), then anndataR::write_h5ad(anndataR::as_AnnData(x), "{stem}.h5ad") for """
        """Seurat or SingleCellExperiment, or zellkonverter::writeH5AD(x, "{stem}.h5ad") for SingleCellExperiment""",
    ),
    "rdata": (
        "holds R objects (.RData)",
        """in R: load("{path}", verbose = TRUE) names them; then """
        """anndataR::write_h5ad(anndataR::as_AnnData(NAME), "{stem}.h5ad")""",
    ),
    "qs": (
        "is an R object saved by qs",
        """in R: x <- qs::qread("{path}") (qs2::qs_read for .qs2), then """
        """anndataR::write_h5ad(anndataR::as_AnnData(x), "{stem}.h5ad")""",
    ),
    "h5seurat": (
        "is an h5Seurat file",
        """in R: SeuratDisk::Convert("{path}", dest = "h5ad") writes {stem}.h5ad""",
    ),
    "parquet": (
        "is a Parquet table",
        """in Python: pandas.read_parquet("{path}").to_csv("{stem}.csv"), with cells in rows and genes in columns""",
    ),
    "arrow": (
        "is an Arrow (Feather) table",
        """in Python: pandas.read_feather("{path}").to_csv("{stem}.csv"), with cells in rows and genes in columns""",
    ),
    "excel": (
        "is an Excel or OpenDocument workbook",
        "save the sheet as {stem}.csv, cells in rows, genes in columns (Excel turns genes such as MARCH1 into dates)",
    ),
    "numpy": (
        "is a NumPy array, which has no names of cells and genes",
        """in Python: anndata.AnnData(X, obs, var).write_h5ad("{stem}.h5ad")""",
    ),
    "pickle": (
        "is a Python pickle, which is never read: it can run code",
        """in Python, if you trust it: pickle.load(open("{path}", "rb")).write_h5ad("{stem}.h5ad")""",
    ),
    "sqlite": ("is an SQLite database", "export a table of cells x genes as .csv"),
    "zip": ("is a zip archive", "unpack it: unzip {path}, and name a file in it"),
    "tar": ("is a tar archive", "unpack it: tar -xf {path}, and name a file or folder in it"),
    "zstd": ("is compressed by Zstandard", "unpack it: zstd -d {path}"),
    "7z": ("is a 7-Zip archive", "unpack it: 7z x {path}"),
    "rar": ("is a RAR archive", "unpack it: unrar x {path}"),
    "pdf": ("is a PDF document", "name a file of cells"),
    "json": ("is JSON", "name a file of cells"),
    "utf-16": ("is text in UTF-16", "save it as UTF-8: iconv -f UTF-16 -t UTF-8 {path} > {stem}.csv"),
    "web page": ("is a web page and not data", "the download went wrong: download it again"),
    "git-lfs": ("is a pointer of Git LFS and not the file", "fetch it: git lfs pull"),
    "tiledb": (
        "is a TileDB-SOMA experiment",
        """in Python: tiledbsoma.io.to_anndata(tiledbsoma.open("{path}"), "RNA", X_layer_name="data")"""
        """.write_h5ad("{stem}.h5ad")""",
    ),
    "molecule_info": ("is Cell Ranger's molecule_info.h5", "name filtered_feature_bc_matrix.h5 of the same run"),
    "hdfstore": (
        "is an HDF5 file of pandas",
        """in Python: pandas.read_hdf("{path}").to_csv("{stem}.csv"), with cells in rows and genes in columns""",
    ),
    "10x run": ("is the folder of a Cell Ranger run", "name filtered_feature_bc_matrix.h5 in it"),
    "model": ("is a model directory and holds no cells", "name the cells first, and the model with --model {path}"),
    "folder": ("is a directory without cells", "name a file: {endings}"),
    "unknown": ("is of no kind that is read", "convert it to one of {endings}"),
}


def named(name: str, kind: str) -> str:
    """One line about a file of another kind."""
    what, advice = _OTHERS.get(kind, _OTHERS["unknown"])
    stem = name.rstrip("/").rsplit("/", 1)[-1].removesuffix(".gz").rsplit(".", 1)[0] or "cells"
    return f"{name} {what}; {advice.format(path=name, stem=stem, endings=ENDINGS)}"
