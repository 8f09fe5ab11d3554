"""Arrays that are not what they say they are: refused or left out before anything computes with them."""

import h5py
import numpy as np
import pytest
import torch
from anndata import AnnData, read_h5ad
from scipy import sparse

import cellalign
from cellalign import memory
from cellalign.data import files, structure
from cellalign.data.reading import Reading, in_memory
from cellalign.data.source import as_matrix
from cellalign.errors import InputError

N, G = 12, 8


def matrix(kind="csr"):
    made = sparse.random(N, G, 0.4, kind, dtype=np.float32, random_state=0)
    made.data = np.ceil(made.data * 9)
    return made


def _set(part, place, value):
    def hurt(x):
        getattr(x, part)[place] = value

    return hurt


def _shorter(part):
    def hurt(x):
        setattr(x, part, getattr(x, part)[:-3])

    return hurt


HURTS = {
    "an index beyond the end": (_set("indices", 3, 10**6), "has an index of 1000000"),
    "an index just beyond the end": (_set("indices", -1, N), "has an index of 12"),
    "a negative index": (_set("indices", 0, -1), "has an index of -1"),
    "pointers that fall": (_set("indptr", 2, 30), "pointers .indptr. do not rise"),
    "a negative pointer": (_set("indptr", 1, -5), "pointers .indptr. do not rise"),
    "pointers beyond the end": (_set("indptr", -1, 1000), "pointers .indptr. do not rise"),
    "pointers that begin late": (_set("indptr", 0, 1), "pointers .indptr. do not rise"),
    "too few values": (_shorter("data"), "values, and .* indices"),
    "too few indices": (_shorter("indices"), "values, and .* indices"),
    "too few pointers": (_shorter("indptr"), "pointers"),
}


def put(root, path, x):
    """Arrays of a sparse matrix in an open file, as they are."""
    for part in structure.PARTS:
        del root[path][part]
        root[path].create_dataset(part, data=getattr(x, part)) if isinstance(root, h5py.Group) else root[
            path
        ].create_array(part, data=getattr(x, part))


@pytest.fixture(params=["csr", "csc"])
def kind(request):
    return request.param


@pytest.fixture
def whole(kind):
    made = AnnData(matrix(kind))
    made.layers["counts"] = matrix(kind)
    made.obsm["near"] = matrix(kind)
    made.obsp["graph"] = sparse.random(N, N, 0.3, kind, random_state=1)
    made.uns["inner"] = {"graph": matrix(kind), "deeper": {"graph": matrix(kind)}}
    made.raw = made.copy()
    return made


@pytest.mark.parametrize("hurt", HURTS)
def test_x_of_a_file_that_would_be_read_beyond_its_end(tmp_path, whole, kind, hurt):
    change, says = HURTS[hurt]
    whole.write_h5ad(tmp_path / "in.h5ad")
    x = matrix(kind)
    change(x)
    with h5py.File(tmp_path / "in.h5ad", "r+") as handle:
        put(handle, "X", x)
    for read in (files.read, lambda path: files.read_matrix(path, "X")):
        with pytest.raises(InputError, match=rf"in\.h5ad: X cannot be read: it.*{says}"):
            read(tmp_path / "in.h5ad")
    assert files.read_matrix(tmp_path / "in.h5ad", "counts").shape == (N, G)  # which is what it was


@pytest.mark.parametrize("path", ["layers/counts", "obsm/near", "obsp/graph", "uns/inner", "raw/X"])
@pytest.mark.parametrize("hurt", ["an index beyond the end", "pointers beyond the end", "too few values"])
def test_what_no_command_needs_is_left_out(tmp_path, whole, kind, path, hurt, caplog):
    whole.write_h5ad(tmp_path / "in.h5ad")
    x = sparse.random(N, N, 0.3, kind, random_state=1) if path == "obsp/graph" else matrix(kind)
    HURTS[hurt][0](x)
    with h5py.File(tmp_path / "in.h5ad", "r+") as handle:
        put(handle, f"{path}/deeper/graph" if path == "uns/inner" else path, x)
    read = files.read(tmp_path / "in.h5ad")
    store, _, key = path.partition("/")
    assert read.raw is None if store == "raw" else key not in getattr(read, store)
    assert "left out" in caplog.text and read.shape == (N, G)


