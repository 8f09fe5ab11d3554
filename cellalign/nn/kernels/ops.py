"""The operations, registered with torch as `cellalign::...`: `torch.compile` traces them, a GPU kernel can join them.

Each has a form of tensor operations, for any device and precision, and a compiled one for float32 (and logits in
bfloat16) on CPUs. Where numba cannot compile, or CELLALIGN_COMPILED=0 turns compiled loops off, the first runs on CPUs
too.
"""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cellalign.nn.kernels import tensors
from cellalign.nn.kernels.operation import Operation
from cellalign.nn.once import once_differentiable
from cellalign.nn.sparse import SparseRows

log = logging.getLogger("cellalign")

# Compiled loops on one thread beat tensor operations on so many (2.5 beside 6.3 ms on two; extrapolated).
THREADS_A_LOOP = 4


@cache
def unavailable() -> str:
    """Why compiled loops do not run here; empty where they do."""
    setting = os.environ.get("CELLALIGN_COMPILED", "")
    if setting.strip().lower() in ("0", "false", "no"):
        return f"CELLALIGN_COMPILED={setting}"
    try:
        import numba  # half a second

        if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
            return "NUMBA_DISABLE_JIT is set"
        from cellalign.nn.kernels import likelihood, product, residuals, rows

        both = likelihood.KERNEL, likelihood.ROUNDED, residuals.KERNEL, residuals.ROUNDED
        kernels = *both, product.KERNEL, *rows.KERNELS.values()
        if not all(kernel.ready for kernel in kernels):
            return "not compiled"
    except Exception as error:  # whatever it is, there is another way
        log.warning("numba cannot compile here, so training is slower: %s", error)
        return f"numba cannot compile here: {error}"
    return ""


def compiled_loops() -> str:
    """Which form of the operations runs on CPUs, and why; begins with "compiled" or "tensor operations"."""
    reason = unavailable()
    if reason:
        return f"tensor operations ({reason})"
    import numba

    from cellalign.nn.kernels import likelihood

    threads = likelihood.KERNEL.threads()
    return f"compiled (numba {numba.__version__}, {threads} thread{'s' if threads > 1 else ''})"


@cache
def _log_once(form: str) -> None:
    log.debug("likelihood and sparse products: %s", compiled_loops() if form == "compiled" else form)


def _direct(values: Tensor) -> bool:
    """Whether a CPU's form may be called past torch's dispatcher, a hundredth of a small step; a tracer needs that."""
    return type(values) is Tensor and values.device.type == "cpu" and not torch.compiler.is_compiling()


# Likelihood

_NLL = Operation(
    "count_nll",
    lambda *arguments: _nll_by_tensors(*arguments),
    schema="(Tensor start, Tensor column, Tensor value, Tensor logits, Tensor library, Tensor log_theta, "
    "Tensor? dropout, float weight, bool gradient, bool summed) -> (Tensor, Tensor, Tensor, Tensor)",
)


def count_nll(
    counts: SparseRows, logits: Tensor, library: Tensor, log_theta: Tensor, dropout: Tensor | None = None
) -> Tensor:
    """Negative log-likelihood of each cell under an NB, or with dropout logits under a ZINB.

    The operation `cellalign::count_nll` computes value and gradient at once. It returns the cost [B] and, multiplied by
    `weight`, its derivatives by logits, log theta and dropout logits, cell by cell: [B, G] each, or [0, G] where there
    are no dropout logits or no `gradient` is asked for; `summed`, those by log theta are added up over cells, [1, G].
    On a CPU the weight is that of a cell in the mean: training asks for that one, and nothing is left to do backwards.

    Parameters
    ----------
    counts : SparseRows [B, G]
    logits, dropout : Tensor [B, G]
    library : Tensor [B, 1]
    log_theta : Tensor [G]

    Returns
    -------
    Tensor [B]

    Raises
    ------
    ValueError
        If a shape is another: compiled loops do not look where they read.
    """
    n, n_genes = shape = len(counts), counts.n_columns
    expected = (shape, (n, 1), (n_genes,), shape)
    given = (logits, library, log_theta, logits if dropout is None else dropout)
    if tuple(tuple(values.shape) for values in given) != expected:
        raise ValueError(f"logits, library, log theta and dropout logits must be {expected}")
    gradient = torch.is_grad_enabled() and any(values.requires_grad for values in given)
    weight = share(n) if logits.device.type == "cpu" else 1.0
    stored = counts.start, counts.column, counts.value
    inputs = (*stored, logits, library, log_theta, dropout, weight, gradient)
    if not gradient or torch.compiler.is_compiling():
        return _NLL(*inputs, False)[0]
    return _Likelihood.apply(*inputs)


def share(n: int) -> float:
    """The weight of one of n cells in their mean, to the bit."""
    return float(np.float32(1) / np.float32(max(1, n)))


