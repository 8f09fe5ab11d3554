"""How a device comes by its cells: their matrix lies on it where it fits, or batches are brought to it, one by one.

What is brought comes from pinned memory, so that the CPU reads the next batch while the device still computes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from cellalign import memory
from cellalign.data.loader import Cells
from cellalign.data.source import CSR, Dense, Part
from cellalign.nn.minibatch import Minibatch

log = logging.getLogger("cellalign")
FOR_CELLS = 0.5  # of a GPU's free memory at the most; networks and batches need the rest


def placed(cells: Cells, device: torch.device, room: int | None = None) -> Cells:
    """The cells on the device, or where they are if their matrix takes more than `room` bytes there.

    Parameters
    ----------
    room : int, optional
        By default half of a GPU's free memory; of other devices all there may be.
    """
    if room is None and device.type == "cuda":
        room = int(FOR_CELLS * torch.cuda.mem_get_info(device)[0])
    taken = bytes_of(cells.matrix)
    if room is None or taken is None or taken <= room:
        return cells.to(device)
    log.info("the cells take %s, more than there is on %s: batches are brought there", memory.said(taken), device)
    return cells


def bytes_of(matrix: Any) -> int | None:
    """What a matrix in memory takes; None of one on disk, whose batches are brought as they are read."""
    if isinstance(matrix, Part):
        return bytes_of(matrix.whole)
    parts = {CSR: ("indptr", "indices", "values"), Dense: ("values",)}.get(type(matrix))
    return None if parts is None else sum(getattr(matrix, name).nbytes for name in parts)


def brought(batches: Iterable[Minibatch], device: torch.device) -> Iterator[Minibatch]:
    """The same batches on the device."""
    for batch in batches:
        if batch.device.type == device.type:
            yield batch
        else:
            pinned = batch.pinned() if device.type == "cuda" else batch
            yield pinned.to(device, non_blocking=device.type == "cuda")
