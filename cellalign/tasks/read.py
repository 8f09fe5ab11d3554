"""read: cells of any format, as every command reads its INPUT."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from cellalign.data.reading import Reading

if TYPE_CHECKING:
    from anndata import AnnData


def read(*paths: str | os.PathLike[str], **options: Any) -> AnnData:
    """Read cells of any format: h5ad of every age, zarr, MuData, 10x, Matrix Market, loom or a table of text.

    Parameters
    ----------
    paths : path
        Files, folders or stores; several are put together over the genes that all have.
    options
        `file_key`, `modality`, `obs`, `obs_key`, `gene_key`, `genes`, `stream`, as `data.reading.Reading` says.

    Returns
    -------
    AnnData
        With `stream=True` its matrices stay on disk (`data.streamed.StreamedCells`): `train`, `embed`,
        `counterfactual`, `annotate` and `preprocess` read rows as they need them.

    Raises
    ------
    InputError
        No such file, of a kind that is not read, damaged, or files that do not go together.
    """
    from cellalign.data import files

    reading = Reading(tuple(str(path) for path in paths), **options)
    return files.read(reading, streaming=reading.stream is True)
