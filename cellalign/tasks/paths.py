"""Which files a command reads and writes where the user names none."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData

    from cellalign.data.reading import Reading
    from cellalign.model import Model

NAMED = 3  # files whose names an output is called after


def source_of(input: Reading, model: Model) -> Reading:
    """The files of the cells: those named (of standard input a copy), or the training files; errors as those."""
    from cellalign.data.files import spool
    from cellalign.errors import UsageError, option

    if input.paths:
        return spool(input)
    for name, value in input.options().items():
        raise UsageError(f"{option(name, value)} needs INPUT; the training files are read as in training")
    return model.check_source()


def cells_of(source: Reading, model: Model) -> AnnData:
    """Of files what a model reads: obs, var, its matrix, and the vectors it was given; errors as `read_matrix`."""
    from cellalign.data.files import read_matrix

    return read_matrix(source, model.matrix, model.obsm)


def beside(source: Reading, ending: str) -> str:
    """A name for an output in the working directory: kang.pp.h5ad and "emb" give kang.emb.h5ad."""
    from cellalign.data.reading import labels

    names = [name.removesuffix(".pp") for name in labels(source.paths)]
    more = f"+{len(names) - NAMED}" if len(names) > NAMED else ""
    return f"{'+'.join(names[:NAMED])}{more}.{ending}.h5ad"
