"""What was read, as all code behind takes it and every anndata since 0.8 writes it: one place, right after reading.

Names are strings, columns are plain numbers, strings or categories, matrices have native numbers. What changes the
user's own names or values is said.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from cellalign.data.structure import check_cells, plain_matrix
from cellalign.errors import InputError

log = logging.getLogger("cellalign.reading")
RESERVED = "_index"  # the name anndata keeps names of rows under
NUMBERS = "iufc"
NULL = "\0"


def normalised(adata: AnnData, name: str = "the input") -> AnnData:
    """Cells with names, columns and matrices that can be used and written; the matrices are not copied.

    Parameters
    ----------
    adata : AnnData
        Changed in place, but for `raw`, which is made anew.
    name : str
        How messages call the file.

    Raises
    ------
    InputError
        A sparse matrix is not one: its parts do not fit each other.
    """
    check_cells(adata, name)
    for key in ("obs", "var"):
        frame = getattr(adata, key)
        plain = plain_frame(frame, f"{name}: {key}")
        if plain is not frame:
            setattr(adata, key, plain)
    x = None if adata.X is None else plain_matrix(adata.X)
    if x is not adata.X:
        adata.X = x
    for store, mend in ((adata.layers, plain_matrix), (adata.obsm, plain_value), (adata.varm, plain_value)):
        for key in [key for key in store if key is not None]:  # of anndata 0.13 X is the layer None
            found = mend(store[key])
            if found is not store[key]:
                store[key] = found
    if adata.uns:
        adata.uns = plain_value(adata.uns)
    if adata.raw is not None:
        _normalise_raw(adata, name)
    return adata


def _normalise_raw(adata: AnnData, name: str) -> None:
    """The same for `raw`, which is made anew where it has to change."""
    x, var = plain_matrix(adata.raw.X), plain_frame(adata.raw.var, f"{name}: raw.var")
    if x is not adata.raw.X or var is not adata.raw.var:
        adata.raw = AnnData(X=x, obs=pd.DataFrame(index=adata.obs_names), var=var, varm=dict(adata.raw.varm))


def plain_frame(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """The same table under names that are strings, and with columns that can be written; itself where it is so."""
    rows = frame.index  # pandas 3 gives another object each time
    index = _index(rows, set(map(str, frame.columns)))
    if NULL in "".join(index):  # of 10x files, whose bytes are read as they are
        raise InputError(f"{where} is damaged: the name {next(n for n in index if NULL in n)!r} holds a null character")
    names = _column_names(frame.columns, where)
    columns = {}
    for place, name in enumerate(names):
        given = frame.iloc[:, place]
        found = _without_null(plain_column(given, f"{where} column {name!r}"), f"{where} column {name!r}")
        if found is not given:
            columns[name] = found
    if index is rows and names == list(frame.columns) and not columns:
        return frame
    fresh = frame.copy(deep=False)
    fresh.columns = pd.Index(names, dtype=object)
    fresh.index = index
    for name, values in columns.items():
        # a Series, since pandas 3 makes strings of its own kind of an array of objects
        fresh[name] = values.set_axis(index) if isinstance(values, pd.Series) else values
    return fresh


def _without_null(values: Any, where: str) -> Any:
    """Text without null characters, which HDF5 does not write; the same where there are none, as there should be."""
    plain = pd.Categorical(values) if isinstance(getattr(values, "dtype", None), pd.CategoricalDtype) else None
    texts = values if plain is None else plain.categories
    if not isinstance(texts, pd.Series | pd.Index) or texts.dtype.kind != "O" or NULL not in "".join(map(str, texts)):
        return values
    log.warning("%s holds null characters, left out; the file may be damaged", where)
    if plain is None:
        return pd.Series([str(text).replace(NULL, "") for text in values], index=values.index, dtype=object)
    return pd.Categorical([None if pd.isna(text) else str(text).replace(NULL, "") for text in plain])


def _index(index: pd.Index, columns: set[str]) -> pd.Index:
    """Names of rows as strings; the index's own name goes where anndata could not write it."""
    name = index.name
    if not isinstance(name, str) or name == RESERVED or name in columns:
        name = None
    if isinstance(index, pd.MultiIndex):
        return pd.Index(["_".join(map(_text, parts)) for parts in index], dtype=object, name=name)
    if index.dtype == object and name == index.name and pd.api.types.infer_dtype(index, skipna=False) == "string":
        return index
    if isinstance(index.dtype, pd.StringDtype) and not index.hasnans:
        return pd.Index(np.array(index, dtype=object), dtype=object, name=name)
    return pd.Index([_text(value) for value in index], dtype=object, name=name)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _plain_text(value: Any) -> Any:
    """Text that lies in uns, without null characters; anything else as it is."""
    return value.replace(NULL, "") if isinstance(value, str) else value


def _column_names(columns: pd.Index, where: str) -> list[str]:
    """Names that are strings, occur once, are not reserved and hold no slash, which HDF5 and zarr read as a folder."""
    found: list[str] = []
    taken = {_text(column) for column in columns}
    renamed = []
    for column in columns:
        text = _text(column)
        wanted = "index_" if text == RESERVED else text.replace("/", "_") or "unnamed"
        fresh, number = wanted, 0
        while fresh in found or (fresh != text and fresh in taken):
            number += 1
            fresh = f"{wanted}_{number}"
        if fresh != text:
            renamed.append(f"{text!r} as {fresh!r}")
        found.append(fresh)
    if renamed:
        log.warning("%s: columns read under names that can be written: %s", where, ", ".join(renamed))
    return found


