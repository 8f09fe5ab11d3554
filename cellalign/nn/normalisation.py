"""Batch normalisation by the whole batch, also where several processes compute one: torch's does so on CUDA alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cellalign.nn import share
from cellalign.nn.once import once_differentiable
from cellalign.nn.products import WithBias
from cellalign.nn.share import Share


class BatchNorm1d(nn.BatchNorm1d):
    """torch's; of a share of a batch, by the means and variances of all of it."""

    def after(self, layer: WithBias) -> BatchNorm1d:
        """Itself, as what follows this layer, whose bias it makes idle in training."""
        layer.centred_by = (self,)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """x [n, H] -> [n, H]."""
        shared = share.current()
        if shared is None or not self.training:
            return super().forward(x)
        copies = len(x) // shared.size  # of the batch, one after another
        y, mean, variance = _Normalised.apply(x, self.weight, self.bias, self.eps, shared)
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            n = copies * shared.total
            share_of_new = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, share_of_new)
            self.running_var.lerp_(variance * (n / max(1, n - 1)), share_of_new)
        return y


class _Normalised(torch.autograd.Function):
    """Means and sums of squared deviations of each process, put together (Chan et al. 1983); gradients alike."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, shared: Share
    ) -> tuple[Tensor, Tensor, Tensor]:
        copies = len(x) // shared.size
        own = x.mean(0)
        found = shared.stack(torch.cat([own, (x - own).square_().sum(0)]))
        means, squares = found.chunk(2, 1)
        sizes = torch.tensor(shared.sizes, dtype=x.dtype, device=x.device)[:, None] * copies
        n = copies * shared.total
        mean = (sizes * means).sum(0) / n
        variance = (squares.sum(0) + (sizes * (means - mean).square()).sum(0)) / n
        scale = (variance + eps).rsqrt()
        standard = (x - mean).mul_(scale)
        ctx.save_for_backward(standard, weight, scale)
        ctx.shared, ctx.n = shared, n
        ctx.mark_non_differentiable(mean, variance)
        return torch.addcmul(bias, standard, weight), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        standard, weight, scale = ctx.saved_tensors
        by_bias, by_weight = grad.sum(0), (grad * standard).sum(0)
        all_bias, all_weight = ctx.shared.stack(torch.cat([by_bias, by_weight])).sum(0).chunk(2)
        by_x = None
        if ctx.needs_input_grad[0]:
            by_x = (grad - all_bias / ctx.n).addcmul_(standard, all_weight / -ctx.n).mul_(weight * scale)
        return by_x, by_weight, by_bias, None, None
