"""How often the observed mean of a gene lies in its interval, and how wide intervals are."""

from __future__ import annotations

import numpy as np

from cellalign.evaluation.metrics.metric import DOWN, NEITHER, Metric, towards

GENES = {
    "all": "all genes",
    "top": "the 50 genes of the largest predicted change",
    "de": "the 50 most differentially expressed genes, which the observed cells tell",
}
LEVEL = Metric("level", "Share of genes whose observed mean the intervals are to hold.", NEITHER, "as it was asked for")
METRICS = (
    *(
        Metric(
            f"coverage_{name}", f"Share of {genes} whose observed mean lies in the interval.", towards("level"), "0", 0
        )
        for name, genes in GENES.items()
    ),
    *(
        Metric(f"width_{name}", f"Mean width of the intervals of {genes}, log1p.", DOWN, "that of the row mean shift")
        for name, genes in GENES.items()
    ),
    LEVEL,
)


def coverage(lower: np.ndarray, upper: np.ndarray, observed: np.ndarray) -> float:
    """Share of genes [G] whose observed mean is not outside."""
    return float(np.mean((observed >= lower) & (observed <= upper)))


def width(lower: np.ndarray, upper: np.ndarray) -> float:
    """Mean width [G]."""
    return float(np.mean(upper - lower))


def score(
    lower: np.ndarray, upper: np.ndarray, observed: np.ndarray, genes: dict[str, np.ndarray], level: float
) -> dict[str, float]:
    """The metrics by name, over all genes [G] and these columns of them, by the names of `GENES`.

    The observed mean is taken in the precision of the intervals: what lies on an end lies inside.
    """
    observed = observed.astype(lower.dtype)
    found = {}
    for name in GENES:
        own = genes.get(name, np.arange(len(observed)))
        found[f"coverage_{name}"] = coverage(lower[own], upper[own], observed[own])
        found[f"width_{name}"] = width(lower[own], upper[own])
    return {metric.name: found.get(metric.name, level) for metric in METRICS}
