"""read: cells of any format, as every command reads its INPUT."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cellalign.data.reading import Reading

if TYPE_CHECKING:
    from anndata import AnnData


def read(
    *paths: str | os.PathLike[str],
    file_key: str | None = None,
    modality: str | None = None,
    obs: str | os.PathLike[str] | None = None,
    obs_key: str | None = None,
    gene_key: str | None = None,
    genes: str | None = None,
    stream: bool | None = None,
) -> AnnData:
    """Read cells of any format: h5ad of every age, zarr, MuData, 10x, Matrix Market, loom or a table of text.

    Parameters
    ----------
    paths : path
        Files, folders or stores; several are put together over the genes that all have.
    file_key : str, optional
        obs column that names the file of each cell, where there are several; "file" by default.
    modality : str, optional
        Of a file that has several, the one to read.
    obs : path, optional
        A .csv or .tsv of cell metadata, joined by cell name.
    obs_key : str, optional
        Its column of cell names; the first by default.
    gene_key : str, optional
        Column of var that names the genes; its index by default.
    genes : str, optional
        Of several files: "inner", the genes that all have, or "union", those of any, zero elsewhere.
    stream : bool, optional
        Leave matrices on disk (True), or read them into memory (False); by default as there is room.

    Returns
    -------
    AnnData
        With `stream=True` its matrices stay on disk (`data.streamed.StreamedCells`): whatever trains, embeds, predicts
        or scores reads rows as it needs them.

    Raises
    ------
    InputError
        No such file, of a kind that is not read, damaged, or files that do not go together.
    """
    from cellalign.data import files

    table = None if obs is None else str(obs)
    how = {"file_key": file_key, "modality": modality, "obs": table, "obs_key": obs_key, "gene_key": gene_key}
    reading = Reading(tuple(str(path) for path in paths), **how, genes=genes, stream=stream)
    return files.read(reading, streaming=reading.stream is True)
