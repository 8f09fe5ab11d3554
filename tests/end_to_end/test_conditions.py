"""A dose as the condition, and cells whose condition is missing, from the command line."""

import json

import anndata as ad
import numpy as np
import pytest

SMALL = ("--set", "hidden=[16]", "--epochs", 2)


@pytest.mark.slow
def test_dose_curve(cellalign, mistaken, tmp_path):
    run = cellalign(cwd=tmp_path)
    made = run("simulate", "ifnb", "--cells", 300, "--genes", 80, "--doses", "-o", "raw.h5ad")
    assert made.returncode == 0, made.stderr
    assert run("preprocess", "raw.h5ad", "-o", "dose.pp.h5ad").returncode == 0
    done = run("train", "dose.pp.h5ad", "--condition", "dose", "--continuous", *SMALL)
    assert done.returncode == 0, done.stderr
    drawn = run("embed", "-o", "emb.h5ad", "--plot", "umap.png", "--color", "dose")
    assert drawn.returncode == 0, drawn.stderr
    scored = run("evaluate", "emb.h5ad", "--condition", "dose", "--label", "cell_type", "--format", "json")
    assert scored.returncode == 0, scored.stderr
    found = {row["metric"]: row["value"] for row in json.loads(scored.stdout)["scores"] if row["system"] == "dose"}
    assert set(found) == {"linear regression R2", "random forest R2", "15-nearest-neighbour R2"}
    assert all(value < 1 for value in found.values()) and "the condition is a number" in scored.stderr
    done = run("counterfactual", "--to", 0.5, "--from", 0)
    assert done.returncode == 0, done.stderr
    predicted = ad.read_h5ad(tmp_path / "dose.0.5.h5ad")
    assert set(predicted.obs["dose"]) == {0.5} and set(predicted.obs["dose_source"]) == {0.0}
    for arguments, status, says in (
        (("train", "dose.pp.h5ad", "--condition", "dose", "-m", "m2"), 3, "--continuous"),
        (("train", "dose.pp.h5ad", "--condition", "dose", "--continuous", "--method", "trvae", "-m", "m2"), 2, "comp"),
        (("train", "dose.pp.h5ad", "--condition", "cell_type", "--continuous", "-m", "m2"), 3, "not numeric"),
        (("train", "dose.pp.h5ad", "--continuous", "--method", "cvae", "-m", "m2"), 2, "--condition"),
        (("counterfactual", "--to", "high"), 2, "--to high is no number"),
        (("counterfactual", "--to", 0.9, "--from", 0.123), 3, "dose=0.123"),
    ):
        failed = mistaken(cwd=tmp_path)(*arguments)
        assert failed.returncode == status and says in failed.stderr, failed.stderr
        assert len(failed.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_missing_conditions(cellalign, kang_like, tmp_path):
    run = cellalign(cwd=tmp_path)
    cells = ad.read_h5ad(kang_like)
    cells.obs.loc[np.arange(cells.n_obs) % 4 == 0, "stim"] = np.nan
    cells.write_h5ad(tmp_path / "partly.h5ad")
    refused = run("train", "partly.h5ad", "--condition", "stim", *SMALL)
    assert refused.returncode == 3 and "--allow-missing-condition" in refused.stderr
    done = run("train", "partly.h5ad", "--condition", "stim", "--allow-missing-condition", "-o", "first.h5ad", *SMALL)
    assert done.returncode == 0, done.stderr
    assert run("embed", "-o", "emb.h5ad").returncode == 0
    embedded = ad.read_h5ad(tmp_path / "emb.h5ad")
    assert embedded.obs["stim_inferred"].notna().all() and embedded.obs["stim"].isna().sum() == cells.n_obs // 4
    assert embedded.obs["stim_probability"].between(0.5, 1).all()
    first = ad.read_h5ad(tmp_path / "first.h5ad")
    np.testing.assert_allclose(first.obsm["X_comp"], embedded.obsm["X_comp"], atol=1e-5)
    scored = run("evaluate", "emb.h5ad", "--condition", "stim_inferred", "--label", "cell_type", "--format", "json")
    assert scored.returncode == 0, scored.stderr
