"""A rank of a test whose run is ended by a signal: `python ended_ranks.py FOLDER RANK`.

The signal comes to the second rank, and the first takes long to write the checkpoint. Leaves in FOLDER/RANK whether it
was written when this rank left.
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch
from several_ranks import CELLS, GENES, SMALL, cells
from support import layout

from cellalign.engine import ranks
from cellalign.engine.checkpoint import Checkpoint
from cellalign.engine.fit import fit
from cellalign.engine.plan import Plan
from cellalign.methods.registry import get

SLOW = 2.0  # seconds


class Ended(BaseException):
    """What a command turns SIGTERM into."""


def heed(number: int, frame: object) -> None:
    raise Ended


class AtOnce:
    """Ends the run after its first epoch."""

    def update(self, epoch: int, epochs: int, row: dict[str, float]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    ranks._current = ranks.Ranks(rank, 2)
    signal.signal(signal.SIGTERM, heed)
    written = Checkpoint.save

    def slowly(self: Checkpoint, *given: object) -> None:
        time.sleep(SLOW)
        written(self, *given)

    Checkpoint.save = slowly
    cls, sizes = get("comp"), layout(GENES, 3, (2,), (2,), labels=3, control=0, cells=CELLS)
    torch.manual_seed(0)
    method, rows = cls(cls.Hyperparameters(**SMALL), sizes), torch.arange(CELLS)
    checkpoint = Checkpoint.beside(folder / "model", {})
    device, told = torch.device("cpu"), AtOnce() if rank else None
    plan = Plan(epochs=10_000, batch_size=64, precision="float32")
    try:
        fit(method, cells(sizes, "log", False), rows, rows[:0], plan, device=device, seed=0, progress=told,
            checkpoint=checkpoint)  # fmt: skip
    except Ended:
        (folder / str(rank)).write_text(str(checkpoint.exists()))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
