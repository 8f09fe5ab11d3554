"""A model is trained again from its record alone: the same bytes, for every method."""

import dataclasses

import anndata as ad
import numpy as np
import pytest
import torch
from support import at_every_change
from test_old_models import NAMES, OLD

import cellalign
from cellalign.data.fields import read_fields
from cellalign.errors import InputError, ModelError, UsageError
from cellalign.methods.registry import get, names
from cellalign.tasks.prepare import prepare
from cellalign.tasks.reproduce import TOLERANCE, Reproduction, reproduce, training_options
from cellalign.tasks.roles import roles_used

SMALL = {"hidden": [8], "latent_dim": 3, "epochs": 2, "batch_size": 32, "discriminator_hidden": [8]}


def options_for(method):
    """Columns and small settings that a method takes."""
    cls = get(method)
    known = {*cls.Hyperparameters.model_fields, "epochs", "batch_size"}
    settings = {key: value for key, value in SMALL.items() if key in known}
    if method == "stgan":
        settings["hidden"] = [8, 4, 8]
    columns = roles_used(method, {"condition": "stim", "label": "cell_type", "batch": ["donor"]})
    return {"method": method, "settings": settings} | columns


@pytest.fixture(scope="module")
def cells(tiny_cells):
    return tiny_cells[:120].copy()


@pytest.fixture(scope="module")
def model(cells):
    return cellalign.train(cells, **options_for("comp"), holdout=["cell_type=NK,stim=stimulated"], seed=3)


@pytest.mark.parametrize("method", at_every_change(names(), set(names()) - {"auto"}))
def test_every_method_gives_the_same_bytes_again(method, cells):
    found = reproduce(cellalign.train(cells, **options_for(method), threads=1), cells)
    assert found.identical and (found.weights, found.latents, found.result) == (0, 0, "identical")
    assert found.differs == [] and found.tolerance == 0


def test_nothing_is_said_of_settings_that_nobody_asked_for(cells, caplog):
    model = cellalign.train(cells, **options_for("local"), threads=1)
    with caplog.at_level("INFO", logger="cellalign"):
        reproduce(model, cells)
    assert "nothing" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("method", names())
def test_every_method_does_so_on_any_number_of_threads_where_it_is_asked_to(method):
    cells = cellalign.preprocess(cellalign.simulate.ifnb(n_cells=400, n_genes=300, seed=1))
    cells.obs["donor"] = np.where(np.arange(cells.n_obs) % 2, "a", "b")
    options = options_for(method)
    if method != "stgan" and "hidden" in options["settings"]:
        options["settings"]["hidden"] = [128]
    options["settings"].pop("batch_size", None)
    model = cellalign.train(cells, **options, threads=2, deterministic=True)
    assert model.record.machine.threads == 1 and model.record.machine.deterministic
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert reproduce(model, cells, threads=threads).identical
    finally:
        torch.set_num_threads(before)


def test_what_is_asked_for_holds_for_threads_of_this_process_too(cells):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        model = cellalign.train(cells, **options_for("comp"), deterministic=True)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert model.record.machine.threads == 1
    assert reproduce(model, cells, threads=2).identical


@pytest.mark.parametrize("name", NAMES)
def test_the_record_says_all_that_training_was_given(name):
    """Of models of the first format, whose fields are of every kind."""
    cells, record = ad.read_h5ad(OLD / "cells.h5ad"), cellalign.load(OLD / name).record
    asked = {name: value for name, value in training_options(record).items() if not name.startswith("calibrate")}
    again = prepare(cells, **asked).record
    # numbers as conditions have knots since, and a model without them is refused
    same = [
        field.model_copy(update={"knots": ()}) if field.kind == "number" else field
        for field in read_fields(again.fields)
    ]
    assert same == list(read_fields(record.fields))
    for key in ("method", "hyperparameters", "holdout", "seed", "genes", "cells", "matrix"):
        assert getattr(again, key) == getattr(record, key), key
    assert again.training == {"precision": "float32"} | record.training | {
        key: value for key, value in again.training.items() if key not in record.training and key != "precision"
    }


def test_a_model_whose_networks_were_given_the_number_itself_cannot_be_trained_again():
    model = cellalign.load(OLD / "cvae-dose")
    with pytest.raises(ModelError, match="older cellalign, which gave networks the value of 'dose' itself"):
        reproduce(model, ad.read_h5ad(OLD / "cells.h5ad"))


