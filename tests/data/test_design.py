"""What the columns of a training say of each other: refused where it cannot work, said where it misleads."""

import logging

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from cellalign.data.design import check_apart, check_design
from cellalign.data.fields import fit_fields
from cellalign.data.said import tell, told_once, untold
from cellalign.errors import InputError, UsageError

N = 60
STIM = ["ctrl", "stim"] * 30


def cells(**columns):
    return AnnData(obs=pd.DataFrame(columns, index=[f"c{i}" for i in range(N)]))


def said(table, **roles):
    notes = check_design(table, fit_fields(table, **roles))
    return [text for level, text in notes if level == logging.WARNING], [
        t for level, t in notes if level == logging.INFO
    ]


def test_a_design_without_fault_is_told_its_control_alone():
    table = cells(stim=STIM, site=["a"] * 30 + ["b"] * 30)
    assert said(table, condition="stim", batches=["site"]) == ([], ["control: ctrl, of 'stim'"])


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"condition": ["a"], "batch": ["a"]}, "'a' is both condition='a' and batch="),
        ({"batch": ["a", "a"]}, "given twice"),
        ({"batch": ["a"], "covariate": ["b", "a"]}, "is both"),
        ({"condition": ["a"], "label": ["a"]}, "is both"),
    ],
)
def test_a_column_has_one_role(named, says):
    with pytest.raises(UsageError, match=says):
        check_apart(named)
    check_apart({"condition": ["a"], "batch": ["b"], "covariate": ["c"], "label": ["c"]})


@pytest.mark.parametrize(
    ("site", "says"),
    [
        (
            ["s1", "s2"] * 30,
            "batch 'site' and condition 'stim' say the same (s1 is ctrl: 30 cells, s2 is stim: 30 cells)",
        ),
        (["s1", "s2", "s3", "s4"] * 15, "batch 'site' determines condition 'stim' (s1 is ctrl: 15 cells"),
    ],
)
def test_a_batch_that_determines_the_condition_is_said_with_numbers(site, says):
    warned, _ = said(cells(stim=STIM, site=site), condition="stim", batches=["site"])
    assert len(warned) == 1 and warned[0].startswith(says) and "removing the batch removes both" in warned[0]


def test_every_condition_in_one_batch_is_said():
    table = cells(drug=["ctrl", "a", "b"] * 20, plate=["p1", "p1", "p2"] * 20)
    warned, _ = said(table, condition="drug", batches=["plate"])
    assert "each condition of 'drug' is in one batch of 'plate' only" in warned[0]


def test_of_a_dose_the_batch_may_say_the_same_too():
    table = cells(dose=[0.0, 10.0] * 30, site=["a", "b"] * 30)
    warned, _ = said(table, condition="dose", kinds={"dose": "number"}, batches=["site"])
    assert "say the same" in warned[0]


def test_donors_of_one_site_each_are_a_usual_design():
    table = cells(site=["a"] * 30 + ["b"] * 30, donor=["d1"] * 15 + ["d2"] * 15 + ["d3"] * 30)
    assert said(table, condition=None, batches=["site"], covariates=["donor"])[0] == []


def test_labels_under_one_condition_each_are_said():
    warned, _ = said(cells(stim=STIM, kind=["T", "B"] * 30), condition="stim", label="kind")
    assert "no label is under two conditions" in warned[0]


def test_conditions_of_few_cells_are_said():
    table = cells(stim=[*STIM[:-3], "rare", "few", "few"])
    (warned,), _ = said(table, condition="stim")
    assert "2 conditions of 'stim' have fewer than 10 cells" in warned and "rare (1)" in warned and "few (2)" in warned
    assert "single cell" in warned


@pytest.mark.parametrize("values", [[f"c{i}" for i in range(N)], [f"c{i % 40}" for i in range(N)]])
def test_a_value_per_cell_is_no_condition(values):
    with pytest.raises(InputError, match="about one per cell"):
        said(cells(barcode=values), condition="barcode")


