"""Screens on the command line: all conditions in one file, scored, and written for cell-eval2."""

import json

import anndata as ad
import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cellalign):
    """Simulated counts of six perturbations, and a model of them."""
    path = tmp_path_factory.mktemp("screen")
    run = cellalign(cwd=path)
    made = "--interventions 6 --cells 30 --controls 60 --latents 4 --genes 40 --heldout 0 --seed 1 -o shifts.h5ad"
    for line in (
        f"simulate sparse-shift {made}",
        "preprocess shifts.h5ad -o pp.h5ad --n-top-genes 0",
        "train pp.h5ad --method linear --condition perturbation -m lin",
        "counterfactual -m lin --to all --with-control -o all.h5ad",
    ):
        done = run(*line.split())
        assert done.returncode == 0, done.stderr
    return path


def test_all_conditions_are_one_file_and_scored_by_themselves(folder, cellalign):
    run = cellalign(cwd=folder)
    again = ("counterfactual", "-m", "lin", "--to", "all", "--with-control", "-o", "all.h5ad", "--force")
    assert "of these   60 observed control cells" in run(*again, "--dry-run").stdout
    done = run(*again)
    assert done.returncode == 0, done.stderr
    said = "all.h5ad: 360 cells as if 6 conditions (residual transfer), beside 60 observed control cells"
    assert said in done.stderr
    cells = ad.read_h5ad(folder / "all.h5ad")
    assert cells.n_obs == 7 * 60 and cells.obs["perturbation"].nunique() == 7 and cells.obs_names.is_unique
    done = run("evaluate", "all.h5ad", "--against", "pp.h5ad", "--format", "json", "--export-vcc", "vcc.h5ad")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["scores"]
    assert {row["panel"] for row in rows} == {"response", "screen"}
    systems = {row["system"] for row in rows if row["panel"] == "screen"}
    assert systems == {"prediction", "mean response", "split half", "anchored"}
    predicted, real = (ad.read_h5ad(folder / name) for name in ("vcc.h5ad", "vcc.real.h5ad"))
    assert predicted.n_obs == 420 and real.n_obs == 240 and list(predicted.var_names) == list(real.var_names)
    assert set(predicted.obs["perturbation"]) == set(real.obs["perturbation"])
    again = run("evaluate", "all.h5ad", "--against", "pp.h5ad", "--export-vcc", "vcc.h5ad")
    assert again.returncode == 2 and "output vcc.h5ad exists" in again.stderr


def test_some_are_asked_for_one_by_one_and_named_so(folder, cellalign):
    run = cellalign(cwd=folder)
    done = run("counterfactual", "-m", "lin", "--to", "p0", "--to", "p2", "--per-condition", 5, "--draw")
    assert done.returncode == 0, done.stderr
    assert ".p0_p2.h5ad: 10 cells as if 2 conditions (draw)" in done.stderr
    [path] = folder.glob("*p0_p2.h5ad")
    assert ad.read_h5ad(path).obs["perturbation"].astype(str).value_counts().to_dict() == {"p0": 5, "p2": 5}


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("counterfactual -m lin --to all --per-condition -1 -o x.h5ad", 2, "--per-condition"),
        ("counterfactual -m lin --to all --within nowhere -o x.h5ad", 3, "no --within column 'nowhere'"),
        ("counterfactual -m lin --to p0 --to p99 -o x.h5ad", 3, "'p99' in column 'perturbation' was never trained on"),
        (
            "counterfactual -m lin --to p0 --from p0 --to p0 -o x.h5ad",
            3,
            "names no condition but that of the source",
        ),
        ("evaluate pp.h5ad --condition perturbation --export-vcc x.h5ad", 2, "--export-vcc needs --against FILE"),
        ("evaluate all.h5ad --against pp.h5ad --export-vcc x.csv", 2, "--export-vcc x.csv ends in neither"),
        ("evaluate pp.h5ad --against all.h5ad --condition perturbation", 3, "--against holds cells that cellalign"),
        ("evaluate all.h5ad --against pp.h5ad --within nowhere", 3, "no --within column 'nowhere'"),
    ],
)
def test_mistakes_are_said(folder, cellalign, words, status, said):
    done = cellalign(cwd=folder)(*words.split())
    assert done.returncode == status and said in done.stderr, done.stderr
    assert not (folder / "x.h5ad").exists()


def test_all_of_one_other_condition_is_told_by_its_name(model, kang_like, cellalign, tmp_path):
    done = cellalign(cwd=tmp_path)("counterfactual", kang_like, "-m", model, "--to", "all", "-o", "all.h5ad")
    assert done.returncode == 0 and " cells as if stimulated (residual transfer)" in done.stderr, done.stderr
