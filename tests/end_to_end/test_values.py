"""Values from the command line: numbers that are categories, names with commas, pairs, missing labels, NaN."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest

SMALL = ("--epochs", 1, "--set", "hidden=[8]", "--set", "latent_dim=2", "--set", "batch_size=64")
ONTOLOGY = "CD4-positive, alpha-beta T cell"


@pytest.fixture(scope="module")
def folder(kang_like, tmp_path_factory):
    """160 cells: doses as floats, libraries as integers, a drug with its dose, GEARS names, some labels missing."""
    made = tmp_path_factory.mktemp("values")
    cells = ad.read_h5ad(kang_like)[:160].copy()
    rng = np.random.default_rng(0)
    dose = rng.choice([0.0, 10, 100, 1000], 160)
    cells.obs["dose"], cells.obs["lib"] = dose, np.arange(160) % 3
    cells.obs["drug"] = pd.Categorical([f"Quis_{x}" for x in dose])
    cells.obs["guide"] = pd.Categorical(rng.choice(["ctrl", "KLF1+ctrl", "ctrl+CEBPE"], 160))
    kind = np.where(rng.random(160) < 0.5, ONTOLOGY, "B cell").astype(object)
    kind[:3] = None
    cells.obs["kind"] = pd.Categorical(kind)
    cells.write_h5ad(made / "in.h5ad")
    cells.obs["lib"] = cells.obs["lib"].astype(float)
    cells.write_h5ad(made / "floats.h5ad")
    return made


def done(run, *arguments, status=0):
    ended = run(*arguments)
    assert ended.returncode == status, ended.stderr
    return ended.stderr


@pytest.mark.slow
def test_doses_as_categories(folder, cellalign):
    run = cellalign(cwd=folder)
    said = done(run, "train", "in.h5ad", "--method", "cvae", "--condition", "dose", "-m", "dose", *SMALL)
    assert "control: 0.0, of 'dose'" in said
    for to, more in (("1000", ()), ("1e3", ("--from", 0)), ("1000.0", ("--where", "dose=0"))):
        done(run, "counterfactual", "-m", "dose", "--to", to, *more, "-o", "d.h5ad", "--force")
        predicted = ad.read_h5ad(folder / "d.h5ad").obs
        assert set(predicted["dose"].astype(str)) == {"1000.0"} and set(predicted["dose_source"].astype(str)) == {"0.0"}
    said = done(run, "counterfactual", "-m", "dose", "--to", "10000", "-o", "no.h5ad", status=3)
    assert "Known: 0.0, 10.0, 100.0, 1000.0" in said and "Did you mean" not in said
    assert "both '0'" in done(run, "counterfactual", "-m", "dose", "--to", 0.0, "--from", 0, "-o", "no.h5ad", status=2)
    said = done(run, "train", "in.h5ad", "--method", "linear", "--condition", "drug", "-m", "drug")
    assert "Quis_0.0 looks like one: --control VALUE names it" in said
    done(run, "counterfactual", "-m", "drug", "--to", "Quis_1000", "--from", "Quis_0", "-o", "q.h5ad")
    assert set(ad.read_h5ad(folder / "q.h5ad").obs["drug"]) == {"Quis_1000.0"}


def test_a_dose_that_is_no_number_is_refused_before_the_work(folder, cellalign):
    run = cellalign(cwd=folder)
    text = ad.read_h5ad(folder / "in.h5ad")
    text.obs["dose"] = text.obs["dose"].astype(str)  # numbers as text are numbers
    text.write_h5ad(folder / "text.h5ad")
    done(run, "train", "text.h5ad", "--method", "cvae", "--condition", "dose", "--continuous", "-m", "c", *SMALL)
    for to in ("nan", "inf", "-inf", "1e200"):
        assert f"--to {to}" in done(run, "counterfactual", "-m", "c", "--to", to, "-o", "no.h5ad", status=2)
    assert "--from nan" in done(run, "counterfactual", "-m", "c", "--to", 5, "--from", "nan", "-o", "no.h5ad", status=2)
    assert not (folder / "no.h5ad").exists()


@pytest.mark.slow
def test_integers_in_training_are_the_floats_of_new_cells(folder, cellalign):
    run = cellalign(cwd=folder)
    done(run, "train", "in.h5ad", "--method", "invae", "--batch", "lib", "-m", "lib", *SMALL)
    done(run, "embed", "in.h5ad", "-m", "lib", "-o", "e0.h5ad")
    for number, more in enumerate(((), ("--allow-unseen",)), 1):
        said = done(run, "embed", "floats.h5ad", "-m", "lib", "-o", f"e{number}.h5ad", *more)
        assert "never trained on" not in said
        e0, other = (ad.read_h5ad(folder / f"e{i}.h5ad").obsm["X_invae_spurious"] for i in (0, number))
        np.testing.assert_array_equal(e0, other)
    new = ad.read_h5ad(folder / "floats.h5ad")
    new.obs.loc[new.obs_names[:5], "lib"] = 7.0
    new.write_h5ad(folder / "new.h5ad")
    said = done(run, "embed", "new.h5ad", "-m", "lib", "-o", "e3.h5ad", "--allow-unseen")
    assert "5 cells have a batch 'lib' never trained on, which counts as unknown: 7.0" in said


def test_pairs_named_as_in_gears(folder, cellalign):
    run = cellalign(cwd=folder)
    done(run, "train", "in.h5ad", "--method", "svae+", "--condition", "guide", "-m", "g", *SMALL)
    for to, name in (("KLF1+CEBPE", "KLF1+CEBPE"), ("KLF1+ctrl+ctrl+CEBPE", None), ("ctrl+KLF1", "KLF1")):
        done(run, "counterfactual", "-m", "g", "--to", to, "-o", "g.h5ad", "--force")
        assert name is None or set(ad.read_h5ad(folder / "g.h5ad").obs["guide"]) == {name}
    scored = run("evaluate", "g.h5ad", "--against", "in.h5ad", "--condition", "guide", "--format", "json")
    assert scored.returncode == 0 and any(row["panel"] == "response" for row in json.loads(scored.stdout)["scores"])


@pytest.mark.slow
def test_names_with_commas_and_cells_without_a_label(folder, cellalign):
    run = cellalign(cwd=folder)
    train = ("train", "in.h5ad", "--method", "linear", "--condition", "stim", "--set", "latent_dim=2")
    said = done(run, *train, "-m", "l", "--holdout", f"kind={ONTOLOGY},stim=stimulated", "--label", "kind")
    assert "3 cells have no 'kind', so they are not among" in said and "trained on as unlabelled" in said
    said = done(run, "counterfactual", "-m", "l", "--to", "stimulated", "--where", f"kind={ONTOLOGY}", "-o", "k.h5ad")
    assert set(ad.read_h5ad(folder / "k.h5ad").obs["kind"]) == {ONTOLOGY}
    assert ad.read_h5ad(folder / "k.h5ad").obs["held_out"].all()
    done(run, "counterfactual", "-m", "l", "--to", "stimulated", "-o", "s.h5ad")
    said = done(run, "evaluate", "s.h5ad", "--against", "in.h5ad", "--condition", "stim", "--label", "kind")
    assert "cells of --against have no 'kind' and are left out" in said
    said = done(
        run, "embed", "-m", "l", "-o", "e.h5ad", "--plot", "u.png", "--color", "kind"
    )  # cells without a value are grey
    said = done(run, "evaluate", "e.h5ad", "--condition", "stim", "--label", "kind", "--k", 10, "--min-cells", 5)
    assert "3 cells have no 'kind' and are left out of what needs it" in said
    said = done(run, "annotate", "in.h5ad", "-m", "l", "-o", "a.h5ad", "--label", "kind")
    assert "3 reference cells have no 'kind'; left out" in said
    assert "3 cells have no 'kind' and are not scored" in said
    each = ("benchmark", "in.h5ad", "--methods", "linear", "--holdout-each", "kind", "--condition", "stim")
    said = done(run, *each, "-o", "b.csv", "--group", ONTOLOGY)
    assert said.count("3 cells have no 'kind' and are in no group") == 1
    assert set(pd.read_csv(folder / "b.csv")["held_out"]) == {ONTOLOGY}
    assert "b.csv: 5 rows" in done(run, *each, "-o", "b.csv", "--group", ONTOLOGY)  # found again, not computed again


def test_text_that_means_missing_is_no_condition(folder, cellalign):
    run = cellalign(cwd=folder)
    cells = ad.read_h5ad(folder / "in.h5ad")
    stim = cells.obs["stim"].astype(object)
    stim.iloc[:3], stim.iloc[3:6] = "nan", ""
    cells.obs["stim"] = pd.Categorical(stim)
    cells.write_h5ad(folder / "missing.h5ad")
    said = done(run, "train", "missing.h5ad", "--method", "linear", "--condition", "stim", "-m", "no", status=3)
    assert "6 missing values (text that means missing among them: '': 3, 'nan': 3" in said
    done(run, "train", "in.h5ad", "--method", "linear", "--condition", "stim", "-m", "s")
    said = done(run, "counterfactual", "missing.h5ad", "-m", "s", "--to", "stimulated", "-o", "m.h5ad")
    assert "6 cells have no condition 'stim' and are left out" in said
