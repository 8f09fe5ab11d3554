"""`benchmark --dry-run` and `tune --dry-run`: what would be done, as it then is; the same errors; nothing written."""

import json

import anndata as ad
import pandas as pd
import pytest

BENCHMARK = "--methods linear,pca --holdout-each cell_type --condition stim --group B --group NK".split()
TUNE = "--method cvae --condition stim --grid latent_dim=2,3 --seeds 2 --epochs 2 --set hidden=[8] --by loss".split()


def said(done):
    """Values by what they are of, the first of each, and the state of every training or run."""
    assert done.returncode == 0, done.stderr
    rows, first = json.loads(done.stdout), {}
    for row in rows:
        first.setdefault(row["what"], row)
    return first, {row["how"]: row["value"] for row in rows if row["what"] in ("training", "run")}


def content(folder):
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.fixture
def tried(cellalign, kang_like, tmp_path):
    """A command that is only tried; nothing on disk is another after it."""

    def run(verb, *words, cells=kang_like):
        before = content(tmp_path)
        done = cellalign(cwd=tmp_path)(verb, cells, *words, "--dry-run", "--format", "json")
        assert content(tmp_path) == before
        return done

    return run


def test_a_benchmark_says_what_it_then_does(tried, cellalign, kang_like, tmp_path):
    first, states = said(tried("benchmark", *BENCHMARK, "--seeds", 2))
    assert first["trainings"]["value"] == 8 == len(states) and set(states.values()) == {"to do"}
    assert first["held out"]["how"] == "cell_type: B, NK, under stim=stimulated" and first["seeds"]["how"] == "0, 1"
    whole = ad.read_h5ad(kang_like).obs  # what is held out of each training is of the file all the same
    assert all(f"{stim} ({n}" in first["condition 'stim'"]["how"] for stim, n in whole["stim"].value_counts().items())
    assert first["writes"]["how"] == "benchmark.csv"
    assert first["estimate"]["value"] > 0 and first["memory"]["value"] > 2**20
    assert first["method linear"]["value"] + first["method pca"]["value"] == pytest.approx(
        first["estimate"]["value"], abs=0.2
    )
    run = cellalign(cwd=tmp_path)
    assert run("benchmark", kang_like, *BENCHMARK[:-2]).returncode == 0  # of B, and of seed 0 alone
    there = pd.read_csv(tmp_path / "benchmark.csv")
    first, states = said(tried("benchmark", *BENCHMARK, "--seeds", 2))
    assert first["trainings"]["value"] == 6 and sorted(states.values()) == ["done"] * 2 + ["to do"] * 6
    assert states["pca, seed 0: cell_type=B under stim=stimulated held out"] == "done"
    assert first["kept of linear"]["how"] == "1 row, not computed again: B as stimulated, seed 0"
    assert first["kept of baselines"]["value"] == len(there) - 2
    assert "rows are added" in first["writes"]["how"] and "kept of others" not in first
    first, _ = said(tried("benchmark", *BENCHMARK, "--set", "linear.change=ridge"))
    assert first["kept of others"]["value"] == 1 and "kept of linear" not in first and first["kept of pca"]["value"]
    assert first["trainings"]["value"] == 3
    whole = said(tried("benchmark", *BENCHMARK[:-2]))[0]
    assert whole["trainings"]["value"] == 0 and whole["estimate"]["how"] == "nothing is left to train"


@pytest.mark.slow
def test_one_training_for_several_conditions_is_counted_once(tried, kang_like, cellalign, tmp_path):
    import anndata as ad

    cells = ad.read_h5ad(kang_like)
    cells.obs["dose"] = cells.obs["stim"].astype(str)
    cells.obs.loc[cells.obs_names[(cells.obs["stim"] != "control").to_numpy().nonzero()[0][::2]], "dose"] = "more"
    cells.write_h5ad(tmp_path / "doses.h5ad")
    words = "--methods linear --holdout-each cell_type --condition dose --group B".split()
    each, _ = said(tried("benchmark", *words, cells="doses.h5ad"))
    words += ["--holdout-conditions", "all"]
    together, _ = said(tried("benchmark", *words, cells="doses.h5ad"))
    assert (each["trainings"]["value"], together["trainings"]["value"]) == (2, 1)
    assert "one at a time" in each["held out"]["how"] and "all at once" in together["held out"]["how"]
    assert cellalign(cwd=tmp_path)("benchmark", "doses.h5ad", *words).returncode == 0
    lines = (tmp_path / "benchmark.csv").read_text().splitlines(keepends=True)
    (tmp_path / "benchmark.csv").write_text("".join(line for line in lines if ",linear,0,B,more," not in line))
    _, states = said(tried("benchmark", *words, cells="doses.h5ad"))
    assert list(states.values()) == ["1 of 2 to do"]


