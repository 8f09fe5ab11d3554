"""Every mistake a user makes gets its exit status, one line that says what to do, and changes no file."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import yaml


def edited(source: Path, target: Path, change: Callable) -> Path:
    """A copy of an h5ad file with something wrong in it."""
    adata = ad.read_h5ad(source)
    changed = change(adata)
    adata = adata if changed is None else changed  # an empty AnnData is false
    adata.write_h5ad(target)
    return target


def put(value):
    def change(adata):
        adata.X.data[17] = value

    return change


def one_condition(adata):
    return adata[adata.obs["stim"] == "control"].copy()


def missing_condition(adata):
    adata.obs.loc[adata.obs_names[:7], "stim"] = np.nan


def duplicated_cells(adata):
    adata.obs_names = [*adata.obs_names[:-1], adata.obs_names[0]]


def duplicated_genes(adata):
    adata.var_names = [*adata.var_names[:-1], adata.var_names[0]]


def fewer_genes(adata):
    return adata[:, :-3].copy()


def other_condition(adata):
    adata.obs["stim"] = adata.obs["stim"].astype(str).replace("control", "heated")


TRAIN = ("--method", "comp", "--condition", "stim", "-m", "new-model", "--epochs", "1")
DATA_MISTAKES = {
    "an empty matrix": (lambda a: a[:0].copy(), "no cells"),
    "no genes": (lambda a: a[:, :0].copy(), "no genes"),
    "NaN": (put(np.nan), "NaN"),
    "infinity": (put(np.inf), "inf"),
    "negative values": (put(-1.0), "negative"),
    "one condition only": (one_condition, "one condition only"),
    "missing values in the condition": (missing_condition, "7"),
    "duplicated cell names": (duplicated_cells, "duplicate"),
    "duplicated gene names": (duplicated_genes, "duplicate"),
}


def digest(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture
def workplace(tmp_path, kang_like, kang_raw, model, mistaken):
    """A folder with the data, a model, and files that must stay as they are; and how to run a mistake in it."""
    for file in (kang_like, kang_raw):
        shutil.copy(file, tmp_path / file.name)
    shutil.copytree(model, tmp_path / "cellalign-model")
    (tmp_path / "there.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(2040))  # a user's file

    def mistake(*arguments: object, status: int, says: str, env: dict[str, str] | None = None) -> None:
        before = digest(tmp_path)
        done = mistaken(cwd=tmp_path, env=env)(*arguments)
        assert done.returncode == status, done.stderr
        assert says.lower() in done.stderr.lower(), done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert digest(tmp_path) == before

    return tmp_path, mistake


@pytest.mark.parametrize("name", DATA_MISTAKES)
def test_data_that_cannot_be_trained_on(workplace, name):
    folder, mistake = workplace
    change, says = DATA_MISTAKES[name]
    edited(folder / "pp.h5ad", folder / "bad.h5ad", change)
    mistake("train", "bad.h5ad", *TRAIN, status=3, says=says)


def test_a_mistake_in_a_process_of_its_own(workplace, cellalign, mistaken):
    folder, _ = workplace
    for arguments in (("train", "nothing.h5ad", *TRAIN), ("embed", "-o", "there.h5ad"), ("embed", "--nothing")):
        apart, here = cellalign(cwd=folder)(*arguments), mistaken(cwd=folder)(*arguments)
        assert (apart.returncode, apart.stdout, apart.stderr) == (here.returncode, here.stdout, here.stderr)
        assert apart.returncode > 0


def test_files_that_are_no_h5ad(workplace):
    folder, mistake = workplace
    (folder / "text.h5ad").write_text("no table\nof cells\n")
    whole = (folder / "pp.h5ad").read_bytes()
    (folder / "truncated.h5ad").write_bytes(whole[: len(whole) // 2])
    mistake("train", "nothing.h5ad", *TRAIN, status=3, says="no such file")
    mistake("train", "text.h5ad", *TRAIN, status=3, says="text.h5ad")
    mistake("train", "truncated.h5ad", *TRAIN, status=3, says="truncated.h5ad")
    mistake("preprocess", "text.h5ad", "-o", "new.h5ad", status=3, says="text.h5ad")


def test_options_of_train(workplace):
    _, mistake = workplace
    base = ("train", "pp.h5ad", "-m", "new-model", "--epochs", "1")
    mistake(*base, "--method", "comp", "--condition", "stm", status=3, says="'stim'")
    mistake(*base, "--method", "comp", status=2, says="--condition")
    mistake(*base, "--method", "cmop", "--condition", "stim", status=2, says="'comp'")
    mistake(*base, "--condition", "stim", "--set", "gama=2", status=2, says="'gamma'")
    mistake(*base, "--condition", "stim", "--set", "gamma=-2", status=2, says="gamma=-2")
    mistake(*base, "--condition", "stim", "--set", "gamma", status=2, says="KEY=VALUE")
    mistake(*base, "--condition", "stim", "--preset", "comp-pbcm", status=2, says="'comp-pbmc'")
    mistake(*base, "--condition", "stim", "--control", "contrl", status=3, says="'control'")
    mistake(*base, "--condition", "stim", "--config", "nothing.yaml", status=3, says="nothing.yaml")
    mistake(*base, "--condition", "stim", "--holdout", "cell_type=Nk", status=3, says="'NK'")
    mistake(*base, "--condition", "stim", "--resume", status=2, says="nothing to resume")
    mistake(*base, "--condition", "stim", "--layer", "nothing", status=3, says="counts")
    mistake(*base, "--condition", "stim", "--device", "tpu", status=2, says="tpu")


def test_outputs_that_cannot_be_written(workplace):
    _, mistake = workplace
    mistake("embed", "-o", "there.h5ad", status=2, says="--force")
    mistake("counterfactual", "--to", "stimulated", "-o", "there.h5ad", status=2, says="--force")
    mistake("train", "pp.h5ad", "--condition", "stim", status=2, says="--force")
    mistake("preprocess", "raw.h5ad", "-o", "raw.h5ad", status=2, says="raw.h5ad")
    mistake("embed", "-o", "no/such/folder/e.h5ad", status=3, says="no/such/folder")


@pytest.mark.slow
def test_a_full_disk_leaves_what_was_there(workplace):
    """A limit on the size of files stands in for a full disk: the write fails half way through."""
    folder, _ = workplace
    before = digest(folder)
    command = [sys.executable, "-c", LIMITED, "embed", "-o", "there.h5ad", "--force"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3, done.stderr
    assert "there.h5ad" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert digest(folder) == before


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from cellalign.cli.app import main
sys.argv[0] = "cellalign"
main()
"""


