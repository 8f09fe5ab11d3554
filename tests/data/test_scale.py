"""The scale of a matrix is told from its values and the sums of cells, whatever its layout, type, depth and genes."""

import tracemalloc

import anndata as ad
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from cellalign.data import counts
from cellalign.data.scale import scale_of

LAYOUTS = {"dense": np.asarray, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "csr_array": sparse.csr_array}


def simulated(n: int = 200, genes: int = 120, depth: float = 3.0, seed: int = 0) -> np.ndarray:
    """Counts of cells of different depth."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.6, depth, genes) * rng.lognormal(0, 0.5, (n, 1))
    return rng.poisson(rate).astype(np.float64)


def normalised(counts: np.ndarray, total: float) -> np.ndarray:
    counts = counts[counts.sum(1) > 0]
    return counts / counts.sum(1, keepdims=True) * total


def scaled(x: np.ndarray) -> np.ndarray:
    sd = x.std(0)
    return (x - x.mean(0)) / np.where(sd > 0, sd, 1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint8", "uint16", "bool"])
def test_counts_of_every_layout_and_type(layout, dtype):
    counts = np.minimum(simulated(), 200).astype(dtype)
    assert scale_of(LAYOUTS[layout](counts)).kind == "counts"


@pytest.mark.parametrize("half", ["dense", "csr"])
def test_half_precision_and_another_order_of_bytes(half):
    logged = np.log1p(normalised(simulated(), 1e3))
    for dtype in ("f2", ">f4", ">f8"):
        x = logged.astype(dtype)
        if half == "csr":
            x = sparse.csr_matrix(logged)
            x.data = x.data.astype(dtype)
        found = scale_of(x)
        assert found.kind == "log" and (found.total is None or abs(found.total - 1e3) < 5)


@pytest.mark.parametrize("total", [1e2, 1e4, 1e6, None])
@pytest.mark.parametrize("kept", [1.0, 0.3])
def test_what_was_done_to_counts_is_told_of_all_genes_and_of_some(total, kept):
    counts = simulated(300, 400)
    total = total or float(np.median(counts.sum(1)))
    genes = np.random.default_rng(1).random(400) < kept
    linear = normalised(counts, total)
    for base, log in ((None, np.log1p), (2.0, lambda x: np.log2(1 + x)), (10.0, lambda x: np.log10(1 + x))):
        found = scale_of(log(linear)[:, genes].astype(np.float32))
        assert (found.kind, found.base) == ("log", base)
        assert found.total == pytest.approx(total, rel=1e-3) if kept == 1 else found.total is None
    found = scale_of(linear[:, genes].astype(np.float32))
    assert found.kind == "normalised" and (found.total == pytest.approx(total) if kept == 1 else found.total is None)
    assert scale_of(np.log1p(np.log1p(linear))[:, genes].astype(np.float32)).kind == "double log"
    assert scale_of((linear / total)[:, genes].astype(np.float32)).kind == "fractions"


def test_estimated_counts():
    counts, rng = simulated(), np.random.default_rng(1)
    noise = scale_of(np.where(counts > 0, counts - 1e-6, 0))
    assert noise.kind == "nearly counts" and "arithmetic" in noise.said
    parts = np.where((counts > 1) & (rng.random(counts.shape) < 0.02), counts - 0.5, counts)
    found = scale_of(parts)
    assert found.kind == "nearly counts" and "% of values are no integers, the first" in found.said
    half = np.where(rng.random(counts.shape) < 0.5, np.maximum(counts - rng.random(counts.shape), 0), counts)
    assert scale_of(half).kind == "nearly counts"
    assert scale_of(counts * 0.97).kind == "nearly counts" and "0.97" in scale_of(counts * 0.97).said
    assert scale_of(np.expm1(np.log1p(counts.astype(np.float32)))).kind == "nearly counts"


def test_scaled_and_cut_off():
    logged = np.log1p(normalised(simulated(300, 100), 1e3))
    assert scale_of(scaled(logged)).kind == "scaled"
    assert scale_of(scaled(logged).clip(-10, 10)).kind == "scaled"
    assert scale_of(scaled(logged).clip(0, 10)).kind == "scaled"
    assert scale_of(scaled(simulated()).clip(0, 10).astype(np.float32)).kind == "scaled"
    few = logged.copy()
    few[3, 5] = -0.5
    found = scale_of(few)
    assert found.kind == "other" and "the first -0.5 in cell 3, gene 5" in found.said


def test_log_of_counts_as_they_are():
    counts = simulated()
    assert scale_of(np.log1p(counts)).kind == "log"
    assert scale_of(np.log2(counts + 1)).base == 2
    assert "not normalised" in scale_of(np.log1p(counts)).said


def test_joined_files():
    counts = simulated()
    logged = np.log1p(normalised(counts, 1e4))
    mixed = scale_of(np.vstack([counts, logged]))
    assert mixed.kind == "other" and mixed.mixed and "50 % of cells hold integers" in mixed.said
    two = scale_of(np.vstack([logged, np.log1p(normalised(counts, 2e3))]))
    assert two.kind == "log" and two.total is None and "2e+03 (50 % of cells) or 1e+04 (50 % of cells)" in two.said


def test_logs_whose_sums_are_equal_are_not_refused():
    """Proportional fitting after the logarithm, and quantile normalisation."""
    rng = np.random.default_rng(0)
    logged = np.log1p(normalised(simulated(100, 300), 1e3))
    fitted = logged / logged.sum(1, keepdims=True) * logged.sum(1).mean()
    assert scale_of(fitted).kind in ("log", "other")
    quantiles = np.sort(rng.gamma(2, 2, 300))
    assert scale_of(np.array([rng.permutation(quantiles) for _ in range(50)])).kind in ("log", "other")


def test_what_cannot_be_told_is_other():
    rng = np.random.default_rng(0)
    logged = np.log1p(normalised(simulated(100, 300), 1e3))
    for x in (rng.gamma(1, 1, (100, 50)), logged + rng.random(logged.shape) * 0.3, np.round(logged[:, :40], 1)):
        assert scale_of(x).kind in ("other", "log")


@pytest.mark.parametrize("x", [np.zeros((5, 4)), np.zeros((0, 4)), np.zeros((4, 0)), sparse.csr_matrix((5, 4))])
def test_nothing_to_look_at(x):
    assert scale_of(x).kind == "other" and scale_of(x).all_zero


def test_small_matrices_and_empty_cells():
    counts = simulated(20, 10, depth=4)
    counts[[0, 7]] = 0
    logged = np.log1p(np.divide(counts, np.maximum(counts.sum(1, keepdims=True), 1)) * 50)
    assert scale_of(counts).kind == "counts" and scale_of(logged).kind == "log"
    assert scale_of(np.expm1(logged)).kind == "normalised"
    assert scale_of(np.array([[0.3, 2.0], [1.7, 0.2]])).kind == "other"


def test_stored_zeros_and_entries_in_parts_count_as_their_values():
    counts = sparse.csr_matrix(simulated())
    parts = sparse.csr_matrix(
        (np.tile(counts.data / 2, 2), np.tile(counts.indices, 2), np.zeros(counts.shape[0] + 1, dtype=int)),
        shape=counts.shape,
    )
    coo = counts.tocoo()
    order = np.argsort(np.tile(coo.row, 2), kind="stable")
    parts.data, parts.indices = np.tile(coo.data / 2, 2)[order], np.tile(coo.col, 2)[order].astype(np.int32)
    parts.indptr = (counts.indptr * 2).astype(np.int32)
    assert scale_of(parts).kind == "counts" and parts.nnz == 2 * counts.nnz
    full = sparse.csr_matrix(counts.toarray() + 1)
    full.data -= 1
    assert scale_of(full) == scale_of(counts)


def test_one_gene_does_not_decide():
    """A regular sample of a dense matrix would see the same genes in all cells, here those that are integers."""
    x = np.log1p(normalised(simulated(3000, 100), 1e3))
    x[:, ::10] = np.rint(x[:, ::10])
    assert scale_of(x).kind in ("log", "other")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    n=st.integers(20, 300),
    genes=st.integers(10, 200),
    depth=st.floats(0.5, 30),
    total=st.sampled_from([1e2, 1e3, 1e4, 1e6]),
    dtype=st.sampled_from([np.float32, np.float64]),
    layout=st.sampled_from(sorted(LAYOUTS)),
    kept=st.sampled_from([1.0, 0.5, 0.2]),
    seed=st.integers(0, 2**31),
)
def test_no_log_is_refused_and_no_counts_are_missed(n, genes, depth, total, dtype, layout, kept, seed):
    counts = simulated(n, genes, depth, seed)
    if not counts.any():
        return
    assert scale_of(LAYOUTS[layout](counts.astype(dtype))).kind == "counts"
    linear = normalised(counts, total)[:, np.random.default_rng(seed).random(genes) < kept]
    found = scale_of(LAYOUTS[layout](np.log1p(linear).astype(dtype)))
    assert found.kind == "log" or found.kind == "other"
    if kept == 1 and len(linear) >= 5:
        assert found.kind == "log" and found.total == pytest.approx(total, rel=1e-3)
        assert scale_of(LAYOUTS[layout](linear.astype(dtype))).kind in ("normalised", "counts")


def test_the_same_seed_sees_the_same(seed):
    x = sparse.random(9000, 400, 0.3, format="csr", random_state=seed)
    assert scale_of(x, seed=3) == scale_of(x, seed=3)


def test_real_cells(kang_path):
    adata = ad.read_h5ad(kang_path)
    x = adata.X.astype(np.float32)
    assert scale_of(x).kind == "counts"
    depth = np.asarray(x.sum(1)).ravel()
    linear = sparse.csr_matrix(sparse.diags((1e4 / depth).astype(np.float32)) @ x)
    logged = linear.log1p()
    some = np.sort(np.random.default_rng(0).choice(x.shape[1], 300, replace=False))
    assert scale_of(logged).total == pytest.approx(1e4) and scale_of(logged[:, some]).kind == "log"
    assert scale_of(linear).total == pytest.approx(1e4) and scale_of(linear[:, some]).kind == "normalised"
    z = scaled(logged[:, some].toarray())
    assert scale_of(z).kind == scale_of(z.clip(0, 10)).kind == "scaled"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("papalexi_thp1", "counts"),
        ("mixology_rnamix", "counts"),
        ("pbmc_3tech", "log"),
        ("perturbench_devel", "log"),
        ("adult_income", "scaled"),
    ],
)
def test_other_real_data(kang_path, name, kind):
    path = kang_path.with_name(f"{name}.h5ad")
    if not path.is_file():
        pytest.skip(f"{path.name} is not there")
    x = ad.read_h5ad(path).X
    assert scale_of(x).kind == kind
    if kind == "log":
        assert scale_of(x.toarray()).kind == scale_of(x.tocsc()).kind == scale_of(x[:, ::7]).kind == "log"
        assert scale_of(x.expm1()).kind == "normalised" and scale_of(x.log1p()).kind == "double log"


def test_a_matrix_that_was_changed_is_judged_anew():
    counts = np.random.default_rng(0).poisson(2.0, (50, 30)).astype(np.float32)
    for x in (counts.copy(), sparse.csr_matrix(counts)):
        assert scale_of(x).kind == "counts" and scale_of(x) is scale_of(x)
        values = x.data if sparse.issparse(x) else x
        values /= 3.7
        assert scale_of(x).kind != "counts"


@pytest.mark.parametrize("form", ["csr", "csc"])
def test_values_that_are_not_zero_are_counted_without_as_much_memory_as_they_take(monkeypatch, form):
    monkeypatch.setattr(counts, "AT_ONCE", 50_000)
    x = sparse.random(5_000, 1_000, 0.4, form, np.float32, rng := np.random.default_rng(0))
    x.data = rng.integers(0, 9, x.nnz).astype(np.float32)  # some zeros are stored
    tracemalloc.start()
    held = counts._held(x, np.ones(5_000, bool))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(held, (x.toarray() != 0).sum(1))
    assert peak < 0.1 * (x.data.nbytes + x.indices.nbytes)
