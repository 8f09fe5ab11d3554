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
RECONSTRUCTION = Metric(
    "reconstruction",
    "Negative log-likelihood of validation cells decoded from the means of their posteriors, without any weight.",
    DOWN,
    "none of its own: compare settings of one likelihood on the same cells only",
)
MIXING = Metric(
    "mixing",
    "Distance of the share of validation cells' own condition among 15 neighbours from that of permuted conditions.",
    DOWN,
    "about 0 where conditions are independent of the latents",
    null_value=0,
)
RESPONSE = Metric(
    "response",
    "Pearson correlation over all genes of the predicted with the real change from control, of what was held out.",
    UP,
    "0 where nothing of the change is predicted",
    null_value=0,
)
SCORE = Metric(
    "score",
    "Median over seeds of what settings are ranked by: udr, response, minus another, or minus the mean of two ranks.",
    UP,
    "as that of what they are ranked by",
)
METRICS = (VALIDATION_LOSS, udr, RECONSTRUCTION, MIXING, RESPONSE, SCORE)
