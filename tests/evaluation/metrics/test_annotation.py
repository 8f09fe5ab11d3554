"""Labels from latents against plain loops and hand-computed numbers."""

import numpy as np
import pytest

from cellalign.evaluation.metrics import annotation


@pytest.fixture
def clusters():
    """1,500 reference cells of 3 separate labels in 4 latents, the second twice as wide; 3,000 new cells."""
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0, 0, 0], [30, 0, 0, 0], [0, 30, 0, 0]])
    spread = np.array([1.0, 2.0, 1.0])

    def draw(n):
        labels = rng.integers(0, 3, n)
        return centres[labels] + spread[labels, None] * rng.normal(size=(n, 4)), labels

    return *draw(1500), *draw(3000)


def test_separate_clusters_are_told_apart_with_certainty(clusters):
    reference, labels, cells, true = clusters
    known, z = annotation.whiten(reference, labels, cells)
    distance, rows = annotation.neighbours(known, z, 15)
    for probability in (annotation.linear(known, labels, z, 3), annotation.votes(distance, labels[rows], 3)):
        assert probability.dtype == np.float32 and probability.shape == (3000, 3)
        np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-5)
        np.testing.assert_array_equal(probability.argmax(1), true)
        assert probability.max(1).min() > 0.9


def test_overlapping_clusters_are_told_apart_as_well_as_they_can_be():
    """Two normals two standard deviations apart: the best possible accuracy is Phi(1) = 0.841."""
    rng = np.random.default_rng(1)
    labels, true = rng.integers(0, 2, 4000), rng.integers(0, 2, 20000)
    reference, cells = (2.0 * of[:, None] + rng.normal(size=(len(of), 1)) for of in (labels, true))
    known, z = annotation.whiten(reference, labels, cells)
    probability = annotation.linear(known, labels, z, 2)
    assert np.mean(probability.argmax(1) == true) == pytest.approx(0.841, abs=0.01)
    # the posterior of the true model: logit = 2 x - 2
    np.testing.assert_allclose(probability[:, 1], 1 / (1 + np.exp(2 - 2 * cells[:, 0])), atol=0.05)


def test_labels_without_a_reference_cell_have_probability_zero(clusters):
    reference, labels, cells, _ = clusters
    probability = annotation.linear(reference, np.where(labels == 2, 4, labels), cells, 6)
    np.testing.assert_array_equal(probability.max(0) > 0, [True, True, False, False, True, False])


def test_votes_as_a_plain_loop_counts_them():
    rng = np.random.default_rng(2)
    distance, labels = rng.uniform(0.1, 2, (50, 7)), rng.integers(0, 4, (50, 7))
    distance[3, 2] = distance[3, 4] = 0  # two cells of the reference at the very place
    expected = np.zeros((50, 4))
    for n in range(50):
        here = [k for k in range(7) if distance[n, k] == 0]
        for k in here or range(7):
            expected[n, labels[n, k]] += 1 if here else 1 / distance[n, k]
        expected[n] /= expected[n].sum()
    np.testing.assert_allclose(annotation.votes(distance, labels, 4), expected, rtol=1e-6)


def test_neighbours_are_the_nearest_and_at_most_all():
    rng = np.random.default_rng(3)
    reference, cells = rng.normal(size=(20, 3)), rng.normal(size=(8, 3))
    distance, rows = annotation.neighbours(reference, cells, 4)
    every = np.linalg.norm(cells[:, None] - reference, axis=2)
    np.testing.assert_array_equal(rows, every.argsort(1)[:, :4])
    np.testing.assert_allclose(distance, np.sort(every, 1)[:, :4], rtol=1e-6)
    assert annotation.neighbours(reference, cells, 50)[0].shape == (8, 20)


def test_whitening_makes_every_direction_within_a_label_alike():
    rng = np.random.default_rng(4)
    mixing = np.array([[3.0, 0.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.5, 1.0]])
    labels = rng.integers(0, 3, 900)
    reference = rng.normal(size=(900, 3)) @ mixing.T + 10.0 * labels[:, None]
    known, z = annotation.whiten(reference, labels, reference[:5])
    np.testing.assert_allclose(known.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(z, known[:5], atol=1e-6)
    means = np.stack([known[labels == label].mean(0) for label in range(3)])
    np.testing.assert_allclose(np.cov((known - means[labels]).T, bias=True), np.eye(3), atol=1e-4)


def test_latents_that_hardly_vary_stay_small_and_constant_ones_are_harmless():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 500)
    reference = np.stack([rng.normal(size=500), 1e-6 * rng.normal(size=500), np.zeros(500)], 1)
    known, _ = annotation.whiten(reference, labels, reference)
    sizes = np.sort(known.std(0))
    assert sizes[2] == pytest.approx(1, abs=0.02) and sizes[1] < 1e-4 and sizes[0] == 0
    same = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 3.0]])
    assert np.isfinite(annotation.whiten(same, np.array([0, 0, 1]), same)[0]).all()


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_the_asked_share_of_every_known_label_is_flagged(clusters, share):
    reference, labels, cells, true = clusters
    flagged = annotation.is_unknown(reference, labels, cells, true, share)
    for label in range(3):
        assert flagged[true == label].mean() == pytest.approx(share, rel=0.7)


