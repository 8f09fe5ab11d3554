"""Files of every age, origin and format are read alike; what is not read is named for what it is."""

import bz2
import gzip
import io
import shutil
import tarfile
import zipfile

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata.io import read_elem, write_elem
from scipy import sparse
from scipy.io import mmwrite
from support import at_every_change

from cellalign.data import files
from cellalign.data.formats.normal import normalised
from cellalign.data.reading import Reading
from cellalign.errors import InputError

TEXT = h5py.string_dtype()


@pytest.fixture
def counts(tiny_counts):
    return tiny_counts[:30, :12].copy()


@pytest.fixture
def saved(counts, tmp_path):
    counts.layers["counts"] = counts.X.copy()
    counts.write_h5ad(tmp_path / "in.h5ad")
    return tmp_path / "in.h5ad"


def same(got, expected):
    """The same cells, genes and values."""
    assert list(got.obs_names) == list(expected.obs_names) and list(got.var_names) == list(expected.var_names)
    assert got.obs_names.dtype == object and got.var_names.dtype == object
    dense = [x.toarray() if sparse.issparse(x) else np.asarray(x) for x in (got.X, expected.X)]
    np.testing.assert_array_equal(*dense)


def on_disk(path, counts, **changes):
    counts.write_h5ad(path)
    return h5py.File(path, "r+")


# --- h5ad of every age and origin


def test_a_root_of_another_name_or_of_none(saved, counts):
    for name in ("AnnData", None):
        with h5py.File(saved, "r+") as handle:
            handle.attrs.pop("encoding-type")
            handle.attrs.update({} if name is None else {"encoding-type": name})
        same(files.read(saved), counts)
        same(files.read_matrix(saved, "X"), counts)


def test_a_column_named_index(counts, tmp_path, caplog):
    counts.raw = counts
    with on_disk(tmp_path / "x.h5ad", counts) as handle:
        for path in ("obs", "var", "raw/var"):
            group = handle[path]
            group.move("_index", "rownames")
            group.attrs["_index"] = "rownames"
            write_elem(group, "_index", np.array(read_elem(group["rownames"]), dtype=object))
            group.attrs["column-order"] = np.array([*group.attrs["column-order"], "_index"], dtype=TEXT)
    got = files.read(tmp_path / "x.h5ad")
    same(got, counts)
    assert "index_" in got.var and "index_" in got.raw.var and "index_" in got.obs
    assert "'_index' as 'index_'" in caplog.text
    files.write(got, tmp_path / "y.h5ad")
    assert "index_" in ad.read_h5ad(tmp_path / "y.h5ad").raw.var


def test_records_of_anndata_06(counts, tmp_path):
    path = tmp_path / "old.h5ad"
    with h5py.File(path, "w") as handle:
        x = handle.create_group("X")
        x.attrs["h5sparse_format"], x.attrs["h5sparse_shape"] = "csr", np.array(counts.shape)
        x["data"], x["indices"], x["indptr"] = counts.X.data, counts.X.indices, counts.X.indptr
        for key, frame in (("obs", counts.obs), ("var", counts.var)):
            columns = [("index", np.array([name.encode() for name in frame.index]))]
            for column in frame:
                columns.append((column, frame[column].cat.codes.to_numpy()))
                names = np.array(list(frame[column].cat.categories), dtype=TEXT)
                handle.require_group("uns")[f"{column}_categories"] = names
            handle[key] = np.rec.fromarrays([v for _, v in columns], names=[n for n, _ in columns])
    for got in (files.read(path), files.read_matrix(path, ("counts", "X"))):
        same(got, counts)
        assert list(got.obs["stim"].astype(str)) == list(counts.obs["stim"].astype(str))
    files.write_with(path, tmp_path / "new.h5ad", obsm={"X_z": np.ones((counts.n_obs, 2))})
    same(files.read(tmp_path / "new.h5ad"), counts)


def test_categories_of_anndata_07(saved, counts):
    with h5py.File(saved, "r+") as handle:
        obs = handle["obs"]
        obs.attrs["encoding-version"] = "0.1.0"
        codes, names = obs["stim/codes"][:], obs["stim/categories"][:]
        del obs["stim"]
        obs["stim"], obs["__categories/stim"] = codes, names
        obs["stim"].attrs["categories"] = obs["__categories/stim"].ref
    assert list(files.read(saved).obs["stim"]) == list(counts.obs["stim"])


