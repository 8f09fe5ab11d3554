"""Mixing against plain loops written from the definitions, what permuted conditions give, and the edge cases."""

import numpy as np
import pytest
from scipy import stats

from cellalign.evaluation.metrics import mixing
from cellalign.evaluation.metrics.mixing import (
    by_label,
    global_silhouette,
    kbet,
    local_silhouette,
    mixed,
    neighbours,
    own_share,
    permuted,
    silhouette,
)


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
    share = [np.mean([condition[j] == condition[i] for j in near.index[i][:15]]) for i in range(60)]
    assert own_share(near, condition) == pytest.approx(np.mean(share))


def test_rows_are_scored_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    z, condition = rng.normal(size=(60, 3)), rng.integers(0, 3, 60)
    near = neighbours(z, 12)
    whole = [kbet(near, condition), silhouette(near, condition), own_share(near, condition)]
    monkeypatch.setattr(mixing, "AT_ONCE", 50)
    assert len(near.parts(12)) == 15
    assert whole == pytest.approx([kbet(near, condition), silhouette(near, condition), own_share(near, condition)])


@pytest.mark.parametrize("balance", [0.5, 0.1])
def test_independent_conditions_lie_within_their_null_and_others_outside(balance):
    """0 is not perfect mixing: independent conditions have a kBET near alpha, and repelling ones less."""
    rng = np.random.default_rng(0)
    z, condition = rng.normal(size=(800, 5)), (rng.random(800) < balance).astype(int)
    found = mixed(neighbours(z, 50), condition, k=50, alpha=0.1, seed=1)
    for metric in mixing.METRICS:
        null = found.null(metric.name)
        assert abs(found.values[metric.name] - null.mean) < 4 * null.sd, metric.name
    sizes = np.bincount(condition)
    assert found.null("own share").mean == pytest.approx((sizes * (sizes - 1)).sum() / (800 * 799), abs=0.01)
    apart = mixed(neighbours(z + 2 * condition[:, None], 50), condition, k=50, alpha=0.1)
    pairs = np.repeat(z[:400], 2, axis=0) + 1e-3 * rng.normal(size=(800, 5))  # each cell beside one of unlike condition
    repelled = mixed(neighbours(pairs, 50), np.arange(800) % 2, k=50, alpha=0.1)
    for metric, side in (("kBET", 1), ("s", 1), ("own share", 1)):
        for scored, sign in ((apart, side), (repelled, -side)):
            null = scored.null(metric)
            assert sign * (scored.values[metric] - null.mean) > 4 * null.sd, metric
    assert repelled.values["kBET"] < 0.02, "which is farther from perfect than independent conditions are"
    values, nulls = zip(*((each.values["kBET"], each.null("kBET").mean) for each in (found, repelled)), strict=True)
    assert np.argmin(values) == 1 and np.argmin(kbet.better.loss(values, nulls)) == 0


def test_conditions_are_permuted_within_groups():
    rng = np.random.default_rng(0)
    condition, group = rng.integers(0, 3, 200), rng.choice(["a", "b", "c"], 200)
    drawn = permuted(condition, group, rng)
    assert (drawn != condition).any()
    for name in "abc":
        np.testing.assert_array_equal(np.bincount(drawn[group == name]), np.bincount(condition[group == name]))
    np.testing.assert_array_equal(np.bincount(permuted(condition, None, rng)), np.bincount(condition))


def test_within_labels_is_beside_permutations_within_labels():
    """Two labels of opposite condition: over all cells conditions lie apart, and within labels they mix."""
    rng = np.random.default_rng(0)
    label = np.repeat(["a", "b"], 300)
    condition = (rng.random(600) < np.where(label == "a", 0.8, 0.2)).astype(int)
    z = rng.normal(size=(600, 3)) + 20 * (label == "b")[:, None]
    over_all = mixed(neighbours(z, 30), condition, k=30, alpha=0.1)
    assert over_all.values["own share"] > over_all.null("own share").mean + 10 * over_all.null("own share").sd
    scores, _ = by_label(z, condition, label, k=30, alpha=0.1)
    mean = mixing.Mixed.mean(list(scores.values()))
    assert mean.n == 600 and mean.values["kBET"] == pytest.approx(np.mean([s.values["kBET"] for s in scores.values()]))
    for metric in mixing.METRICS:
        null = mean.null(metric.name)
        assert abs(mean.values[metric.name] - null.mean) < 4 * null.sd
    shares = [np.bincount(condition[label == name]) / 300 for name in "ab"]
    assert mean.null("own share").mean == pytest.approx(np.mean([(p**2).sum() for p in shares]), abs=0.01)


def test_the_silhouette_of_types_among_all_neighbours():
    """Equations 58 to 60: neighbours over all cells, of which those of the cell's own type count."""
    rng = np.random.default_rng(0)
    z, condition, label = rng.normal(size=(50, 2)), rng.integers(0, 2, 50), rng.choice(["a", "b"], 50)
    near = neighbours(z, 10)
    found = global_silhouette(near, condition, label, ["a", "b"], permutations=2)
    for name in "ab":
        values = []
        for i in np.flatnonzero(label == name):
            pairs = [(j, d) for j, d in zip(near.index[i], near.distance[i], strict=True) if label[j] == name]
            own = [d for j, d in pairs if condition[j] == condition[i]]
            other = [d for j, d in pairs if condition[j] != condition[i]]
            if own and other:
                a, b = np.mean(own), np.mean(other)
                values.append((b - a) / max(a, b))
            else:
                values.append(0.0 if not pairs else 1.0 if own else -1.0)
        assert found[name].values["s"] == pytest.approx(np.mean(values))
        assert len(found[name].permuted["s"]) == 2


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
    assert scores["large"].values["kBET"] == pytest.approx(by_loop(z[rows], condition[rows], 10, 0.1)[0])
    assert "small" in by_label(z, condition, label, k=10, alpha=0.1, min_cells=15)[0]


def test_kbet_of_some_cells_is_the_share_of_these():
    """Rejections were divided by all cells: of 10,000 of 45,222 people kBET was a fifth of what it is."""
    rng = np.random.default_rng(0)
    condition = rng.integers(0, 2, 400)
    near = neighbours(np.c_[rng.standard_normal((400, 2)), 1.5 * condition], 20)
    each = [
        kbet(mixing.Neighbours(near.distance[i : i + 1], near.index[i : i + 1]), condition, 0.05) for i in range(400)
    ]
    assert set(each) == {0.0, 1.0}
    some = np.arange(0, 400, 7)
    found = kbet(mixing.Neighbours(near.distance[some], near.index[some]), condition, 0.05)
    assert found == pytest.approx(np.mean(np.array(each)[some]))
    assert kbet(near, condition, 0.05) == pytest.approx(np.mean(each))