def test_cells_far_from_all_are_flagged_and_none_where_none_is_asked_for(clusters):
    reference, labels, cells, true = clusters
    far = cells[true == 0] + 15
    predicted = np.zeros(len(far), dtype=int)
    assert annotation.is_unknown(reference, labels, far, predicted).all()
    assert not annotation.is_unknown(reference, labels, far, predicted, 0).any()
    # a label that no reference cell has is judged by all of them
    assert annotation.is_unknown(reference, labels, far, predicted + 7).all()
    assert annotation.is_unknown(reference, labels, cells, np.full(len(cells), 7)).mean() < 0.05


def test_a_sparse_rare_label_is_not_unknown_as_a_whole(clusters):
    reference, labels, _, _ = clusters
    rng = np.random.default_rng(6)
    place = np.array([0, 0, 100, 0])
    rare = place + 10 * rng.normal(size=(40, 4))
    reference, labels = np.concatenate([reference, rare]), np.concatenate([labels, np.full(40, 3)])
    new = place + 10 * rng.normal(size=(500, 4))
    flagged = annotation.is_unknown(reference, labels, new, np.full(500, 3))
    assert flagged.mean() < 0.2
    # the same cells, called one of the dense labels, are far from any of it
    assert annotation.is_unknown(reference, labels, new, np.zeros(500, dtype=int)).mean() > 0.9
    # of a rare and dense label the farthest cells lie no nearer than those of all: 3 cells tell no limit
    tight = np.concatenate([reference, 100 + 1e-3 * rng.normal(size=(3, 4))])
    codes = np.concatenate([labels, [4, 4, 4]])
    near = reference[labels == 0] + 1e-2
    assert annotation.is_unknown(tight, codes, near, np.full(len(near), 4)).mean() < 0.05


def test_limits_from_cells_drawn_of_each_label(clusters, monkeypatch):
    reference, labels, cells, true = clusters
    every = annotation.is_unknown(reference, labels, cells, true, 0.1)
    monkeypatch.setattr(annotation, "MAX_REFERENCE_CELLS", 200)
    assert len(annotation._drawn(labels, 0)) == 600
    drawn = annotation.is_unknown(reference, labels, cells, true, 0.1, seed=1)
    np.testing.assert_array_equal(drawn, annotation.is_unknown(reference, labels, cells, true, 0.1, seed=1))
    assert drawn.mean() == pytest.approx(every.mean(), abs=0.03)
    assert (drawn != annotation.is_unknown(reference, labels, cells, true, 0.1, seed=2)).any()


def test_scores_by_hand():
    true = np.array([0, 0, 0, 0, 2, 2, 3, 3, 3, 3])
    predicted = np.array([0, 0, 0, 2, 2, 1, 3, 3, 0, 1])
    found = annotation.scores(true, predicted)
    np.testing.assert_array_equal(found.labels, [0, 2, 3])
    np.testing.assert_array_equal(found.n_cells, [4, 2, 4])
    np.testing.assert_allclose(found.by_label, [0.75, 0.5, 0.5])
    assert found.accuracy == pytest.approx(6 / 10)
    assert (found.average, found.median) == pytest.approx((1.75 / 3, 0.5))
    assert (found.minimum, found.maximum) == (0.5, 0.75)
    # F1 of 0: 2*3/(4+4), of 2: 2*1/(2+2), of 3: 2*2/(4+2); label 1 has no cell
    assert found.macro_f1 == pytest.approx((0.75 + 0.5 + 2 / 3) / 3)


def test_the_declared_nulls_are_those_of_one_label_always_predicted():
    true = np.repeat([0, 1, 2, 3], [50, 30, 15, 5])
    found = annotation.scores(true, np.zeros(100, dtype=int))
    largest, n = 0.5, 4
    assert (found.accuracy, found.average) == (largest, 1 / n)
    assert found.macro_f1 == pytest.approx(2 * largest / (1 + largest) / n)
    declared = {name: metric.null_value for name, metric in annotation.OVERALL.items()}
    assert (found.minimum, found.maximum) == (declared["minimum"], declared["maximum"]) and found.median == 0
    unknown = [str(m.better) for m in (annotation.FALSE_ALARM, annotation.DETECTED, annotation.FLAGGED)]
    assert unknown == ["down", "up", "none"], "one name, three questions"
