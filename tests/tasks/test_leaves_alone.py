"""A library call leaves the caller's random streams, threads, determinism and environment as they were."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import cellalign
from cellalign.engine import device
from cellalign.engine.device import computing, own_process

FAST = {"epochs": 1, "settings": {"hidden": [8]}, "threads": 2, "device": "cpu"}


def state() -> tuple:
    rules = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    legacy = np.random.get_state()  # noqa: NPY002
    environment = {k: v for k, v in os.environ.items() if k.startswith(("CUBLAS", "MALLOC", "OMP", "NUMBA"))}
    return torch.get_rng_state().tolist(), legacy[1].tolist(), legacy[2], torch.get_num_threads(), rules, environment


@pytest.fixture(scope="module")
def model(tiny_cells):
    return cellalign.train(tiny_cells, method="cvae", condition="stim", **FAST)


FIXTURES = Path(__file__).parents[1] / "fixtures" / "format1"
MACHINE = {"threads": 2, "device": "cpu"}
CALLS = {
    "preprocess": lambda cells, model: cellalign.preprocess(cells),
    "train": lambda cells, model: cellalign.train(cells, method="comp", condition="stim", **FAST),
    "embed": lambda cells, model: cellalign.embed(cells.copy(), model, umap=True, **MACHINE),
    "counterfactual": lambda cells, model: cellalign.counterfactual(
        cells, model, to="stimulated", samples=2, **MACHINE
    ),
    "posterior": lambda cells, model: model.posterior(cells),
    "nelbo": lambda cells, model: model.nelbo(cells, **MACHINE),
    "load": lambda cells, model: cellalign.load(FIXTURES / "comp"),
    "nll": lambda cells, model: model.nll(cells, particles=2, **MACHINE),
    "annotate": lambda cells, model: cellalign.annotate(cells, model, reference=cells, label="cell_type", **MACHINE),
    "evaluate": lambda cells, model: cellalign.evaluate(
        cells, condition="stim", model=model, panels=["mixing", "probe", "likelihood"], particles=2, **MACHINE
    ),
    "tune": lambda cells, model: cellalign.tune(
        cells, method="cvae", grid={"lr": [1e-3]}, seeds=1, condition="stim", **FAST
    ),
    "benchmark": lambda cells, model: cellalign.benchmark(
        cells, methods=["linear"], condition="stim", holdout_each="cell_type", groups=["NK"], validation=0, **MACHINE
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_the_caller_alone(name, tiny_cells, model, monkeypatch):
    monkeypatch.setattr(device, "keep_freed_memory", lambda: pytest.fail("mallopt is the command line's"))
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    before = state()
    CALLS[name](tiny_cells, model)
    assert state() == before


@pytest.mark.slow
def test_targets_and_transfer_leave_the_caller_alone(svae_model, shifts):
    before = state()
    cellalign.targets(svae_model, shifts, programs=2, **MACHINE)
    cellalign.transfer(shifts, svae_model, **MACHINE)
    assert state() == before


def test_a_failed_call_leaves_the_caller_alone():
    before = state()
    with pytest.raises(RuntimeError), computing("cpu", 2):
        torch.manual_seed(1)
        torch.use_deterministic_algorithms(True)
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
        raise RuntimeError
    assert state() == before


def test_a_seed_gives_what_it_gave_whatever_the_callers_stream(tiny_cells):
    cells = tiny_cells
    torch.manual_seed(1)
    first = cellalign.train(cells, method="cvae", condition="stim", seed=3, **FAST).embed(cells)
    torch.rand(5)
    np.testing.assert_array_equal(
        first, cellalign.train(cells, method="cvae", condition="stim", seed=3, **FAST).embed(cells)
    )


def test_the_command_line_owns_its_process(monkeypatch):
    kept = []
    monkeypatch.setattr(device, "keep_freed_memory", lambda: kept.append(True))
    before = torch.get_num_threads()
    try:
        own_process("cpu", before + 1)
        assert torch.get_num_threads() == before + 1 and kept
    finally:
        torch.set_num_threads(before)
