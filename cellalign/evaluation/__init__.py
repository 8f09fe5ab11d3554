"""Evaluation: panels of scores, each beside the baselines and what is attainable, which tell what a number means.

A panel is a class (`panel.Panel`) with its own options that yields rows, or raises `NotApplicable` with the reason it
cannot run on these inputs; `panels/` holds one a file, and `PANELS` all of them. Every row is of a declared metric
(`metrics/`), which says what it means and which way is better. Without a choice all panels run that can, but one that
is `asked_only` only where something asks for it; the result says which did not and why.
"""

from cellalign.evaluation.inputs import Inputs, NotApplicable
from cellalign.evaluation.metrics.metric import Better, Metric
from cellalign.evaluation.metrics.scib import scib_scores
from cellalign.evaluation.panel import Panel
from cellalign.evaluation.panels import PANELS
from cellalign.evaluation.run import evaluate
from cellalign.evaluation.table import Evaluation, Response, Row

__all__ = [
    "PANELS",
    "Better",
    "Evaluation",
    "Inputs",
    "Metric",
    "NotApplicable",
    "Panel",
    "Response",
    "Row",
    "evaluate",
    "scib_scores",
]
