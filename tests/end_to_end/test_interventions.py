"""Which latents each intervention targets, through the installed command: simulate, train, targets, transfer, ..."""

from __future__ import annotations

import json

import anndata as ad
import networkx as nx
import pandas as pd
import pytest
import yaml

SMALL = ("--set", "hidden=[32]", "--set", "batch_size=128", "--latent-dim", 4, "--epochs", 30)
SVAE = ("--method", "svae+", "--condition", "perturbation", *SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cellalign):
    """A folder with simulated shifts and a model of the interventions that are not held out."""
    folder = tmp_path_factory.mktemp("interventions")
    run = cellalign(cwd=folder)
    size = ("--interventions", 24, "--cells", 40, "--latents", 4, "--genes", 30, "--heldout", 4, "--controls", 60)
    done = run("simulate", "sparse-shift", *size, "--targets", "1,2", "-o", "shifts.h5ad")
    assert done.returncode == 0, done.stderr
    done = run("train", "shifts.h5ad", *SVAE, "--holdout", "split=heldout", "-m", "model")
    assert done.returncode == 0, done.stderr
    return folder


def test_interventions_held_out_are_unknown_to_the_model_and_transfer_adds_them(folder, cellalign):
    run = cellalign(cwd=folder)
    spec = yaml.safe_load((folder / "model" / "model.yaml").read_text())
    (field,) = spec["fields"]
    assert field["name"] == "perturbation" and len(field["categories"]) == 21 and field["reference"] == "control"
    assert run("transfer", "shifts.h5ad", "-m", "model", "-o", "wider").returncode == 0
    wider = yaml.safe_load((folder / "wider" / "model.yaml").read_text())
    assert wider["transferred"] == ["p20", "p21", "p22", "p23"]
    # the encoder does not see interventions: cells of unknown ones can be embedded
    assert run("embed", "-m", "model", "-o", "embedded.h5ad").returncode == 0
    panels = ("--panel", "identifiability,likelihood", "--particles", 20, "--format", "json")
    done = run("evaluate", "embedded.h5ad", "-m", "wider", *panels)
    assert done.returncode == 0, done.stderr
    scores = {(s["system"], s["metric"]): s["value"] for s in json.loads(done.stdout)["scores"]}
    assert scores["latents", "r2"] > 0.5 and ("graph", "f1") in scores
    assert ("transferred interventions", "nll") in scores
    some = run("evaluate", "embedded.h5ad", "-m", "wider", "--where", "split=train", *panels)
    assert ("transferred interventions") not in some.stdout and some.returncode == 0


@pytest.mark.parametrize("ending", ["h5ad", "csv", "json", "graphml", "png"])
def test_targets_in_every_format(folder, cellalign, ending):
    file = f"targets.{ending}"
    done = cellalign(cwd=folder)("targets", "-m", "model", "--programs", 3, "-o", file)
    assert done.returncode == 0, done.stderr
    n = int(done.stderr.split(" edges")[0].split()[-1])
    read = {
        "h5ad": lambda p: ad.read_h5ad(p).layers["edge"].sum(),
        "csv": lambda p: len(pd.read_csv(p)),
        "json": lambda p: sum(len(x["targets"]) for x in json.loads(p.read_text())["perturbations"]),
        "graphml": lambda p: nx.read_graphml(p).number_of_edges(),
        "png": lambda p: n if p.read_bytes().startswith(b"\x89PNG") else -1,
    }
    assert read[ending](folder / file) == n > 0


def test_counterfactual_of_one_intervention_and_of_two(folder, cellalign):
    run = cellalign(cwd=folder)
    for to, name in (("p03", "one.h5ad"), ("p03+p07", "two.h5ad")):
        done = run("counterfactual", "shifts.h5ad", "-m", "wider", "--to", to, "-o", name)
        assert done.returncode == 0, done.stderr
        predicted = ad.read_h5ad(folder / name)
        assert set(predicted.obs["perturbation"]) == {to} and set(predicted.obs["perturbation_source"]) == {"control"}
    scored = run("evaluate", "one.h5ad", "--against", "shifts.h5ad", "--condition", "perturbation", "--format", "csv")
    assert scored.returncode == 0, scored.stderr
    table = pd.read_csv(pd.io.common.StringIO(scored.stdout))
    r = table[(table.metric == "r_all") & (table.group == "mean")].set_index("system")["value"]
    assert r["prediction"] > r["no change"]


def test_tune_keeps_the_best_and_goes_on_where_it_was_cut_off(folder, cellalign):
    run = cellalign(cwd=folder)
    grid = ("--grid", "alpha=5,20", "--seeds", 2, "-m", "tuned", "-o", "ranking.csv")
    done = run("tune", "shifts.h5ad", *SVAE[:4], *SMALL[:4], "--set", "latent_dim=4", "--epochs", 4, *grid)
    assert done.returncode == 0, done.stderr
    ranking = pd.read_csv(folder / "ranking.csv")
    assert len(ranking) == 4 and ranking["udr"].notna().all() and "udr ↑" in done.stdout
    assert "validation_loss ↓" in done.stdout
    best = yaml.safe_load((folder / "tuned" / "model.yaml").read_text())
    assert best["hyperparameters"]["alpha"] == ranking["alpha"].iloc[0]
    assert not (folder / "tuned.tuning").exists()


