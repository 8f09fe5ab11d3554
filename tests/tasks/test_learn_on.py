"""A trained model learns new batches and conditions: what it knew stays, what is new it can predict."""

import logging
import shutil

import numpy as np
import pytest
import torch

import cellalign
from cellalign.errors import InputError, ModelError, UsageError
from cellalign.methods.base import LearnsOn
from cellalign.methods.registry import able, get
from cellalign.tasks.learn_on import widen
from cellalign.tasks.reproduce import reproduce
from tests.support import StopAfter, layout

ABLE = ("vfae", "trvae", "mmd-ae", "comp", "cvae", "scvi", "scanvi", "nf-ivae", "invae")
SMALL = {"hidden": [12, 12], "latent_dim": 3, "batch_size": 32}
QUICK = {"epochs": 3, "settings": {"lr": 0.02, "schedule": "constant"}}


def columns(method):
    """Columns of a model, as many as its method takes."""
    asked = {"condition": "stim", "batch": ["donor"], "covariate": ["cell_type"], "label": "cell_type"}
    uses = get(method).uses()
    kept = {role: value for role, value in asked.items() if role in uses}
    return kept if method != "invae" else kept | {"label": None}


@pytest.fixture(scope="module")
def cells(tiny_cells):
    """240 cells of three donors, each with all types under both conditions."""
    made = tiny_cells.copy()
    made.obs["donor"] = np.array(["d1", "d2", "d3"])[np.arange(240) // 6 % 3]
    return made


def of(cells, column, *values):
    return cells[cells.obs[column].isin(values)].copy()


@pytest.fixture(scope="module")
def old(cells):
    return of(cells, "donor", "d1", "d2")


@pytest.fixture(scope="module")
def new(cells):
    return of(cells, "donor", "d3")


@pytest.fixture(scope="module")
def parents(old):
    kept = {}

    def parent(method):
        if method not in kept:
            kept[method] = cellalign.train(old, method=method, epochs=1, settings=SMALL, **columns(method))
        return kept[method]

    return parent


def weights(model):
    return {name: value.clone() for name, value in model.method.state_dict().items()}


def test_these_methods_can_and_no_others():
    assert sorted(able(LearnsOn)) == sorted(ABLE)


@pytest.mark.parametrize("method", ABLE)
def test_what_the_model_made_of_old_cells_it_makes_of_them_now(method, parents, old, new, tmp_path):
    parent = parents(method)
    before = weights(parent)
    model = cellalign.train(new, from_=parent, **QUICK)
    assert model.name == method and model.record.outcome.epochs == 3
    for key, z in parent.embeddings(old).items():
        np.testing.assert_allclose(model.embeddings(old)[key], z, atol=1e-6)
    named = model.method.context_weights()
    for name, value in weights(model).items():
        if name not in named:
            assert torch.equal(value, before[name]), name
    learned = {name for name in named if value_is_new(model, parent, name)}
    assert learned and {name.split(".")[0] for name in learned} <= {"encoder", "decoder", "prior", "spurious_prior"}
    assert all(parameter.requires_grad for parameter in model.method.parameters())
    (donor,) = [field for field in model.fields if field.name == "donor"]
    assert donor.categories == ("d1", "d2", "d3")
    assert all(torch.equal(value, parent.method.state_dict()[name]) for name, value in before.items())
    model.save(tmp_path / "m")
    again = cellalign.load(tmp_path / "m")
    np.testing.assert_array_equal(again.embed(new), model.embed(new))
    assert again.record.learned_from.weights == parent.weights_checksum
    assert again.record.learned_from.content == parent.record.content
    if "batch" in model.method.responds_to:
        moved = cellalign.counterfactual(old, again, to={"donor": "d3"})
        assert moved.n_obs == old.n_obs and np.isfinite(moved.X).all() and (moved.obs["donor"] == "d3").all()


def value_is_new(model, parent, name):
    """Whether the new entries of a parameter are no longer the mean of the old ones."""
    wider = get(model.name)(model.method.hp, model.method.layout)
    mask = widen(parent.method, wider)[name]
    start, now = wider.state_dict()[name], model.method.state_dict()[name]
    assert torch.equal(now[~mask], start[~mask])
    return bool(mask.any()) and not torch.equal(now[mask], start[mask])


def test_entries_lie_where_the_networks_look_for_them():
    small = layout(5, conditions=2, batches=[2, 3])
    large = layout(5, conditions=3, batches=[2, 5])
    cls = get("cvae")
    hp = cls.Hyperparameters(hidden=(4,), latent_dim=2)
    method, wider = cls(hp, small), cls(hp, large)
    new = widen(method, wider)
    old, now = (m.encoder.first.context.detach().numpy() for m in (method, wider))
    # conditions c0 c1 | batch0 b0 b1 | batch1 b0 b1 b2; then c2 after c1, and b3, b4 at the end
    np.testing.assert_array_equal(now[[0, 1, 3, 4, 5, 6, 7]], old)
    np.testing.assert_allclose(now[2], old[:2].mean(0), rtol=1e-6)
    np.testing.assert_allclose(now[8:], np.stack([old[4:].mean(0)] * 2), rtol=1e-6)
    assert new["encoder.first.context"].all(1).numpy().nonzero()[0].tolist() == [2, 8, 9]
    assert set(new) == {"encoder.first.context", "decoder.first.context"}


def test_a_new_condition_can_be_predicted(old, new):
    learning = {"settings": SMALL, "lr": 0.01, "early_stopping": False}
    parent = cellalign.train(old, method="cvae", condition="stim", epochs=40, **learning)
    drug = of(new, "stim", "stimulated")
    drug.obs["stim"] = "drug"  # that does what is known, by another name
    model = cellalign.train(drug, from_=parent, epochs=20, lr=0.02, validation=0)
    assert model.conditions == ["control", "stimulated", "drug"] and model.control == "control"
    control = of(old, "stim", "control")
    start = np.asarray(control.X.mean(0)).ravel()
    drugged, stimulated = (cellalign.counterfactual(control, model, to=to).X.mean(0) for to in ("drug", "stimulated"))
    assert np.corrcoef(drugged - start, stimulated - start)[0, 1] > 0.9
    before = cellalign.counterfactual(control, parent, to="stimulated").X.mean(0)
    np.testing.assert_allclose(stimulated, before, atol=1e-5)


def test_all_weights_learn_slowly_where_that_is_asked_for(parents, old, new):
    parent = parents("cvae")
    before = weights(parent)
    model = cellalign.train(new, from_=parent, learn="all", **QUICK)
    after = weights(model)
    moved = {name: float((after[name] - value).abs().max()) for name, value in before.items() if "context" not in name}
    statistics = {name for name in moved if "running" in name or "batches_tracked" in name}
    assert statistics and not any(moved[name] for name in statistics)
    assert all(0 < moved[name] < 0.02 for name in moved.keys() - statistics)
    known = model.method.encoder.first.context.detach()[[0, 1, 2, 3]] - before["encoder.first.context"]
    unknown = model.method.encoder.first.context.detach()[4] - before["encoder.first.context"][2:].mean(0)
    assert float(known.abs().max()) < 0.02 < float(unknown.abs().max())
    assert model.record.learned_from.learn == "all"
    again = cellalign.train(old, from_=parent, learn="all", epochs=1)  # more cells of what it knows
    assert again.conditions == parent.conditions


def test_an_encoder_that_is_not_given_batches_is_said_to_embed_as_before(parents, new, caplog):
    parent = parents("scvi")
    model = cellalign.train(new, from_=parent, epochs=1)
    assert "scvi is not given 'donor': cells are embedded as before" in caplog.text and "learn='all'" in caplog.text
    known = new.copy()
    known.obs["donor"] = "d1"
    np.testing.assert_array_equal(model.embed(new), parent.embed(known))


def test_labels_it_does_not_know_count_as_none(parents, new, caplog):
    other = new.copy()
    other.obs["cell_type"] = np.where(np.arange(new.n_obs) < 5, "Platelet", new.obs["cell_type"].astype(str))
    model = cellalign.train(other, from_=parents("scanvi"), epochs=1)
    assert "5 cells have a label that the model does not know" in caplog.text and "Platelet" in caplog.text
    assert model.labels == parents("scanvi").labels
    del other.obs["cell_type"]
    assert cellalign.train(other, from_=model, learn="all", epochs=1).labels == model.labels


def test_genes_are_found_by_name_and_zero_where_that_is_asked_for(parents, new):
    parent = parents("cvae")
    wanted = cellalign.train(new, from_=parent, epochs=1)
    other = cellalign.train(new[:, ::-1].copy(), from_=parent, epochs=1)
    assert other.genes == parent.genes and other.record.content == wanted.record.content
    few = new[:, 1:].copy()
    with pytest.raises(InputError, match="lacks 1 of the model's"):
        cellalign.train(few, from_=parent, epochs=1)
    zero = cellalign.train(few, from_=parent, epochs=1, missing_genes="zero")
    assert zero.record.learned_from.missing_genes == "zero" and zero.genes == parent.genes


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"method": "comp"}, UsageError, "method='comp': the model .* of another method; say method='cvae'"),
        ({"batch": ["cell_type"]}, UsageError, r"batch=\['cell_type'\]: the model learned with batch=\['donor'\]"),
        ({"covariate": ["cell_type"]}, UsageError, "the model learned without"),
        ({"control": "stimulated"}, UsageError, "control='stimulated': the model learned with control='control'"),
        ({"layer": "counts"}, UsageError, "layer='counts': the model learned with layer='X'"),
        ({"continuous": True}, UsageError, "stim is said to be a number; to the model it is a categorical"),
        ({"preset": "comp-pbmc"}, UsageError, "settings stay as they are"),
        ({"latent_dim": 5}, UsageError, "latent_dim=5: the model learned with latent_dim=3"),
        ({"settings": {"beta": 2.0}}, UsageError, "beta=2.0: the model learned with beta=1.0"),
        ({"settings": {"bta": 2.0}}, UsageError, "unknown setting 'bta'"),
        ({"learn": "some"}, UsageError, "learn='some' is neither"),
    ],
)
def test_what_the_model_decides_cannot_be_asked_for(options, error, says, parents, new):
    with pytest.raises(error, match=says):
        cellalign.train(new, from_=parents("cvae"), **options)


