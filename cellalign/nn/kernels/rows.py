"""Rows cut out of a CSR matrix, the values of each copied in one run: compiled, for CPUs."""

from __future__ import annotations

import torch
from numba import int64, prange, types
from torch import Tensor

from cellalign.nn.kernels.jit import INDICES, VECTOR, RangeKernel, compiled
from cellalign.nn.sparse import SparseRows

LEAST_ROWS = 128  # worth a thread


@compiled
def rows_in_range(first, last, part, arrays):
    """Copy the values of rows `first` to `last`, whose places in the cut `start` gives."""
    rows, indptr, indices, values, start, column, value = arrays
    for i in range(first, last):
        k = indptr[rows[i]]
        for to in range(start[i], start[i + 1]):
            column[to], value[to] = indices[k], values[k]
            k += 1


@compiled(parallel=True)
def _rows_in_parallel(n, parts, arrays):
    for part in prange(parts):
        rows_in_range(n * part // parts, n * (part + 1) // parts, int64(part), arrays)


# as scipy keeps indices: 32 bits where they suffice
KERNELS = {
    torch.int32: RangeKernel(
        rows_in_range, _rows_in_parallel, (INDICES, INDICES, types.int32[::1], VECTOR, INDICES, INDICES, VECTOR)
    ),
    torch.int64: RangeKernel(
        rows_in_range, _rows_in_parallel, (INDICES, INDICES, INDICES, VECTOR, INDICES, INDICES, VECTOR)
    ),
}


def cut(indptr: Tensor, indices: Tensor, values: Tensor, rows: Tensor, n_columns: int) -> SparseRows:
    """As `ops.rows_of`, of float32 values; rows that are not there raise IndexError."""
    kernel, n = KERNELS[indices.dtype], len(rows)
    if n and (int(rows.min()) < 0 or int(rows.max()) >= len(indptr) - 1):
        raise IndexError(f"there are {len(indptr) - 1} rows")
    start = torch.zeros(n + 1, dtype=torch.int64)
    torch.cumsum(indptr[rows + 1] - indptr[rows], 0, out=start[1:])
    column = torch.empty(int(start[-1]), dtype=torch.int64)
    value = values.new_empty(len(column))
    tensors = rows, indptr, indices, values, start, column, value
    kernel.run(n, kernel.parts(n, LEAST_ROWS), tuple(tensor.numpy() for tensor in tensors))
    return SparseRows(start, column, value, n_columns)
