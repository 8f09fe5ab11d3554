"""An HDF5 file looked through by a process of its own: HDF5 can crash, or never end, on bytes that are not its own.

The child opens the file, follows all groups, attributes and indexes of chunks, and reads what is small or a string:
what HDF5 walks by pointers within the file. It may compute for so many seconds and take so much memory, and no more.
Large arrays of numbers are not read twice: of them the filters alone decide, and these end with an error.

Also run as a script (`python probe.py FILE`), where a process cannot be forked; it imports h5py and nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from typing import Any

import h5py

SECONDS = 10  # of computing, and one more for every 10 MB: a good file of 100 objects takes a hundredth of one
MEMORY = 2 << 30  # beyond what the process has already
SMALL = 1 << 20  # bytes of an array that is read
ROWS = 50_000  # strings at once
FINE, DAMAGED, TOO_LARGE = 0, 3, 9  # how the child ends
_looked_through: set[tuple[Any, ...]] = set()


def fault_of(path: str | os.PathLike[str]) -> str | None:
    """What HDF5 does with a file that it must not be given; None of one that it can read, or says an error about.

    Parameters
    ----------
    path : path
        Looked through once, as long as it is not changed.
    """
    stats = os.stat(path)
    mark = (stats.st_dev, stats.st_ino, stats.st_size, stats.st_mtime_ns)
    if mark in _looked_through:
        return None
    seconds = SECONDS + stats.st_size // 10_000_000
    # forked children of a process with macOS's frameworks may not call into them
    status = _forked(path, seconds) if hasattr(os, "fork") and sys.platform != "darwin" else _spawned(path, seconds)
    if status in (FINE, None):
        _looked_through.add(mark)
        return None
    if status == TOO_LARGE:
        return "HDF5 asks for memory without end"
    if status == DAMAGED:
        return "a chunk is larger than it says"
    return "HDF5 does not come to an end with it" if status in _OVERTIME else "HDF5 crashes on it"


def _forked(path: str | os.PathLike[str], seconds: int) -> int | None:
    """How the child ended: its status, or the negative number of the signal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which the child has no use for
        pid = os.fork()
    if pid == 0:
        status = FINE
        try:
            _limit(seconds)
            status = _look_through(path)
        except BaseException:
            pass  # whatever can be said is said by the process that reads
        finally:
            os._exit(status)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:  # somebody else waits for all children
        return None
    except BaseException:
        _end(pid)
        raise


def _end(pid: int) -> None:
    import signal

    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except OSError:
        pass


def _spawned(path: str | os.PathLike[str], seconds: int) -> int | None:
    """The same of a new Python; None where none can be started."""
    try:
        command = [sys.executable, "-I", __file__, os.fspath(path), str(seconds)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60 + 10 * seconds)
    except subprocess.TimeoutExpired:
        return OVERTIME
    except (OSError, TypeError, ValueError):
        return None
    return None if done.returncode in (1, 2) else done.returncode  # Python's own: it could not begin


OVERTIME = -24  # SIGXCPU where it has its usual number


def _overtime() -> set[int]:
    import signal

    return {OVERTIME} | {-getattr(signal, name) for name in ("SIGXCPU", "SIGKILL") if hasattr(signal, name)}


_OVERTIME = _overtime()


def _limit(seconds: int) -> None:
    """Limits of this process: computing, memory, no core file, nothing said."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    try:
        import resource
    except ImportError:  # not on Windows
        return
    for what, soft, hard in (
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_AS, *[_memory_now() + MEMORY] * 2),
    ):
        _, most = resource.getrlimit(what)
        try:
            if most == resource.RLIM_INFINITY or most >= hard:
                resource.setrlimit(what, (soft, hard))
        except (ValueError, OSError):
            pass  # this system knows no such limit


def _memory_now() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return 64 << 30


def _look_through(path: str | os.PathLike[str]) -> int:
    """Visit all that is in a file; an error of one element does not keep from the next."""
    with h5py.File(path) as handle:
        seen, waiting = set(), [handle]
        while waiting:
            element = waiting.pop()
            try:
                info = h5py.h5o.get_info(element.id)
                if info.addr in seen:
                    continue
                seen.add(info.addr)
                for name in element.attrs:
                    _tried(element.attrs.__getitem__, name)
                if isinstance(element, h5py.Dataset):
                    if not _read_through(element):
                        return DAMAGED
                elif isinstance(element, h5py.Group):
                    for name in element:
                        if element.get(name, getclass=True, getlink=True) is h5py.HardLink:
                            _tried(lambda name: waiting.append(element[name]), name)  # noqa: B023
            except MemoryError:
                return TOO_LARGE
            except Exception:
                continue
    return FINE


def _tried(call: Any, name: Any) -> None:
    try:
        call(name)
    except MemoryError:
        raise
    except Exception:
        pass


def _read_through(array: Any) -> bool:
    """Read an array of strings, or a small one; of a large one follow its index. False where a chunk is a bomb."""
    dtype = array.dtype
    if array.chunks is not None:
        most = dtype.itemsize
        for length in array.chunks:
            most *= length
        packed = []
        array.id.chunk_iter(lambda chunk: packed.append(chunk.size))
        if max(packed, default=0) > 1.1 * most + SMALL:
            return False
    if array.shape is None or not array.size:
        return True
    if not array.shape:
        array[()]
    elif dtype.hasobject:
        for start in range(0, array.shape[0], ROWS):
            array[start : start + ROWS]
    elif array.size * dtype.itemsize <= SMALL:
        array[()]
    return True


if __name__ == "__main__":
    _limit(int(sys.argv[2]))
    try:
        outcome = _look_through(sys.argv[1])
    except Exception:
        outcome = FINE
    os._exit(outcome)
