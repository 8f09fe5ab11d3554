"""preprocess equals scanpy's steps, keeps counts, and never changes its input."""

import tracemalloc

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse
from support import at_every_change, counterfactual_record

from cellalign.data import variable_genes
from cellalign.data.preprocess import cell_sums, normalised_log, preprocess
from cellalign.data.stored import Stored
from cellalign.errors import InputError, UsageError
from cellalign.records import Provenance


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


@pytest.mark.parametrize("matrix", at_every_change(["csr", "csc", "dense"], ["csr"]))
def test_nothing_is_held_twice_but_the_result(monkeypatch, matrix):
    """Beside the user's matrix, which stays as it is: counts and expression, half of one, and blocks."""
    monkeypatch.setattr(Stored, "block_values", 100_000)
    x = sparse.random(12_000, 1000, 0.4, "csr", np.float32, rng := np.random.default_rng(0))
    x.data = rng.integers(1, 9, x.nnz).astype(np.float32)
    given = AnnData(x.toarray() if matrix == "dense" else x.asformat(matrix))
    before = given.X.copy()
    size = x.data.nbytes + x.indices.nbytes
    preprocess(given[:50].copy(), n_top_genes=10)  # what is imported then is no matrix
    for n_top_genes, most in ((0, 2.8), (100, 2.0)):
        tracemalloc.start()
        result = preprocess(given, n_top_genes=n_top_genes)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < (most + (matrix == "csc")) * size  # of one by columns, its rows
        assert not np.shares_memory(result.layers["counts"].data, x.data)
    assert (given.X != before).sum() == 0


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


def test_log_expression_alone_goes_through(tiny, caplog):
    del tiny.layers["counts"]
    total = np.expm1(tiny.X.toarray()).sum(1)[0]
    got = preprocess(tiny, n_top_genes=20)
    assert "no counts: X is kept as the log expression it is" in caplog.text and "counts" not in got.layers
    np.testing.assert_array_equal(got.X.toarray(), tiny[:, got.var_names].X.toarray())
    record = Provenance.of(got.uns).preprocess
    assert record.counts_from is None and record.target_sum == pytest.approx(total) and got.n_vars == 20
    with pytest.raises(InputError, match="target_sum=1000.0 needs counts"):
        preprocess(tiny, target_sum=1e3)


def test_the_base_of_the_logarithm_goes_along(tiny):
    del tiny.layers["counts"]
    natural = preprocess(tiny, n_top_genes=20)
    tiny.X = tiny.X / np.log(2)
    got = preprocess(tiny, n_top_genes=20)
    assert got.uns["log1p"] == {"base": 2.0} and len(set(got.var_names) & set(natural.var_names)) >= 18


@pytest.mark.parametrize("total", [300.0, 1.0])
def test_of_normalised_expression_the_logarithm_is_taken(tiny_counts, total, caplog):
    sums = np.asarray(tiny_counts.X.sum(1))
    tiny_counts.X = sparse.csr_matrix(tiny_counts.X.toarray() / sums * total)
    got = preprocess(tiny_counts, n_top_genes=0)
    factor = 1e4 if total == 1 else 1
    np.testing.assert_allclose(got.X.toarray(), np.log1p(tiny_counts.X.toarray() * factor), rtol=1e-5)
    assert "no counts: X is log1p of X" in caplog.text
    assert Provenance.of(got.uns).preprocess.target_sum == pytest.approx(total * factor, rel=1e-5)


def test_scaled_expression_alone_is_refused_and_raw_is_taken(tiny):
    logged = tiny.copy()
    del tiny.layers["counts"]
    x = tiny.X.toarray()
    tiny.X = (x - x.mean(0)) / x.std(0)
    with pytest.raises(InputError, match=r"no raw counts and no normalised expression \(X: holds .* negative values"):
        preprocess(tiny)
    tiny.raw = logged
    np.testing.assert_array_equal(preprocess(tiny, n_top_genes=0).X.toarray(), x)


def test_estimated_counts_are_not_passed_over_for_log_expression(tiny):
    tiny.layers["counts"] = tiny.layers["counts"] * 0.97
    with pytest.raises(InputError, match="rounded=True of preprocess or train takes estimated counts"):
        preprocess(tiny)
    got = preprocess(tiny, n_top_genes=0, rounded=True)
    assert (got.layers["counts"].data == np.rint(got.layers["counts"].data)).all()


