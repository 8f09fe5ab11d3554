"""Where commands run: files that may not be read, no home, nowhere to write temporary files, another encoding."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
PREPROCESSED = "counts in X\no.h5ad: 240 cells x 20 genes\n"  # and no word of matplotlib or numba
SETPRIV = shutil.which("setpriv")


def powers() -> list[str]:
    """What a command is run by so that permissions hold for it: root reads everything."""
    if os.geteuid():
        return []
    if SETPRIV is None:
        pytest.skip("root can read every file, and there is no setpriv")
    return [SETPRIV, "--bounding-set=-all", "--inh-caps=-all"]


@pytest.fixture
def run(tmp_path):
    """`run(words, NAME=value)` as somebody for whom permissions hold; None takes a variable away."""

    def at(*words: object, **environment: str | None) -> subprocess.CompletedProcess:
        changed = os.environ | {"OMP_NUM_THREADS": "1"} | environment
        env = {name: value for name, value in changed.items() if value is not None}
        command = [*powers(), sys.executable, "-m", "cellalign", *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)

    return at


def one_line(done: subprocess.CompletedProcess, status: int, *said: str) -> None:
    assert done.returncode == status, done.stderr
    assert len(done.stderr.splitlines()) == 1 and all(word in done.stderr for word in said), done.stderr


@pytest.fixture
def unreadable(tiny_path):
    tiny_path.chmod(0)
    yield tiny_path
    tiny_path.chmod(0o644)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["train", "FILE", "--method", "vae", "-m", "m"],
        ["preprocess", "FILE", "-o", "o.h5ad"],
        ["evaluate", "FILE", "--condition", "stim"],
        ["tune", "FILE", "--grid", "lr=0.1", "-m", "m"],
        ["benchmark", "FILE", "--methods", "linear", "--condition", "stim", "--holdout-each", "cell_type"],
    ],
)
def test_a_file_that_may_not_be_read(run, unreadable, words):
    one_line(
        run(*(unreadable if word == "FILE" else word for word in words)),
        3,
        f"cannot read {unreadable}: Permission denied;",
    )


@pytest.mark.slow
def test_a_folder_that_may_not_be_looked_into(run, tiny_path, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    shutil.move(tiny_path, folder / "in.h5ad")
    folder.chmod(0)
    try:
        done = run("preprocess", "locked/in.h5ad", "-o", "o.h5ad")
        one_line(done, 3, "locked", "ermission denied")
        done = run("embed", "-m", "locked/model")
        one_line(done, 3, "locked", "ermission denied")
        done = run("simulate", "ifnb", "--cells", 40, "--genes", 60, "-o", "locked/out.h5ad")
        one_line(done, 3, "locked")
    finally:
        folder.chmod(0o755)


@pytest.mark.slow
def test_a_working_directory_that_cannot_be_written_to(run, tiny_path, tmp_path):
    tmp_path.chmod(0o555)
    try:
        one_line(run("train", tiny_path.name, "--method", "vae"), 3, "cellalign-model", "not writable")
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.slow
def test_no_home(run, tiny_counts_path):
    """numba and matplotlib, which scanpy imports, keep things there."""
    nowhere = {"HOME": "/nonexistent", "NUMBA_CACHE_DIR": None, "MPLCONFIGDIR": None, "XDG_CACHE_HOME": None}
    done = run("preprocess", tiny_counts_path, "-o", "o.h5ad", "--n-top-genes", 20, **nowhere)
    assert (done.returncode, done.stderr) == (0, PREPROCESSED)


@pytest.mark.slow
def test_folders_for_caches_that_cannot_be_used(run, tiny_counts_path):
    unfit = {"NUMBA_CACHE_DIR": "/proc/none", "MPLCONFIGDIR": "/proc/none"}
    done = run("preprocess", tiny_counts_path, "-o", "o.h5ad", "--n-top-genes", 20, **unfit)
    assert (done.returncode, done.stderr) == (0, PREPROCESSED)


@pytest.mark.slow
def test_a_locale_without_the_letters_of_a_name(run, tiny, tmp_path):
    tiny.obs["stim"] = tiny.obs["stim"].cat.rename_categories({"stimulated": "👩‍🔬 [/naive]"})
    tiny.obsm["X_z"] = tiny.X[:, :3].toarray()
    tiny.write_h5ad(tmp_path / "in.h5ad")
    words = ["evaluate", "in.h5ad", "--condition", "stim", "--panel", "mixing", "--k", 10]
    for encoding in ("ascii", "latin-1", "utf-8"):
        done = run(*words, PYTHONIOENCODING=encoding, LC_ALL="C")
        assert done.returncode == 0, done.stderr
        assert "[/naive]" in done.stdout
