"""Panel screen: what has been done to get good scores without a prediction gains nothing on any anchored metric.

Each attack starts from the mean response, of perturbations that share their control cells and of cell types with their
own, as counts and as log expression.
"""

import logging
from dataclasses import replace

import numpy as np
import pytest
from screen_attacks import (
    ATTACKS,
    control_pasted,
    files,
    inflated_in_pairs,
    leaning,
    level,
    made,
    start,
    twisted_strangers,
)

import cellalign
from cellalign.evaluation.metrics import screen as scr
from cellalign.evaluation.metrics.rank_sum import Different
from cellalign.evaluation.screen_scores import Best
from cellalign.evaluation.screen_splits import evenly, without_leaning

SEEDS = range(6)
TRIED = [(attack, of_types, log) for attack in ATTACKS for of_types in (False, True) for log in (False, True)]
FAST = (control_pasted, False, True), (leaning, True, True)
# Two gain, and by no more than this. Divided by their own totals, cells whose genes are on and off by chance have the
# most expressed genes too low: what that takes off the control's noise is no share of it: 0.09 (0.03). A file that says
# that its cells are of ones that nobody else has is believed: 0.06 (0.03); or cells of other names would lose 0.7.
GAINS = {
    (inflated_in_pairs, True, True, scr.DISCRIMINATION): 0.15,
    (twisted_strangers, True, False, scr.DISCRIMINATION): 0.1,
}


def tried(attack, of_types, log, seed):
    """By metric, of one made screen: anchored score, its error, and by how much it is above the mean response raw."""
    screen, rng = made(seed, of_types), np.random.default_rng(1000 + seed)
    predicted, real = files(screen, attack(screen, start(screen), rng), log, rng)
    label = {"label": "kind"} if of_types else {}
    result = cellalign.evaluate(predicted, against=real, panels=["screen"], seed=seed, **label)
    found = {}
    for metric in scr.SCORES:
        u, b, s = (result.value(metric.name, system=name) for name in ("prediction", "mean response", "anchored"))
        error = result.value(f"{metric.name}_se", system="anchored")
        found[metric] = [s, error, (u - b) * (1 if metric.better == scr.UP else -1)]
    return found


def parameters():
    for each in TRIED:
        name = "-".join((each[0].__name__, "types" if each[1] else "perturbations", "log" if each[2] else "counts"))
        yield pytest.param(*each, marks=() if each in FAST else pytest.mark.slow, id=name)


def beyond(values, error=0.0):
    """Mean of some values less two standard errors, of the scatter over seeds or what each has by itself."""
    values = values[np.isfinite(values)]
    if not len(values):
        return -np.inf
    scatter = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return values.mean() - 2 * max(scatter, error) / np.sqrt(len(values))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("attack", "of_types", "log"), parameters())
def test_an_attack_on_a_screen_gains_nothing(attack, of_types, log, caplog):
    """Also where too little is known to anchor a metric: then its raw value is no better than the mean response's."""
    caplog.set_level(logging.ERROR)
    seeds = SEEDS[:2] if (attack, of_types, log) in FAST else SEEDS
    found = [tried(attack, of_types, log, seed) for seed in seeds]
    for metric in scr.SCORES:
        values, errors, raw = np.array([each[metric] for each in found]).T
        most = GAINS.get((attack, of_types, log, metric), 0.0)
        there = np.isfinite(values)
        own = float(np.mean(errors[there])) if there.any() else 0.0
        assert beyond(values, own) <= most + 1e-6, (metric.name, values)
        if metric is not scr.EFFECT:  # of what changes alike it is undefined, and 0
            assert beyond(raw) <= (0.01 if most == 0 else most), (metric.name, raw)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("of_types", [False, True])
def test_what_knows_the_conditions_gains(of_types, caplog):
    """The same check fails what it has to fail: control cells that change as their own condition does."""
    caplog.set_level(logging.ERROR)

    def knowing(screen, cells, rng):
        change = {name: level(screen.real[name]) - level(screen.control[name]) for name in screen.real}
        return replace(cells, x={name: x * np.exp(change[name]) for name, x in screen.control.items()})

    found = [tried(knowing, of_types, False, seed) for seed in SEEDS]
    for metric in (scr.DISCRIMINATION, scr.ERROR, scr.REACH, scr.FOLD_ERROR):
        values, errors, raw = np.array([each[metric] for each in found]).T
        assert beyond(values, float(np.nanmean(errors))) > 0.5 and beyond(raw) > 0.05, metric.name