def test_stored_zeros_and_entries_in_parts_count_as_their_values(tiny_counts):
    expected = preprocess(tiny_counts, n_top_genes=20, min_genes=25)
    x = tiny_counts.X
    parts = sparse.csr_matrix((np.repeat(x.data / 2, 2), np.repeat(x.indices, 2), x.indptr * 2), shape=x.shape)
    full = sparse.csr_matrix(x.toarray() + 1)
    full.data -= 1
    for same in (parts, full, parts.tocsc(), full.tocsc()):
        stored = same.nnz
        got = preprocess(AnnData(same, obs=tiny_counts.obs, var=tiny_counts.var), n_top_genes=20, min_genes=25)
        assert list(got.obs_names) == list(expected.obs_names) and list(got.var_names) == list(expected.var_names)
        np.testing.assert_array_equal(got.obs["n_genes"], expected.obs["n_genes"])
        np.testing.assert_array_equal(got.X.toarray(), expected.X.toarray())
        assert same.nnz == stored


def test_genes_are_counted_in_the_cells_that_are_left_and_sums_run_over_all_genes(tiny_counts, caplog):
    caplog.set_level("INFO", "cellalign")
    x = tiny_counts.X.toarray()
    x[0], x[1:, 7] = 0, 0
    x[0, 7] = 5  # one cell of one gene, which no other has
    tiny_counts.X = sparse.csr_matrix(x)
    got = preprocess(tiny_counts, n_top_genes=0, min_genes=2, min_cells=1)
    assert got.shape == (239, 59) and "GENE7" not in got.var_names
    assert "1 cell dropped: fewer than 2 genes" in caplog.text
    assert "1 gene dropped: seen in none of 239 cells" in caplog.text
    few = preprocess(tiny_counts, n_top_genes=0, min_cells=200, target_sum=100)
    sums = x[x.sum(1) > 0].sum(1, keepdims=True)
    expected = np.log1p(x[x.sum(1) > 0] / sums * 100)[:, tiny_counts.var_names.get_indexer(few.var_names)]
    np.testing.assert_allclose(few.X.toarray(), expected, rtol=1e-5)
    record = Provenance.of(preprocess(tiny_counts, n_top_genes=0, min_cells=200).uns).preprocess
    assert record.target_sum == np.median(sums) and (record.min_genes, record.min_cells) == (1, 200)


def test_the_normalisation_is_a_function_of_its_own(tiny_counts):
    got = preprocess(tiny_counts, n_top_genes=20)
    again = normalised_log(tiny_counts.X, Provenance.of(got.uns).preprocess.target_sum)
    kept = tiny_counts.var_names.get_indexer(got.var_names)
    np.testing.assert_array_equal(again[:, kept].toarray(), got.X.toarray())
    empty = normalised_log(sparse.csr_matrix((3, 4)), 1e4)
    assert empty.shape == (3, 4) and empty.nnz == 0


def test_sums_beyond_single_precision_are_those_of_integers():
    counts = sparse.csr_matrix(np.array([[2**24, 1, 1], [1, 2, 3]], dtype=np.float32))
    assert list(cell_sums(counts)) == [2**24 + 2, 6]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int64", "float16", "float64", ">f4"])
def test_counts_of_every_type(tiny_counts, dtype):
    x = np.minimum(tiny_counts.X.toarray(), 1 if dtype == "bool" else 200)
    expected = preprocess(AnnData(sparse.csr_matrix(x), obs=tiny_counts.obs, var=tiny_counts.var), n_top_genes=20)
    got = preprocess(AnnData(x.astype(dtype), obs=tiny_counts.obs, var=tiny_counts.var), n_top_genes=20)
    np.testing.assert_array_equal(got.X.toarray(), expected.X.toarray())
    assert got.layers["counts"].dtype == np.float32


def test_counts_that_single_precision_does_not_hold_are_said(tiny_counts, caplog):
    x = tiny_counts.X.astype(np.int64)
    x[0, 0] = 2**24 + 1
    tiny_counts.X = x
    preprocess(tiny_counts, n_top_genes=0)
    assert "counts above 16,777,216 are rounded to float32; the largest is 16777217" in caplog.text