def test_tune_says_which_runs_are_there(tried, cellalign, kang_like, tmp_path):
    first, states = said(tried("tune", *TUNE, "-o", "ranking.csv"))
    assert first["trainings"]["value"] == 4 == len(states) and first["ranked by"]["how"] == "loss"
    assert set(states.values()) == {"to do"} and {"setting latent_dim=2", "setting latent_dim=3"} < set(first)
    assert first["writes"]["how"].startswith("cellalign-model, ranking.csv; runs are kept in cellalign-model.tuning")
    import cellalign as package
    from tests.support import StopAfter

    asked = {"method": "cvae", "grid": {"latent_dim": [2, 3]}, "seeds": 1, "by": "loss", "settings": {"hidden": [8]}}
    asked |= {"condition": "stim", "epochs": 2, "runs": tmp_path / "cellalign-model.tuning"}
    with pytest.raises(KeyboardInterrupt):
        package.tune(package.read(kang_like), progress=StopAfter(1), **asked)
    _, states = said(tried("tune", *TUNE))
    assert states["latent_dim=2, seed 0"] == "cut off, which goes on"
    package.tune(package.read(kang_like), **asked)
    first, states = said(tried("tune", *TUNE))
    assert first["trainings"]["value"] == 2 and first["trainings"]["how"].endswith("2 are finished already)")
    assert [states[f"latent_dim=3, seed {seed}"] for seed in (0, 1)] == ["finished already", "to do"]


def test_a_damaged_checkpoint_is_left_by_who_only_looks(tried, kang_like, tmp_path):
    import cellalign as package
    from tests.support import StopAfter

    asked = {"method": "cvae", "grid": {"latent_dim": [2, 3]}, "seeds": 1, "by": "loss", "settings": {"hidden": [8]}}
    runs = tmp_path / "cellalign-model.tuning"
    with pytest.raises(KeyboardInterrupt):
        package.tune(package.read(kang_like), progress=StopAfter(1), condition="stim", epochs=2, runs=runs, **asked)
    (left,) = runs.iterdir()
    (left / "state.safetensors").write_bytes(b"damaged")
    done = tried("tune", *TUNE)
    assert "trained again" in done.stderr and set(said(done)[1].values()) == {"to do"}


WRONG = {
    "no such method": ("benchmark", "--methods lineer --holdout-each cell_type --condition stim", 2),
    "no such group": ("benchmark", "--methods linear --holdout-each cell_type --condition stim --group Nk", 3),
    "no such column": ("benchmark", "--methods linear --holdout-each kind --condition stim", 3),
    "no such setting": ("benchmark", "--methods linear --condition stim --set linear.chnge=1", 2),
    "no such metric": ("benchmark", "--methods linear --condition stim --metric mse_dee", 2),
    "a table of something else": ("benchmark", "--methods linear --condition stim -o other.csv", 3),
    "out of range": ("benchmark", "--methods cvae --condition stim --holdout-each cell_type --epochs 0", 2),
    "nothing to try": ("tune", "--method cvae --condition stim", 2),
    "what cannot rank": ("tune", "--method comp --condition stim --grid gamma=0,1 --by loss", 2),
    "no such condition": ("tune", "--method cvae --condition stem --grid latent_dim=2", 3),
    "held out what is not there": ("tune", "--method cvae --condition stim --grid latent_dim=2 --holdout stim=x", 3),
    "a folder of something else": ("tune", "--method cvae --condition stim --grid latent_dim=2 -m mine --force", 2),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_as_by_the_run_itself(tried, cellalign, kang_like, tmp_path, name):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    verb, words, status = WRONG[name]
    real = cellalign(cwd=tmp_path)(verb, kang_like, *words.split())
    only = tried(verb, *words.split())
    assert (real.returncode, only.returncode) == (status, status), (real.stderr, only.stderr)
    assert only.stderr.splitlines()[-1] == real.stderr.splitlines()[-1]