def plain_column(values: pd.Series, where: str) -> Any:
    """A column as numbers, booleans, strings or categories, each as anndata has always written them."""
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        categories = dtype.categories
        plain = _plain_categories(categories, where)
        if plain is categories:
            return values
        if not plain.is_unique:
            return pd.Categorical([None if pd.isna(v) else _text(v) for v in values])
        return pd.Categorical.from_codes(values.cat.codes.to_numpy(), plain, ordered=dtype.ordered)
    if isinstance(dtype, pd.SparseDtype):
        return plain_column(pd.Series(np.asarray(values), index=values.index), where)
    if isinstance(dtype, pd.StringDtype):
        return _strings(values)
    if dtype.kind == "O":
        return _objects(values, where)
    if isinstance(dtype, np.dtype) and dtype.kind in "biuf":
        return values if dtype.isnative else values.to_numpy().astype(dtype.newbyteorder("="))
    if isinstance(values.array, (pd.arrays.IntegerArray, pd.arrays.BooleanArray)):
        if values.isna().any():
            return values
        return values.to_numpy(dtype=bool if dtype == "boolean" else dtype.numpy_dtype)
    if isinstance(values.array, pd.arrays.FloatingArray):
        return values.to_numpy(dtype=np.float64, na_value=np.nan)
    if isinstance(dtype, pd.ArrowDtype):
        return plain_column(pd.Series(values.to_numpy(), index=values.index), where)
    log.info("%s holds %s, read as text", where, dtype)
    return _strings(values)


def _objects(values: pd.Series, where: str) -> Any:
    """Of a column of Python objects what they are, or text where they are of several kinds."""
    kind = pd.api.types.infer_dtype(values, skipna=True)
    if kind == "string":
        return _strings(values) if values.isna().any() else values
    if kind == "empty":
        return np.full(len(values), np.nan)
    if kind == "boolean":
        return values.astype("boolean") if values.isna().any() else values.astype(bool)
    if kind == "integer" and not values.isna().any():
        try:
            return values.astype(np.int64)
        except OverflowError:
            pass  # numbers of more digits than any reader of a file takes: text, below
    elif kind in ("integer", "floating", "mixed-integer-float", "decimal"):
        return pd.to_numeric(values.astype(object).where(values.notna(), np.nan)).astype(np.float64)
    elif kind != "bytes":
        log.warning("%s holds %s values, read as text", where, "mixed" if kind.startswith("mixed") else kind)
    return _strings(values)


def _strings(values: Any) -> Any:
    """Strings as Python objects; as categories where some are missing, the one way that old readers know."""
    missing = np.asarray(pd.isna(values))
    found = np.array(values, dtype=object)
    found[missing] = None
    if pd.api.types.infer_dtype(found[~missing], skipna=False) not in ("string", "empty"):
        found[~missing] = [_text(value) for value in found[~missing]]
    if not missing.any():
        return pd.Series(found, index=getattr(values, "index", None), dtype=object)
    names = pd.Index(sorted(pd.unique(found[~missing])), dtype=object)
    return pd.Categorical(found, categories=names)


def _plain_categories(categories: pd.Index, where: str) -> pd.Index:
    """Categories as numbers, booleans or strings."""
    dtype = categories.dtype
    if isinstance(dtype, np.dtype) and dtype.kind in "biuf" and dtype.isnative:
        return categories
    if isinstance(dtype, pd.StringDtype):
        return categories.astype(object)
    if dtype.kind == "O":
        kind = pd.api.types.infer_dtype(categories, skipna=False)
        if kind in ("string", "empty"):
            return categories
        if kind == "boolean":
            return pd.Index(categories.astype(bool))
    elif isinstance(dtype, np.dtype) and dtype.kind in "iuf":
        return pd.Index(categories.to_numpy().astype(dtype.newbyteorder("=")))
    elif pd.api.types.is_bool_dtype(dtype) or pd.api.types.is_numeric_dtype(dtype):
        return pd.Index(categories.to_numpy(dtype=bool if pd.api.types.is_bool_dtype(dtype) else np.float64))
    else:
        log.info("%s has categories of %s, read as text", where, dtype)
    return pd.Index([_text(value) for value in categories], dtype=object)


def plain_value(value: Any) -> Any:
    """What lies in uns, obsm or a layer, with strings and numbers as every anndata writes them."""
    if isinstance(value, pd.DataFrame):
        return plain_frame(value, "a table")
    if isinstance(value, Mapping):
        return {str(key): plain_value(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, pd.api.extensions.ExtensionArray) and isinstance(value.dtype, pd.StringDtype):
        plain = _strings(value)
        return plain.to_numpy() if isinstance(plain, pd.Series) else plain
    if isinstance(value, bytes | str):
        return _plain_text(_text(value))
    if isinstance(value, np.ndarray) and value.dtype.kind == "S":
        value = np.char.decode(value, "utf-8", "replace").astype(object)
    if isinstance(value, np.ndarray) and value.dtype == object and NULL in "".join(map(str, value.flat)):
        flat = np.empty(value.size, dtype=object)
        flat[:] = [_plain_text(text) for text in value.flat]
        return flat.reshape(value.shape)
    if sparse.issparse(value) or (isinstance(value, np.ndarray) and value.dtype.kind in NUMBERS):
        return plain_matrix(value)
    return value