def test_what_cannot_be(parents, old, new, tmp_path):
    with pytest.raises(InputError, match="no value of 'stim', 'donor' that the model does not know: .* learn='all'"):
        cellalign.train(old, from_=parents("cvae"))
    with pytest.raises(ModelError, match="'vae' does not have weights for each .*; methods that do: .*comp"):
        cellalign.train(new, from_=cellalign.train(old, method="vae", epochs=1, settings=SMALL))
    with pytest.raises(ModelError, match="no model directory"):
        cellalign.train(new, from_=tmp_path / "none")
    (tmp_path / "cells.h5ad").touch()
    with pytest.raises(ModelError, match="cells.h5ad is a file, and a model is a directory; name one that"):
        cellalign.train(new, from_=tmp_path / "cells.h5ad")
    with pytest.raises(UsageError, match="learn='new' needs from_"):
        cellalign.train(new, condition="stim", learn="new")
    with pytest.raises(UsageError, match="missing_genes='zero' needs from_"):
        cellalign.train(new, condition="stim", missing_genes="zero")
    bare = new.copy()
    del bare.obs["donor"]
    with pytest.raises(InputError, match="no batch column 'donor'"):
        cellalign.train(bare, from_=parents("cvae"))


def test_values_beside_the_new_ones_are_looked_at(parents, cells, caplog):
    made = of(cells, "donor", "d3").copy()
    made.obs["donor"] = np.where(made.obs["stim"] == "control", "d3", "d4")
    with caplog.at_level(logging.INFO):
        model = cellalign.train(made, from_=parents("cvae"), epochs=1)
    assert "new batch of 'donor' beside 2: d3, d4" in caplog.text
    assert "batch 'donor' and condition 'stim' say the same" in caplog.text
    assert len(model.method.layout.fields[1].categories) == 4


