"""Any AnnData through any command: done and right, or refused in one line with nothing written.

Hypothesis draws cells (`cells.py`), sometimes damages the file (`damage.py`), and draws a command line (`lines.py`).
The draws are the same at every run. 28 cases are tried at every change, 2,000 in the slow suite, which also looks for
the smallest case that fails.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from corpus.drive import digest
from fuzz.cells import GENES, Cells, cells, mostly, write
from fuzz.damage import damage
from fuzz.lines import COMMANDS, OUTPUTS, line
from hypothesis import HealthCheck, Phase, assume, given, note, seed, settings
from hypothesis import strategies as st
from running import in_this_process
from scipy import sparse

SECONDS = 60  # a case that takes longer hangs
CONTRACT = (0, 2, 3, 4, 5)
USUAL = {"preprocess": ("counts", "counts", "nearly"), "targets": ("counts",)}
SAME = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with models, a prediction and the cells they are of."""
    folder = tmp_path_factory.mktemp("fuzz")
    random = np.random.default_rng(0)
    n = 60
    x = random.poisson(random.gamma(2.0, 3.0, len(GENES)), (n, len(GENES))).astype("float32")
    made = ad.AnnData(sparse.csr_matrix(x))
    made.obs_names, made.var_names = [f"known{i}" for i in range(n)], GENES
    for key, values in (
        ("stim", ["control", "stim"]),
        ("cell_type", ["B", "NK", "B", "T"]),
        ("batch", ["b1", "b2", "b2"]),
    ):
        made.obs[key] = np.array(values)[np.arange(n) % len(values)]
    made.obs["dose"] = random.choice([0.0, 10, 100], n)
    made.write_h5ad(folder / "raw.h5ad")
    small = "--epochs 1 --set hidden=[4] --latent-dim 3"
    for words in (
        "preprocess raw.h5ad -o pp.h5ad --n-top-genes 0",
        f"train pp.h5ad --method comp --condition stim --label cell_type -m comp {small}",
        "train pp.h5ad --method linear --condition stim -m linear",
        f"train pp.h5ad --method scvi --batch batch -m scvi {small}",
        f"train pp.h5ad --method svae+ --condition stim -m svae {small}",
        f"train pp.h5ad --method cvae --condition stim --batch batch -m cvae {small}",
        f"train pp.h5ad --method comp --condition dose --continuous -m dose {small}",
        "counterfactual pp.h5ad -m linear --to stim -o predicted.h5ad",
    ):
        done = in_this_process(words.split(), folder)
        assert done.returncode == 0, done.stderr
    return folder


class Hanging(BaseException):
    """The command took too long; no handler of the command's catches it."""


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """End a command that hangs, where signals reach it."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def end(number: int, frame: Any) -> None:
        raise Hanging

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    except Hanging:
        raise AssertionError(f"no end after {SECONDS} seconds") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("command", COMMANDS)
def test_any_input(command, place):
    @seed(0)
    @settings(max_examples=2, phases=[Phase.generate], **SAME)
    @given(st.data())
    def case(data):
        try_one(data.draw, command, place)

    case()


@pytest.mark.slow
@pytest.mark.parametrize("part", range(1, 5))
@pytest.mark.parametrize("command", COMMANDS)
def test_two_thousand_inputs(command, part, place):
    @seed(part)
    @settings(max_examples=72, report_multiple_bugs=False, **SAME)
    @given(st.data())
    def case(data):
        try_one(data.draw, command, place)

    case()


def try_one(draw: Any, command: str, place: Path) -> None:
    drawn = draw(cells(USUAL.get(command, ("log", "log", "counts")), embedded=command == "evaluate"))
    input = draw(mostly(st.just("in.h5ad"), st.just("in.zarr")), label="file")
    folder = Path(tempfile.mkdtemp(dir=place))
    try:
        try:
            write(drawn, folder / input)
        except Exception as error:  # no file: anndata does not write it
            note(f"not written: {error}")
            assume(False)
        if input == "in.h5ad" and not drawn.tame and draw(st.integers(0, 3), label="damaged") == 3:
            damage(draw, folder / input)
            drawn.mutated = True
        hold(drawn, line(draw, command, drawn, input), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def hold(drawn: Cells, words: list[object], folder: Path) -> None:
    """What has to hold of every command line over every file."""
    command = str(words[0])
    if command in OUTPUTS:
        words = [*words, *(["-o", {"targets": "t.csv"}.get(command, "o.h5ad")] if command != "train" else ["-m", "m"])]
    before = digest(folder)
    with watched():
        done = in_this_process(words, folder)
    shown = f"{shlex.join(map(str, words))}\n{done.stderr[-3000:]}"
    note(shown)
    assert done.returncode in CONTRACT, f"status {done.returncode}: {shown}"
    assert "Traceback" not in done.stderr and "unexpected" not in done.stderr, shown
    assert not set(done.stdout + done.stderr) & set("\x1b\x07\x00"), f"control characters reach the terminal: {shown}"
    after = digest(folder)
    assert {path: after.get(path) for path in before} == before, f"the input was changed: {shown}"
    written = sorted(set(after) - set(before))
    errors = [text for text in done.stderr.splitlines() if text.startswith("cellalign: error: ")]
    if done.returncode:
        assert len(errors) == 1 and done.stderr.strip().splitlines()[-1] == errors[0], f"not one line: {shown}"
        assert "-q" not in words or len(done.stderr.strip().splitlines()) == 1, f"-q says more than the error: {shown}"
        assert not written or done.returncode == 5, f"refused, but written: {written}: {shown}"
        assert "damaged" not in errors[0] or drawn.mutated or "model" in errors[0], f"called damaged: {shown}"
        return
    assert not errors, shown
    assert "-q" not in words or not done.stderr, f"-q says something: {shown}"
    assert not [path for path in written if "partial" in path], shown
    if not drawn.mutated:
        DONE[command](drawn, words, folder, done.stdout)


# What is right


def _values(x: Any) -> np.ndarray:
    return np.asarray(x.toarray() if sparse.issparse(x) else x, dtype="float64")


def _output(folder: Path) -> ad.AnnData:
    return ad.read_h5ad(folder / "o.h5ad")


def _same_cells(drawn: Cells, made: ad.AnnData) -> None:
    assert list(made.obs_names) == [str(name) for name in drawn.adata.obs_names]
    np.testing.assert_array_equal(made.obs["marker"].to_numpy(), drawn.adata.obs["marker"].to_numpy())


def _some_cells(drawn: Cells, made: ad.AnnData) -> np.ndarray:
    """The rows of the source that an output holds, in the source's order."""
    rows = made.obs["marker"].to_numpy()
    assert made.n_obs > 0 and (np.diff(rows) > 0).all(), "cells out of order"
    assert list(made.obs_names) == [str(name) for name in drawn.adata.obs_names[rows]]
    return rows


