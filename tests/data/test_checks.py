"""Validation at the door: what is found is named."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from cellalign.data import checks
from cellalign.data.fields import Categorical, field_records, fit_fields, read_fields
from cellalign.data.source import align_genes
from cellalign.errors import InputError, UsageError


@pytest.mark.parametrize("layout", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
@pytest.mark.parametrize(("value", "named"), [(np.nan, "NaN"), (np.inf, "inf"), (-2.0, "negative")])
def test_the_first_bad_value_is_located(layout, value, named):
    x = np.eye(6, dtype=np.float32)
    x[2, 4] = value
    with pytest.raises(InputError, match=f"1 {named} values, the first in cell 2 .*gene 4"):
        checks.check_matrix(layout(x), "X")
    checks.check_matrix(layout(np.eye(6)), "X")


def test_counts_are_told_from_log_expression():
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(1, (20, 30)))
    assert checks.is_counts(counts) and checks.is_counts(counts.astype(np.float32).toarray())
    logged = counts.astype(np.float32).log1p()
    assert not checks.is_counts(logged)
    checks.check_log(logged, "X", "hint")
    with pytest.raises(InputError, match="raw counts.*run: cellalign preprocess a.h5ad"):
        checks.check_log(counts, "X", "cellalign preprocess a.h5ad")
    with pytest.raises(InputError, match="not log-transformed"):
        checks.check_log(logged * 100, "X", "hint")


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
    found = checks.column(pd.DataFrame({"c": values}), "c")
    assert list(found.categories) == categories
    assert [str(v) for v in found] == [str(v) for v in values]


def test_columns_that_cannot_be_used():
    obs = pd.DataFrame({"stim": ["a", None, "b"], "dose": [0.1, 0.2, 0.3]})
    with pytest.raises(InputError, match="'stm'.*Did you mean 'stim'.*Columns: stim, dose"):
        checks.column(obs, "stm")
    with pytest.raises(InputError, match="1 missing values"):
        checks.column(obs, "stim")
    many = pd.DataFrame({"dose": np.linspace(0, 1, 60)})
    with pytest.raises(InputError, match="continuous"):
        checks.column(many, "dose")


def test_the_control_is_found_only_when_it_is_clear():
    assert checks.find_control(["stimulated", "CTRL"]) == "CTRL"
    assert checks.find_control(["a", "b"]) is None
    assert checks.find_control(["control", "DMSO"]) is None


def test_where_and_select():
    obs = pd.DataFrame({"a": ["x", "y", "x"], "b": [1, 1, 2]})
    assert checks.select(obs, checks.parse_where(["a=x,b=1"])).tolist() == [True, False, False]
    with pytest.raises(UsageError, match="not KEY=VALUE"):
        checks.parse_where(["a"])
    with pytest.raises(InputError, match="a=z"):
        checks.select(obs, {"a": "z"})


def test_genes_are_matched_by_name():
    x = sparse.csr_matrix(np.arange(12.0).reshape(3, 4))
    got = align_genes(x, list("abcd"), list("dab"))
    np.testing.assert_array_equal(got.toarray(), x.toarray()[:, [3, 0, 1]])
    with pytest.raises(InputError, match="lacks 1 of the model's 2 genes: e"):
        align_genes(x, list("abcd"), list("ae"))
    filled = align_genes(x, list("abcd"), list("eca"), missing="zero")
    np.testing.assert_array_equal(filled.toarray(), np.c_[np.zeros(3), x.toarray()[:, [2, 0]]])
    with pytest.raises(InputError, match="none of the model's"):
        align_genes(x, list("abcd"), list("yz"), missing="zero")


def test_fields_keep_their_categories():
    cells = AnnData(obs=pd.DataFrame({"stim": ["b", "ctrl", "b"], "site": [1, 2, 1]}, index=list("xyz")))
    fields = fit_fields(cells, condition="stim", batches=["site"])
    assert fields.one("condition").reference == "ctrl"
    assert {field.name: field.categories for field in fields} == {"stim": ("b", "ctrl"), "site": ("1", "2")}
    assert read_fields(field_records(fields)) == fields
    stim = Categorical(name="stim", role="condition", categories=("ctrl", "b"))
    assert stim.encode(cells).tolist() == [1, 0, 1]
    with pytest.raises(InputError, match="'ctrl' in column 'stim' was never trained on.*Known: b"):
        Categorical(name="stim", role="condition", categories=("b",)).encode(cells)
