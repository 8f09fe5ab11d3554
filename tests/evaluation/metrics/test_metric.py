"""Which way is better: how it is said, and how values are ordered by it; what a declared metric says and computes."""

import inspect

import numpy as np
import pytest

from cellalign.evaluation.metrics.metric import DOWN, NEITHER, NULL, UP, Metric, Null, by_name, metric, towards


@pytest.mark.parametrize(
    ("better", "said", "arrow", "words"),
    [
        (UP, "up", "↑", "higher is better"),
        (DOWN, "down", "↓", "lower is better"),
        (towards(0), "towards 0", "→0", "best at 0"),
        (towards(0.1), "towards 0.1", "→0.1", "best at 0.1"),
        (towards("majority"), "towards majority", "→majority", "best at majority"),
        (NEITHER, "none", "", "no value is better than another"),
    ],
)
def test_how_it_is_said(better, said, arrow, words):
    assert (str(better), better.arrow, better.in_words) == (said, arrow, words)


@pytest.mark.parametrize(
    ("better", "best_first"),
    [
        (UP, [3.0, 0.5, 0.0, -1.0]),
        (DOWN, [-1.0, 0.0, 0.5, 3.0]),
        (towards(0), [0.0, 0.5, -1.0, 3.0]),
        (towards(1), [0.5, 0.0, -1.0, 3.0]),  # 0.5 away, 1, 2, 2: ties stay as they were
    ],
)
def test_values_are_ordered_best_first_and_missing_ones_stay_missing(better, best_first):
    values = np.array([3.0, -1.0, 0.0, 0.5]) if better != towards(1) else np.array([-1.0, 3.0, 0.0, 0.5])
    np.testing.assert_array_equal(values[np.argsort(better.loss(values), kind="stable")], best_first)
    assert np.isnan(better.loss([1.0, np.nan])).tolist() == [False, True]


def test_what_is_best_at_its_own_null_is_ordered_by_the_distance_to_it():
    better, values = towards(NULL), [0.0, 0.1, 0.3]
    assert (str(better), better.arrow) == ("towards permuted", "→permuted")
    np.testing.assert_allclose(better.loss(values, [0.09, 0.12, 0.3]), [0.09, 0.02, 0])
    with pytest.raises(ValueError, match="cannot be ordered by towards permuted"):
        better.loss(values)
    null = Null.of(np.array([0.08, 0.1, 0.12]))
    assert (null.mean, null.sd, str(null)) == (pytest.approx(0.1), pytest.approx(0.02), "0.100 ± 0.020")


@pytest.mark.parametrize("better", [NEITHER, towards("majority")])
def test_without_a_best_value_there_is_no_order(better):
    with pytest.raises(ValueError, match=f"cannot be ordered by {better}"):
        better.loss([1.0])


def test_a_declared_function_computes_and_says_what_it_is():
    @metric("spread", "How far values lie apart.", better=DOWN, null="1 for independent values", null_value=1)
    def spread(values: np.ndarray, power: int = 1) -> float:
        """Range of the values."""
        return float(np.ptp(values)) ** power

    assert isinstance(spread, Metric) and spread(np.array([1.0, 4.0])) == 3 and spread(np.array([1, 4]), power=2) == 9
    assert (spread.name, spread.heading, spread.null_value) == ("spread", "spread ↓", 1)
    assert inspect.getdoc(spread) == "Range of the values."
    assert Metric("share", "A share.", NEITHER, "0").heading == "share"


def test_names_are_unique():
    a, b = Metric("a", "A.", UP, "0"), Metric("b", "B.", UP, "0")
    assert by_name((b, a)) == {"b": b, "a": a} and list(by_name((b, a))) == ["b", "a"]
    with pytest.raises(ValueError, match="two metrics of one name among a, b, a"):
        by_name((a, b, Metric("a", "Another.", DOWN, "0")))