@pytest.mark.parametrize("harm", ["no _index", "no column-order", "lists more", "no encoding", "one unreadable"])
def test_tables_that_anndata_does_not_read_as_a_whole(saved, counts, harm, caplog):
    """As rhdf5 and hdf5r write them: an attribute is missing, or a column is of a kind of its own."""
    with h5py.File(saved, "r+") as handle:
        obs = handle["obs"]
        if harm == "no _index":
            del obs.attrs["_index"]
        elif harm == "no column-order":
            del obs.attrs["column-order"]
        elif harm == "lists more":
            obs.attrs["column-order"] = np.array([*obs.attrs["column-order"], "gone"], dtype=TEXT)
        elif harm == "no encoding":
            del obs.attrs["encoding-type"], obs.attrs["encoding-version"]
        else:
            obs["donor"].attrs["encoding-type"] = "of the future"
    got = files.read(saved)
    same(got, counts)
    assert list(got.obs["stim"].astype(str)) == list(counts.obs["stim"].astype(str))
    assert ("donor" in got.obs) == (harm != "one unreadable")
    assert harm != "one unreadable" or "'of the future' is unknown" in caplog.text


def test_what_is_not_needed_and_cannot_be_read_is_left_out(saved, counts, caplog):
    with h5py.File(saved, "r+") as handle:
        handle.require_group("uns").create_group("odd").attrs["encoding-type"] = "of the future"
        handle["obsm"]["X_bad"] = np.ones((3, 2))
    got = files.read(saved)
    same(got, counts)
    assert "odd" not in got.uns and "X_bad" not in got.obsm
    assert "uns/odd" in caplog.text and "obsm/X_bad" in caplog.text
    with h5py.File(saved, "r+") as handle:
        handle["X"].attrs["encoding-type"] = "of the future"
    with pytest.raises(InputError, match="in.h5ad: X cannot be read: its kind 'of the future' is unknown"):
        files.read(saved)


def test_raw_without_genes_of_its_own(counts, tmp_path, caplog):
    counts.raw = counts
    with on_disk(tmp_path / "x.h5ad", counts) as handle:
        del handle["raw/var"]
    same(files.read(tmp_path / "x.h5ad").raw.to_adata(), counts)


def test_bytes_numbers_and_mixed_values(saved, counts, caplog):
    with h5py.File(saved, "r+") as handle:
        obs = handle["obs"]
        del obs["_index"], obs["donor"]
        obs["_index"] = np.arange(counts.n_obs)
        obs["donor"] = np.array([b"d1", b"d2"] * 15)
    got = files.read(saved)
    assert list(got.obs_names[:3]) == ["0", "1", "2"] and list(got.obs["donor"][:2]) == ["d1", "d2"]


@pytest.mark.parametrize("dtype", [">f4", ">i4", bool, np.int8, np.uint16, np.int64, np.float16, np.float64])
@pytest.mark.parametrize("layout", ["dense", "csr", "csc"])
def test_matrices_of_any_number(counts, tmp_path, dtype, layout):
    values = np.minimum(counts.X.toarray(), 1)
    path = tmp_path / "x.h5ad"
    with on_disk(path, counts) as handle:
        del handle["X"]
        if layout == "dense":
            handle["X"] = values.astype(dtype)
            handle["X"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        else:
            x = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix}[layout](values)
            write_elem(handle, "X", x)
            del handle["X/data"]
            handle["X/data"] = x.data.astype(dtype)
    got = files.read_matrix(path, "X")
    assert got.X.dtype.isnative and got.X.dtype.kind in "iuf"
    counts.X = values
    same(got, counts)
    files.write(got, tmp_path / "y.h5ad")


# --- strings of pandas, and what older readers know


def modern(counts):
    """Cells as anndata 0.13 with pandas 3 has them: strings of pandas' own kind everywhere."""
    counts.obs_names = pd.Index(list(counts.obs_names), dtype="string")
    counts.var_names = pd.Index(list(counts.var_names), dtype="string")
    counts.obs["text"] = pd.array(["a", "b", None] * 10, dtype="string")
    counts.obs["whole"] = pd.array([f"w{i}" for i in range(30)], dtype="string")
    counts.obs["kind"] = pd.Categorical.from_codes([0, 1] * 15, pd.Index(["u", "v"], dtype="string"))
    counts.obs["n"] = pd.array([1, None, 3] * 10, dtype="Int64")
    counts.uns["names"] = pd.array(["x", None], dtype="string")
    counts.uns["nothing"] = None
    return counts


