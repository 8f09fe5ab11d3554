"""A run that is gone on with is of the same cells and settings, wherever the cells come from; others are refused."""

import numpy as np
import pytest
from scipy import sparse

import cellalign
from cellalign.data.stored import Stored
from cellalign.errors import ModelError, UsageError
from tests.support import StopAfter

FAST = {"method": "cvae", "condition": "stim", "epochs": 3, "settings": {"hidden": [8], "latent_dim": 3}}


@pytest.fixture
def interrupted(tiny, tmp_path):
    """A model whose training stopped after an epoch; of cells with a second matrix and a column."""
    tiny.layers["other"] = tiny.X.multiply(1.5).tocsr()
    tiny.obs["site"] = np.where(np.arange(tiny.n_obs) % 2, "A", "B")
    with pytest.raises(KeyboardInterrupt):
        cellalign.train(tiny, model_path=tmp_path / "m", batch=["site"], progress=StopAfter(1), **FAST)
    return tmp_path / "m"


def resumed(adata, model, **more):
    return cellalign.train(adata, model_path=model, resume=True, **({"batch": ["site"], **FAST} | more))


def refused(adata, model, says, **more):
    with pytest.raises(ModelError, match=says):
        resumed(adata, model, **more)


def test_the_same_cells_kept_otherwise_are_accepted(tiny, interrupted):
    tiny.X = sparse.csc_matrix(tiny.X).astype(np.float64)
    tiny.obs["unread"] = 1
    model = resumed(tiny, interrupted)
    assert model.record.content.startswith("sha256:") and model.record.outcome.epochs == 3
    assert cellalign.load(interrupted).record.content == model.record.content


def test_a_changed_value_of_one_cell_is_noticed(tiny, interrupted):
    tiny.X.data[-1] *= 1.25
    refused(
        tiny, interrupted, r"another input \(the cells have changed: .*\); use the same options, name another model, or"
    )


def test_a_changed_column_is_noticed(tiny, interrupted):
    tiny.obs["site"] = tiny.obs["site"].to_numpy()[::-1]
    refused(tiny, interrupted, "the cells have changed")


def test_cells_in_another_order_are_noticed(tiny, interrupted):
    refused(tiny[::-1].copy(), interrupted, "the cells have changed")


def test_another_layer_is_noticed(tiny, interrupted):
    refused(tiny, interrupted, r"another matrix \(X, now other\)", layer="other")


def test_fewer_cells_are_noticed(tiny, interrupted):
    refused(tiny[:-4].copy(), interrupted, rf"another number of cells \({tiny.n_obs}, now {tiny.n_obs - 4}\)")


def test_counts_are_compared_as_they_were_read(tiny_counts, tmp_path, monkeypatch):
    """The last bit of a logarithm differs between machines."""
    options = FAST | {"model_path": tmp_path / "m", "n_top_genes": 20}
    with pytest.raises(KeyboardInterrupt):
        cellalign.train(tiny_counts, progress=StopAfter(1), **options)
    from cellalign.data import preprocess

    real = preprocess.normalised_log

    def other(counts, target_sum):  # of blocks it calls itself
        found = real(counts, target_sum)
        return found if isinstance(counts, Stored) else found * np.float32(1.0000001)

    monkeypatch.setattr(preprocess, "normalised_log", other)
    assert cellalign.train(tiny_counts, resume=True, **options).record.outcome.epochs == 3


@pytest.mark.parametrize(
    "other", [{"epochs": 2}, {"settings": {"hidden": [8], "latent_dim": 3, "lr": 0.1}}, {"seed": 1}]
)
def test_a_complete_model_of_other_settings_is_not_taken_for_this_one(tiny, tmp_path, other):
    cellalign.train(tiny, model_path=tmp_path / "m", **FAST | {"epochs": 1})
    again = FAST | {"epochs": 1} | other
    with pytest.raises(UsageError, match="exists"):
        cellalign.train(tiny, model_path=tmp_path / "m", auto_resume=True, **again)
    model = cellalign.train(tiny, model_path=tmp_path / "m", auto_resume=True, force=True, **again)
    assert model.record.training["epochs"] == again["epochs"]


def test_a_complete_model_of_other_cells_is_not_taken_for_this_one(tiny, tmp_path):
    cellalign.train(tiny, model_path=tmp_path / "m", **FAST | {"epochs": 1})
    tiny.X.data[-1] *= 1.25
    with pytest.raises(UsageError, match="exists"):
        cellalign.train(tiny, model_path=tmp_path / "m", auto_resume=True, **FAST | {"epochs": 1})
