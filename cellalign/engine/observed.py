"""One pass over the trained cells for what a model keeps of them (`methods.observed`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cellalign.data.loader import Cells
from cellalign.methods.base import Method
from cellalign.methods.condition_means import ConditionMeans
from cellalign.methods.observed import observe

TOGETHER = 1024  # cells


@torch.no_grad()
def observe_cells(
    method: Method, cells: Cells, rows_of_each: Sequence[Tensor], before: ConditionMeans | None = None
) -> None:
    """Keep means of the cells trained and validated on, where the method keeps any, beside those of `before`."""
    if method.observed is not None:
        here = cells.to(method.observed.means.device)
        rows = torch.cat(tuple(rows_of_each)).sort().values.split(TOGETHER)
        observe(method, lambda: here.batches(rows), before)