def _nll_by_tensors(
    start: Tensor, column: Tensor, value: Tensor, logits: Tensor, library: Tensor, log_theta: Tensor,
    dropout: Tensor | None, weight: float, gradient: bool, summed: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    _log_once(f"tensor operations on {logits.device.type}")
    counts = SparseRows(start, column, value, logits.shape[1])
    return _by_tensors(counts, logits, library, log_theta, dropout, weight, gradient, summed)


def _by_tensors(
    counts: SparseRows, logits: Tensor, library: Tensor, log_theta: Tensor, dropout: Tensor | None, weight: float,
    gradient: bool, summed: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Logits in bfloat16 are computed with in float32, and their derivatives rounded again."""
    given = logits.dtype
    if given == torch.bfloat16:
        logits, dropout = logits.float(), None if dropout is None else dropout.float()
    found = tensors.count_nll(counts, logits, library, log_theta, dropout, weight, gradient)
    cost, by_logits, by_log_t, by_dropout = found
    by_log_t = by_log_t.sum(0, keepdim=True) if summed and gradient else by_log_t
    return cost, by_logits.to(given), by_log_t, by_dropout.to(given)


@_NLL.register_kernel("cpu")
def _nll_on_cpu(
    start: Tensor, column: Tensor, value: Tensor, logits: Tensor, library: Tensor, log_theta: Tensor,
    dropout: Tensor | None, weight: float, gradient: bool, summed: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    counts, given = SparseRows(start, column, value, logits.shape[1]), (logits, library, log_theta, dropout, weight)
    reason = prefers_tensors(counts, logits)
    _log_once(f"tensor operations ({reason})" if reason else "compiled")
    if reason:
        return _by_tensors(counts, *given, gradient, summed)
    from cellalign.nn.kernels import likelihood

    found = likelihood.count_nll(counts, *given, summed)
    return found if gradient else (found[0], *(values.new_empty(0, logits.shape[1]) for values in found[1:]))


def prefers_tensors(counts: SparseRows, logits: Tensor) -> str:
    """Why tensor operations compute the likelihood on a CPU; empty where compiled loops run and are faster."""
    if logits.dtype not in (torch.float32, torch.bfloat16):
        return f"of {logits.dtype}"
    if unavailable():
        return unavailable()
    from cellalign.nn.kernels import likelihood

    threads = likelihood.KERNEL.parts(len(counts), likelihood.MIN_CELLS_PER_THREAD)
    if torch.get_num_threads() > THREADS_A_LOOP * threads:
        return f"on {torch.get_num_threads()} threads, of which loops could use {threads}"
    return ""


@_NLL.register_fake
def _nll_shapes(
    start: Tensor, column: Tensor, value: Tensor, logits: Tensor, library: Tensor, log_theta: Tensor,
    dropout: Tensor | None, weight: float, gradient: bool, summed: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    none, dense = (0, logits.shape[1]), tuple(logits.shape) if gradient else (0, logits.shape[1])
    by_log_t = (1, logits.shape[1]) if summed and gradient else dense
    wide = torch.float32 if logits.dtype == torch.bfloat16 else logits.dtype
    return (
        logits.new_empty(logits.shape[0], dtype=wide),
        logits.new_empty(dense),
        logits.new_empty(by_log_t, dtype=wide),
        logits.new_empty(none if dropout is None else dense),
    )


def _keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:])
    ctx.weight, ctx.inflated = inputs[7], inputs[6] is not None


@once_differentiable
def _nll_backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 10
    return *_weighted(ctx.saved_tensors, grad / ctx.weight, ctx.inflated), None, None, None


def _weighted(gradient: tuple[Tensor, ...], scale: Tensor, inflated: bool) -> tuple[Tensor | None, ...]:
    """The gradient by all tensor inputs, of each cell by so much."""
    by_logits, by_log_t, by_dropout = gradient
    scale = scale.to(by_log_t.dtype)
    of_each = scale[:, None].to(by_logits.dtype)
    return None, None, None, by_logits * of_each, None, scale @ by_log_t, by_dropout * of_each if inflated else None


_NLL.register_autograd(_nll_backward, setup_context=_keep_gradient)


class _Likelihood(torch.autograd.Function):
    """The same with less around the loops, where nothing is traced (benchmarks/README.md)."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        # a GPU would wait for the answer whether all cells weigh the same
        ctx.summed = inputs[3].device.type == "cpu"
        cost, *gradient = (_nll_on_cpu if _direct(inputs[3]) else _NLL)(*inputs, ctx.summed)
        ctx.weight, ctx.inflated = inputs[7], inputs[6] is not None
        ctx.save_for_backward(*gradient, *(inputs[:7] if ctx.summed else ()))
        return cost

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        by_logits, by_log_t, by_dropout = gradient = ctx.saved_tensors[:3]
        if not ctx.summed:
            return *_weighted(gradient, grad / ctx.weight, ctx.inflated), None, None
        # a tracer has no answer
        if type(grad) is Tensor and bool((grad == grad[:1]).all()):
            scale = float(grad[0]) / ctx.weight if len(grad) else 1.0
            if scale != 1:
                by_logits, by_log_t, by_dropout = (values * scale for values in gradient)
            return None, None, None, by_logits, None, by_log_t[0], by_dropout if ctx.inflated else None, None, None
        # rarely: what was added up over the cells has to be made anew
        _, *anew = _NLL(*ctx.saved_tensors[3:], 1.0, True, False)
        return *_weighted(tuple(anew), grad, ctx.inflated), None, None


# Product

_PRODUCT = Operation(
    "transposed_product",
    lambda *arguments: _product_by_tensors(*arguments),
    schema="(Tensor start, Tensor column, Tensor value, Tensor grad, SymInt n_columns) -> Tensor",
)


def transposed_product(x: SparseRows, grad: Tensor) -> Tensor:
    """x^T grad, of x [B, G] and grad [B, m]: the gradient of a product of x with a matrix [G, m].

    Raises
    ------
    ValueError
        If grad has not a row for each of x: compiled loops do not look where they read.
    """
    if len(grad) != len(x):
        raise ValueError(f"grad must have {len(x)} rows, not {len(grad)}")
    return (_product_on_cpu if _direct(grad) else _PRODUCT)(x.start, x.column, x.value, grad, x.n_columns)


def _product_by_tensors(start: Tensor, column: Tensor, value: Tensor, grad: Tensor, n_columns: int) -> Tensor:
    return SparseRows(start, column, value, n_columns).dense().T @ grad


@_PRODUCT.register_kernel("cpu")
def _product_on_cpu(start: Tensor, column: Tensor, value: Tensor, grad: Tensor, n_columns: int) -> Tensor:
    if grad.dtype != torch.float32 or unavailable():
        return _product_by_tensors(start, column, value, grad, n_columns)
    from cellalign.nn.kernels import product

    return product.transposed_product(SparseRows(start, column, value, n_columns), grad)


@_PRODUCT.register_fake
def _product_shape(start: Tensor, column: Tensor, value: Tensor, grad: Tensor, n_columns: int) -> Tensor:
    return grad.new_empty(n_columns, grad.shape[1])


def _keep_rows(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.n_columns = inputs[4]


def _product_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    start, column, value = ctx.saved_tensors
    return None, None, None, SparseRows(start, column, value, ctx.n_columns).times(grad), None


_PRODUCT.register_autograd(_product_backward, setup_context=_keep_rows)


# Rows


def rows_of(indptr: Tensor, indices: Tensor, values: Tensor, rows: Tensor, n_columns: int) -> SparseRows:
    """The given rows of a CSR matrix as they are stored, float32; indices may be int32 or int64.

    Raises
    ------
    IndexError
        A row is not there.
    """
    if values.device.type == "cpu" and values.dtype == torch.float32 and not unavailable():
        from cellalign.nn.kernels import rows as kernel

        return kernel.cut(indptr, indices, values, rows, n_columns)
    first = indptr[rows]
    start = torch.zeros(len(rows) + 1, dtype=torch.int64, device=rows.device)
    torch.cumsum(indptr[rows + 1] - first, 0, out=start[1:])
    n = int(start[-1])
    # place of every stored value: its row's start in the matrix plus its rank within the row
    stored = torch.repeat_interleave(first - start[:-1], start.diff(), output_size=n)
    stored += torch.arange(n, device=rows.device)
    return SparseRows(start, indices[stored].long(), values[stored].float(), n_columns)


# Residuals


def squared_error(x: SparseRows, mean: Tensor) -> Tensor:
    """Squared distance of each cell [B, G] to its mean [B, G], summed over genes: float32 [B].

    The mean may be in bfloat16, and its gradient then is.

    Raises
    ------
    ValueError
        If the mean has another shape: compiled loops do not look where they write.
    """
    if tuple(mean.shape) != (len(x), x.n_columns):
        raise ValueError(f"mean must be {(len(x), x.n_columns)}, not {tuple(mean.shape)}")
    return _SquaredError.apply(x.start, x.column, x.value, mean)


def has_compiled_squared_error(mean: Tensor) -> bool:
    """Whether it is there for this mean: on CPUs, while nothing is traced."""
    fit = mean.dim() == 2 and mean.dtype in (torch.float32, torch.bfloat16)
    return fit and _direct(mean) and not unavailable()


class _SquaredError(torch.autograd.Function):
    """The residuals are made once, for the value and for the gradient."""

    @staticmethod
    def forward(ctx: Any, start: Tensor, column: Tensor, value: Tensor, mean: Tensor) -> Tensor:
        from cellalign.nn.kernels import residuals

        residual, squared = residuals.residuals(SparseRows(start, column, value, mean.shape[1]), mean)
        ctx.save_for_backward(start, column, value, mean, residual)
        return squared

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        start, column, value, mean, residual = ctx.saved_tensors
        if torch.is_grad_enabled():  # this gradient is to have a gradient
            residual = mean - SparseRows(start, column, value, mean.shape[1]).dense()
        return None, None, None, residual * (2 * grad).to(residual.dtype)[:, None]
