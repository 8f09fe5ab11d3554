"""convert: cells of any format as one h5ad file or zarr store whose rows can be read by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cellalign.data.reading import Reading
from cellalign.tasks import options as o
from cellalign.tasks.declaration import Argument, Call, command_of

if TYPE_CHECKING:
    from anndata import AnnData


def convert(adata: AnnData) -> AnnData:
    """The same cells with matrices that are kept by rows (CSR), as they are streamed.

    Parameters
    ----------
    adata : AnnData
        In memory, or with its matrices on disk, where they stay until they are written.

    Returns
    -------
    AnnData
        The same object: a matrix of compressed columns is one of compressed rows; dense ones are as they were.
    """
    from scipy import sparse

    from cellalign.data.reading import in_memory
    from cellalign.data.streamed import StreamedCells

    if isinstance(adata, StreamedCells):
        return adata
    adata = in_memory(adata)
    if sparse.issparse(adata.X):
        adata.X = adata.X.tocsr()
    for name in [name for name in adata.layers if name is not None]:  # of anndata 0.13 X is the layer None
        if sparse.issparse(adata.layers[name]):
            adata.layers[name] = adata.layers[name].tocsr()
    if adata.raw is not None and sparse.issparse(adata.raw.X):
        from anndata import AnnData

        adata.raw = AnnData(adata.raw.X.tocsr(), obs=adata.obs[[]], var=adata.raw.var)
    return adata


@command_of(convert, example="cellalign convert atlas.h5ad -o atlas.zarr")
def command(
    call: Call,
    input: Annotated[Reading, Argument("Files of cells of any format; - is standard input.", metavar="INPUT")],
    output: Annotated[str, o.OUTPUT],
    force: Annotated[bool, o.FORCE] = False,
) -> None:
    """Write cells as .h5ad or .zarr by rows, several files as one: what --stream reads."""
    from cellalign.data import files

    files.check_cells_output(output, force, [input])
    cells = convert(files.read(files.spool(input) if input.stream else input, streaming=True, by_columns=True))
    files.write(cells, output, force=force)
    call.log.info("%s: %d cells x %d genes", output, cells.n_obs, cells.n_vars)
