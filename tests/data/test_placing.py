"""Whatever ends a run and whenever: what stood at an output's name is there whole, or what was to replace it is."""

import errno
import os
import sys
from pathlib import Path

import pytest

from cellalign.data import placing
from cellalign.errors import InputError


def make(folder: Path, what: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("a", "b"):
        (folder / name).write_text(what)
    return folder


def held(folder: Path) -> str:
    """What a directory made by `make` holds, which is whole."""
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]
    (found,) = {path.read_text() for path in folder.iterdir()}
    return found


def in_place(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir())


@pytest.fixture(params=["one step", "two renames"])
def either_way(request, monkeypatch):
    """Swap in one step, where this file system can, and as where none can."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # which takes most of the time
    if request.param == "two renames":
        monkeypatch.setattr(placing, "_rename", lambda *_: False)
    return request.param


class Interrupting:
    """Raises KeyboardInterrupt at chosen lines of `placing`, counted as they run."""

    def __init__(self, *lines: int) -> None:
        self.lines, self.count = lines, 0

    def __call__(self, frame, event, _):
        if frame.f_code.co_filename != placing.__file__:
            return None
        if event == "line":
            self.count += 1
            if self.count in self.lines:
                raise KeyboardInterrupt
        return self

    def run(self, target: Path) -> bool:
        """Replace a directory; whether it was interrupted."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            with placing.place_directory(target, True) as fresh:
                make(fresh, "new")
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False


def lines_of(tmp_path: Path) -> int:
    """How many lines it takes to replace a directory."""
    Interrupting().run(tmp_path / "model")  # what is looked up once
    whole = Interrupting()
    assert not whole.run(make(tmp_path / "model", "old"))
    assert held(tmp_path / "model") == "new" and in_place(tmp_path) == ["model"]
    return whole.count


def test_an_interruption_at_any_line_leaves_the_old_or_the_new(tmp_path, either_way, monkeypatch):
    found = []
    for line in range(1, lines_of(tmp_path) + 1):
        own = tmp_path / str(line)
        own.mkdir()
        target = make(own / "model", "old")
        assert Interrupting(line).run(target), line
        found.append(held(target))
        with monkeypatch.context() as patch:
            patch.setattr(placing, "_is_dead", lambda _: True)  # as after the end of this process
            assert not Interrupting().run(target)
        assert in_place(own) == ["model"]  # whatever was left behind is known, and gone
    assert set(found) == {"old", "new"}


def test_a_second_interruption_while_tidying_up_loses_nothing(tmp_path, either_way, monkeypatch):
    monkeypatch.setattr(placing, "_is_dead", lambda _: True)  # as after the end of this process
    for line in range(1, lines_of(tmp_path) + 1):
        for later in (1, 2, 3, 4, 6, 9):
            own = tmp_path / f"{line} {later}"
            own.mkdir()
            target = make(own / "model", "old")
            Interrupting(line, line + later).run(target)
            placing.put_back(target)
            assert held(target) in ("old", "new"), (line, later)


