"""Whether arrays are what they say they are, before anything computes with them or takes memory for them.

A sparse matrix whose pointers and columns are not within its bounds is read beyond its end by all that computes with
it; an array that says it is a thousand times larger than its file takes the memory that it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from cellalign import memory
from cellalign.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

PARTS = ("data", "indices", "indptr")
PACKED = 5000  # times that an array may be larger than its bytes in the file, of zeros five thousand times as much
LITTLE = 1 << 28  # bytes that may be any number of times larger


def check_sparse(x: Any) -> None:
    """Refuse a CSR or CSC matrix whose parts do not fit each other; of values stored twice the sum is kept.

    Parameters
    ----------
    x : scipy CSR or CSC matrix
        Changed in place where values are stored twice, or indices are of a type that scipy does not compute with.

    Raises
    ------
    ValueError
        Pointers do not rise from 0 to the number of values, there are not as many values as indices, or an index is
        outside of the matrix.
    """
    major, minor = x.shape if x.format == "csr" else x.shape[::-1]
    _check_parts(x.data, x.indices, x.indptr, major)
    pointers, indices = x.indptr, x.indices
    if pointers[0] != 0 or pointers[-1] != len(indices) or np.any(pointers[1:] < pointers[:-1]):
        raise ValueError(f"its pointers (indptr) do not rise from 0 to its {len(indices):,} values")
    if len(indices) and (indices.min() < 0 or indices.max() >= minor):
        wrong = indices[(indices < 0) | (indices >= minor)][0]
        raise ValueError(f"it has an index of {wrong}, and {minor:,} {'columns' if x.format == 'csr' else 'rows'}")
    x.indices, x.indptr = (_plain_indices(part) for part in (indices, pointers))
    if not x.has_canonical_format:
        sum_duplicates(x)


def _plain_indices(part: np.ndarray) -> np.ndarray:
    """Indices as scipy makes them, of 32 or 64 bits in the machine's byte order; files have others."""
    if part.dtype.isnative and part.dtype.kind == "i" and part.dtype.itemsize >= 4:
        return part
    return part.astype(sparse.get_index_dtype(part, check_contents=True))


def sum_duplicates(x: Any) -> None:
    """Of values stored in parts in a CSR or CSC matrix keep the sum, in place; of a wider type where it needs one."""
    own = x.data.dtype
    if own.kind in "iu" and own.itemsize < 8:
        x.data = x.data.astype(np.int64)
    x.sum_duplicates()
    if x.data.dtype != own and np.array_equal(x.data.astype(own), x.data):
        x.data = x.data.astype(own)


def _check_parts(data: Any, indices: Any, indptr: Any, major: int) -> None:
    """ValueError where the three arrays of a sparse matrix are not of the sizes and kinds they must be."""
    for name, part in (("data", data), ("indices", indices), ("indptr", indptr)):
        if len(part.shape) != 1:
            raise ValueError(f"its {name} has {len(part.shape)} dimensions and not 1")
        if name != "data" and part.dtype.kind not in "iu":
            raise ValueError(f"its {name} is of {part.dtype} and not of integers")
    if data.shape != indices.shape:
        raise ValueError(f"it has {data.shape[0]:,} values, and {indices.shape[0]:,} indices")
    if indptr.shape[0] != major + 1:
        raise ValueError(f"it has {indptr.shape[0]:,} pointers (indptr), and {major:,} rows or columns")


def is_sparse(element: Any) -> bool:
    """Whether a group of an open file holds a sparse matrix."""
    return hasattr(element, "keys") and set(PARTS) <= set(element)


def shape_of(element: Any) -> tuple[int, ...] | None:
    """The shape that a matrix in an open file says it has; None of what is none."""
    if not is_sparse(element):
        shape = getattr(element, "shape", None)
        return None if shape is None else tuple(map(int, shape))
    said = element.attrs.get("shape", element.attrs.get("h5sparse_shape"))
    return None if said is None else tuple(int(n) for n in np.ravel(said))


def check_stored(element: Any, shape: tuple[int, ...] | None = None) -> None:
    """Refuse, before it is read, an element of an open file that is not what it says, or that cannot fit into memory.

    Parameters
    ----------
    element : h5py or zarr group or array
    shape : tuple of int, optional
        That it has to have, or its first sides: None where any will do.

    Raises
    ------
    ValueError
        Another shape, or the parts of a sparse matrix do not fit each other.
    OSError
        It is far larger than what its file holds of it.
    MemoryError
        It is larger than the memory there is.
    """
    own = shape_of(element)
    if shape is not None and own is not None and own[: len(shape)] != shape:
        said, wanted = (" x ".join(f"{n:,}" for n in sides) for sides in (own, shape))
        raise ValueError(f"it does not fit the names of its cells and genes: it is {said}, and they are {wanted}")
    for array in arrays_in(element):
        check_room(array)
    if is_sparse(element) and own is not None and all(hasattr(element[part], "dtype") for part in PARTS):
        if len(own) != 2 or min(own) < 0:
            raise ValueError(f"its shape is {own}")
        kind = str(element.attrs.get("encoding-type", element.attrs.get("h5sparse_format", "csr")))
        data, indices, indptr = (element[part] for part in PARTS)
        _check_parts(data, indices, indptr, own[1 if kind.startswith("csc") else 0])


