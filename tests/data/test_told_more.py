"""Models that are told vectors from obsm and several labels at once train, embed, are saved, and predict."""

import numpy as np
import pandas as pd
import pytest

import cellalign
from cellalign.errors import InputError

SMALL = {"hidden": [8], "latent_dim": 2, "epochs": 1}


@pytest.fixture
def told_more(tiny):
    """The tiny cells with a drug's numbers in obsm, guides in obs, and an age."""
    rng = np.random.default_rng(0)
    tiny.obsm["drug"] = rng.normal(size=(tiny.n_obs, 3)).astype(np.float32)
    tiny.obs["guides"] = pd.Categorical(rng.choice(["g1", "g2", "g1+g2"], tiny.n_obs))
    return tiny


ALL = [
    ("cvae", {"batch": ["drug"]}, {"drug": "vector"}),
    ("cvae", {"batch": ["donor", "guides"]}, {"guides": "multi-label"}),
]
ALL += [("comp", {"batch": ["guides", "drug"]}, {"guides": "multi-label", "drug": "vector"})]
ALL += [
    (
        "invae",
        {"batch": ["donor", "drug"], "covariate": ["cell_type", "guides"]},
        {"guides": "multi-label", "drug": "vector"},
    )
]
ALL += [("invae", {"batch": ["guides"], "covariate": ["drug"]}, {"guides": "multi-label", "drug": "vector"})]
ALL += [("scvi", {"batch": ["drug"]}, {"drug": "vector"})]


@pytest.mark.parametrize("method, roles, kinds", ALL, ids=lambda x: x if isinstance(x, str) else "-".join(x))
def test_a_model_that_is_told_more_trains_embeds_is_saved_and_predicts(told_more, tmp_path, method, roles, kinds):
    condition = {} if method == "invae" else {"condition": "stim"}
    model = cellalign.train(told_more, method=method, settings=SMALL, kinds=kinds, **condition, **roles)
    model.save(tmp_path / "model")
    again = cellalign.load(tmp_path / "model")
    assert again.fields == model.fields and set(again.obsm) == {key for key, kind in kinds.items() if kind == "vector"}
    z = model.embed(told_more)
    assert np.isfinite(z).all() and (again.embed(told_more) == z).all()
    asked = {"stim": "stimulated"} if condition else {}
    for key in roles["batch"]:
        asked |= {key: {"drug": "1;2;3", "guides": "g1+g2", "donor": "d1"}[key]}
    predicted = again.counterfactual(told_more, to=asked)
    assert np.isfinite(predicted.X).all() and predicted.n_obs
    for key, value in asked.items():
        assert set(predicted.obs[key]) == {value}
    predicted.write_h5ad(tmp_path / "predicted.h5ad")


def test_a_batch_that_is_told_is_used(told_more):
    kinds = {"drug": "vector", "guides": "multi-label"}
    model = cellalign.train(told_more, method="cvae", condition="stim", batch=list(kinds), kinds=kinds, settings=SMALL)
    other = told_more.copy()
    other.obsm["drug"] = other.obsm["drug"] + 3
    assert np.abs(model.embed(other) - model.embed(told_more)).max() > 1e-3
    plain = model.counterfactual(told_more, to="stimulated", decoded=True)
    for asked in ({"stim": "stimulated", "drug": "3;3;3"}, {"stim": "stimulated", "guides": "g1+g2"}):
        assert np.abs(model.counterfactual(told_more, to=asked, decoded=True).X - plain.X).max() > 1e-4


def test_a_vector_may_be_asked_for_as_numbers(told_more):
    model = cellalign.train(
        told_more, method="cvae", condition="stim", batch=["drug"], kinds={"drug": "vector"}, settings=SMALL
    )
    text, numbers = (
        model.counterfactual(told_more, to={"stim": "stimulated", "drug": drug}) for drug in ("1;2;3", (1.0, 2.0, 3.0))
    )
    assert (text.X == numbers.X).all()


@pytest.mark.parametrize("what", ["embed", "counterfactual"])
def test_cells_without_the_vector_are_refused_by_name(told_more, what):
    model = cellalign.train(
        told_more, method="cvae", condition="stim", batch=["drug"], kinds={"drug": "vector"}, settings=SMALL
    )
    del told_more.obsm["drug"]
    with pytest.raises(InputError, match="'drug' in obsm"):
        model.embed(told_more) if what == "embed" else model.counterfactual(told_more, to="stimulated")


def test_cells_without_a_covariates_vector_are_embedded_where_it_may_be_missing(told_more):
    model = cellalign.train(
        told_more, method="invae", batch=["donor"], covariate=["drug"], kinds={"drug": "vector"}, settings=SMALL
    )
    told_more.obsm["drug"][:5] = np.nan
    assert np.isfinite(model.embed(told_more)).all()
    del told_more.obsm["drug"]
    assert np.isfinite(model.embed(told_more, unseen=True)).all()


def test_cells_held_out_of_training_may_have_any_guide(told_more):
    told_more.obs["guides"] = told_more.obs["guides"].astype(str)
    told_more.obs.loc[told_more.obs["cell_type"] == "NK", "guides"] = "g7+g8"
    model = cellalign.train(
        told_more, method="cvae", condition="stim", batch=["guides"], kinds={"guides": "multi-label"},
        holdout=["cell_type=NK"], settings=SMALL,
    )  # fmt: skip
    assert model.fields.of("batch")[0].categories == ("g1", "g2")
