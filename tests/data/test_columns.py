"""Columns at the door: what is found is named."""

import datetime

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from cellalign.data import columns
from cellalign.data.fields import fit_fields
from cellalign.errors import InputError, UsageError, on_command_line
from cellalign.tasks.colours import of_column


@pytest.mark.parametrize(
    ("values", "categories"),
    [
        (pd.Categorical(["b", "a", "b"], categories=["b", "a", "unused"]), ["b", "a"]),
        (["y", "x", "y"], ["x", "y"]),
        ([True, False, True], ["False", "True"]),
        ([2, 10, 2], ["2", "10"]),
    ],
)
def test_columns_of_every_type(values, categories):
    found = columns.column(pd.DataFrame({"c": values}), "c")
    assert list(found.categories) == categories
    assert [str(v) for v in found] == [str(v) for v in values]


def test_columns_that_cannot_be_used():
    obs = pd.DataFrame({"stim": ["a", None, "b"], "dose": [0.1, 0.2, 0.3]})
    with pytest.raises(InputError, match="'stm'.*Did you mean 'stim'.*Columns: stim, dose"):
        columns.column(obs, "stm")
    with pytest.raises(InputError, match="1 missing values"):
        columns.column(obs, "stim")
    many = pd.DataFrame({"dose": np.linspace(0, 1, 60)})
    with pytest.raises(InputError, match="continuous"):
        columns.column(many, "dose")


def test_values_that_are_neither_text_nor_numbers_are_refused():
    obs = pd.DataFrame({"k": [["a"], ["b"], ["a"]]})
    with pytest.raises(InputError, match=r"obs column 'k' holds values that are neither text nor numbers .*\['a'\]"):
        columns.column(obs, "k")


def test_the_control_is_found_only_when_it_is_clear():
    assert columns.find_control(["stimulated", "CTRL"]) == "CTRL"
    assert columns.find_control(["a", "b"]) is None
    assert columns.find_control(["control", "DMSO"]) is None


def test_where_and_select():
    obs = pd.DataFrame({"a": ["x", "y", "x"], "b": [1, 1, 2]})
    assert columns.select(obs, columns.parse_where(["a=x,b=1"])).tolist() == [True, False, False]
    with pytest.raises(UsageError, match="not KEY=VALUE"):
        columns.parse_where(["a"])
    with pytest.raises(InputError, match="a=z"):
        columns.select(obs, {"a": "z"})


def test_advice_names_no_option_that_the_command_lacks():
    obs = pd.DataFrame({"x": np.linspace(0, 1, 60), "stim": ["a"] * 59 + [None]})
    for flags, mend in (({}, "different numbers\\); bin it"), ({"numeric": "--numeric"}, "add --numeric x, or bin it")):
        with on_command_line(flags), pytest.raises(InputError, match=mend):
            columns.column(obs, "x", purpose="batch")
    for flags, mend in (({}, "different numbers\\); bin it"), ({"continuous": "--continuous"}, "it with --con")):
        with on_command_line(flags), pytest.raises(InputError, match=mend):
            columns.column(obs, "x", purpose="condition")
    with on_command_line({}), pytest.raises(InputError, match="fill them in or drop those cells$"):
        columns.column(obs, "stim", purpose="condition")
    with pytest.raises(InputError, match="add numeric="):
        columns.column(obs, "x", purpose="batch")


def test_numbers_of_few_bits_are_shown_and_found_as_their_own_type_has_them():
    meant = [0.1, 0.3, 0.1, np.nan]
    for values in (np.array(meant, np.float16), np.array(meant, np.float32), pd.array(meant, "Float32")):
        obs = pd.DataFrame({"dose": values})
        assert list(columns.column(obs, "dose", missing=True).categories) == ["0.1", "0.3"]
        assert columns.having(obs, "dose", "0.1").tolist() == [True, False, True, False]
    assert columns.numbers(pd.DataFrame({"dose": np.array([0.1, 0.3], np.float16)}), "dose").tolist() == [0.1, 0.3]
    of_categories = pd.DataFrame({"dose": pd.Categorical(np.array([0.1, 0.3], np.float32))})
    assert list(columns.column(of_categories, "dose").categories) == ["0.1", "0.3"]
    assert list(of_column(pd.Series(np.array([0.1, 0.3], np.float32)))[0].categories) == ["0.1", "0.3"]


@pytest.mark.parametrize("value", [datetime.date(2020, 1, 1), pd.Timestamp("2020-01-01"), "2020-01-01T00:00"])
@pytest.mark.parametrize("as_dates", [True, False])
def test_a_control_may_be_a_date(value, as_dates):
    days = pd.Series(pd.to_datetime(["2020-01-01", "2020-02-01"]), index=["c0", "c1"])
    cells = AnnData(obs=pd.DataFrame({"day": days.dt.date if as_dates else days}))
    field = fit_fields(cells, condition="day", control=value).one("condition")
    assert field.reference == field.categories[0] and field.knows("2020-02-01")
    with pytest.raises(InputError, match="control '2021-01-01' is no value of 'day'"):
        fit_fields(cells, condition="day", control=datetime.date(2021, 1, 1))


def test_numbers_of_few_bits_that_are_whole_are_as_long_as_they_are():
    obs = pd.DataFrame({"h": np.array([123456789, 5, 0.1], np.float32), "g": np.array([10008, 5, 0.1], np.float16)})
    assert list(columns.column(obs, "h", purpose="label").categories) == ["0.1", "5.0", "123456792.0"]
    assert list(columns.column(obs, "g", purpose="label").categories) == ["0.1", "5.0", "10008.0"]
    assert columns.select(obs, {"g": "10008"}).tolist() == [True, False, False]
    assert columns.select(obs, {"h": "123456792"}).tolist() == [True, False, False]
    assert columns.numbers(obs, "g").tolist() == [10008, 5, 0.1]
    assert columns.select(pd.DataFrame({"t": ["NK", "B"]}), {"t": b"NK"}).tolist() == [True, False]