@pytest.mark.parametrize("hurt", ["an index just beyond the end", "a negative pointer", "too few values"])
def test_zarr_stores_too(tmp_path, whole, kind, hurt):
    import zarr

    change, says = HURTS[hurt]
    whole.write_zarr(tmp_path / "in.zarr")
    x = matrix(kind)
    change(x)
    put(zarr.open_group(str(tmp_path / "in.zarr"), mode="r+", use_consolidated=False), "X", x)
    zarr.consolidate_metadata(str(tmp_path / "in.zarr"))
    with pytest.raises(InputError, match=rf"X cannot be read: it.*{says}"):
        files.read(tmp_path / "in.zarr")


@pytest.mark.parametrize("hurt", HURTS)
def test_files_of_cell_ranger_too(tmp_path, hurt):
    x = matrix("csr")
    HURTS[hurt][0](x)
    with h5py.File(tmp_path / "in.h5", "w") as handle:
        group = handle.create_group("matrix")
        for part in structure.PARTS:
            group[part] = getattr(x, part)
        group["shape"] = [G, N]
        group["barcodes"] = [f"c{i}".encode() for i in range(N)]
        kinds = ["Gene Expression"] * (G - 1) + ["Antibody Capture"]  # of which a part is taken
        for key, values in (("id", range(G)), ("name", range(G)), ("feature_type", kinds), ("genome", [""] * G)):
            group[f"features/{key}"] = [str(value).encode() for value in values]
    with pytest.raises(InputError, match=r"in\.h5 is"):
        files.read(tmp_path / "in.h5")


def test_matrices_in_memory_too():
    adata = AnnData(matrix())
    adata.X.indices[0] = 10**6
    with pytest.raises(InputError, match=r"the input is damaged .X.: it has an index of 1000000"):
        cellalign.train(adata, method="vae", epochs=1)


def test_values_that_are_stored_twice_are_summed(tmp_path):
    whole = AnnData(matrix())
    whole.write_h5ad(tmp_path / "in.h5ad")
    row = slice(*whole.X.indptr[:2])
    with h5py.File(tmp_path / "in.h5ad", "r+") as handle:
        handle["X/indices"][row] = 1
    x = files.read(tmp_path / "in.h5ad").X
    assert x.has_canonical_format and x[0, 1] == whole.X.data[row].sum() and x.getrow(0).nnz == 1


def test_a_shape_that_is_not_that_of_the_names_is_refused_before_it_is_read(tmp_path, monkeypatch):
    AnnData(matrix()).write_h5ad(tmp_path / "in.h5ad")
    with h5py.File(tmp_path / "in.h5ad", "r+") as handle:
        del handle["X"]
        place = handle.create_dataset("X", (10**6, 10**6), "f4", chunks=(1000, 1000), compression="gzip")
        place.attrs["encoding-type"], place.attrs["encoding-version"] = "array", "0.2.0"
    with pytest.raises(InputError, match=r"1,000,000 x 1,000,000, and they are 12 x 8"):
        files.read(tmp_path / "in.h5ad")


@pytest.mark.parametrize("path", ["obs/big", "obs/_index", "layers/big", "uns/big"])
def test_an_array_that_says_it_is_far_larger_than_its_file(tmp_path, path):
    AnnData(matrix(), layers={"a": matrix()}, uns={"a": 1}).write_h5ad(tmp_path / "in.h5ad")
    with h5py.File(tmp_path / "in.h5ad", "r+") as handle:
        handle.pop(path, None)
        shape = (N, 10**8) if path.startswith("layers") else (10**9,)
        place = handle.create_dataset(path, shape, "f4", chunks=True, compression="gzip")
        place.attrs["encoding-type"], place.attrs["encoding-version"] = "array", "0.2.0"
        if path == "obs/big":
            handle["obs"].attrs["column-order"] = ["big"]
    if path == "layers/big":
        assert "big" not in files.read(tmp_path / "in.h5ad").layers
        return
    with pytest.raises(InputError, match=r"damaged .*: it says it is of 4 GB, of which the file holds 0 bytes"):
        files.read(tmp_path / "in.h5ad")


