"""No command replaces what it should not, and a full disk ends each in one line with all as it was."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "cellalign"]
ROLES = "--condition stim --label cell_type"


@pytest.fixture
def here(kang_like, model, tmp_path):
    """A folder with cells, a model of them, one with a file of the user's, embedded cells and a table."""
    shutil.copy(kang_like, tmp_path / "kang.h5ad")
    shutil.copy(kang_like, tmp_path / "other.h5ad")
    for name in ("m", "mine"):
        shutil.copytree(model, tmp_path / name)
    shutil.copy(kang_like, tmp_path / "mine" / "kang.h5ad")
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    (tmp_path / "text.h5ad").write_text("text")
    os.symlink("kang.h5ad", tmp_path / "link.h5ad")
    (tmp_path / "atlas.zarr" / "obs").mkdir(parents=True)
    (tmp_path / "atlas.zarr" / "zarr.json").write_text("{}")
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


TRAIN = "--method pca --force"
REFUSED = [
    (f"train kang.h5ad {TRAIN} -m kang.h5ad", "is the input"),
    (f"train link.h5ad {TRAIN} -m kang.h5ad", "is the input"),
    (f"train mine/kang.h5ad {TRAIN} -m mine", "holds the input"),
    (f"train kang.h5ad {TRAIN} -m mine/", "holds kang.h5ad, which is no part of a model"),
    (f"train kang.h5ad {TRAIN} -m .", "holds the input"),
    (f"train kang.h5ad {TRAIN} -m ..", "holds the input"),
    (f"train kang.h5ad {TRAIN} -m /", "holds the input"),
    (f"train kang.h5ad {TRAIN} -m other.h5ad", "is a file"),
    (f"train kang.h5ad {TRAIN} -m m -o m/new.h5ad", "lies in the folder of the model m"),
    (f"train kang.h5ad {TRAIN} -m new -o kang.h5ad", "is the input"),
    ("train kang.h5ad --method pca -m m", "exists; pass --force"),
    ("preprocess kang.h5ad -o link.h5ad --force", "is the input"),
    ("preprocess kang.h5ad -o text.h5ad --force", "is no HDF5 file"),
    ("preprocess other.h5ad --like m -o m --force", "is a folder"),
    ("preprocess kang.h5ad -o nowhere/new.h5ad", "there is no folder"),
    ("preprocess kang.h5ad -o table.csv/new.h5ad", "is no folder"),
    ("embed kang.h5ad -m m -o kang.h5ad --force", "is the input"),
    ("embed kang.h5ad -m m -o m/weights.safetensors --force", "ends in .safetensors"),
    ("embed kang.h5ad -m m -o new.h5ad --plot m/weights.safetensors --force", "ends in none of .png"),
    ("embed kang.h5ad -m m -o new.h5ad --plot new.txt", "ends in none of .png"),
    ("annotate other.h5ad -m m --label cell_type --reference kang.h5ad -o link.h5ad --force", "is the input"),
    ("counterfactual kang.h5ad -m m --to stimulated -o link.h5ad --force", "is the input"),
    (f"evaluate other.h5ad --against kang.h5ad {ROLES} -o kang.h5ad --force", "a table is to be written"),
    (f"evaluate other.h5ad --against table.csv {ROLES} -o table.csv --force", "is the input"),
    (f"evaluate other.h5ad -m m {ROLES} -o m/history.csv --force", "lies in the folder of the model m"),
    (f"evaluate other.h5ad -m m {ROLES} -o m --force", "is the input"),
    (f"evaluate other.h5ad {ROLES} -o -", "is standard output"),
    (f"evaluate other.h5ad {ROLES} -o /dev/null --force", "is a device"),
    ("targets -m m -o m/history.csv --force", "lies in the folder of the model m"),
    ("targets -m m -o kang.h5ad --force kang.h5ad --programs 2", "is the input"),
    ("transfer kang.h5ad -m m -o m --force", "is the input"),
    ("transfer kang.h5ad -m m -o mine --force", "which is no part of a model"),
    ("tune kang.h5ad --method vae --grid lr=1 -m new -o new", "two outputs are new"),
    ("tune kang.h5ad --method vae --grid lr=1 -m mine --force", "which is no part of a model"),
    ("tune table.csv --method vae --grid lr=1 -m new -o table.csv --force", "is the input"),
    ("benchmark kang.h5ad --methods pca --holdout-each cell_type --condition stim -o other.h5ad", "a table"),
    ("benchmark table.csv --methods pca --holdout-each cell_type --condition stim -o table.csv", "is the input"),
    ("reproduce m kang.h5ad -o m --force", "is the input"),
    ("demo table.csv --force", "is no folder"),
    ("demo m", "exists; pass --force"),
    ("simulate ifnb --cells 20 --genes 50 -o m --force", "is a folder"),
    (f"train kang.h5ad {TRAIN} -m atlas.zarr/m", "lies in the zarr store atlas.zarr"),
    (f"train kang.h5ad {TRAIN} -m new -o atlas.zarr/obs/new.h5ad", "lies in the zarr store atlas.zarr"),
    ("convert kang.h5ad -o atlas.zarr/new.h5ad", "lies in the zarr store atlas.zarr"),
    ("convert kang.h5ad -o atlas.zarr/new.zarr --force", "lies in the zarr store atlas.zarr"),
    ("embed kang.h5ad -m m -o new.h5ad --plot atlas.zarr/new.png", "lies in the zarr store atlas.zarr"),
    (f"evaluate other.h5ad {ROLES} -o atlas.zarr/new.csv", "lies in the zarr store atlas.zarr"),
    ("targets -m m -o atlas.zarr/new.csv", "lies in the zarr store atlas.zarr"),
    ("report m -o atlas.zarr/new.html", "lies in the zarr store atlas.zarr"),
    ("plot curves m -o atlas.zarr/new.png", "lies in the zarr store atlas.zarr"),
    ("embed kang.h5ad -m m -o m/new.h5ad", "lies in the folder of the model m"),
    (f"train kang.h5ad {TRAIN} -m m/inner", "lies in the folder of the model m"),
    ("demo atlas.zarr/new", "lies in the zarr store atlas.zarr"),
    ("simulate ifnb --cells 20 --genes 50 -o atlas.zarr/new.h5ad", "lies in the zarr store atlas.zarr"),
]


