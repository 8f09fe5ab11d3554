"""When two values of a column are the same, which of them is the control, and how items of text are cut into terms."""

import datetime
import re

import numpy as np
import pandas as pd
import pytest

from cellalign.data.columns import column, having, numbers, parse_where, select
from cellalign.data.controls import control_of, find_control
from cellalign.data.split import held_out
from cellalign.data.terms import quoted, split_terms, unquoted
from cellalign.data.values import Known, check_combination, in_order, means_missing, same
from cellalign.errors import InputError, UsageError, nearest

ONTOLOGY = "CD4-positive, alpha-beta T cell"


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (0, 0.0, True),
        ("0", "0.0", True),
        (" 0.00 ", 0, True),
        ("1e3", 1000, True),
        ("100.0", "1000", False),
        (True, "True", True),
        ("TRUE", "true", True),
        (True, 1, False),
        ("stim ", "stim", True),
        ("Quis_1000", "Quis_1000.0", True),
        ("Quis_1000", "Quis_100.0", False),
        ("ENSG1.1", "ENSG1.10", False),
        ("v1.2.0", "v1.2", False),
        ("10 µM", "10 μM", True),
        (0.1, 0.10000000149011612, True),
        (12345678901234567890, 12345678901234567891, False),
        ("b+a", "a+b", True),
        ("a+ctrl", "a", True),
        ("ctrl+ctrl", "ctrl", True),
        ("CD4+", "CD4", False),
        ("1_000", "1000", False),
        ("Stim", "stim", False),
        (b"stim", "stim", True),
        ("2020-01-01", "2020-01-01 00:00:00", True),
        (datetime.date(2020, 1, 1), pd.Timestamp("2020-01-01"), True),
        (np.datetime64("2020-01-01", "ns"), datetime.datetime(2020, 1, 1), True),
        ("2020-01-01T12:30", "2020-01-01 12:30:00.0", True),
        ("2020-01-01", "2020-01-01 12:30:00", False),
        ("2020-01-01", "2020-01-02", False),
    ],
)
def test_values_are_the_same(one, other, equal):
    assert same(one, other) == same(other, one) == equal


def test_the_exact_text_wins_and_of_two_that_are_equal_it_alone_counts():
    known = Known(["0.0", "10.0"])
    assert known.codes(["0", "10", "5"]).tolist() == [0, 1, -1] and known.name("1e1") == "10.0"
    both = Known(["0", "0.0"])
    assert (both.find("0"), both.find("0.0"), both.find("0.00")) == (0, 1, -1) and both.alike() == [["0", "0.0"]]
    assert known.codes(["0", "0.0"]).tolist() == [-1, 0]  # two values of a file are not one of the model's


def test_what_is_beside_the_control_is_meant():
    known = Known(["ctrl", "KLF1+ctrl", "ctrl+CEBPE", "A+B"], "ctrl")
    assert [known.find(name) for name in ("KLF1", "CEBPE+ctrl", "B+A", "ctrl+ctrl", "KLF1+CEBPE")] == [1, 2, 3, 0, -1]
    assert Known(["NT", "A"], "NT").name("NT+A") == "A" and Known(["DMSO", "A"], "x").find("A+DMSO") == -1
    assert Known(["A+ctrl", "ctrl+A"]).all("A") == [0, 1]


@pytest.mark.parametrize(
    ("text", "names", "control", "said"),
    [
        ("s+control", ["control", "s"], "control", "'control' is the control, which adds nothing; name 's' alone"),
        ("s+t+control", ["control", "s", "t"], "control", "'control' is the control, which adds nothing; leave it out"),
        ("control + s", ["control", "s"], "control", "'control' is the control"),
        ("control+control", ["control", "s"], "control", "'control' is the control"),
        ("s+s", ["control", "s"], "control", "names 's' twice"),
        ("a+b+a", ["a", "b"], None, "names 'a' twice"),
        ("x+y+x+y", ["x+y"], "c", "names 'x+y' twice"),
        ("1+1.0", ["1", "0"], "0", "names '1' twice"),
        ("s+control", ["control", "s", "s+control"], "control", None),  # a name of its own
        ("control+s", ["control", "s", "s+control"], "control", None),
        ("s+s", ["s", "s+s"], None, None),
        ("s+ctrl", ["ctrl", "s"], "ctrl", None),  # as files of GEARS name s
        ("s+ctrl+ctrl+t", ["ctrl", "s", "t"], "ctrl", None),
        ("b+a", ["a", "b"], "c", None),
        ("b+nowhere", ["a", "b"], "c", None),  # which is said where it is looked up
    ],
)
def test_a_combination_with_the_control_or_with_itself_is_a_mistake(text, names, control, said):
    if said is None:
        check_combination(text, names, control, "to")
        return
    with pytest.raises(UsageError, match=re.escape(said)):
        check_combination(text, names, control, "to")


