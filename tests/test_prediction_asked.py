"""What may be asked of a counterfactual: several columns at once, numbers, a+b; and what is refused."""

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch

import cellalign
from cellalign.errors import InputError, UsageError
from cellalign.records import Provenance

OLD = Path(__file__).parent / "fixtures" / "format1"
SMALL = {"hidden": [8], "latent_dim": 2, "epochs": 2}


@pytest.fixture(scope="module")
def cells():
    """90 cells x 40 genes: X normalised log1p, counts in a layer, columns of every kind."""
    return ad.read_h5ad(OLD / "cells.h5ad")


@pytest.fixture(scope="module")
def old():
    """Models of every kind, by name."""
    return {path.parent.name: cellalign.load(path.parent) for path in OLD.glob("*/model.yaml")}


@pytest.fixture(scope="module")
def sites(cells):
    """A cvae that sees the condition and the site."""
    return cellalign.train(cells, method="cvae", condition="stim", batch=["site"], settings=SMALL)


@torch.no_grad()
def decoded(model, cells, do):
    """The method's own mean of these cells."""
    return model.method.predict(model.cells(cells).batch(torch.arange(cells.n_obs)), do).mean.numpy()


def test_several_columns_are_set_at_once(sites, cells):
    for to in ({"stim": "stimulated", "site": "b"}, {"condition": "stimulated", "site": "b"}, "stimulated,site=b"):
        predicted = sites.counterfactual(cells, to=to, decoded=True)
        assert set(predicted.obs["stim"]) == {"stimulated"} and set(predicted.obs["site"]) == {"b"}
        assert set(predicted.obs["stim_source"]) == {"control"} and set(predicted.obs["site_source"]) == {"a", "b"}
        source = cells[predicted.obs_names]
        expected = decoded(sites, source, {"stim": "stimulated", "site": "b"})
        np.testing.assert_allclose(predicted.X, np.maximum(expected, 0), atol=1e-5)
        record = Provenance.of(predicted.uns).counterfactual
        assert record.changes == {"stim": "stimulated", "site": "b"} and record.condition == "stim"
    alone = sites.counterfactual(cells, to="stimulated", decoded=True)
    assert np.abs(alone.X - predicted.X).max() > 1e-3 and "site_source" not in alone.obs


def test_the_first_column_decides_which_cells_are_meant(sites, cells):
    by_site = sites.counterfactual(cells, to={"site": "b", "stim": "stimulated"})
    assert by_site.n_obs == (cells.obs["site"] == "a").sum() and set(by_site.obs["stim_source"]) == {
        "control",
        "stimulated",
    }
    assert Provenance.of(by_site.uns).counterfactual.condition == "site"


@pytest.mark.parametrize(
    "to, error",
    [
        ({"nowhere": "b"}, UsageError),
        ({}, UsageError),
        ({"site": "c"}, InputError),
        ({"stim": "stimulatd", "site": "b"}, InputError),
        ("stimulated,site=c", InputError),
        ("stimulated,nowhere=b", InputError),
        ({"cell_type": "B"}, UsageError),
        ("stimulated+control", UsageError),
        ("stimulated+stimulated", UsageError),
        (["stimulated", "control+control"], UsageError),
    ],
)
def test_what_there_is_not_is_refused(sites, cells, to, error):
    with pytest.raises(error):
        sites.counterfactual(cells, to=to)


def test_two_conditions_at_once_are_added_up_beside_a_batch_too(cells):
    three = cells.copy()
    three.obs["stim"] = [("again" if i % 4 == 1 else name) for i, name in enumerate(three.obs["stim"].astype(str))]
    model = cellalign.train(three, method="cvae", condition="stim", batch=["site"], settings=SMALL)
    asked = {"stim": "stimulated+again", "site": "b"}
    predicted = model.counterfactual(three, to=asked, from_="control", decoded=True, combine="expression")
    source = three[predicted.obs_names]
    control, one, other = (decoded(model, source, {"stim": c, "site": "b"}) for c in ("control", "stimulated", "again"))
    np.testing.assert_allclose(predicted.X, np.maximum(one + other - control, 0), atol=1e-4)
    assert set(predicted.obs["site"]) == {"b"}
    assert Provenance.of(predicted.uns).counterfactual.changes["stim"] == "stimulated+again"


