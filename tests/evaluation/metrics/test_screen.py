"""Scores of a screen: each against a plain loop in float64, and against what cell-eval2 says of the same cells."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse, stats

from cellalign.evaluation.metrics import rank_sum
from cellalign.evaluation.metrics import screen as scr

FOLDER = Path(__file__).parents[2] / "fixtures" / "screen"
PER_CONDITION = ["discrimination", "error", "effect", "direction", "reach", "de_overlap", "lfc_error"]


def cpm(x):
    x = np.asarray(x, dtype=np.float64)
    return x / (x.sum(1, keepdims=True) / 1e6)


def our_scores(data, source):
    """Ours of the fixture: the prediction's change is from the real control, or from its own."""
    names = sorted(set(data["real_labels"]) - {"ctrl"})
    genes = list(data["genes"])
    own = [np.array([genes.index(name)] if name in genes else [], dtype=int) for name in names]
    panel = np.array([gene not in names for gene in genes])
    groups = {
        kind: {n: data[kind][data[f"{kind}_labels"] == n] for n in [*names, "ctrl"]} for kind in ("real", "predicted")
    }
    noisy = {}
    for kind, found in groups.items():
        sums = np.stack([found[n].sum(0, dtype=np.float64) for n in [*names, "ctrl"]])
        noisy[kind] = scr.Noisy(scr.profiles(sums), np.array([scr.noise(found[n]) for n in [*names, "ctrl"]]))
    real, predicted = (scr.Noisy(noisy[k].profiles[:-1], noisy[k].noise[:-1]) for k in ("real", "predicted"))
    control = scr.Noisy(noisy["real"].profiles[-1], noisy["real"].noise[-1])
    start = noisy["real" if source == "real" else "predicted"].profiles[-1]
    starts = groups["real" if source == "real" else "predicted"]["ctrl"]
    tables = {}
    for kind, other in (("real", groups["real"]["ctrl"]), ("predicted", starts)):
        tested = cpm(other).mean(0) > 5
        tables[kind] = [rank_sum.different(cpm(groups[kind][n]), cpm(other), tested) for n in names]
    pairs = list(zip(tables["predicted"], tables["real"], own, strict=True))
    return {
        "discrimination": scr.discrimination(
            (predicted.profiles - start)[:, panel], (real.profiles - control.profiles)[:, panel]
        ),
        "error": scr.corrected_error(predicted, real, own),
        "effect": scr.corrected_effect(real, control, own),
        "direction": np.array([scr.direction(*each) for each in pairs]),
        "reach": np.array([scr.reach(*each) for each in pairs]),
        "de_overlap": np.array([scr.agreement(*each) for each in pairs]),
        "lfc_error": np.array([scr.fold_error(p.change, r.change, r, o) for p, r, o in pairs]),
    }


@pytest.fixture(scope="module")
def data():
    with np.load(FOLDER / "screen.npz") as found:
        return dict(found)


@pytest.mark.parametrize("source", ["real", "pred"])
def test_they_are_those_of_cell_eval2(data, source):
    ours = our_scores(data, source)
    for name in PER_CONDITION:
        np.testing.assert_allclose(ours[name], data[f"cell-eval2/{source}/{name}"], atol=1e-6, rtol=1e-6, err_msg=name)