def test_cells_are_not_chosen_by_a_combination_with_the_control():
    obs = pd.DataFrame({"c": ["control", "a", "a+b"]})
    with pytest.raises(UsageError, match="c=a[+]control: 'control' is the control"):
        select(obs, ["c=a+control"], control="control")
    assert select(obs, ["c=b+a"], control="control").tolist() == [False, False, True]
    named = pd.DataFrame({"c": ["control", "a+control", "1e+5"], "n": [1e5, 2.0, 3.0]})
    assert select(named, ["c=a+control"], control="control").tolist() == [False, True, False]
    assert select(named, {"n": "1e+5"}).tolist() == [True, False, False]


def test_numbers_are_sorted_as_numbers():
    assert in_order(["10", "2", "0.5"]) == ["0.5", "2", "10"] and in_order(["b10", "b2"]) == ["b10", "b2"]
    obs = pd.DataFrame({"text": ["10", "2", "100"], "kept": pd.Categorical(["b", "a", "b"], ["b", "a"])})
    obs["written"] = obs["text"].astype("category")
    assert list(column(obs, "text").categories) == list(column(obs, "written").categories) == ["2", "10", "100"]
    assert list(column(obs, "kept").categories) == ["b", "a"]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (pd.array([0, 1, None], "Int64"), ["0", "1", None]),
        (pd.array([0.0, 1.5, None], "Float64"), ["0.0", "1.5", None]),
        (pd.Categorical([2, 10, None]), ["2", "10", None]),
        (pd.array([True, False, None], "boolean"), ["True", "False", None]),
        (pd.array(["a", "", None], "string"), ["a", None, None]),
        ([1, "1", 1.5], ["1", "1", "1.5"]),
        ([b"a", "a", None], ["a", "a", None]),
    ],
)
def test_columns_of_every_type_with_missing_values(values, text):
    found = column(pd.DataFrame({"c": values}), "c", missing=True)
    assert [None if pd.isna(v) else v for v in found] == text


def test_text_that_means_missing_is_missing_unless_it_is_named():
    obs = pd.DataFrame({"c": ["a", "", "NA", "nan", "NaN", "None", "null", "N/A", "<NA>", "b", "unknown"]})
    assert list(column(obs, "c", missing=True).categories) == ["a", "b", "unknown"]
    with pytest.raises(InputError, match="8 missing values .*'': 1.*'None': 1.*rename what does not"):
        column(obs, "c")
    assert list(column(obs, "c", missing=True, named=["None"]).categories) == ["None", "a", "b", "unknown"]
    assert not means_missing("none") and not means_missing("unknown")


def test_infinite_numbers_are_no_categories():
    with pytest.raises(InputError, match="infinite"):
        column(pd.DataFrame({"c": [1.0, float("inf")]}), "c")


def test_numbers_written_as_text_are_numbers():
    obs = pd.DataFrame({"t": ["0", "1e3", " 2.5 "], "c": pd.Categorical(["1", "10", None]), "i": [1, 2, None]})
    assert numbers(obs, "t").tolist() == [0, 1000, 2.5] and numbers(obs, "c", missing=True)[:2].tolist() == [1, 10]
    assert numbers(obs.astype({"i": "Int64"}), "i", missing=True)[:2].tolist() == [1, 2]
    with pytest.raises(InputError, match="not numeric.*'high'"):
        numbers(pd.DataFrame({"t": ["1", "high"]}), "t")
    for bad in ("inf", "nan", "1_000"):
        with pytest.raises(InputError):
            numbers(pd.DataFrame({"t": ["1", bad]}), "t")


