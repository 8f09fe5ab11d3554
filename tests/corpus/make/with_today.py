"""Writes what the anndata of the day can be asked for: matrices in every form, layers, raw, odd but valid files.

python with_today.py FOLDER, with anndata 0.12, mudata, loompy and hdf5plugin.
"""

import gzip
import shutil
import sys
from pathlib import Path

import anndata as ad
import h5py
import hdf5plugin
import numpy as np
import pandas as pd
from cells import BARCODES, BATCH, CELL_TYPE, ENSEMBL, STIM, SYMBOLS, counts, logged, scaled
from scipy import sparse


def cells(x=None):
    """Counts as sparse rows, three columns of categories, gene symbols."""
    columns = {"stim": STIM, "cell_type": CELL_TYPE, "batch": BATCH}
    obs = pd.DataFrame({key: pd.Categorical(values) for key, values in columns.items()}, index=BARCODES)
    x = sparse.csr_matrix((counts() if x is None else x).astype("float32"))
    return ad.AnnData(x, obs=obs, var=pd.DataFrame({"gene_ids": ENSEMBL}, index=SYMBOLS))


def dense():
    adata = cells()
    adata.X = adata.X.toarray()
    return adata


def columns_of_genes():
    adata = cells()
    adata.X = sparse.csc_matrix(adata.X)
    return adata


def integers():
    adata = cells()
    adata.X = adata.X.astype("int64")
    return adata


def stored_zeros():
    """Every value is stored, the zeros too."""
    adata = cells()
    full = sparse.csr_matrix(adata.X.toarray() + 1)
    full.data -= 1
    adata.X = full
    return adata


def unsorted_indices():
    adata = cells()
    x = adata.X
    for row in range(x.shape[0]):
        own = slice(x.indptr[row], x.indptr[row + 1])
        x.data[own], x.indices[own] = x.data[own][::-1].copy(), x.indices[own][::-1].copy()
    x.has_sorted_indices = False
    return adata


def only_layers():
    adata = cells()
    adata.layers["counts"] = adata.X
    adata.X = None
    return adata


def scanpy_raw():
    """As scanpy's tutorial ends: X scaled and clipped, some of the genes; raw normalised log1p; counts in a layer."""
    adata = cells(logged(counts()))
    adata.raw = adata
    adata.layers["counts"] = sparse.csr_matrix(counts().astype("float32"))
    adata.X = np.clip(scaled(logged(counts())), None, 10)
    adata.uns["log1p"] = {"base": None}
    adata.var["highly_variable"] = True
    adata.obsm["X_pca"] = scaled(logged(counts()))[:, :5]
    adata.obsp["distances"] = sparse.csr_matrix(np.eye(adata.n_obs))
    return adata


def cellxgene():
    """As CELLxGENE publishes: Ensembl ids, symbols in feature_name, X normalised log1p, counts in raw."""
    adata = cells()
    feature = {"feature_name": pd.Categorical(SYMBOLS), "feature_reference": "NCBITaxon:9606"}
    feature |= {"feature_biotype": "gene", "feature_is_filtered": False}
    adata.var = pd.DataFrame(feature, index=ENSEMBL)
    adata.var["feature_reference"] = pd.Categorical(adata.var["feature_reference"])
    raw = adata.copy()
    del raw.var["feature_is_filtered"]
    adata.raw = raw
    adata.X = sparse.csr_matrix(logged(counts()))
    adata.obs["assay"] = pd.Categorical(["10x 3' v3"] * adata.n_obs)
    adata.obs["is_primary_data"] = True
    adata.uns |= {"schema_version": "5.2.0", "title": "cells of the corpus", "default_embedding": "X_umap"}
    adata.obsm["X_umap"] = np.arange(2.0 * adata.n_obs).reshape(-1, 2)
    return adata


def ensembl_versions():
    """Ensembl ids with versions, symbols beside them in gene_name: as STARsolo and GENCODE have them."""
    adata = cells()
    adata.var = pd.DataFrame({"gene_name": SYMBOLS}, index=[f"{name}.{1 + i % 5}" for i, name in enumerate(ENSEMBL)])
    return adata


def repeated_symbols():
    """Two pairs of genes share a symbol; their Ensembl ids differ."""
    adata = cells()
    names = list(SYMBOLS)
    names[5], names[30] = names[4], names[29]
    adata.var_names = names
    return adata


def velocity():
    """As scVelo leaves it: spliced and unspliced counts, layers with NaN, counts in X."""
    adata = cells()
    adata.layers["spliced"], adata.layers["unspliced"] = adata.X.copy(), adata.X.copy()
    adata.layers["unspliced"].data = np.floor(adata.layers["unspliced"].data / 2)
    adata.layers["velocity"] = np.full(adata.shape, np.nan, dtype="float32")
    adata.layers["velocity"][:, :4] = 0.5
    adata.var["fit_alpha"] = np.where(np.arange(adata.n_vars) < 4, 1.0, np.nan)
    return adata


