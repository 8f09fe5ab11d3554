"""Rebuilds with h5py what other tools write, after the layout of their files: python by_layout.py FOLDER.

The layouts are those of the tools' documentation and of public files: zellkonverter, anndataR, SeuratDisk and
MuDataSeurat (all R), Cell Ranger 2 and 3 (h5, and folders of Matrix Market files), and of anndata files whose strings
are bytes or whose root bears another name.
"""

import gzip
import sys
from pathlib import Path

import h5py
import numpy as np
from cells import BARCODES, BATCH, CELL_TYPE, ENSEMBL, STIM, SYMBOLS, counts, logged, scaled
from scipy import io, sparse

TEXT = h5py.string_dtype()
COLUMNS = {"stim": STIM, "cell_type": CELL_TYPE, "batch": BATCH}


def encoded(element, kind, version="0.1.0"):
    element.attrs["encoding-type"], element.attrs["encoding-version"] = kind, version
    return element


def text(group, name, values, dtype=TEXT, spec=True):
    made = group.create_dataset(name, data=np.array(values, dtype=object), dtype=dtype)
    return encoded(made, "string-array", "0.2.0") if spec else made


def rows(parent, name, x, index=np.int32, kind="csr_matrix"):
    """A sparse matrix as a group of three arrays."""
    x = sparse.csr_matrix(x) if kind == "csr_matrix" else sparse.csc_matrix(x)
    group = encoded(parent.create_group(name), kind)
    group.attrs["shape"] = np.array(x.shape, dtype=np.int64)
    group["data"], group["indices"], group["indptr"] = x.data, x.indices.astype(index), x.indptr.astype(index)
    return group


def factor(group, name, values, version="0.2.0", ordered=False):
    """A column of categories as anndata 0.8 and later know it."""
    levels = sorted(set(values))
    made = encoded(group.create_group(name), "categorical", version)
    made.attrs["ordered"] = ordered
    text(made, "categories", levels)
    encoded(made.create_dataset("codes", data=np.array([levels.index(v) for v in values], "int8")), "array", "0.2.0")


def frame(parent, name, index, key="_index", order=(), version="0.2.0"):
    group = encoded(parent.create_group(name), "dataframe", version)
    group.attrs["_index"] = key
    group.attrs["column-order"] = np.array(order, dtype=object) if len(order) else np.empty(0, dtype="S1")
    if len(order):
        group.attrs.create("column-order", np.array(order, dtype=object), dtype=TEXT)
    text(group, key, index)
    return group


def slots(handle, but=()):
    for name in ("layers", "obsm", "obsp", "uns", "varm", "varp"):
        if name not in but:
            encoded(handle.create_group(name), "dict")


def zellkonverter(handle):
    """A SingleCellExperiment: counts in X by its assay's name, logcounts in a layer, reduced dimensions without X_."""
    encoded(handle, "anndata")
    slots(handle)
    rows(handle, "X", counts().astype("float64"))
    rows(handle["layers"], "logcounts", logged(counts()).astype("float64"))
    obs = frame(handle, "obs", BARCODES, order=[*COLUMNS, "sizeFactor"])
    for key, values in COLUMNS.items():
        factor(obs, key, values)
    encoded(obs.create_dataset("sizeFactor", data=np.linspace(0.5, 2, len(BARCODES))), "array", "0.2.0")
    var = frame(handle, "var", SYMBOLS, order=["ID"])
    text(var, "ID", ENSEMBL)
    encoded(handle["uns"].create_dataset("X_name", data="counts", dtype=TEXT), "string", "0.2.0")
    for key in ("PCA", "UMAP"):
        place = handle["obsm"].create_dataset(key, data=np.arange(2.0 * len(BARCODES)).reshape(-1, 2))
        encoded(place, "array", "0.2.0")


def anndata_r(handle):
    """AnnDataR from a Seurat object: no X, layers named after Seurat's, 32-bit integers, an index of its own name."""
    encoded(handle, "anndata")
    slots(handle)
    rows(handle["layers"], "counts", counts().astype("float64"))
    rows(handle["layers"], "data", logged(counts()).astype("float64"))
    obs = frame(handle, "obs", BARCODES, key="rownames", order=["orig.ident", *COLUMNS, "nCount_RNA", "nFeature_RNA"])
    factor(obs, "orig.ident", ["SeuratProject"] * len(BARCODES))
    factor(obs, "stim", STIM)
    text(obs, "cell_type", CELL_TYPE)
    text(obs, "batch", BATCH)
    encoded(obs.create_dataset("nCount_RNA", data=counts().sum(axis=1).astype("float64")), "array", "0.2.0")
    encoded(obs.create_dataset("nFeature_RNA", data=(counts() > 0).sum(axis=1).astype("int32")), "array", "0.2.0")
    var = frame(handle, "var", SYMBOLS, key="rownames", order=["vf_vst_counts_variable"])
    # R's logicals are written as an enumeration, as h5py does
    var["vf_vst_counts_variable"] = np.arange(len(SYMBOLS)) % 2 == 0
    encoded(var["vf_vst_counts_variable"], "array", "0.2.0")


