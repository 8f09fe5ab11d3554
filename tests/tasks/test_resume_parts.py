"""A run of several trainings (members of a stack, refits of a calibration) that is cut off goes on where it was."""

import numpy as np
import pytest

import cellalign
from cellalign.engine import fit as fitting
from cellalign.errors import ModelError, UsageError
from tests.methods.test_local import cells

OPTIONS = {"condition": "stim", "control": "control", "label": "cell_type", "threads": 1, "epochs": 4, "batch_size": 32}
STACK = {"method": "auto", "settings": {"members": "scgen", "folds": 2, "fold_epochs": 1}}
CALIBRATED = {
    "method": "scgen",
    "settings": {"hidden": [8], "latent_dim": 3},
    "calibrate": "cell_type",
    "calibrate_folds": 3,
}


@pytest.fixture
def adata():
    return cells(n=16, types="ABCD")


class Steps:
    """Counts the steps of all trainings, and ends the run at one of them as ctrl-c does."""

    def __init__(self, monkeypatch):
        self.done, self.at = 0, None
        step = fitting._Run.step

        def counted(run, *given):
            self.done += 1
            if self.done == self.at:
                raise KeyboardInterrupt
            return step(run, *given)

        monkeypatch.setattr(fitting._Run, "step", counted)


@pytest.mark.parametrize(
    "given", [pytest.param(STACK, marks=pytest.mark.slow, id="stack"), pytest.param(CALIBRATED, id="calibration")]
)
def test_what_was_trained_is_not_trained_again_and_the_end_is_the_same(adata, tmp_path, monkeypatch, given):
    steps = Steps(monkeypatch)
    whole = cellalign.train(adata, model_path=tmp_path / "whole", **OPTIONS, **given)
    of_one, steps.done = steps.done, 0
    steps.at = 2 * of_one // 3
    with pytest.raises(KeyboardInterrupt) as caught:
        cellalign.train(adata, model_path=tmp_path / "m", checkpoint_every=0, **OPTIONS, **given)
    assert any("go on with" in note for note in caught.value.__notes__)
    with pytest.raises(UsageError, match="was cut off"):
        cellalign.train(adata, model_path=tmp_path / "m", **OPTIONS, **given)
    steps.at = None
    again = cellalign.train(adata, model_path=tmp_path / "m", resume=True, **OPTIONS, **given)
    assert steps.done == of_one + 1  # the step that was cut off
    for name, value in whole.method.state_dict().items():
        np.testing.assert_array_equal(value, again.method.state_dict()[name], err_msg=name)
    if given is CALIBRATED:
        np.testing.assert_array_equal(whole.calibration.predicted, again.calibration.predicted)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "whole"]


def test_parts_go_with_the_run_and_are_of_its_settings(adata, tmp_path, monkeypatch):
    steps = Steps(monkeypatch)
    steps.at = 6
    with pytest.raises(KeyboardInterrupt):
        cellalign.train(adata, model_path=tmp_path / "m", checkpoint_every=0, **OPTIONS, **STACK)
    assert (tmp_path / "m.partial" / "parts").is_dir()
    with pytest.raises(ModelError, match="another seed"):
        cellalign.train(adata, model_path=tmp_path / "m", resume=True, seed=1, **OPTIONS, **STACK)
    steps.at, steps.done = None, 0
    cellalign.train(adata, model_path=tmp_path / "m", restart=True, **OPTIONS, **STACK)
    assert steps.done > 6 and [p.name for p in tmp_path.iterdir()] == ["m"]


def test_closed_forms_leave_nothing(adata, tmp_path):
    cellalign.train(adata, model_path=tmp_path / "m", method="auto", **OPTIONS)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_run_that_ends_after_its_last_epoch_says_what_goes_on(tiny, tmp_path, monkeypatch):
    from cellalign.model import Model

    def ended(self, *given, **more):
        raise KeyboardInterrupt

    options = {"method": "cvae", "condition": "stim", "epochs": 2, "settings": {"hidden": [8], "latent_dim": 3}}
    with monkeypatch.context() as at_the_end:
        at_the_end.setattr(Model, "save", ended)
        with pytest.raises(KeyboardInterrupt) as caught:
            cellalign.train(tiny, model_path=tmp_path / "m", checkpoint_every=0, **options)
    assert caught.value.__notes__ == ["what was trained until now is kept; go on with: train again with resume=True"]
    assert cellalign.train(tiny, model_path=tmp_path / "m", resume=True, **options).record.outcome.epochs == 2
