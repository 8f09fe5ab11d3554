"""Predictions of other tools: what they are taken for, and what is refused."""

import anndata as ad
import numpy as np
import pytest

import cellalign
from cellalign.errors import InputError, UsageError

ASKED = {"condition": "stim", "label": "cell_type"}


@pytest.fixture
def foreign(tiny) -> ad.AnnData:
    """Control cells that another tool predicted as stimulated ones: half of the real change is added."""
    stimulated = (tiny.obs["stim"] == "stimulated").to_numpy()
    predicted = tiny[~stimulated].copy()
    change = np.asarray(tiny.X[stimulated].mean(0) - tiny.X[~stimulated].mean(0))
    predicted.X = np.maximum(predicted.X.toarray() + change / 2, 0)
    predicted.obs["stim"] = "stimulated"
    del predicted.layers["counts"]
    return predicted


def test_another_tools_prediction_is_scored_and_said(foreign, tiny):
    result = cellalign.evaluate(foreign, against=tiny, **ASKED)
    assert {row.panel for row in result.rows} == {"response"}
    ours, none = (result.value("mse_de", system=name, group="mean") for name in ("prediction", "no change"))
    assert ours < none
    said = "taken as another tool's prediction (log expression) of stim=stimulated, from control"
    assert any(said in note for note in result.notes)


def test_it_scores_as_the_same_cells_with_a_record(foreign, tiny):
    from support import counterfactual_record

    recorded = foreign.copy()
    recorded.uns["cellalign"] = counterfactual_record()
    one, other = (cellalign.evaluate(cells, against=tiny, **ASKED).frame() for cells in (foreign, recorded))
    assert one.equals(other)


def test_counts_are_compared_as_counts(foreign, tiny):
    foreign.X = np.round(np.expm1(foreign.X))
    result = cellalign.evaluate(foreign, against=tiny, **ASKED)
    assert any("(counts expression)" in note for note in result.notes)
    assert result.value("r_all", system="prediction", group="mean") > 0.8


def test_several_conditions_are_scored_each(foreign, tiny):
    tiny.obs["stim"] = tiny.obs["stim"].astype(str)
    tiny.obs.loc[tiny.obs_names[3::12], "stim"] = "heated"
    foreign.obs["stim"] = np.where(np.arange(foreign.n_obs) % 2, "heated", "stimulated")
    result = cellalign.evaluate(foreign, against=tiny, condition="stim", panels=["response"])
    assert {row.group for row in result.rows} == {"heated, all", "stimulated, all", "mean"}
    foreign.obs["stim"] = np.where(np.arange(foreign.n_obs) % 2, "frozen", "stimulated")
    result = cellalign.evaluate(foreign, against=tiny, condition="stim", panels=["response"])
    assert {row.group for row in result.rows} == {"stimulated, all", "mean"}
    assert any("response skips 1 predicted condition, the first frozen" in note for note in result.notes)


def test_an_embedded_file_is_no_prediction(foreign, tiny):
    foreign.obsm["X_pca"] = np.zeros((foreign.n_obs, 2), dtype=np.float32)
    assert cellalign.evaluate(foreign, against=tiny, **ASKED).rows  # components are not what is scored
    tiny.obsm["X_other"] = np.random.default_rng(0).normal(size=(tiny.n_obs, 3))
    result = cellalign.evaluate(tiny, against=tiny, embedding="X_other", k=10, **ASKED)
    assert "response" in result.left_out and {row.panel for row in result.rows} >= {"mixing", "probe"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda cells: cells.obs.__setitem__("stim", "control"),
            "every predicted cell has stim='control', the control",
        ),
        (lambda cells: cells.X.__setitem__((3, 4), np.nan), "the prediction's X holds 1 NaN or infinite values"),
        (lambda cells: cells.X.__setitem__((3, 4), np.inf), "the prediction's X holds 1 NaN or infinite values"),
        (lambda cells: setattr(cells, "X", cells.X * 100), "neither counts nor log1p expression"),
        (lambda cells: setattr(cells, "X", cells.X + 2), "they are not normalised alike"),
        (lambda cells: setattr(cells, "X", None), "the prediction's X is not there"),
    ],
)
def test_what_cannot_be_compared_is_refused(foreign, tiny, change, said):
    change(foreign)
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        cellalign.evaluate(foreign, against=tiny, **ASKED)


def test_without_a_condition_it_is_asked_for(foreign, tiny):
    with pytest.raises(UsageError, match="condition is needed"):
        cellalign.evaluate(foreign, against=tiny)


def test_without_real_cells_they_are_asked_for(foreign):
    with pytest.raises(InputError, match="to score a prediction give against"):
        cellalign.evaluate(foreign, **ASKED)


def test_other_totals_are_noted(foreign, tiny):
    foreign.X = np.log1p(2 * np.expm1(foreign.X))
    result = cellalign.evaluate(foreign, against=tiny, **ASKED)
    assert any("if they were normalised to different totals" in note for note in result.notes)


def test_real_cells_without_those_that_the_change_starts_from(foreign, tiny):
    from support import counterfactual_record

    foreign.uns["cellalign"] = counterfactual_record()
    real = tiny[tiny.obs["stim"] == "stimulated"].copy()
    with pytest.raises(
        InputError, match="against has no cell of stim='control', which the change is counted from; its"
    ):
        cellalign.evaluate(foreign, against=real, **ASKED)