def seurat_v5(handle):
    """A Seurat 5 object written by way of sceasy or anndata: X scaled data, counts in raw, names of R in obs."""
    encoded(handle, "anndata")
    slots(handle)
    encoded(handle.create_dataset("X", data=scaled(logged(counts()))), "array", "0.2.0")
    obs = frame(handle, "obs", BARCODES, order=[*COLUMNS, "percent.mt", "RNA_snn_res.0.5"])
    for key, values in COLUMNS.items():
        factor(obs, key, values)
    encoded(obs.create_dataset("percent.mt", data=np.linspace(0, 5, len(BARCODES))), "array", "0.2.0")
    factor(obs, "RNA_snn_res.0.5", [str(i % 3) for i in range(len(BARCODES))])
    frame(handle, "var", SYMBOLS)
    raw = encoded(handle.create_group("raw"), "raw")
    rows(raw, "X", counts().astype("float64"))
    frame(raw, "var", SYMBOLS)
    encoded(raw.create_group("varm"), "dict")


def seurat_disk(handle):
    """SeuratDisk's Convert: anndata 0.7's frames, factors as numbers, X log, raw counts, _index a column in raw.var."""
    n = len(BARCODES)
    rows(handle, "X", logged(counts()).astype("float64"))
    raw = handle.create_group("raw")
    rows(raw, "X", counts().astype("float64"))
    for parent, name, index in ((handle, "obs", BARCODES), (handle, "var", SYMBOLS), (raw, "var", SYMBOLS)):
        group = encoded(parent.create_group(name), "dataframe")
        group.attrs["_index"] = "_index"
        text(group, "_index", index, spec=False)
    handle["obs"].attrs.create("column-order", np.array([*COLUMNS, "nCount_RNA"], dtype=object), dtype=TEXT)
    for key, values in COLUMNS.items():
        levels = sorted(set(values))
        handle["obs"][key] = np.array([levels.index(value) for value in values], dtype="int32")
    handle["obs"]["nCount_RNA"] = counts().sum(axis=1).astype("float64")
    # meta.features of the assay, and the row names once more as a column
    for group in (handle["var"], raw["var"]):
        group.attrs.create("column-order", np.array(["vst.mean", "vst.variable"], dtype=object), dtype=TEXT)
        group["vst.mean"] = counts().mean(axis=0)
        group["vst.variable"] = np.ones(len(SYMBOLS), dtype="int32")
    raw["var"].attrs["_index"] = "features"
    text(raw["var"], "features", SYMBOLS, spec=False)
    raw["var"].attrs.create("column-order", np.array(["_index", "vst.mean"], dtype=object), dtype=TEXT)
    handle.create_group("uns")
    handle.create_group("obsm")["X_pca"] = np.arange(2.0 * n).reshape(n, 2)


def mudata_seurat(handle):
    """MuDataSeurat: another name at the root, a user block, counts in a layer, X log."""
    encoded(handle, "AnnData")
    handle.attrs["encoder"], handle.attrs["encoder-version"] = "MuDataSeurat.r", "0.0.0.9000"
    rows(handle, "X", logged(counts()).astype("float64"))
    rows(handle.create_group("layers"), "counts", counts().astype("float64"))
    for name, index in (("obs", BARCODES), ("var", SYMBOLS)):
        group = encoded(handle.create_group(name), "dataframe")
        group.attrs["_index"] = "_index"
        text(group, "_index", index, spec=False)
        order = list(COLUMNS) if name == "obs" else []
        group.attrs.create("column-order", np.array(order, dtype=object), dtype=TEXT)
    # of anndata 0.7: levels apart, the codes refer to them
    levels_of = handle["obs"].create_group("__categories")
    for key, values in COLUMNS.items():
        levels = sorted(set(values))
        text(levels_of, key, levels, spec=False)
        codes = handle["obs"].create_dataset(key, data=np.array([levels.index(v) for v in values], dtype="int8"))
        codes.attrs["categories"] = levels_of[key].ref
        levels_of[key].attrs["ordered"] = False
    handle.create_group("obsm")


def byte_strings(handle):
    """Every text of a fixed number of bytes, as pandas of old and some converters write it."""
    encoded(handle, "anndata")
    slots(handle)
    rows(handle, "X", counts().astype("float32"))
    obs = frame(handle, "obs", [], order=list(COLUMNS))
    var = frame(handle, "var", [], order=["gene_ids"])
    for group, key, values in ((obs, "_index", BARCODES), (var, "_index", SYMBOLS), (var, "gene_ids", ENSEMBL)):
        if key in group:
            del group[key]
        group[key] = np.array(values, dtype="S")
        encoded(group[key], "string-array", "0.2.0")
    for key, values in COLUMNS.items():
        obs[key] = np.array(values, dtype="S")
        encoded(obs[key], "string-array", "0.2.0")


