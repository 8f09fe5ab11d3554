"""check: each fault that is put into cells is found by name, and sound cells have none."""

import json
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import cellalign
from cellalign.data import quality
from cellalign.data.preprocess import normalised_log


def cells(n=400, genes=400, effect=1.0, seed=0, depth=(1.0, 1.0), kinds=2):
    """Counts of two conditions and two types; the first 40 genes answer."""
    rng = np.random.default_rng(seed)
    stim = np.repeat(["control", "stimulated"], n // 2)
    kind = np.array([f"T{i % kinds}" for i in range(n)])
    base = rng.gamma(1.0, 2.0, (kinds, genes))
    rate = base[[int(name[1:]) for name in kind]]
    rate[stim == "stimulated", :40] *= 1 + 4 * effect
    rate *= np.where(stim == "control", *depth)[:, None]
    obs = pd.DataFrame({"stim": stim, "kind": kind}, index=[f"c{i}" for i in range(n)]).astype("category")
    names = [f"MT-{i}" if i < 10 else f"g{i}" for i in range(genes)]
    x = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    return ad.AnnData(x, obs, pd.DataFrame(index=names))


def found(checked, level=None):
    return {each.what: each for each in checked.findings if level in (None, each.level)}


def test_sound_cells_have_no_warning():
    checked = cellalign.check(cells(), condition="stim", label="kind")
    assert checked.fit and not checked.of("warning", "error"), checked.frame()
    assert {"matrix", "columns", "groups", "effect", "depth", "condition depth"} <= set(found(checked, "ok"))
    assert list(checked.frame()) == ["level", "what", "found", "advice"]


def test_values_that_are_no_numbers_are_not_to_be_trained_on_as_they_are():
    spoilt = cells()
    spoilt.X.data[0] = np.nan
    assert "remove or correct" in found(cellalign.check(spoilt, condition="stim"), "error")["matrix"].advice
    spoilt.X.data[0] = -2.5
    assert "expression='any'" in found(cellalign.check(spoilt, condition="stim"), "error")["matrix"].advice


def test_each_fault_is_found_with_what_to_do():
    def warned(adata, **options):
        checked = cellalign.check(adata, **({"condition": "stim"} | options))
        assert all(each.advice for each in checked.of("warning", "error")), checked.frame()
        return found(checked, "warning"), found(checked, "error")

    warnings, _ = warned(cells(effect=0.0))
    assert "1 of 1 conditions have no measurable effect" in warnings["effect"].found
    warnings, _ = warned(cells(depth=(1.0, 3.0), effect=0.0))
    said = warnings["condition depth"].found
    assert "by stim: stimulated" in said and 2.7 < float(said.split()[-2]) < 3.3
    confounded = cells()
    confounded.obs["lane"] = confounded.obs["stim"].map({"control": "a", "stimulated": "b"})
    warnings, _ = warned(confounded, batch=["lane"])
    assert "say the same" in warnings["columns"].found and "cannot be told" in warnings["columns"].advice
    _, errors = warned(cells(), batch=["stim"])
    assert "both" in errors["columns"].found and "choose one" in errors["columns"].advice
    barcodes = cells()
    barcodes.obs["barcode"] = barcodes.obs_names
    _, errors = warned(barcodes, condition="barcode")
    assert "about one per cell" in errors["columns"].found
    few = cells()
    few.obs["kind"] = ["rare" if i in (0, 1, 2, 398, 399) else "T" for i in range(few.n_obs)]
    warnings, _ = warned(few, label="kind")
    assert "rare/control 3" in warnings["groups"].found and "rare/stimulated 2" in warnings["groups"].found
    logged = cells()
    logged.X = np.log1p(logged.X * 100 / logged.X.sum(1)).tocsr().astype(np.float32)
    warnings, _ = warned(logged)
    assert "no raw counts; log expression in X" in warnings["matrix"].found
    zeros = cells()
    zeros.X = sparse.csr_matrix(zeros.shape, dtype=np.float32)
    _, errors = warned(zeros)
    assert "all values of X are zero" in errors["matrix"].found
    empty = cells()
    empty.X = sparse.diags((np.arange(empty.n_obs) >= 7).astype(np.float32)) @ empty.X
    warnings, _ = warned(empty)
    assert "7 cells have no counts" in warnings["empty cells"].found
    flagged = cells()
    flagged.obs["predicted_doublet"] = np.arange(flagged.n_obs) < 9
    warnings, _ = warned(flagged)
    assert "9 cells are flagged" in warnings["doublets"].found
    missing = cells()  # a tool that was run on some of the lanes says nothing of the others
    called = np.where(np.arange(missing.n_obs) < 9, "Doublet", "Singlet").astype(object)
    missing.obs["multiplet_call"] = np.where(np.arange(missing.n_obs) > 30, None, called)
    with pd.option_context("future.infer_string", True):
        warnings, _ = warned(missing)
    assert "9 cells are flagged" in warnings["doublets"].found
    warnings, _ = warned(missing)
    assert "9 cells are flagged" in warnings["doublets"].found
    twice = cells()
    twice.obs_names = ["c", *twice.obs_names[1:-1], "c"]
    _, errors = warned(twice)
    assert "duplicate" in errors["names"].found and "unique" in errors["names"].advice
    scaled = cells()
    scaled.X = scaled.X.toarray() - scaled.X.toarray().mean(0)
    _, errors = warned(scaled)
    assert "negative" in errors["matrix"].found and "expression" in errors["matrix"].advice
    assert cellalign.check(scaled, condition="stim", expression="any").fit


def test_mitochondrial_shares_are_judged_of_whole_files_only():
    few, many = cells(genes=400), cells(genes=5200)
    for adata in (few, many):
        x = adata.X.toarray()
        x[:30, :10] = 400 * x.max()
        adata.X = sparse.csr_matrix(x)
    assert "a part of the genes" in found(cellalign.check(few))["mitochondria"].found
    of_all = found(cellalign.check(many), "warning")["mitochondria"]
    share = quality.mitochondrial(many.X, list(many.var_names), np.asarray(many.X.sum(1)).ravel())
    plain = many.X.toarray()
    assert np.allclose(share, plain[:, :10].sum(1) / plain.sum(1))
    assert f"{100 * (share > 0.2).mean():.1f} % of cells" in of_all.found


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2])
def test_doublets_put_among_cells_are_counted(share):
    adata = cells(n=600, genes=300, kinds=4, seed=1)
    rng = np.random.default_rng(2)
    n = int(adata.n_obs * share / (1 - share))
    kinds = adata.obs["kind"].cat.codes.to_numpy()
    pairs = rng.integers(0, adata.n_obs, (8 * n + 1, 2))
    pairs = pairs[kinds[pairs[:, 0]] != kinds[pairs[:, 1]]][:n]
    x = sparse.vstack([adata.X, adata.X[pairs[:, 0]] + adata.X[pairs[:, 1]]]).tocsr()
    assert quality.doublets(x) == pytest.approx(share, abs=0.06)


