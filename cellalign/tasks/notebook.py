"""A progress bar where Python trains in a notebook; nothing is imported that is not there already, but rich."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in getattr(shell, "config", ())


class Bar:
    """Told once per epoch how far training is."""

    def __init__(self, bar: Any) -> None:
        self.bar, self.task = bar, bar.add_task("training", total=None, said="")

    def update(self, epoch: int, epochs: int, row: dict[str, float]) -> None:
        """Called by the engine."""
        said = f"epoch {epoch}/{epochs}  loss {row['train_loss']:.1f}"
        if "validation_loss" in row:
            said += f"  validation {row['validation_loss']:.1f}"
        self.bar.update(self.task, completed=epoch, total=epochs, said=said)


@contextmanager
def shown(progress: Any) -> Iterator[Any]:
    """What is told of the epochs: as given, or in a notebook, or where it is True, a bar.

    Parameters
    ----------
    progress : Progress, bool or None
        None is a bar in a notebook and nothing elsewhere; False is nothing.
    """
    if progress is False or (progress is None and not in_notebook()):
        yield None
    elif progress is not None and progress is not True:
        yield progress
    else:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("training"), BarColumn(), TextColumn("{task.fields[said]}"), TimeRemainingColumn())
        with Progress(*columns, transient=not in_notebook()) as bar:
            yield Bar(bar)
