"""The one structure a mini-batch of cells travels in: built once by `data`, moved once, never re-derived."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """A mini-batch of B cells.

    Attributes
    ----------
    x : Tensor [B, G]
        Expression on the scale the method reads (log1p-normalised, or raw counts).
    condition : Tensor [B], int64
        Codes of the condition; all zero where a method takes none.
    batches : Tensor [B, n_batch_keys], int64
        Codes of the technical covariates.
    covariates : Tensor [B, n_covariate_keys], int64
        Codes of the biological covariates.
    label : Tensor [B], int64
        Codes of the cell type, -1 where there is none.
    """

    x: Tensor
    condition: Tensor
    batches: Tensor
    covariates: Tensor
    label: Tensor

    def __len__(self) -> int:
        return self.x.shape[0]

    @property
    def library_size(self) -> Tensor:
        """Sum of `x` per cell, [B, 1]: counts for count methods."""
        return self.x.sum(1, keepdim=True)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(*(getattr(self, f.name).to(device) for f in fields(self)))

    def with_condition(self, code: int) -> Batch:
        """The same cells under another condition (the action of a counterfactual)."""
        return replace(self, condition=self.condition.new_full(self.condition.shape, code))
