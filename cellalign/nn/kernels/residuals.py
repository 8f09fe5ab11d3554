"""What a predicted mean leaves of cells given as stored values, in one pass over each cell: compiled, for CPUs.

In torch's operations the values of a batch pass through memory eight times, and the cells are made dense besides.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import int64, prange, types
from torch import Tensor

from cellalign.nn.kernels.elementary import narrow, widen
from cellalign.nn.kernels.jit import INDICES, MATRIX, VECTOR, RangeKernel, as_arrays, compiled, floats, indices
from cellalign.nn.sparse import SparseRows

LEAST_CELLS = 32  # worth a thread


@compiled
def _subtract(column, value, row):
    for k in range(len(column)):
        row[column[k]] -= value[k]


@compiled(fastmath={"reassoc"})
def _squares(values):
    total = 0.0
    for j in range(len(values)):
        total += values[j] * values[j]
    return total


@compiled
def cells_in_range(first, last, part, arrays):
    """Of cells `first` to `last` the mean less what is stored, and the sum of its squares."""
    mean, start, column, value, residual, squared, _ = arrays
    for b in range(first, last):
        own, row = slice(start[b], start[b + 1]), residual[b]
        row[:] = mean[b]
        _subtract(column[own], value[own], row)
        squared[b] = _squares(row)


@compiled
def rounded_cells_in_range(first, last, part, arrays):
    """The same of a mean in bfloat16, given and returned as the 16 bits it is."""
    mean, start, column, value, residual, squared, room = arrays
    row = room[part]
    for b in range(first, last):
        own = slice(start[b], start[b + 1])
        widen(mean[b], row)
        _subtract(column[own], value[own], row)
        squared[b] = _squares(row)
        narrow(row, residual[b])


@compiled(parallel=True)
def _cells_in_parallel(n, parts, arrays):
    for part in prange(parts):
        cells_in_range(n * part // parts, n * (part + 1) // parts, int64(part), arrays)


@compiled(parallel=True)
def _rounded_cells_in_parallel(n, parts, arrays):
    for part in prange(parts):
        rounded_cells_in_range(n * part // parts, n * (part + 1) // parts, int64(part), arrays)


def _arrays(matrix: types.Array) -> tuple[types.Type, ...]:
    return matrix, INDICES, INDICES, VECTOR, matrix, VECTOR, MATRIX


KERNEL = RangeKernel(cells_in_range, _cells_in_parallel, _arrays(MATRIX))
ROUNDED = RangeKernel(rounded_cells_in_range, _rounded_cells_in_parallel, _arrays(types.int16[:, ::1]))


def residuals(x: SparseRows, mean: Tensor) -> tuple[Tensor, Tensor]:
    """mean - x [B, G] in the mean's type, float32 or bfloat16, and the sums of its squares, float32 [B]."""
    kernel = ROUNDED if mean.dtype == torch.bfloat16 else KERNEL
    parts = kernel.parts(len(x), LEAST_CELLS)
    mean = mean.detach().contiguous()
    residual, squared = torch.empty_like(mean), torch.empty(len(x))
    tensors = mean, indices(x.start), indices(x.column), floats(x.value), residual, squared
    room = np.empty((parts, mean.shape[1]), np.float32)
    kernel.run(len(x), parts, (*as_arrays(*tensors), room))
    return residual, squared
