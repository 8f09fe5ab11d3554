"""preprocess equals scanpy's steps, keeps counts, and never changes its input."""

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse

from cellalign.data.preprocess import preprocess
from cellalign.errors import InputError


def test_equals_scanpy_step_by_step(kang_path):
    raw = ad.read_h5ad(kang_path)
    got = preprocess(raw, n_top_genes=500)
    expected = raw.copy()
    sc.pp.normalize_total(expected)
    sc.pp.log1p(expected)
    sc.pp.highly_variable_genes(expected, flavor="seurat", n_top_genes=500)
    expected = expected[:, expected.var.highly_variable]
    assert list(got.var_names) == list(expected.var_names)
    np.testing.assert_array_equal(got.X.toarray(), expected.X.toarray())
    np.testing.assert_array_equal(got.layers["counts"].toarray(), raw[:, got.var_names].X.toarray())


@pytest.mark.parametrize("target_sum", [None, 1e4])
def test_equals_scanpy_where_all_genes_are_kept(tiny_counts, target_sum):
    got = preprocess(tiny_counts, n_top_genes=0, target_sum=target_sum)
    expected = tiny_counts.copy()
    sc.pp.normalize_total(expected, target_sum=target_sum)
    sc.pp.log1p(expected)
    np.testing.assert_array_equal(got.X.toarray(), expected.X.toarray())
    assert got.uns["log1p"] == expected.uns["log1p"] and got.X.dtype == expected.X.dtype == np.float32


@pytest.mark.parametrize("place", ["X", "layer", "raw"])
def test_counts_are_found_where_they_are(tiny_counts, place):
    adata = tiny_counts.copy()
    counts = adata.X.copy()
    if place != "X":
        if place == "layer":
            adata.layers["counts"] = counts.tocsc()
        else:
            adata.raw = adata.copy()
        adata.X = counts.log1p()
    before = adata.X.copy()
    got = preprocess(adata, n_top_genes=0)
    np.testing.assert_array_equal(got.layers["counts"].toarray(), counts.toarray())
    assert (adata.X != before).nnz == 0 and got.X.format == "csr"


def test_what_the_user_keeps_goes_along_and_empty_cells_do_not(tiny_counts):
    adata = tiny_counts.copy()
    adata.obsm["spatial"] = np.arange(2.0 * adata.n_obs).reshape(-1, 2)
    kept = np.ones(adata.n_obs)
    kept[3] = 0
    adata.X = sparse.csr_matrix(sparse.diags(kept) @ adata.X)
    got = preprocess(adata, n_top_genes=20)
    assert got.shape == (adata.n_obs - 1, 20) and adata.obs_names[3] not in got.obs_names
    np.testing.assert_array_equal(got.obsm["spatial"], np.delete(adata.obsm["spatial"], 3, 0))


def test_no_counts_anywhere(tiny_counts):
    adata = tiny_counts.copy()
    adata.X = adata.X.log1p()
    with pytest.raises(InputError, match="no raw counts"):
        preprocess(adata)