def test_a_matrix_larger_than_all_memory_is_said_to_be(tmp_path, monkeypatch):
    AnnData(np.ones((9000, 8000), "float32")).write_h5ad(tmp_path / "in.h5ad", compression="lzf")
    monkeypatch.setattr(memory, "total", lambda: 10**8)
    with pytest.raises(InputError, match=r"does not fit into memory: X takes 288 MB, and there are 100 MB"):
        files.read(tmp_path / "in.h5ad")


def test_memory_is_known_here():
    assert memory.total() is None or memory.total() > 10**8
    assert [memory.said(n) for n in (12, 3.21e6, 2e16)] == ["12 bytes", "3.21 MB", "20,000 TB"]


@pytest.mark.parametrize("head", [b"1000000000 1000000000 1", b"-1 5 5", b"x", b"", b"5"])
def test_a_matrix_market_file_that_says_another_size(tmp_path, head):
    (tmp_path / "matrix.mtx").write_bytes(b"%%MatrixMarket matrix coordinate integer general\n" + head + b"\n1 1 1\n")
    (tmp_path / "genes.tsv").write_text("a\nb\n")
    (tmp_path / "barcodes.tsv").write_text("c\nd\n")
    with pytest.raises(InputError):
        files.read(tmp_path)


@pytest.mark.parametrize("stored", [np.uint8, np.int8, np.uint16, np.int32, np.float32])
def test_sums_of_values_in_parts_do_not_wrap_around(stored, tmp_path):
    most = 100 if stored == np.int8 else 200
    x = sparse.csr_matrix(
        (np.array([most, most, 7, 9], stored), np.array([0, 0, 1, 2]), np.array([0, 3, 4])), shape=(2, 3)
    )
    expected = [[2 * most, 7, 0], [0, 0, 9]]
    small = x.copy()
    structure.sum_duplicates(small)
    assert small.toarray().tolist() == expected
    assert small.dtype == (stored if 2 * most <= (np.iinfo(stored).max if stored != np.float32 else 1e9) else np.int64)
    AnnData(x).write_h5ad(tmp_path / "in.h5ad")
    for stream in (False, True):
        found = files.read(Reading((str(tmp_path / "in.h5ad"),), stream=stream), streaming=True)
        got = cellalign.preprocess(found, n_top_genes=0, min_cells=0, min_genes=0).layers["counts"]
        got = got if sparse.issparse(got) else got.to_memory()
        assert got.toarray().tolist() == expected


@pytest.mark.parametrize("kind", ["csr", "csc"])
@pytest.mark.parametrize("stored", ["uint32", "uint64", "int16", ">i4"])
def test_indices_of_any_integer_type_are_read(stored, kind, tmp_path):
    """Those of a file that zarr or Rust wrote may be unsigned; training ended in a KeyError."""
    x = matrix(kind)
    AnnData(x).write_h5ad(tmp_path / "in.h5ad")
    with h5py.File(tmp_path / "in.h5ad", "r+") as root:
        for part in ("indices", "indptr"):
            del root["X"][part]
            root["X"].create_dataset(part, data=getattr(x, part).astype(stored))
    for found in (files.read(tmp_path / "in.h5ad"), in_memory(read_h5ad(tmp_path / "in.h5ad"))):
        assert found.X.indices.dtype.isnative and found.X.indices.dtype in (np.int32, np.int64)
        np.testing.assert_array_equal(as_matrix(found.X).rows(torch.arange(N)).dense(), x.toarray())
