"""Embedding, counterfactuals, likelihoods and attributions in batches, for any method."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cellalign.data.batches import Cells
from cellalign.methods.base import Method, Target


@torch.inference_mode()
def embed(method: Method, cells: Cells, *, device: torch.device, batch_size: int = 4096) -> np.ndarray:
    """Posterior means [n, p], float32, in the order of the cells."""
    return embeddings(method, cells, device=device, batch_size=batch_size)[""]


@torch.inference_mode()
def embeddings(method: Method, cells: Cells, *, device: torch.device, batch_size: int = 4096) -> dict[str, np.ndarray]:
    """All that the method embeds, [n, p] each, by suffix (see `Method.embeddings`), in the order of the cells."""
    method = method.to(device).eval()
    parts = [method.embeddings(b) for b in cells.in_order(batch_size, device)]
    return {key: torch.cat([part[key] for part in parts]).float().cpu().numpy() for key in parts[0]}


@torch.inference_mode()
def label_probability(method: Method, z: np.ndarray, *, device: torch.device) -> np.ndarray:
    """Probability of each label at embeddings [n, p], float32 [n, labels]."""
    return method.to(device).eval().label_probability(torch.from_numpy(z).to(device)).float().cpu().numpy()


@torch.inference_mode()
def posterior(
    method: Method, cells: Cells, *, device: torch.device, batch_size: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means and standard deviations [n, p], float32, in the order of the cells."""
    method = method.to(device).eval()
    latents = [method.encode(b) for b in cells.in_order(batch_size, device)]
    mean = torch.cat([latent.mean for latent in latents])
    scale = torch.cat([latent.scale.expand_as(latent.mean) for latent in latents])
    return mean.float().cpu().numpy(), scale.float().cpu().numpy()


@torch.inference_mode()
def counterfactual(
    method: Method,
    cells: Cells,
    to: Target,
    *,
    device: torch.device,
    n_samples: int = 0,
    seed: int = 0,
    batch_size: int = 4096,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Predicted expression [n, G] under `to`, and with samples its standard deviation."""
    method = method.to(device).eval()
    torch.manual_seed(seed)
    mean = np.empty((len(cells), method.dimensions.genes), dtype=np.float32)
    std = np.empty_like(mean) if n_samples else None
    start = 0
    for batch in cells.in_order(batch_size, device):
        stop = start + len(batch)
        predicted, spread = method.counterfactual(batch, to, n_samples)
        mean[start:stop] = predicted.float().cpu().numpy()
        if std is not None and spread is not None:
            std[start:stop] = spread.float().cpu().numpy()
        start = stop
    return mean, std


@torch.inference_mode()
def inferred_condition(method: Method, cells: Cells, *, device: torch.device, batch_size: int = 4096) -> np.ndarray:
    """Probability of each condition for every cell, float32 [n, conditions]."""
    method = method.to(device).eval()
    return np.concatenate(
        [method.inferred_condition(b).float().cpu().numpy() for b in cells.in_order(batch_size, device)]
    )


@torch.inference_mode()
def nelbo(method: Method, cells: Cells, *, device: torch.device, seed: int = 0, batch_size: int = 4096) -> np.ndarray:
    """Negative ELBO [n] of every cell with one posterior draw."""
    method = method.to(device).eval()
    torch.manual_seed(seed)
    return np.concatenate([method.nelbo(b).float().cpu().numpy() for b in cells.in_order(batch_size, device)])


@torch.inference_mode()
def importance_weighted_nll(
    method: Method, cells: Cells, particles: int, *, device: torch.device, seed: int = 0, batch_size: int = 256
) -> np.ndarray:
    """Negative importance-weighted ELBO [n] of every cell; the method bounds what it decodes at once."""
    method = method.to(device).eval()
    torch.manual_seed(seed)
    parts = [method.importance_weighted_nll(b, particles) for b in cells.in_order(batch_size, device)]
    return np.concatenate([part.float().cpu().numpy() for part in parts])


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
    start = torch.zeros(method.dimensions.genes, device=device)
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