def test_cells_of_one_kind_tell_nothing_of_doublets():
    assert quality.doublets(cells(kinds=1, effect=0.0, n=400).X) is None
    assert quality.doublets(cells(n=100).X) is None


def test_halves_agree_by_a_plain_loop():
    adata = cells(n=40, genes=30)
    codes = adata.obs["stim"].cat.codes.to_numpy()
    got = quality.halves(adata.X, codes, 2, 0, counts=False, seed=3)
    rng = np.random.default_rng(3)
    rows = [rng.permutation(np.flatnonzero(codes == i)) for i in (0, 1)]
    x = adata.X.toarray()
    changes = [x[rows[1][side::2]].mean(0) - x[rows[0][side::2]].mean(0) for side in (0, 1)]
    assert np.isnan(got[0]) and got[1] == pytest.approx(np.corrcoef(*changes)[0, 1], abs=1e-5)


@pytest.mark.parametrize("kind", ["view", "backed", "dense", "csc"])
def test_cells_of_every_form(kind, tmp_path):
    adata = cells()
    expected = cellalign.check(adata, condition="stim", label="kind").frame()
    if kind == "view":
        more = ad.concat([adata, adata[:5].copy()], index_unique="-")
        more.obs_names = [*adata.obs_names, *"abcde"]
        adata = more[: adata.n_obs]
        assert adata.is_view
    elif kind == "backed":
        adata.write_h5ad(tmp_path / "cells.h5ad")
        adata = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    else:
        adata.X = adata.X.toarray() if kind == "dense" else adata.X.tocsc()
    assert cellalign.check(adata, condition="stim", label="kind").frame().equals(expected)


