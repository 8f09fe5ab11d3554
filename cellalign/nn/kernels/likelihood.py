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

from cellalign.nn.kernels import LEAST_LOG_THETA, LEAST_LOGIT, MOST_LOG_THETA, TABLED
from cellalign.nn.kernels.jit import INDICES, MATRIX, VECTOR, D, F, RangeKernel, compiled, floats, indices, inlined
from cellalign.nn.sparse import SparseRows

MIN_CELLS_PER_THREAD = 16  # worth a thread: what is computed per gene takes as long as two
INT = np.int32

# log 2 in two parts, of which whole multiples of the first are exact
LOG2_HIGH = F(0.693359375)
LOG2_LOW, PER_LOG2 = F(math.log(2) - 0.693359375), F(1 / math.log(2))
SQRT_HALF, MANTISSA = INT(F(math.sqrt(0.5)).view(INT)), INT(23)
# exp(r) = sum of r^k / k!, |r| < log(2) / 2; log(m) = 2 artanh(s) = sum of 2 s^k / k over odd k, |s| < 0.172
E2, E3, E4, E5, E6, E7 = (F(1 / math.factorial(k)) for k in range(2, 8))
L3, L5, L7, L9 = (F(2 / k) for k in (3, 5, 7, 9))


@inlined
def _exp(x):
    """Of -87 to 88; cut beyond."""
    x = F(-87) if x < F(-87) else x
    x = F(88) if x > F(88) else x
    n = np.floor(x * PER_LOG2 + F(0.5))
    r = x - n * LOG2_HIGH
    r = r - n * LOG2_LOW
    p = ((((((E7 * r + E6) * r + E5) * r + E4) * r + E3) * r + E2) * r + F(1)) * r + F(1)
    return p * INT((INT(n) + INT(127)) << MANTISSA).view(F)


@inlined
def _log(x):
    """Of normal numbers; NaN of what is NaN or infinite."""
    bits = F(x).view(INT)
    k = INT(bits - SQRT_HALF) >> MANTISSA
    f = INT(bits - INT(k << MANTISSA)).view(F) - F(1)
    s = f / (F(2) + f)
    z = s * s
    p = (((L9 * z + L7) * z + L5) * z + L3) * z + F(2)
    return F(k) * LOG2_HIGH + (p * s + F(k) * LOG2_LOW) + (x - x)


@inlined
def _log1p(x, one_more, over):
    """log(1 + x), given 1 + x and its inverse: of what that rounds away, the first term."""
    return _log(one_more) + (x - (one_more - F(1))) * over


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
        shares[j] = _exp(logits[j] - most)
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
            value[k + 1, j] = value[k, j] + _log(F(k + 1) * share)
            by_log_t[k + 1, j] = by_log_t[k, j] + (F(1) - share)


@compiled
def _gammas(y):
    """Log gamma and digamma of y > 0, in float64: Stirling's series, from 16 on."""
    product, below = 1.0, 0.0
    while 0 < y < 16:
        product *= y
        below += 1 / y
        y += 1
    log_y, z = math.log(y), 1 / (y * y)
    series = (1 / 12 - z * (1 / 360 - z * (1 / 1260 - z / 1680))) / y
    log_gamma = (y - 0.5) * log_y - y + 0.5 * math.log(2 * math.pi) + series - math.log(product)
    digamma = log_y - 0.5 / y - z * (1 / 12 - z * (1 / 120 - z * (1 / 252 - z / 240)))
    return log_gamma, digamma - below


@compiled
def _zeros(shares, library, theta, over_theta, softplus, sigmoid, cost, by_log_m, by_log_t):
    """NB of all genes of a cell as if their counts were zero; softplus and sigmoid are of u = log m - log t."""
    for j in range(len(shares)):
        ratio = shares[j] * library * over_theta[j]  # m / t
        one_more = F(1) + ratio
        over = F(1) / one_more
        softplus[j] = _log1p(ratio, one_more, over)
        sigmoid[j] = ratio * over
    for j in range(len(shares)):
        cost[j] = softplus[j] * theta[j]
        by_log_m[j] = sigmoid[j] * theta[j]
        by_log_t[j] = (softplus[j] - sigmoid[j]) * theta[j]


@compiled
def _nonzeros(
    column, value, logits, to_log_m, log_theta, theta, table, table_t, gammas,
    softplus, sigmoid, cost, by_log_m, by_log_t,
):  # fmt: skip
    """NB of the genes of a cell that have a count, in place of what stands there."""
    for i in range(len(column)):
        j, x = column[i], value[i]
        k = int(x) if 0 <= x < len(table) else 0
        if F(k) == x:
            t, s = theta[j], sigmoid[j]
            cost[j] = (t + x) * softplus[j] - x * F(logits[j] + to_log_m) + table[k, j]
            by_log_m[j] = (t + x) * s - x
            by_log_t[j] = t * (softplus[j] - s) - x * s + table_t[k, j]
        else:
            nll, slope, slope_t = _exact(D(x), logits[j] + to_log_m, D(log_theta[j]), gammas[:, j])
            cost[j], by_log_m[j], by_log_t[j] = F(nll), F(slope), F(slope_t)


