"""Files whose bytes were damaged, ours and others': refused in one line, or read; a model is never another one.

Each case damages one file in a drawn way (`broken.py`) and runs a command over it in another process (`worker.py`).
The draws are the same at every run: 57 at every change, 2,028 in the slow suite. What was found is in README.md.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from corpus.drive import digest
from fuzz.broken import broken
from fuzz.worker import Worker
from running import in_this_process
from scipy import sparse
from support import StopAfter

import cellalign

CONTRACT = (0, 2, 3, 4, 5)
CORPUS = Path(__file__).parents[1] / "corpus" / "files"
SMALL = ["--epochs", "2", "--set", "hidden=[4]", "--latent-dim", "3", "--validation", "0.2"]
EMBED = ["embed", "pp.h5ad", "-m", "m", "-o", "o.h5ad"]
RESUME = ["train", "pp.h5ad", "--method", "comp", "--condition", "stim", "-m", "run", "--resume", *SMALL]

pytestmark = [pytest.mark.process, pytest.mark.skipif("sys.platform == 'win32'", reason="limits of Unix")]


@dataclass(frozen=True)
class Target:
    """What is damaged, and what is done with it.

    Attributes
    ----------
    path : str
        The file; of a folder one file in it is drawn.
    words : list of str
        The command line.
    ours : bool
        It has a checksum: a command that succeeds gives what it gives of the undamaged file.
    whole : str, optional
        What is copied for each case, where it is more than the file.
    """

    path: str
    words: list[str]
    ours: bool = False
    whole: str | None = None


def preprocess(path: str) -> list[str]:
    return ["preprocess", path, "-o", "o.h5ad", "--n-top-genes", "0"]


# with its share of the cases, 22 in all
TARGETS: dict[str, tuple[Target, int]] = {
    "model.yaml": (Target("m/model.yaml", EMBED, True, "m"), 4),
    "weights": (Target("m/weights.safetensors", EMBED, True, "m"), 2),
    "history": (Target("m/history.csv", EMBED, True, "m"), 2),
    "checkpoint": (Target("run.partial/state.safetensors", RESUME, True, "run.partial"), 3),
    "ours": (Target("pp.h5ad", EMBED), 4),
    "read whole": (Target("raw.h5ad", preprocess("raw.h5ad")), 4),
    "embedded": (Target("emb.h5ad", ["evaluate", "emb.h5ad", "--condition", "stim", "--panel", "mixing"]), 2),
    "contiguous": (Target("plain.h5ad", preprocess("plain.h5ad")), 4),
    "anndata 0.13": (Target("anndata-0.13.h5ad", preprocess("anndata-0.13.h5ad")), 1),
    "anndata 0.6": (Target("anndata-0.6.h5ad", preprocess("anndata-0.6.h5ad")), 1),
    "csc": (Target("csc.h5ad", preprocess("csc.h5ad")), 1),
    "dense": (Target("dense.h5ad", preprocess("dense.h5ad")), 1),
    "mudata": (Target("mudata-named.h5ad", [*preprocess("mudata-named.h5ad"), "--modality", "rna"]), 2),
    "10x": (Target("cellranger-3.h5", preprocess("cellranger-3.h5")), 2),
    "10x of version 2": (Target("cellranger-2.h5", preprocess("cellranger-2.h5")), 1),
    "zarr": (Target("raw.zarr", preprocess("raw.zarr"), whole="raw.zarr"), 3),
    "zarr of version 3": (
        Target("anndata-0.13-v3.zarr", preprocess("anndata-0.13-v3.zarr"), whole="anndata-0.13-v3.zarr"),
        1,
    ),
    "mtx": (Target("cellranger-3-mtx", preprocess("cellranger-3-mtx"), whole="cellranger-3-mtx"), 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with one of each target, undamaged, and what the commands over models give of them."""
    folder = tmp_path_factory.mktemp("damage")
    random = np.random.default_rng(0)
    n, g = 40, 20
    made = ad.AnnData(sparse.csr_matrix(random.poisson(random.gamma(2.0, 2.0, g), (n, g)).astype("float32")))
    made.obs_names, made.var_names = [f"cell{i}" for i in range(n)], [f"G{i}" for i in range(g)]
    made.obs["stim"] = np.array(["control", "stim"])[np.arange(n) % 2]
    made.obs["dose"] = random.normal(size=n)
    made.layers["counts"] = made.X.copy()
    made.obsm["X_pca"] = random.normal(size=(n, 3))
    made.obsp["near"] = sparse.random(n, n, 0.1, "csr", random_state=0)
    made.raw = made.copy()
    made.uns["note"] = {"text": "a", "graph": sparse.eye(5, format="csr")}
    made.write_h5ad(folder / "raw.h5ad", compression="gzip")
    made.write_h5ad(folder / "plain.h5ad")
    made.write_zarr(folder / "raw.zarr")
    for name in ("anndata-0.13.h5ad", "anndata-0.6.h5ad", "csc.h5ad", "dense.h5ad", "mudata-named.h5ad",
                 "cellranger-3.h5", "cellranger-2.h5", "anndata-0.13-v3.zarr", "cellranger-3-mtx"):  # fmt: skip
        with zipfile.ZipFile(CORPUS / f"{name}.zip") as archive:
            archive.extractall(folder)
    for words in (
        [*preprocess("raw.h5ad")[:2], "-o", "pp.h5ad", "--n-top-genes", "0"],
        ["train", "pp.h5ad", "--method", "comp", "--condition", "stim", "-m", "m", "-o", "emb.h5ad", *SMALL],
        EMBED,
    ):
        done = in_this_process(words, folder)
        assert done.returncode == 0, done.stderr
    (folder / "o.h5ad").rename(folder / "embedded.h5ad")
    _interrupted(folder)
    return folder


