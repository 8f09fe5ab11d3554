"""Which files a command reads and writes where the user names none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

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
    return replace(model.check_source(), stream=input.stream)


def cells_of(
    source: Reading, model: Model, *, streaming: bool = False, often: Callable[[Any], Any] | None = None
) -> AnnData:
    """Of files what a model reads: obs, var, its matrix, and the vectors it was given.

    Parameters and errors are those of `cells_for`.
    """
    from cellalign.data.matrices import MATRICES

    if model.matrix in MATRICES[model.expression]:
        return cells_for(source, model.expression, model.obsm, streaming=streaming, often=often)
    return _serving(source, model.expression, [model.matrix], model.obsm, streaming, often)


def looked_at(x: Any) -> Any:
    """A matrix of cells; of several ranks, which all call this, one has made the pass that checks it."""
    from cellalign.engine.copies import looked_at_by_one
    from cellalign.engine.ranks import current

    return looked_at_by_one(x, current())


def read_several_times(x: Any) -> Any:
    """The same, of a matrix of which all rows are read twice and more: unpacked in that pass."""
    from cellalign.engine.copies import one_copy
    from cellalign.engine.ranks import current

    return looked_at(one_copy(x, current()))


def cells_for(
    source: Reading,
    expression: str,
    obsm: Sequence[str] = (),
    layer: str | None = None,
    *,
    streaming: bool = False,
    often: Callable[[Any], Any] | None = None,
) -> AnnData:
    """Of a file what a method reads, and no more unless the usual place does not hold it.

    Parameters
    ----------
    expression : {"log", "counts"}
    obsm : sequence of str
    layer : str, optional
        The matrix that is wanted.
    streaming : bool
        Whether it may stay on disk (`data.files.read`).
    often : callable, optional
        Makes the matrix, before it is looked at, one that is read fast again and again.

    Raises
    ------
    InputError
        As `data.files.read_matrix`.
    """
    from cellalign.data.files import read_matrix
    from cellalign.data.matrices import MATRICES

    if layer is not None:
        return read_matrix(source, layer, obsm, streaming=streaming)
    return _serving(source, expression, [*MATRICES[expression], "counts"], obsm, streaming, often)


def _serving(
    source: Reading,
    expression: str,
    matrices: Sequence[str],
    obsm: Sequence[str],
    streaming: bool,
    often: Callable[[Any], Any] | None = None,
) -> AnnData:
    """The file with the first of these matrices, or the whole of it where that one does not serve."""
    from cellalign.data.files import read, read_matrix
    from cellalign.data.recipe import at_hand, serves

    found = read_matrix(source, matrices, obsm, required=False, streaming=streaming)
    found = at_hand(found, next((key for key in matrices if key in found.layers), "X"), often, expression)
    return found if serves(found, expression, matrices[0]) else read(source, streaming=streaming)


def beside(source: Reading, ending: str) -> str:
    """A name for an output in the working directory: kang.pp.h5ad and "emb" give kang.emb.h5ad."""
    from cellalign.data.reading import labels

    names = [name.removesuffix(".pp") for name in labels(source.paths)]
    more = f"+{len(names) - NAMED}" if len(names) > NAMED else ""
    return f"{'+'.join(names[:NAMED])}{more}.{ending}.h5ad"


def to_write(outputs: Sequence[str | None], *, force: bool) -> str:
    """The outputs of a run that is only tried, and which of them are there already."""
    from pathlib import Path

    from cellalign.errors import option

    def said(path: str) -> str:
        if path == "-" or not Path(path).exists():
            return path
        replaced = "is replaced" if force else f"{option('force', True)} replaces it"
        return f"{path} (there already: {replaced})"

    return ", ".join(said(path) for path in outputs if path is not None)
