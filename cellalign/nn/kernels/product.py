"""The gradient of a product with sparse rows, of which only the stored values are read."""

from __future__ import annotations

from cellalign.nn.kernels import F, kept


def _transposed_product(start, column, value, grad, filled):
    """Fill [G, m] with x^T grad: x [B, G] as in SparseRows, grad float32 [B, m]."""
    filled[:] = F(0)
    for i in range(len(start) - 1):
        for k in range(start[i], start[i + 1]):
            j, x = column[k], value[k]
            for m in range(grad.shape[1]):
                filled[j, m] += x * grad[i, m]


transposed_product = kept(_transposed_product)
