"""kBET and local silhouette against plain loops written from their definitions, and the edge cases."""

import numpy as np
import pytest
from scipy import stats

from cellalign.evaluation.metrics.mixing import by_label, kbet, local_silhouette, neighbours, silhouette


def by_loop(z, condition, k, alpha):
    n = len(z)
    rejected, silhouettes = 0, []
    values = sorted(set(condition))
    for i in range(n):
        distance = [np.sqrt(sum((z[i] - z[j]) ** 2)) for j in range(n)]
        order = [j for j in sorted(range(n), key=lambda j: distance[j]) if j != i][:k]
        expected = [k * sum(c == v for c in condition) / n for v in values]
        observed = [sum(condition[j] == v for j in order) for v in values]
        chi2 = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
        rejected += stats.chi2.sf(chi2, len(values) - 1) < alpha
        a = [distance[j] for j in order if condition[j] == condition[i]]
        b = [distance[j] for j in order if condition[j] != condition[i]]
        if not b or not a:
            silhouettes.append(1.0 if not b else -1.0)
        else:
            silhouettes.append((np.mean(b) - np.mean(a)) / max(np.mean(a), np.mean(b)))
    return rejected / n, silhouettes


@pytest.mark.parametrize("conditions", [2, 3])
@pytest.mark.parametrize("shift", [0.0, 1.0, 30.0])
def test_equal_the_definitions(conditions, shift):
    rng = np.random.default_rng(0)
    condition = rng.integers(0, conditions, 60)
    z = rng.normal(size=(60, 3)) + shift * condition[:, None]
    near = neighbours(z, 12)
    rejection, silhouettes = by_loop(z, condition, 12, 0.1)
    assert kbet(near, condition, 0.1) == pytest.approx(rejection)
    np.testing.assert_allclose(local_silhouette(near, condition), silhouettes, atol=1e-10)
    assert silhouette(near, condition) == pytest.approx(np.mean(silhouettes))


def test_the_declared_null_is_that_of_conditions_independent_of_the_latents():
    """kBET is then near its level, not 0; s is 0."""
    rng = np.random.default_rng(0)
    z, condition = rng.normal(size=(1500, 5)), rng.integers(0, 2, 1500)
    near = neighbours(z, 100)
    assert 0.07 < kbet(near, condition, 0.1) < 0.12 and 0.03 < kbet(near, condition, 0.05) < 0.07
    assert silhouette(near, condition) == pytest.approx(silhouette.null_value, abs=0.01)


def test_neighbours_exclude_the_cell_even_among_duplicates():
    near = neighbours(np.zeros((5, 2)), 10)
    assert near.index.shape == (5, 4)
    assert all(i not in row for i, row in enumerate(near.index))
    assert np.all(local_silhouette(near, np.array([0, 0, 1, 1, 1])) == 0)


def test_one_condition_has_no_kbet_and_one_cell_of_another_is_finite():
    z = np.random.default_rng(0).normal(size=(30, 2))
    near = neighbours(z, 5)
    assert np.isnan(kbet(near, np.zeros(30, dtype=int)))
    alone = np.r_[1, np.zeros(29, dtype=int)]
    assert 0 <= kbet(near, alone) <= 1 and local_silhouette(near, alone)[0] == -1


def test_within_labels_and_what_is_skipped():
    rng = np.random.default_rng(0)
    z, condition = rng.normal(size=(100, 2)), np.arange(100) % 2
    label = np.array(["large"] * 60 + ["small"] * 20 + ["single"] * 20)
    condition[80:] = 0
    scores, skipped = by_label(z, condition, label, k=10, alpha=0.1)
    assert set(scores) == {"large"} and skipped == {"small": 20, "single": 20}
    rows = label == "large"
    assert scores["large"][0] == pytest.approx(by_loop(z[rows], condition[rows], 10, 0.1)[0])
    assert "small" in by_label(z, condition, label, k=10, alpha=0.1, min_cells=15)[0]
