"""Evaluation: panels of scores, each beside the baselines and the ceiling that tell what a number means.

A panel is a function that yields rows, or raises `NotApplicable` with the reason it cannot run on these
inputs; `run.PANELS` lists them. Without a choice all run that can, but a slow one (`run.SLOW`) only where something
asks for it; the result says which did not and why.
"""

from cellalign.evaluation.inputs import NotApplicable
from cellalign.evaluation.run import PANELS, evaluate
from cellalign.evaluation.scib import scib_scores
from cellalign.evaluation.table import Evaluation, Response, Row

__all__ = ["PANELS", "Evaluation", "NotApplicable", "Response", "Row", "evaluate", "scib_scores"]
