"""What has been done to get good scores without a prediction: each starts from the mean response, and gains nothing.

Cells of a few types that respond alike but for a part of their own; control means whose noise is as large as what the
types differ by, so that leaning on it would pay.
"""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from attacks import ATTACKS, anchors, control_pasted, leaning, means, start
from support import at_every_change

import cellalign
from cellalign.evaluation.panels.response import ANCHORED

TYPES, N, G, SEEDS = 5, 60, 150, range(4)


def made(seed):
    """Real cells; any values, so that nothing is cut at zero."""
    rng = np.random.default_rng(seed)
    common, centre, parts, obs = rng.normal(0, 0.4, G), rng.normal(0, 2, G), [], []
    for kind in range(TYPES):
        mean = centre + rng.normal(0, 0.15, G)
        change = common + rng.normal(0, 0.4, G)
        for stim, of in (("control", mean), ("stimulated", mean + change)):
            parts.append(of + rng.normal(size=(N, G)))
            obs += [(stim, f"t{kind}")] * N
    frame = pd.DataFrame(obs, columns=["stim", "cell_type"], index=[f"c{i}" for i in range(len(obs))])
    return ad.AnnData(np.concatenate(parts).astype(np.float32), obs=frame)


def scored(predicted, real, seed):
    asked = {"condition": "stim", "label": "cell_type", "panels": ["response"]}
    return cellalign.evaluate(predicted, against=real, seed=seed, **asked)


@pytest.fixture(scope="module")
def experiments():
    return [made(seed) for seed in SEEDS]


@pytest.mark.parametrize("attack", at_every_change(ATTACKS, ATTACKS[::3]), ids=lambda each: each.__name__)
def test_an_attack_gains_nothing(experiments, attack):
    found = []
    for seed, real in enumerate(experiments):
        result = scored(attack(real, start(real), np.random.default_rng(seed)), real, seed)
        found.append(anchors(result))
        assert "prediction is better than" not in result.verdict and "response is better than" not in result.verdict
    for metric in ANCHORED:
        of = [each[metric] for each in found if metric in each]
        if not of:
            assert attack is control_pasted or metric in ("r_change_de10", "r_change_de100"), metric
            continue
        assert np.isfinite(of).all()
        error = np.std(of, ddof=1) / np.sqrt(len(of))
        assert np.mean(of) <= 2 * error + 1e-6, (metric, of)


def test_the_mean_response_is_0_a_repeat_1_and_a_good_prediction_between(experiments):
    for seed, real in enumerate(experiments[:2]):
        cells = start(real)
        assert all(abs(value) < 0.03 for value in anchors(scored(cells, real, seed)).values())
        control, stimulated = means(made_without_noise(seed))
        change = {kind: (stimulated.loc[kind] - control.loc[kind]).to_numpy() for kind in control.index}
        cells.X = cells.layers["source"] + np.array([change[kind] for kind in cells.obs["cell_type"]])
        result = scored(cells, real, seed)
        found = anchors(result)
        assert min(found.values()) > 0.5 and found["r_change_all"] > 1, "without noise it passes halves of real cells"
        halves = [row for row in result.rows if (row.system, row.group) == ("split half", "mean")]
        assert {round(row.evidence.anchored, 6) for row in halves if row.metric in ANCHORED} == {1}
        assert "the response is better than the best baseline" in result.verdict


def made_without_noise(seed):
    """The same experiment's true means: one cell each."""
    rng = np.random.default_rng(seed)
    common, centre, parts, obs = rng.normal(0, 0.4, G), rng.normal(0, 2, G), [], []
    for kind in range(TYPES):
        mean = centre + rng.normal(0, 0.15, G)
        change = common + rng.normal(0, 0.4, G)
        for stim, of in (("control", mean), ("stimulated", mean + change)):
            parts.append(of)
            rng.normal(size=(N, G))
            obs.append((stim, f"t{kind}"))
    frame = pd.DataFrame(obs, columns=["stim", "cell_type"], index=[f"c{i}" for i in range(len(obs))])
    return ad.AnnData(np.array(parts, dtype=np.float32), obs=frame)


def test_leaning_would_pay_with_one_control_for_both_and_is_taken_off(experiments):
    """What it gains is known: the share times the noise of the control mean."""
    from cellalign.evaluation.baselines import correlations

    gained, taken = [], []
    for seed, real in enumerate(experiments):
        control, stimulated = means(real)
        cells = start(real)
        shift = scored(cells, real, seed)
        result = scored(leaning(real, cells, None), real, seed)
        value = [r.value("r_change_all", system="prediction", group="mean") for r in (result, shift)]
        gained.append(value[0] - value[1])
        taken.append(anchors(result)["r_change_all"])
        assert correlations(control.to_numpy(), control.to_numpy()).min() > 0.99
    assert np.mean(gained) > 0, "as it is, it pays"
    assert np.mean(taken) < 0


def test_cells_without_an_effect_are_not_measurable_whatever_is_predicted():
    rng = np.random.default_rng(0)
    real = made(0)
    real.X = rng.normal(size=real.shape).astype(np.float32)
    result = scored(start(real), real, 0)
    assert result.measurable == (0, TYPES)
    assert result.verdict.startswith(
        "not measurable (over all genes two halves of the real cells agree by less than 0.2): t0, t1"
    )
    assert "best baseline" not in result.verdict
    of = [row.evidence for row in result.rows if row.system == "prediction" and row.group != "mean"]
    assert not any(each.measurable for each in of) and all(np.isnan(each.anchored) for each in of)
