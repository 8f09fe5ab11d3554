"""Errors from Python speak Python, errors of a command speak the command line."""

import numpy as np
import pytest

import cellalign
from cellalign.errors import CellalignError, on_command_line, option, spoken
from cellalign.tasks.declaration import DECLARATIONS, flags_of
from cellalign.tasks.evaluate_outputs import check_pictures

TRAIN = {"method": "cvae", "condition": "stim", "settings": {"hidden": [8]}, "epochs": 1}


def test_a_parameter_in_both_languages():
    assert (option("threads"), option("threads", 0), option("to", "high")) == ("threads", "threads=0", "to='high'")
    assert option("continuous", True) == "continuous=True" and option("holdout", ["a=b"]) == "holdout=['a=b']"
    with on_command_line({"settings": "--set", "from_": "--from"}):
        assert (option("threads"), option("threads", 0), option("to", "high")) == (
            "--threads", "--threads 0", "--to high",
        )  # fmt: skip
        assert option("continuous", True) == "--continuous" and option("holdout", ["a=b"]) == "--holdout a=b"
        assert option("missing_genes", "zero") == "--missing-genes zero" and option("settings") == "--set"
        assert option("from_") == "--from" and option("condition", hint="KEY") == "--condition KEY"
        assert spoken(python="f()", command="cellalign f") == "cellalign f"
    assert option("condition", hint="KEY") == "condition" and spoken(python="f()", command="cellalign f") == "f()"


def test_the_language_comes_back_after_an_error():
    with pytest.raises(RuntimeError), on_command_line({}):
        raise RuntimeError
    assert option("threads") == "threads"


def mistakes(tiny, model):
    """Calls that fail, each with words of the Python message and of the command's."""
    counts = tiny.copy()
    counts.X = counts.layers["counts"].copy()
    missing = tiny.copy()
    missing.obs["stim"] = missing.obs["stim"].astype(object)
    missing.obs.loc[missing.obs_names[:3], "stim"] = np.nan
    dose = tiny.copy()
    dose.obs["stim"] = np.linspace(0, 1, tiny.n_obs)
    train, predict, shift = cellalign.train, cellalign.counterfactual, cellalign.simulate.sparse_shift
    return [
        ("train", lambda: train(tiny, method="comp"), "needs condition,", "needs --condition KEY,"),
        ("train", lambda: train(tiny, method="scanvi"), "needs label,", "needs --label KEY,"),
        ("train", lambda: train(tiny, **TRAIN, threads=0), "threads must be", "--threads must be"),
        ("train", lambda: train(tiny, **TRAIN, device="cuda:9"), "device='auto'", "--device auto"),
        ("train", lambda: train(tiny, **TRAIN, resume=True), "resume=True needs model_path", "--resume needs"),
        ("train", lambda: train(tiny, **TRAIN, holdout=["cell_type=B,stim=x"]), "", ""),
        ("train", lambda: train(tiny, **TRAIN, numeric=["age"]), "neither a batch nor a cov", "a --batch nor a"),
        ("train", lambda: train(tiny, **TRAIN, n_top_genes=5), "n_top_genes=5 is of raw", "--n-top-genes 5 is of raw"),
        ("train", lambda: train(missing, **TRAIN), "allow_missing_condition=True", "--allow-missing-condition"),
        ("train", lambda: train(dose, **TRAIN), "continuous=True", "name it with --continuous,"),
        ("train", lambda: train(tiny, method="pca", control="x"), "control='x' needs cond", "--control x needs --cond"),
        ("train", lambda: train(tiny, method="vfae", condition="stim", continuous=True), "no continuous;", "no --cont"),
        (
            "train",
            lambda: train(dose, **TRAIN, continuous=True, control="0"),
            "condition with continuous=True has no control",
            "--condition with --continuous has no --control",
        ),
        ("embed", lambda: cellalign.embed(tiny[:, 1:].copy(), model), "missing_genes='zero'", "--missing-genes zero"),
        ("counterfactual", lambda: predict(tiny, model, to="control", from_="control"), "to and from_ are", "--from"),
        ("counterfactual", lambda: predict(tiny, model, to="control", samples=-1), "samples must", "--samples must"),
        (
            "counterfactual",
            lambda: predict(
                tiny, model, to="stimulated", where={"cell_type": "B", "donor": "d1", "stim": "stimulated"}
            ),
            "what where asks",
            "what --where asks",
        ),
        ("tune", lambda: cellalign.tune(tiny, method="comp", grid={}), "grid is needed", "--grid KEY=VALUE,VALUE is"),
        ("tune", lambda: cellalign.tune(tiny, grid={"lr": [1]}, by="x"), "by='x' is none", "--by x is none"),
        (
            "benchmark",
            lambda: cellalign.benchmark(
                tiny, methods=["linear"], condition="cell_type", holdout_each="donor", settings={"pca": {}}
            ),
            "control is needed",
            "--control VALUE is needed",
        ),
        ("targets", lambda: cellalign.load("nothing"), "cellalign.train(adata, model_path='nothing')", "-m nothing"),
        ("preprocess", lambda: cellalign.preprocess(counts, min_cells=10_000), "min_cells", "--min-cells"),
        (
            "simulate sparse-shift",
            lambda: shift(4, n_heldout=4),
            "n_heldout=4",
            "--heldout 4",
        ),
        ("simulate sparse-shift", lambda: shift(variant="x"), "variant='x'", "--variant x"),
        (
            "evaluate",
            lambda: check_pictures({"scib_table": "a.png"}, against=False, label=False),
            "scib_table needs label,",
            "--scib-table needs --label KEY,",
        ),
    ]


def test_messages_in_both_languages(tiny_cells):
    model = cellalign.train(tiny_cells, **TRAIN)
    for verb, call, python, command in mistakes(tiny_cells, model):
        declaration = DECLARATIONS[verb]
        with pytest.raises(CellalignError) as said:
            call()
        assert python in str(said.value) and " --" not in f" {said.value}", str(said.value)
        with on_command_line(flags_of([*declaration.own(), *declaration.options()])):
            with pytest.raises(CellalignError) as said:
                call()
        assert command in str(said.value), str(said.value)


def test_no_message_of_these_rooms_spells_an_option_itself():
    """Messages go through `option`; only help texts and docstrings of commands may spell the command line."""
    import re
    from pathlib import Path

    root = Path(cellalign.__file__).parent
    spelled = re.compile(r'(?:Error|NotApplicable|warning|info)\([^#\n]*"[^"\n]*--[a-z]')
    for folder in ("tasks", "data", "engine", "simulate", "."):
        for path in (root / folder).glob("*.py"):
            found = [line for line in path.read_text().splitlines() if spelled.search(line)]
            assert not found, (path, found)
