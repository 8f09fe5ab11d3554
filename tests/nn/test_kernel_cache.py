"""What is compiled is kept on disk, and whatever becomes of the disk, results are right and the cache is made anew."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from support import at_every_change

import cellalign
from cellalign.nn.kernels import cache, packages, places

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
    "the first bit": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "a bit of the digest or the header": lambda content: content[:20] + bytes([content[20] ^ 128]) + content[21:],
    "a pickle of something else": lambda _: pickle.dumps({"what": 1}),
    "a pickle that runs": lambda _: pickle.dumps(Runs()),
}


class Runs:
    def __reduce__(self):
        return os._exit, (99,)


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


@pytest.fixture
def nowhere(monkeypatch):
    """No folder but a temporary one serves."""
    monkeypatch.setattr(places, "usable", lambda _: False)


def test_nowhere_to_write(nowhere, monkeypatch):
    monkeypatch.setattr(places, "temporary_folder", lambda: Path("/dev/null"))
    compiled()
    assert not was_read(compiled())


def test_what_has_no_other_place_lasts_as_long_as_the_process(nowhere):
    """A child of its own, for the folder goes with it."""
    script = (
        "from cellalign.nn.kernels import places; places.usable = lambda _: False; print(places.folder_for("
        "places.Path('/x/y.py'), 'z'), flush=True); assert places.temporary_folder().is_dir()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True)
    assert not Path(done.stdout.strip()).parent.exists()


def test_a_full_disk(folder, monkeypatch):
    shutil.rmtree(folder)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "write_private", full)
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


@pytest.mark.slow
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
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    for locator in ("InTreeCacheLocator", "UserWideCacheLocator"):
        monkeypatch.setattr(f"numba.core.caching.{locator}.from_function", lambda *_: None)
    monkeypatch.setattr(places, "usable", lambda _: False)
    monkeypatch.setattr(places, "temporary_folder", lambda: tmp_path)
    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(double, cache=True)
    with packages.compiled_elsewhere():
        (tmp_path / places.PrivateLocator.get_suitable_cache_subpath(__file__)).mkdir()
        numba.njit(double, cache=True).compile(SIGNATURE)
    assert list(tmp_path.rglob("*.nbi"))


def of_another_package():
    """As scanpy's and pynndescent's functions are kept."""
    with packages.compiled_elsewhere():
        function = numba.njit(double, cache=True)
        function.compile(SIGNATURE)
    return function


@pytest.mark.parametrize("suffix", at_every_change(["nbi", "nbc"], ["nbi"]))
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_of_another_package_is_made_anew(tmp_path, monkeypatch, suffix, damage):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    assert not was_read(of_another_package())
    assert was_read(of_another_package())
    (path,) = tmp_path.rglob(f"*.{suffix}")
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    of_another_package()
    assert was_read(of_another_package())


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_what_numba_itself_has_kept_is_not_read(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    early = numba.njit(double, cache=True)  # made before the context, as by a user who imported scanpy
    numba.njit(double, cache=True).compile(SIGNATURE)
    (path,) = tmp_path.rglob(f"*.{suffix}")
    path.write_bytes(pickle.dumps(Runs()))
    assert not was_read(of_another_package())
    with packages.compiled_elsewhere():
        early.compile(SIGNATURE)
    assert was_read(early)


def test_a_full_disk_does_not_stop_another_package(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cache, "write_private", full)
    assert not was_read(of_another_package())


def test_numba_is_as_it_was_after_the_last_of_several_calls():
    from numba.core.caching import Cache, CacheImpl

    own = Cache.load_overload, Cache.save_overload, CacheImpl._locator_classes
    first, second = packages.compiled_elsewhere(), packages.compiled_elsewhere()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert Cache.load_overload is not own[0]
    second.__exit__(None, None, None)
    assert (Cache.load_overload, Cache.save_overload, CacheImpl._locator_classes) == own


def test_two_processes_that_write_at_a_time_never_mix_their_files_up(tmp_path):
    """Both have read the index before either writes: one of them loses its place, and neither is given the other's."""
    tmp_path.chmod(0o700)
    first, second = (cache.Files(str(tmp_path), "f", "sources") for _ in range(2))
    seen: list = []
    read = second._index

    def index():
        found = read()
        if not seen:
            seen.append(found)
            first.save("a", "data of a")
        return found

    second._index = index
    second.save("b", "data of b")
    fresh = cache.Files(str(tmp_path), "f", "sources")
    assert fresh.load("a") in (None, "data of a") and fresh.load("b") == "data of b"
    for each, key in ((first, "a"), (second, "b"), (first, "a")):
        each.save(key, f"data of {key}")
        assert fresh.load(key) == f"data of {key}"
    assert (fresh.load("a"), fresh.load("b")) == ("data of a", "data of b")
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".nbi", ".nbc")]
