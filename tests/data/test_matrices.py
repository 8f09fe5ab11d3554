"""Matrices at the door: what is found is named."""

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from cellalign.data import counts as counts_in
from cellalign.data import matrices
from cellalign.errors import InputError, UsageError


@pytest.mark.parametrize("layout", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
@pytest.mark.parametrize(("value", "named"), [(np.nan, "NaN"), (np.inf, "inf"), (-2.0, "negative")])
def test_the_first_bad_value_is_located(layout, value, named):
    x = np.eye(6, dtype=np.float32)
    x[2, 4] = value
    with pytest.raises(InputError, match=f"1 {named} values, the first in cell 2 .*gene 4"):
        matrices.check_matrix(layout(x), "X")
    matrices.check_matrix(layout(np.eye(6)), "X")


def test_counts_are_told_from_log_expression():
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(1, (20, 30)))
    assert matrices.is_counts(counts) and matrices.is_counts(counts.astype(np.float32).toarray())
    logged = counts.astype(np.float32).log1p()
    assert not matrices.is_counts(logged)
    matrices.check_log(logged, "X", "hint")
    with pytest.raises(InputError, match="raw counts.*run: cellalign preprocess a.h5ad"):
        matrices.check_log(counts, "X", "cellalign preprocess a.h5ad")
    with pytest.raises(InputError, match="normalised log1p expression is needed"):
        matrices.check_log(logged * 100, "X", "hint")


def test_what_surely_is_no_log_is_refused_with_what_helps(tiny):
    linear = np.expm1(tiny.X.toarray())
    z = (linear - linear.mean(0)) / linear.std(0)
    for x, said in (
        (linear, "without a logarithm .every cell sums up to .* run: hint"),
        (linear / linear.sum(1, keepdims=True), "without a logarithm .every cell sums up to 1.,.* run: hint"),
        (z.clip(0, 10), "scaled expression .* which looks in every matrix"),
        (np.log1p(tiny.X.toarray()), "log1p taken twice.* numpy.expm1"),
        (np.vstack([tiny.X.toarray(), tiny.layers["counts"].toarray()]), "two scales.*normalise files alike"),
        (np.random.default_rng(0).gamma(1, 50, (50, 40)), "run: hint, or, where it is normalised"),
    ):
        with pytest.raises(InputError, match=said):
            matrices.check_log(x, "X", "hint")


def test_what_cannot_be_told_is_taken(caplog):
    rng = np.random.default_rng(0)
    matrices.check_log(rng.gamma(1, 1, (50, 40)), "X", "hint")
    assert not caplog.records
    matrices.check_log(rng.gamma(9, 1, (50, 40)) + 20, "X", "hint")
    assert "X is taken for log expression" in caplog.text


def test_a_message_names_cell_and_gene(tiny):
    x = tiny.X.copy()
    x[2, 4] = np.nan
    with pytest.raises(InputError, match="1 NaN values, the first in cell 'cell2', gene 'GENE4'; remove or correct"):
        matrices.check_expression(x, "log", "X", names=(tiny.obs_names, tiny.var_names))
    z = tiny.X.toarray() - tiny.X.toarray().mean(0)
    with pytest.raises(InputError, match="it is scaled; .* run: hint, which looks in every matrix"):
        matrices.check_expression(z, "log", "X", "hint", names=(tiny.obs_names, tiny.var_names))