def kinds(path):
    """Kinds of all elements in a file or store."""
    found = set()

    def look(group):
        for key in group:
            found.add(group[key].attrs.get("encoding-type"))
            if hasattr(group[key], "keys"):
                look(group[key])

    if path.suffix == ".zarr":
        look(zarr.open_group(str(path), mode="r"))
    else:
        with h5py.File(path) as handle:
            look(handle)
    return found


@pytest.mark.parametrize("ending", at_every_change([".h5ad", ".zarr"], [".h5ad"]))
def test_strings_that_old_readers_lack_are_read_and_never_written(counts, tmp_path, ending):
    path = tmp_path / "new.h5ad"
    with ad.settings.override(allow_write_nullable_strings=True):
        ad.AnnData.write_h5ad(modern(counts), path, convert_strings_to_categoricals=False)
    assert "nullable-string-array" in kinds(path)
    got = files.read(path)
    assert list(got.obs["text"].isna()[:3]) == [False, False, True]
    assert list(got.obs["whole"][:2]) == ["w0", "w1"] and list(got.obs["kind"][:2]) == ["u", "v"]
    files.write(got, tmp_path / f"a{ending}")
    added = {"mine": pd.array(["p", "q", None] * 10, dtype="string"), "prob": np.ones(30, np.float32)}
    files.write_with(path, tmp_path / f"b{ending}", obs=added, uns={"k": "v"})
    for out in (tmp_path / f"a{ending}", tmp_path / f"b{ending}"):
        assert not kinds(out) & {"nullable-string-array", "null"}
        back = files.read(out)
        assert list(back.obs_names) == list(got.obs_names) and list(back.obs["kind"][:2]) == ["u", "v"]
        assert list(back.obs["text"].isna()[:3]) == [False, False, True] and back.obs["n"].isna().sum() == 10
    assert list(back.obs["mine"][:2]) == ["p", "q"] and back.obs.columns[-1] == "prob" and back.uns["k"] == "v"


def test_a_copy_keeps_all_else(saved, tmp_path):
    with h5py.File(saved, "r+") as handle:
        handle["of another tool"] = np.arange(3)
        handle["X"].attrs["note"] = "mine"
    files.write_with(saved, tmp_path / "out.h5ad", uns={"k": 1})
    with h5py.File(tmp_path / "out.h5ad") as handle:
        assert list(handle["of another tool"]) == [0, 1, 2] and handle["X"].attrs["note"] == "mine"


# --- other formats


def test_zarr_of_both_versions_and_zipped(saved, counts, tmp_path):
    for version in (2, 3):
        with ad.settings.override(zarr_write_format=version):
            ad.read_h5ad(saved).write_zarr(tmp_path / f"v{version}")  # no ending: the content tells
        same(files.read(tmp_path / f"v{version}"), counts)
        got = files.read_matrix(tmp_path / f"v{version}", "counts")
        assert got.X is None and list(got.layers) == ["counts"]
        shutil.make_archive(str(tmp_path / f"z{version}"), "zip", tmp_path / f"v{version}")
        same(files.read(tmp_path / f"z{version}.zip"), counts)
    with pytest.raises(InputError, match="no matrix 'none'; matrices: X, counts"):
        files.read_matrix(tmp_path / "v3", "none")


def test_a_store_that_was_copied_in_part_is_not_read_as_zeros(saved, tmp_path):
    cells = ad.read_h5ad(saved)
    cells.write_zarr(tmp_path / "x.zarr")
    root = zarr.open_group(str(tmp_path / "x.zarr"), mode="r+", use_consolidated=False)
    values = root["X/data"][:]
    del root["X/data"]
    root["X"].create_array("data", shape=values.shape, dtype=values.dtype, chunks=(50,))[:] = values
    zarr.consolidate_metadata(str(tmp_path / "x.zarr"))
    same(files.read(tmp_path / "x.zarr"), cells)
    chunks = [file for file in (tmp_path / "x.zarr/X/data").rglob("*") if file.is_file() and file.name.isdigit()]
    chunks[0].unlink()
    with pytest.raises(
        InputError, match=rf"x.zarr is truncated or damaged \(X\): 1 of {len(chunks)} chunks are missing"
    ):
        files.read(tmp_path / "x.zarr")


@pytest.mark.parametrize("version", [2, 3])
def test_a_store_that_goes_while_it_is_read_is_not_read_as_zeros(saved, tmp_path, version):
    with ad.settings.override(zarr_write_format=version):
        ad.read_h5ad(saved).write_zarr(tmp_path / "x.zarr")
    cells = files.read(Reading((str(tmp_path / "x.zarr"),), stream=True), streaming=True)
    shutil.rmtree(tmp_path / "x.zarr")
    with pytest.raises(InputError, match="the store is gone"):
        cells.matrices["X"].rows(np.arange(5))


