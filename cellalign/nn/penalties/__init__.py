"""Alignment penalties on the latent space (or a hidden layer) of a mini-batch.

Each stands twice. On CPUs it is computed by blocks of rows that stay in a core's cache, its gradient in closed form in
the same pass; on other devices as operations on tensors of all pairs [B, B], which is also what the tests hold the
first against.
"""

from cellalign.nn.penalties.dependence import gaussian_total_correlation, total_correlation
from cellalign.nn.penalties.discrepancy import MULTI_SCALE, mmd, weight_of_mmd
from cellalign.nn.penalties.mixtures import misalignment

__all__ = ["MULTI_SCALE", "gaussian_total_correlation", "misalignment", "mmd", "total_correlation", "weight_of_mmd"]