@pytest.mark.parametrize("layout", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_estimated_counts_are_rounded_if_asked(tiny_counts, layout):
    x = tiny_counts.X.toarray().astype(np.float64)
    x[2, 5], x[7, 1] = 3.27, 1.5
    names = tiny_counts.obs_names, tiny_counts.var_names
    with pytest.raises(InputError, match=r"% of values are not integers, the first .* in cell 'cell\d', gene 'GENE\d'"):
        matrices.check_expression(layout(x), "counts", "X", names=names)
    found = matrices.check_expression(layout(x), "counts", "X", rounded=True)
    found = found.toarray() if sparse.issparse(found) else found
    np.testing.assert_array_equal(found, np.rint(x))


def test_the_noise_of_arithmetic_is_rounded_by_itself(tiny_counts, caplog):
    caplog.set_level("INFO", "cellalign")
    x = tiny_counts.X.astype(np.float64)
    x.data -= 1e-6
    before = x.data.copy()
    found = matrices.check_expression(x, "counts", "X")
    np.testing.assert_array_equal(found.toarray(), tiny_counts.X.toarray())
    assert "X: integers but for 1e-06, as of arithmetic: rounded" in caplog.text and (x.data == before).all()


def test_counts_are_returned_as_they_are(tiny_counts):
    assert matrices.check_expression(tiny_counts.X, "counts", "X") is tiny_counts.X


def test_rounding_does_not_make_counts_of_anything(tiny):
    for x in (tiny.X, tiny.X.expm1(), sparse.csr_matrix(tiny.layers["counts"] * 0.1)):
        with pytest.raises(InputError, match="holds no raw counts"):
            matrices.check_expression(x, "counts", "X", rounded=True)


@pytest.mark.parametrize(
    "name", ["raw_counts", "counts_raw", "umi", "UMIs", "matrix", "spliced", "soupx_counts", "RNA_counts", "raw"]
)
def test_counts_are_found_in_a_layer_of_such_a_name(tiny, name, caplog):
    caplog.set_level("INFO", "cellalign")
    tiny.layers[name] = tiny.layers.pop("counts")
    found = counts_in.find_counts(tiny)
    assert found.where == name and found.matrix is tiny.layers[name]
    assert f'counts in layers["{name}"]' in caplog.text


def test_counts_of_another_name_are_taken_only_when_named(tiny):
    tiny.layers["mask"] = tiny.layers.pop("counts")
    with pytest.raises(
        InputError, match=r"X: log1p: undone, .*; layers\[\"mask\"\]: counts, but its name .*layer='mask'"
    ):
        counts_in.find_counts(tiny)
    assert counts_in.find_counts(tiny, layer="mask").where == "mask"
    assert counts_in.counts_of(tiny, "mask").where == "mask"


def test_spliced_counts_before_unspliced_ones(tiny):
    counts = tiny.layers.pop("counts")
    tiny.layers["unspliced"], tiny.layers["spliced"] = counts, counts
    assert counts_in.find_counts(tiny).where == "spliced"


def test_raw_or_a_layer(tiny, tiny_counts):
    with pytest.raises(UsageError, match="layer='counts' and raw=True name two matrices"):
        counts_in.find_counts(tiny, layer="counts", raw=True)
    with pytest.raises(InputError, match="no raw;"):
        counts_in.find_counts(tiny, raw=True)
    with pytest.raises(InputError, match="no layer 'umi'; matrices: X, counts"):
        counts_in.find_counts(tiny, layer="umi")
    tiny.raw = tiny_counts
    found = counts_in.find_counts(tiny[:, :10].copy(), raw=True)
    assert found.where == "raw" and len(found.var) == 60 == found.matrix.shape[1]


def test_a_count_model_looks_where_training_did_then_elsewhere(tiny, tiny_counts):
    assert counts_in.counts_of(tiny, "X").where == "counts"
    assert counts_in.counts_of(tiny_counts, "counts").where == "X"
    tiny_counts.layers["counts"] = tiny_counts.X.copy()
    assert counts_in.counts_of(tiny_counts, "X").where == "X"
    tiny.layers["counts"] = tiny.X
    with pytest.raises(InputError, match="no raw counts .X: .*; layers.*counts.*: .*"):
        counts_in.counts_of(tiny, "X")


def joined(tiny_counts, tiny):
    """Two files of which the second had no layer of counts."""
    first = tiny_counts.copy()
    first.layers["counts"] = first.X.copy()
    return ad.concat([first, tiny], join="outer", index_unique="-")


def test_a_layer_that_a_join_filled_with_zeros_is_noticed(tiny_counts, tiny, caplog):
    del tiny.layers["counts"]
    counts = joined(tiny_counts, tiny_counts)
    found = counts_in.find_counts(counts)
    assert (
        found.where == "X"
        and "all zero in 240 of 480 cells that have expression in X, the first 'cell0-1'" in caplog.text
    )
    both = joined(tiny, tiny)
    both.layers["counts"] = sparse.vstack([tiny_counts.X, 0 * tiny_counts.X]).tocsr()
    with pytest.raises(
        InputError, match=r"layers\[\"counts\"\]: all zero in 240 of 480 .* give these cells their counts"
    ):
        counts_in.find_counts(both)
    assert counts_in.find_counts(both, layer="counts").where == "counts"


def test_a_cell_of_no_counts_is_no_mistake(tiny_counts):
    tiny_counts.layers["counts"] = sparse.csr_matrix(np.diag(np.arange(240) != 3).astype(np.float32) @ tiny_counts.X)
    tiny_counts.X = tiny_counts.layers["counts"].log1p()
    assert counts_in.find_counts(tiny_counts).where == "counts"


def test_only_the_matrix_that_is_read_is_checked(tiny, tiny_counts):
    tiny.layers["velocity"] = np.full(tiny.shape, np.nan)
    tiny.X = tiny.X.toarray() - 1
    assert counts_in.find_counts(tiny).where == "counts"
    tiny_counts.layers["counts"] = np.full(tiny.shape, np.nan)
    assert counts_in.find_counts(tiny_counts).where == "X"