def test_packed_files_and_standard_names(saved, counts, tmp_path, monkeypatch):
    for name, pack in (("x.h5ad.gz", gzip.compress), ("x.bz2", bz2.compress)):
        (tmp_path / name).write_bytes(pack(saved.read_bytes()))
        same(files.read(tmp_path / name), counts)
    monkeypatch.setattr("sys.stdin", type("", (), {"buffer": io.BytesIO(saved.read_bytes())}))
    same(files.read("-"), counts)


def write_10x(path, counts, *, version=3, kinds=("Gene Expression",), names=None):
    """A file as Cell Ranger writes it."""
    names = list(counts.var_names) if names is None else names
    with h5py.File(path, "w") as handle:
        group = handle.create_group("matrix" if version == 3 else "GRCh38")
        group["data"], group["indices"] = counts.X.data.astype("int32"), counts.X.indices.astype("int64")
        group["indptr"], group["shape"] = counts.X.indptr.astype("int64"), np.array(counts.shape[::-1], "int32")
        group["barcodes"] = np.array([name.encode() for name in counts.obs_names])
        ids = np.array([f"ENSG{i:011d}".encode() for i in range(counts.n_vars)])
        symbols = np.array([name.encode() for name in names])
        if version == 2:
            group["genes"], group["gene_names"] = ids, symbols
            return
        features = group.create_group("features")
        features["id"], features["name"] = ids, symbols
        which = [kinds[i * len(kinds) // counts.n_vars].encode() for i in range(counts.n_vars)]
        features["feature_type"] = np.array(which)
        features["genome"] = np.array([b"GRCh38"] * counts.n_vars)
        features["_all_tag_keys"] = np.array([b"genome"])


def test_10x_files(counts, tmp_path, caplog):
    caplog.set_level("INFO")
    for version in (2, 3):
        write_10x(tmp_path / "x.h5", counts, version=version)
        got = files.read(tmp_path / "x.h5")
        same(got, counts)
        assert got.var["gene_ids"].iloc[0] == "ENSG00000000000"
        same(files.read_matrix(tmp_path / "x.h5", ("counts", "X")), counts)
    write_10x(tmp_path / "x.h5", counts, names=["A", "A", *counts.var_names[2:]])
    assert list(files.read(tmp_path / "x.h5").var_names[:2]) == ["A", "A-1"]
    assert "1 gene names occur more than once" in caplog.text


def test_10x_of_several_kinds_of_features(counts, tmp_path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "x.h5"
    write_10x(path, counts, kinds=("Gene Expression", "Antibody Capture"))
    assert list(files.read(path).var_names) == list(counts.var_names[:6])
    assert "left out 6 of 'Antibody Capture'" in caplog.text
    other = files.read(Reading((str(path),), modality="Antibody Capture"))
    assert list(other.var_names) == list(counts.var_names[6:])
    with pytest.raises(InputError, match="kinds of features: Gene Expression, Antibody Capture"):
        files.read(Reading((str(path),), modality="ATAC"))
    with h5py.File(path, "r+") as handle:
        del handle["matrix/features"]
    with pytest.raises(InputError, match="without its genes"):
        files.read(path)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("genes", ["features", "genes"])
def test_matrix_folders(counts, tmp_path, packed, genes):
    folder = tmp_path / "filtered"
    folder.mkdir()
    table = pd.DataFrame({0: [f"ENSG{i}" for i in range(12)], 1: counts.var_names})
    if genes == "features":
        table[2] = "Gene Expression"
    ending = ".gz" if packed else ""
    buffer = io.BytesIO()
    mmwrite(buffer, counts.X.T.astype(int))
    texts = {
        "matrix.mtx": buffer.getvalue(),
        f"{genes}.tsv": table.to_csv(sep="\t", header=False, index=False).encode(),
        "barcodes.tsv": "\n".join(counts.obs_names).encode(),
    }
    for prefix in ("", "GSM1_"):
        for name, text in texts.items():
            (folder / f"{prefix}{name}{ending}").write_bytes(gzip.compress(text) if packed else text)
    with pytest.raises(InputError, match="holds 2 matrices: GSM1_matrix.mtx"):
        files.read(folder)
    same(files.read(folder / f"GSM1_matrix.mtx{ending}"), counts)
    for file in folder.glob("GSM1*"):
        file.unlink()
    got = files.read(folder)
    same(got, counts)
    assert got.X.dtype.kind == "f" and got.var["gene_ids"].iloc[1] == "ENSG1"
    (folder / f"barcodes.tsv{ending}").unlink()
    with pytest.raises(InputError, match=r"without barcodes.tsv\(.gz\)"):
        files.read(folder)


def write_mudata(path, counts, userblock=512):
    with h5py.File(path, "w", userblock_size=userblock) as handle:
        handle.attrs.update({"encoding-type": "MuData", "encoding-version": "0.1.0", "axis": 0})
        modalities = handle.create_group("mod")
        write_elem(modalities, "rna", counts)
        write_elem(modalities, "prot", counts[:, :4].copy())
        modalities.attrs["mod-order"] = ["rna", "prot"]
        write_elem(handle, "obs", pd.DataFrame({"site": "s1", "rna:n": 1}, index=counts.obs_names))


def test_mudata_under_any_name(counts, tmp_path):
    for name, block in (("x.h5mu", 512), ("x.h5ad", 512), ("y.h5ad", 0)):
        path = tmp_path / name
        write_mudata(path, counts, block)
        with pytest.raises(InputError, match="several modalities; name one with modality: rna, prot"):
            files.read(path)
        got = files.read(Reading((str(path),), modality="rna"))
        same(got, counts)
        assert list(got.obs["site"][:1]) == ["s1"] and "rna:n" not in got.obs
        assert files.read_matrix(Reading((str(path),), modality="prot"), "X").n_vars == 4
        with pytest.raises(InputError, match="has no modality='atac'"):
            files.read(Reading((str(path),), modality="atac"))
    with h5py.File(path, "r+") as handle:
        del handle["mod/prot"]
    same(files.read(path), counts)


def test_loom(counts, tmp_path):
    pytest.importorskip("loompy")
    path = tmp_path / "x.loom"
    with h5py.File(path, "w") as handle:
        handle["matrix"] = counts.X.toarray().T
        handle.create_group("layers")["spliced"] = counts.X.toarray().T + 1
        handle.create_group("row_attrs")["Gene"] = np.array([name.encode() for name in counts.var_names])
        handle.create_group("col_attrs")["CellID"] = np.array([name.encode() for name in counts.obs_names])
        handle["col_attrs/stim"] = np.array([value.encode() for value in counts.obs["stim"]])
    got = files.read(path)
    same(got, counts)
    assert [name for name in got.layers if name] == ["spliced"] and list(got.obs["stim"]) == list(counts.obs["stim"])


def test_a_format_whose_package_is_missing_says_what_to_install(counts, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "loompy", None)
    with h5py.File(tmp_path / "x.loom", "w") as handle:
        handle["matrix"] = counts.X.toarray().T
        handle.create_group("row_attrs"), handle.create_group("col_attrs")
    with pytest.raises(InputError, match=r"pip install 'cellalign\[formats\]'"):
        files.read(tmp_path / "x.loom")


@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_tables(counts, tmp_path, separator, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "x.any"
    counts.to_df().to_csv(path, sep=separator)
    same(files.read(path), counts)
    assert "a table of 30 cells (cell0, ...) x 12 genes (GENE0, ...)" in caplog.text
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    same(files.read_matrix(tmp_path / "x.csv.gz", "X"), counts)
    # as R writes one: no name above the names
    head, rest = path.read_text().split("\n", 1)
    path.write_text(head.split(separator, 1)[1] + "\n" + rest)
    same(files.read(path), counts)


def test_a_turned_table_is_read_turned_and_said(counts, tmp_path, caplog):
    counts.var_names = ["ACTB", "GAPDH", "CD3D", *counts.var_names[3:]]
    counts.to_df().T.to_csv(tmp_path / "x.csv")
    same(files.read(tmp_path / "x.csv"), counts)
    assert "genes in rows and cells in columns; read turned" in caplog.text


def test_a_table_with_text_among_its_numbers(counts, tmp_path):
    counts.to_df().assign(stim="a").to_csv(tmp_path / "x.csv")
    with pytest.raises(InputError, match=r"1 columns that are not numbers \('stim'\); .*give cell metadata with obs"):
        files.read(tmp_path / "x.csv")


@pytest.mark.parametrize("above", [True, False])
def test_names_in_tables_are_text_and_told_apart(counts, tmp_path, above, caplog):
    """Names such as 0012, 1e5 and NA were read as numbers and as missing, a second GENE0 as GENE0.1."""
    caplog.set_level("INFO")
    names = ["0012", "1e5", "NA", "TRUE", *map(str, range(4, counts.n_obs))]
    table = counts.to_df().set_axis(names).set_axis(["GENE0", *counts.var_names[1:-1], "GENE0"], axis=1)
    text = table.to_csv() if above else table.to_csv().lstrip(",")
    (tmp_path / "x.csv").write_text(text)
    (tmp_path / "obs.csv").write_text("\n".join(["name,site", *(f"{name},x" for name in names)]))
    found = files.read(Reading((str(tmp_path / "x.csv"),), obs=str(tmp_path / "obs.csv")))
    assert list(found.obs_names) == names and (found.obs["site"] == "x").all()
    assert list(found.var_names) == [*counts.var_names[:-1], "GENE0-1"]
    assert "1 gene names occur more than once; they are numbered" in caplog.text
    (tmp_path / "x.csv").write_text(table.iloc[:0].to_csv())
    with pytest.raises(InputError, match="x.csv is a table without rows"):
        files.read(tmp_path / "x.csv")


@pytest.mark.parametrize("genes", [True, False], ids=["genes", "no genes"])
@pytest.mark.parametrize("cells", [True, False], ids=["cells", "no cells"])
def test_a_table_without_names_loses_no_row_and_no_column(counts, tmp_path, caplog, cells, genes):
    """The first gene was taken for the cells' names, the first cell for the genes' names."""
    counts.to_df().to_csv(tmp_path / "x.csv", index=cells, header=genes)
    if not cells:
        counts.obs_names = list(map(str, range(counts.n_obs)))
    if not genes:
        counts.var_names = list(map(str, range(counts.n_vars)))
    same(files.read(tmp_path / "x.csv"), counts)
    assert ("first column holds numbers" in caplog.text) is not cells
    assert ("first line holds numbers" in caplog.text) is not genes


def test_names_that_are_numbers_are_names(counts, tmp_path, caplog):
    counts.var_names = [str(10 + 7 * i) for i in range(counts.n_vars)]  # as Entrez has them
    counts.obs_names = list(map(str, range(counts.n_obs)))
    counts.to_df().to_csv(tmp_path / "x.csv")
    same(files.read(tmp_path / "x.csv"), counts)
    counts.to_df().to_csv(tmp_path / "x.csv", index_label="cell")
    same(files.read(tmp_path / "x.csv"), counts)
    assert "holds numbers" not in caplog.text


# --- what is not read


def zipped(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


def tarred():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.h5ad"))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (
            gzip.compress(b"X\n\0\0\0\3" + bytes(50), mtime=0),
            "R object .*anndataR::write_h5ad.*zellkonverter::writeH5AD",
        ),
        (gzip.compress(b"RDX3\nX\n" + bytes(50), mtime=0), "RData.*load"),
        (b"\x0b\x0e\x0a\x0c" + bytes(50), "saved by qs.*qs::qread"),
        (b"PAR1" + bytes(50), "Parquet.*read_parquet"),
        (b"ARROW1" + bytes(50), "Arrow"),
        (zipped("[Content_Types].xml", "xl/workbook.xml"), "Excel"),
        (b"\xd0\xcf\x11\xe0" + bytes(50), "Excel"),
        (zipped("a.h5ad"), "zip archive; unpack it: unzip"),
        (tarred(), "tar archive; unpack it: tar -xf"),
        (zipped("x.npy"), "NumPy"),
        (b"\x80\x04\x95" + bytes(50), "pickle, which is never read"),
        (b"\x28\xb5\x2f\xfd" + bytes(50), "zstd -d"),
        (b"<!DOCTYPE html><html>", "web page.*download it again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (gzip.compress(b"a" * 10_000, mtime=0)[:40], "truncated or damaged"),
        (bytes(range(256)) * 4, "is of no kind that is read; convert it to one of .h5ad, .zarr"),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-16"),
        (b"just text\n", "table"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_files_are_named_for_what_they_are(tmp_path, content, says):
    path = tmp_path / "cells.h5ad"
    path.write_bytes(content)
    for read in (files.read, lambda p: files.read_matrix(p, "X")):
        with pytest.raises(InputError, match=says) as found:
            read(path)
        assert "damaged" not in str(found.value) or "damaged" in says


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        (("assays", "cell.names", "meta.data"), "h5Seurat.*SeuratDisk::Convert"),
        (("barcode_idx", "umi"), "molecule_info"),
        (("model_weights",), "not one of cells that is known; it holds: model_weights"),
        (("obs", "X"), "it holds: X, obs"),
    ],
)
def test_other_hdf5_files(tmp_path, groups, says):
    with h5py.File(tmp_path / "x.h5ad", "w") as handle:
        for group in groups:
            handle.create_group(group)
    with pytest.raises(InputError, match=says):
        files.read(tmp_path / "x.h5ad")


def test_folders_without_cells(tmp_path):
    for name, says in (("model.yaml", "model directory"), ("__tiledb_group.tdb", "to_anndata"), ("x", "without cells")):
        folder = tmp_path / name.strip("_")
        folder.mkdir()
        (folder / name).write_text("")
        with pytest.raises(InputError, match=says):
            files.read(folder)


def test_damaged_files_and_no_others_are_called_damaged(saved, counts, tmp_path):
    whole = saved.read_bytes()
    (tmp_path / "short.h5ad").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "head.h5ad").write_bytes(whole[:40])
    counts.write_h5ad(tmp_path / "gz.h5ad", compression="gzip")
    with h5py.File(tmp_path / "gz.h5ad") as handle:
        place = handle["X/data"].id.get_chunk_info(0).byte_offset
    bad = bytearray((tmp_path / "gz.h5ad").read_bytes())
    bad[place + 2 : place + 30] = bytes(28)
    (tmp_path / "bad.h5ad").write_bytes(bad)
    for name in ("short", "head", "bad"):
        with pytest.raises(InputError, match=rf"{name}.h5ad is truncated or damaged.*copy or download it again"):
            files.read(tmp_path / f"{name}.h5ad")


def test_a_compression_that_is_not_installed_is_named(saved, monkeypatch):
    with h5py.File(saved) as handle:
        n = len(handle["X/data"])
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((n,))
    plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
    with h5py.File(saved, "r+") as handle:
        del handle["X/data"]
        space = h5py.h5s.create_simple((n,))
        made = h5py.h5d.create(handle["X"].id, b"data", h5py.h5t.NATIVE_FLOAT, space, plist)
        made.write_direct_chunk((0,), b"\x28\xb5\x2f\xfd" + bytes(30))
    monkeypatch.setitem(__import__("sys").modules, "hdf5plugin", None)
    if h5py.h5z.filter_avail(32015):
        pytest.skip("hdf5plugin was imported in this process")
    with pytest.raises(InputError, match=r"X is compressed with Zstandard, .*pip install 'cellalign\[formats\]'"):
        files.read(saved)


def test_files_that_may_not_be_read_are_no_damaged_ones(saved, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("cellalign.data.formats.detect.h5py.is_hdf5", refuse)
    with pytest.raises(InputError, match=r"cannot read .*in.h5ad: Permission denied"):
        files.read(saved)
    with pytest.raises(InputError, match="is an address and not a file; download it first"):
        files.read("https://example.org/a.h5ad")


@pytest.mark.parametrize("x", [[[1, 0], [2, 0], [3, 0]], [[0, 0], [0, 0], [4, 5]]])
def test_chunks_of_zeros_which_a_store_leaves_out_are_read(tmp_path, x):
    cells = ad.AnnData(sparse.csr_matrix(np.array(x, dtype=np.float32)))
    stored = cells.copy()
    stored.X.data[:] = 0
    for name, written in (("x.zarr", cells), ("zeros.zarr", stored)):
        written.write_zarr(tmp_path / name)
        np.testing.assert_array_equal(files.read(tmp_path / name).X.toarray(), written.X.toarray())


def in_chunks(x, *, part, size, path):
    """A store or file of one sparse matrix, a part of which lies in chunks of a size."""
    ad.AnnData(x).write_zarr(path)
    root = zarr.open_group(str(path), mode="r+", use_consolidated=False)
    values = root[f"X/{part}"][:]
    del root[f"X/{part}"]
    root["X"].create_array(part, shape=values.shape, dtype=values.dtype, chunks=(size,))[:] = values
    zarr.consolidate_metadata(str(path))
    return sorted(file for file in (path / "X" / part).rglob("*") if file.is_file() and file.name.isdigit())


@pytest.mark.parametrize("kind", ["csr", "csc"])
@pytest.mark.parametrize("stream", at_every_change([False, True], [True]))
@pytest.mark.parametrize("part", ["data", "indices", "indptr"])
def test_any_lost_chunk_of_a_sparse_matrix_is_damage(tmp_path, part, stream, kind):
    x = sparse.random(40, 30, 0.3, format=kind, dtype=np.float32, random_state=0)
    reading = Reading((str(tmp_path / "x.zarr"),), stream=stream)
    n = len(in_chunks(x, part=part, size=8, path=tmp_path / "x.zarr"))
    for lost in (0, n // 2, n - 1):
        chunks = in_chunks(x, part=part, size=8, path=tmp_path / "x.zarr")
        chunks[lost].unlink()
        with pytest.raises(InputError, match=f"1 of {n} chunks are missing"):
            files.read(reading, streaming=True, by_columns=stream)


def test_rows_without_values_at_the_start_of_a_store_are_read(tmp_path):
    x = sparse.random(40, 30, 0.3, format="csr", dtype=np.float32, random_state=0)
    x[:20] = 0
    x.eliminate_zeros()
    assert len(in_chunks(x, part="indptr", size=8, path=tmp_path / "x.zarr")) == 4  # of 6: two are zeros, left out
    np.testing.assert_array_equal(files.read(tmp_path / "x.zarr").X.toarray(), x.toarray())


@pytest.mark.parametrize("kind", ["csr", "csc"])
def test_of_one_gene_every_index_is_left_out_of_a_store_and_nothing_is_missing(tmp_path, kind):
    """Values of a cell that stand there twice too: all of them are of the first gene."""
    values, indices, pointers = np.array([1, 2, 3, 4], np.float32), np.zeros(4, np.int32), np.array([0, 2, 2, 3, 4])
    of = sparse.csr_matrix if kind == "csr" else sparse.csc_matrix
    x = of((values, indices, pointers), shape=(4, 1) if kind == "csr" else (1, 4))
    assert not in_chunks(x, part="indices", size=8, path=tmp_path / "x.zarr")
    np.testing.assert_array_equal(files.read(tmp_path / "x.zarr").X.toarray(), x.toarray())


@pytest.mark.parametrize("stream", [False, True])
def test_a_part_of_an_hdf5_file_that_was_never_written_is_damage(tmp_path, stream):
    x = sparse.random(40, 30, 0.3, format="csr", dtype=np.float32, random_state=0)
    ad.AnnData(x).write_h5ad(tmp_path / "x.h5ad")
    for chunks in ((8,), None):
        with h5py.File(tmp_path / "x.h5ad", "r+") as handle:
            values = x.indices
            del handle["X/indices"]
            made = handle["X"].create_dataset("indices", shape=values.shape, dtype=values.dtype, chunks=chunks)
            if chunks:
                made[: len(values) - 8] = values[:-8]
        reading = Reading((str(tmp_path / "x.h5ad"),), stream=stream)
        with pytest.raises(InputError, match="1 of .* chunks are missing"):
            files.read(reading, streaming=True)


def test_values_that_are_all_left_out_are_said(tmp_path, caplog):
    x = sparse.csr_matrix(np.array([[1, 0], [2, 3]], dtype=np.float32))
    (chunk,) = in_chunks(x, part="data", size=3, path=tmp_path / "x.zarr")
    chunk.unlink()
    assert not files.read(tmp_path / "x.zarr").X.toarray().any()
    assert "X: not one of its 3 stored values is in the file" in caplog.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_dense_matrix_that_is_left_out_is_said(tmp_path, caplog, stream):
    cells = ad.AnnData(np.ones((4, 3), dtype=np.float32), layers={"some": np.eye(4, 3, dtype=np.float32)})
    cells.obs["code"] = pd.Categorical(["a"] * 4)  # whose codes are zeros, left out as they should be
    cells.write_zarr(tmp_path / "x.zarr")
    for file in (tmp_path / "x.zarr/X").rglob("*"):
        if file.is_file() and file.name[-1].isdigit():
            file.unlink()
    files.read(Reading((str(tmp_path / "x.zarr"),), stream=stream), streaming=True)
    assert caplog.text.count("X: not one of its 12 stored values is in the file") == 1
    assert caplog.text.count("not one of") == 1


def test_null_characters_are_refused_in_names_and_left_out_of_columns(saved, caplog):
    adata = files.read(saved)
    adata.obs["note"] = pd.Series(["a\0b"] * adata.n_obs, index=adata.obs_names, dtype=object)
    adata.obs["kind"] = pd.Categorical(["x\0"] * adata.n_obs)
    adata.uns["text"] = {"a": "b\0c", "many": np.array(["d\0", "e"], dtype=object)}
    made = normalised(adata)
    assert set(made.obs["note"]) == {"ab"} and set(made.obs["kind"]) == {"x"} and "null characters" in caplog.text
    assert made.uns["text"]["a"] == "bc" and list(made.uns["text"]["many"]) == ["d", "e"]
    made.obs_names = ["a\0", *made.obs_names[1:]]
    with pytest.raises(InputError, match="the name .* holds a null character"):
        normalised(made)
