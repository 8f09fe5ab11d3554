"""Stroke width of strokes whose width is known; what a classifier reads, which never saw the original."""

import numpy as np
import pytest

from cellalign.evaluation.metrics.images import brightness, reads, stroke_width, stroke_widths


def bar(width, height=40, length=30):
    image = np.zeros((height, 40))
    image[10 : 10 + width, 5 : 5 + length] = 1
    return image


@pytest.mark.parametrize("width", [2, 3, 5])
def test_a_bar_has_its_width(width):
    (found,) = stroke_widths(bar(width)[None], 0.5)
    assert found == pytest.approx(width, rel=0.1)
    (upright,) = stroke_widths(bar(width).T[None], 0.5)
    assert upright == pytest.approx(found)


def test_a_ring_and_a_slanted_stroke_have_their_width():
    y, x = np.mgrid[:48, :48] - 23.5
    distance = np.stack([np.abs(np.hypot(x, y) - 15), np.abs(x + y) / np.sqrt(2)])  # from the middle of the stroke
    found = stroke_widths(np.clip(2.5 - distance, 0, 1), 0.5)
    np.testing.assert_allclose(found, 4, rtol=0.1)


def test_edges_are_looked_for_between_pixels_and_the_level_is_of_brightness():
    soft = bar(3)
    soft[9] = soft[13] = soft[10] * 0.5  # half covered on both sides: one pixel more
    (found,) = stroke_widths(soft[None], 0.5)
    assert 3 < found < 4.4
    np.testing.assert_allclose(stroke_widths(200 * soft[None], 100), found)


def test_without_ink_there_is_no_width():
    assert np.isnan(stroke_widths(np.zeros((2, 8, 8)), 0.5)).all()
    assert np.isnan(stroke_width(np.zeros((2, 8, 8)), 0.5))
    assert stroke_width(np.stack([bar(3), 0 * bar(3)]), 0.5) == pytest.approx(3, rel=0.1)


def test_channels_are_averaged():
    x = np.arange(24.0).reshape(2, 12)
    np.testing.assert_allclose(brightness(x, (2, 2, 3))[1], [[13, 16], [19, 22]])


def test_a_classifier_reads_what_is_there_and_nothing_from_noise():
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b", "c"], 40)
    shown = np.eye(3)[np.repeat([0, 1, 2], 40)].repeat(5, 1)
    real, originals = shown + 0.3 * rng.normal(size=shown.shape), np.arange(120).astype(str)
    others = {
        "good": (shown + 0.3 * rng.normal(size=shown.shape), labels, originals),
        "noise": (rng.normal(size=shown.shape), labels, originals),
        "wrong": (np.roll(shown, 5, 1), labels, originals),
    }
    found = {name: right.mean() for name, right in reads(real, labels, originals, others).items()}
    assert found["real"] > 0.95 and found["good"] > 0.95
    assert found["noise"] == pytest.approx(1 / 3, abs=0.12) and found["wrong"] < 0.05
    assert reads(real[:40], labels[:40], originals[:40], {}) == {}


def test_no_classifier_saw_the_original():
    rng = np.random.default_rng(1)
    real, labels, originals = rng.normal(size=(200, 300)), rng.choice(["a", "b"], 200), np.arange(200).astype(str)
    # labels without meaning, that a classifier knows of the images it saw: copies of these must not be read
    found = reads(real, labels, originals, {"copies": (real, labels, originals)})
    assert found["real"].mean() == pytest.approx(0.5, abs=0.12)
    np.testing.assert_array_equal(found["copies"], found["real"])