@pytest.mark.skipif(importlib.util.find_spec("cell_eval2") is None, reason="cell-eval2 is not installed (extra screen)")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source", ["real", "pred"])
def test_the_installed_cell_eval2_still_says_so(data, source):
    spec = importlib.util.spec_from_file_location("make_screen", FOLDER / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    ours = our_scores(data, source)
    for name, theirs in make.scored(data, source).items():
        np.testing.assert_allclose(ours[name], theirs, atol=1e-6, rtol=1e-6, err_msg=name)


def test_a_profile_is_of_the_sum_and_tiled_cells_change_nothing():
    rng = np.random.default_rng(0)
    x = rng.poisson(2.0, (9, 6)).astype(float)
    summed = x.sum(0)
    expected = [math.log1p(5e4 * v / summed.sum()) for v in summed]
    np.testing.assert_allclose(scr.profiles(np.stack([summed, 3 * summed, 0 * summed])), [expected, expected, [0] * 6])


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_noise_is_the_jackknife_that_leaves_each_cell_out(kind, monkeypatch):
    monkeypatch.setattr(scr, "BLOCK", 4)
    rng = np.random.default_rng(1)
    x = rng.poisson(1.5, (11, 5)).astype(float)
    x[3] = 0
    without = []
    for i in range(len(x)):
        left = np.delete(x, i, axis=0).sum(0)
        without.append([math.log1p(5e4 * v / left.sum()) for v in left])
    without = np.array(without)
    expected = (len(x) - 1) / len(x) * ((without - without.mean(0)) ** 2).sum()
    assert scr.noise(kind(x)) == pytest.approx(expected, rel=1e-9)
    assert scr.noise(kind(x[:1])) == 0 == scr.noise(kind(0 * x))


def test_weighted_noise_is_what_the_profile_scatters_by():
    rng = np.random.default_rng(2)
    rates = rng.gamma(2, 2, (2, 8))
    strata = np.repeat([0, 1], [150, 80])
    weights = np.where(strata == 0, 0.3 / 150, 0.7 / 80)

    def drawn():
        return rng.poisson(rates[strata] * rng.gamma(5, 0.2, len(strata))[:, None]).astype(float)

    samples = [drawn() for _ in range(400)]
    found = np.array([scr.profiles((weights @ x)[None])[0] for x in samples])
    assert np.mean([scr.weighted_noise(x, weights, strata) for x in samples[:40]]) == pytest.approx(
        found.var(0, ddof=1).sum(), rel=0.1
    )
    one = np.full(len(strata), 1 / len(strata))
    assert scr.weighted_noise(samples[0], one, 0 * strata) == pytest.approx(scr.noise(samples[0]), rel=0.02)


def loop_rank(distance):
    found = []
    for i, row in enumerate(distance):
        others = [d for j, d in enumerate(row) if j != i]
        found.append(np.mean([1.0 if d > row[i] else 0.5 if d == row[i] else 0.0 for d in others]))
    return found


def test_discrimination_and_centroids_count_who_is_farther():
    rng = np.random.default_rng(3)
    real, predicted = rng.normal(size=(2, 6, 9))
    predicted += real
    cosine = [[1 - a @ b / math.sqrt((a @ a) * (b @ b)) for b in real] for a in predicted]
    np.testing.assert_allclose(scr.discrimination(predicted, real), loop_rank(cosine))
    far = [[sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) for b in real] for a in predicted]
    np.testing.assert_allclose(scr.centroid_accuracy(predicted, real), loop_rank(far))
    assert (scr.discrimination(0 * real, real) == 0.5).all()
    same = np.repeat(real.mean(0)[None], 6, 0)
    assert scr.discrimination(same, real).mean() == pytest.approx(0.5, abs=1e-12)
    assert scr.discrimination(real, real).tolist() == [1.0] * 6
    assert np.isfinite(scr.discrimination(real[:1], real[:1])).all()


def test_the_corrected_error_is_zero_for_the_truth_and_one_for_the_control():
    """On average over draws of cells: the noise of prediction and truth is taken off."""
    rng = np.random.default_rng(4)
    base, n_groups, n = rng.gamma(1, 4, 60), 12, 40
    effects = np.exp(rng.normal(0, 0.4, (n_groups, 60)))
    own = [np.array([], dtype=int)] * n_groups

    def noisy(rates):
        groups = [rng.poisson(rate, (n, 60)).astype(float) for rate in rates]
        return scr.Noisy(scr.profiles(np.stack([x.sum(0) for x in groups])), np.array([scr.noise(x) for x in groups]))

    ratios = []
    for _ in range(12):
        real, control = noisy(base * effects), noisy([base])
        control = scr.Noisy(control.profiles[0], control.noise[0])
        effect = scr.corrected_effect(real, control, own).sum()
        truth, nothing = noisy(base * effects), noisy([base] * n_groups)
        ratios.append([scr.corrected_error(each, real, own).sum() / effect for each in (truth, nothing)])
    perfect, none = np.mean(ratios, axis=0)
    assert abs(perfect) < 0.02 and abs(none - 1) < 0.05


