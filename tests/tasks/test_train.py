"""What `train` leaves behind, and what a model and the package say of themselves."""

import pytest
import torch

import cellalign
from cellalign.errors import InputError, UsageError
from cellalign.model import Model

FAST = {"method": "cvae", "condition": "stim", "epochs": 1, "settings": {"hidden": [8], "latent_dim": 3}}


def test_a_model_path_holds_the_model_and_no_checkpoint(tiny, tmp_path):
    model = cellalign.train(tiny, model_path=tmp_path / "model", **FAST)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (cellalign.load(tmp_path / "model").embed(tiny) == model.embed(tiny)).all()


def test_a_model_that_is_there_is_not_replaced_unasked(tiny, tmp_path):
    cellalign.train(tiny, model_path=tmp_path / "model", **FAST)
    with pytest.raises(UsageError, match="exists; pass force=True to replace it"):
        cellalign.train(tiny, model_path=tmp_path / "model", **FAST)
    cellalign.train(tiny, model_path=tmp_path / "model", seed=1, force=True, **FAST)
    assert cellalign.load(tmp_path / "model").record.seed == 1


def test_a_checkpoint_stays_until_the_model_is_saved(tiny, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise InputError("the disk is full")

    monkeypatch.setattr(Model, "save", fails)
    with pytest.raises(InputError):
        cellalign.train(tiny, model_path=tmp_path / "model", checkpoint_every=0, **FAST)
    assert [path.name for path in (tmp_path / "model.partial").iterdir()] == ["state.safetensors"]
    monkeypatch.undo()
    model = cellalign.train(tiny, model_path=tmp_path / "model", resume=True, **FAST)
    assert model.record.outcome.epochs == 1 and [path.name for path in tmp_path.iterdir()] == ["model"]


def test_which_matrix_a_method_reads():
    assert cellalign.matrix_for("comp") == ("X",) and cellalign.matrix_for("scvi") == ("counts", "X")
    assert cellalign.matrix_for("comp", layer="raw") == ("raw",)
    with pytest.raises(UsageError, match="unknown method"):
        cellalign.matrix_for("cmop")


def test_a_model_says_what_it_is(tiny):
    model = cellalign.train(tiny, batch=["donor"], label="cell_type", **FAST)
    assert repr(model) == (
        "<cellalign.Model cvae: 60 genes, 3 latents; stim: control (reference), stimulated; batch donor: 2 values; "
        f"label cell_type: 3 values; trained on {model.record.cells.trained} cells, 1 epoch, seed 0>"
    )
    assert "dose: a number" in repr(cellalign.train(_doses(tiny), **FAST | {"condition": "dose"}, continuous=True))


def test_a_model_of_many_conditions_names_a_few(svae_model):
    assert "perturbation: 31 values" in repr(svae_model)


def test_the_package_lists_its_functions():
    assert dir(cellalign) == sorted(cellalign.__all__)
    assert all(getattr(cellalign, name) is not None for name in dir(cellalign))


def _doses(adata):
    adata.obs["dose"] = [i / adata.n_obs for i in range(adata.n_obs)]
    return adata


def test_a_training_prepared_with_others_held_out_is_that_prepared_anew(tiny):
    """All but the digest of the cells: what is tried of many trainings is prepared once."""
    from cellalign.tasks.prepare import prepare, without

    asked = {"method": "cvae", "condition": "stim", "label": "cell_type"}
    first = prepare(tiny, **asked, holdout=["cell_type=NK"])
    for holdout in (["cell_type=B,stim=stimulated"], []):
        found, known = without(first, tiny, holdout), prepare(tiny, **asked, holdout=holdout)
        assert [rows.tolist() for rows in found.rows] == [rows.tolist() for rows in known.rows]
        assert all(map(torch.equal, found.cells.columns, known.cells.columns))
        assert set(found.notes) <= set(known.notes)
        assert found.record.fields == known.record.fields and found.record.holdout == known.record.holdout
        assert found.cells.matrix is first.cells.matrix and found.plan == known.plan
    with pytest.raises(InputError, match="are left to train on"):
        without(first, tiny, ["stim=control", "stim=stimulated"])


def test_a_continuous_condition_is_said_in_its_own_units(tiny):
    from cellalign.tasks.prepare import prepare
    from cellalign.tasks.understood import of_columns

    prepared = prepare(_doses(tiny.copy()), method="cvae", condition="dose", continuous=True)
    said = dict(of_columns(prepared, torch.device("cpu")))
    assert said["condition 'dose'"] == f"one number for each cell, from 0 to {(tiny.n_obs - 1) / tiny.n_obs:.4g}"


def test_settings_of_steps_are_said_to_do_nothing_in_a_closed_form(tiny, caplog):
    caplog.set_level("INFO", "cellalign")
    plain = cellalign.train(tiny, method="local", condition="stim")
    assert "do nothing" not in caplog.text and "does nothing" not in caplog.text
    more = {"epochs": 2, "lr": 0.5, "early_stopping": True, "settings": {"batch_size": 7}}
    asked = cellalign.train(tiny, method="local", condition="stim", **more)
    said = "epochs=2, lr=0.5, early_stopping=True, batch_size=7 do nothing: local is computed at once"
    assert caplog.text.count(said) == 1 and "a batch size is rows read at a time" in caplog.text
    assert abs(asked.embed(tiny) - plain.embed(tiny)).max() < 1e-3


def test_settings_of_steps_are_heeded_by_networks_of_a_stack(tiny, caplog):
    caplog.set_level("INFO", "cellalign")
    stack = {"method": "auto", "condition": "stim", "label": "cell_type", "epochs": 1}
    cellalign.train(tiny, settings={"members": "local,scgen"}, **stack)
    assert "nothing: " not in caplog.text
    cellalign.train(tiny, **stack)
    assert "epochs=1 does nothing: auto is computed at once" in caplog.text


def test_nothing_stops_early_without_cells_to_validate_on(tiny, caplog):
    cellalign.train(tiny, validation=0.0, **FAST)
    assert "early_stopping" not in caplog.text  # it was not asked for
    cellalign.train(tiny, validation=0.0, early_stopping=True, **FAST)
    assert "early_stopping=True does nothing: without cells to validate on" in caplog.text


def test_what_is_held_out_is_named_where_it_leaves_too_little(tiny):
    without = r"without the cells that holdout=\['stim=stimulated'\] leaves out, condition column 'stim' holds one"
    with pytest.raises(InputError, match=without):
        cellalign.train(tiny, method="linear", condition="stim", holdout=["stim=stimulated"])
    one = tiny[tiny.obs["stim"] == "control"].copy()
    with pytest.raises(
        InputError, match="^condition column 'stim' holds one condition only"
    ):  # nothing else is at fault
        cellalign.train(one, method="linear", condition="stim", holdout=["cell_type=B"])


def test_columns_that_could_be_the_one_a_method_needs_are_named(tiny):
    tiny.obs["lists"] = [[1]] * tiny.n_obs
    with pytest.raises(
        UsageError, match=r"needs condition, .*columns of a few values: stim \(2 values\), cell_type \("
    ):
        cellalign.train(tiny, method="comp")
    with pytest.raises(UsageError, match=r"needs label, .*: cell_type \(3 values\)"):
        cellalign.train(tiny, method="scanvi", condition="stim")


def test_a_stack_of_closed_forms_says_that_it_learns_from_all_cells(tiny, caplog):
    asked = {"method": "auto", "condition": "stim", "label": "cell_type", "seed": 1}
    with caplog.at_level("INFO", "cellalign"):
        kept = cellalign.train(tiny, **asked, validation=0.2)
    assert "validation=0.2 does nothing: auto is computed at once" in caplog.text
    assert (kept.record.cells.trained, kept.record.cells.validation) == (tiny.n_obs, 0)
    assert kept.record.training["validation"] == 0
    networks = cellalign.train(tiny, **asked, epochs=1, settings={"members": "local,cvae", "folds": 2})
    assert networks.record.cells.validation > 0  # which networks are validated on
