"""Whatever AnnData or pandas may hold is made such that it can be used and written, and what changes is said."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from support import at_every_change

from cellalign.data import files
from cellalign.data.formats.normal import normalised, plain_frame
from cellalign.data.given import given_cells

N = 6
ODD = {
    "mixed": [1, "a", 2.5, None, True, "b"],
    "words and missing": ["a", None, "b", np.nan, "c", "d"],
    "numbers as objects": pd.Series([1, 2, 3, 4, 5, 6], dtype=object),
    "floats as objects": pd.Series([1.5, None, 3, 4, 5, 6], dtype=object),
    "huge": pd.Series([2**70, 1, 2, 3, 4, 5], dtype=object),
    "truth": pd.Series([True, None, False, True, False, True], dtype=object),
    "bytes": pd.Series([b"a", b"b"] * 3, dtype=object),
    "nothing": pd.Series([None] * N, dtype=object),
    "dates": pd.date_range("2020-01-01", periods=N),
    "spans": pd.to_timedelta(range(N), unit="h"),
    "months": pd.period_range("2020-01", periods=N, freq="M"),
    "bins": pd.cut(np.arange(N), 3),
    "sparse": pd.arrays.SparseArray([0, 0, 1, 0, 2, 0]),
    "big endian": np.arange(N, dtype=">f4"),
    "complex": np.arange(N) + 1j,
    "strings": pd.array(["a", "b", None] * 2, dtype="string"),
    "whole strings": pd.array(list("abcdef"), dtype="string"),
    "Int64": pd.array([1, 2, None] * 2, dtype="Int64"),
    "whole Int64": pd.array([1, 2, 3] * 2, dtype="Int64"),
    "Float64": pd.array([1, 2, None] * 2, dtype="Float64"),
    "boolean": pd.array([True, False, None] * 2, dtype="boolean"),
    "category of numbers": pd.Categorical([1, 2, 1, 2, 1, 2]),
    "category of truth": pd.Categorical([True, False] * 3),
    "category of strings": pd.Categorical(["a", "b"] * 3).rename_categories(pd.Index(["a", "b"], dtype="string")),
    "category of mixed": pd.Categorical([1, "a"] * 3),
    "category of bytes": pd.Categorical([b"a", b"b"] * 3),
    "category of dates": pd.Categorical(pd.date_range("2020-01-01", periods=N)),
    "a/slash": np.arange(N),
    "_index": np.arange(N),
    7: np.arange(N),
}


@pytest.mark.parametrize("name", ODD, ids=str)
@pytest.mark.parametrize("ending", at_every_change([".h5ad", ".zarr"], [".h5ad"]))
def test_any_column_can_be_written(name, ending, tmp_path):
    obs = pd.DataFrame({"c": np.arange(N)}, index=[f"c{i}" for i in range(N)])
    obs[name] = ODD[name].to_numpy() if isinstance(ODD[name], pd.Series) else ODD[name]
    cells = ad.AnnData(sparse.csr_matrix(np.eye(N, dtype=np.float32)), obs=obs)
    files.write(cells, tmp_path / f"x{ending}")
    back = files.read(tmp_path / f"x{ending}").obs
    assert len(back.columns) == 2 and list(back["c"]) == list(range(N))
    was = pd.isna(pd.Series(ODD[name] if not isinstance(ODD[name], pd.Series) else ODD[name].to_numpy()))
    assert list(back.iloc[:, 1].isna()) == list(was)


def test_what_a_column_becomes(caplog):
    frame = pd.DataFrame({name: ODD[name] for name in ("mixed", "numbers as objects", "truth", "bytes", "bins")})
    got = plain_frame(frame, "x: obs")
    assert list(got["mixed"].dropna()) == ["1", "a", "2.5", "True", "b"]
    assert got["numbers as objects"].dtype == np.int64 and got["truth"].dtype == "boolean"
    assert list(got["bytes"][:2]) == ["a", "b"] and list(got["bins"].cat.categories)[1] == "(1.667, 3.333]"
    assert "x: obs column 'mixed' holds mixed values, read as text" in caplog.text
    assert plain_frame(got, "x") is got


def test_names_of_rows_and_columns(caplog):
    frame = pd.DataFrame(np.ones((2, 4)), columns=["a", "a", "a_1", "b/c"], index=pd.Index([1, 2], name="a"))
    got = plain_frame(frame, "x: obs")
    assert list(got.columns) == ["a", "a_2", "a_1", "b_c"] and list(got.index) == ["1", "2"] and got.index.name is None
    assert "'a' as 'a_2', 'b/c' as 'b_c'" in caplog.text
    several = pd.DataFrame({"n": [1, 2]}, index=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)]))
    assert list(plain_frame(several, "x").index) == ["a_1", "b_2"]


def test_what_lies_elsewhere(tmp_path):
    cells = ad.AnnData(np.eye(N, dtype=">f4"))
    cells.layers["truth"] = np.eye(N, dtype=bool)
    cells.obsm["table"] = pd.DataFrame({"m": ["a", 1] * 3}, index=cells.obs_names)
    cells.uns = {"n": None, "deep": {"n": None, "names": pd.array(["a", None], dtype="string"), "b": np.array([b"x"])}}
    files.write(normalised(cells), tmp_path / "x.h5ad")
    got = files.read(tmp_path / "x.h5ad")
    assert "n" not in got.uns and list(got.uns["deep"]["b"]) == ["x"] and got.layers["truth"].dtype == np.float32
    assert list(got.obsm["table"]["m"]) == ["a", "1"] * 3


@pytest.mark.parametrize("dtype", [np.float16, ">f4", ">i4", np.longdouble])
@pytest.mark.parametrize("place", ["X", "layer", "raw"])
def test_cells_of_a_caller_of_any_type_of_number(dtype, place):
    """Half precision, and the byte order of another machine, ended `embed` and others within scipy."""
    x, obs = np.arange(12).reshape(4, 3), pd.DataFrame(index=list("abcd"))
    cells = ad.AnnData(x.astype(np.float32), obs=obs)
    if place == "raw":
        cells.raw = ad.AnnData(x.astype(dtype), obs=obs)
    elif place == "layer":
        cells.layers["counts"] = x.astype(dtype)
    else:
        cells = ad.AnnData(x.astype(dtype), obs=obs)
    found = given_cells(cells)
    held = {"X": found.X, "layer": found.layers.get("counts"), "raw": found.raw and found.raw.X}[place]
    assert held.dtype.isnative and held.dtype.itemsize in (4, 8)
    np.testing.assert_array_equal(held, x)
    before = {"X": cells.X, "layer": cells.layers.get("counts"), "raw": cells.raw and cells.raw.X}[place]
    assert before.dtype == dtype, "the caller's own stay as they are"
    assert given_cells(found) is found