def test_noise_that_the_profiles_do_not_show_earns_nothing():
    """Cells whose scatter cancels in their sum claim a correction that their profiles do not need."""
    rng = np.random.default_rng(5)
    real = scr.Noisy(rng.normal(2, 0.5, (8, 30)), np.full(8, 3.0))
    pasted = np.repeat(real.profiles.mean(0)[None], 8, 0)
    own = [np.array([], dtype=int)] * 8
    claimed, honest = (scr.corrected_error(scr.Noisy(pasted, np.full(8, v)), real, own) for v in (3.0, 0.0))
    np.testing.assert_allclose(claimed, honest)


def test_a_targeted_gene_counts_for_its_own_condition_nowhere():
    rng = np.random.default_rng(6)
    real, predicted = scr.Noisy(rng.normal(size=(3, 5)), np.zeros(3)), scr.Noisy(rng.normal(size=(3, 5)), np.zeros(3))
    own = [np.array([1]), np.array([0, 4]), np.array([], dtype=int)]
    expected = []
    for i in range(3):
        kept = [g for g in range(5) if g not in own[i]]
        expected.append(np.mean([(predicted.profiles[i, g] - real.profiles[i, g]) ** 2 for g in kept]))
    np.testing.assert_allclose(scr.corrected_error(predicted, real, own), expected)


def table(q, change, tested=None):
    q = np.asarray(q, dtype=float)
    return rank_sum.Different(
        q, q, np.asarray(change, dtype=float), np.ones(len(q), bool) if tested is None else tested
    )


NONE = np.array([], dtype=int)


def test_direction_is_right_signs_over_the_larger_set():
    real = table([0.01, 0.01, 0.5, 0.01], [1, -1, 1, 0])
    assert scr.direction(table([0.01, 0.01, 0.01, 0.01], [1, 1, 1, 1]), real, NONE) == 2 / 3  # 3 adjudicable, 3 real
    assert scr.direction(table([0.01, 0.5, 0.5, 0.5], [1, 1, 1, 1]), real, NONE) == 1 / 3
    assert scr.direction(table([0.01, 0.5, 0.5, 0.5], [1, 1, 1, 1]), real, np.array([0])) == 0
    assert math.isnan(scr.direction(table([1.0], [1]), table([1.0], [1]), NONE))


def test_reach_is_the_deepest_pure_prefix():
    q = np.linspace(0.001, 0.02, 20)
    real = table(np.full(20, 0.01), np.ones(20))
    right = np.ones(20)
    right[[0, 12, 13, 14]] = -1
    purity = [np.mean(right[:k] > 0) for k in range(1, 21)]
    expected = max(k for k in range(1, 21) if purity[k - 1] >= 0.9) / 20
    assert scr.reach(table(q, right), real, NONE) == expected == 12 / 20
    assert scr.reach(table(q, -np.ones(20)), real, NONE) == 0 and math.isnan(
        scr.reach(table(q, right), table(q + 1, right), NONE)
    )


def test_agreement_and_fold_error():
    real = table([0.01] * 11 + [0.9], np.arange(1, 13))
    predicted = table([0.01] * 6 + [0.9] * 5 + [0.01], np.arange(1, 13) + 1)
    assert scr.agreement(predicted, real, NONE) == 6 / 12
    assert scr.agreement(table([1.0], [0]), table([1.0], [0]), NONE) == 1
    assert scr.fold_error(predicted.change, real.change, real, NONE) == pytest.approx(1 / 6)
    assert scr.fold_error(0 * real.change, real.change, real, NONE) == 1
    assert scr.fold_error(np.full(12, np.inf), real.change, real, NONE) == 1
    assert math.isnan(scr.fold_error(predicted.change, real.change, real, np.array([0, 1])))


def test_effect_sizes_are_correlated_by_rank():
    rng = np.random.default_rng(8)
    one, other = rng.normal(size=(2, 4, 9)).round(1)
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(scr.spearman(one, other), expected)
    assert scr.spearman(np.ones(3), np.array([1.0, 10, 100])) == 0


def test_anchored_scores_are_all_better_higher():
    assert {str(scr.anchored(each).better) for each in scr.SCORES} == {"up"}
