"""Paths and command lines without this machine's folders, which say more of a user than of the cells."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import PurePosixPath, PureWindowsPath

ATTACHED = re.compile(r"-[A-Za-z](?=/|[A-Za-z]:\\)")  # -o/home/me/x.h5ad


def is_absolute(path: str) -> bool:
    """Whether a path of any system begins at its root; a root alone has nothing to be cut."""
    return len(path) > 1 and (PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute())


def name_of(path: str) -> str:
    """What the last part of a path of any system is called."""
    pure = PurePosixPath(path) if PurePosixPath(path).is_absolute() else PureWindowsPath(path)
    return pure.name or os.curdir


def without_folders(line: str, cut: list[str] | None = None) -> str:
    """A command line whose absolute paths are names: of words, of KEY=PATH and --option=PATH, and of -oPATH.

    Parameters
    ----------
    line : str
    cut : list of str, optional
        Paths that were cut are added to it.
    """
    words = shlex.split(line)
    shown = []
    for word in words:
        attached = ATTACHED.match(word)
        at = attached.end() if attached else word.rfind("=") + 1
        path = word[at:]
        if is_absolute(path):
            if cut is not None:
                cut.append(path)
            word = word[:at] + name_of(path)
        shown.append(word)
    return shlex.join(shown) if shown != words else line