def test_models_that_cannot_be_used(workplace):
    folder, mistake = workplace
    (folder / "empty").mkdir()
    mistake("embed", "-m", "nothing", "-o", "e.h5ad", status=4, says="no model directory")
    mistake("embed", "-m", "empty", "-o", "e.h5ad", status=4, says="empty")
    weights = folder / "cellalign-model" / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8] + b"\x00" * 4 + whole[-4:])
    mistake("embed", "-o", "e.h5ad", status=4, says="damaged")
    weights.write_bytes(whole)
    spec_file = folder / "cellalign-model" / "model.yaml"
    spec = yaml.safe_load(spec_file.read_text())
    spec_file.write_text(yaml.safe_dump(spec | {"format_version": 99}))
    mistake("embed", "-o", "e.h5ad", status=4, says="newer")
    spec_file.write_text(yaml.safe_dump(spec | {"seed": 99}))
    mistake("embed", "-o", "e.h5ad", status=4, says="checksum")
    del spec["checksum"]
    spec["hyperparameters"]["latent_dim"] = 7
    spec_file.write_text(yaml.safe_dump(spec))
    mistake("embed", "-o", "e.h5ad", status=4, says="do not fit")
    spec_file.write_text("format_version: [1")
    mistake("embed", "-o", "e.h5ad", status=4, says="damaged")


def test_new_cells_that_do_not_fit_the_model(workplace):
    folder, mistake = workplace
    edited(folder / "pp.h5ad", folder / "fewer.h5ad", fewer_genes)
    edited(folder / "pp.h5ad", folder / "other.h5ad", other_condition)
    mistake("embed", "fewer.h5ad", "-o", "e.h5ad", status=3, says="lacks 3 of")
    mistake("embed", "other.h5ad", "-o", "e.h5ad", status=3, says="never trained on")


def test_counterfactuals_that_make_no_sense(workplace):
    _, mistake = workplace
    out = ("-o", "c.h5ad")
    mistake("counterfactual", "--to", "stimulted", *out, status=3, says="'stimulated'")
    mistake("counterfactual", "--to", "stimulated", "--from", "stimulated", *out, status=2, says="--from")
    mistake("counterfactual", "--to", "stimulated", "--where", "cell_type=Nk", *out, status=3, says="'NK'")
    mistake("counterfactual", "--to", "stimulated", "--samples", "-1", *out, status=2, says="samples")


def test_a_training_file_that_changed_or_is_gone(workplace, cellalign):
    folder, mistake = workplace
    train = ("train", "pp.h5ad", "--condition", "stim", "-m", "here", "--epochs", "1", "--set", "hidden=[8]")
    assert cellalign(cwd=folder)(*train).returncode == 0
    edited(folder / "pp.h5ad", folder / "pp.h5ad", one_condition)
    mistake("embed", "-m", "here", "-o", "e.h5ad", status=3, says="changed")
    (folder / "pp.h5ad").unlink()
    mistake("embed", "-m", "here", "-o", "e.h5ad", status=3, says="gone")


def test_evaluations_that_cannot_be_made(workplace):
    _, mistake = workplace
    mistake("evaluate", "pp.h5ad", "--condition", "stim", "--panel", "mixng", status=2, says="'mixing'")
    mistake("evaluate", "pp.h5ad", "--condition", "stim", status=3, says="X_")
    mistake("targets", "-o", "t.csv", status=4, says="does not learn a graph")


@pytest.mark.parametrize("place", ["results", "pp.h5ad", "."])
def test_nothing_but_a_model_is_replaced_by_a_model(workplace, place):
    folder, mistake = workplace
    (folder / "results").mkdir(exist_ok=True)
    (folder / "results" / "precious.txt").write_text("not a model\n")
    train = [*TRAIN[: TRAIN.index("-m")], *TRAIN[TRAIN.index("-m") + 2 :]]
    mistake("train", "pp.h5ad", *train, "-m", place, "--force", status=2, says="choose another name")
