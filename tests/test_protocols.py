"""The sVAE+ paper's protocols as scripts: what is held out is what it says, and all of a script runs on small data."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
pytestmark = pytest.mark.skipif(not (FOLDER / "screen.py").is_file(), reason="the source archive has no benchmarks")
QUICK = ("--seeds", "0", "--particles", "2", "--set", "epochs=1", "--set", "hidden=[8]", "--set", "latent_dim=3")


def script(name, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # which a dataclass looks for
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def interventional(monkeypatch):
    return script("interventional", monkeypatch)


def strong_and_weak(n=40, genes=30):
    """Counts under control and eight interventions, of which p3 and p5 act strongly; three pathways."""
    rng = np.random.default_rng(0)
    names = np.repeat(["control", *(f"p{i}" for i in range(8))], n)
    rate = np.full((len(names), genes), 3.0)
    for name, factor in (("p3", 6), ("p5", 4), ("p1", 1.5)):
        rate[names == name, :6] *= factor
    obs = pd.DataFrame({"perturbation": names}, index=[f"c{i}" for i in range(len(names))])
    pathway = {"p0": "A", "p1": "A", "p2": "A", "p3": "B", "p4": "B", "p5": "C", "p6": "A"}
    obs["pathway"] = [pathway.get(name, "none") for name in names]
    var = pd.DataFrame(index=[f"G{i}" for i in range(genes)])
    return ad.AnnData(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)), obs=obs, var=var)


def test_counts_come_back_from_log_expression(interventional):
    cells = strong_and_weak()
    logged = cells.copy()
    total = np.asarray(cells.X.sum(1))
    logged.X = sparse.csr_matrix(cells.X.multiply(1e4 / total)).log1p().astype(np.float32)
    np.testing.assert_array_equal(interventional.recovered_counts(logged).X.toarray(), cells.X.toarray())
    logged.X = logged.X.multiply(np.random.default_rng(0).uniform(0.5, 2, cells.shape)).tocsr()
    with pytest.raises(Exception, match="no multiples of one"):
        interventional.recovered_counts(logged)


def test_discrepancy_is_unbiased_and_finds_what_acts(interventional):
    found = interventional.discrepancy(strong_and_weak(), "perturbation", "control")
    assert list(found.index[:2]) == ["p3", "p5"] and found.index[2] == "p1"
    assert abs(found[["p0", "p2", "p4", "p6", "p7"]].mean()) < 0.3 * found["p1"]


def test_norman_holds_out_what_is_farthest(interventional, tmp_path, capsys):
    strong_and_weak().write_h5ad(tmp_path / "cells.h5ad")
    grid = ("--methods", "ivae", "beta-vae", "--held-out", "2")
    interventional.main(["norman", str(tmp_path / "cells.h5ad"), *grid, *QUICK])
    out = capsys.readouterr().out
    assert "6 interventions to train on, 2 held out" in out and "held out: p3, p5" in out
    assert "ivae, published 715.1, 777.8" in out and "beta-vae, published 718.9, 776.7" in out
    assert out.count("mean (sd): nELBO") == 2


@pytest.mark.parametrize("table", [False, True])
def test_replogle_holds_out_every_large_pathway(interventional, tmp_path, capsys, table):
    cells = strong_and_weak()
    pathway = "pathway"
    if table:
        pathway = str(tmp_path / "pathways.csv")
        pairs = cells.obs[["perturbation", "pathway"]].drop_duplicates()
        pairs[pairs["pathway"] != "none"].to_csv(pathway, index=False)
        del cells.obs["pathway"]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    asked = ("--pathway", pathway, "--fewest", "2", "--methods", "svae+", "--no-grid")
    interventional.main(["replogle", str(tmp_path / "cells.h5ad"), *asked, *QUICK])
    out = capsys.readouterr().out
    assert "A: 4 interventions to train on, 4 held out" in out and "held out: p0, p1, p2, p6" in out
    assert "B: 6 interventions to train on, 2 held out" in out and "\nC:" not in out


def test_norman_protocol_runs_on_real_cells(interventional, kang_path, capsys):
    path = kang_path.with_name("perturbench_devel.h5ad")
    if not path.is_file():
        pytest.skip(f"{path.name} is not there")
    asked = ("--recover-counts", "--where", "cell_type=k562", "--held-out", "5", "--methods", "svae+", "--no-grid")
    interventional.main(["norman", str(path), *asked, *QUICK])
    assert "28 interventions to train on, 5 held out" in capsys.readouterr().out


@pytest.mark.slow
def test_every_table_of_the_simulations_is_there(monkeypatch, capsys):
    simulations = script("sparse_shift", monkeypatch)
    assert {name: len(settings) for name, settings in simulations.TABLES.items()} == {
        "1": 1, "5": 4, "6": 3, "7": 3, "8": 3, "9": 3, "alpha": 6
    }  # fmt: skip
    small = ("--interventions", "10", "--cells", "20", "--methods", "svae+", "--rotation", "both", "--only", "0")
    for table in ("8", "alpha"):
        simulations.main(["--table", table, *small, *QUICK[:-2]])
        out = capsys.readouterr().out
        assert out.count("mean (sd)") == 2 and "sVAE+, not rotated" in out and "held-out pearson_mcc" in out
    simulations.main(["--udr", "--methods", "beta-vae", *small[:4], "--seeds", "0", "1", "--set", "epochs=1"])
    out = capsys.readouterr().out
    assert "ranked by UDR" in out and "pearson_mcc" in out


def test_a_screen_is_described_by_its_known_answer(monkeypatch):
    screen = script("screen", monkeypatch)
    names = [*screen.PATHWAY, screen.OTHER, "IRF1"]
    edge = np.zeros((6, 3), dtype=bool)
    edge[:4, 1] = edge[4, 2] = True
    graph = ad.AnnData(
        np.zeros((6, 3)), obs=pd.DataFrame(index=names), layers={"edge": edge, "probability": edge * 0.9}
    )
    found = screen.describe(graph, screen.PATHWAY)
    assert found["as known"] and found["pathway"] == "z1" and found["SMAD4"] == "z2" and found["other edges"] == "-"
    edge[4] = edge[0]
    graph.layers["edge"] = edge
    assert not screen.describe(graph, screen.PATHWAY)["as known"]
    edge[5, 0] = True
    graph.layers["edge"] = edge
    assert screen.describe(graph, screen.PATHWAY)["other edges"] == "IRF1:z0"
    cells = ad.AnnData(
        np.zeros((8, 1)), obs=pd.DataFrame({"perturbation": list("abcdefgh"), "bio_rep": list("xxxxyyyy")})
    )
    mixed = screen.permuted(cells, 0).obs["perturbation"].astype(str)
    assert set(mixed[:4]) == set("abcd") and list(mixed) != list("abcdefgh")
