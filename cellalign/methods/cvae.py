"""CVAE: encoder and decoder both see the condition (Sohn et al. 2015; baseline of CoMP and trVAE).

Encoder q(z | x, c), decoder p(x | z, c), standard normal prior, Gaussian likelihood, no penalty. Nothing but
the prior asks z to be independent of c, so conditions usually stay apart in z.
"""

from __future__ import annotations

from cellalign.methods.base import BATCHES, CONDITION
from cellalign.methods.vae import VAE


class CVAE(VAE):
    """Conditional variational autoencoder; technical covariates are seen like the condition."""

    name = "cvae"
    summary = "conditional VAE: encoder and decoder see the condition, no penalty"
    reference = "Sohn et al. 2015"
    needs_condition = True
    encoder_sees = (CONDITION, BATCHES)
    decoder_sees = (CONDITION, BATCHES)
