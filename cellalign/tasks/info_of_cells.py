"""What `info` says of cells: of an h5ad or zarr its frames and a sample of each matrix are read, of others all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.data.columns import find_control
from cellalign.data.reading import Reading
from cellalign.data.said import untold
from cellalign.data.scale import scale_of
from cellalign.data.structure import is_lazy
from cellalign.data.values import listed, texts_of
from cellalign.memory import said as bytes_said
from cellalign.records import Provenance

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

SAMPLED = 2000  # cells by which a matrix is judged
LARGE = 1 << 28  # values of a matrix stored by genes, which gives no sample of cells, up to which it is read
SHOWN, COLUMNS = 8, 60  # values of a column, and columns
STORES = ("h5ad", "zarr", "zarr.zip")
PREDICTED = {"log": "log expression, predicted", "counts": "expected counts", "any": "values as they are, predicted"}
LIKE = ("raw_counts", "counts", "nearly counts")


def of_reading(reading: Reading) -> Iterator[tuple[str, str]]:
    """Of one file or several."""
    from cellalign.data import files

    for path in reading.paths:
        yield "file", _of_file(Path(path))
    kind = _kind(reading)
    if kind not in STORES:
        yield from of_cells(files.read(reading))
        return
    frames = files.read_matrix(reading, None)  # says what is wrong with a damaged one
    with ExitStack() as open_:
        root = _opened(Path(reading.paths[0]), kind, open_)
        yield from _size(frames)
        yield from _matrices_in(root, _predicted(frames.uns))
        yield from _columns(frames.obs)
        for store in ("obsm", "varm", "obsp"):
            names = {key: root[store][key] for key in root[store]} if store in root else {}
            yield from _arrays(store, names)
        yield from _provenance(frames.uns)


def of_cells(adata: AnnData) -> Iterator[tuple[str, str]]:
    """Of cells in memory, or opened with `backed`."""
    adata = adata.to_memory() if is_lazy(adata) else adata
    yield from _size(adata)
    held: dict[str, Any] = {"X": adata.X} | {f"layer {k}": v for k, v in adata.layers.items() if k}
    if adata.raw is not None:
        held["raw"] = adata.raw.X
    rows, predicted = np.unique(np.linspace(0, adata.n_obs - 1, SAMPLED).astype(int)), _predicted(adata.uns)
    for name, x in held.items():
        if x is not None:
            yield name, _matrix(x, rows, predicted=predicted if name == "X" else "")
    yield from _columns(adata.obs)
    for store in ("obsm", "varm", "obsp"):
        yield from _arrays(store, getattr(adata, store))
    yield from _provenance(adata.uns)


def _of_file(path: Path) -> str:
    """A file's size."""
    if path.is_dir():
        return f"{path.name}: a folder, {bytes_said(sum(f.stat().st_size for f in path.rglob('*') if f.is_file()))}"
    return f"{path.name}: {bytes_said(path.stat().st_size)}" if path.is_file() else str(path)


def _kind(reading: Reading) -> str:
    """The kind of a single file that can be looked into; nothing of others."""
    import h5py

    from cellalign.data.formats import detect

    if reading.single is None or not Path(reading.single).exists():
        return ""
    path = Path(reading.single)
    kind = detect.kind_of(path)
    try:
        if kind == "hdf5":
            with h5py.File(path) as handle:
                return detect.kind_of_hdf5(handle) if "encoding-type" in handle.get("obs", handle).attrs else ""
    except OSError:
        return ""
    return kind


def _opened(path: Path, kind: str, stack: ExitStack) -> Any:
    if kind == "h5ad":
        import h5py

        return stack.enter_context(h5py.File(path))
    import zarr

    return zarr.open(str(path) if kind == "zarr" else zarr.storage.ZipStore(str(path), mode="r"), mode="r")


def _size(adata: AnnData) -> Iterator[tuple[str, str]]:
    yield "cells", f"{adata.n_obs:,}: {_names(adata.obs_names)}"
    yield "genes", f"{adata.n_vars:,}: {_names(adata.var_names)}"


def _names(index: pd.Index) -> str:
    twice = int(index.duplicated().sum())
    return (
        listed(map(str, index[:3]), 3) + (", ..." if len(index) > 3 else "") + (f"; {twice:,} twice" if twice else "")
    )