def preprocessed(drawn: Cells, words: list[object], folder: Path, said: str) -> None:
    made = _output(folder)
    rows = _some_cells(drawn, made)
    assert made.var_names.is_unique and made.n_vars > 0
    assert np.isfinite(_values(made.X)).all()
    if "counts" in made.layers:
        counts = _values(made.layers["counts"])
        assert (counts >= 0).all() and np.array_equal(counts, np.round(counts))
        picked = [str(word) for word in words if str(word).startswith(("--layer", "--raw", "--round", "--gene-key"))]
        plain = not picked and drawn.adata.raw is None and not len(drawn.adata.layers)
        if plain and drawn.counts is not None and set(made.var_names) <= set(drawn.adata.var_names):
            columns = [list(drawn.adata.var_names).index(name) for name in made.var_names]
            np.testing.assert_array_equal(counts, drawn.counts[rows][:, columns])


def trained(drawn: Cells, words: list[object], folder: Path, said: str) -> None:
    import cellalign

    model = cellalign.load(folder / "m")
    assert model.record.cells.all == drawn.adata.n_obs
    for weights in model.method.state_dict().values():
        assert np.isfinite(weights.double().cpu().numpy()).all(), "weights are not finite"


def embedded(drawn: Cells, words: list[object], folder: Path, said: str) -> None:
    made = _output(folder)
    _same_cells(drawn, made)
    new = [key for key in made.obsm if key.startswith("X_") and key not in drawn.adata.obsm]
    for key in new or ["X_comp"]:
        assert np.isfinite(_values(made.obsm[key])).all()


def predicted(drawn: Cells, words: list[object], folder: Path, said: str) -> None:
    made = _output(folder)
    if not any(str(word).startswith("--draws") for word in words):
        rows = made.obs["marker"].to_numpy()
        assert made.n_obs > 0 and (np.diff(rows) > 0).all(), "cells out of order"
    assert np.isfinite(_values(made.X)).all()
    assert all(np.isfinite(_values(layer)).all() for name, layer in made.layers.items() if name and name != "source")


def annotated(drawn: Cells, words: list[object], folder: Path, said: str) -> None:
    made = _output(folder)
    _same_cells(drawn, made)
    label = next(str(word).partition("=")[2] for word in words if str(word).startswith("--label="))
    assert not made.obs[f"{label}_predicted"].isna().any()
    probability = made.obs[f"{label}_probability"].to_numpy()
    assert ((probability >= 0) & (probability <= 1 + 1e-6)).all()


def evaluated(drawn: Cells, words: list[object], folder: Path, said: str) -> None:
    assert said.strip()
    if "json" in words:
        json.loads(said)


def targeted(drawn: Cells, words: list[object], folder: Path, said: str) -> None:
    assert (folder / "t.csv").read_text().strip()


DONE = {
    "preprocess": preprocessed,
    "train": trained,
    "embed": embedded,
    "counterfactual": predicted,
    "annotate": annotated,
    "evaluate": evaluated,
    "targets": targeted,
}