def test_a_hint_names_no_other_dose():
    assert nearest("1000", ["100.0", "10.0"]) == ""
    assert "Quis_1000.0" in nearest("Qui_1000", ["Quis_100.0", "Quis_1000.0"])
    assert "'stim'" in nearest("stm", ["stim"]) and nearest("IL12", ["IL2", "IL1"]) == ""


# controls


CALLED = """NT NTC nontargeting non_targeting Non-Targeting NegCtrl neg_ctrl DMSO_TF mock PBS WT wild-type pre unstim
unstimulated healthy Healthy_Control control_0.0 vehicle_0 scramble Scrambled sgNT sgCtrl 0 0.0 0h untreated DMSO
Control ctrl+ctrl NT+NT mock-infected normal day_0 siScramble saline""".split()


@pytest.mark.parametrize("name", [*CALLED, "non targeting", "DMSO (0 uM)", "0 uM"])
def test_a_control_is_known_by_its_name(name):
    assert find_control(["KLF1", name, "CEBPE"]) == name


@pytest.mark.parametrize("name", ["AAVS1", "safe_harbor", "10", "stim", "WTAP", "NTRK1", "control_10", "T cell", "0.5"])
def test_other_names_are_no_controls(name):
    assert find_control(["KLF1", name]) is None


def test_of_several_controls_none_is_taken_but_those_of_earlier_versions():
    assert find_control(["control", "healthy", "a"]) == "control"  # as before there was a longer list
    found = control_of(["NT", "mock", "a"])
    assert found.name is None and found.alike == ["NT", "mock"]
    assert control_of(["NT_1", "NT_2", "a"]).alike == ["NT_1", "NT_2"]
    assert control_of(["Quis_0.0", "Quis_10.0"]) == control_of(["Quis_0.0", "Quis_10.0"])
    assert control_of(["Quis_0.0", "Quis_10.0"]).alike == ["Quis_0.0"]
    assert find_control(["0.0", "10.0", "100.0"]) == "0.0" and find_control(["10", "0", "a"]) == "0"


# terms


@pytest.fixture
def obs():
    types = [ONTOLOGY, "B cell", "a=b", "x,cond=stim", None]
    columns = {"cell_type": types, "cond": ["ctrl", "stim", "stim", "ctrl", "stim"], "dose": [0.0, 10, 100, 0, 10]}
    return pd.DataFrame(columns | {"a=b": list("vwxyz")})


@pytest.mark.parametrize(
    ("item", "terms"),
    [
        (f"cell_type={ONTOLOGY}", {"cell_type": ONTOLOGY}),
        (f"cell_type={ONTOLOGY},cond=ctrl", {"cell_type": ONTOLOGY, "cond": "ctrl"}),
        (f"cond=ctrl, cell_type={ONTOLOGY}", {"cell_type": ONTOLOGY, "cond": "ctrl"}),
        (f'cell_type="{ONTOLOGY}",cond=ctrl', {"cell_type": ONTOLOGY, "cond": "ctrl"}),
        ("cell_type=a=b", {"cell_type": "a=b"}),
        ("a=b=v", {"a=b": "v"}),
        ("cell_type=x,cond=stim", {"cell_type": "x,cond=stim"}),
        ("cell_type=nothing,cond=stim", {"cell_type": "nothing", "cond": "stim"}),
        ('cell_type="B cell",cond="stim"', {"cell_type": "B cell", "cond": "stim"}),
        ("cell_type=Z, z,cond=stim", {"cell_type": "Z, z", "cond": "stim"}),
        ("dose=0,cond=ctrl", {"dose": "0", "cond": "ctrl"}),
        ("nowhere=1,cond=ctrl", {"nowhere": "1", "cond": "ctrl"}),
    ],
)
def test_items_with_names_that_hold_commas_and_equals_signs(obs, item, terms):
    assert parse_where([item], obs) == terms