def _matrices_in(root: Any, predicted: str) -> Iterator[tuple[str, str]]:
    """Each matrix of a store, by a sample of its cells; of a prediction X is what its record says."""
    from anndata.io import sparse_dataset

    held = {"X": root["X"]} if "X" in root else {}
    held |= {f"layer {key}": root["layers"][key] for key in (root["layers"] if "layers" in root else ())}
    held |= {"raw": root["raw/X"]} if "raw" in root and "X" in root["raw"] else {}
    for name, element in held.items():
        own = predicted if name == "X" else ""
        if hasattr(element, "shape"):
            yield name, _matrix(element, slice(0, SAMPLED), predicted=own)
            continue
        by_genes = "csc" in str(element.attrs.get("encoding-type", element.attrs.get("h5sparse_format", "")))
        matrix = sparse_dataset(element)
        if by_genes and element["data"].shape[0] > LARGE:
            yield name, f"{element['data'].dtype}, sparse, stored by genes"
        else:
            yield name, _matrix(matrix[:] if by_genes else matrix, slice(0, SAMPLED), element["data"], predicted=own)


def _predicted(uns: Mapping[str, Any]) -> str:
    """What X of a prediction is, by its record; nothing of other cells."""
    with untold():
        made = Provenance.of(uns).counterfactual
    return "" if made is None else PREDICTED[made.expression]


def _matrix(x: Any, rows: Any, stored: Any = None, predicted: str = "") -> str:
    """A matrix by a sample of its rows; of a prediction, which need not look like measured cells, as it is recorded."""
    from scipy import sparse

    part = x[rows]
    found = scale_of(part)
    density = (
        f"{100 * (part.nnz if sparse.issparse(part) else np.count_nonzero(part)) / max(1, np.prod(part.shape)):.0f}"
    )
    how = "sparse" if sparse.issparse(part) else "dense"
    values = "" if stored is None else f", {stored.shape[0]:,} values"
    kind = f"{found.kind} ({found.said})" if found.kind in ("other", "scaled") else found.kind
    if predicted and found.kind != "counts" and not found.all_zero:
        kind = predicted
    return f"{kind}; {part.dtype}, {how}{values}, {density} % not zero, largest {found.largest:.4g}"


def _columns(obs: pd.DataFrame) -> Iterator[tuple[str, str]]:
    for key in list(obs.columns)[:COLUMNS]:
        yield f"obs {key}", _column(obs[key])
    if len(obs.columns) > COLUMNS:
        yield "more of obs", listed(map(str, obs.columns[COLUMNS:]))


def _column(values: pd.Series) -> str:
    """A column's values with their cells, or its range."""
    missing = int(values.isna().sum())
    none = f"; missing {missing:,}" if missing else ""
    distinct = values.nunique()
    if values.dtype.kind in "iuf" and distinct > SHOWN:
        return f"{distinct:,} numbers from {values.min():.4g} to {values.max():.4g}{none}"
    counts = values.value_counts()
    counts = counts[counts > 0]
    if len(counts) > max(SHOWN, len(values) / 2):
        return f"{len(counts):,} different values, about one per cell{none}"
    names = texts_of(counts.index, values.dtype)
    each = listed((f"{name} ({n:,})" for name, n in zip(names, counts, strict=True)), SHOWN)
    control = find_control(names) if len(counts) > 1 else None
    return each + none + (f"; {control} is called as controls are" if control is not None else "")


def _arrays(store: str, held: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    names = []
    for key, value in held.items():
        shape = getattr(value, "shape", None)
        names.append(f"{key} [{shape[1]}]" if shape is not None and len(shape) > 1 and store != "obsp" else str(key))
    if names:
        yield store, ", ".join(names)


def _provenance(uns: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What cellalign did to the cells, step by step."""
    with untold():
        steps = sorted(Provenance.of(uns).steps(), key=lambda step: step.step)
    for number, step in enumerate(steps, 1):
        own = {k: v for k, v in step.model_dump(by_alias=True).items() if v not in (None, "", (), [], {}, False)}
        shown = (f"{k.strip('_')} {v}" for k, v in own.items() if k not in ("step", "weights", "groups", "notes"))
        yield f"step {number}", f"{type(step).__name__.lower()}: {listed(shown, 12)}"
