"""The simulated table leaks the attribute where it says so, and nowhere else."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from cellalign import simulate
from cellalign.errors import UsageError


def differences(made) -> np.ndarray:
    """Of every feature's means under the two sexes, in standard errors."""
    x, male = np.asarray(made.X, dtype=np.float64), (made.obs["sex"] == "Male").to_numpy()
    error = np.sqrt(x[male].var(0) / male.sum() + x[~male].var(0) / (~male).sum())
    return (x[male].mean(0) - x[~male].mean(0)) / np.maximum(error, 1e-9)


def test_features_are_standardised_and_named():
    made = simulate.fairness(1500, seed=1)
    assert made.var_names.is_unique and made.X.dtype == np.float32
    np.testing.assert_allclose(made.X.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(made.X.std(0), 1, atol=1e-4)
    assert made.var["column"].nunique() == 14 and made.obsm["truth"].shape == (1500, 6)
    plain = simulate.fairness(1500, seed=1, standardise=False)
    codes = plain[:, plain.var["column"] == "kind0"].X
    assert set(np.unique(codes)) == {0.0, 1.0} and (codes.sum(1) == 1).all()


def test_the_attribute_leaks_into_the_columns_that_say_so_alone():
    made = simulate.fairness(6000, leak=2.0, seed=2)
    tells = made.var["leaks"].to_numpy()
    by_column = {c: np.abs(differences(made)[made.var["column"] == c]).max() for c in made.var["column"].unique()}
    leaking = set(made.var["column"][tells])
    assert len(leaking) == round(0.6 * 14)
    assert all(by_column[c] > 8 for c in leaking) and all(by_column[c] < 5 for c in by_column if c not in leaking)
    assert np.abs(np.corrcoef(made.obsm["truth"].T, made.obs["sex"] == "Male")[-1, :-1]).max() < 0.05


def test_what_a_classifier_reads_of_the_sex_follows_the_leak():
    def accuracy(made):
        y = (made.obs["sex"] == "Male").to_numpy()
        half = len(y) // 2
        return LogisticRegression(max_iter=500).fit(made.X[:half], y[:half]).score(made.X[half:], y[half:]), y.mean()

    (tells, floor), (silent, same) = (accuracy(simulate.fairness(4000, leak=leak)) for leak in (1.0, 0.0))
    assert floor == same and abs(floor - 0.675) < 0.03
    assert tells > floor + 0.1 and silent < floor + 0.02


def test_the_income_goes_with_the_sex():
    for gap, low, high in ((1.0, 0.1, 0.6), (0.0, -0.05, 0.05)):
        made = simulate.fairness(6000, gap=gap, seed=3)
        rich, male = (made.obs["income"] == ">50K").to_numpy(), (made.obs["sex"] == "Male").to_numpy()
        assert abs(rich.mean() - 0.25) < 0.01
        assert low < rich[male].mean() - rich[~male].mean() < high


@pytest.mark.parametrize("wrong", [{"share": 1.0}, {"label_rate": 0}, {"leaking": 2}, {"n_latent": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        simulate.fairness(100, **wrong)
