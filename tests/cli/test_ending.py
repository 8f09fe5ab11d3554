"""Exit statuses of what no task put into words, of interruptions, and of output that nobody reads."""

import errno
import os
import subprocess
import sys

import pytest
import typer
from running import in_this_process

from cellalign.cli.ending import carried, flushed
from cellalign.errors import InputError

COMMAND = [sys.executable, "-m", "cellalign"]


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (PermissionError(13, "Permission denied", "a.h5ad"), 3, "not permitted 'a.h5ad': Permission denied; change"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/a"), 3, "cannot write '/x/a': the disk is full; make"),
        (OSError(errno.EROFS, "Read-only file system", "a"), 3, "cannot use 'a': Read-only file system"),
        (OSError("Can't read data"), 3, "Can't read data"),
        (FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"), 3, "set TMPDIR to one"),
        (InputError("what"), 3, "what"),
        (MemoryError(), 5, "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 5, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (EOFError(), 1, "unexpected EOFError"),  # no interruption
        (ZeroDivisionError(), 1, "unexpected ZeroDivisionError"),
    ],
)
def test_every_error_has_its_status_and_one_line(tmp_path, monkeypatch, error, status, said):
    def fail(*_):
        raise error

    monkeypatch.setattr("cellalign.methods.registry.available", fail)
    done = in_this_process(["methods"], tmp_path)
    assert done.returncode == status
    assert said in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_closed_pipe_is_no_error(tmp_path, monkeypatch):
    def closed(*_):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("cellalign.methods.registry.available", closed)
    done = in_this_process(["methods"], tmp_path)
    assert done.returncode == 141 and done.stderr == ""


def test_clicks_own_exceptions_are_clicks():
    with pytest.raises(typer.Exit), carried():
        raise typer.Exit


@pytest.mark.process
@pytest.mark.parametrize(
    "words", [["methods"], ["methods", "--metrics", "--format", "csv"], ["--help"], ["train", "--help"], ["--version"]]
)
def test_output_that_nobody_reads(words):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*COMMAND, *words], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.process
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_output_that_cannot_be_written():
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, "methods"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (
        done.returncode == 3
        and "the disk of standard output, or that of" in done.stderr
        and len(done.stderr.splitlines()) == 1
    )


@pytest.mark.process
def test_standard_output_may_be_closed():
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m cellalign methods >&-'], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_file_is_not_sent_to_a_closed_standard_output(monkeypatch):
    from cellalign.cli.ending import status_of
    from cellalign.cli.process import prepare_process

    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr("cellalign.cli.process.tell_libraries", lambda: None)
    prepare_process()
    print("a table that nobody wants")
    with pytest.raises(OSError, match="is closed") as caught:
        sys.stdout.buffer.write(b"")
    assert status_of(caught.value) == 3


@pytest.mark.process
@pytest.mark.parametrize(
    "encoding", ["ascii", *(pytest.param(e, marks=pytest.mark.slow) for e in ("latin-1", "utf-8"))]
)
def test_any_name_in_any_encoding(encoding, tmp_path):
    name = b"\xf0\x9f\xa6\xa0 \xe9\x1b[31m.h5ad"  # an emoji, and a byte that is no text
    done = subprocess.run(
        [*map(os.fsencode, COMMAND), b"preprocess", name, b"-o", b"out.h5ad"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 3 and b"no such file" in done.stderr
    assert b"\x1b" not in done.stderr and len(done.stderr.splitlines()) == 1


def test_flushing_says_nothing_where_all_is_well(capsys):
    assert flushed(0) == 0 and flushed(3) == 3
    assert capsys.readouterr() == ("", "")
