"""Identifiability scores on cases worked out by hand, and UDR on models that agree or do not."""

import itertools

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from cellalign.evaluation.metrics import identifiability as ident


def test_correlations_are_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 3)), rng.normal(size=(50, 4)) ** 3
    for kind, reference in (("pearson", pearsonr), ("spearman", spearmanr)):
        expected = [[reference(a[:, i], b[:, j])[0] for j in range(4)] for i in range(3)]
        np.testing.assert_allclose(ident.correlations(a, b, kind), expected, atol=1e-12)
    assert (ident.correlations(np.ones((50, 1)), b) == 0).all()


def test_mcc_is_the_best_of_all_permutations_and_ignores_signs():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(200, 4))
    estimate = -truth[:, [2, 0, 3, 1]] + rng.normal(size=(200, 4))
    absolute = np.abs(np.corrcoef(truth.T, estimate.T)[:4, 4:])
    best = max(np.mean([absolute[i, p[i]] for i in range(4)]) for p in itertools.permutations(range(4)))
    assert ident.mcc(truth, estimate) == pytest.approx(best)
    assert ident.mcc(truth, -truth[:, ::-1]) == pytest.approx(1)


def test_true_latents_that_none_is_left_for_count_as_not_found():
    truth = np.random.default_rng(8).normal(size=(500, 4))
    more = np.column_stack([truth, np.random.default_rng(9).normal(size=(500, 4))])
    for metric in (ident.pearson_mcc, ident.spearman_mcc):
        assert metric(truth, truth[:, :1]) == pytest.approx(1 / 4)
        assert metric(truth, more) == pytest.approx(1)


def test_edges_to_a_latent_without_a_counterpart_count():
    truth = np.eye(3, dtype=bool)
    more = np.concatenate([truth, np.ones((3, 2), dtype=bool)], axis=1)  # each true edge, and six to no true latent
    scores = ident.graph_scores(truth, more, (np.arange(3), np.arange(3)))
    assert scores == {"precision": pytest.approx(1 / 3), "recall": 1, "f1": pytest.approx(1 / 2)}
    fewer = ident.graph_scores(truth, truth[:, :2], (np.arange(2), np.arange(2)))
    assert fewer == {"precision": 1, "recall": pytest.approx(2 / 3), "f1": pytest.approx(4 / 5)}


def test_linear_r2_sees_through_a_rotation_and_mcc_does_not():
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(2000, 5))
    turned = truth @ np.linalg.qr(rng.normal(size=(5, 5)))[0] + 3
    assert ident.linear_r2(truth, turned) == pytest.approx(1)
    assert ident.mcc(truth, turned) < 0.9
    unrelated = rng.normal(size=(2000, 5))
    assert ident.linear_r2(truth, unrelated) == pytest.approx(ident.linear_r2.null_value, abs=0.02)
    for metric, kind in ((ident.pearson_mcc, "pearson"), (ident.spearman_mcc, "spearman")):
        assert metric(truth, turned) == ident.mcc(truth, turned, kind) and metric.name == f"{kind}_mcc"


def test_graph_scores_by_hand_and_the_signed_matching_errs():
    truth = np.array([[1, 0, 0], [0, 1, 1]], dtype=bool)
    estimate = np.array([[0, 1, 1], [1, 0, 0]], dtype=bool)  # true latent 0 is estimated latent 1, 1 is 0, 2 is 2
    scores = ident.graph_scores(truth, estimate, (np.arange(3), np.array([1, 0, 2])))
    assert scores == {"precision": pytest.approx(2 / 3), "recall": pytest.approx(2 / 3), "f1": pytest.approx(2 / 3)}
    assert list(scores) == [metric.name for metric in ident.GRAPH]
    nothing = ident.graph_scores(truth, np.zeros_like(truth), (np.arange(3), np.arange(3)))
    assert nothing == {"precision": 0, "recall": 0, "f1": 0}
    flipped = -np.eye(3) + 0.1  # found with the wrong sign
    assert ident.match(np.abs(flipped))[1].tolist() == [0, 1, 2]
    assert ident.match(flipped)[1].tolist() != [0, 1, 2]


def test_udr_prefers_models_that_agree_latent_by_latent():
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(500, 4))
    agreeing = [-truth[:, rng.permutation(4)] + 0.01 * rng.normal(size=truth.shape) for _ in range(3)]
    turned = [truth @ np.linalg.qr(rng.normal(size=(4, 4)))[0] for _ in range(3)]
    everything = [np.ones(4, dtype=bool)] * 3
    # other latents correlate by chance, so even perfect agreement stays a little below 1
    assert ident.udr(agreeing, everything).min() > 0.85
    assert ident.udr(turned, everything).max() < 0.75


def test_udr_leaves_out_uninformative_latents():
    rng = np.random.default_rng(4)
    truth = rng.normal(size=(500, 2))
    models = [np.column_stack([truth, rng.normal(size=(500, 6))]) for _ in range(3)]
    informative = [np.arange(8) < 2] * 3
    assert ident.udr(models, informative).min() > 0.9 > ident.udr(models, [np.ones(8, dtype=bool)] * 3).max()
    assert ident.udr(models[:1], informative[:1]).tolist() == [0]
