"""Which files a command reads and writes where the user names none."""

from __future__ import annotations

from collections.abc import Sequence
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
    from cellalign.data.files import read, read_matrix
    from cellalign.data.matrices import MATRICES
    from cellalign.data.recipe import serves

    if model.matrix in MATRICES[model.expression]:
        return cells_for(source, model.expression, model.obsm)
    found = read_matrix(source, model.matrix, model.obsm, required=False)
    return found if serves(found, model.expression, model.matrix) else read(source)


def cells_for(source: str | Path, expression: str, obsm: Sequence[str] = (), layer: str | None = None) -> AnnData:
    """Of a file what a method reads, and no more unless the usual place does not hold it.

    Parameters
    ----------
    expression : {"log", "counts"}
    obsm : sequence of str
    layer : str, optional
        The matrix that is wanted.

    Raises
    ------
    InputError
        As `data.files.read_matrix`.
    """
    from cellalign.data.files import read, read_matrix
    from cellalign.data.matrices import MATRICES
    from cellalign.data.recipe import serves

    if layer is not None:
        return read_matrix(source, layer, obsm)
    found = read_matrix(source, [*MATRICES[expression], "counts"], obsm, required=False)
    return found if serves(found, expression) else read(source)


def beside(source: str | Path, ending: str) -> str:
    """A name for an output in the working directory: kang.pp.h5ad and "emb" give kang.emb.h5ad."""
    stem = "stdin" if str(source) == "-" else Path(source).stem.removesuffix(".pp")
    return f"{stem}.{ending}.h5ad"
