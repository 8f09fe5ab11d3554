"""Names in tables of text as they are written: 0012 and 1e5 are no numbers, NA is not missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

# before each name while pandas reads it: from pandas 3.1 on what a converter returns is taken for missing like the rest
MARK = "="


def blocks_as_written(source: Any, names: Sequence[str | int], **asked: Any) -> Iterator[pd.DataFrame]:
    """What `pandas.read_csv` reads, so many rows at a time (`chunksize`), with some columns as they are written.

    Parameters
    ----------
    source : path or file
    names : sequence
        Columns by name, which may be missing, or by place; place 0 is the index where the first line has a name less.
    """
    for block in pd.read_csv(source, converters=_marked(names), **asked):
        yield _unmarked(block, names)


def read_as_written(source: Any, names: Sequence[str | int], **asked: Any) -> pd.DataFrame:
    """The whole table."""
    return _unmarked(pd.read_csv(source, converters=_marked(names), **asked), names)


def _marked(names: Sequence[str | int]) -> Any:
    return dict.fromkeys(names, lambda text: MARK + text)


def _unmarked(table: pd.DataFrame, names: Sequence[str | int]) -> pd.DataFrame:
    for name in names:
        if isinstance(name, int) and not isinstance(table.index, pd.RangeIndex):
            table.index = pd.Index([value[len(MARK) :] for value in table.index], dtype=object)
        elif (column := table.columns[name] if isinstance(name, int) else name) in table:
            table[column] = pd.Series([v[len(MARK) :] for v in table[column]], index=table.index, dtype=object)
    return table
