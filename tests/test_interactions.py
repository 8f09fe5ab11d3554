"""Several perturbations at once beside their sum: against loops, with a planted interaction, and what is refused."""

import logging

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import cellalign
from cellalign.errors import InputError, ModelError, UsageError
from cellalign.interactions import _corrected, _in_expression, _in_latents


def groups(rng, interaction, n=(60, 80, 70, 200)):
    """Values [cells, 5] of a+b, a, b and control, whose fourth column interacts; rows of each."""
    a, b = np.array([3.0, 0, 1, 0, 0]), np.array([0, -2.0, 1, 0, 0])
    means = [a + b + np.array([0, 0, 0, interaction, 0]), a, b, np.zeros(5)]
    x = np.concatenate([rng.normal(size=(size, 5)) + mean for size, mean in zip(n, means, strict=True)])
    ends = np.cumsum(n)
    return x, [np.arange(end - size, end) for size, end in zip(n, ends, strict=True)]


def test_latents_against_a_loop_and_a_planted_interaction():
    x, rows = groups(np.random.default_rng(0), 2.0)
    table = _corrected(_in_latents(x, rows[:-1], rows[-1]), [f"z{i}" for i in range(5)])
    for j in range(5):
        ab, a, b, none = (x[own, j] for own in rows)
        assert table["observed"][j] == pytest.approx(ab.mean() - none.mean())
        assert table["additive"][j] == pytest.approx(a.mean() + b.mean() - 2 * none.mean())
        error = np.sqrt(sum(values.var(ddof=1) / len(values) for values in (ab, a, b, none)))
        assert table["error"][j] == pytest.approx(error)
    assert (table["q"] <= 0.05).tolist() == [False, False, False, True, False]


def test_without_an_interaction_p_is_uniform():
    rng, found = np.random.default_rng(1), []
    for _ in range(200):
        x, rows = groups(rng, 0.0)
        found.append(_corrected(_in_latents(x, rows[:-1], rows[-1]), [f"z{i}" for i in range(5)])["p"])
    p = np.concatenate(found)
    assert abs((p < 0.05).mean() - 0.05) < 0.03 and abs(p.mean() - 0.5) < 0.04


@pytest.mark.parametrize("n", [(4, 80, 80, 200), (4, 4, 4, 200)])
def test_of_few_cells_p_allows_for_what_they_do_not_tell(n):
    """By a normal distribution 0.12 were below 0.05, 0.026 below 0.001: four cells hardly tell a spread."""
    rng, found = np.random.default_rng(5), []
    for _ in range(400):
        x, rows = groups(rng, 0.0, n)
        found.append(_corrected(_in_latents(x, rows[:-1], rows[-1]), [f"z{i}" for i in range(5)])["p"])
    p = np.concatenate(found)
    assert (p < 0.05).mean() < 0.08 and (p < 0.001).mean() < (0.004 if max(n[:3]) < 10 else 0.015)


def test_degrees_of_freedom_are_welchs():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(60, 1)) * rng.uniform(1, 3, (60, 1))
    aa, a, none = np.arange(6), np.arange(6, 16), np.arange(16, 60)
    of = {rows: x[list(rows), 0] for rows in map(tuple, (aa, a, none))}
    terms = [w * v.var(ddof=1) / len(v) for w, v in zip((1, 4, 1), of.values(), strict=True)]
    expected = sum(terms) ** 2 / sum(term**2 / (len(v) - 1) for term, v in zip(terms, of.values(), strict=True))
    assert _in_latents(x, [aa, a, a], none)["df"][0] == pytest.approx(expected)


def test_two_of_one_perturbation_have_the_noise_of_its_mean_twice():
    """a+a beside 2 (a - control): both parts are the same cells, whose errors do not average out."""
    rng, found = np.random.default_rng(4), []
    for _ in range(200):
        x = rng.normal(size=(180, 5))
        aa, a, none = np.arange(80), np.arange(80, 120), np.arange(120, 180)
        table = _corrected(_in_latents(x, [aa, a, a], none), [f"z{i}" for i in range(5)])
        found.append(table["p"])
    variance = x[aa].var(0, ddof=1) / 80 + 4 * x[a].var(0, ddof=1) / 40 + x[none].var(0, ddof=1) / 60
    np.testing.assert_allclose(table["error"], np.sqrt(variance))
    p = np.concatenate(found)
    assert abs((p < 0.05).mean() - 0.05) < 0.03 and abs(p.mean() - 0.5) < 0.04


