"""Attacks and the verdict on real cells: blood cells that respond strongly, and kinases without a measurable effect."""

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from attacks import ATTACKS, anchors, start
from scipy import sparse

import cellalign

EVERY_TIME = ("leaning", "mean_pasted")
TRIED = ("leaning", "mean_pasted", "inflated", "absolute", "twisted_controls", "permuted")


def log_of(counts, genes):
    total = np.asarray(counts.sum(1)).ravel()
    log = np.log1p(sparse.diags(1e4 / total) @ counts.tocsr()).tocsc()
    variance = np.asarray(log.power(2).mean(0) - np.square(log.mean(0))).ravel()
    return log[:, np.sort(np.argsort(-variance)[:genes])].toarray().astype(np.float32)


@pytest.fixture(scope="module")
def kang(kang_path):
    """Real cells over 400 genes, of the types with cells under both conditions."""
    cells = ad.read_h5ad(kang_path)
    cells = cells[cells.obs["cell_type"] != "Mk"].copy()
    obs = cells.obs[["stim", "cell_type"]].astype(str)
    return ad.AnnData(log_of(sparse.csr_matrix(cells.X), 400), obs=obs)


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(each, id=each.__name__, marks=[] if each.__name__ in EVERY_TIME else pytest.mark.slow)
        for each in ATTACKS
        if each.__name__ in TRIED
    ],
)
def test_attacks_gain_nothing_on_real_cells(kang, attack):
    cells = attack(kang, start(kang), np.random.default_rng(0))
    asked = {"condition": "stim", "label": "cell_type", "panels": ["response"]}
    result = cellalign.evaluate(cells, against=kang, **asked)
    assert result.measurable == (7, 7)
    found = anchors(result)
    rows = {
        row.metric: row
        for row in result.rows
        if (row.system, row.group) == ("prediction", "mean") and row.metric in found
    }
    assert np.isfinite(found["r_change_de"]) and np.isfinite(found["r_change_all"])
    for metric, value in found.items():
        if not np.isfinite(value):  # the mean shift is as good as halves: nothing can be anchored
            continue
        worth = rows[metric].evidence
        spread = max(worth.difference_high - worth.difference, 0)  # of what it is beside the best baseline
        shift, half = (result.value(metric, system=name, group="mean") for name in ("mean shift", "split half"))
        assert value <= spread / abs(half - shift) + 1e-6, (metric, value, spread)
    assert "the response is better than" not in result.verdict


def test_kinases_without_an_effect_are_not_measurable_whatever_a_method_reaches():
    folder = Path(os.environ.get("CELLALIGN_TEST_DATA") or "../shared/data")
    path = folder / "perturbench_devel.h5ad"
    if not path.is_file():
        pytest.skip(f"{path} is not there; set CELLALIGN_TEST_DATA")
    cells = ad.read_h5ad(path)
    glioma = cells[(cells.obs["cell_type"] == "A172") & cells.obs["perturbation"].isin(["control", "SGK1", "MAPK1"])]
    glioma = glioma.copy()
    glioma.obs = glioma.obs[["perturbation", "cell_type"]].astype(str)
    control = (glioma.obs["perturbation"] == "control").to_numpy()
    x = glioma.X.toarray()
    parts = []
    for name in ("SGK1", "MAPK1"):  # the other perturbation's mean change, and the very truth
        part = glioma[control].copy()
        part.X = np.maximum(x[control] + (x[glioma.obs["perturbation"] == name].mean(0) - x[control].mean(0)), 0)
        part.obs["perturbation"] = name
        part.obs_names = [f"{cell}-{name}" for cell in part.obs_names]
        parts.append(part)
    result = cellalign.evaluate(ad.concat(parts), against=glioma, condition="perturbation", panels=["response"])
    assert result.measurable == (0, 2)
    assert result.verdict.startswith(
        "not measurable (over all genes two halves of the real cells agree by less than 0.2): MAPK1"
    )
    assert result.value("r_change_all", system="prediction", group="mean") > 0.15, "whatever is reached"
    assert all(
        not np.isfinite(row.evidence.anchored) for row in result.rows if row.system == "prediction" and row.evidence
    )
