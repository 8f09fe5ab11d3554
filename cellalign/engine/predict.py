"""Embedding and counterfactual prediction in batches, for any method."""

from __future__ import annotations

import numpy as np
import torch

from cellalign.data.batches import Cells
from cellalign.methods.base import Method


@torch.inference_mode()
def embed(method: Method, cells: Cells, *, device: torch.device, batch_size: int = 4096) -> np.ndarray:
    """Posterior means [n, p], float32, in the order of the cells."""
    method = method.to(device).eval()
    parts = [method.embedding(b).float().cpu().numpy() for b in cells.in_order(batch_size, device)]
    return np.concatenate(parts)


@torch.inference_mode()
def counterfactual(
    method: Method,
    cells: Cells,
    to: int,
    *,
    device: torch.device,
    n_samples: int = 0,
    seed: int = 0,
    batch_size: int = 4096,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Predicted expression [n, G] under condition `to`, and with samples its standard deviation."""
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
