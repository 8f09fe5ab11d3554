"""What is compiled is kept on disk, and whatever becomes of the disk, results are right and the cache is made anew."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import cellalign
from cellalign.nn.kernels import cache, packages

PACKAGE = Path(cellalign.__file__).parent


def double(first, last, part, arrays):
    for i in range(first, last):
        arrays[0][i] *= 2


SIGNATURE = (numba.int64, numba.int64, numba.int64, numba.types.Tuple((numba.float32[::1],)))


def compiled():
    """As another process would: from the disk or anew. It must then work."""
    dispatcher = numba.njit(double)
    cache.keep_on_disk(dispatcher)
    dispatcher.compile(SIGNATURE)
    values = np.arange(4, dtype=np.float32)
    dispatcher(1, 3, 0, (values,))
    assert values.tolist() == [0, 2, 4, 3]
    return dispatcher


def was_read(dispatcher) -> bool:
    return sum(dispatcher.stats.cache_hits.values()) == 1


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where it is kept, of this test alone."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    assert not was_read(compiled())
    assert was_read(compiled())
    return tmp_path


DAMAGE = {
    "empty": lambda _: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "zeros": lambda content: bytes(len(content)),
    "another version's": lambda content: b"\x80\x04\x95" + content,
    "a flipped bit": lambda content: content[:-50] + bytes([content[-50] ^ 1]) + content[-49:],
}


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_made_anew(folder, suffix, damage):
    (path,) = folder.rglob(f"*.{suffix}")
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    compiled()
    assert was_read(compiled())


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_a_missing_file_is_made_anew(folder, suffix):
    (path,) = folder.rglob(f"*.{suffix}")
    path.unlink()
    assert not was_read(compiled())
    assert was_read(compiled())


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_a_file_that_may_not_be_read_is_made_anew(folder, suffix, monkeypatch):
    (path,) = folder.rglob(f"*.{suffix}")
    if os.geteuid() == 0:  # who may read everything; a folder cannot be read by anybody
        path.unlink()
        path.mkdir()
    else:
        path.chmod(0)
    compiled()
    if path.is_dir():
        path.rmdir()
    compiled()
    assert was_read(compiled())


def test_nowhere_to_write(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(blocked / "cache"))
    for locator in ("InTreeCacheLocator", "UserWideCacheLocator"):
        monkeypatch.setattr(f"numba.core.caching.{locator}.from_function", lambda *_: None)
    compiled()
    assert not was_read(compiled())


def test_a_full_disk(folder, monkeypatch):
    shutil.rmtree(folder)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._save_index", full)
    assert not was_read(compiled())


def test_other_sources_or_another_numba_compile_it_again(folder, monkeypatch):
    cache.stamp.cache_clear()
    monkeypatch.setattr(cache.llvmlite, "__version__", "another")
    assert not was_read(compiled())
    monkeypatch.undo()
    cache.stamp.cache_clear()


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from cellalign.nn.kernels import likelihood
assert likelihood.__file__.startswith(sys.argv[1]) and likelihood.KERNEL.ready
rho = np.empty(2, np.float32)
print(sum(likelihood.KERNEL.serial.stats.cache_hits.values()), likelihood._exponentials(np.zeros(2, np.float32), rho))
"""


@pytest.mark.slow
def test_a_constant_of_another_file_counts_as_source(tmp_path):
    copy = tmp_path / "cellalign"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}

    def hits():
        command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, env=environment)
        return int(done.stdout.split()[0])

    assert (hits(), hits()) == (0, 1)
    constants = copy / "nn" / "kernels" / "__init__.py"
    constants.write_text(constants.read_text() + "LEAST_LOGIT = -70.0\n")
    assert (hits(), hits()) == (0, 1)


OTHER_PACKAGE = """
import numba

@numba.njit
def square(x):
    return x * x

@numba.njit("f8(f8)")  # compiled at once
def cube(x):
    return x * x * x

@numba.njit(parallel=True)
def total(function, values):
    found = 0.0
    for i in numba.prange(len(values)):
        found += function(values[i])
    return found

"""
USED = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from other.loops import cube, square, total
from cellalign.nn.kernels.packages import keep_packages_on_disk
keep_packages_on_disk("other")
keep_packages_on_disk("other")
values = np.arange(4.0)
print(sum(total.stats.cache_hits.values()), total(square, values), total(cube, values), end=" ")
print(sum(total.stats.cache_hits.values()))
"""


def test_functions_of_another_package_are_kept_by_the_functions_they_are_given(tmp_path):
    package = tmp_path / "other"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "loops.py").write_text(OTHER_PACKAGE)

    def used():
        command = [sys.executable, "-c", USED, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        return done.stdout.split()

    assert used() == ["0", "14.0", "36.0", "0"]
    assert used() == ["0", "14.0", "36.0", "2"]
    (package / "loops.py").write_text(OTHER_PACKAGE.replace("return x * x\n", "return x + x\n"))
    assert used() == ["0", "12.0", "36.0", "0"]


def test_packages_that_insist_on_a_cache_are_given_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    with packages.compiled_elsewhere("pynndescent"):
        assert numba.config.CACHE_DIR == str(tmp_path)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    for locator in ("InTreeCacheLocator", "UserWideCacheLocator"):
        monkeypatch.setattr(f"numba.core.caching.{locator}.from_function", lambda *_: None)
    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(double, cache=True)
    with packages.compiled_elsewhere("pynndescent"):
        folder = Path(numba.config.CACHE_DIR)
        function = numba.njit(double, cache=True)
    assert numba.config.CACHE_DIR == ""  # the caller's again
    function.compile(SIGNATURE)
    assert list(folder.rglob("*.nbi"))


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95", b"nonsense"])
def test_a_damaged_file_of_another_package_is_made_anew(tmp_path, monkeypatch, suffix, content):
    """As scanpy's and pynndescent's functions are kept: by numba alone."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    numba.njit(double, cache=True).compile(SIGNATURE)
    (path,) = tmp_path.rglob(f"*.{suffix}")
    path.write_bytes(content)
    with packages.compiled_elsewhere("pynndescent"):
        numba.njit(double, cache=True).compile(SIGNATURE)
    again = numba.njit(double, cache=True)
    again.compile(SIGNATURE)
    assert was_read(again)


def test_a_full_disk_does_not_stop_another_package(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._save_index", full)
    with packages.compiled_elsewhere("pynndescent"):
        numba.njit(double, cache=True).compile(SIGNATURE)


def test_numba_is_as_it_was_after_the_last_of_several_calls(tmp_path, monkeypatch):
    own = numba.core.caching.IndexDataCacheFile.load
    first, second = packages.compiled_elsewhere("umap"), packages.compiled_elsewhere("umap")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert numba.core.caching.IndexDataCacheFile.load is not own
    second.__exit__(None, None, None)
    assert numba.core.caching.IndexDataCacheFile.load is own
