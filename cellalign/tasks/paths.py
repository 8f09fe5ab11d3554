"""Which files a command reads and writes where the user names none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData

    from cellalign.model import Model


def source_of(input: str | None, model: Model) -> Path:
    """The file of the cells: the one named (of standard input a copy), or the training file; errors as that."""
    from cellalign.data.files import spool

    return model.check_source() if input is None else spool(input)


def cells_of(source: str | Path, model: Model) -> AnnData:
    """Of a file what a model reads: obs, var, its matrix, and the vectors it was given; errors as `read_matrix`."""
    from cellalign.data.files import read_matrix

    return read_matrix(source, model.matrix, model.obsm)


def beside(source: str | Path, ending: str) -> str:
    """A name for an output in the working directory: kang.pp.h5ad and "emb" give kang.emb.h5ad."""
    stem = "stdin" if str(source) == "-" else Path(source).stem.removesuffix(".pp")
    return f"{stem}.{ending}.h5ad"