def arrays_in(element: Any) -> list[Any]:
    """The arrays of an element, at most three groups deep."""
    found, waiting = [], [(element, 0)]
    while waiting:
        inner, depth = waiting.pop()
        if hasattr(inner, "dtype"):
            found.append(inner)
        elif hasattr(inner, "keys") and depth < 3:
            waiting += [(child, depth + 1) for child in (inner.get(key) for key in inner) if child is not None]
    return found


def check_room(array: Any) -> None:
    """OSError or MemoryError of an array that says it is larger than it can be."""
    shape, itemsize = array.shape, getattr(array.dtype, "itemsize", 8)
    if shape is None:
        return
    size, chunk = (itemsize * int(np.prod(sides or (), dtype=object)) for sides in (shape, array.chunks))
    size = max(size, chunk)
    if size <= LITTLE:
        return
    stored = _stored(array)
    if stored is not None and size > PACKED * max(stored, 1):
        raise OSError(f"it says it is of {memory.said(size)}, of which the file holds {memory.said(stored)}")
    there = memory.total()
    if there is not None and size > there:
        raise MemoryError(f"{array.name.strip('/')} takes {memory.said(size)}, and there are {memory.said(there)}")


def _stored(array: Any) -> int | None:
    """Bytes of an array in its file; None where that is not known."""
    if hasattr(array, "id"):  # of h5py
        return array.id.get_storage_size()
    stored = getattr(array, "nbytes_stored", None)
    return stored() if callable(stored) else stored


def check_all(x: Any) -> None:
    """`check_sparse` of what is a sparse matrix of compressed rows or columns, or holds some; nothing of others."""
    if isinstance(x, Mapping):
        for inner in x.values():
            check_all(inner)
    elif sparse.issparse(x) and x.format in ("csr", "csc"):
        check_sparse(x)


def is_lazy(adata: AnnData) -> bool:
    """Whether some matrices are of dask, which are computed when they are asked for."""
    raw = None if adata.raw is None else adata.raw.X
    held = [adata.X, raw, *adata.layers.values(), *adata.obsm.values()]
    return any(hasattr(x, "compute") and hasattr(x, "dask") for x in held)


def check_cells(adata: AnnData, name: str) -> None:
    """Refuse sparse matrices that are none, wherever they lie: what computes with one would read beyond its end.

    Raises
    ------
    InputError
        The first that is none, and why.
    """
    held: dict[str, Any] = {"X": adata.X, "raw/X": None if adata.raw is None else adata.raw.X}
    for key in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
        held |= {f"{key}/{inner}": value for inner, value in getattr(adata, key).items() if inner is not None}
    for where, value in held.items():
        try:
            check_all(value)
        except ValueError as error:
            raise InputError(
                f"{name} is damaged ({where}): {error}; make it anew, or copy or download it again"
            ) from error


def plain_matrix(x: Any) -> Any:
    """Numbers in the machine's byte order, and of a kind that sparse matrices may hold."""
    if hasattr(x, "to_numpy"):  # a DataFrame
        x = x.to_numpy()
    dtype = getattr(x, "dtype", None)
    if dtype is None or dtype.kind not in "biufc":
        return x
    wanted = _plain_type(dtype)
    return x if wanted == dtype and dtype.isnative else x.astype(wanted)


def with_plain_matrices(adata: AnnData) -> AnnData:
    """The same cells with `plain_matrix` of X, raw and layers; the same object where nothing has to change."""
    from anndata import AnnData

    raw = adata.raw
    held = [adata.X, None if raw is None else raw.X, *adata.layers.values()]
    if all(x is None or _is_plain(x) for x in held):
        return adata
    found = adata.copy()
    if found.X is not None:
        found.X = plain_matrix(found.X)
    for key in [key for key in found.layers if key is not None]:  # of anndata 0.13 X is the layer None
        found.layers[key] = plain_matrix(found.layers[key])
    if raw is not None:
        found.raw = AnnData(plain_matrix(raw.X), obs=found.obs[[]], var=raw.var, varm=dict(raw.varm))
    return found


def _is_plain(x: Any) -> bool:
    """Whether `plain_matrix` has nothing to do: truth values are numbers wherever they are read."""
    dtype = getattr(x, "dtype", None)
    return dtype is None or dtype.kind not in "iuf" or (dtype.isnative and dtype == _plain_type(dtype))


def _plain_type(dtype: np.dtype) -> np.dtype:
    """The type by which numbers of another are held."""
    if dtype.kind == "b" or (dtype.kind == "f" and dtype.itemsize not in (4, 8)):
        return np.dtype(np.float64 if dtype.itemsize > 8 else np.float32)
    return dtype.newbyteorder("=")
