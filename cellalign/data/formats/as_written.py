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
    converters: Any = dict.fromkeys(names, lambda text: MARK + text)
    for block in pd.read_csv(source, converters=converters, **asked):
        for name in names:
            if isinstance(name, int) and not isinstance(block.index, pd.RangeIndex):
                block.index = pd.Index([value[len(MARK) :] for value in block.index], dtype=object)
            elif (column := block.columns[name] if isinstance(name, int) else name) in block:
                block[column] = pd.Series([v[len(MARK) :] for v in block[column]], index=block.index, dtype=object)
        yield block


def read_as_written(source: Any, names: Sequence[str | int], **asked: Any) -> pd.DataFrame:
    """The whole table."""
    found = list(blocks_as_written(source, names, chunksize=1 << 20, **asked))
    return found[0] if len(found) == 1 else pd.concat(found)