def index_as_column(handle):
    """A column named _index in var beside the index, as some converters leave it."""
    encoded(handle, "anndata")
    slots(handle)
    rows(handle, "X", counts().astype("float32"))
    obs = frame(handle, "obs", BARCODES, order=list(COLUMNS))
    for key, values in COLUMNS.items():
        factor(obs, key, values)
    var = frame(handle, "var", SYMBOLS, key="rownames", order=["_index"])
    text(var, "_index", SYMBOLS)


def root_name(handle):
    index_as_column(handle)
    del handle["var"]
    frame(handle, "var", SYMBOLS)
    handle.attrs["encoding-type"] = "AnnData"


H5AD = {
    "zellkonverter": zellkonverter,
    "anndataR": anndata_r,
    "seurat-5": seurat_v5,
    "seuratdisk": seurat_disk,
    "byte-strings": byte_strings,
    "index-as-column": index_as_column,
    "root-name": root_name,
}
ANTIBODIES = ("CD3", "CD19", "CD56")


def fixed(values):
    return np.array(values, dtype="S")


def cell_ranger_2(handle):
    group = handle.create_group("GRCh38")
    x = sparse.csr_matrix(counts().astype("int32"))
    group["data"], group["indices"], group["indptr"] = x.data, x.indices.astype("int64"), x.indptr.astype("int64")
    group["shape"] = np.array(x.shape[::-1], dtype="int32")
    group["barcodes"], group["genes"], group["gene_names"] = fixed(BARCODES), fixed(ENSEMBL), fixed(SYMBOLS)


def cell_ranger_3(handle):
    """With antibodies beside the genes."""
    group = handle.create_group("matrix")
    x = sparse.csr_matrix(np.hstack([counts(), np.full((len(BARCODES), len(ANTIBODIES)), 7)]).astype("int32"))
    group["data"], group["indices"], group["indptr"] = x.data, x.indices.astype("int64"), x.indptr.astype("int64")
    group["shape"] = np.array(x.shape[::-1], dtype="int32")
    group["barcodes"] = fixed(BARCODES)
    features = group.create_group("features")
    features["id"], features["name"] = fixed([*ENSEMBL, *ANTIBODIES]), fixed([*SYMBOLS, *ANTIBODIES])
    kinds = ["Gene Expression"] * len(SYMBOLS) + ["Antibody Capture"] * len(ANTIBODIES)
    features["feature_type"], features["genome"] = fixed(kinds), fixed(["GRCh38"] * len(SYMBOLS) + [""] * 3)
    features["_all_tag_keys"] = fixed(["genome"])
    handle.attrs["chemistry_description"], handle.attrs["filetype"] = "Single Cell 3' v3", "matrix"


def matrix_market(folder, version):
    """Cell Ranger's folder: 2 with genes.tsv, 3 compressed with features.tsv.gz."""
    folder.mkdir()
    io.mmwrite(folder / "matrix.mtx", sparse.coo_matrix(counts().T.astype("int32")))
    (folder / "barcodes.tsv").write_text("".join(f"{name}\n" for name in BARCODES))
    kind = "\tGene Expression" if version == 3 else ""
    lines = [f"{one}\t{other}{kind}\n" for one, other in zip(ENSEMBL, SYMBOLS, strict=True)]
    (folder / ("features.tsv" if version == 3 else "genes.tsv")).write_text("".join(lines))
    for path in list(folder.iterdir()) if version == 3 else ():
        with gzip.GzipFile(f"{path}.gz", "wb", mtime=0) as file:
            file.write(path.read_bytes())
        path.unlink()


def loom_by_hand(handle):
    """Loom without its version, with bytes, as velocyto wrote it: fields named otherwise."""
    handle["matrix"] = counts().T.astype("float32")
    genes, own = handle.create_group("row_attrs"), handle.create_group("col_attrs")
    genes["Gene"], genes["Accession"], own["CellID"] = fixed(SYMBOLS), fixed(ENSEMBL), fixed(BARCODES)
    for key, values in COLUMNS.items():
        own[key] = fixed(values)
    for name in ("layers", "row_graphs", "col_graphs"):
        handle.create_group(name)


OTHERS = {"cellranger-2.h5": cell_ranger_2, "cellranger-3.h5": cell_ranger_3, "velocyto.loom": loom_by_hand}


def main(folder):
    folder = Path(folder)
    for name, make in H5AD.items():
        with h5py.File(folder / f"{name}.h5ad", "w") as handle:
            make(handle)
    with h5py.File(folder / "mudataseurat.h5ad", "w", userblock_size=512) as handle:
        mudata_seurat(handle)
    for name, make in (
        ("cellranger-2.h5", cell_ranger_2),
        ("cellranger-3.h5", cell_ranger_3),
        ("velocyto.loom", loom_by_hand),
    ):
        with h5py.File(folder / name, "w") as handle:
            make(handle)
    for version in (2, 3):
        matrix_market(folder / f"cellranger-{version}-mtx", version)


if __name__ == "__main__":
    main(sys.argv[1])
