"""Which genes a latent moves, and which genes move it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cellalign.data.loader import Cells
from cellalign.engine.predict import check_finite
from cellalign.methods.autoencoder import Autoencoder
from cellalign.methods.base import Method, Minibatch


@torch.inference_mode()
def latent_effects(method: Autoencoder, cells: Cells, rows: np.ndarray, *, device: torch.device) -> np.ndarray:
    """Change of each gene's decoded log expression per unit of each latent, float32 [p, G], mean over some cells.

    Half the difference between a latent one above and one below a cell's posterior mean. Decoded counts are compared
    as log(1 + counts per 10,000).
    """
    method = method.to(device).eval()
    counts = method.reads(method.hp) == "counts"

    def decoded(z: Tensor, batch: Minibatch) -> Tensor:
        mean = method.decode(z, batch).distribution.mean
        return (1e4 * mean / mean.sum(-1, keepdim=True)).log1p() if counts else mean

    total = torch.zeros(method.n_latent, method.layout.n_genes, device=device)
    for part in torch.from_numpy(rows).split(1024):
        batch = cells.batch(part).to(device)
        z = method.encode(batch).mean
        for i, step in enumerate(torch.eye(method.n_latent, device=device)):
            total[i] += (decoded(z + step, batch) - decoded(z - step, batch)).sum(0) / 2
    effect = (total / len(rows)).float().cpu().numpy()
    check_finite(effect, "decodes")
    return effect


def integrated_gradients(
    method: Method,
    cells: Cells,
    rows: np.ndarray,
    reference: np.ndarray,
    *,
    device: torch.device,
    steps: int = 32,
    batch_size: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
    """Which genes move each latent (Sundararajan et al. 2017).

    Along the line from the mean reference cell to a cell, in log expression, the gradient of each latent with
    respect to each gene is averaged (midpoint rule) and multiplied by the gene's change.

    Parameters
    ----------
    rows, reference : int arrays
        Cells to attribute, and cells whose mean is the start.

    Returns
    -------
    importance : float32 array [p, G]
        Mean absolute attribution.
    sign : float32 array [p, G]
        1 where the latent rises with the gene, -1 where it falls.
    """
    method = method.to(device).eval()
    counts = method.reads(method.hp) == "counts"
    start = torch.zeros(method.layout.n_genes, device=device)
    for part in torch.from_numpy(reference).split(4096):
        x = cells.batch(part).to(device).x
        start += (x.log1p() if counts else x).sum(0) / len(reference)
    importance = slope = torch.zeros(0)
    for part in torch.from_numpy(rows).split(batch_size):
        batch = cells.batch(part).to(device)
        change = (batch.x.log1p() if counts else batch.x) - start
        gradient: Tensor | None = None
        for step in range(steps):
            point = (start + (step + 0.5) / steps * change).requires_grad_()
            z = method.embedding(replace(batch, expression=point.expm1() if counts else point))
            each = [torch.autograd.grad(z[:, i].sum(), point, retain_graph=True)[0] for i in range(z.shape[1])]
            total = torch.stack(each) / steps
            gradient = total if gradient is None else gradient + total
        assert gradient is not None
        if not len(importance):
            importance, slope = torch.zeros_like(gradient[:, 0]), torch.zeros_like(gradient[:, 0])
        importance += (gradient * change).abs().sum(1) / len(rows)
        slope += gradient.sum(1)
    return importance.cpu().numpy(), slope.sign().cpu().numpy()