@pytest.mark.process
def test_the_command_and_its_status(tmp_path, mistaken):
    cells().write_h5ad(tmp_path / "sound.h5ad")
    cells(effect=0.0).write_h5ad(tmp_path / "weak.h5ad")
    run = mistaken(cwd=tmp_path)
    done = run("check", "sound.h5ad", "--condition", "stim", "--strict")
    assert done.returncode == 0 and "nothing that keeps from training" in done.stdout
    assert run("check", "weak.h5ad", "--condition", "stim").returncode == 0
    done = run("check", "weak.h5ad", "--condition", "stim", "--strict", "--format", "json")
    assert done.returncode == 3 and "1 warning (--strict)" in done.stderr
    rows = json.loads(done.stdout)
    assert [row["what"] for row in rows if row["level"] == "warning"] == ["effect"]
    done = run("check", "sound.h5ad", "--condition", "kidn")
    assert done.returncode == 3 and "Did you mean 'kind'" in done.stdout
    done = run("check", "sound.h5ad")
    assert done.returncode == 0 and "--condition KEY" in done.stdout and "stim (2 values)" in done.stdout


def test_the_short_check_before_a_training_leaves_out_what_is_held_out(caplog):
    from cellalign.tasks.check import warnings_of
    from cellalign.tasks.prepare import prepare

    deep = cells(depth=(1.0, 3.0), effect=0.0)
    deep.obs["kind"] = np.where(np.arange(deep.n_obs) % 2, "T0", "T1")
    prepared = prepare(deep, method="cvae", condition="stim")
    (depth,) = [said for said in warnings_of(deep, prepared, 0) if "counts a cell" in said]
    assert "stimulated" in depth and "downsample" in depth
    shallow = deep.copy()
    few = np.flatnonzero((shallow.obs["stim"] == "stimulated") & (shallow.obs["kind"] == "T0"))
    shallow.X = cells(effect=0.0).X
    x = shallow.X.toarray()
    x[few] *= 50
    shallow.X = sparse.csr_matrix(x)
    prepared = prepare(shallow, method="cvae", condition="stim", holdout=["kind=T0,stim=stimulated"])
    assert not [said for said in warnings_of(shallow, prepared, 0) if "counts a cell" in said]


@pytest.mark.parametrize("method", ["cvae", "scvi"])
def test_the_short_check_takes_the_counts_that_were_found(monkeypatch, method):
    """What preparing looked for and judged is not looked for once more, and says the same."""
    from cellalign.tasks.check import warnings_of
    from cellalign.tasks.prepare import prepare

    deep = cells(depth=(1.0, 3.0), effect=0.0)
    prepared = prepare(deep, method=method, condition="stim")
    assert prepared.counts is not None and prepared.counts.matrix.shape == deep.shape
    expected = warnings_of(deep, replace(prepared, counts=None, x=None), 0)

    def again(*_, **__):
        raise AssertionError("the matrix is judged once more")

    for name in ("check_matrix", "as_counts"):
        monkeypatch.setattr(f"cellalign.data.counts.{name}", again)
    said = warnings_of(deep, prepared, 0)
    assert said == expected and any("counts a cell" in each for each in said)


def test_the_short_check_of_log_expression_takes_counts_beside_it():
    from cellalign.tasks.check import warnings_of
    from cellalign.tasks.prepare import prepare

    deep = cells(depth=(1.0, 3.0), effect=0.0)
    logged = deep.copy()
    logged.X = normalised_log(deep.X, 1e3)
    alone = prepare(logged, method="cvae", condition="stim")
    assert not [said for said in warnings_of(logged, alone, 0) if "counts a cell" in said]
    logged.layers["counts"] = deep.X
    beside = prepare(logged, method="cvae", condition="stim")
    assert [said for said in warnings_of(logged, beside, 0) if "counts a cell" in said]
