"""Matrices at the door: what is found is named."""

import numpy as np
import pytest
from scipy import sparse

from cellalign.data import matrices
from cellalign.errors import InputError


@pytest.mark.parametrize("layout", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
@pytest.mark.parametrize(("value", "named"), [(np.nan, "NaN"), (np.inf, "inf"), (-2.0, "negative")])
def test_the_first_bad_value_is_located(layout, value, named):
    x = np.eye(6, dtype=np.float32)
    x[2, 4] = value
    with pytest.raises(InputError, match=f"1 {named} values, the first in cell 2 .*gene 4"):
        matrices.check_matrix(layout(x), "X")
    matrices.check_matrix(layout(np.eye(6)), "X")


def test_counts_are_told_from_log_expression():
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(1, (20, 30)))
    assert matrices.is_counts(counts) and matrices.is_counts(counts.astype(np.float32).toarray())
    logged = counts.astype(np.float32).log1p()
    assert not matrices.is_counts(logged)
    matrices.check_log(logged, "X", "hint")
    with pytest.raises(InputError, match="raw counts.*run: cellalign preprocess a.h5ad"):
        matrices.check_log(counts, "X", "cellalign preprocess a.h5ad")
    with pytest.raises(InputError, match="not log-transformed"):
        matrices.check_log(logged * 100, "X", "hint")
