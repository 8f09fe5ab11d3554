"""A training meets a run of the same name: one cut off, one complete, one that is going on."""

import logging
import shutil

import pytest
import torch

import cellalign
from cellalign.engine import checkpoint
from cellalign.errors import ModelError, UsageError
from tests.support import StopAfter

FAST = {"method": "cvae", "condition": "stim", "epochs": 4, "settings": {"hidden": [8], "latent_dim": 3}}


def train(adata, folder, **more):
    return cellalign.train(adata, model_path=folder / "m", **(FAST | more))


@pytest.fixture
def cut_off(tiny, tmp_path):
    """A folder with a run of `tiny` that was cut off after its second epoch."""
    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path, progress=StopAfter(2))
    return tmp_path


def state(folder):
    return (folder / "m.partial" / "state.safetensors").read_bytes()


def test_a_checkpoint_is_never_deleted_unasked(tiny, cut_off):
    before = state(cut_off)
    with pytest.raises(
        UsageError, match=r"of these settings .* after 2 epochs; go on with it by resume=True, or throw"
    ):
        train(tiny, cut_off)
    with pytest.raises(UsageError, match=r"another seed .*; choose another name, or throw it away by restart=True"):
        train(tiny, cut_off, seed=1, force=True)
    for how in ("resume", "auto_resume"):
        with pytest.raises(ModelError, match="another seed"):
            train(tiny, cut_off, seed=1, **{how: True})
    assert state(cut_off) == before and not (cut_off / "m").exists()


@pytest.mark.parametrize("how", ["resume", "auto_resume"])
def test_it_is_gone_on_with(tiny, cut_off, how):
    whole = cellalign.train(tiny, **FAST)
    model = train(tiny, cut_off, **{how: True})
    assert (model.embed(tiny) == whole.embed(tiny)).all() and [p.name for p in cut_off.iterdir()] == ["m"]


def test_it_is_thrown_away_when_asked(tiny, cut_off):
    assert train(tiny, cut_off, restart=True, seed=1).record.seed == 1
    assert [p.name for p in cut_off.iterdir()] == ["m"]


def test_a_job_tried_again_starts_goes_on_or_is_done(tiny, tmp_path, caplog):
    """The same line each time."""
    again = {"auto_resume": True}
    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path, progress=StopAfter(3), **again)
    model = train(tiny, tmp_path, **again)
    written = (tmp_path / "m" / "model.yaml").stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        done = train(tiny, tmp_path, **again)
    assert "is complete, of the same cells and settings" in caplog.text
    assert (done.embed(tiny) == model.embed(tiny)).all()
    assert (tmp_path / "m" / "model.yaml").stat().st_mtime_ns == written
    with pytest.raises(UsageError, match="exists; pass force=True"):
        train(tiny, tmp_path, seed=1, **again)
    assert train(tiny, tmp_path, seed=1, force=True, **again).record.seed == 1


def test_what_a_run_left_that_was_killed_between_its_model_and_its_state_is_thrown_away(tiny, cut_off):
    """The next run found the model complete, and the state stayed for ever."""
    shutil.copytree(cut_off / "m.partial", cut_off / "kept")
    train(tiny, cut_off, auto_resume=True)
    (cut_off / "kept").rename(cut_off / "m.partial")
    train(tiny, cut_off, auto_resume=True)
    assert [p.name for p in cut_off.iterdir()] == ["m"]
    (cut_off / "m.partial").mkdir()  # killed before the folder was gone
    train(tiny, cut_off, auto_resume=True)
    assert [p.name for p in cut_off.iterdir()] == ["m"]


def test_beside_a_complete_model_another_runs_state_stays(tiny, cut_off):
    shutil.copytree(cut_off / "m.partial", cut_off / "kept")
    train(tiny, cut_off, seed=1, restart=True)
    (cut_off / "kept").rename(cut_off / "m.partial")
    train(tiny, cut_off, seed=1, auto_resume=True)
    assert (cut_off / "m.partial" / "state.safetensors").exists()


def test_a_run_goes_on_with_another_rate_or_more_epochs(tiny, cut_off, caplog):
    with caplog.at_level(logging.INFO):
        model = train(tiny, cut_off, resume=True, lr=1e-4, epochs=6)
    assert "another epochs (4, now 6)" in caplog.text and "another lr (" in caplog.text
    assert [row["epoch"] for row in model.history] == [1, 2, 3, 4, 5, 6]
    assert model.record.training["epochs"] == 6 and model.history[-1]["lr"] < 1e-4 < model.history[1]["lr"]


