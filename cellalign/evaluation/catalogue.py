"""Every metric that some table prints, and where."""

from __future__ import annotations

from cellalign.evaluation.metrics import annotation, selection
from cellalign.evaluation.metrics.metric import Metric
from cellalign.evaluation.panels import PANELS

# tables of commands that no panel stands behind
OTHERS: dict[str, tuple[Metric, ...]] = {"annotate": annotation.METRICS, "tune": selection.METRICS}


def about(where: str) -> str:
    """What is scored there, in one line: `where` is a panel, or a command where there is none."""
    return f"{where}: {PANELS[where].summary}" if where in PANELS else f"{where}: printed by `cellalign {where}`."


def catalogue() -> list[tuple[str, Metric]]:
    """Panel, or command where there is none, and metric, in the order of the panels."""
    panels = {name: cls.metrics for name, cls in PANELS.items()} | OTHERS
    return [(where, metric) for where, metrics in panels.items() for metric in metrics]
