"""The gradient of a product with sparse rows, of which only the stored values are read."""

from __future__ import annotations

import numpy as np
import torch
from numba import carray
from torch import Tensor

from cellalign.nn.kernels import F, compiled, task
from cellalign.nn.kernels.team import at, carry_out, done, floats, indices, next_part, order_of, parts_of
from cellalign.nn.sparse import SparseRows

LEAST_COLUMNS = 64  # worth a thread
CACHED = 2**15  # values that a core's cache holds


@compiled
def _columns(start, column, value, grad, first, last, at_once, filled):
    """Fill rows `first` to `last` of [G, m], some at a time, which stay in the cache while all of x is read."""
    following = np.empty(len(grad), np.int64)
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


ORDER = order_of(
    "next", "done", "parts", "n_rows", "n_columns", "width", "n_stored", "at_once",
    "start", "column", "value", "grad", "filled",
)  # fmt: skip


@task
def _task(address):
    order = carray(address, 1, ORDER)[0]
    n_rows, width = order.n_rows, order.width
    start, grad = carray(at(order.start), n_rows + 1, np.int64), carray(at(order.grad), (n_rows, width), F)
    column, value = carray(at(order.column), order.n_stored, np.int64), carray(at(order.value), order.n_stored, F)
    filled = carray(at(order.filled), (order.n_columns, width), F)
    part = next_part(address)
    while part < order.parts:
        first, last = order.n_columns * part // order.parts, order.n_columns * (part + 1) // order.parts
        _columns(start, column, value, grad, first, last, order.at_once, filled)
        done(address)
        part = next_part(address)


def transposed_product(x: SparseRows, grad: Tensor) -> Tensor:
    """x^T grad, of x [B, G] and grad [B, m]: float32 [G, m].

    Raises
    ------
    ValueError
        If grad has not a row for each of x: compiled loops do not look where they read.
    """
    if len(grad) != len(x):
        raise ValueError(f"grad must have {len(x)} rows, not {len(grad)}")
    filled = grad.new_empty(x.n_columns, grad.shape[1], dtype=torch.float32)
    carry_out(
        _task,
        ORDER,
        parts_of(x.n_columns, LEAST_COLUMNS),
        n_rows=len(x),
        n_columns=x.n_columns,
        width=grad.shape[1],
        n_stored=len(x.value),
        at_once=max(1, CACHED // max(1, grad.shape[1])),
        start=indices(x.start),
        column=indices(x.column),
        value=floats(x.value),
        grad=floats(grad),
        filled=filled,
    )
    return filled
