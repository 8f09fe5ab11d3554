"""What settings are ranked by where no label may be looked at."""

from __future__ import annotations

from cellalign.evaluation.metrics.identifiability import udr
from cellalign.evaluation.metrics.metric import DOWN, UP, Metric

VALIDATION_LOSS = Metric(
    "validation_loss",
    "Training objective per validation cell: the negative evidence lower bound (nats), and any penalty of the method.",
    DOWN,
    "none of its own: compare settings of one method on the same cells only",
)
SCORE = Metric(
    "score",
    "Median over seeds of what settings are ranked by: udr, or minus validation_loss.",
    UP,
    "as that of udr or validation_loss",
)
METRICS = (VALIDATION_LOSS, udr, SCORE)
