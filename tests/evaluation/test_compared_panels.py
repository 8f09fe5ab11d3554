"""What every panel that compares predicted with real cells leaves out, and says so: conditions, groups, places."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import cellalign
from cellalign.errors import InputError
from cellalign.evaluation.compared import compare
from cellalign.evaluation.inputs import Inputs
from cellalign.evaluation.table import Evaluation
from cellalign.records import Counterfactual, Provenance
from cellalign.records.provenance import Target

ASKED = {"condition": "stim", "control": "ctrl"}


def cells(name, prefix, n=60):
    rng = np.random.default_rng(sum(map(ord, name + prefix)))
    obs = {"stim": [name] * n, "kind": list("AB" * (n // 2)), "donor": [f"d{i % 3}" for i in range(n)]}
    var = pd.DataFrame(index=[f"g{i}" for i in range(40)])
    x = np.log1p(rng.poisson(3, (n, 40))).astype(np.float32)
    return ad.AnnData(x, obs=pd.DataFrame(obs, index=[f"{prefix}{name}{i}" for i in range(n)]), var=var)


@pytest.fixture
def real():
    return ad.concat([cells(name, "r") for name in ("ctrl", "x", "y", "z")])


def predicted(*names, layers=False):
    """Of another tool; with `layers` cellalign's own, with intervals."""
    found = ad.concat([cells(name, "p") for name in names])
    if layers:
        found.layers["lower"], found.layers["upper"] = found.X - 1, found.X + 1
        targets = tuple(Target(to=name, from_="ctrl", changes={"stim": name}) for name in names)
        said = {"method": "cvae", "condition": "stim", "from_": "ctrl", "expression": "log", "groups": "kind"}
        several = {"to": "all", "targets": targets} if len(names) > 1 else {"to": names[0]}
        step = Counterfactual(**said, **several, interval=0.9)
        found.uns["cellalign"] = Provenance().with_steps(step).plain()
    return found


@pytest.mark.parametrize("panel", ["response", "intervals", "de", "screen"])
def test_a_condition_without_real_cells_is_left_out_of_several_and_said(real, panel):
    given = predicted("x", "y", "z", "other", layers=panel == "intervals")
    result = cellalign.evaluate(given, against=real, panels=[panel], **ASKED)
    assert {row.panel for row in result.rows} == {panel}
    assert not any("other" in row.group for row in result.rows)
    said = [note for note in result.notes if note.startswith(f"{panel} skips")]
    [note] = [note for note in said if "other" in note]
    if panel != "screen":
        reason = "against has no cell of stim='other' to compare with"
        assert note == f"{panel} skips 1 predicted condition, the first other: {reason}"
    without = predicted("x", "y", "z", layers=panel == "intervals")
    if panel not in ("screen", "intervals"):  # whose mean shift depends on the other conditions
        again = cellalign.evaluate(without, against=real, panels=[panel], **ASKED)
        assert [(row.group, row.metric) for row in again.rows] == [(row.group, row.metric) for row in result.rows]


@pytest.mark.parametrize("panel", ["response", "intervals", "de"])
def test_of_one_prediction_or_of_none_that_can_be_compared_it_is_an_error(real, panel):
    for names in (("other",), ("other", "another")):
        given = predicted(*names, layers=panel == "intervals")
        with pytest.raises(InputError, match="against has no cell of stim='other' to compare with"):
            cellalign.evaluate(given, against=real, panels=[panel], **ASKED)


def test_a_reason_that_all_conditions_share_is_said_once(real):
    with pytest.raises(InputError) as found:
        cellalign.evaluate(predicted("x", "y"), against=real[:, 1:].copy(), panels=["de"], **ASKED)
    assert str(found.value).count("lacks 1 of the predicted genes") == 1


def test_images_of_a_condition_without_real_ones_are_left_out(real):
    given = predicted("x", "y", "other")
    real, given = real[:, :36].copy(), given[:, :36].copy()
    given.uns["image_shape"] = real.uns["image_shape"] = np.array([6, 6])
    result = cellalign.evaluate(given, against=real, panels=["images"], expression="any", **ASKED)
    assert {row.group.split(",")[0] for row in result.rows} == {"x", "y"}
    assert any(note.startswith("images skips 1 predicted condition, the first other") for note in result.notes)


def test_a_group_without_real_cells_is_tested_and_said(real):
    """Its predicted cells have a control; there is nothing to compare their genes with."""
    real = real[~((real.obs["kind"] == "B") & (real.obs["stim"] == "x"))].copy()
    result = cellalign.evaluate(predicted("x"), against=real, label="kind", panels=["de"], **ASKED)
    assert {row.group for row in result.rows} == {"A"} and [each.group for each in result.tested] == ["A", "B"]
    assert result.tested[1].real is None and np.isnan(result.de()["real_p"]).sum() == 40
    assert "de: B has too few real cells under x to test" in result.notes
    record = Counterfactual(method="", condition="stim", from_="ctrl", to="x", expression="log")
    inputs = Inputs(predicted("x"), real, "stim", "kind", "ctrl", {}, 0, Evaluation(), predictions=[record])
    compared = compare(inputs, "ctrl", "x")
    assert compared.predicted == ["A", "B"] and compared.usable == compared.names == ["A"]
    alone = compared.of("B")
    assert (len(alone.real), len(alone.control), alone.status, alone.baselines(np.zeros(40))) == (0, 30, "", {})


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ({}, {"all, d0", "all, d1", "all, d2"}),
        ({"label": "kind"}, {f"{kind}, d{i}" for kind in "AB" for i in range(3)}),
        ({"replicate": "donor"}, {"all"}),
        ({"label": "kind", "replicate": "donor"}, {"A", "B"}),
    ],
)
def test_within_donors_genes_are_tested_too(real, options, groups):
    result = cellalign.evaluate(predicted("x"), against=real, within="donor", panels=["de"], **options, **ASKED)
    assert {row.group for row in result.rows} == groups == {each.group for each in result.tested}


def test_intervals_are_of_groups_over_all_donors(real):
    given = predicted("x", layers=True)
    plain, within = (
        cellalign.evaluate(given, against=real, within=key, panels=["intervals"], **ASKED) for key in (None, "donor")
    )
    assert [(row.system, row.group, row.metric) for row in plain.rows] == [
        (row.system, row.group, row.metric) for row in within.rows
    ]
    np.testing.assert_array_equal([row.value for row in plain.rows], [row.value for row in within.rows])
