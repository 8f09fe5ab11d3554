"""Several files as one, and cell metadata that lies in a table beside them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData

from cellalign.data.formats.elements import quiet
from cellalign.data.reading import Reading, labels
from cellalign.data.streamed import StreamedCells
from cellalign.errors import InputError, UsageError, option
from cellalign.records.provenance import KEY, Provenance

log = logging.getLogger("cellalign.reading")
FILE_KEY = "file"
COUNTS = "counts"
DEFAULT_SUFFIX = "-1"  # that Cell Ranger adds to barcodes, and many tools take off again


def joined(parts: Sequence[AnnData], names: Sequence[str], reading: Reading) -> AnnData:
    """The cells of several files, over the genes that all have; obs says of each cell its file.

    Parameters
    ----------
    names : sequence of str
        How messages call the files.

    Raises
    ------
    InputError
        The files share no genes, or their matrices are not of one kind.
    """
    from cellalign.data.matrices import check_names

    said = labels(reading.paths)
    for part, name in zip(parts, names, strict=True):
        check_names(part, name)
    _check_matrices(parts, names)
    shared = set.intersection(*(set(part.var_names) for part in parts))
    own = ", ".join(f"{name} {part.n_vars:,}" for part, name in zip(parts, names, strict=True))
    union = _asked_for_union(reading)
    if not shared:
        first = ", ".join(f"{name}: {part.var_names[0]}" for part, name in zip(parts, names, strict=True))
        raise InputError(f"the files share no gene names ({first}); name genes alike in all of them")
    key = reading.file_key or FILE_KEY
    if any(key in part.obs for part in parts):
        raise InputError(f"obs has a column {key!r} already; choose another name with {option('file_key', hint='KEY')}")
    _say_what_is_left_out(parts)
    records = _records(parts, names)
    collide = sum(part.n_obs for part in parts) > len(set().union(*(part.obs_names for part in parts)))
    with quiet():
        result = ad.concat(
            [_common(part, parts) for part in parts],
            join="outer" if union else "inner",
            fill_value=0,
            merge="same",
            uns_merge="same",
            label=key,
            keys=said,
            index_unique="-" if collide else None,
        )
    result.uns.pop(KEY, None)
    if records:
        result.uns[KEY] = records
    cells = ", ".join(f"{name} {part.n_obs:,}" for part, name in zip(parts, said, strict=True))
    log.info("%d files: %s cells (%s), obs[%r] names the file", len(parts), f"{result.n_obs:,}", cells, key)
    log.info("genes in all files: %s (%s)", f"{len(shared):,}", own)
    if union:
        taken = "genes in any file: %s; those that a file lacks are taken as zero in its cells"
        log.warning(taken, f"{result.n_vars:,}")
    if collide:
        log.info("cells of several files have the same names; their file's is added: %s", result.obs_names[0])
    return result


def _asked_for_union(reading: Reading) -> bool:
    """Whether the genes of any file are wanted."""
    if reading.genes not in (None, "inner", "union"):
        raise UsageError(f"{option('genes', reading.genes)} is neither inner nor union")
    return reading.genes == "union"


def _check_matrices(parts: Sequence[AnnData], names: Sequence[str]) -> None:
    """Refuse files of which one lacks what another has: a matrix is never filled with zeros, nor two kinds mixed."""
    from cellalign.data.matrices import is_counts

    for part, name in zip(parts, names, strict=True):
        if not part.n_obs:
            raise InputError(f"{name} has no cells; leave it out")
    with_x = [part.X is not None for part in parts]
    counted = [COUNTS in part.layers for part in parts]
    for there, what in ((with_x, "X"), (counted, f"layer {COUNTS!r}")):
        if any(there) and not all(there):
            has, lacks = names[there.index(True)], names[there.index(False)]
            raise InputError(f"{has} has {what}, and {lacks} has not; give files of one kind, or preprocess each alike")
    if all(with_x):
        kinds = [is_counts(part.X) for part in parts]
        if any(kinds) and not all(kinds):
            has, lacks = names[kinds.index(True)], names[kinds.index(False)]
            raise InputError(f"X of {has} holds counts, and X of {lacks} does not; give files of one kind")
    _check_raw(parts, names)


def joins_raw(parts: Sequence[AnnData]) -> bool:
    """Whether all have `raw`, its genes matched by name."""
    return all(part.raw is not None and part.raw.var_names.is_unique for part in parts)


def _check_raw(parts: Sequence[AnnData], names: Sequence[str]) -> None:
    """Refuse files whose counts lie in raw where it cannot be put together; say that it is left out otherwise."""
    from cellalign.data.matrices import is_counts

    there = [part.raw is not None for part in parts]
    if not any(there) or joins_raw(parts):
        return
    part, has = parts[there.index(True)], names[there.index(True)]
    if all(there):
        twice = next(i for i, each in enumerate(parts) if not each.raw.var_names.is_unique)
        index = parts[twice].raw.var_names
        why = f"raw of {names[twice]} has the gene {str(index[index.duplicated()][0])!r} twice"
        mend = "make its names unique"
    else:
        why, mend = f"{names[there.index(False)]} has no raw", "give files of one kind"
    elsewhere = COUNTS in part.layers or (part.X is not None and is_counts(part.X))
    if not elsewhere and is_counts(part.raw.X):
        raise InputError(f"{has} has its counts in raw, and {why}; {mend}")
    log.warning("raw is left out: %s has it, and %s", has, why)


def _records(parts: Sequence[AnnData], names: Sequence[str]) -> dict[str, object]:
    """What cellalign noted in uns of all parts alike: a record is one, not the entries of two that happen to agree.

    Raises
    ------
    InputError
        They are predictions of different conditions, or by different models.
    """
    if any(KEY not in part.uns for part in parts):
        return {}
    first, *others = (Provenance.of(part.uns) for part in parts)
    found = first.in_common(*others)
    if found.counterfactual is None and all(each.counterfactual is not None for each in (first, *others)):
        raise InputError(
            f"{', '.join(names)} hold predictions that were made differently; predict several conditions into one file "
            f"({option('to', 'A')} {option('to', 'B')}), or give one"
        )
    return found.plain() if found.steps() else {}


def _say_what_is_left_out(parts: Sequence[AnnData]) -> None:
    """What some files have and others lack is never filled in, nor left out without a word."""
    for what, held in (
        ("columns of obs", [set(part.obs) for part in parts]),
        ("layers", [{key for key in part.layers if key is not None} for part in parts]),
    ):
        dropped = sorted(map(str, set.union(*held) - set.intersection(*held)))
        if dropped:
            log.warning("%s that not all files have are left out: %s", what, ", ".join(dropped))


def _common(part: AnnData, parts: Sequence[AnnData]) -> AnnData:
    """A part with what all have of one width: embeddings of different spaces are not put together."""
    kept = {
        key
        for key in part.obsm
        if all(key in p.obsm and p.obsm[key].shape[1:] == part.obsm[key].shape[1:] for p in parts)
    }
    on_disk = isinstance(part, StreamedCells)  # whose matrices are put together where they are
    matrices = {} if on_disk else {"X": part.X, "layers": dict(_layers(part))}
    own = [column for column in part.obs if all(column in p.obs for p in parts)]
    result = AnnData(obs=part.obs[own], var=part.var, uns=dict(part.uns), **matrices)
    for key in sorted(kept):
        result.obsm[key] = part.obsm[key]
    if not on_disk and joins_raw(parts):
        result.raw = part.raw.to_adata()
    return result


def _layers(part: AnnData) -> dict[str, object]:
    return {key: part.layers[key] for key in part.layers if key is not None}


def add_metadata(adata: AnnData, table: pd.DataFrame, name: str) -> None:
    """Put the columns of a table into obs, by cell name; said how many cells it knows.

    A suffix "-1" that only the one side has, or all have alike, is seen through.

    Raises
    ------
    InputError
        It knows not one of the cells, or names a cell twice.
    """
    cells = adata.obs_names
    rows = _matched(cells, table.index)
    if rows is None:
        shown = f"{table.index[0] if len(table) else 'nothing'!r} for {cells[0]!r}"
        key = option("obs_key", hint="COLUMN")
        raise InputError(f"{name} names not one of the {len(cells):,} cells ({shown}); name the column with {key}")
    names, index = rows
    twice = index[index.duplicated()]
    used = twice.intersection(names)
    if len(used):
        raise InputError(f"{name} names {len(used)} cells more than once, the first {used[0]!r}; keep one row of each")
    place = index.get_indexer(names)
    known = place >= 0
    found = table.iloc[np.where(known, place, 0)].set_axis(cells, axis=0)
    replaced = [column for column in found.columns if column in adata.obs]
    for column in found.columns:
        adata.obs[column] = found[column].where(known) if not known.all() else found[column]
    log.info(
        "%s: %s of %s cells matched, columns %s",
        name,
        f"{known.sum():,}",
        f"{len(cells):,}",
        ", ".join(map(str, found)),
    )
    if not known.all():
        log.warning("%s: %s cells have no row; their values are missing", name, f"{(~known).sum():,}")
    if replaced:
        log.warning("%s: columns of obs replaced: %s", name, ", ".join(map(str, replaced)))


def _matched(cells: pd.Index, rows: pd.Index) -> tuple[pd.Index, pd.Index] | None:
    """Names of cells and rows under which most of them meet: as they are, or without the suffix -1."""
    best = None
    bare_cells, bare_rows = _bare(cells), _bare(rows)
    for names, index in ((cells, rows), (bare_cells, rows), (cells, bare_rows), (bare_cells, bare_rows)):
        n = int(names.isin(index).sum())
        if n and names.is_unique and (best is None or n > best[0]):
            best = (n, names, index)
    return None if best is None else (best[1], best[2])


def _bare(index: pd.Index) -> pd.Index:
    return pd.Index([str(name).removesuffix(DEFAULT_SUFFIX) for name in index], dtype=object)
