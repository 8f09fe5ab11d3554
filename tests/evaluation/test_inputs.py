"""Embeddings as files hold them: arrays of any type, sparse, tables; and what is no embedding."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import cellalign
from cellalign.errors import InputError

Z = np.random.default_rng(0).normal(size=(240, 3))


def scored(tiny, values):
    tiny.obsm["X_z"] = values
    return cellalign.evaluate(tiny, condition="stim", embedding="X_z", panels=["mixing"], k=10).frame()


@pytest.mark.parametrize(
    "as_stored",
    [
        sparse.csr_matrix,
        sparse.csc_matrix,
        sparse.csr_array,
        lambda z: z.astype(">f4"),
        lambda z: np.asfortranarray(z),
        "table",
        "objects",
    ],
)
def test_an_embedding_counts_as_its_values(tiny, as_stored):
    expected = scored(tiny, Z.astype(np.float32))
    if as_stored in ("table", "objects"):
        kind = object if as_stored == "objects" else np.float32
        stored = pd.DataFrame(Z, index=tiny.obs_names, columns=list("abc")).astype(kind)
    else:
        stored = as_stored(Z)
    pd.testing.assert_frame_equal(scored(tiny, stored), expected)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.where(Z > 2, np.nan, Z), "holds NaN or infinite values"),
        (Z * 1e300, "holds NaN or infinite values"),
        (np.zeros((240, 0)), r"is of shape \(240, 0\)"),
        (np.zeros((240, 2, 2)), r"is of shape \(240, 2, 2\)"),
        (np.zeros((240, 2)), "holds nothing but zeros"),
        (Z.astype(complex), "is not numeric: it holds complex128"),
        (sparse.csr_matrix((240, 20_000)), "has 20000 columns, more than an embedding has"),
        ("text", "is not numeric: could not convert string to float: 'x'"),
        ("dates", "is not numeric"),
    ],
)
def test_what_is_no_embedding_is_refused_by_name(tiny, values, said):
    if isinstance(values, str):
        column = ["x"] * 240 if values == "text" else pd.date_range("2020-01-01", periods=240)
        values = pd.DataFrame({"a": column}, index=tiny.obs_names)
    with pytest.raises(InputError, match=f"embedding 'X_z' {said}"):
        scored(tiny, values)


@pytest.mark.parametrize("values", [Z[:, :1], np.ones((240, 2)), (10 * Z).astype(int), Z > 0, np.repeat(Z[:2], 120, 0)])
def test_odd_embeddings_are_scored(tiny, values):
    assert np.isfinite(scored(tiny, values)["value"]).all()