def test_a_run_is_deterministic_from_its_beginning_or_not_at_all(tiny, cut_off):
    with pytest.raises(ModelError, match="another deterministic .False, now True"):
        train(tiny, cut_off, resume=True, deterministic=True)
    train(tiny, cut_off, resume=True)
    with pytest.raises(UsageError, match="exists"):
        train(tiny, cut_off, auto_resume=True, deterministic=True)


def test_fewer_epochs_than_are_done_are_refused(tiny, cut_off):
    with pytest.raises(UsageError, match="epochs=1 is less than the 2 that are done"):
        train(tiny, cut_off, resume=True, epochs=1)


def test_a_damaged_checkpoint_is_said_and_can_be_thrown_away(tiny, cut_off):
    (cut_off / "m.partial" / "state.safetensors").write_bytes(state(cut_off)[:-3])
    for how in ({}, {"resume": True}, {"auto_resume": True}):
        with pytest.raises(ModelError, match="is damaged .*; throw it away with restart=True"):
            train(tiny, cut_off, **how)
    train(tiny, cut_off, restart=True)


@pytest.mark.parametrize("how", ["auto_resume", "restart"])
@pytest.mark.parametrize("left", ["saving/.tmpX1y2Z3", "saving/state.safetensors", ".tmpAbC123", "owner.json.4711"])
def test_what_a_run_left_that_was_killed_while_it_saved_is_its_own(tiny, cut_off, left, how):
    """safetensors writes under a name of its own first: the folder was then taken for somebody else's."""
    (cut_off / "m.partial" / left).parent.mkdir(exist_ok=True)
    (cut_off / "m.partial" / left).write_bytes(b"half of")
    train(tiny, cut_off, **{how: True})
    assert [p.name for p in cut_off.iterdir()] == ["m"]


def test_all_that_is_written_for_a_checkpoint_lies_where_it_is_known(tmp_path, monkeypatch):
    """Under whatever name: what is seen beside the state while it is saved is a folder of its own."""
    held, save = [], checkpoint.save_file

    def saving(tensors, path, metadata):
        held.extend(each.name for each in tmp_path.iterdir())
        save(tensors, path, metadata)
        held.extend(each.name for each in tmp_path.iterdir())

    monkeypatch.setattr(checkpoint, "save_file", saving)
    kept = checkpoint.Checkpoint(tmp_path, {"seed": 1})
    for epoch in (1, 2):
        kept.save({"w": torch.ones(3)}, {"epoch": epoch})
        assert [each.name for each in tmp_path.iterdir()] == ["state.safetensors"]
    assert set(held) == {"saving", "state.safetensors"}


def test_a_folder_of_somebody_elses_is_left_alone(tiny, tmp_path):
    (tmp_path / "m.partial").mkdir()
    (tmp_path / "m.partial" / "thesis.txt").write_text("all of it")
    for how in ({}, {"restart": True}, {"auto_resume": True}, {"force": True}):
        with pytest.raises(UsageError, match=r"m\.partial is needed for the model .*not cellalign's; rename it"):
            train(tiny, tmp_path, **how)
    assert (tmp_path / "m.partial" / "thesis.txt").read_text() == "all of it"


def test_two_trainings_of_one_model_are_refused(tiny, tmp_path):
    class Second:
        def update(self, epoch, epochs, row):
            from threading import Thread

            said = []

            def second():
                try:
                    train(tiny, tmp_path)
                except UsageError as error:
                    said.append(str(error))

            thread = Thread(target=second)
            thread.start()
            thread.join()
            assert "another job (process" in said[0] and "wait=True" in said[0]

    train(tiny, tmp_path, epochs=1, progress=Second())
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_what_excludes_each_other(tiny, tmp_path):
    with pytest.raises(UsageError, match="resume=True and restart=True exclude each other"):
        train(tiny, tmp_path, resume=True, restart=True)
    with pytest.raises(UsageError, match="restart=True needs model_path"):
        cellalign.train(tiny, restart=True, **FAST)
    with pytest.raises(UsageError, match="nothing to resume"):
        train(tiny, tmp_path, resume=True)
    assert not list(tmp_path.iterdir())
