"""Digits with three strokes: as wide as they say, in one piece, the same for the same seed."""

import numpy as np
import pytest
from scipy import ndimage

from cellalign.errors import UsageError
from cellalign.evaluation.metrics.images import stroke_widths
from cellalign.simulate import digits


@pytest.fixture(scope="module")
def made():
    return digits(40, seed=0)


def test_every_digit_is_there_three_times(made):
    assert made.shape == (120, 1024) and tuple(made.uns["image_shape"]) == (32, 32)
    assert (made.obs.groupby("image", observed=True)["stroke"].nunique() == 3).all()
    assert (made.obs["digit"].value_counts() == 12).all(), "as many of each"
    assert 0 <= made.X.min() and made.X.max() == 1
    assert set(made.obs.loc[made.obs["seen"] == "yes", "digit"]) == {"1", "3", "6", "7"}


def test_strokes_are_thin_normal_and_thick(made):
    images = made.X.reshape(-1, 32, 32)
    width = {
        kind: stroke_widths(images[(made.obs["stroke"] == kind).to_numpy()], 0.5)
        for kind in ("thin", "normal", "thick")
    }
    assert (width["thin"] < 0.8 * width["normal"]).all() and (width["thick"] > 1.3 * width["normal"]).all()
    assert 0.5 < (width["thin"] / width["normal"]).mean() < 0.7
    assert 1.45 < (width["thick"] / width["normal"]).mean() < 1.75


def test_thin_strokes_do_not_break(made):
    images = made.X.reshape(-1, 32, 32) > 0.2
    pieces = np.array([ndimage.label(image, np.ones((3, 3)))[1] for image in images])
    stroke = made.obs["stroke"].to_numpy()
    assert (pieces[stroke == "thin"] <= pieces[stroke == "normal"] + 1).all()
    assert (pieces[stroke == "thin"] == pieces[stroke == "normal"]).mean() > 0.9


def test_the_seed_chooses_the_images_and_the_digits_seen_are_named():
    one, same, other = digits(10, seed=1), digits(10, seed=1), digits(10, seed=2, seen=(0,))
    np.testing.assert_array_equal(one.X, same.X)
    assert list(one.obs_names) != list(other.obs_names)
    assert set(other.obs.loc[other.obs["seen"] == "yes", "digit"]) == {"0"}


def test_numbers_out_of_range_are_refused():
    with pytest.raises(UsageError, match="between 3 and 1797"):
        digits(1798)
    with pytest.raises(UsageError, match="10, which is no digit"):
        digits(10, seen=(1, 10))
