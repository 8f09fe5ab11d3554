"""The likelihood of `counts` and its gradient in one pass over each cell: compiled, for CPUs, in float32.

In torch's operations a batch of values passes through memory some thirty times; here the genes of a cell stay in the
cache. The loops over genes contain no branch and no call of a library, or they would not become vector instructions:
hence exp and log of our own, correct to about an ulp.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import carray
from torch import Tensor

from cellalign.nn.kernels import D, F, compiled, finding, inlined, reducing, task
from cellalign.nn.kernels.team import at, carry_out, done, floats, indices, next_part, order_of, parts_of
from cellalign.nn.sparse import SparseRows

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
def _log1p(x, one_more):
    """log(1 + x), given 1 + x: of what that rounds away, the first term."""
    return _log(one_more) + (x - (one_more - F(1))) / one_more


@reducing
def _sum(values):
    total = 0.0
    for j in range(len(values)):
        total += values[j]
    return total


@finding
def _most(values):
    most = values[0]
    for j in range(len(values)):
        most = values[j] if values[j] > most else most
    return most


@compiled
def _add(values, weight, to, weight_to):
    """values * weight + to * weight_to, in place of `to`, which is another array."""
    for j in range(len(values)):
        to[j] = values[j] * weight + to[j] * weight_to


@compiled
def _shares(logits, rho):
    """Softmax of the logits, and the log of what it divided their exponentials by."""
    most = _most(logits)
    for j in range(len(logits)):
        rho[j] = _exp(logits[j] - most)
    total = _sum(rho)
    share = F(1 / total)
    for j in range(len(rho)):
        rho[j] *= share
    return most + math.log(total)


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
def _zeros(rho, library, theta, over_theta, softplus, sigmoid, cost, by_log_m, by_log_t):
    """NB of all genes of a cell as if their counts were zero; softplus and sigmoid are of u = log m - log t."""
    for j in range(len(rho)):
        ratio = rho[j] * library * over_theta[j]  # m / t
        softplus[j] = _log1p(ratio, F(1) + ratio)
        sigmoid[j] = ratio / (F(1) + ratio)
    for j in range(len(rho)):
        cost[j] = softplus[j] * theta[j]
        by_log_m[j] = sigmoid[j] * theta[j]
        by_log_t[j] = (softplus[j] - sigmoid[j]) * theta[j]


@compiled
def _nonzeros(
    column, value, logits, to_log_m, log_theta, theta, tables, gammas, softplus, sigmoid, cost, by_log_m, by_log_t
):
    """NB of the genes of a cell that have a count, in place of what stands there."""
    for i in range(len(column)):
        j, x = column[i], value[i]
        k = int(x) if 0 <= x < tables.shape[1] else 0
        if F(k) == x:
            t, s = theta[j], sigmoid[j]
            cost[j] = (t + x) * softplus[j] - x * F(logits[j] + to_log_m) + tables[0, k, j]
            by_log_m[j] = (t + x) * s - x
            by_log_t[j] = t * (softplus[j] - s) - x * s + tables[1, k, j]
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
def _inflate(
    logits, least, weight, cost, by_log_m, by_log_t, by_logit, counted_cost, counted_by_logit, over_p, against
):  # fmt: skip
    """-log(p + (1 - p) NB(0)) with p = sigmoid(h), of zeros whose cost under NB is given; of counts -log(1 - p).

    The chance that a zero is a dropout is sigmoid(h - log NB(0)). Derivatives by the logits are weighted. Several
    short loops, of which a CPU has more steps under way at once than of a long one: two thirds of the time. The last
    two arguments are room for them.
    """
    for j in range(len(logits)):
        h = least if logits[j] < least else logits[j]
        over_p[j] = F(1) + _exp(-h)
        against[j] = -(h + cost[j])
    for j in range(len(logits)):
        against[j] = _exp(against[j])
    for j in range(len(logits)):
        h = least if logits[j] < least else logits[j]
        counted_cost[j] = h + _log(over_p[j])
    for j in range(len(logits)):
        inflated = F(1) / (F(1) + against[j])
        counted = against[j] * inflated
        cost[j] = over_p[j] * inflated
        by_log_m[j] *= counted
        by_log_t[j] *= counted
        p = F(1) / over_p[j]
        counted_by_logit[j] = weight * p
        by_logit[j] = weight * (p - inflated)
    for j in range(len(logits)):
        cost[j] = _log(cost[j])


@compiled
def _cells(
    logits, library, log_theta, dropout, least_logit, tabled, start, column, value, weight,
    cost, by_logits, by_log_t, by_dropout,
):  # fmt: skip
    """What `likelihood` says, of some cells; by_log_t [G] is filled too."""
    n_genes = len(log_theta)
    theta, over_theta = np.empty(n_genes, F), np.empty(n_genes, F)
    for j in range(n_genes):
        theta[j], over_theta[j] = _exp(log_theta[j]), _exp(-log_theta[j])
    tables, gammas = np.empty((2, tabled, n_genes), F), np.full((2, n_genes), np.nan)
    _tables(over_theta, tables[0], tables[1])
    rho, softplus, sigmoid = np.empty(n_genes, F), np.empty(n_genes, F), np.empty(n_genes, F)
    costs, slopes_t = np.empty(n_genes, F), np.empty(n_genes, F)
    counted_cost, counted_by_dropout = np.empty(n_genes, F), np.empty(n_genes, F)
    over_p, against = np.empty(n_genes, F), np.empty(n_genes, F)
    by_log_t[:] = F(0)
    for b in range(len(logits)):
        own = slice(start[b], start[b + 1])
        slopes, w = by_logits[b], weight[b]
        to_log_m = math.log(D(library[b])) - _shares(logits[b], rho)
        _zeros(rho, library[b], theta, over_theta, softplus, sigmoid, costs, slopes, slopes_t)
        if len(dropout):
            _inflate(
                dropout[b], least_logit, w, costs, slopes, slopes_t, by_dropout[b],
                counted_cost, counted_by_dropout, over_p, against,
            )  # fmt: skip
        _nonzeros(
            column[own], value[own], logits[b], to_log_m, log_theta, theta, tables, gammas,
            softplus, sigmoid, costs, slopes, slopes_t,
        )  # fmt: skip
        if len(dropout):
            for j in column[own]:
                costs[j] += counted_cost[j]
                by_dropout[b, j] = counted_by_dropout[j]
        cost[b] = _sum(costs)
        _add(slopes_t, w, by_log_t, F(1))
        # so far by log m; rho is a softmax of the logits
        _add(rho, -F(_sum(slopes)) * w, slopes, w)


ORDER = order_of(
    "next", "done", "parts", "n_cells", "n_genes", "n_stored", "tabled", "start", "column", "value",
    "logits", "library", "log_theta", "has_dropout", "dropout", "least_logit", "weight",
    "cost", "by_logits", "by_log_t", "by_dropout",
)  # fmt: skip


@task
def _task(address):
    order = carray(address, 1, ORDER)[0]
    n, n_genes, inflated = order.n_cells, order.n_genes, order.n_cells * order.has_dropout
    start, column = carray(at(order.start), n + 1, np.int64), carray(at(order.column), order.n_stored, np.int64)
    value, log_theta = carray(at(order.value), order.n_stored, F), carray(at(order.log_theta), n_genes, F)
    library, weight = carray(at(order.library), n, F), carray(at(order.weight), n, F)
    logits, dropout = carray(at(order.logits), (n, n_genes), F), carray(at(order.dropout), (inflated, n_genes), F)
    cost, by_log_t = carray(at(order.cost), n, F), carray(at(order.by_log_t), (order.parts, n_genes), F)
    by_logits = carray(at(order.by_logits), (n, n_genes), F)
    by_dropout = carray(at(order.by_dropout), (inflated, n_genes), F)
    part = next_part(address)
    while part < order.parts:
        first, last = n * part // order.parts, n * (part + 1) // order.parts
        _cells(
            logits[first:last], library[first:last], log_theta, dropout[first:last], F(order.least_logit), order.tabled,
            start[first : last + 1], column, value, weight[first:last],
            cost[first:last], by_logits[first:last], by_log_t[part], by_dropout[first:last],
        )  # fmt: skip
        done(address)
        part = next_part(address)


def likelihood(
    counts: SparseRows,
    logits: Tensor,
    library: Tensor,
    log_theta: Tensor,
    dropout: Tensor | None,
    weight: Tensor,
    *,
    least_logit: int,
    tabled: int,
    least_cells: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Negative log-likelihood of each cell, and the derivatives of its weighted sum.

    Parameters
    ----------
    counts : SparseRows [B, G]
    logits, dropout : Tensor [B, G]
        Dropout logits are None for the NB.
    library : Tensor [B, 1]
    log_theta : Tensor [G]
    weight : Tensor [B]
    least_logit : int
        Dropout logits below count as this.
    tabled : int
        Counts below are looked up.
    least_cells : int
        That are worth a thread.

    Returns
    -------
    Tensor [B]
        weight @ it is what the others are derivatives of:
    Tensor [B, G], Tensor [G], Tensor [B, G] or None
        by logits, log theta and dropout logits.

    Raises
    ------
    ValueError
        If a shape is another: compiled loops do not look where they write.
    """
    n, n_genes = len(counts), counts.n_columns
    expected = ((n, n_genes), (n, 1), (n_genes,), (n, n_genes), (n,))
    given = (logits, library, log_theta, logits if dropout is None else dropout, weight)
    if tuple(tuple(values.shape) for values in given) != expected:
        raise ValueError(f"logits, library, log theta, dropout logits and weight must be {expected}")
    parts = parts_of(n, least_cells)
    logits, library, log_theta, dropout_or_not, weight = (floats(values) for values in given)
    cost, by_log_t = logits.new_empty(n), logits.new_empty(parts, n_genes)
    by_logits, by_dropout = torch.empty_like(logits), None if dropout is None else torch.empty_like(logits)
    carry_out(
        _task,
        ORDER,
        parts,
        n_cells=n,
        n_genes=n_genes,
        n_stored=len(counts.value),
        tabled=tabled,
        start=indices(counts.start),
        column=indices(counts.column),
        value=floats(counts.value),
        logits=logits,
        library=library,
        log_theta=log_theta,
        has_dropout=int(by_dropout is not None),
        dropout=dropout_or_not,
        least_logit=least_logit,
        weight=weight,
        cost=cost,
        by_logits=by_logits,
        by_log_t=by_log_t,
        by_dropout=by_logits if by_dropout is None else by_dropout,
    )
    return cost, by_logits, by_log_t.sum(0), by_dropout
