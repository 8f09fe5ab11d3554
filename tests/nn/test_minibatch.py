"""A minibatch is set to another value of its columns, by their names or roles, one or several at once."""

import pytest
import torch

from cellalign.data.fields import Categorical, Number
from cellalign.data.fields.vector import Vector
from cellalign.nn.minibatch import Fields, Minibatch
from cellalign.nn.sparse import SparseRows

STIM = Categorical(name="stim", role="condition", categories=("a", "b"), reference="a")
SITE = Categorical(name="site", role="batch", categories=("x", "y"))
AGE = Number(name="age", role="batch", mean=50.0, sd=10.0)
TYPE = Categorical(name="cell type", role="label", categories=("B", "T"), may_be_missing=True)
DRUG = Vector(name="drug", role="covariate", means=(0.0, 1.0), sds=(1.0, 2.0), may_be_missing=True)


def minibatch(*fields):
    columns = []
    for field in fields:
        shape = (4, field.width) if field.kind == "vector" else (4,)
        columns.append(torch.zeros(shape) if field.kind in ("number", "vector") else torch.arange(4) % 2)
    return Minibatch(torch.rand(4, 3), Fields(fields), tuple(columns))


def test_a_column_is_set_by_its_name_or_its_role():
    batch = minibatch(STIM, SITE, DRUG)
    for moved in (batch.do(stim="b"), batch.do(condition="b"), batch.do({"stim": "b"}), batch.do({"condition": "b"})):
        assert moved.condition.tolist() == [1] * 4 and moved.columns[1].tolist() == [0, 1, 0, 1]
    assert batch.do(batch="y").columns[1].tolist() == [1] * 4
    assert batch.condition.tolist() == [0, 1, 0, 1]  # the batch itself stays


def test_several_columns_are_set_at_once():
    moved = minibatch(STIM, SITE, AGE, DRUG).do({"drug": (1.0, 5.0)}, stim="b", site="y", age=70)
    assert moved.columns[0].tolist() == [1] * 4 and moved.columns[1].tolist() == [1] * 4
    assert moved.columns[2].tolist() == [2.0] * 4 and moved.columns[3].tolist() == [[1.0, 2.0]] * 4


def test_nothing_set_is_the_same_batch():
    batch = minibatch(STIM, SITE)
    assert all(torch.equal(a, b) for a, b in zip(batch.do().columns, batch.columns, strict=True))


@pytest.mark.parametrize("name", ["nothing", "batch", "covariate", "STIM"])
def test_a_name_of_no_column_and_a_role_of_several_or_none_are_refused(name):
    with pytest.raises(KeyError, match=name):
        minibatch(STIM, SITE, AGE).do({name: "x"})


def test_a_category_that_does_not_exist_is_refused():
    with pytest.raises(KeyError, match="c"):
        minibatch(STIM).do(stim="c")
    with pytest.raises(KeyError):
        minibatch(STIM).do(stim=("a", "c"))


def test_a_name_wins_over_a_role():
    named = SITE.model_copy(update={"name": "condition"})
    moved = minibatch(STIM, named).do(condition="y")
    assert moved.columns[1].tolist() == [1] * 4 and moved.columns[0].tolist() == [0, 1, 0, 1]


def test_the_condition_is_set_whatever_a_batch_is_called():
    """`with_condition` means the role, not a column of that name."""
    named = SITE.model_copy(update={"name": "condition"})
    moved = minibatch(STIM, named).with_condition(torch.ones(4, dtype=torch.int64))
    assert moved.condition.tolist() == [1] * 4 and moved.columns[1].tolist() == [0, 1, 0, 1]


def test_a_label_and_a_batch_of_one_column_are_told_apart():
    twice = [SITE, SITE.model_copy(update={"role": "label"})]
    moved = minibatch(*twice).do(site="y")
    assert moved.columns[0].tolist() == [1] * 4 and moved.columns[1].tolist() == [0, 1, 0, 1]


def test_what_was_made_of_the_expression_goes_along():
    batch = Minibatch(SparseRows.of(torch.eye(4)), Fields((STIM,)), (torch.arange(4) % 2,))
    x, size = batch.x, batch.library_size
    moved = batch.do(stim="b")
    assert moved.x is x and moved.library_size is size and moved.nonzeros is batch.nonzeros


def test_context_is_told_in_the_order_of_the_fields():
    batch = minibatch(STIM, SITE, AGE, DRUG, TYPE)
    found = batch.context(("batch", "condition"))
    assert found.shape == (4, 5) and torch.equal(found[:, :2], STIM.context(batch.condition))
    assert batch.context(()).shape == (4, 0) and batch.fields.width(("condition", "batch")) == 5
    assert torch.equal(batch.label, torch.arange(4) % 2) and minibatch(STIM).label.tolist() == [-1] * 4
