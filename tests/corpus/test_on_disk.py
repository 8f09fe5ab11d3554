"""Files of every origin left on disk hold what they hold in memory, or are refused with the command that converts."""

import numpy as np
import pytest
from corpus.manifest import FILES
from scipy import sparse

from cellalign.data import files
from cellalign.data.reading import Reading
from cellalign.data.streamed import StreamedCells
from cellalign.errors import InputError

AS_A_WHOLE = (".h5", "-mtx", ".loom", ".csv", ".tsv.gz", ".h5ad.gz", ".h5mu")
AS_A_WHOLE += ("anndata-0.5.h5ad", "anndata-0.6.h5ad", "mudata-named.h5ad", "csc.h5ad")


def dense(x):
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


@pytest.mark.parametrize("name", FILES)
def test_cells_on_disk_are_those_in_memory(corpus, name):
    reading = Reading((str(corpus / name),), stream=True)
    if name.endswith(AS_A_WHOLE):
        with pytest.raises(InputError, match="run: cellalign convert"):
            files.read(reading, streaming=True)
        return
    left = files.read(reading, streaming=True)
    assert isinstance(left, StreamedCells)
    found, there = left.to_memory(), files.read(corpus / name)
    assert found.obs.equals(there.obs) and found.var.equals(there.var) and set(found.layers) == set(there.layers)
    pairs = [(found.layers[key], there.layers[key]) for key in there.layers if key is not None]
    assert (found.X is None) == (there.X is None) and (found.raw is None) == (there.raw is None)
    pairs += [(found.X, there.X)] if there.X is not None else []
    pairs += [(found.raw.X, there.raw.X)] if there.raw is not None else []
    for one, other in pairs:
        np.testing.assert_array_equal(dense(one), dense(other))
