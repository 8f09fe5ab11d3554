"""The comparison with peers: what a runner is given, how what it writes is scored, what is kept. No peer is run."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import cellalign

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks" / "peers"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the source archive has no benchmarks")


@pytest.fixture
def peers(monkeypatch):
    """benchmarks/peers/compare.py, whose folder does not stay on the path."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("compare_peers", FOLDER / "compare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cells(tiny_counts):
    return cellalign.preprocess(tiny_counts, n_top_genes=0)


def of_type(cells: anndata.AnnData, held: str, under: str) -> anndata.AnnData:
    return cells[((cells.obs["cell_type"] == held) & (cells.obs["stim"] == under)).to_numpy()]


def written(given: anndata.AnnData, x: np.ndarray, **layers: np.ndarray) -> anndata.AnnData:
    """As a runner writes it: predicted cells under the names of the control cells."""
    source = given[given.obs["predict"].to_numpy()]
    obs = source.obs[["cell_type"]].assign(stim="stimulated")
    found = anndata.AnnData(x, obs=obs, var=given.var, layers=layers)
    found.uns["peer"] = json.dumps({"seconds": 1.5, "settings": {}})
    return found


def test_a_runner_is_given_no_stimulated_cell_of_the_type_it_predicts(peers, cells):
    held = peers.types_of(cells)[0]
    given = peers.prepared(cells, held)
    truth = of_type(cells, held, "stimulated")
    assert not given.obs_names.isin(truth.obs_names).any()
    assert given.n_obs + truth.n_obs == cells.n_obs
    asked = given[given.obs["predict"].to_numpy()]
    assert list(asked.obs_names) == list(of_type(cells, held, "control").obs_names)
    np.testing.assert_array_equal(given.X.toarray(), cells[given.obs_names].X.toarray())
    log = np.log1p(given.layers["counts"].toarray() / given.obs["n_counts"].to_numpy()[:, None] * given.uns["total"])
    np.testing.assert_allclose(given.X.toarray(), log, rtol=1e-5)  # how a peer of counts comes back


def test_types_under_one_condition_only_are_not_held_out(peers, cells):
    names = peers.types_of(cells)
    gone = of_type(cells, names[0], "stimulated").obs_names
    assert peers.types_of(cells[~cells.obs_names.isin(gone)]) == names[1:]


def test_every_prediction_of_a_runner_is_scored_alike_and_baselines_once(peers, cells):
    held = peers.types_of(cells)[-1]
    given = peers.prepared(cells, held)
    control = of_type(cells, held, "control").X.toarray()
    change = of_type(cells, held, "stimulated").X.toarray().mean(0) - control.mean(0)
    rng = np.random.default_rng(0)
    noise = rng.permutation(change)
    key = {"method": "peer", "wrote": peers.AS_IT_IS, "type": held, "seed": 0}
    rows = list(peers.rows_of(written(given, control + change, other=control + noise), cells, key, {"wall": 9.0}))
    by = {(row["method"], row["wrote"]): row for row in rows}
    assert len(by) == len(rows)
    right, wrong = by["peer", peers.AS_IT_IS], by["peer", "other"]
    assert right["r_change_de"] > 0.9 > wrong["r_change_de"]
    assert (right["wall"], right["fit"]) == (9.0, 1.5)
    assert {wrote for method, wrote in by if method != "peer"} == {"baseline"}
    assert {"no change", "mean shift", "split half"} <= {method for method, _ in by}
    assert set(peers.METRICS) <= set(right)
    assert right[peers.SHARED] == pytest.approx(1)  # the whole real change, from the same control


def test_rows_that_are_there_are_not_added_again(peers):
    key = {"method": "m", "wrote": "w", "type": "B", "seed": 1}
    assert peers.lacking(pd.DataFrame(columns=peers.KEY), [key]) == [key]
    done = pd.DataFrame([key])
    assert peers.lacking(done, [key, key | {"seed": 2}]) == [key | {"seed": 2}]


def test_the_table_has_the_mean_of_types_and_its_spread_over_seeds(peers):
    scores = {("a", 0): (0.8, 0.6), ("a", 1): (0.9, 0.7), ("b", 0): (0.5, 0.5)}
    rows = [
        {
            "method": m,
            "wrote": "w",
            "type": t,
            "seed": s,
            "wall": 2.0,
            "cpu": 1.0,
            "r_change_de": v,
            "mse_all": v,
        }
        for (m, s), values in scores.items()
        for t, v in zip("BC", values, strict=True)
    ]
    found = peers.table(pd.DataFrame(rows), "r_change_de")
    assert list(found.index) == [("a", "w"), ("b", "w")]
    assert found.loc[("a", "w"), "mean"] == pytest.approx(0.75)
    assert found.loc[("a", "w"), "sd"] == pytest.approx(np.std([0.7, 0.8], ddof=1))
    assert list(found["seeds"]) == [2, 1]
    assert list(peers.table(pd.DataFrame(rows), "mse_all").index) == [("b", "w"), ("a", "w")]
    lines = list(peers.summary(pd.DataFrame(rows)))
    assert lines[0] == "| a | w |  | 0.750 (0.071) |  |  | 750.0 (70.7) |  |  | 1 | 2 |"
    assert len(list(peers.summary(pd.DataFrame(rows[:-1])))) == 1  # b lacks a type
    begun = peers.summary(pd.DataFrame([*rows, rows[0] | {"seed": 2}]))
    assert list(begun) == lines, "a seed of which a type is there is not one of the seeds"


def test_a_peer_without_its_environment_is_not_started(peers, tmp_path):
    assert peers.command("CPA", None) is None
    assert peers.command("CPA", tmp_path) is None
    python = tmp_path / "cpa" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert peers.command("CPA", tmp_path) == [str(python), str(FOLDER / "run_cpa.py")]
    assert peers.command("local", None)[-1] == "local"


def test_a_runner_that_fails_is_said_to(peers):
    took, wrong = peers.started([sys.executable, "-c", "raise ValueError('no such thing')"], 60)
    assert "status 1" in wrong and "no such thing" in wrong
    took, wrong = peers.started([sys.executable, "-c", "pass"], 60)
    assert wrong == "" and set(took) == {"wall", "cpu"}
    assert peers.started([sys.executable, "-c", "import time; time.sleep(60)"], 0.2)[1]


@pytest.mark.slow
def test_a_method_of_cellalign_is_run_as_a_peer_is(peers, cells, tmp_path, capsys):
    held = peers.types_of(cells)[0]
    given, found = tmp_path / "given.h5ad", tmp_path / "found.h5ad"
    peers.prepared(cells, held).write_h5ad(given)
    line = peers.command("linear", None)
    took, wrong = peers.started([*line, str(given), str(found), "--seed", "0"], 300)
    assert wrong == ""
    predicted = anndata.read_h5ad(found)
    assert list(predicted.obs_names) == list(of_type(cells, held, "control").obs_names)
    assert set(predicted.obs["stim"]) == {"stimulated"} and predicted.shape[1] == cells.n_vars
    assert peers.scored(predicted, cells, held)["prediction"]["r_change_de"] > 0.5