def test_a_number_is_set_in_every_cell(old, cells):
    model = old["cvae-dose"]
    for to in (2.5, "2.5", {"dose": 2.5}, {"condition": "2.5"}, np.float32(2.5)):
        predicted = model.counterfactual(cells, to=to, decoded=True)
        assert predicted.n_obs == cells.n_obs and set(predicted.obs["dose"]) == {2.5}
        assert (predicted.obs["dose_source"] == cells.obs["dose"]).all()
        np.testing.assert_allclose(predicted.X, np.maximum(decoded(model, cells, {"dose": 2.5}), 0), atol=1e-5)
        record = Provenance.of(predicted.uns).counterfactual
        assert record.continuous and record.to == "2.5"
    assert model.counterfactual(cells, to=0, from_="5").n_obs == (cells.obs["dose"] == 5).sum()


def test_a_number_and_a_batch_are_set_at_once(cells):
    model = cellalign.train(cells, method="cvae", condition="dose", continuous=True, batch=["site"], settings=SMALL)
    for to in ({"dose": 2.5, "site": "b"}, "2.5,site=b", "dose=2.5,site=b"):
        predicted = model.counterfactual(cells, to=to)
        assert set(predicted.obs["dose"]) == {2.5} and set(predicted.obs["site"]) == {"b"}


def test_several_conditions_and_a_batch_are_set_at_once(cells):
    settings = {"hidden": [8], "latent_dim": 2, "epochs": 1}
    options = {"condition": "guide", "control": "ctrl", "settings": settings}
    with pytest.raises(UsageError, match=r"'ivae' makes no use of batch=\['site'\].* that does: cvae, .*invae"):
        cellalign.train(cells, method="ivae", batch=["site"], **options)
    with pytest.MonkeyPatch.context() as patch:  # a model of before such a column was refused
        patch.setattr("cellalign.tasks.roles.REFUSED", ())
        model = cellalign.train(cells, method="ivae", batch=["site"], **options)
    assert set(model.counterfactual(cells, to="g1+g2").obs["guide"]) == {"g1+g2"}
    with pytest.raises(UsageError, match="does not see batches"):  # not: an unknown condition
        model.counterfactual(cells, to="g1+g2,site=b")


def test_a_plus_in_the_name_of_a_condition_is_a_name(cells):
    named = cells.copy()
    named.obs["guide"] = named.obs["guide"].astype(str).replace({"g3": "g1+g2"}).astype("category")
    model = cellalign.train(named, method="cvae", condition="guide", control="ctrl", settings=SMALL)
    predicted = model.counterfactual(named, to="g1+g2")
    assert set(predicted.obs["guide"]) == {"g1+g2"}


def test_a_name_with_a_comma_or_an_equals_sign_is_a_name(cells):
    named = cells.copy()
    named.obs["stim"] = named.obs["stim"].astype(str).replace({"stimulated": "IFN,site=b"}).astype("category")
    model = cellalign.train(named, method="cvae", condition="stim", batch=["site"], settings=SMALL)
    predicted = model.counterfactual(named, to="IFN,site=b")
    assert set(predicted.obs["stim"]) == {"IFN,site=b"} and "site_source" not in predicted.obs


def test_the_models_genes_are_predicted_in_its_order(old, cells):
    shuffled = cells[:, ::-1].copy()
    one, other = (old["comp"].counterfactual(given, to="stimulated") for given in (cells, shuffled))
    assert list(one.var_names) == list(other.var_names) == old["comp"].genes
    np.testing.assert_allclose(one.X, other.X, atol=1e-5)


def test_the_callers_cells_are_left_as_they_are(old, cells):
    before = cells.copy()
    old["comp"].counterfactual(cells, to="stimulated", draws=2)
    assert (cells.X != before.X).sum() == 0 and cells.obs.equals(before.obs) and list(cells.uns) == list(before.uns)


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"combine": "latent"}, "combine='latent' is of several conditions at once"),
        ({"to": ["stimulated"], "combine": "expression"}, "leave it out"),
        ({"interval_cells": 30}, "interval_cells=30 is of interval; add it"),
        ({"interval_over": "de"}, "interval_over='de' is of interval; add it"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(sites, cells, asked, said):
    with pytest.raises(UsageError, match=said):
        sites.counterfactual(cells, **({"to": "stimulated"} | asked))


def test_a_column_that_the_model_does_not_set_is_named(sites, cells):
    for to in ("donor=d1", "stimulated,donor=d1"):
        with pytest.raises(InputError, match="'donor' is neither the condition nor a batch of the model; these are: "):
            sites.counterfactual(cells, to=to)