def test_what_a_change_owes_to_the_other_half_of_its_control_is_taken_off():
    """A change that leans by a share is as if it had leaned on its own half; one that does not stays what it is."""
    rng = np.random.default_rng(0)
    start, other = rng.normal(size=(2, 6, 2000))
    mean = np.repeat(rng.normal(size=(1, 2000)), 6, 0)

    def deviation(x):
        return x - np.array([np.delete(x, i, axis=0).mean(0) for i in range(len(x))])

    leaned = mean - 0.4 * deviation((start + other) / 2)
    np.testing.assert_allclose(without_leaning(leaned, mean, start, other), mean - 0.4 * deviation(start), atol=1e-9)
    other_way = mean + 0.4 * deviation((start + other) / 2)
    np.testing.assert_array_equal(without_leaning(other_way, mean, start, other), other_way)
    shared = np.repeat(start[:1], 6, 0)
    change = rng.normal(size=mean.shape)
    np.testing.assert_array_equal(without_leaning(change, mean, shared, shared + 1), change)


def test_cells_are_drawn_as_often_as_they_count():
    rng = np.random.default_rng(0)
    weights = np.array([1.0, 1, 2, 0])
    for n in (3, 4, 8, 9):
        times = np.bincount(evenly(weights, n, rng), minlength=4)
        assert times.sum() == n and (np.abs(times - n * weights / 4) < 1).all()


def test_noise_of_own_controls_is_claimed_once_by_all_alike():
    """Cell types lie far apart: that they do is no scatter of the prediction's, to be claimed as its noise."""
    rng = np.random.default_rng(1)
    control = scr.Noisy(rng.normal(2, 1, (8, 30)), np.full(8, 1.0))
    real = scr.Noisy(control.profiles + rng.normal(0, 0.5, (8, 30)), np.full(8, 3.0))
    own = [np.array([], dtype=int)] * 8
    claimed, honest = (
        scr.corrected_error(scr.Noisy(control.profiles + 0.1, np.full(8, v)), real, own, control) for v in (3.0, 1.0)
    )
    np.testing.assert_allclose(claimed, honest)
    assert (scr.corrected_error(scr.Noisy(control.profiles + 0.1, np.full(8, 3.0)), real, own) < honest).all()


def test_numbers_of_genes_called_are_scored_as_direction_and_agreement_are():
    """Of every number: the same as where so many of the surest genes are significant."""
    rng = np.random.default_rng(2)
    n, own = 40, np.array([3, 17])

    def found(significant):
        p = np.where(rng.random(n) < 0.3, 0.5, rng.random(n))  # some are tied, and ranked by their change
        change = np.where(rng.random(n) < 0.1, 0.0, rng.normal(size=n))
        return Different(p, np.where(rng.random(n) < significant, 0.01, 0.5), change, rng.random(n) < 0.9)

    guess, real = found(0.5), found(0.4)
    calls = np.arange(n + 5)
    direction, overlap = scr.by_calls(guess, real, own, calls)
    genes = [g for g in range(n) if guess.tested[g] and g not in own]
    genes.sort(key=lambda g: (guess.q[g], guess.p[g], -abs(guess.change[g])))
    for k in calls:
        called = replace(guess, q=np.where(np.isin(np.arange(n), genes[:k]), 0.0, 1.0))
        assert direction[k] == pytest.approx(scr.direction(called, real, own), nan_ok=True)
        assert overlap[k] == pytest.approx(scr.agreement(called, real, own))
    nothing = replace(real, q=np.ones(n))
    direction, overlap = scr.by_calls(guess, nothing, own, np.array([0, 2]))
    assert np.isnan(direction[0]) and overlap.tolist() == [1, 0]


def test_the_form_that_is_best_counts_of_every_choice_of_conditions():
    above = np.array([[1.0, 0, 0.4], [0, 0.8, 0.5]])
    every = np.array([[0, 1], [0, 0], [1, 1]])
    np.testing.assert_allclose(Best(above, np.array([[1.0, 1, 1], [0, 1, 1]])).values(every), [1, 1, 0.8])
    np.testing.assert_allclose(Best(above, np.ones((2, 3))).values(every), [0.5, 1, 0.8])
    nothing = Best(above, np.array([[1.0, 1, 1], [0, 0, 0]]))
    np.testing.assert_allclose(nothing.values(every), [1, 1, np.nan])
