"""iVAE: the prior's mean depends on the intervention (Khemakhem et al. 2020; baseline of the sVAE+ paper).

Encoder q(z | x) with learned scale, decoder p(x | z), prior N(mu_a, 1), negative binomial likelihood, no
penalty. Neither network sees the intervention a: a decoder that did could carry the shift past the prior.

A free mu_a fits equally well under every rotation of z: this method and those that inherit from it (`svae`, `svae+`)
turn z to the axes along which mu is sparsest (`nn/rotation.py`), at the moments of the setting `rotate_at`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cellalign.methods.autoencoder import VariationalAutoencoder
from cellalign.methods.base import (
    CONDITION,
    CombinesConditions,
    Extends,
    Fields,
    FitsInClosedForm,
    Graph,
    Layout,
    LearnsGraph,
    Minibatch,
)
from cellalign.methods.capabilities import Batches
from cellalign.methods.vae import COUNT_PLAN, CountHyperparameters
from cellalign.nn.networks import ScaledParameter
from cellalign.nn.rotation import sparsest_rotation

ROTATE_AT = "parts of the epochs after which z is turned to the sparsest axes of the shifts; 1 is after training"
Part = Annotated[float, Field(ge=0, le=1)]


class IVAE(CombinesConditions, Extends, LearnsGraph, FitsInClosedForm, VariationalAutoencoder):
    """VAE whose prior is shifted by the intervention; the conditions are the interventions."""

    name = "ivae"
    summary = "identifiable VAE: each intervention shifts the prior of z"
    reference = "Khemakhem et al. 2020"
    shares_batches = True
    disentangles = True
    also_uses = (CONDITION,)  # its prior
    plan_defaults: ClassVar = COUNT_PLAN

    # before it could rotate, its graph was of outliers
    settings_before: ClassVar = {"rotate_at": ()}

    class Hyperparameters(CountHyperparameters):
        """The sVAE+ paper's; `rotate_at: []` is its gradient descent alone, and its graph by outliers."""

        rotate_at: tuple[Part, ...] = Field((0.25, 0.5, 1.0), description=ROTATE_AT)

    def __init__(self, hyperparameters: Any, layout: Layout) -> None:
        super().__init__(hyperparameters, layout)
        # the control's row is never used: control cells have mu = 0
        self.shift = ScaledParameter(torch.zeros(layout.n_conditions, self.hp.latent_dim), self.hp.speedup)
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

    def on_epoch_start(self, progress: float, epoch_share: float) -> None:
        """Turn the latent space when its time has come."""
        done, epochs = round(progress / epoch_share), round(1 / epoch_share)  # shares of epochs are rounded numbers
        moments = [math.ceil(part * epochs - 1e-6) for part in self.hp.rotate_at if part < 1]
        if any(min(moment, max(1, epochs - 1)) == done for moment in moments):  # within the last epoch: before it
            self.turn()

    def fit_closed_form(self, batches: Batches) -> None:
        """Turn the latent space once training is over, where `rotate_at` has a 1."""
        if 1.0 in self.hp.rotate_at:
            self.turn()

    def turn(self) -> None:
        """Rotate z to the sparsest axes of the shifts."""
        self.rotate(sparsest_rotation(self.shifts().detach().cpu().double().numpy()))

    @torch.no_grad()
    def rotate(self, rotation: np.ndarray) -> None:
        """Replace z by z R, R orthogonal [p, p]: posterior means, shifts and reconstructions turn exactly.

        So all that is computed from posterior means stays as it was (predictions, counterfactuals, distances between
        cells), and so does the density of turned latents under the prior, which is isotropic. The bound stays where
        the posterior is isotropic too: otherwise its covariance, turned, is no longer diagonal, and the log variances
        are mixed with the squares of R as weights.
        """
        r = torch.as_tensor(rotation, dtype=self.shift.raw.dtype, device=self.shift.raw.device)
        self.set_shifts(self.shifts() @ r)
        self.decoder.first.weight.copy_(r.T @ self.decoder.first.weight)
        self.to_mean.weight.copy_(r.T @ self.to_mean.weight)
        self.to_mean.bias.copy_(r.T @ self.to_mean.bias)
        if isinstance(self.to_log_variance, nn.Linear):
            mixing = r.T.square()
            self.to_log_variance.weight.copy_(mixing @ self.to_log_variance.weight)
            self.to_log_variance.bias.copy_(mixing @ self.to_log_variance.bias)

    def set_shifts(self, shifts: Tensor) -> None:
        """Make `shifts` what they are."""
        self.shift.set(shifts)

    def graph(self) -> Graph:
        """Where z was rotated, edges by the size of the shift: mu^2 / (mu^2 + 1), 0.5 at one standard deviation.

        That is the share of E z^2 under the prior which is due to the shift. Where z is in any rotation, latents
        whose shift an outlier detector flags (minimum covariance determinant; sVAE+ appendix C).
        """
        effects = self.shifts().detach().cpu()
        if self.hp.rotate_at:
            squared = effects.square()
            return Graph(effects, squared / (squared + 1))
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
