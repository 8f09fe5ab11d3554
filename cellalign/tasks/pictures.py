"""Pictures that commands write: which endings they may have, and that they were written."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellalign.errors import UsageError, option

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("cellalign")
ENDINGS = (".png", ".pdf", ".svg")


def check_ending(name: str, path: str) -> None:
    """Refuse a picture of another ending, before any work: UsageError that names the parameter."""
    if Path(path).suffix.lower() not in ENDINGS:
        raise UsageError(f"{option(name, path)} ends in none of {', '.join(ENDINGS)}")


def save(figure: Figure, path: str, force: bool, **how: Any) -> None:
    """Write a picture under its name when it is complete, and say so."""
    from cellalign.data.files import atomic_path

    with atomic_path(path, force) as fresh:
        figure.savefig(fresh, format=Path(path).suffix.lower()[1:], **how)
    log.info("%s: the picture", path)
