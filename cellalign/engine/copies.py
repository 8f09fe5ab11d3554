"""One unpacked copy of the cells for all ranks of a machine (`data.unpacked`): the first of them writes it.

The file loses its name once the others have opened it, before anything is written: however a rank ends, none is left.
"""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from typing import Any

from cellalign.data.loader import Cells
from cellalign.data.source import on_disk
from cellalign.data.stored import Stored
from cellalign.data.unpacked import Unpacked, opened, unpacked, unpacked_by_name
from cellalign.engine.ranks import Ranks


def one_copy(x: Any, ranks: Ranks) -> Any:
    """A matrix that all ranks of a machine are to read from one temporary file; all ranks call this.

    Parameters
    ----------
    x : matrix [n, G]
        In memory: it is given back.
    """
    if ranks.alone:
        return unpacked(x)
    writer, found, name = _writer(ranks), x, None
    try:
        if ranks.rank == writer:
            found, name = unpacked_by_name(x)
        theirs = ranks.together(name)[writer]
        if theirs is not None and ranks.rank != writer:
            found = opened(x, theirs)
        ranks.wait()
    finally:
        if name is not None:
            with suppress(OSError):
                os.unlink(name)
    return found


def fill_copy(cells: Cells, ranks: Ranks) -> None:
    """Have all rows in the copy, if there is one, and all ranks know where; all ranks call this."""
    cells.unpack()
    source = on_disk(cells.matrix)
    _tell_where(None if source is None else source.matrix, ranks)


def _tell_where(x: Any, ranks: Ranks) -> None:
    """Have the ranks of a machine read from the copy there, if it is whole; all ranks call this."""
    if ranks.alone:
        return
    copy = x if isinstance(x, Unpacked) else None
    writer = _writer(ranks)
    table = ranks.together(None if copy is None else copy.table())[writer]
    if copy is not None and table is not None and not copy.writes:
        copy.take(table)


def looked_at_by_one(x: Any, ranks: Ranks) -> Any:
    """The same matrix; of one on disk the first rank has found what is to be known of all values, and all know it.

    That pass fills the copy of its machine; on others rows are read from the file until `fill_copy`.
    """
    if not ranks.alone:
        facts = ranks.told(lambda: x.facts if isinstance(x, Stored) else None)
        if isinstance(x, Stored) and facts is not None:
            x.told_facts(facts)
        _tell_where(x, ranks)
    return x


def _writer(ranks: Ranks) -> int:
    """The first rank of this machine."""
    machines = ranks.together(platform.node())
    return machines.index(machines[ranks.rank])
