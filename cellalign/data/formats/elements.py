"""The groups in which anndata keeps cells, in HDF5 or zarr: read whole, or by the elements that are needed.

Each element is read by anndata itself. One that cannot be read is left out and said, unless the command needs it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem
from scipy import sparse

from cellalign.data.structure import PARTS, check_all, check_stored, is_sparse, plain_matrix, shape_of
from cellalign.errors import InputError

log = logging.getLogger("cellalign.reading")
INDEX_NAMES = ("_index", "index", "rownames", "barcodes", "cell_names")  # of columns that hold the names of rows
FILTERS = {
    32001: "Blosc",
    32004: "LZ4",
    32013: "ZFP",
    32015: "Zstandard",
    32026: "Blosc2",
    307: "bzip2",
    32008: "bitshuffle",
}


@dataclass(frozen=True)
class Wanted:
    """What of a file is read: one matrix, and some of obsm.

    Attributes
    ----------
    matrices : sequence of str
        "X" or layers' names, of which the first that is there is read; none where empty.
    obsm : sequence of str
        Keys, read where they are there.
    required : bool
        Whether one of the matrices has to be there.
    """

    matrices: Sequence[str] = ()
    obsm: Sequence[str] = ()
    required: bool = True

    def found(self, there: Sequence[str], name: str) -> str | None:
        """The matrix to read, or None where none is wanted; InputError where there is none of them."""
        if not self.matrices:
            return None
        found = next((key for key in self.matrices if key in there), None)
        if found is None and self.required:
            listed = ", ".join(there) or "none"
            raise InputError(f"{name} has no matrix {self.matrices[0]!r}; matrices: {listed}")
        return found

    def of(self, adata: AnnData, name: str) -> AnnData:
        """That part of cells read whole."""
        there = ([] if adata.X is None else ["X"]) + [key for key in adata.layers if key is not None]
        found = self.found(there, name)
        result = AnnData(obs=adata.obs, var=adata.var, uns={k: v for k, v in adata.uns.items() if k == "cellalign"})
        if found == "X":
            result.X = adata.X
        elif found is not None:
            result.layers[found] = adata.layers[found]
        for key in self.obsm:
            if key in adata.obsm:
                result.obsm[key] = adata.obsm[key]
        return result


def cells_in(root: Any, name: str, wanted: Wanted | None = None, *, matrices: bool = True) -> AnnData:
    """The cells in a group of an open file or store, with all there is or what is wanted.

    Parameters
    ----------
    root : h5py or zarr group
        Its obs and var are groups: `is_old` says where they are not.
    name : str
        How messages call it.
    matrices : bool
        Whether X, the layers, raw and what is between cells are read.

    Raises
    ------
    InputError
        An element that is needed is missing or cannot be read.
    """
    for key in ("obs", "var"):
        if key not in root:
            raise InputError(f"{name} holds no {key}, so it is no AnnData; it holds: {', '.join(root) or 'nothing'}")
    obs, var = frame_of(root, "obs", name), frame_of(root, "var", name)
    with quiet():
        adata = _assembled(name, lambda: AnnData(obs=obs, var=var))
        layers = names_in(root, "layers")
        if wanted is not None:
            _add_wanted(adata, root, name, wanted, layers)
            return adata
        if "X" in root and matrices:
            _put_x(adata, root, name)
        for key in layers if matrices else ():
            _into(adata.layers, root, f"layers/{key}", name, adata.shape)
        for store in ("obsm", "varm", "obsp", "varp") if matrices else ("obsm", "varm"):
            for key in names_in(root, store):
                _into(getattr(adata, store), root, f"{store}/{key}", name, _shape(adata, store))
        for key in names_in(root, "uns"):
            _into(adata.uns, root, f"uns/{key}", name)
        if matrices:
            _add_raw(adata, root, name)
    return adata


def is_old(root: Any) -> bool:
    """Whether obs or var is one table of records, as before anndata 0.7: anndata then reads the file as a whole."""
    return any(key in root and not hasattr(root[key], "keys") for key in ("obs", "var"))


def names_in(root: Any, key: str) -> list[str]:
    """What is in a group; nothing where there is none, or a mark that it is None."""
    return list(root[key]) if key in root and hasattr(root[key], "keys") else []


def _add_wanted(adata: AnnData, root: Any, name: str, wanted: Wanted, layers: Sequence[str]) -> None:
    if "cellalign" in names_in(root, "uns"):
        _into(adata.uns, root, "uns/cellalign", name)
    found = wanted.found((["X"] if "X" in root else []) + list(layers), name)
    needed = [("obsm", key) for key in wanted.obsm if key in names_in(root, "obsm")]
    needed += [("layers", found)] if found not in (None, "X") else []
    for store, key in needed:
        value = _needed(root, f"{store}/{key}", name, _shape(adata, store))
        _assembled(f"{name}: {store}/{key}", partial(getattr(adata, store).__setitem__, key, value))
    if found == "X":
        _put_x(adata, root, name)


def _put_x(adata: AnnData, root: Any, name: str) -> None:
    _assembled(f"{name}: X", partial(setattr, adata, "X", _needed(root, "X", name, adata.shape)))


def _add_raw(adata: AnnData, root: Any, name: str) -> None:
    """`raw`, also where it has no table of genes but as many columns as X."""
    if "X" not in names_in(root, "raw"):
        return
    raw = root["raw"]
    try:
        x = _read(raw, "X", f"{name}: raw", (adata.n_obs,))
        if "var" in raw:
            var = frame_of(raw, "var", f"{name}: raw")
        elif x.shape[1] == adata.n_vars:
            var = adata.var[[]]
        else:
            raise ValueError("it has no var, and not the genes of X")
        adata.raw = AnnData(X=x, obs=pd.DataFrame(index=adata.obs_names), var=var)
    except Unreadable as error:
        log.warning("%s; left out", error)
    except (ValueError, TypeError, AttributeError) as error:
        log.warning("%s: raw is left out: %s", name, _first_line(error))


def _shape(adata: AnnData, store: str) -> tuple[int, ...]:
    """The shape of what lies in a store, or its first side."""
    n_obs, n_var = adata.shape
    return {"layers": (n_obs, n_var), "obsm": (n_obs,), "obsp": (n_obs, n_obs), "varp": (n_var, n_var)}.get(
        store, (n_var,)
    )


def _into(store: Any, root: Any, path: str, name: str, shape: tuple[int, ...] | None = None) -> None:
    """An element put where it belongs; one that cannot be read or does not fit is left out, and said."""
    key = path.split("/", 1)[1]
    try:
        value = _read(root, path, name, shape)
        if value is not None:
            store[key] = value
    except Unreadable as error:
        log.warning("%s; left out", error)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        log.warning("%s: %s is left out: %s", name, path, _first_line(error))


def _needed(root: Any, path: str, name: str, shape: tuple[int, ...]) -> Any:
    """An element without which the command has nothing to do: InputError where it cannot be read."""
    try:
        return _read(root, path, name, shape)
    except Unreadable as error:
        raise InputError(str(error)) from error


class Unreadable(Exception):
    """An element is of a kind that the installed anndata does not read; the message says which."""


def _read(root: Any, path: str, name: str, shape: tuple[int, ...] | None = None) -> Any:
    """An element, read by anndata, of a shape it has to have; with hdf5plugin where its compression needs that.

    Raises
    ------
    Unreadable
        Not as anndata writes it.
    InputError
        The file is damaged, or its compression needs a package that is not installed.
    """
    try:
        return _element(root[path], shape)
    except MemoryError:
        raise
    except OSError as error:
        missing = missing_filter(root[path])
        if missing is None:
            raise damaged(name, error, path) from error
        import_filters(f"{name}: {path}", missing, error)
        return _element(root[path], shape)
    except Exception as error:
        reason = _first_line(error)
        if "No read method" in reason:
            kind = dict(root[path].attrs).get("encoding-type")
            reason = f"its kind {kind!r} is unknown to the installed anndata; a newer one may read it"
        raise Unreadable(f"{name}: {path} cannot be read: {reason}") from error


def _element(element: Any, shape: tuple[int, ...] | None) -> Any:
    """An element that is what it says it is."""
    check_stored(element, shape)
    value = _by_anndata(element)
    check_all(value)
    return value


def _by_anndata(element: Any) -> Any:
    """An element by anndata; a sparse matrix of numbers that scipy takes none of, such as those of another byte order,
    in numbers of the machine.
    """
    if is_sparse(element):
        check_whole(element)
        dtype, shape = element["data"].dtype, element.attrs.get("shape", element.attrs.get("h5sparse_shape"))
        if shape is not None and (not dtype.isnative or dtype == np.float16):
            kind = str(element.attrs.get("encoding-type", element.attrs.get("h5sparse_format")))
            parts = (plain_matrix(element["data"][:]), element["indices"][:], element["indptr"][:])
            return (sparse.csc_matrix if kind.startswith("csc") else sparse.csr_matrix)(parts, shape=tuple(shape))
    else:
        say_left_out(element)
    return read_elem(element)


def check_whole(matrix: Any) -> None:
    """OSError where chunks of a sparse matrix are missing that cannot be the zeros that a zarr store leaves out.

    A store in which every value is left out may hold nothing but zeros. That is said here, and refused by what computes
    with it (`data.matrices.refuse_zeros`).
    """
    lost = {part: _n_missing(matrix[part]) for part in PARTS}
    if not any(n for n, _ in lost.values()):
        return
    pointers, n_values = matrix["indptr"][:], matrix["data"].shape[0]
    sizes, shape = np.diff(pointers), shape_of(matrix)
    others = shape is None or np.prod(shape) > len(sizes)  # places in a row but the first
    say_left_out(matrix)
    torn = {
        "indptr": sizes.min(initial=0) < 0 or (len(pointers) > 0 and pointers[-1] != n_values) or _piled(matrix, sizes),
        "indices": others and sizes.max(initial=0) > 1,  # of several in a row not all are the first
        "data": lost["data"][0] < lost["data"][1],  # all of them zero, or lost
    }
    for part, (n, of) in lost.items():
        if n and torn[part]:
            raise OSError(f"{n} of {of} chunks are missing")


def say_left_out(matrix: Any) -> None:
    """Warn of a matrix of which not one value is in its file: it may be of zeros alone, or be lost."""
    values = matrix["data"] if is_sparse(matrix) else matrix
    if getattr(values, "dtype", None) is None or values.dtype.kind not in "iuf" or len(shape_of(matrix) or ()) != 2:
        return
    missing, of = _n_missing(values)
    if missing and missing == of:
        said = "%s: not one of its %s stored values is in the file, so that all of them are read as zeros"
        log.warning(said, matrix.name.strip("/"), f"{values.size:,}")


def _piled(matrix: Any, sizes: np.ndarray) -> bool:
    """Whether the first row that holds any values holds one twice: rows whose pointers read as zeros lie in it too."""
    held = np.flatnonzero(sizes)
    if not len(held):
        return False
    found = np.sort(matrix["indices"][: int(sizes[held[0]])])
    return bool((found[1:] == found[:-1]).any())


def _n_missing(array: Any) -> tuple[int, int]:
    """How many chunks of an array are missing, of how many: of a zarr store, or never written to an HDF5 file."""
    if not isinstance(array, h5py.Dataset):
        there, all_of_them = getattr(array, "nchunks_initialized", None), getattr(array, "nchunks", 0)
        return (0, all_of_them) if there is None else (max(0, all_of_them - there), all_of_them)
    if array.chunks is None:
        elsewhere = array.is_virtual or array.external
        return int(array.size > 0 and not elsewhere and array.id.get_storage_size() == 0), 1
    all_of_them = int(np.prod([-(-side // chunk) for side, chunk in zip(array.shape, array.chunks, strict=True)]))
    return max(0, all_of_them - array.id.get_num_chunks()), all_of_them


def damaged(name: str, error: BaseException, path: str = "") -> InputError:
    """What to say of a file whose bytes cannot be read."""
    inside = f" ({path})" if path else ""
    return InputError(f"{name} is truncated or damaged{inside}: {_first_line(error)}; copy or download it again")


def missing_filter(element: Any) -> str | None:
    """Name of the compression in an HDF5 element that this installation has not; None where all are there."""
    found: list[str] = []

    def look(_: str, inner: Any) -> None:
        if isinstance(inner, h5py.Dataset):
            plist = inner.id.get_create_plist()
            for place in range(plist.get_nfilters()):
                number = plist.get_filter(place)[0]
                if not h5py.h5z.filter_avail(number):
                    found.append(FILTERS.get(number, f"filter {number}"))

    if isinstance(element, h5py.Dataset):
        look("", element)
    elif isinstance(element, h5py.Group):
        element.visititems(look)
    return found[0] if found else None


def import_filters(where: str, missing: str, error: Exception | None) -> None:
    """Have hdf5plugin register its filters; InputError that says what to install where it is not there."""
    try:
        import hdf5plugin  # noqa: F401
    except ImportError:
        need = "pip install 'cellalign[formats]'"
        raise InputError(f"{where} is compressed with {missing}, which needs hdf5plugin; run: {need}") from error


def frame_of(root: Any, key: str, name: str) -> pd.DataFrame:
    """obs or var; column by column where anndata does not read it as a whole, as of some converters from R."""
    try:
        frame = _read(root, key, name)
        if isinstance(frame, pd.DataFrame):
            return frame
    except Unreadable as error:
        log.info("%s; its columns are read one by one", error)
    if not hasattr(root[key], "keys"):
        raise InputError(f"{name}: {key} is not a table of columns, as anndata writes it")
    return _by_columns(root[key], f"{name}: {key}")


def _by_columns(group: Any, name: str) -> pd.DataFrame:
    """A table of the columns in a group that can be read, in the order that it says."""
    listed = [_text(column) for column in group.attrs.get("column-order", ())]
    names = [*dict.fromkeys(column for column in listed if column in group)]
    names += [column for column in group if column not in listed and column != "__categories"]
    index = _text(group.attrs.get("_index", ""))
    if index not in group:
        index = next((column for column in INDEX_NAMES if column in group), "")
    columns = dict(_columns(group, names, name))
    rows = columns.pop(index, None)
    n = len(rows) if rows is not None else max((len(values) for values in columns.values()), default=0)
    if rows is None:
        log.warning("%s has no names of its rows; they are numbered", name)
        rows = [str(number) for number in range(n)]
    wrong = [column for column, values in columns.items() if len(values) != n]
    if wrong:
        log.warning("%s: columns of another length are left out: %s", name, ", ".join(wrong))
    return pd.DataFrame({c: v for c, v in columns.items() if c not in wrong}, index=pd.Index(rows, dtype=object))


def _columns(group: Any, names: Sequence[str], name: str) -> Iterator[tuple[str, Any]]:
    categories = group.get("__categories", {})
    for column in names:
        try:
            values = _read(group, column, name)
            if column in categories:
                values = pd.Categorical.from_codes(np.asarray(values), _read(categories, column, name))
            if np.ndim(values) != 1:
                raise Unreadable(f"{name}: {column} is not a column")
            yield column, values
        except (Unreadable, ValueError) as error:
            log.warning("%s; left out", error)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _assembled(name: str, make: Callable[[], Any]) -> Any:
    """What anndata makes of elements; InputError where they do not fit together."""
    try:
        return make()
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise InputError(f"{name} does not fit the names of its cells and genes: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return (str(text).strip().splitlines() or [type(error).__name__])[0]


class quiet(warnings.catch_warnings):
    """Without anndata's warnings about names that are mended right after."""

    def __enter__(self) -> Any:
        found = super().__enter__()
        warnings.simplefilter("ignore")
        return found


def modalities(root: Any) -> Mapping[str, str]:
    """Paths of the AnnData within a MuData file or store, or a SpatialData store, by name; empty of any other."""
    for group in ("mod", "tables"):
        if group in root and "obs" not in root.get(group, ()) and (group == "mod" or "obs" not in root):
            named = [_text(name) for name in root[group].attrs.get("mod-order", ())]
            order = [*named, *(name for name in root[group] if name not in named)]
            return {name: f"{group}/{name}" for name in order if name in root[group] and "obs" in root[group][name]}
    return {}
