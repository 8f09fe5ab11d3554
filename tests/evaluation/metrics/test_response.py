"""Response metrics against plain loops, and DE genes against scanpy."""

import anndata as ad
import numpy as np
import pytest
import scanpy as sc

from cellalign.evaluation.metrics import response as res


def test_de_genes_equal_scanpys_ranking(kang_path):
    adata = ad.read_h5ad(kang_path)
    adata = adata[adata.obs["cell_type"] == "B"].copy()[:, np.arange(0, adata.n_vars, 10)].copy()
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    options = dict(groups=["stimulated"], reference="control", method="wilcoxon", rankby_abs=True)
    sc.tl.rank_genes_groups(adata, "stim", **options)
    expected = list(adata.uns["rank_genes_groups"]["names"]["stimulated"][:30])
    x, stimulated = adata.X.toarray(), (adata.obs["stim"] == "stimulated").to_numpy()
    got = res.de_genes(x[~stimulated], x[stimulated], 30)
    assert set(adata.var_names[got]) == set(expected)


def test_energy_distance_by_loop():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)) + 1
    norm = np.linalg.norm

    def within(x):
        return np.mean([norm(x[i] - x[j]) for i in range(len(x)) for j in range(len(x)) if i != j])

    expected = 2 * np.mean([norm(p - q) for p in a for q in b]) - within(a) - within(b)
    assert res.energy_distance(a, b) == pytest.approx(expected)


def test_scores_of_means_by_hand():
    control, real, predicted = np.array([0.0, 1, 2, 3]), np.array([1.0, 1, 4, 2]), np.array([0.5, 2, 3, 1])
    de = np.array([0, 2, 3])
    scores = res.score_means(predicted, real, control, de)
    assert scores["r_all"] == pytest.approx(np.corrcoef(predicted, real)[0, 1])
    assert scores["mse_de"] == pytest.approx((0.25 + 1 + 1) / 3)
    assert scores["r_change_de"] == pytest.approx(np.corrcoef([0.5, 1, -2], [1, 2, -1])[0, 1])
    assert scores["direction_de"] == 1
    assert "r_change_all" not in res.score_means(control, real, control, de)


def test_each_metric_as_a_plain_loop_computes_it():
    rng = np.random.default_rng(1)
    means = res.Means(*rng.normal(size=(3, 40)), rng.permutation(40)[:12])
    predicted, real, control = means.predicted.tolist(), means.real.tolist(), means.control.tolist()
    for genes, level, change, error in (
        (range(40), res.r_all, res.r_change_all, res.mse_all),
        (means.de.tolist(), res.r_de, res.r_change_de, res.mse_de),
    ):
        a, b, c = ([of[g] for g in genes] for of in (predicted, real, control))
        n = len(a)

        def correlation(x, y):
            x, y = ([v - sum(of) / len(of) for v in of] for of in (x, y))
            products = [sum(p * q for p, q in zip(*pair, strict=True)) for pair in ((x, y), (x, x), (y, y))]
            return products[0] / (products[1] * products[2]) ** 0.5

        moved = [[v - w for v, w in zip(of, c, strict=True)] for of in (a, b)]
        assert level(means) == pytest.approx(correlation(a, b))
        assert change(means) == pytest.approx(correlation(*moved))
        assert error(means) == pytest.approx(sum((v - w) ** 2 for v, w in zip(a, b, strict=True)) / n)
    right = sum((predicted[g] > control[g]) == (real[g] > control[g]) for g in means.de)
    assert res.direction_de(means) == pytest.approx(right / 12)
    scores = res.score_means(means.predicted, means.real, means.control, means.de)
    assert list(scores) == [metric.name for metric in (*res.LEVEL, *res.CHANGE)]


def test_the_declared_null_is_that_of_an_unrelated_change():
    rng = np.random.default_rng(2)
    control = rng.normal(size=20_000)
    means = res.Means(*(control + rng.normal(size=(2, 20_000))), control, np.arange(10_000))
    for metric in res.CHANGE:
        assert metric(means) == pytest.approx(metric.null_value, abs=0.03), metric.name


def test_subsampled_r2_of_the_same_cells_is_high_and_of_others_is_not():
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(200, 30)) * rng.uniform(0.5, 2, 30) + rng.normal(size=30) * 3
    means, variances = res.r2_subsampled(cells, cells)
    assert means > 0.99 and variances > 0.9
    assert res.r2_subsampled(cells[:, ::-1].copy(), cells)[0] < 0.5


def test_pearson_of_a_constant_is_nan():
    assert np.isnan(res.pearson(np.ones(3), np.arange(3.0)))
