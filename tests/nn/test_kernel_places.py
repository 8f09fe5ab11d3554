"""Compiled functions are kept, and read, where the user alone can write."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numba
import pytest

from cellalign.nn.kernels import places

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
ROOT = pytest.mark.skipif("not hasattr(os, 'geteuid') or os.geteuid() != 0", reason="gives files to another user")


@pytest.fixture
def folder(tmp_path):
    own = tmp_path / "a" / "b"
    own.mkdir(parents=True)
    for each in (own, own.parent):
        each.chmod(0o755)
    return own


def test_a_folder_that_only_the_user_can_write(folder):
    assert places.is_private(folder)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o1777])
def test_a_folder_that_others_can_write_is_not_used(folder, mode):
    folder.chmod(mode)
    assert not places.is_private(folder) and not places.usable(folder)


@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_nor_one_that_others_can_swap(folder, mode):
    folder.parent.chmod(mode)
    assert not places.is_private(folder) and not places.usable(folder)
    assert not places.usable(folder.parent / "new")


def test_the_sticky_bit_keeps_others_from_swapping_it(folder):
    folder.parent.chmod(0o1777)
    assert places.is_private(folder) and places.usable(folder)
    assert places.usable(folder.parent / "new" / "newer")
    assert (folder.parent / "new").stat().st_mode & 0o777 == 0o700


def test_links_are_followed_to_where_they_lead(folder, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(Path("a") / "b" / ".." / "b")
    assert places.is_private(link) and places.usable(link / "new")
    folder.chmod(0o777)
    assert not places.is_private(link)
    link.unlink()
    link.symlink_to(link)  # a circle
    assert not places.is_private(link)


@ROOT
def test_what_belongs_to_another_user_is_not_used(folder, tmp_path):
    os.chown(folder, 12345, -1)
    assert not places.is_private(folder)
    os.chown(folder, 0, -1)
    os.chown(folder.parent, 12345, -1)
    assert not places.is_private(folder)
    os.chown(folder.parent, 0, -1)
    link = tmp_path / "link"
    link.symlink_to(folder)
    os.chown(link, 12345, -1, follow_symlinks=False)
    assert not places.is_private(link)


def test_files_are_written_for_the_user_alone(folder):
    before = os.umask(0)
    try:
        places.write_private(folder / "file", b"content")
    finally:
        os.umask(before)
    assert places.read_private(folder / "file") == b"content"
    assert (folder / "file").stat().st_mode & 0o077 == 0
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_a_file_that_others_can_write_or_a_link_is_not_read(folder):
    places.write_private(folder / "file", b"content")
    (folder / "link").symlink_to("file")
    with pytest.raises(OSError):
        places.read_private(folder / "link")
    for mode in (0o620, 0o602):
        (folder / "file").chmod(mode)
        with pytest.raises(PermissionError, match="others can write"):
            places.read_private(folder / "file")


def test_the_next_place_is_taken_and_a_refused_one_is_said_once(tmp_path, monkeypatch, caplog):
    for name in ("asked", "package/__pycache__", "home"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(places.AppDirs, "user_cache_dir", str(tmp_path / "home"))
    monkeypatch.setattr(places, "temporary_folder", lambda: tmp_path / "temporary")
    source = tmp_path / "package" / "module.py"
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "asked"))

    def place():
        return str(places.folder_for(source, "name").relative_to(tmp_path))

    with caplog.at_level(logging.INFO, "cellalign"):
        assert place() == "asked/name"
        (tmp_path / "asked").chmod(0o777)
        assert place() == place() == "package/__pycache__"
        (tmp_path / "package").chmod(0o775)
        assert place() == "home/name"
        (tmp_path / "home" / "name").chmod(0o770)
        assert place() == "temporary/name"
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("NUMBA_CACHE_DIR=") and "others can write to it" in said