@compiled
def _exact(x, log_m, log_t, gammas_t):
    """Of one count, in float64, value and derivatives by log m and log t; log gamma and digamma of t are kept."""
    t, u = math.exp(log_t), log_m - log_t
    if math.isnan(gammas_t[0]):
        gammas_t[0], gammas_t[1] = _gammas(t)
    softplus = math.log1p(math.exp(-abs(u))) + max(u, 0.0)
    sigmoid = math.exp(u - softplus)
    (log_gamma, digamma), (factorial, _) = _gammas(x + t), _gammas(x + 1)
    nll = (t + x) * softplus - x * u - log_gamma + gammas_t[0] + factorial
    return nll, (t + x) * sigmoid - x, t * (softplus - sigmoid + gammas_t[1] - digamma) + x * (1 - sigmoid)


@compiled
def _inflate(logits, least, weight, cost, by_log_m, by_log_t, by_logit, over_p, against):
    """-log(p + (1 - p) NB(0)) with p = sigmoid(h), of zeros whose cost under NB is given; slopes by h are weighted.

    The chance that a zero is a dropout is sigmoid(h - log NB(0)). Several short loops, of which a CPU has more steps
    under way at once than of a long one: two thirds of the time. The last two arguments are room for them.
    """
    for j in range(len(logits)):
        h = least if logits[j] < least else logits[j]
        over_p[j] = F(1) + _exp(-h)
        against[j] = -(h + cost[j])
    for j in range(len(logits)):
        against[j] = _exp(against[j])
    for j in range(len(logits)):
        inflated = F(1) / (F(1) + against[j])
        counted = against[j] * inflated
        cost[j] = over_p[j] * inflated
        by_log_m[j] *= counted
        by_log_t[j] *= counted
        by_logit[j] = weight * (F(1) / over_p[j] - inflated)
    for j in range(len(logits)):
        cost[j] = _log(cost[j])


@compiled
def _count_inflated(column, logits, least, weight, cost, by_logit, over_p):
    """What dropouts add to genes that have a count: -log(1 - p), and its slope by h."""
    for j in column:
        h = least if logits[j] < least else logits[j]
        cost[j] += h + _log(over_p[j])
        by_logit[j] = weight / over_p[j]


@compiled
def cells_in_range(first, last, part, arrays):
    """What `count_nll` says, of cells `first` to `last`."""
    (
        logits, library, log_theta, dropout, start, column, value,
        cost, by_logits, by_log_t, by_dropout, scratch, gammas, weight,
    ) = arrays  # fmt: skip
    inflated, each = len(dropout) > 0, len(by_log_t) == len(logits)
    room, gammas_t = scratch[part], gammas[part]
    theta, over_theta, shares, softplus, sigmoid, costs = room[0], room[1], room[2], room[3], room[4], room[5]
    slopes_t, over_p, against = room[6], room[7], room[8]
    table, table_t = room[9 : 9 + TABLED], room[9 + TABLED :]
    gammas_t[:] = np.nan
    for j in range(len(theta)):
        theta[j], over_theta[j] = _exp(log_theta[j]), _exp(-log_theta[j])
    _tables(over_theta, table, table_t)
    for b in range(first, last):
        own, slopes = slice(start[b], start[b + 1]), by_logits[b]
        most, total = _exponentials(logits[b], shares)
        to_log_m = math.log(D(library[b])) - (most + math.log(total))
        _zeros(shares, F(library[b] / total), theta, over_theta, softplus, sigmoid, costs, slopes, slopes_t)
        if inflated:
            _inflate(
                dropout[b], F(LEAST_LOGIT), weight, costs, slopes, slopes_t, by_dropout[b], over_p, against
            )  # fmt: skip
        _nonzeros(
            column[own], value[own], logits[b], to_log_m, log_theta, theta, table, table_t, gammas_t,
            softplus, sigmoid, costs, slopes, slopes_t,
        )  # fmt: skip
        if inflated:
            _count_inflated(column[own], dropout[b], F(LEAST_LOGIT), weight, costs, by_dropout[b], over_p)
        cost[b] = _sum(costs)
        _add_scaled(by_log_t[b if each else part], slopes_t, weight)
        # so far by log m; the shares are a softmax of the logits
        _center(slopes, shares, F(_sum(slopes) / total), weight)


@compiled(parallel=True)
def _cells_in_parallel(n, parts, arrays):
    for part in prange(parts):
        cells_in_range(n * part // parts, n * (part + 1) // parts, int64(part), arrays)


KERNEL = RangeKernel(
    cells_in_range,
    _cells_in_parallel,
    (
        MATRIX, VECTOR, VECTOR, MATRIX, INDICES, INDICES, VECTOR,
        VECTOR, MATRIX, MATRIX, MATRIX,
        types.float32[:, :, ::1], types.float64[:, :, ::1], types.float32,
    ),
)  # fmt: skip


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
    parts = KERNEL.parts(n, MIN_CELLS_PER_THREAD)
    logits = floats(logits)
    dropout = logits[:0] if dropout is None else floats(dropout)
    cost, by_logits, by_log_t, by_dropout = outputs = (
        logits.new_empty(n),
        torch.empty_like(logits),
        logits.new_zeros(parts if summed else n, n_genes),
        torch.empty_like(dropout),
    )
    inputs = logits, floats(library).view(-1), floats(log_theta.clamp(LEAST_LOG_THETA, MOST_LOG_THETA)), dropout
    stored = indices(counts.start), indices(counts.column), floats(counts.value)
    scratch = np.empty((parts, 9 + 2 * TABLED, n_genes), F), np.empty((parts, 2, n_genes))
    arrays = (values.numpy() for values in (*inputs, *stored, *outputs))
    KERNEL.run(n, parts, (*arrays, *scratch, F(weight)))
    return cost, by_logits, by_log_t.sum(0, keepdim=True) if summed else by_log_t, by_dropout