def test_expression_of_a_sum_has_slope_and_weights_of_one():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=100), rng.normal(size=100)
    for factor in (1.0, 0.5):
        means = [factor * (a + b), a, b, np.zeros(100)]
        x = np.concatenate([mean + 0.1 * rng.normal(size=(50, 100)) for mean in means])
        rows = [np.arange(50 * i, 50 * i + 50) for i in range(4)]
        for matrix in (x, sparse.csr_matrix(x)):
            found = _in_expression(matrix, rows[:-1], rows[-1], rng)
            assert found["slope"] == pytest.approx(factor, abs=0.02) and found["r"] > 0.99 < found["split_half"]
            assert found["residual"] < 0.01
            assert [float(c) for c in found["c"].split()] == pytest.approx([factor, factor], abs=0.02)


def test_halves_of_the_control_do_not_correlate_what_has_no_effect():
    rng = np.random.default_rng(3)
    found = []
    for _ in range(20):
        x = rng.normal(size=(200, 60))
        rows = [np.arange(60), np.arange(60, 120), np.arange(120, 180), np.arange(180, 200)]
        found.append([_in_expression(x, rows[:-1], rows[-1], rng)[name] for name in ("r", "split_half")])
    assert np.abs(np.mean(found, axis=0)).max() < 0.1  # a shared control would give 0.6


@pytest.fixture
def doubles(shifts):
    """Cells of which those of p02 are said to be under p00 and p01 both, in the spelling of another tool too."""
    cells = shifts.copy()
    names = {"p02": "p01+p00", "p00": "p00+ctrl", "p03": "p04+nowhere"}
    cells.obs["perturbation"] = pd.Categorical(cells.obs["perturbation"].astype(str).replace(names))
    return cells


def test_targets_set_doubles_beside_their_singles(svae_model, doubles, caplog):
    caplog.set_level(logging.INFO, logger="cellalign")
    graph = cellalign.targets(svae_model, doubles, interactions=True)
    table, by_latent = graph.uns["interactions"], graph.uns["interactions_latents"]
    assert table["perturbation"].tolist() == ["p01+p00"] and table["cells"].tolist() == [60]
    assert "1 a+b lack one of their perturbations alone: p04+nowhere" in caplog.text
    z = svae_model.embed(doubles)
    mean = {
        name: z[(doubles.obs["perturbation"] == name).to_numpy()].mean(0)
        for name in doubles.obs["perturbation"].unique()
    }
    expected = mean["p00+ctrl"] + mean["p01"] - 2 * mean["control"]
    np.testing.assert_allclose(by_latent["additive"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_latent["observed"], mean["p01+p00"] - mean["control"], rtol=1e-4, atol=1e-5)
    assert table["latents"][0]  # p02 is not the sum of the two
    assert abs(table["r"][0]) < table["split_half"][0]


def test_what_cannot_be_compared_is_one_line(svae_model, shifts, tiny):
    with pytest.raises(InputError, match="no a\\+b is there that has each of its perturbations alone"):
        cellalign.targets(svae_model, shifts, interactions=True)
    with pytest.raises(UsageError, match="interactions=True needs cells"):
        cellalign.targets(svae_model, interactions=True)
    few = shifts[(shifts.obs["perturbation"] != "control").to_numpy()].copy()
    with pytest.raises(InputError, match="of which 4 cells are needed"):
        cellalign.targets(svae_model, few, interactions=True)
    settings = {"hidden": [8], "likelihood": "gaussian", "latent_dim": 4, "epochs": 1}
    cells = shifts[(shifts.obs["perturbation"] != "control").to_numpy()][:600].copy()
    cells.X = cells.X.log1p()
    none = cellalign.train(cells, method="ivae", condition="perturbation", settings=settings)
    if none.control is None:
        with pytest.raises(ModelError, match="changes from a control, and the model has none"):
            cellalign.targets(none, cells, interactions=True)
