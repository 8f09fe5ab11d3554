"""What is handed out: the wheel and the source archive hold all that they should, and nothing that they should not."""

import os
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = "cellalign-{version}.data/data/share"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with both, built without an environment of its own."""
    if not os.environ.get("CELLALIGN_REQUIRE_TOOLS"):
        pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    line = [sys.executable, "-m", "hatchling", "build", "-d", folder]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> zipfile.ZipFile:
    return zipfile.ZipFile(next(built.glob("*.whl")))


def kept(pattern: str) -> set[str]:
    """Files of the repository below cellalign/, but for what Python leaves there."""
    return {str(path.relative_to(ROOT)) for path in (ROOT / "cellalign").rglob(pattern) if path.is_file()}


def test_the_wheel_holds_every_file_of_the_package(wheel):
    there = {name for name in kept("*") if "__pycache__" not in name and not name.endswith((".nbi", ".nbc"))}
    assert there <= set(wheel.namelist())
    assert {"cellalign/py.typed", "cellalign/methods/presets/comp_table_16.yaml"} <= set(wheel.namelist())


def test_the_wheel_holds_nothing_else(wheel):
    own = [name for name in wheel.namelist() if not name.startswith("cellalign-")]
    assert all(name.startswith("cellalign/") for name in own)
    assert not [name for name in own if "__pycache__" in name or name.endswith((".pyc", ".h5ad"))]


def test_completions_lie_where_each_shell_looks(wheel):
    version = next(name for name in wheel.namelist() if name.endswith("METADATA")).split("-")[1].split(".dist")[0]
    home = DATA.format(version=version)
    places = {
        "bash-completion/completions/cellalign": "cellalign.bash",
        "zsh/site-functions/_cellalign": "_cellalign",
        "fish/vendor_completions.d/cellalign.fish": "cellalign.fish",
    }
    for place, name in places.items():
        assert wheel.read(f"{home}/{place}") == (ROOT / "completions" / name).read_bytes()


def test_a_first_installation_is_without_jax(wheel):
    said = message_from_bytes(wheel.read(next(name for name in wheel.namelist() if name.endswith("METADATA"))))
    needed = [each for each in said.get_all("Requires-Dist") if "extra ==" not in each]
    assert not [each for each in needed if each.startswith(("jax", "scib"))]
    assert any(each.startswith("scib-metrics") and "extra == 'scib'" in each for each in said.get_all("Requires-Dist"))
    assert {"scib", "formats", "screen", "docs", "test", "dev"} <= set(said.get_all("Provides-Extra"))


def test_the_source_archive_is_enough_to_build_test_and_read(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert kept("*.py") <= names
    wanted = "README.md LICENSE CHANGELOG.md CITATION.cff CONTRIBUTING.md CODE_OF_CONDUCT.md Makefile constraints.txt"
    assert set(wanted.split()) <= names
    wanted = "docs/conf.py docs/quickstart.md workflows/snakemake/Snakefile completions/_cellalign tests/conftest.py"
    assert set(wanted.split()) <= names
    assert not [name for name in names if name.startswith(("docs/generated", "build/")) or "__pycache__" in name]
