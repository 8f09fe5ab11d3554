"""Likelihoods, which the models themselves compute: here is what they mean."""

from __future__ import annotations

from cellalign.evaluation.metrics.metric import DOWN, Metric

_NO_ZERO = "none of its own: compare models on the same cells and genes only"

NELBO = Metric(
    "nelbo",
    "Negative evidence lower bound of a cell's expression in nats, mean over cells (of interventions: over the cells "
    "of each, then over interventions): an upper bound of nll.",
    DOWN,
    _NO_ZERO,
)
NLL = Metric(
    "nll",
    "Negative log-likelihood of a cell's expression in nats, from importance-weighted draws, mean over cells "
    "(of interventions: over the cells of each, then over interventions).",
    DOWN,
    _NO_ZERO,
)
METRICS = (NELBO, NLL)
