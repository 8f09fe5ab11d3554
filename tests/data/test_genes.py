"""Genes matched by name."""

import numpy as np
import pytest
from scipy import sparse

from cellalign.data.genes import align_genes
from cellalign.errors import InputError


def test_genes_are_matched_by_name():
    x = sparse.csr_matrix(np.arange(12.0).reshape(3, 4))
    got = align_genes(x, list("abcd"), list("dab"))
    np.testing.assert_array_equal(got.toarray(), x.toarray()[:, [3, 0, 1]])
    with pytest.raises(InputError, match="lacks 1 of the model's 2 genes: e"):
        align_genes(x, list("abcd"), list("ae"))
    filled = align_genes(x, list("abcd"), list("eca"), missing="zero")
    np.testing.assert_array_equal(filled.toarray(), np.c_[np.zeros(3), x.toarray()[:, [2, 0]]])
    with pytest.raises(InputError, match="none of the model's"):
        align_genes(x, list("abcd"), list("yz"), missing="zero")