@pytest.mark.parametrize(
    "options",
    [
        {"layer": "other"},
        {"n_top_genes": 20},
        {"n_top_genes": 0, "method": "scvi", "batch": ["stim"], "condition": None},
        {"method": "scvi", "batch": ["stim"], "condition": None, "n_top_genes": 20},
        {"method": "scvi", "batch": ["stim"], "condition": None, "rounded": True},
        {"precision": "float32", "validation": 0.3, "early_stopping": False},
        {
            "covariate": ["size", "cell_type"],
            "numeric": ["size"],
            "method": "invae",
            "batch": ["donor"],
            "condition": None,
        },
        {"method": "scanvi", "condition": None, "batch": ["stim"], "label": "cell_type", "unlabelled": "NK"},
    ],
)
def test_however_it_was_read_and_trained(options, tiny_counts, tiny):
    cells = (tiny_counts if {"n_top_genes", "rounded"} & set(options) else tiny)[:120].copy()
    cells.obs["size"] = np.arange(120.0)
    cells.layers["other"] = cells.X * 0.5
    if options.get("rounded"):
        cells.X = cells.X.astype(np.float64) * 1.0001
        del cells.layers["other"]
    settings = {"hidden": [8], "latent_dim": 3, "epochs": 1, "batch_size": 32}
    model = cellalign.train(cells, **{"method": "comp", "condition": "stim", "settings": settings} | options)
    assert reproduce(model, cells).identical


@pytest.mark.parametrize("method", ["cvae", "lemur"])
def test_a_condition_that_was_held_out_as_a_whole_is_not_embedded(method, cells):
    """Its code is in no network: the latents that are compared are those of the cells trained on."""
    three = cells.copy()
    three.obs["stim"] = three.obs["stim"].astype(str)
    three.obs.loc[three.obs_names[::5], "stim"] = "other"
    found = reproduce(cellalign.train(three, **options_for(method), holdout=["stim=other"]), three)
    assert found.identical and found.latents == 0
    with pytest.raises(InputError, match="never trained on"):
        found.model.embeddings(three)


def test_another_model_is_told_from_it(model, cells):
    method = model.method
    other = type(method)(method.hp, method.layout)
    other.load_state_dict({k: v + (0.1 if v.is_floating_point() else 0) for k, v in method.state_dict().items()})
    found = reproduce(cellalign.Model(other, model.record, []), cells)
    assert not found.identical and not found.agrees and found.result == "different"
    assert found.weights == pytest.approx(0.1, rel=1e-3) and found.latents > 0


def test_what_is_not_as_it_was_is_said_and_allows_for_a_difference(model, cells):
    machine = model.record.machine.model_copy(update={"threads": 3, "processor": "another"})
    versions = model.record.versions | {"torch": "1.0", "gone": "2"}
    record = model.record.model_copy(update={"machine": machine, "versions": versions, "cellalign": "0.0"})
    found = reproduce(cellalign.Model(model.method, record, []), cells, threads=1)
    assert [each.partition(" (")[0] for each in found.differs] == ["cellalign", "torch", "gone", "processor", "threads"]
    assert "threads (3, now 1)" in found.differs and found.tolerance == TOLERANCE
    near = dataclasses.replace(found, identical=False, latents=TOLERANCE / 2)
    assert near.agrees and near.result == "within tolerance"
    assert not dataclasses.replace(near, latents=2 * TOLERANCE).agrees
    assert not dataclasses.replace(near, latents=np.nan).agrees
    old = reproduce(cellalign.Model(model.method, model.record.model_copy(update={"machine": None}), []), cells)
    assert "older cellalign" in old.differs[0] and isinstance(old, Reproduction)


def test_other_cells_and_models_that_were_not_trained_are_refused(model, cells, shifts):
    changed = cells.copy()
    changed.X = changed.X * 0.99
    with pytest.raises(InputError, match="not the cells the model was trained on"):
        reproduce(model, changed)
    with pytest.raises(InputError, match="knows no training file"):
        reproduce(model)
    with pytest.raises(UsageError, match="device 'nothing'|unknown device"):
        reproduce(model, cells, device="nothing")
    known = shifts[shifts.obs["split"] == "train"].copy()
    settings = {"hidden": [8], "latent_dim": 3, "epochs": 1}
    wider = cellalign.transfer(
        shifts, cellalign.train(known, method="svae+", condition="perturbation", settings=settings)
    )
    with pytest.raises(ModelError, match="transfer added 6 interventions"):
        reproduce(wider, shifts)
