"""iVAE: the prior's mean depends on the intervention (Khemakhem et al. 2020; baseline of the sVAE+ paper).

Encoder q(z | x) with learned scale, decoder p(x | z), prior N(mu_a, 1), negative binomial likelihood, no
penalty. Neither network sees the intervention a: a decoder that did could carry the shift past the prior.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cellalign.methods.autoencoder import VariationalAutoencoder
from cellalign.methods.base import (
    CONDITION,
    CombinesConditions,
    Extends,
    Fields,
    Graph,
    Layout,
    LearnsGraph,
    Minibatch,
)
from cellalign.methods.vae import COUNT_PLAN, CountHyperparameters
from cellalign.nn.networks import ScaledParameter


class IVAE(CombinesConditions, Extends, LearnsGraph, VariationalAutoencoder):
    """VAE whose prior is shifted by the intervention; the conditions are the interventions."""

    name = "ivae"
    summary = "identifiable VAE: each intervention shifts the prior of z"
    reference = "Khemakhem et al. 2020"
    disentangles = True
    also_uses = (CONDITION,)  # its prior
    plan_defaults: ClassVar = COUNT_PLAN

    class Hyperparameters(CountHyperparameters):
        """The sVAE+ paper's."""

    def __init__(self, hyperparameters: Any, layout: Layout) -> None:
        super().__init__(hyperparameters, layout)
        # the control's row is never used: control cells have mu = 0
        self.shift = ScaledParameter(torch.zeros(layout.n_conditions, self.hp.latent_dim))
        acts = torch.ones(layout.n_conditions, 1)
        if layout.control is not None:
            acts[layout.control] = 0
        self.acts: Tensor
        self.register_buffer("acts", acts, persistent=False)

    def mask(self, codes: Tensor) -> Tensor | float:
        """Which latents the interventions [B] move: 1, or [B, p] of zeros and ones in a subclass."""
        return 1.0

    def prior_mean(self, batch: Minibatch) -> Tensor:
        """mu_a of every cell's intervention, [B, p]; zero for control cells."""
        # F.embedding, not indexing: its gradient adds up in the same order in every run
        codes = batch.condition
        return F.embedding(codes, self.shift()) * self.mask(codes) * self.acts[codes]

    def shifts(self) -> Tensor:
        """The shift each condition makes by itself, [conditions, p]."""
        return self.shift() * self.acts

    def graph(self) -> Graph:
        """Latents whose shift an outlier detector flags (minimum covariance determinant; sVAE+ appendix C)."""
        effects = self.shifts().detach().cpu()
        flagged = np.stack([outliers(row) for row in effects.double().numpy()])
        return Graph(effects, torch.from_numpy(flagged).float() * self.acts.cpu())

    def with_conditions(self, fields: Fields, shifts: np.ndarray) -> IVAE:
        """The same networks for the conditions known plus new ones, whose shifts are `shifts` [n_new, p].

        Their masks are 1 (sVAE+ appendix C: sparsity must not hold back the fit to unseen interventions).
        """
        wider = type(self)(self.hp, replace(self.layout, fields=fields))
        state = wider.state_dict()
        known = self.layout.n_conditions
        for key, value in self.state_dict().items():
            if state[key].shape == value.shape:
                state[key] = value
            else:
                state[key][:known] = value
        wider.load_state_dict(state)
        wider.shift.set(torch.as_tensor(shifts), slice(known, None))
        return wider


def outliers(values: np.ndarray, level: float = 0.975) -> np.ndarray:
    """Which of the values [p] lie off the bulk: robust Mahalanobis distance above the chi-square quantile.

    Location and spread by the minimum covariance determinant (Rousseeuw & Van Driessen 1999).
    """
    from scipy.stats import chi2
    from sklearn.covariance import MinCovDet

    if len(values) < 4 or np.ptp(values) == 0:
        return np.zeros(len(values), dtype=bool)
    try:
        fitted = MinCovDet(random_state=0).fit(values[:, None])
    except ValueError:  # more than half of the values are equal: those that differ are off the bulk
        return values != np.median(values)
    return fitted.mahalanobis(values[:, None]) > chi2.ppf(level, 1)
