"""The gradient of a product with sparse rows, of which only the stored values are read: compiled, for CPUs."""

from __future__ import annotations

import numpy as np
from numba import int64, prange, types
from torch import Tensor

from cellalign.nn.kernels.jit import INDICES, MATRIX, VECTOR, F, RangeKernel, compiled, floats, indices
from cellalign.nn.sparse import SparseRows

LEAST_COLUMNS = 64  # worth a thread
CACHED = 2**15  # values that a core's cache holds


@compiled
def columns_in_range(first, last, part, arrays):
    """Fill rows `first` to `last` of [G, m], some at a time, which stay in the cache while all of x is read."""
    start, column, value, grad, filled, scratch, at_once = arrays
    following = scratch[part]  # of each row of x, its first stored value that is still to be added
    for i in range(len(grad)):
        following[i] = start[i] + np.searchsorted(column[start[i] : start[i + 1]], first)
    for begin in range(first, last, at_once):
        end = min(begin + at_once, last)
        filled[begin:end] = F(0)
        for i in range(len(grad)):
            k = following[i]
            while k < start[i + 1] and column[k] < end:
                j, x = column[k], value[k]
                for m in range(grad.shape[1]):
                    filled[j, m] += x * grad[i, m]
                k += 1
            following[i] = k


@compiled(parallel=True)
def _columns_in_parallel(n, parts, arrays):
    for part in prange(parts):
        columns_in_range(n * part // parts, n * (part + 1) // parts, int64(part), arrays)


KERNEL = RangeKernel(
    columns_in_range,
    _columns_in_parallel,
    (INDICES, INDICES, VECTOR, MATRIX, MATRIX, types.int64[:, ::1], types.int64),
)


def transposed_product(x: SparseRows, grad: Tensor) -> Tensor:
    """x^T grad, of x [B, G] and grad [B, m]: float32 [G, m]."""
    n = x.n_columns
    parts = KERNEL.parts(n, LEAST_COLUMNS)
    filled = grad.new_empty(n, grad.shape[1])
    tensors = indices(x.start), indices(x.column), floats(x.value), floats(grad), filled
    scratch = np.empty((parts, len(x)), np.int64)
    KERNEL.run(n, parts, (*(values.numpy() for values in tensors), scratch, max(1, CACHED // max(1, grad.shape[1]))))
    return filled