def test_a_run_that_is_cut_off_is_gone_on_with(parents, new, tmp_path):
    parents("cvae").save(tmp_path / "parent")
    options = {"from_": tmp_path / "parent", "epochs": 3}
    whole = cellalign.train(new, **options)
    with pytest.raises(KeyboardInterrupt):
        cellalign.train(new, model_path=tmp_path / "m", progress=StopAfter(1), **options)
    with pytest.raises(ModelError, match="learned_from|learn"):
        cellalign.train(new, model_path=tmp_path / "m", resume=True, learn="all", **options)
    model = cellalign.train(new, model_path=tmp_path / "m", resume=True, **options)
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(model).items())
    assert cellalign.train(new, model_path=tmp_path / "m", auto_resume=True, **options).record.outcome.epochs == 3


def test_it_is_trained_again_where_its_parent_is_what_it_was(parents, new, tmp_path):
    parents("cvae").save(tmp_path / "parent")
    model = cellalign.train(new, from_=tmp_path / "parent", epochs=2, threads=1)
    assert reproduce(model, new).identical
    with pytest.raises(InputError, match="not the cells the model was trained on"):
        reproduce(model, new[:-1].copy())
    shutil.rmtree(tmp_path / "parent")
    with pytest.raises(ModelError, match="learned on from another one, which cannot be read"):
        reproduce(model, new)
    cellalign.train(new, from_=parents("cvae"), epochs=1).save(tmp_path / "parent")
    with pytest.raises(ModelError, match="whose weights are others now"):
        reproduce(model, new)
    with pytest.raises(ModelError, match="from one in memory"):
        reproduce(cellalign.train(new, from_=parents("cvae"), epochs=1), new)