def _interrupted(folder: Path) -> None:
    """Leave a checkpoint after the first of two epochs, and the model that the same run ends with."""
    done = in_this_process([word for word in RESUME if word != "--resume"], folder)
    assert done.returncode == 0, done.stderr
    (folder / "run").rename(folder / "finished")
    asked = {"method": "comp", "condition": "stim", "epochs": 2, "latent_dim": 3, "validation": 0.2}
    with pytest.raises(KeyboardInterrupt):
        cellalign.train(
            ad.read_h5ad(folder / "pp.h5ad"),
            settings={"hidden": [4]},
            model_path=folder / "run",
            progress=StopAfter(1),
            **asked,
        )
    assert (folder / "run.partial" / "state.safetensors").is_file()


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    one = Worker()
    yield one
    one.close()


def cases(name: str, n: int, first: int) -> Iterator[np.random.Generator]:
    for number in range(first, first + n):
        yield np.random.default_rng([number, *name.encode()])


@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_file(name, place, worker, tmp_path):
    target, share = TARGETS[name]
    for number, random in enumerate(cases(name, (1 + share) // 2, 0)):
        hold(target, place, worker, tmp_path / str(number), random)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_two_thousand_damaged_files(name, place, worker, tmp_path):
    target, share = TARGETS[name]
    found = []
    for number, random in enumerate(cases(name, 52 * share, 1000)):
        try:
            hold(target, place, worker, tmp_path / "case", random)
        except AssertionError as error:
            found.append(f"{1000 + number}: {error}")
    assert not found, "\n".join(found)


def hold(target: Target, place: Path, worker: Worker, folder: Path, random: np.random.Generator) -> None:
    """What has to hold of a command over a file of which some bytes are others."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in {target.whole or target.path, *({"pp.h5ad"} if "pp.h5ad" in target.words else ())}:
        (shutil.copytree if (place / path).is_dir() else shutil.copyfile)(place / path, folder / path)
    file = folder / target.path
    if file.is_dir():
        file = random.choice(sorted(path for path in file.rglob("*") if path.is_file() and path.stat().st_size))
    way, content = broken(file.read_bytes(), random)
    file.write_bytes(content)
    before = digest(folder)
    ended = worker(target.words, folder)
    shown = f"{file.relative_to(folder)} {way}: {ended.status}\n{ended.said}"
    assert ended.status in CONTRACT, shown
    assert "Traceback" not in ended.said and "unexpected" not in ended.said, shown
    if ended.status:
        errors = [line for line in ended.said.splitlines() if line.startswith("cellalign: error: ")]
        assert len(errors) == 1 and ended.said.strip().splitlines()[-1] == errors[0], shown
        assert digest(folder) == before, f"refused, but something was changed: {shown}"
    elif target.ours:
        SAME[target.words[0]](place, folder, shown)


def _same_embedding(place: Path, folder: Path, shown: str) -> None:
    made, whole = (ad.read_h5ad(path) for path in (folder / "o.h5ad", place / "embedded.h5ad"))
    np.testing.assert_array_equal(made.obsm["X_comp"], whole.obsm["X_comp"], err_msg=shown)


def _same_model(place: Path, folder: Path, shown: str) -> None:
    made, whole = ((path / "weights.safetensors").read_bytes() for path in (folder / "run", place / "finished"))
    assert made == whole, f"another model: {shown}"


SAME: dict[str, Callable[[Path, Path, str], None]] = {"embed": _same_embedding, "train": _same_model}
