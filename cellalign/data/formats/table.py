"""Tables of text: cells x genes, and metadata of cells."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from cellalign.data.formats.as_written import blocks_as_written, read_as_written
from cellalign.data.formats.counted import told_apart
from cellalign.data.formats.detect import opened
from cellalign.errors import InputError, option

log = logging.getLogger("cellalign.reading")
VALUES = 2**24  # of a table that are dense at once
LOOKED_AT = 1000  # lines, to see whether rows and columns have names
BARCODE = re.compile(r"[ACGT]{10,}([-_.]\w+)?$")
GENE = re.compile(
    r"(ENS[A-Z]*G\d{6,}(\.\d+)?|ACTB|GAPDH|MALAT1|B2M|CD3D|CD3E|CD4|CD8A|CD74|MS4A1|NKG7|LYZ|TP53|FTL|FTH1|"
    r"MT-(CO[123]|ND[1-6]|CYB|ATP[68])|RP[SL]\d+[A-Z]?)$",
    re.IGNORECASE,
)


def read_table(path: Path, name: str) -> AnnData:
    """A .csv or .tsv of cells x genes, compressed or not, as a sparse matrix; turned where genes are in rows.

    Rows or columns without names are numbered, as anndata does.

    Raises
    ------
    InputError
        It holds text among the numbers, or one column only.
    """
    separator = _separator(path, name)
    blocks: list[sparse.csr_matrix] = []
    rows: list[str] = []
    columns: list[str] = []
    named = _Named.of(path, separator)
    for block in _blocks(path, name, separator, named):
        if block.empty:
            continue
        text = [column for column in block if not pd.api.types.is_numeric_dtype(block[column])]
        if text:
            shown = ", ".join(map(repr, map(str, text[:5])))
            advice = f"keep only numbers of genes, and give cell metadata with {option('obs', hint='FILE')}"
            raise InputError(f"{name} is a table with {len(text)} columns that are not numbers ({shown}); {advice}")
        numbers = list(map(str, range(block.shape[1])))
        columns = columns or (_header(path, separator, block.columns) if named.columns else numbers)
        rows += list(map(str, block.index))
        blocks.append(sparse.csr_matrix(block.to_numpy(dtype=np.float32)))
    if not blocks:
        raise InputError(f"{name} is a table without rows")
    x = sparse.vstack(blocks, format="csr")
    for what, there in (("first line", named.columns), ("first column", named.rows)):
        if not there:
            log.warning("%s: its %s holds numbers, not names, which are 0, 1, 2, ... here", name, what)
    turned = _genes_in_rows(rows, columns)
    if turned:
        x, rows, columns = x.T.tocsr(), columns, rows
        log.warning("%s: genes in rows and cells in columns; read turned, as cells x genes", name)
    log.info(
        "%s: a table of %d cells (%s, ...) x %d genes (%s, ...)", name, len(rows), rows[0], len(columns), columns[0]
    )
    index = [pd.Index(names, dtype=object) for names in (rows, columns)]
    return told_apart(AnnData(X=x, obs=pd.DataFrame(index=index[0]), var=pd.DataFrame(index=index[1])), name)


def read_metadata(path: Path, column: str | None) -> pd.DataFrame:
    """A .csv or .tsv of cell metadata, its rows named by its first column or the one that is named.

    Raises
    ------
    InputError
        It cannot be read, or has no such column.
    """
    name = str(path)
    if not path.is_file():
        raise InputError(f"no such file: {name}")
    try:
        with opened(path) as file:
            names = [0 if column is None else column]
            table = read_as_written(file, names, sep=_separator(path, name), low_memory=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{name} cannot be read as a table: {str(error).splitlines()[0]}") from error
    if not isinstance(table.index, pd.RangeIndex):  # R writes no header above the names
        table = table.reset_index(names="cell")
    key = str(table.columns[0]) if column is None else column
    if key not in table:
        from cellalign.errors import nearest

        there = ", ".join(map(str, table.columns))
        raise InputError(f"{name} has no column {key!r}.{nearest(key, map(str, table.columns))} Columns: {there}")
    return table.set_index(table[key].astype(str)).drop(columns=key)


@dataclass(frozen=True)
class _Named:
    """Whether a table has names of its rows, in its first column, and of its columns, in its first line."""

    rows: bool = True
    columns: bool = True

    @classmethod
    def of(cls, path: Path, separator: str) -> _Named:
        """By what no names are: numbers with a fraction, or that occur again."""
        try:
            with opened(path) as file:
                seen = pd.read_csv(file, sep=separator, header=None, nrows=LOOKED_AT, dtype=str, keep_default_na=False)
        except ValueError:  # a first line of fewer fields, as R writes it; or what is told later
            return cls()
        columns = not _are_values(seen.iloc[0, 1:])
        above = seen.iat[0, 0].strip()  # pandas writes none above the names of rows
        return cls(not ((above or not columns) and _are_values(seen.iloc[int(columns) :, 0])), columns)


def _are_values(fields: pd.Series) -> bool:
    """Whether these are numbers that name nothing."""
    found = pd.to_numeric(fields, errors="coerce")
    return len(found) > 1 and bool(found.notna().all() and ((found % 1 != 0).any() or found.duplicated().any()))


def _blocks(path: Path, name: str, separator: str, named: _Named) -> Iterator[pd.DataFrame]:
    """The table, so many rows at a time, their names as its index."""
    header: Any = "infer" if named.columns else None
    try:
        with opened(path) as file:
            width = max(1, len(pd.read_csv(file, sep=separator, nrows=1).columns))
        if width < 2:
            raise InputError(f"{name} is text, and no table of cells x genes: it has one column")
        size = max(1, VALUES // width)
        with opened(path) as file:
            shape: Any = {"sep": separator, "header": header, "chunksize": size}
            for block in blocks_as_written(file, [0] if named.rows else [], low_memory=False, **shape):
                # R writes no header above the names, which are then the index already
                inside = named.rows and isinstance(block.index, pd.RangeIndex)
                yield block.set_index(block.columns[0]) if inside else block
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{name} cannot be read as a table of text: {str(error).splitlines()[0]}") from error


def _header(path: Path, separator: str, columns: pd.Index) -> list[str]:
    """Names of the columns as the file has them: pandas makes `A.1` of a second `A`."""
    with opened(path) as file:
        written = pd.read_csv(file, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0]
    own = list(written)[-len(columns) :]
    return [there or str(column) for there, column in zip(own, columns, strict=True)]


def _separator(path: Path, name: str) -> str:
    """What stands between the columns: a tab, a comma, a semicolon or spaces, by the first line."""
    try:
        with opened(path) as file:
            first = file.readline(2**24).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is no text in UTF-8: {error}") from error
    found = max(("\t", ",", ";"), key=first.count)
    if first.count(found):
        return found
    return r"\s+" if len(first.split()) > 1 else ","


def _genes_in_rows(rows: Sequence[str], columns: Sequence[str]) -> bool:
    """Whether rows are named as genes are and columns are not, or columns as barcodes and rows are not."""
    genes = [_share(GENE, names) for names in (rows, columns)]
    barcodes = [_share(BARCODE, names) for names in (rows, columns)]
    if max(genes) > 0 or max(barcodes) > 0.5:
        return bool(genes[0] > genes[1] or (genes[0] == genes[1] and barcodes[1] > 0.5 > barcodes[0]))
    return False


def _share(pattern: re.Pattern[str], names: Sequence[str]) -> float:
    return float(np.mean([bool(pattern.match(name)) for name in names])) if names else 0.0