def test_a_model_of_raw_counts_takes_raw_counts(tiny_raw_parts):
    old, new = tiny_raw_parts
    parent = cellalign.train(old, method="cvae", condition="stim", batch=["donor"], epochs=1, settings=SMALL)
    model = cellalign.train(new, from_=parent, epochs=1)
    assert model.target_sum == parent.target_sum is not None
    np.testing.assert_allclose(model.embed(old), parent.embed(old), atol=1e-6)
    left_out = np.zeros(new.n_obs, dtype=bool)
    assert model.is_of(new, left_out) and not model.is_of(old, np.zeros(old.n_obs, dtype=bool))


@pytest.fixture
def tiny_raw_parts(cells):
    raw = cells.copy()
    raw.X = raw.layers["counts"].copy()
    del raw.layers["counts"]
    raw.uns.clear()
    return of(raw, "donor", "d1", "d2"), of(raw, "donor", "d3")


def test_a_model_that_was_calibrated_is_learned_on_from_saved_read_and_reproduced(old, new, tmp_path):
    options = columns("cvae") | {"calibrate": "cell_type", "calibrate_folds": 3}
    parent = cellalign.train(old, method="cvae", epochs=1, settings=SMALL, **options)
    assert parent.record.calibration is not None
    parent.save(tmp_path / "parent")
    found = cellalign.train(new, from_=str(tmp_path / "parent"), epochs=1)
    assert found.record.calibration is None and found.calibration is None
    found.save(tmp_path / "wider")
    read = cellalign.load(tmp_path / "wider")
    assert reproduce(read, new).identical
    with pytest.raises(ModelError, match="knows no errors of held-out groups"):
        read.counterfactual(new, to="stimulated", interval=0.9)