def test_items_that_are_no_terms(obs):
    for item in ("cell_type", "=a", "cell_type=", ""):
        with pytest.raises(UsageError, match="KEY=VALUE"):
            parse_where([item], obs)
    with pytest.raises(UsageError, match=r"^holdout=\['cell_type'\] is not KEY=VALUE"):
        held_out(obs, ["cell_type"])
    with pytest.raises(UsageError, match="where: cond is asked to be both 'ctrl' and 'stim'"):
        parse_where(["cond=ctrl", "cond=stim"], obs)


@pytest.mark.parametrize("value", ["plain", ONTOLOGY, 'say "a", b', "a=b", " spaced "])
def test_a_quoted_value_is_read_back(value):
    assert unquoted(quoted(value)) == value
    assert split_terms(f"k={quoted(value)},l=m", ["k", "l"], lambda key, text: False) == [("k", value), ("l", "m")]


@pytest.mark.parametrize(
    ("where", "chosen"),
    [
        (["cell_type=B cell,a=b"], "w x"),  # a=b is a column too, of which there is no value to name
        (["cell_type=B cell", "cell_type=a=b"], "w x"),
        (["cell_type=B cell,cell_type=a=b"], "w x"),
        ([f"cell_type={ONTOLOGY},B cell"], "v w"),
        ([f"cell_type=B cell,{ONTOLOGY},cond=ctrl"], "v"),
        (["cell_type=B cell,cond=stim", f"cell_type={ONTOLOGY}"], "w"),
        ("dose=0,10", "v w y z"),
        (["cell_type=x,cond=stim"], "y"),  # there is a value of that very text
        ({"cell_type": ["B cell", "a=b"], "cond": "stim"}, "w x"),
        ({"dose": np.array([0, 100]), "cond": ("stim", "ctrl")}, "v x y"),
    ],
)
def test_several_values_of_a_column_mean_any_and_several_columns_all(obs, where, chosen):
    assert obs["a=b"][select(obs, where, quiet=True)].tolist() == chosen.split()


def test_the_value_that_is_not_there_is_the_one_that_is_named(obs):
    for where, said in (
        (["cell_type=B cell,A cell"], "no cell has cell_type=A cell. Did"),
        ({"cell_type": ["B cell", "A cell"]}, "no cell has cell_type=A cell. Did"),
        ([f"cell_type={ONTOLOGY}s"], f"no cell has cell_type={ONTOLOGY}s. Did"),
    ):
        with pytest.raises(InputError) as error:
            select(obs, where)
        assert said in str(error.value)
    with pytest.raises(UsageError, match="names no value of 'cond'"):
        select(obs, {"cond": []})


def test_cells_are_chosen_by_value(obs, caplog):
    assert (
        select(obs, {"dose": "0"}).tolist() == select(obs, ["dose=0.0"]).tolist() == [True, False, False, True, False]
    )
    assert select(obs, f"cell_type={ONTOLOGY}").sum() == 1
    with pytest.raises(InputError, match="no cell has dose=1000.* Values: 0.0, 10.0, 100.0") as error:
        select(obs, ["dose=1000"])
    assert "Did you mean" not in str(error.value)
    with caplog.at_level("INFO", logger="cellalign"):
        select(obs, ["cell_type=B cell"])
    assert "1 cells have no 'cell_type'" in caplog.text
    assert having(obs, "cell_type", "nan").tolist() == [False] * 4 + [True]
    conditions = pd.DataFrame({"c": ["A+ctrl", "ctrl+A", "B", "A+B", "B+A"]})
    assert having(conditions, "c", "A").tolist() == [True, True, False, False, False]
    assert having(conditions, "c", "A+B").tolist() == [False, False, False, True, True]


def test_names_that_hold_commas_are_told_apart():
    from cellalign.data.values import listed
    from cellalign.reporting.scores import listed as in_reports

    for of in (listed, in_reports):
        assert of(["B", "NK"]) == "B, NK" and of(["B, d1", "NK, d1"]) == "B, d1; NK, d1"
    assert listed(["a", "b, c", "d"], 2) == "a; b, c; ... (3)" and listed(["a", "b", "c"], 2) == "a, b, ... (3)"
    assert in_reports(["a, b", "c", "d"], 2) == "a, b; c and 1 more"
