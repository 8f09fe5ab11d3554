"""The cells that a caller of the Python API gave, fit to be computed with."""

from __future__ import annotations

from typing import Any

from anndata import AnnData

from cellalign.data.formats.on_disk import NotByRows, stored_matrix
from cellalign.data.reading import in_memory
from cellalign.data.stored import Held, Stored
from cellalign.data.streamed import StreamedCells
from cellalign.errors import UsageError


def given_cells(adata: AnnData) -> AnnData:
    """The same cells, checked; of an AnnData opened with `backed` the matrix stays on disk, where it is kept by rows.

    Of a view of one, and where the matrix is kept by columns, a copy in memory.

    Raises
    ------
    InputError
        A sparse matrix whose parts do not fit each other.
    UsageError
        These are no cells, but a file's name or a table.
    """
    if not isinstance(adata, AnnData):
        advice = "cellalign.read(path) gives that of a file"
        raise UsageError(f"cells are given as an AnnData, not as {type(adata).__name__}; {advice}")
    left = _on_disk(adata) if adata.isbacked else None
    return in_memory(adata if left is None else left)


def _on_disk(adata: AnnData) -> StreamedCells | None:
    """Backed cells as those that `read(stream=True)` gives; None where their rows cannot be read in any order."""
    if adata.is_view:
        return None
    shape = adata.shape
    try:
        matrices: dict[str, Stored] = {"X": stored_matrix(_element(adata.X), "X", shape)}
        raw = None
        if adata.raw is not None:
            stored = stored_matrix(_element(adata.raw.X), "raw", (shape[0], len(adata.raw.var)))
            raw = stored, adata.raw.var
        matrices |= {name: Held(matrix) for name, matrix in adata.layers.items() if name is not None}
    except NotByRows:
        return None
    kept = {name: dict(getattr(adata, name)) for name in ("obsm", "varm", "uns")}
    return StreamedCells(matrices, raw, obs=adata.obs, var=adata.var, **kept)


def _element(matrix: Any) -> Any:
    """What lies in the file of a matrix that anndata gives of it: a group of a sparse one, or an array."""
    return getattr(matrix, "group", matrix)