def test_a_batch_of_one_value_is_said():
    assert "tells nothing" in said(cells(stim=STIM, site=["a"] * N), condition="stim", batches=["site"])[0][0]


@pytest.mark.parametrize(
    ("values", "level", "says"),
    [
        (["NT", "KLF1", "CEBPE"], "info", "control: NT"),
        (["KLF1", "CEBPE", "A"], "info", "no value of 'guide' is called as controls are: control names one; without, "),
        (["NT_1", "NT_2", "A"], "warning", "but NT_1, NT_2 look like one: control names it; without, counterfactuals"),
        (["Quis_0.0", "Quis_1.0", "Quis_2.0"], "warning", "but Quis_0.0 looks like one"),
        ([0.0, 10.0, 100.0], "info", "control: 0.0"),
    ],
)
def test_the_control_is_said(values, level, says):
    warned, told = said(cells(guide=values * 20), condition="guide")
    assert says in "\n".join(warned if level == "warning" else told)


def test_cells_without_a_label_and_text_that_means_it_are_counted():
    kind = np.array(["T", "B"] * 30, dtype=object)
    kind[:3], kind[3:5], kind[5:15] = None, "nan", "Unknown"
    _, told = said(cells(stim=STIM, kind=kind), condition="stim", label="kind")
    assert any("5 cells have no label 'kind' (text that means missing: 'nan' 2)" in text for text in told)
    assert any("'Unknown' of 'kind' is taken for a label; if it means none: unlabelled='Unknown'" in t for t in told)


def test_categories_that_differ_as_text_alone_are_said():
    warned, _ = said(cells(stim=["ctrl", "a", "a "] * 20), condition="stim")
    assert "'a' and 'a '" in warned[0] and "taken as different" in warned[0]


def test_conditions_named_with_the_control_are_what_is_beside_it():
    table = cells(guide=["ctrl", "KLF1+ctrl", "ctrl+CEBPE", "ctrl+KLF1", "B+A", "A+B"] * 10)
    (field,) = fit_fields(table, condition="guide")
    assert set(field.categories) == {"ctrl", "KLF1", "CEBPE", "A+B"} and field.reference == "ctrl"
    assert len(set(field.encode(table)[[1, 3]])) == len(set(field.encode(table)[[4, 5]])) == 1
    assert field.parsed("KLF1+ctrl+ctrl+CEBPE") == ("KLF1", "CEBPE") and field.parsed("ctrl+KLF1") == "KLF1"
    assert any("KLF1+ctrl is KLF1" in text for text in said(table, condition="guide")[1])
    pairs = cells(guide=["NT+NT", "A+NT", "NT+B"] * 20)
    assert set(fit_fields(pairs, condition="guide")[0].categories) == {"NT", "A", "B"}
    assert fit_fields(pairs, condition="guide", control="NT")[0].reference == "NT"


def test_a_control_that_looks_missing_can_be_named():
    table = cells(drug=["None", "a"] * 30)
    with pytest.raises(InputError, match="'None': 30"):
        fit_fields(table, condition="drug")
    (field,) = fit_fields(table, condition="drug", control="None")
    assert field.reference == "None" and field.encode(table)[:2].tolist() == [field.code("None"), field.code("a")]


def test_what_is_said_twice_is_said_once(caplog):
    with caplog.at_level("INFO", logger="cellalign"):
        with told_once():
            tell(logging.INFO, "one")
            tell(logging.INFO, "one")
        tell(logging.INFO, "one")
    assert [record.getMessage() for record in caplog.records] == ["one", "one"]


def test_what_was_told_is_known_within_and_forgotten_by_another_command(caplog):
    with caplog.at_level("INFO", logger="cellalign"), told_once():
        with untold():
            tell(logging.INFO, "%d cells", 2)  # of a trial: nobody has read it
        tell(logging.INFO, "%d cells", 2)
        with told_once():
            tell(logging.INFO, "2 cells")
        with told_once(anew=True):
            tell(logging.INFO, "2 cells")
    assert [record.getMessage() for record in caplog.records] == ["2 cells", "2 cells"]
