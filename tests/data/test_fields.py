"""Fields: what a column of obs or obsm means, for every kind alike; and how a minibatch is set to another value."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

from cellalign.data.fields import Categorical, Column, Number, field_records, fit_fields, read_fields
from cellalign.data.fields.multi_label import MultiLabel
from cellalign.data.fields.number import KNOTS
from cellalign.data.fields.vector import Vector
from cellalign.data.values import at_number
from cellalign.errors import InputError, UsageError
from cellalign.records import FieldRecord, ModelRecord, RecordError

NAN = float("nan")
SMALL = {"hidden": [8], "latent_dim": 2, "epochs": 1}


def cells(**columns):
    """Cells with these columns; a two-dimensional one goes to obsm."""
    n = len(next(iter(columns.values())))
    obs = {key: value for key, value in columns.items() if np.ndim(value) == 1}
    obsm = {key: np.asarray(value) for key, value in columns.items() if np.ndim(value) == 2}
    index = [f"c{i}" for i in range(n)]
    return AnnData(obs=pd.DataFrame(obs, index=index), obsm=obsm)


SITES = ["b", "a", "b", "c"]
AGES = [10.0, 20.0, 30.0, 40.0]
GUIDES = ["g1", "g2+g1", "g2", "g3"]
DRUGS = [[0.0, 1.0, 5.0], [1.0, 1.0, 6.0], [2.0, 1.0, 7.0], [3.0, 1.0, 8.0]]
KINDS = {
    "categorical": (Categorical, SITES),
    "number": (Number, AGES),
    "multi-label": (MultiLabel, GUIDES),
    "vector": (Vector, DRUGS),
}


def fitted(kind, role="batch", *, missing=False):
    cls, values = KINDS[kind]
    return cls.fit(cells(x=values), "x", role, may_be_missing=missing)


def told(field, column):
    return field.context(torch.from_numpy(field.encode(column))).numpy()


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


# every kind alike


def test_every_kind_is_known_by_its_name():
    assert {name: Column.KINDS[name] for name in KINDS} == {name: cls for name, (cls, _) in KINDS.items()}


def test_a_record_gives_the_field_back(kind):
    for role, missing in (("batch", False), ("covariate", True)):
        field = fitted(kind, role, missing=missing)
        (again,) = read_fields(field_records([field]))
        assert again == field and type(again) is type(field) and again.may_be_missing == missing


def test_a_record_is_plain_enough_for_yaml(kind):
    import yaml

    (record,) = field_records([fitted(kind)])
    plain = yaml.safe_load(yaml.safe_dump(record.model_dump(mode="json")))
    assert (plain["kind"], plain["name"], plain["role"]) == (kind, "x", "batch")
    assert ModelRecord.model_fields["fields"] and read_fields([type(record)(**plain)])[0] == fitted(kind)


def test_what_a_network_is_told_has_the_fields_width(kind):
    field = fitted(kind)
    found = told(field, cells(x=KINDS[kind][1]))
    assert found.shape == (4, field.width) and found.dtype == np.float32 and np.isfinite(found).all()


def test_what_is_unknown_is_told_as_zeros(kind):
    field = fitted(kind, missing=True)
    absent = cells(other=[1, 2, 3])
    unknown = torch.from_numpy(field.encode(absent, unseen=True))
    assert not field.context(unknown).any() and len(unknown) == 3


def test_an_absent_column_is_named(kind):
    with pytest.raises(InputError, match="'x'"):
        fitted(kind).encode(cells(y=[1.0, 2.0]))
    with pytest.raises(InputError, match="'y'"):
        KINDS[kind][0].fit(cells(x=KINDS[kind][1]), "y", "batch", may_be_missing=False)


def test_a_blank_column_is_like_an_encoded_one(kind):
    field = fitted(kind)
    encoded, blank = torch.from_numpy(field.encode(cells(x=KINDS[kind][1]))), field.blank(4)
    assert blank.shape == encoded.shape and blank.dtype == encoded.dtype
    assert field.context(blank).shape == (4, field.width)


VALUES = {
    "categorical": ("a", "a", ["a"] * 4),
    "number": ("25", 25.0, [25.0] * 4),
    "multi-label": ("g3+g1", ("g3", "g1"), ["g1+g3"] * 4),
    "vector": ("1;1;9", (1.0, 1.0, 9.0), [[1.0, 1.0, 9.0]] * 4),
}


def test_a_value_that_is_named_is_that_of_cells_that_have_it(kind):
    text, value, same = VALUES[kind]
    field = fitted(kind)
    assert field.parsed(text) == value
    before = torch.from_numpy(field.encode(cells(x=KINDS[kind][1])))
    kept = before.clone()
    filled = field.filled(before, value)
    assert torch.equal(before, kept) and filled.dtype == before.dtype and filled.shape == before.shape
    torch.testing.assert_close(filled, torch.from_numpy(field.encode(cells(x=same))))
    filled[0] = 0  # rows do not share memory
    assert not torch.equal(filled[1], filled[0]) or not filled[1].any()


def test_obs_says_what_cells_were_set_to(kind):
    field, (text, value, _) = fitted(kind), VALUES[kind]
    column = list(field.replaced(pd.DataFrame(index=list("abcd")), value))
    assert len(column) == 4 and len(set(column)) == 1
    assert column[0] == (25.0 if kind == "number" else text)


def test_cells_that_are_not_looked_at_may_hold_anything(kind):
    strange = {"categorical": "z", "number": NAN, "multi-label": "z+g9", "vector": [NAN, NAN, NAN]}[kind]
    values = [*KINDS[kind][1][:3], strange]
    field, ignore = fitted(kind), np.array([False, False, False, True])
    found = field.encode(cells(x=values), ignore=ignore)
    expected = field.encode(cells(x=KINDS[kind][1][:3]))
    np.testing.assert_array_equal(found[:3], expected)
    assert len(found) == 4 and np.isfinite(found.astype(float)).all()
    with pytest.raises(InputError):
        field.encode(cells(x=values))


def test_a_kind_that_does_not_exist_and_a_damaged_record_are_named(kind):
    (record,) = field_records([fitted(kind)])
    with pytest.raises(RecordError, match="'x' is of the unknown kind 'spline'"):
        read_fields([record.model_copy(update={"kind": "spline"})])
    with pytest.raises(RecordError, match="'x'"):
        read_fields([record.model_copy(update={"role": "boss"})])


# categories


def test_categories_are_told_one_hot_in_their_own_order():
    column = cells(x=pd.Categorical(["b", "a", "b"], ["b", "unused", "a"]))
    field = Categorical.fit(column, "x", "batch", may_be_missing=False)
    assert field.categories == ("b", "a")
    assert told(field, column).tolist() == [[1, 0], [0, 1], [1, 0]]


def test_a_category_never_trained_on_is_refused_and_the_nearest_named():
    field = Categorical(name="x", role="batch", categories=("lung", "liver"))
    with pytest.raises(InputError, match="'lungs' .* never trained on. Did you mean 'lung'.*Known: lung, liver"):
        field.encode(cells(x=["liver", "lungs"]))
    assert field.encode(cells(x=["liver", "lungs", None]), unseen=True).tolist() == [1, -1, -1]


def test_a_missing_category_is_refused_unless_it_may_be_missing():
    column = cells(x=pd.Categorical(["a", None]))
    with pytest.raises(InputError, match="missing"):
        Categorical(name="x", role="covariate", categories=("a",)).encode(column)
    field = Categorical(name="x", role="covariate", categories=("a",), may_be_missing=True)
    assert field.encode(column).tolist() == [0, -1] and told(field, column).tolist() == [[1], [0]]
    with pytest.raises(InputError, match="'z'"):  # missing is not the same as never trained on
        field.encode(cells(x=["a", "z"]))


def test_a_label_may_hold_anything_and_be_absent():
    field = Categorical(name="x", role="label", categories=("B", "T"), may_be_missing=True, missing_value="none")
    assert field.encode(cells(x=["T", "none", "new", None])).tolist() == [1, -1, -1, -1]
    assert field.encode(cells(y=[1, 2])).tolist() == [-1, -1]


def test_a_condition_that_may_be_missing_may_be_absent():
    field = Categorical(name="x", role="condition", categories=("a", "b"), may_be_missing=True)
    assert field.encode(cells(y=[1, 2])).tolist() == [-1, -1]


def test_several_categories_may_be_asked_of_a_condition_alone():
    field = Categorical(name="x", role="condition", categories=("a", "b", "c", "a+b"), reference="c")
    assert field.parsed("a+b") == field.parsed("b+a") == "a+b" and field.parsed("b+b") == ("b", "b")
    with pytest.raises(InputError, match=r"'a\+z'"):
        field.parsed("a+z")
    with pytest.raises(InputError):
        Categorical(name="x", role="batch", categories=("a", "b")).parsed("a+b")
    assert list(field.replaced(pd.DataFrame(index=["c"]), ("b", "b"))) == ["b+b"]
    with pytest.raises(KeyError):
        field.filled(torch.zeros(2, dtype=torch.int64), "z")


@pytest.mark.parametrize(
    "role, reference, value, origin, rows, said",
    [
        ("condition", "a", "b", None, [0, 3], "a"),
        ("condition", "a", "a", None, [1, 2], ""),
        ("condition", "a", "b", "c", [2], "c"),
        ("condition", "a", ("b", "c"), None, [0, 3], "a"),
        ("condition", None, "a", None, [1, 2], ""),
        ("batch", None, "b", None, [0, 2, 3], ""),
        ("batch", None, "b", "a", [0, 3], "a"),
    ],
)
def test_the_cells_that_are_set_have_another_category(role, reference, value, origin, rows, said):
    field = Categorical(name="x", role=role, categories=("a", "b", "c"), reference=reference)
    mask, found = field.sources(cells(x=["a", "b", "c", "a"]), value, origin)
    assert np.flatnonzero(mask).tolist() == rows and found == said


def test_of_two_conditions_the_other_one_is_the_source():
    field = Categorical(name="x", role="condition", categories=("a", "b"))
    mask, said = field.sources(cells(x=["a", "b", "a"]), "b", None)
    assert mask.tolist() == [True, False, True] and said == "a"
    with pytest.raises(InputError, match="'z'"):
        field.sources(cells(x=["a"]), "b", "z")


def test_a_model_whose_categories_are_floats_knows_them_as_integers_and_text():
    field = Categorical(name="x", role="condition", categories=("0.0", "10.0"), reference="0.0")
    for values in ([0, 10], [0.0, 10.0], ["0", "10"], pd.array([0, 10], "Int64"), pd.Categorical([0, 10])):
        assert field.encode(cells(x=values)).tolist() == [0, 1]
    assert field.parsed("10") == "10.0" and field.code("1e1") == 1
    mask, said = field.sources(cells(x=[0, 10, 0]), "10.0", None)
    assert mask.tolist() == [True, False, True] and said == "0.0"
    with pytest.raises(InputError, match="'100' .* never trained on. Known: 0.0, 10.0"):
        field.encode(cells(x=[0, 100]))


def test_an_old_models_category_that_looks_missing_is_a_category():
    field = Categorical(name="x", role="condition", categories=("a", "nan"))
    assert field.encode(cells(x=["nan", "a"])).tolist() == [1, 0]


def test_cells_without_a_condition_are_no_sources(caplog):
    field = Categorical(name="x", role="condition", categories=("a", "b", "c"), reference="a")
    with caplog.at_level("INFO", logger="cellalign"):
        mask, _ = field.sources(cells(x=["a", "nan", None, "b"]), "a", None)
    assert mask.tolist() == [False, False, False, True] and "2 cells have no condition 'x'" in caplog.text
    assert field.sources(cells(x=["a", "new"]), "b", None)[0].tolist() == [True, False]
    with pytest.raises(InputError, match="'new'"):
        field.sources(cells(x=["a", "new"]), "a", None)


# numbers


def test_numbers_are_told_in_standard_deviations():
    field = fitted("number", "covariate", missing=True)
    assert (field.mean, field.sd) == (25.0, pytest.approx(np.std(AGES))) and (field.low, field.high) == (None, None)
    found = told(field, cells(x=[25.0, NAN, 25 + field.sd]))
    np.testing.assert_allclose(found, [[0], [0], [1]], atol=1e-6)


def test_of_a_numeric_condition_the_range_is_kept_and_beyond_it_is_said(caplog):
    field = fitted("number", "condition")
    assert (field.low, field.high) == (10, 40)
    assert field.parsed("40.2") == 40.2 and not caplog.records  # within a hundredth of the range
    assert field.parsed("50") == 50 and "no extrapolation, it counts as 40" in caplog.text
    assert field.parsed("-5") == -5 and "it counts as 10" in caplog.text
    for bad, says in (("much", "'much' is no number"), ("nan", "not finite"), ("inf", "finite"), ("1e200", "too far")):
        with pytest.raises(UsageError, match=says):
            field.parsed(bad)


def doses(n=400):
    """As in an experiment on doses: a tenth of the cells untreated."""
    rng = np.random.default_rng(0)
    return np.where(rng.random(n) < 0.1, 0.0, rng.random(n))


def fitted_to(values):
    return Number.fit(cells(x=values), "x", "condition", may_be_missing=False)


def test_a_continuous_condition_is_told_as_steps():
    field = fitted_to(doses())
    assert 2 < len(field.knots) <= KNOTS and list(field.knots) == sorted(set(field.knots))
    assert field.width == len(field.knots) - 1 and (field.knots[0], field.knots[-1]) == (field.low, field.high)
    asked = np.linspace(-0.5, 1.5, 81)
    found = told(field, cells(x=asked))
    pairs = zip(field.knots, field.knots[1:], strict=False)
    wanted = np.stack([np.interp(asked, [low, high], [-1, 1]) for low, high in pairs], 1)  # flat beyond the ends
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_of_few_doses_each_is_what_a_category_is():
    field = fitted_to([0.0, 10.0, 10.0, 1000.0])
    assert field.knots == (0, 10, 1000)
    np.testing.assert_allclose(
        told(field, cells(x=[0.0, 10.0, 1000.0, 505.0])), [[-1, -1], [1, -1], [1, 1], [1, 0]], atol=1e-5
    )
    assert fitted_to([0.0, 1.0, 1.0]).width == 1
    assert fitted("number", "batch").knots == () and fitted("number", "batch").width == 1


def test_doses_of_many_sizes_are_told_apart_or_said_to_be_one(caplog):
    """Two knots at one place in single precision gave NaN, and every dose of moles was near enough to 0."""
    values = [-5.0, 0.0, 1e-9, 1e-3, 1000.0]
    field = fitted_to(values)
    assert field.knots == (-5, 0, 1e-3, 1000) and field.high == 1000
    assert "x: 0 and 1e-09 lie so near each other, beside the range up to 1000, that they count as one" in caplog.text
    found = told(field, cells(x=values))
    assert np.isfinite(found).all() and (found[1] == found[2]).all()
    caplog.clear()
    molar = cells(x=[0.0, 1e-9, 1e-8, 1e-7])
    assert fitted_to(molar.obs["x"].to_numpy()).knots == (0, 1e-9, 1e-8, 1e-7) and not caplog.text
    assert fitted_to(molar.obs["x"].to_numpy()).sources(molar, 1e-7, "1e-9")[0].tolist() == [False, True, False, False]
    assert at_number(np.float32([0.1, 0, 0.2]), 0.1).tolist() == [True, False, False]


@pytest.mark.parametrize(("curve", "line_misses"), [(lambda x: 3 * x - 1, 0.0), (lambda x: x / (x + 0.2), 0.15)])
def test_a_layer_that_is_given_it_can_follow_a_line_and_a_curve_that_saturates(curve, line_misses):
    values = doses()
    at, off = np.linspace(0, 1, 21), {}
    for name, field in (("steps", fitted_to(values)), ("line", fitted_to(values).model_copy(update={"knots": ()}))):
        weights = np.linalg.lstsq(*(ones_and(field, values), curve(values)), rcond=None)[0]
        off[name] = np.abs(ones_and(field, at) @ weights - curve(at)).max() / np.ptp(curve(at))
    assert off["steps"] < 0.1 and (off["line"] > line_misses or line_misses == 0)


def ones_and(field, values):
    """What a linear layer with a bias is given."""
    return np.column_stack([np.ones(len(values)), told(field, cells(x=values))])


def test_a_number_that_was_kept_before_there_were_knots_is_told_as_it_was():
    record = {"kind": "number", "name": "x", "role": "condition", "mean": 2.0, "sd": 4.0, "low": 0.0, "high": 9.0}
    (field,) = read_fields([FieldRecord(**record)])
    assert field.width == 1 and told(field, cells(x=[6.0, 2.0])).tolist() == [[1.0], [0.0]]
    assert field.record().model_dump().get("knots", ()) in ((), [])


def test_missing_numbers_are_refused_unless_they_may_be_missing():
    with pytest.raises(InputError):
        fitted("number").encode(cells(x=[1.0, NAN]))
    assert fitted("number").encode(cells(x=[25.0, NAN]), unseen=True).tolist() == [0, 0]
    with pytest.raises(InputError):
        Number.fit(cells(x=[1.0, NAN, 2.0]), "x", "batch", may_be_missing=False)
    assert Number.fit(cells(x=[1.0, NAN, 3.0]), "x", "batch", may_be_missing=True).mean == 2


@pytest.mark.parametrize("values", [[3.0, 3.0], [NAN, NAN]])
def test_a_number_that_does_not_vary_is_refused(values):
    with pytest.raises(InputError, match="at least two are needed"):
        Number.fit(cells(x=values), "x", "batch", may_be_missing=True)


def test_all_cells_are_set_to_a_number_unless_one_is_asked_for():
    column = cells(x=AGES)
    assert fitted("number").sources(column, 25.0, None)[0].all()
    mask, said = fitted("number").sources(column, 25.0, "20")
    assert mask.tolist() == [False, True, False, False] and said == "20"
    with pytest.raises(UsageError, match="from_='old'"):
        fitted("number").sources(column, 25.0, "old")


# vectors


def test_each_number_of_a_vector_is_standardised_and_one_that_does_not_vary_is_zero():
    field = fitted("vector")
    found = told(field, cells(x=DRUGS))
    assert field.width == 3 and not found[:, 1].any()
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(found[:, [0, 2]].std(0), 1, rtol=1e-6)


def test_a_vector_that_lacks_a_number_is_unknown_where_it_may_be():
    holes = cells(x=[*DRUGS[:3], [1.0, NAN, 2.0]])
    with pytest.raises(InputError, match="missing or infinite values in 1 cells"):
        fitted("vector").encode(holes)
    assert not told(fitted("vector", missing=True), holes)[3].any()
    field = Vector.fit(holes, "x", "covariate", may_be_missing=True)
    np.testing.assert_allclose(field.means, np.mean(DRUGS[:3], 0))


@pytest.mark.parametrize(
    "values, said", [([[1.0, 2.0], [1.0, 3.0]], "2 columns; trained on 3"), ([["a"] * 3] * 2, "no table of numbers")]
)
def test_a_vector_of_another_shape_or_of_words_is_refused(values, said):
    with pytest.raises(InputError, match=said):
        fitted("vector").encode(cells(x=values))


def test_a_vector_that_is_the_same_for_all_cells_is_refused():
    with pytest.raises(InputError, match="same for all cells"):
        Vector.fit(cells(x=[[1.0, 2.0]] * 3), "x", "batch", may_be_missing=False)


def test_a_sparse_vector_is_read():
    from scipy import sparse

    column = cells(x=DRUGS)
    column.obsm["x"] = sparse.csr_matrix(column.obsm["x"])
    np.testing.assert_array_equal(fitted("vector").encode(column), fitted("vector").encode(cells(x=DRUGS)))


def test_a_vector_is_named_by_numbers_between_semicolons():
    with pytest.raises(UsageError, match="has 2 numbers; 3 are needed"):
        fitted("vector").parsed("1;2")
    for bad, says in (("1;2;x", "no number"), ("1;2;nan", "not finite"), ("1;2;1e200", "too far")):
        with pytest.raises(UsageError, match=says):
            fitted("vector").parsed(bad)
    with pytest.raises(InputError, match="infinite values in 1 cells"):
        fitted("vector", missing=True).encode(cells(x=[*DRUGS[:3], [1.0, np.inf, 2.0]]))
    with pytest.raises(UsageError, match="is a vector"):
        fitted("vector").sources(cells(x=DRUGS), (1, 1, 1), "1;1;1")
    assert fitted("vector").sources(cells(x=DRUGS), (1, 1, 1), None)[0].all()


# several categories at once


def test_several_labels_are_told_as_zeros_and_ones():
    field = fitted("multi-label")
    assert field.categories == ("g1", "g2", "g3")
    assert told(field, cells(x=["g3", "g1+g2", "g2+g1"])).tolist() == [[0, 0, 1], [1, 1, 0], [1, 1, 0]]
    assert told(field, cells(x=["g1+g2+g3"])).tolist() == [[1, 1, 1]]  # a combination never trained on


def test_of_several_labels_an_unknown_one_is_refused_or_left_out():
    with pytest.raises(InputError, match="'g9' .* never trained on.*Known: g1, g2, g3"):
        fitted("multi-label").encode(cells(x=["g1", "g1+g9"]))
    assert fitted("multi-label").encode(cells(x=["g1+g9"]), unseen=True).tolist() == [[1, 0, 0]]
    with pytest.raises(InputError, match="'g9'"):
        fitted("multi-label").parsed("g1+g9")
    missing = cells(x=pd.Categorical(["g1", None]))
    held_out = fitted("multi-label").encode(missing, ignore=np.array([False, True]))
    assert held_out.tolist() == [[1, 0, 0], [0, 0, 0]]  # of cells that are not looked at
    with pytest.raises(InputError, match="1 missing value"):
        fitted("multi-label").encode(missing, ignore=np.array([True, False]))
    assert fitted("multi-label", missing=True).encode(missing).tolist() == [[1, 0, 0], [0, 0, 0]]


def test_cells_that_have_other_labels_are_the_source():
    column = cells(x=["g1+g2", "g2+g1", "g1", "g3"])
    mask, said = fitted("multi-label").sources(column, ("g2", "g1"), None)
    assert mask.tolist() == [False, False, True, True] and said == ""
    mask, said = fitted("multi-label").sources(column, ("g3",), "g2+g1")
    assert mask.tolist() == [True, True, False, False] and said == "g2+g1"


# fields of a data set


def test_fields_come_by_role_and_categories_before_others():
    column = cells(stim=["ctrl", "x", "x", "ctrl"], site=SITES, age=AGES, drug=DRUGS, guide=GUIDES, type=SITES)
    fields = fit_fields(
        column, condition="stim", batches=["age", "site"], covariates=["drug", "guide", "type"], label="site",
        kinds={"age": "number", "drug": "vector", "guide": "multi-label"},
    )  # fmt: skip
    assert [(f.role, f.name) for f in fields] == [
        ("condition", "stim"), ("batch", "site"), ("batch", "age"),
        ("covariate", "type"), ("covariate", "drug"), ("covariate", "guide"), ("label", "site"),
    ]  # fmt: skip
    assert fields.one("condition").reference == "ctrl" and fields.width(("batch",)) == 4
    assert [f.may_be_missing for f in fields] == [False, False, False, True, True, True, True]
    assert read_fields(field_records(fields)) == fields


@pytest.mark.parametrize(
    "options, error, said",
    [
        ({"kinds": {"age": "number"}}, UsageError, "neither"),
        ({"batches": ["age"], "kinds": {"age": "nmber"}}, UsageError, "Did you mean 'number'"),
        ({"control": "ctrl"}, InputError, "needs condition"),
        ({"condition": "stim", "control": "ctl"}, InputError, "Did you mean 'ctrl'"),
        ({"condition": "one"}, InputError, "at least two"),
        ({"label": "stim", "unlabelled": "none"}, InputError, "stim=none"),
        ({"label": "one", "unlabelled": "a"}, InputError, "no labelled cell"),
    ],
)
def test_columns_that_do_not_fit_their_role_are_refused(options, error, said):
    column = cells(stim=["ctrl", "x"], age=[1.0, 2.0], one=["a", "a"])
    with pytest.raises(error, match=said):
        fit_fields(column, **{"condition": None} | options)


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


def test_an_absent_condition_is_said(caplog):
    logging.getLogger("cellalign").propagate = True
    stim = Categorical(name="stim", role="condition", categories=("ctrl", "b"))
    assert stim.encode(AnnData(obs=pd.DataFrame(index=["x", "y"])), unseen=True).tolist() == [-1, -1]
    assert "no column 'stim' in obs" in caplog.text and "all 2 cells" in caplog.text