def test_the_users_own_columns_stay(tiny_counts, caplog):
    caplog.set_level("INFO", "cellalign")
    tiny_counts.obs["n_counts"] = 12345.0
    got = preprocess(tiny_counts, n_top_genes=0)
    assert (got.obs["n_counts"] == 12345).all() and got.obs["n_genes"].max() <= 60
    assert "obs 'n_counts' of the input stay as they are" in caplog.text


def test_twice(tiny_counts, caplog):
    once = preprocess(tiny_counts, n_top_genes=30)
    again = preprocess(once, n_top_genes=20)
    assert again.n_vars == 20 and "preprocessed before: sums of cells are those of the genes" in caplog.text
    np.testing.assert_array_equal(again.obs["n_counts"], once.obs["n_counts"])


@pytest.mark.parametrize("make", [lambda c: c, lambda c: c == 0, lambda c: c.astype(float), lambda c: c.astype(str)])
def test_batches_of_any_type(tiny_counts, make):
    codes = np.arange(tiny_counts.n_obs) % 3
    tiny_counts.obs["lib"] = make(codes)
    got = preprocess(tiny_counts, n_top_genes=20, batch="lib")
    expected = tiny_counts.copy()
    sc.pp.normalize_total(expected)
    sc.pp.log1p(expected)
    expected.obs["lib"] = expected.obs["lib"].astype(str).astype("category")
    sc.pp.highly_variable_genes(expected, flavor="seurat", n_top_genes=20, batch_key="lib")
    assert list(got.var_names) == list(expected.var_names[expected.var["highly_variable"]])
    assert got.obs["lib"].dtype == tiny_counts.obs["lib"].dtype


def test_batches_in_which_nothing_varies_choose_no_genes(tiny_counts, caplog, monkeypatch):
    tiny_counts.obs["lib"] = [f"s{i}" for i in range(240)]
    with pytest.raises(InputError, match="every one of the 240 cells has a value of its own in the batch column"):
        with monkeypatch.context() as patched:  # before anything is taken for each of them
            patched.setattr(variable_genes, "_moments", None)
            preprocess(tiny_counts, n_top_genes=20, batch="lib")
    tiny_counts.obs["lib"] = ["single"] + ["a", "b"] * 119 + ["a"]
    got = preprocess(tiny_counts, n_top_genes=20, batch="lib")
    assert got.shape == (240, 20) and "no gene varies within 1 of 3 batches ('single')" in caplog.text


def test_nothing_is_left_to_choose_from(tiny_counts):
    alike = tiny_counts[[0] * 5].copy()
    alike.obs_names_make_unique()
    alike.X = sparse.csr_matrix(np.ones((5, 60)))
    for cells, batch in ((tiny_counts[:1].copy(), None), (alike, None), (alike, "stim")):
        with pytest.raises(InputError, match="no gene differs between .* n_top_genes=0 keeps all"):
            preprocess(cells, n_top_genes=10, batch=batch)
        assert preprocess(cells, n_top_genes=0).n_obs == cells.n_obs
    with pytest.raises(InputError, match="no cell has 100 genes or more; lower min_genes"):
        preprocess(tiny_counts, min_genes=100)
    with pytest.raises(InputError, match="no gene is seen in 500 or more of the 240 cells; lower min_cells"):
        preprocess(tiny_counts, min_cells=500)


def test_no_library_warns(tiny, recwarn):
    tiny.uns["log1p"] = {"base": None}
    preprocess(tiny, n_top_genes=20)
    assert not [w for w in recwarn if issubclass(w.category, UserWarning)]


@pytest.mark.parametrize("target_sum", [0, -1, float("nan"), float("inf"), 1e30])
def test_a_target_sum_out_of_range(tiny_counts, target_sum):
    with pytest.raises(UsageError, match="target_sum must be positive"):
        preprocess(tiny_counts, target_sum=target_sum)


def test_a_prediction_is_said_to_be_one(tiny, caplog):
    tiny.uns["cellalign"] = counterfactual_record()
    with caplog.at_level("WARNING", logger="cellalign"):
        preprocess(tiny)
    assert "these cells are a prediction of cellalign counterfactual" in caplog.text
