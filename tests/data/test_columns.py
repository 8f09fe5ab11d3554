"""Columns at the door: what is found is named."""

import numpy as np
import pandas as pd
import pytest

from cellalign.data import columns
from cellalign.errors import InputError, UsageError, on_command_line


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
