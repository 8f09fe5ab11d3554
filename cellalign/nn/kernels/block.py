"""Batch normalisation, leaky ReLU and dropout of a hidden layer in three passes: compiled, for CPUs, in float32.

As modules they are some twenty operations on small tensors, of which the calls alone take longer than the arithmetic.
"""

from __future__ import annotations

import math

import numpy as np

from cellalign.nn.kernels import D, F, inlined, kept

U = np.uint32
# factors of the hash murmur3's finaliser became known for, as improved by a search (T. Mueller, C. Wellons)
FACTOR_1, FACTOR_2 = U(0x7FEB352D), U(0x846CA68B)


@inlined
def _random(counter, key_1, key_2):
    """32 random bits of a counter under two keys."""
    x = U(counter + key_1)
    x = U(U(x ^ U(x >> U(16))) * FACTOR_1)
    x = U(U(U(x ^ U(x >> U(15))) ^ key_2) * FACTOR_2)
    return U(x ^ U(x >> U(16)))


def _forward(
    x, weight, bias, running_mean, running_variance, filled, momentum, eps, slope, dropout, key
):  # fmt: skip
    """Fill y, and what the gradient needs; update the running statistics.

    Parameters
    ----------
    x : float32 array [B, H]
    weight, bias, running_mean, running_variance : float32 arrays [H]
        Of the batch normalisation; the running variance is the unbiased one.
    filled : float32 array [3 B + 1, H]
        y, standardised x, what leaky ReLU and dropout multiply a unit by, and 1 / sqrt(variance + eps).
    momentum, eps, slope, dropout : float
    key : int
        Decides which units are dropped.
    """
    n = len(x)
    y, standard, factor, over_deviation = filled[:n], filled[n : 2 * n], filled[2 * n : 3 * n], filled[3 * n]
    key_1, key_2 = U(key & 0xFFFFFFFF), U(key >> 32)
    width = x.shape[1]
    mean, variance = np.zeros(width, D), np.zeros(width, D)
    for i in range(n):
        for j in range(width):
            mean[j] += x[i, j]
    mean /= n
    for i in range(n):
        for j in range(width):
            centred = F(x[i, j] - mean[j])
            standard[i, j] = centred
            variance[j] += centred * centred
    variance /= n
    for j in range(width):
        over_deviation[j] = F(1 / math.sqrt(variance[j] + eps))
        running_mean[j] += F(momentum * (mean[j] - running_mean[j]))
        running_variance[j] += F(momentum * (variance[j] * n / (n - 1) - running_variance[j]))
    kept_below = U(min((1 - dropout) * 2.0**32, 2.0**32 - 1))
    scale, negative = F(1 / (1 - dropout)), F(slope)
    for i in range(n):
        for j in range(width):
            s = standard[i, j] * over_deviation[j]
            h = s * weight[j] + bias[j]
            standard[i, j] = s
            factor[i, j] = F(1) if h > 0 else negative
            y[i, j] = h
        if dropout > 0:
            first = U(i * width)
            for j in range(width):
                factor[i, j] *= scale if _random(U(first + U(j)), key_1, key_2) < kept_below else F(0)
        for j in range(width):
            y[i, j] *= factor[i, j]


def _backward(grad, weight, filled, derivatives):
    """Fill the derivatives [B + 2, H], by x [B, H], weight and bias, given that by y."""
    n = len(grad)
    standard, factor, over_deviation = filled[n : 2 * n], filled[2 * n : 3 * n], filled[3 * n]
    by_x, by_weight, by_bias = derivatives[:n], derivatives[n], derivatives[n + 1]
    width = grad.shape[1]
    sums, products = np.zeros(width, D), np.zeros(width, D)
    for i in range(n):
        for j in range(width):
            g = grad[i, j] * factor[i, j]
            by_x[i, j] = g
            sums[j] += g
            products[j] += g * standard[i, j]
    mean, slope, scale = np.empty(width, F), np.empty(width, F), np.empty(width, F)
    for j in range(width):
        by_bias[j], by_weight[j] = sums[j], products[j]
        mean[j], slope[j], scale[j] = sums[j] / n, products[j] / n, weight[j] * over_deviation[j]
    for i in range(n):
        for j in range(width):
            by_x[i, j] = scale[j] * (by_x[i, j] - mean[j] - standard[i, j] * slope[j])


forward, backward = kept(_forward), kept(_backward)
