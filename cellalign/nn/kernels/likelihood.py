"""The likelihood of counts and its gradient in one pass over each cell: compiled, for CPUs, in float32.

In torch's operations a batch of values passes through memory some thirty times; here the genes of a cell stay in the
cache. The loops over genes contain no branch and no call of a library, or they would not become vector instructions:
hence exp and log of our own, correct to about an ulp.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import int64, prange, types
from torch import Tensor

from cellalign.nn.kernels import LEAST_LOG_THETA, LEAST_LOGIT, MOST_LOG_THETA, SMALL_RATIO, TABLED
from cellalign.nn.kernels.elementary import STIRLING, exp, exp64, gammas, large_gammas, log, log1p, log64, narrow, widen
from cellalign.nn.kernels.jit import INDICES, MATRIX, VECTOR, D, F, RangeKernel, as_arrays, compiled, floats, indices
from cellalign.nn.sparse import SparseRows

SHARED = 9  # rows of scratch memory before the tables
SMALL, THIRD, FOURTH = F(SMALL_RATIO), F(2 / 3), F(3 / 4)  # of the series
MIN_CELLS_PER_THREAD = 16  # worth a thread: what is computed per gene takes as long as two


@compiled(fastmath={"reassoc"})
def _sum(values):
    total = 0.0
    for j in range(len(values)):
        total += values[j]
    return total


@compiled(fastmath={"reassoc", "nnan"})
def _most(values):
    """The greatest value; of those that are NaN nothing is known."""
    most = values[0]
    for j in range(len(values)):
        most = values[j] if values[j] > most else most
    return most


@compiled
def _add_scaled(into, values, weight):
    for j in range(len(values)):
        into[j] += values[j] * weight


@compiled
def _center(values, shares, total, weight):
    """(values - shares * total) * weight, in place."""
    for j in range(len(values)):
        values[j] = (values[j] - shares[j] * total) * weight


@compiled
def _exponentials(logits, shares):
    """exp(logits - the greatest), that greatest and the sum of them: a softmax but for its division."""
    most = _most(logits)
    for j in range(len(logits)):
        shares[j] = exp(logits[j] - most)
    return most, _sum(shares)


@compiled
def _tables(over_theta, value, by_log_t):
    """What small counts x of the genes add: log x! - sum over k < x of log(1 + k / t), and its derivative by log t.

    The derivative is the sum of k / (t + k); a row of both is for one count.
    """
    value[0], by_log_t[0] = F(0), F(0)
    for k in range(len(value) - 1):
        for j in range(len(over_theta)):
            share = F(1) / (F(1) + F(k) * over_theta[j])  # t / (t + k)
            value[k + 1, j] = value[k, j] + log(F(k + 1) * share)
            by_log_t[k + 1, j] = by_log_t[k, j] + (F(1) - share)


@compiled
def _zeros(shares, library, theta, over_theta, softplus, more, cost, by_log_m, by_log_t):
    """NB of all genes of a cell as if their counts were zero.

    softplus is of u = log m - log t, and by `more` more than sigmoid(u): by a series where both are nearly m / t.
    """
    for j in range(len(shares)):
        ratio = shares[j] * library * over_theta[j]  # m / t
        one_more = F(1) + ratio
        over = F(1) / one_more
        softplus[j] = log1p(ratio, one_more, over)
        by_log_m[j] = ratio * over * theta[j]
        series = ratio * ratio * (F(0.5) - ratio * (THIRD - FOURTH * ratio))
        more[j] = series if ratio < SMALL else softplus[j] - ratio * over
    for j in range(len(shares)):
        cost[j] = softplus[j] * theta[j]
        by_log_t[j] = more[j] * theta[j]


@compiled
def _nonzeros(
    column, value, logits, to_log_m, log_theta, shares, library, theta, over_theta, table, table_t, of_t, place, large,
    softplus, more, cost, by_log_m, by_log_t,
):  # fmt: skip
    """NB of the genes of a cell that have a count, in place of what stands there.

    Small integers are looked up, large values gathered and computed together; what is left, one by one. The slope by
    log m is t s - x (1 - s), s = sigmoid(u): 1 - s is computed as it is, since a small t would be lost in s.
    """
    n = 0
    for i in range(len(column)):
        j, x = column[i], value[i]
        k = int(x) if 0 <= x < len(table) else 0
        if x >= STIRLING:
            if math.isnan(of_t[0, j]):
                of_t[0, j] = math.exp(D(log_theta[j]))
                of_t[1, j], of_t[2, j] = gammas(of_t[0, j])
            place[n], large[0, n], large[1, n], large[2, n] = j, x, of_t[0, j], logits[j] + to_log_m - log_theta[j]
            n += 1
        elif F(k) == x:
            t, m = theta[j], shares[j] * library
            rest = F(1) / (F(1) + m * over_theta[j])
            cost[j] = (t + x) * softplus[j] - x * F(logits[j] + to_log_m) + table[k, j]
            by_log_m[j] = (m - x) * rest
            by_log_t[j] = t * more[j] - x * (m * over_theta[j] * rest) + table_t[k, j]
        else:
            nll, slope, slope_t = _exact(D(x), logits[j] + to_log_m, D(log_theta[j]))
            cost[j], by_log_m[j], by_log_t[j] = F(nll), F(slope), F(slope_t)
    _exact_of_large(large, n)
    for i in range(n):
        j = place[i]
        cost[j] = F(large[3, i] + of_t[1, j])
        by_log_m[j] = F(large[4, i])
        by_log_t[j] = F(large[5, i] + large[1, i] * of_t[2, j])


@compiled
def _exact_of_large(given, n):
    """Of n counts from STIRLING on, in float64: value, derivative by log m and by log t, but for what t alone decides.

    Rows of `given` are counts, t and log m - log t, then the three results.
    """
    for i in range(n):
        x, t, u = given[0, i], given[1, i], given[2, i]
        e = exp64(-abs(u))
        one_more = 1.0 + e
        over = 1.0 / one_more
        softplus = log64(one_more) + (e - (one_more - 1.0)) * over + max(u, 0.0)
        sigmoid = over if u >= 0 else e * over
        rest = e * over if u >= 0 else over
        log_gamma, digamma = large_gammas(x + t)
        factorial, _ = large_gammas(x + 1.0)
        given[3, i] = (t + x) * softplus - x * u - log_gamma + factorial
        given[4, i] = t * sigmoid - x * rest
        given[5, i] = t * (softplus - sigmoid - digamma) + x * rest


@compiled
def _exact(x, log_m, log_t):
    """Of one count, in float64, value and derivatives by log m and log t."""
    t, u = math.exp(log_t), log_m - log_t
    softplus = math.log1p(math.exp(-abs(u))) + max(u, 0.0)
    sigmoid, rest = math.exp(u - softplus), math.exp(-softplus)
    (log_gamma, digamma), (of_t, by_t), (factorial, _) = gammas(x + t), gammas(t), gammas(x + 1)
    nll = (t + x) * softplus - x * u - log_gamma + of_t + factorial
    return nll, t * sigmoid - x * rest, t * (softplus - sigmoid + by_t - digamma) + x * rest


@compiled
def _inflate(logits, least, weight, cost, by_log_m, by_log_t, by_logit, over_p, against):
    """-log(p + (1 - p) NB(0)) with p = sigmoid(h), of zeros whose cost under NB is given; slopes by h are weighted.

    The chance that a zero is a dropout is sigmoid(h - log NB(0)). Several short loops, of which a CPU has more steps
    under way at once than of a long one: two thirds of the time. The last two arguments are room for them.
    """
    for j in range(len(logits)):
        h = least if logits[j] < least else logits[j]
        over_p[j] = F(1) + exp(-h)
        against[j] = -(h + cost[j])
    for j in range(len(logits)):
        against[j] = exp(against[j])
    for j in range(len(logits)):
        inflated = F(1) / (F(1) + against[j])
        counted = against[j] * inflated
        cost[j] = over_p[j] * inflated
        by_log_m[j] *= counted
        by_log_t[j] *= counted
        by_logit[j] = weight * (F(1) / over_p[j] - inflated)
    for j in range(len(logits)):
        cost[j] = log(cost[j])


@compiled
def _count_inflated(column, logits, least, weight, cost, by_logit, over_p):
    """What dropouts add to genes that have a count: -log(1 - p), and its slope by h."""
    for j in column:
        h = least if logits[j] < least else logits[j]
        cost[j] += h + log(over_p[j])
        by_logit[j] = weight / over_p[j]


@compiled
def _of_genes(log_theta, room, of_t):
    """Fill what all cells share: t and 1 / t of each gene and the tables of small counts."""
    theta, over_theta = room[0], room[1]
    of_t[0] = np.nan  # of each gene that has a large count: t, and its log gamma and digamma
    for j in range(len(theta)):
        theta[j], over_theta[j] = exp(log_theta[j]), exp(-log_theta[j])
    _tables(over_theta, room[SHARED : SHARED + TABLED], room[SHARED + TABLED :])


@compiled
def _of_cell(column, value, logits, library, log_theta, dropout, room, exact, place, weight, slopes, sum_t, by_dropout):
    """The cost of one cell; its slopes by logits and dropout logits are filled in, those by log theta added."""
    theta, over_theta, shares, softplus, more, costs = room[0], room[1], room[2], room[3], room[4], room[5]
    slopes_t, over_p, against = room[6], room[7], room[8]
    table, table_t, of_t, large = room[SHARED : SHARED + TABLED], room[SHARED + TABLED :], exact[:3], exact[3:]
    most, total = _exponentials(logits, shares)
    to_log_m = math.log(D(library)) - (most + math.log(total))
    of_share = F(library / total)
    _zeros(shares, of_share, theta, over_theta, softplus, more, costs, slopes, slopes_t)
    inflated, least = len(dropout) > 0, F(LEAST_LOGIT)
    if inflated:
        _inflate(dropout, least, weight, costs, slopes, slopes_t, by_dropout, over_p, against)
    _nonzeros(
        column, value, logits, to_log_m, log_theta, shares, of_share, theta, over_theta, table, table_t, of_t, place,
        large, softplus, more, costs, slopes, slopes_t,
    )  # fmt: skip
    if inflated:
        _count_inflated(column, dropout, least, weight, costs, by_dropout, over_p)
    _add_scaled(sum_t, slopes_t, weight)
    # so far by log m; the shares are a softmax of the logits
    _center(slopes, shares, F(_sum(slopes) / total), weight)
    return _sum(costs)


@compiled
def cells_in_range(first, last, part, arrays):
    """What `count_nll` says, of cells `first` to `last`."""
    (
        logits, library, log_theta, dropout, start, column, value,
        cost, by_logits, by_log_t, by_dropout, scratch, exact, place, weight,
    ) = arrays  # fmt: skip
    inflated, each = len(dropout) > 0, len(by_log_t) == len(logits)
    _of_genes(log_theta, scratch[part], exact[part, :3])
    for b in range(first, last):
        own, given = slice(start[b], start[b + 1]), b if inflated else 0
        cost[b] = _of_cell(
            column[own], value[own], logits[b], library[b], log_theta, dropout[given : given + 1].reshape(-1),
            scratch[part], exact[part], place[part], weight,
            by_logits[b], by_log_t[b if each else part], by_dropout[given : given + 1].reshape(-1),
        )  # fmt: skip


@compiled
def rounded_cells_in_range(first, last, part, arrays):
    """The same of logits in bfloat16, given and returned as the 16 bits they are."""
    (
        logits, library, log_theta, dropout, start, column, value,
        cost, by_logits, by_log_t, by_dropout, scratch, exact, place, weight,
    ) = arrays  # fmt: skip
    inflated, each, room = len(dropout) > 0, len(by_log_t) == len(logits), scratch[part]
    wide, slopes = room[-4], room[-3]
    wide_dropout, slopes_dropout = (room[-2], room[-1]) if inflated else (room[-2][:0], room[-1][:0])
    _of_genes(log_theta, room[:-4], exact[part, :3])
    for b in range(first, last):
        own = slice(start[b], start[b + 1])
        widen(logits[b], wide)
        if inflated:
            widen(dropout[b], wide_dropout)
        cost[b] = _of_cell(
            column[own], value[own], wide, library[b], log_theta, wide_dropout,
            room[:-4], exact[part], place[part], weight, slopes, by_log_t[b if each else part], slopes_dropout,
        )  # fmt: skip
        narrow(slopes, by_logits[b])
        if inflated:
            narrow(slopes_dropout, by_dropout[b])


@compiled(parallel=True)
def _cells_in_parallel(n, parts, arrays):
    for part in prange(parts):
        cells_in_range(n * part // parts, n * (part + 1) // parts, int64(part), arrays)


@compiled(parallel=True)
def _rounded_cells_in_parallel(n, parts, arrays):
    for part in prange(parts):
        rounded_cells_in_range(n * part // parts, n * (part + 1) // parts, int64(part), arrays)


def _arrays(matrix: types.Array) -> tuple[types.Type, ...]:
    """Types of what the loops are given, logits and their slopes being of the kind `matrix`."""
    outputs = VECTOR, matrix, MATRIX, matrix
    room = types.float32[:, :, ::1], types.float64[:, :, ::1], types.int64[:, ::1], types.float32
    return matrix, VECTOR, VECTOR, matrix, INDICES, INDICES, VECTOR, *outputs, *room


KERNEL = RangeKernel(cells_in_range, _cells_in_parallel, _arrays(MATRIX))
ROUNDED = RangeKernel(rounded_cells_in_range, _rounded_cells_in_parallel, _arrays(types.int16[:, ::1]))


def count_nll(
    counts: SparseRows,
    logits: Tensor,
    library: Tensor,
    log_theta: Tensor,
    dropout: Tensor | None,
    weight: float,
    summed: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `ops.count_nll`, which has looked at the shapes: compiled loops do not look where they write."""
    n, n_genes = logits.shape
    kernel = ROUNDED if logits.dtype == torch.bfloat16 else KERNEL
    parts = kernel.parts(n, MIN_CELLS_PER_THREAD)
    logits = logits.detach().contiguous()
    dropout = logits[:0] if dropout is None else dropout.detach().to(logits.dtype).contiguous()
    cost, by_logits, by_log_t, by_dropout = outputs = (
        torch.empty(n),
        torch.empty_like(logits),
        torch.zeros(parts if summed else n, n_genes),
        torch.empty_like(dropout),
    )
    inputs = logits, floats(library).view(-1), floats(log_theta.clamp(LEAST_LOG_THETA, MOST_LOG_THETA)), dropout
    stored = indices(counts.start), indices(counts.column), floats(counts.value)
    scratch = (
        np.empty((parts, SHARED + 2 * TABLED + (4 if kernel is ROUNDED else 0), n_genes), F),
        np.empty((parts, 9, n_genes)),
        np.empty((parts, n_genes), np.int64),
    )
    kernel.run(n, parts, (*as_arrays(*inputs, *stored, *outputs), *scratch, F(weight)))
    return cost, by_logits, by_log_t.sum(0, keepdim=True) if summed else by_log_t, by_dropout
