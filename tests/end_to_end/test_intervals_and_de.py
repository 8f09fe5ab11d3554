"""The installed command: train, counterfactual --interval --draw, evaluate --de --replicate."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import cellalign as package


@pytest.fixture(scope="module")
def drawn(kang_like, cellalign):
    """Folder with cells of six donors, a linear model of them, and drawn stimulated cells with intervals."""
    folder = kang_like.parent / "donors"
    folder.mkdir()
    adata = ad.read_h5ad(kang_like)
    adata.obs["donor"] = pd.Categorical([f"d{i % 6}" for i in range(adata.n_obs)])
    adata.write_h5ad(folder / "cells.h5ad")
    run = cellalign(cwd=folder)
    trained = run(
        *("train", "cells.h5ad", "--method", "linear", "--condition", "stim", "--label", "donor", "-m", "m"),
        *("--set", "latent_dim=4", "--holdout", "donor=d1,stim=stimulated"),
    )
    assert trained.returncode == 0, trained.stderr
    done = run(
        *("counterfactual", "cells.h5ad", "-m", "m", "--to", "stimulated", "--interval", 0.9, "--draw"),
        *("-o", "drawn.h5ad"),
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_intervals_are_in_the_file_and_scored(drawn, cellalign):
    found, model = ad.read_h5ad(drawn / "drawn.h5ad"), package.load(drawn / "m")
    again = model.counterfactual(ad.read_h5ad(drawn / "cells.h5ad"), to="stimulated", interval=0.9, draws=1)
    for layer in ("lower", "upper"):
        np.testing.assert_allclose(found.layers[layer], again.layers[layer], rtol=1e-6)
    assert found.obs["abstain"].dtype == bool
    done = cellalign(cwd=drawn)(
        *("evaluate", "drawn.h5ad", "--against", "cells.h5ad", "--condition", "stim", "--format", "csv"),
        *("--panel", "intervals"),
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split(",") for line in done.stdout.splitlines()]
    assert ["intervals", "prediction", "d1", "coverage_all"] in [row[:4] for row in rows]
    assert "not known to have been held out in training: d0" in done.stderr
    value = next(float(row[4]) for row in rows if row[:4] == ["intervals", "prediction", "mean", "coverage_all"])
    assert f"hold {value:.0%} of the means of all genes, 90% promised" in done.stderr
    assert (
        "of the 50 DE genes " in done.stderr
        and "nothing is promised (counterfactual --interval-over de does)" in done.stderr
    )


def test_every_gene_is_tested(drawn, cellalign):
    run, given = cellalign(cwd=drawn), ("evaluate", "drawn.h5ad", "--against", "cells.h5ad", "--condition", "stim")
    done = run(*given, "--panel", "de", "--de", "cells.csv")
    assert done.returncode == 0, done.stderr
    assert "they tell of these cells, not of other donors" in done.stderr
    table = pd.read_csv(drawn / "cells.csv")
    assert len(table) == 200 and {"gene", "predicted_log2_fold_change", "predicted_p_bh", "real_p_bh"} <= set(table)
    assert (table["predicted_p_bh"] >= table["predicted_p"] - 1e-12).all() and table[
        "predicted_p"
    ].is_monotonic_increasing
    n = [(table[f"{kind}_p_bh"] < 0.05).sum() for kind in ("predicted", "real")]
    assert n[0] <= 1.5 * n[1] + 3 and n[1] <= 1.5 * n[0] + 3, n
    done = run(*given, "--panel", "de", "--de", "donors.csv", "--replicate", "donor")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(drawn / "donors.csv")
    assert set(table["test"]) == {"moderated t-test of pseudobulk over donor"} and table["real_p"].notna().all()


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--replicate", "donor"], 2, "is of --de FILE; add it"),
        (["--de", "x.csv", "--panel", "response"], 2, "is of panel de, which --panel leaves out"),
        (["--de", "drawn.h5ad", "--panel", "de"], 2, "ends in .h5ad"),
        (["--de", "x.csv", "--panel", "de", "--replicate", "nobody"], 3, "nobody"),
        (["--de", "x.csv", "--panel", "de", "--replicate", "stim"], 3, "at least 2 are needed"),
    ],
)
def test_what_cannot_be_tested_is_said(drawn, cellalign, options, status, said):
    given = ("evaluate", "drawn.h5ad", "--against", "cells.h5ad", "--condition", "stim")
    done = cellalign(cwd=drawn)(*given, *options)
    assert done.returncode == status and said in done.stderr, done.stderr
    assert not (drawn / "x.csv").exists()


def test_means_are_no_cells(drawn, cellalign):
    run = cellalign(cwd=drawn)
    assert run("counterfactual", "cells.h5ad", "-m", "m", "--to", "stimulated", "-o", "mean.h5ad").returncode == 0
    given = ("evaluate", "mean.h5ad", "--against", "cells.h5ad", "--condition", "stim", "--panel", "de")
    done = run(*given, "--de", "x.csv")
    assert done.returncode == 3 and "predict with cellalign counterfactual --draw" in done.stderr
    done = run(*given, "--de", "mean.csv", "--replicate", "donor")
    assert done.returncode == 0, done.stderr
    missing = run(*given[:2], *given[4:], "--de", "x.csv")
    assert missing.returncode == 2 and "needs --against FILE" in missing.stderr


def test_a_model_without_calibration_says_how_to_get_one(drawn, model, kang_like, cellalign):
    done = cellalign(cwd=drawn)(
        "counterfactual", kang_like, "-m", model, "--to", "stimulated", "--interval", 0.9, "-o", "x.h5ad"
    )
    assert done.returncode == 4 and "cellalign train ... --calibrate cell_type" in done.stderr
    assert not (drawn / "x.h5ad").exists()