def killed_between_renames(target: Path) -> None:
    """Leave what a run leaves that is killed while it swaps by two renames."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(placing, "_rename", lambda *_: False)
        patch.setattr(placing, "_discard", lambda *_: None)
        rename = os.rename

        def once(a, b):
            patch.setattr(os, "rename", lambda *_: sys.exit())
            rename(a, b)

        patch.setattr(os, "rename", once)
        with placing.place_directory(target, True) as fresh:
            make(fresh, "new")


def test_a_run_that_was_killed_between_two_renames_is_put_right(tmp_path, caplog):
    target = make(tmp_path / "model", "old")
    killed_between_renames(target)
    assert not target.exists()
    placing.put_back(target)
    assert held(target) == "old" and "as it was before a run was killed" in caplog.text
    placing.try_place(target)
    assert in_place(tmp_path) == ["model"]
    killed_between_renames(target)
    with placing.place_directory(target, True) as fresh:  # the next run of the same command
        make(fresh, "newer")
    assert held(target) == "newer" and in_place(tmp_path) == ["model"]


def test_what_a_living_run_writes_stays(tmp_path):
    target = tmp_path / "out.h5ad"
    with placing.place_file(target, False) as first:
        first.write_text("first")
        with placing.place_file(target, False) as second:
            assert first.exists() and second != first
            second.write_text("second")
        assert first.exists() and target.read_text() == "second"
        first.unlink()
        first = first.with_name("x")
        with pytest.raises(FileExistsError), placing.place_file(target, False) as third:
            third.write_text("third")
        (tmp_path / next(n for n in in_place(tmp_path) if "partial" in n) / "out.h5ad").write_text("first")
        target.unlink()
    assert target.read_text() == "first" and in_place(tmp_path) == ["out.h5ad"]


def test_what_is_not_ours_stays(tmp_path):
    mine = [
        "out.h5ad.partial",
        ".out.h5ad.partial",
        ".out.h5ad.cellalign-.partial",
        ".out.h5ad.cellalign-0123456789abcdef.partial.mine",
        ".out2.h5ad.cellalign-0123456789abcdef.partial",
        ".out.123.partial.h5ad",
        "out.h5ad.tuning",
        "out.h5ad.old",
    ]
    for name in mine:
        make(tmp_path / name, "mine")
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ".out.h5ad.cellalign-0123456789abcde0.partial").write_text("a file")
    with placing.place_file(tmp_path / "out.h5ad", False) as fresh:
        fresh.write_text("x")
    assert in_place(tmp_path) == sorted([*mine, "out.h5ad", ".out.h5ad.cellalign-0123456789abcde0.partial"])


@pytest.mark.parametrize(("host", "age", "gone"), [("here", 0, True), ("there", 0, False), ("there", 2, True)])
def test_what_another_machine_left_stays_for_a_day(tmp_path, host, age, gone, monkeypatch):
    left = make(tmp_path / ".out.csv.cellalign-0123456789abcdef.partial", "left")
    (left / placing.LOCK).write_text(host)
    for path in (*left.iterdir(), left):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age * placing.A_DAY))
    monkeypatch.setattr(placing.platform, "node", lambda: "here")
    placing.try_place(tmp_path / "out.csv")
    assert left.exists() is not gone


def test_without_locks_a_day_decides(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(placing.fcntl, "flock", none)
    left = make(tmp_path / ".out.csv.cellalign-0123456789abcdef.partial", "left")
    (left / placing.LOCK).write_text("")
    with placing.place_file(tmp_path / "out.csv", False) as fresh:
        fresh.write_text("x")
    assert left.exists() and (tmp_path / "out.csv").read_text() == "x"


def test_a_failed_swap_leaves_the_old_one(tmp_path, either_way, monkeypatch):
    target = make(tmp_path / "model", "old")

    def refuse(a, b, *_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(placing, "_swap", refuse)
    with pytest.raises(InputError, match="Input/output error; nothing was changed"), placing.one_line(target):
        with placing.place_directory(target, True) as fresh:
            make(fresh, "new")
    assert held(target) == "old" and in_place(tmp_path) == ["model"]


def test_links_are_kept_and_what_they_name_is_replaced(tmp_path):
    disk, here = tmp_path / "disk", tmp_path / "here"
    disk.mkdir(), here.mkdir()
    make(disk / "model", "old")
    (here / "model").symlink_to(disk / "model")
    with placing.place_directory(placing.place_of(here / "model"), True) as fresh:
        assert fresh.parent.parent == disk
        make(fresh, "new")
    assert (here / "model").is_symlink() and held(disk / "model") == "new"
    assert in_place(disk) == ["model"] and in_place(here) == ["model"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_replacement_is_as_private_as_what_it_replaces(tmp_path, mode):
    for name, place in (("out.csv", placing.place_file), ("model", placing.place_directory)):
        target = tmp_path / name
        with place(target, False) as fresh:
            make(fresh, "x") if name == "model" else fresh.write_text("x")
        umask = os.umask(0)
        os.umask(umask)
        assert target.stat().st_mode & 0o777 == (0o777 if name == "model" else 0o666) & ~umask
        own = mode | 0o111 * (name == "model")
        target.chmod(own)
        with place(target, True) as fresh:
            make(fresh, "y") if name == "model" else fresh.write_text("y")
        assert target.stat().st_mode & 0o777 == own


def test_all_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done, fsync = [], os.fsync

    def sync(handle):
        done.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("needs /proc to tell which file a handle is of")
    monkeypatch.setattr(os, "fsync", sync)
    with placing.place_directory(tmp_path / "model", False) as fresh:
        make(make(fresh, "x") / "inner", "x")
        monkeypatch.setattr(placing, "_rename_to_new", lambda a, b: (done.append("renamed"), os.rename(a, b)))
    assert sorted(done[:-2]) == ["a", "a", "b", "b", "inner", "model"]
    assert done[-2:] == ["renamed", tmp_path.name]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "a b\n'\"*", "-", ".hidden", "a.b.c.h5ad"])
def test_any_name(tmp_path, name):
    target = tmp_path / name
    placing.try_place(target)
    with placing.place_file(target, False) as fresh:
        assert fresh.name == name
        fresh.write_text("x")
    assert in_place(tmp_path) == [name]