def test_mistakes(folder, mistaken):
    run = mistaken(cwd=folder)
    shifts = ad.read_h5ad(folder / "shifts.h5ad")
    fractions = shifts.copy()
    fractions.X = fractions.X / 3
    fractions.write_h5ad(folder / "fractions.h5ad")
    known = shifts[shifts.obs["split"] == "train"].copy()
    known.write_h5ad(folder / "known.h5ad")
    train = ("train", "shifts.h5ad", *SVAE[:4], "-m", "new", "--epochs", 1)
    for arguments, status, says in (
        (("train", "fractions.h5ad", *SVAE[:4], "-m", "new"), 3, "--round of preprocess or train"),
        ((*train, "--control", "contrl"), 3, "'control'"),
        (("train", "shifts.h5ad", "--method", "svae+", "-m", "new"), 2, "--condition"),
        (("transfer", "known.h5ad", "-m", "model", "-o", "new"), 3, "not a single new intervention"),
        (("targets", "-m", "model", "-o", "targets.txt"), 2, ".graphml"),
        (("targets", "-m", "model", "-o", "new.csv", "--threshold", 1.5), 2, "threshold"),
        (("targets", "-m", "model", "-o", "new.csv", "--programs", 0), 2, "--programs"),
        (("counterfactual", "-m", "model", "--to", "p03+p99", "-o", "new.h5ad"), 3, "never trained on"),
        (("simulate", "sparse-shift", "--targets", "3", "-o", "new.h5ad"), 2, "FEWEST,MOST"),
        (("simulate", "sparse-shift", "--targets", "1,99", "-o", "new.h5ad"), 2, "--targets"),
        (("tune", "shifts.h5ad", *SVAE[:4], "-m", "new"), 2, "--grid"),
        (("evaluate", "shifts.h5ad", "-m", "model", "--panel", "likelihood", "--particles", 0), 2, "particles"),
    ):
        done = run(*arguments)
        assert done.returncode == status, (arguments, done.stderr)
        assert says in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert not list(folder.glob("new*"))


def test_an_intervention_of_a_few_cells_is_kept_with_a_warning(folder, cellalign):
    shifts = ad.read_h5ad(folder / "shifts.h5ad")
    few = shifts[(shifts.obs["perturbation"] != "p05") | (shifts.obs_names.str[-1] == "0")].copy()
    assert 0 < (few.obs["perturbation"] == "p05").sum() < 10
    few.write_h5ad(folder / "few.h5ad")
    done = cellalign(cwd=folder)("train", "few.h5ad", *SVAE[:4], "--epochs", 1, "-m", "few-model")
    assert done.returncode == 0 and "p05" in done.stderr and "fewer than 10 cells" in done.stderr
    (field,) = yaml.safe_load((folder / "few-model" / "model.yaml").read_text())["fields"]
    assert "p05" in field["categories"]


def test_gene_sets_and_interactions_of_the_command(folder, cellalign):
    run = cellalign(cwd=folder)
    cells = ad.read_h5ad(folder / "shifts.h5ad")
    cells.obs["perturbation"] = cells.obs["perturbation"].astype(str).replace({"p02": "p00+p01"}).astype("category")
    cells.write_h5ad(folder / "doubles.h5ad")
    genes = list(cells.var_names)
    (folder / "sets.gmt").write_text("".join(f"S{i}\tabout\t" + "\t".join(genes[i::3]) + "\n" for i in range(3)))
    more = ("--gene-sets", "sets.gmt", "--top-genes", 10, "--interactions")
    done = run("targets", "doubles.h5ad", "-m", "model", *more, "-o", "more.h5ad")
    assert done.returncode == 0, done.stderr
    assert "p00+p01" in done.stdout and "enriched" in done.stderr + done.stdout.replace("gene sets", "enriched")
    written = ad.read_h5ad(folder / "more.h5ad")
    assert len(written.uns["enrichment"]) == 3 * 4 and written.uns["interactions"]["cells"].tolist() == [40]
    done = run("targets", "doubles.h5ad", "-m", "model", *more, "-o", "more.json", "--format", "csv")
    assert done.returncode == 0, done.stderr
    held = json.loads((folder / "more.json").read_text())
    assert {len(held["enrichment"]), len(held["interactions_latents"])} == {12, 4}
    assert done.stdout.count("\n") == 12 + 1 + 1 + 1
    for ending in ("csv", "graphml"):
        assert run("targets", "doubles.h5ad", "-m", "model", *more, "-o", f"more.{ending}").returncode == 0
    assert "gene_sets" in pd.read_csv(folder / "more.csv")


def test_a_gmt_file_that_is_none_ends_before_any_work(folder, cellalign):
    (folder / "bad.gmt").write_text("a,b,c\n")
    done = cellalign(cwd=folder)("targets", "-m", "model", "--gene-sets", "bad.gmt", "-o", "bad.json")
    assert done.returncode == 3 and not (folder / "bad.json").exists()
    assert done.stderr.count("\n") == 1 and "bad.gmt, line 1: 'a,b,c' is no gene set" in done.stderr
