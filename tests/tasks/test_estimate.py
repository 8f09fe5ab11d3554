"""What a training will take: counted as it is done, and not said where a part of the cells does not tell."""

import math
import time
from dataclasses import replace

import pytest
import torch

import cellalign
from cellalign.tasks.estimate import VALIDATING, estimated, in_words, work_of
from cellalign.tasks.prepare import prepare

CPU = torch.device("cpu")


def test_steps_are_those_that_are_taken(tiny):
    asked = {"method": "cvae", "condition": "stim", "epochs": 3, "batch_size": 32, "settings": {"hidden": [8]}}
    prepared = prepare(tiny, **asked)
    found, model = estimated(prepared, CPU, always=True), cellalign.train(tiny, **asked)
    assert (found.epochs, found.steps) == (model.record.outcome.epochs, model.record.outcome.steps)
    assert found.weights == sum(p.numel() for p in model.method.parameters()) and found.seconds > 0
    n, checked = map(len, prepared.rows)
    assert work_of(prepared) == pytest.approx(3 * (math.ceil(n / 32) + VALIDATING * math.ceil(checked / 32)))
    assert "at most 3 epochs of 7 steps" in found.said and found.memory in found.said


def test_a_closed_form_is_in_proportion_to_its_cells(tiny):
    prepared = prepare(tiny, method="linear", condition="stim")
    found = estimated(prepared, CPU, always=True)
    assert work_of(prepared) == len(prepared.train_rows) and "(a closed form)" in found.said


def test_networks_in_a_stack_are_not_timed_as_its_closed_forms(tiny):
    asked = {"method": "auto", "condition": "stim", "label": "cell_type"}
    assert estimated(prepare(tiny, **asked), CPU, always=True).seconds > 0
    small = {"epochs": 4, "batch_size": 64}
    prepared = prepare(tiny, **asked, **small, settings={"members": "local,cvae,scgen", "folds": 2})
    found, each = estimated(prepared, CPU, always=True), math.ceil(len(prepared.train_rows) / 64)
    assert found.steps == 2 * 8 * each  # two networks: half the epochs in each of two folds, then all
    assert found.seconds > 0 and f"at most {found.steps:,} steps of cvae, scgen, trained anew" in found.said
    assert work_of(prepared) >= found.steps
    quick = estimated(prepared, CPU)
    assert quick.seconds is None and quick.said == quick.how != "a closed form"


@pytest.mark.parametrize(("seconds", "said"), [(0.2, "a second"), (3, "3 s"), (47, "45 s"), (600, "10 min")])
def test_durations_are_said_no_more_exactly_than_they_are_known(seconds, said):
    assert in_words(seconds) == said


def test_refits_and_folds_are_counted(tiny):
    asked = {"method": "auto", "condition": "stim", "label": "cell_type"}
    once = prepare(tiny, **asked)
    found = estimated(once, CPU)  # unasked too: a stack is fitted again in every fold
    assert found.seconds > 0 and "at most about" in found.said and f"at most {found.fits} times" in found.said
    again = estimated(replace(once, refits=5), CPU)
    assert 1.5 * found.seconds < again.seconds < 24 * found.seconds and "and 5 refits to calibrate" in again.said
    local = prepare(tiny, method="local", condition="stim", label="cell_type")
    assert estimated(local, CPU).seconds is None and estimated(replace(local, refits=5), CPU).seconds > 0


def test_what_an_epoch_begins_with_once_is_no_part_of_a_step(tiny, monkeypatch):
    asked = {"method": "cvae", "condition": "stim", "epochs": 100, "batch_size": 32, "settings": {"hidden": [8]}}
    prepared = prepare(tiny, **asked)
    usual, turns = estimated(prepared, CPU).seconds, []

    def turned(self, progress, epoch_share):
        if progress >= 0.5 and not turns:
            turns.append(time.sleep(1))

    monkeypatch.setattr("cellalign.methods.cvae.CVAE.on_epoch_start", turned)
    assert estimated(prepared, CPU).seconds < 10 * usual and turns
