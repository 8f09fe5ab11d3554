"""Simulated data with its truth: `ifnb`, `sparse_shift` (interventions), `digits` (images), `fairness` (a table).

`expected` rebuilds every `ifnb` cell's expected counts under each condition; `sparse_shift` keeps its latents,
graph and effects in the data.
"""

from cellalign.simulate._digits import digits
from cellalign.simulate._fairness import fairness
from cellalign.simulate._ifnb import CELL_TYPES, expected, genes, ifnb
from cellalign.simulate._sparse_shift import sparse_shift

__all__ = ["CELL_TYPES", "digits", "expected", "fairness", "genes", "ifnb", "sparse_shift"]
