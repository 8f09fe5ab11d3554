"""Panel images: the truth scores 1, the baselines are what they are, and what cannot be scored says why."""

import anndata as ad
import numpy as np
import pytest

from cellalign.errors import InputError
from cellalign.evaluation.run import evaluate
from cellalign.records import Counterfactual, Provenance
from cellalign.simulate import digits

ASKED = {"condition": "stroke", "label": "digit", "panels": ["images"]}


@pytest.fixture(scope="module")
def real():
    return digits(100, seed=0)


def prediction(real, of="thick", to="thick", held=True):
    """Images of one stroke given out as predicted ones of another, from normal ones."""
    found = real[real.obs["stroke"] == of].copy()
    found.obs["stroke"] = to
    if held:
        found.obs["held_out"] = (found.obs["seen"] == "no").to_numpy()
    record = Counterfactual(method="trvae", condition="stroke", from_="normal", to=to, written="decoded")
    found.uns["cellalign"] = Provenance().with_steps(record).plain()
    return found


def scored(adata, real, **more):
    return evaluate(adata, against=real, **(ASKED | more))


def test_the_truth_has_the_real_width_and_is_read_as_well(real):
    result = scored(prediction(real), real)
    for group in ("held out", "all"):
        assert result.value("width_error", system="prediction", group=group) == pytest.approx(0)
        assert result.value("read_of_real", system="prediction", group=group) == pytest.approx(1)
        assert result.value("width_error", system="no change", group=group) > 0.25
        width = result.value("stroke_width", system="real", group=group)
        assert result.value("stroke_width", system="prediction", group=group) == pytest.approx(width)
    assert result.value("read", system="real") > 0.7
    assert {row.group for row in result.rows} == {"held out", "all", *map(str, range(10))}
    held = {own.group for own in result.images if own.held_out}
    assert held == {"0", "2", "4", "5", "8", "9"}


def test_what_did_not_change_is_no_change(real):
    result = scored(prediction(real, of="normal"), real)
    for metric in ("stroke_width", "width_error", "read"):
        assert result.value(metric, system="prediction") == pytest.approx(result.value(metric, system="no change"))


def test_digits_that_became_others_are_not_read(real):
    wrong = prediction(real)
    wrong.obs["digit"] = wrong.obs["digit"].astype(int).add(1).mod(10).astype(str).astype("category")
    result = scored(wrong, real)
    assert result.value("read", system="prediction") < 0.2
    assert result.value("width_error", system="prediction") == pytest.approx(0)


def test_blank_images_have_no_width_and_are_scored(real):
    blank = prediction(real)
    blank.X = np.zeros_like(blank.X)
    blank.X[0, 0] = 1e-6  # all of them zero are no prediction
    result = scored(blank, real)
    assert np.isnan(result.value("width_error", system="prediction"))
    assert result.value("read", system="prediction") < 0.4
    assert result.image_rows().axes


def test_without_labels_only_widths_are_scored(real):
    result = scored(prediction(real, held=False), real, label=None)
    assert {row.metric for row in result.rows} == {"stroke_width", "width_error"}
    assert {row.group for row in result.rows} == {"all"}


def test_what_cannot_be_scored_says_why(real):
    with pytest.raises(InputError, match="no counterfactual"):
        evaluate(real, embedding="X_pca", **ASKED) if real.obsm.update(X_pca=real.X[:, :2] + 1) is None else None
    genes = prediction(real)
    del genes.uns["image_shape"]
    with pytest.raises(InputError, match="no images"):
        scored(genes, real)
    with pytest.raises(InputError, match="no image of stroke='thick'"):
        scored(prediction(real), real[real.obs["stroke"] != "thick"].copy())
    with pytest.raises(InputError, match="lacks 24 of the predicted pixels"):
        few = real[:, :1000].copy()
        del few.uns["image_shape"]
        scored(prediction(real), few)
    with pytest.raises(InputError, match="panel images was not asked for"):
        evaluate(prediction(real), against=real, **(ASKED | {"panels": ["response"]})).image_rows()


def test_of_cells_that_are_no_images_nothing_is_said(real):
    assert "images" in evaluate(prediction(real), against=real, condition="stroke").frame()["panel"].to_list()
    genes = prediction(real)
    del genes.uns["image_shape"]
    result = evaluate(genes, against=real, condition="stroke")
    assert "images" not in result.left_out and "images" not in result.frame()["panel"].to_list()


def test_the_picture_has_a_block_per_digit_with_held_out_ones_first(real):
    result = scored(prediction(real), real)
    figure = result.image_rows()
    titles = [text.get_text() for text in figure.texts if text.get_fontweight() == "bold"]
    assert titles[0] == "0 (held out)" and titles[-1] == "7" and len(titles) == 10
    assert len(figure.axes) == 30
    (own,) = [pictures for pictures in result.images if pictures.group == "0"]
    np.testing.assert_array_equal(own.images["predicted"], own.images["thick"])  # of the same originals
    assert own.images["normal"].shape == (8, 32, 32)


def test_pictures_of_several_conditions_are_all_drawn(real):
    both = ad.concat([prediction(real), prediction(real, of="thin", to="thin")])
    both.uns["image_shape"] = real.uns["image_shape"]
    result = scored(both, real, control="normal", expression="any")
    figure = result.image_rows()
    titles = [text.get_text() for text in figure.texts if text.get_fontweight() == "bold"]
    assert len(set(titles)) == len(titles) == len(result.images) == 20 and len(figure.axes) == 60
    assert {title.split(", ")[0] for title in titles} == {"thick", "thin"}


def test_the_mean_shift_learns_nothing_from_labels_held_out(real):
    """Digits that the model has seen do not change here, so that their mean change is none."""
    cells = real.copy()
    seen = (cells.obs["seen"] == "yes").to_numpy()
    stroke = cells.obs["stroke"].to_numpy()
    cells.X[seen & (stroke == "thick")] = cells.X[seen & (stroke == "normal")]
    result = scored(prediction(real), cells)
    for group in ("held out", "all"):
        before, shifted = (result.value("stroke_width", system=s, group=group) for s in ("no change", "mean shift"))
        assert shifted == pytest.approx(before)


def test_labels_are_the_same_in_another_spelling(real):
    """As numbers in one file, and in another as text."""
    cells = real.copy()
    cells.obs["digit"] = cells.obs["digit"].astype(float)
    ours, theirs = (scored(prediction(real), each) for each in (real, cells))
    assert [(row.group, row.metric) for row in theirs.rows] == [(row.group, row.metric) for row in ours.rows]
    np.testing.assert_array_equal([row.value for row in theirs.rows], [row.value for row in ours.rows])