@pytest.mark.process
def test_what_no_command_replaces(here, cellalign):
    before, run = content(here), cellalign(cwd=here)
    for words, says in REFUSED:
        done = run(*words.split())
        assert done.returncode in (2, 3) and says in done.stderr, (words, done.stderr)
        assert len(done.stderr.splitlines()) == 1 and done.stdout == "", (words, done.stderr)
        assert content(here) == before, words


@pytest.mark.process
def test_what_was_kept_is_replaced(here, cellalign):
    run = cellalign(cwd=here)
    os.symlink("m", here / "to-m")
    for words in (
        "train kang.h5ad --method pca -m m --force",
        "train kang.h5ad --method pca -m to-m/ --force",
        "embed kang.h5ad -m m -o other.h5ad --force",
    ):
        done = run(*words.split())
        assert done.returncode == 0, (words, done.stderr)
    assert (here / "to-m").is_symlink()
    assert sorted(os.listdir(here / "m")) == ["cells.npy", "history.csv", "model.yaml", "weights.safetensors"]
    umask = os.umask(0)
    os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in (here / "m").iterdir()} == {0o666 & ~umask}
    assert not [name for name in os.listdir(here) if "cellalign-" in name]


@pytest.mark.process
def test_folders_of_the_users_stay(here, cellalign):
    for name in ("new.tuning", "new.old"):
        (here / name).mkdir()
        (here / name / "mine").write_text("mine")
    tune = "tune kang.h5ad --method vae --grid lr=0.01 --seeds 1 --epochs 1 --set hidden=[8] -m new"
    done = cellalign(cwd=here)(*tune.split())
    assert done.returncode == 0, done.stderr
    assert os.listdir(here / "new.tuning") == ["mine"] and os.listdir(here / "new.old") == ["mine"]
    done = cellalign(cwd=here)(*tune.replace("-m new", "-m other").split())
    assert done.returncode == 0 and not (here / "other.tuning").exists()


FULL = [
    "preprocess kang.h5ad -o other.h5ad --force",
    "train kang.h5ad --method linear --condition stim -m m --force",
    "embed kang.h5ad -m m -o new.zarr",
    "counterfactual kang.h5ad -m m --to stimulated -o new.h5ad",
    "embed kang.h5ad -m m -o - --quiet",
    "preprocess - -o new.h5ad",
]


def limited() -> None:
    """The process writes no file beyond 4 kB."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


@pytest.mark.process
@pytest.mark.parametrize(
    "words",
    [each if each.startswith("counterfactual") else pytest.param(each, marks=pytest.mark.slow) for each in FULL],
)
def test_a_full_disk_is_one_line(here, words):
    """And no segmentation fault: HDF5 ends the interpreter with one where a write failed."""
    (here / "tmp").mkdir()
    before = content(here)
    with open(here / "kang.h5ad", "rb") as cells, open(here / "said", "wb") as said:
        done = subprocess.run(
            [*COMMAND, *words.split()],
            cwd=here,
            stdin=cells,
            stdout=said,
            stderr=subprocess.PIPE,
            text=True,
            timeout=300,
            preexec_fn=limited,
            env=os.environ | {"TMPDIR": str(here / "tmp"), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        )
    after = content(here)
    after.pop("said")
    assert done.returncode == 3, done.stderr
    errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    assert "full" in errors[0] or "no room" in errors[0], done.stderr
    assert after == before


IN_A_NAMESPACE = """
mount -t tmpfs -o size="$1" none full || exit 77
cp -r other.h5ad m full && cd full && shift
dd if=/dev/zero of=fill bs=1k count=1000000 2>/dev/null; truncate -s -12k fill
sha256sum other.h5ad m/* > ../sums
"$@" < ../kang.h5ad > ../said 2> ../errors; status=$?
sha256sum --quiet -c ../sums && [ "$(ls -A)" = "$(printf 'fill\\nm\\nother.h5ad')" ] || { ls -lA; exit 78; }
exit $status
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
@pytest.mark.parametrize("words", [*FULL[:4], "train ../kang.h5ad --method vae --epochs 1 --condition stim -m new"])
def test_a_disk_that_is_full(here, words):
    """A file system of its own, as large as what lies on it."""
    (here / "full").mkdir()
    words = words.replace(" kang.h5ad", " ../kang.h5ad")
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", IN_A_NAMESPACE, "sh", "4m", *COMMAND, *words.split()],
        cwd=here,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode in (1, 77) and not (here / "errors").exists():
        pytest.skip(f"no file system can be mounted here: {done.stderr}")
    errors = (here / "errors").read_text()
    assert done.returncode == 3, (done.stdout, done.stderr, errors)
    assert "Traceback" not in errors and "the disk is full" in errors.splitlines()[-1]
