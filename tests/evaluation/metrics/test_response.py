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


def test_subsampled_r2_of_the_same_cells_is_high_and_of_others_is_not():
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(200, 30)) * rng.uniform(0.5, 2, 30) + rng.normal(size=30) * 3
    means, variances = res.r2_subsampled(cells, cells)
    assert means > 0.99 and variances > 0.9
    assert res.r2_subsampled(cells[:, ::-1].copy(), cells)[0] < 0.5


def test_pearson_of_a_constant_is_nan():
    assert np.isnan(res.pearson(np.ones(3), np.arange(3.0)))