def without_columns():
    adata = cells()
    adata.obs = adata.obs[[]]
    return adata


def only_log():
    return cells(logged(counts()))


def odd_columns():
    """obs with every kind of column, and names that are not words."""
    adata = cells()
    n = adata.n_obs
    adata.obs["n_counts"], adata.obs["n_genes"] = 12345.0, 999
    adata.obs["cluster 1/2 (%)"] = np.arange(n) % 3
    adata.obs["Größe"] = np.linspace(0, 1, n)
    adata.obs["all missing"] = np.nan
    adata.obs["flag"] = np.arange(n) % 2 == 0
    adata.obs["number as category"] = pd.Categorical(np.arange(n) % 4 * 0.5)
    adata.obs["a lone cell"] = pd.Categorical(["one", *["rest"] * (n - 1)])
    adata.uns["cellalign"] = "written by somebody else"
    adata.uns["nested"] = {"a": {"b": np.arange(3)}, "empty": {}}
    adata.obsm["coordinates"] = pd.DataFrame({"x": np.arange(n) * 1.0}, index=adata.obs_names)
    adata.obsm["sparse"] = sparse.csr_matrix(np.eye(n, 3))
    return adata


PLAIN = {
    "dense": dense,
    "csc": columns_of_genes,
    "int64-values": integers,
    "stored-zeros": stored_zeros,
    "unsorted-indices": unsorted_indices,
    "only-layers": only_layers,
    "scanpy-raw": scanpy_raw,
    "cellxgene": cellxgene,
    "ensembl-versions": ensembl_versions,
    "repeated-symbols": repeated_symbols,
    "velocity": velocity,
    "no-obs-columns": without_columns,
    "only-log": only_log,
    "odd-columns": odd_columns,
}


def edited(path, made, change):
    made.write_h5ad(path)
    with h5py.File(path, "r+") as handle:
        change(handle)


def replace(group, name, values, **more):
    attributes = dict(group[name].attrs)
    del group[name]
    group.create_dataset(name, data=values, **more).attrs.update(attributes)


def long_indices(handle):
    for name in ("indices", "indptr"):
        replace(handle["X"], name, handle["X"][name][:].astype("int64"))


def big_endian(handle):
    replace(handle, "X", handle["X"][:].astype(">f4"))


def blosc(handle):
    for name in ("data", "indices"):
        replace(handle["X"], name, handle["X"][name][:], **hdf5plugin.Blosc())


def in_chunks(handle):
    replace(handle, "X", handle["X"][:], chunks=(7, 11), compression="gzip", shuffle=True)


def loom(path):
    import loompy

    genes = {"Gene": np.array(SYMBOLS), "Accession": np.array(ENSEMBL)}
    own = {"CellID": np.array(BARCODES), "stim": np.array(STIM), "cell_type": np.array(CELL_TYPE)}
    x = counts().T
    loompy.create(str(path), {"": x, "spliced": x, "unspliced": x // 2}, genes, own | {"batch": np.array(BATCH)})


def h5mu(path):
    import mudata

    rna, protein = cells(), cells()[:, :6].copy()
    protein.var_names = [f"CD{i}" for i in range(6)]
    rna.uns["modality"] = "rna"
    mudata.set_options(pull_on_update=False)
    both = mudata.MuData({"rna": rna, "prot": protein})
    both.obs["site"] = "s1"
    both.write(path)


def tables(folder):
    x = pd.DataFrame(counts(), index=BARCODES, columns=SYMBOLS)
    x.to_csv(folder / "counts.csv")
    # without the time of day in the header, so that it is the same every time
    with gzip.GzipFile(folder / "counts.tsv.gz", "wb", mtime=0) as file:
        file.write(x.to_csv(sep="\t").encode())
    columns = {"stim": STIM, "cell_type": CELL_TYPE, "batch": BATCH}
    pd.DataFrame(columns, index=BARCODES).to_csv(folder / "obs.csv")


def main(folder):
    folder = Path(folder)
    for name, make in PLAIN.items():
        make().write_h5ad(folder / f"{name}.h5ad")
    edited(folder / "int64-indices.h5ad", cells(), long_indices)
    edited(folder / "big-endian.h5ad", dense(), big_endian)
    edited(folder / "blosc.h5ad", cells(), blosc)
    edited(folder / "chunked.h5ad", dense(), in_chunks)
    cells().write_h5ad(folder / "plain.h5ad")
    with open(folder / "plain.h5ad", "rb") as plain, gzip.GzipFile(folder / "packed.h5ad.gz", "wb", mtime=0) as packed:
        shutil.copyfileobj(plain, packed)
    loom(folder / "loompy.loom")
    h5mu(folder / "two-modalities.h5mu")
    shutil.copy(folder / "two-modalities.h5mu", folder / "mudata-named.h5ad")
    tables(folder)


if __name__ == "__main__":
    main(sys.argv[1])
