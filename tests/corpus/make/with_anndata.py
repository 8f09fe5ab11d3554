"""Writes a file with the anndata of the environment that runs this: python with_anndata.py FOLDER.

The file is named after that version. Needs no more than what anndata 0.5 on Python 3.6 brings.
"""

import sys

import anndata
import numpy as np
import pandas as pd
from cells import BARCODES, BATCH, CELL_TYPE, ENSEMBL, STIM, SYMBOLS, counts
from scipy import sparse

VERSION = tuple(int(part) for part in anndata.__version__.split(".")[:2])


def made():
    x = counts()
    columns = {"stim": pd.Categorical(STIM), "cell_type": pd.Categorical(CELL_TYPE), "batch": BATCH}
    obs = pd.DataFrame(columns, index=BARCODES, columns=list(columns))
    var = pd.DataFrame({"gene_ids": ENSEMBL, "chosen": [i % 2 == 0 for i in range(len(SYMBOLS))]}, index=SYMBOLS)
    if VERSION >= (0, 8):  # nullable numbers came with it
        obs["age"] = pd.array([30 + i % 7 if i % 9 else None for i in range(len(obs))], dtype="Int64")
        obs["doublet"] = pd.array([i % 11 == 0 if i % 13 else None for i in range(len(obs))], dtype="boolean")
    if VERSION >= (0, 13):  # pandas 3: every text is nullable, in the index too
        obs["note"] = pd.array(["a" if i % 5 else None for i in range(len(obs))], dtype="string")
        obs["plate"] = pd.Categorical(pd.array(["p1" if i % 2 else "p2" for i in range(len(obs))], dtype="string"))
    adata = anndata.AnnData(sparse.csr_matrix(x.astype("float32")), obs=obs, var=var)
    adata.obsm["X_pca"] = np.arange(2.0 * len(obs)).reshape(-1, 2)
    adata.uns["stim_colors"] = np.array(["#ff0000", "#0000ff"], dtype=object)
    adata.uns["title"] = "cells of the corpus"
    if VERSION >= (0, 13):
        adata.uns["words"] = pd.array(["one", None, "three"], dtype="string")
        anndata.settings.allow_write_nullable_strings = True
    if VERSION >= (0, 13) or VERSION == (0, 6):
        adata.raw = adata
    return adata


def main(folder):
    name = folder + f"/anndata-{VERSION[0]}.{VERSION[1]}"
    adata = made()
    # anndata before 0.7 spelled it otherwise
    getattr(adata, "write_h5ad", adata.write)(name + ".h5ad")
    if VERSION >= (0, 12):
        for zarr_format in (2, 3):
            anndata.settings.zarr_write_format = zarr_format
            adata.write_zarr(f"{name}-v{zarr_format}.zarr")


if __name__ == "__main__":
    main(sys.argv[1])
