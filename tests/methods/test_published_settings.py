"""What presets need beyond a method's defaults: that it does what it says, and that defaults are as they were."""

import pytest
import torch
from torch import nn

from cellalign.data.fields import Categorical
from cellalign.methods.base import Layout, Minibatch
from cellalign.methods.registry import get
from cellalign.nn.distributions import log_normal
from cellalign.nn.minibatch import CONDITION, Fields
from cellalign.nn.networks import Dropout, ScaledParameter


def built(name, **settings):
    torch.manual_seed(0)
    cls = get(name)
    field = Categorical(name="stim", role=CONDITION, categories=("a", "b"), reference="a")
    settings = {"hidden": (6, 5), "latent_dim": 3} | settings
    return cls(cls.Hyperparameters(**settings), Layout(n_genes=8, fields=Fields([field]), n_cells=100))


def batch_for(method, n=12):
    condition = torch.arange(n) % 2
    return Minibatch(torch.poisson(torch.rand(n, 8) * 3), method.layout.fields, (condition,))


def count(module, kind):
    return sum(isinstance(m, kind) for m in module.modules())


def test_the_decoders_dropout_may_be_its_own():
    for name, given, expected in (("cvae", None, 2), ("cvae", 0.0, 0), ("scvi", None, 0), ("scvi", 0.2, 2)):
        method = built(name, dropout=0.1, decoder_dropout=given)
        assert (count(method.encoder, Dropout), count(method.decoder, Dropout)) == (2, expected)


def test_batch_normalisation_may_be_of_the_encoders_first_layer_alone():
    for given, expected in ((True, (2, 2)), (False, (0, 0)), ("first", (1, 0))):
        method = built("mmd-ae", batch_norm=given)
        assert (count(method.encoder, nn.BatchNorm1d), count(method.decoder, nn.BatchNorm1d)) == expected
    norm = next(m for m in built("svae+", norm_momentum=0.01, norm_eps=1e-3).modules() if isinstance(m, nn.BatchNorm1d))
    assert (norm.momentum, norm.eps) == (0.01, 1e-3)
    theirs = next(m for m in built("scvi").modules() if isinstance(m, nn.BatchNorm1d))
    assert (theirs.momentum, theirs.eps) == (0.01, 1e-3)


def test_the_kl_is_to_a_prior_of_the_width_given():
    """Against the mean of log q - log p over many draws."""
    method = built("vfae", prior_scale=0.1, posterior_scale=0.1).eval()
    batch = batch_for(method)
    latent = method.encode(batch)
    z = latent.mean + latent.sd * torch.randn(200_000, *latent.mean.shape)
    log_ratio = log_normal(z, latent.mean, latent.sd) - log_normal(z, 0.0, 0.1)
    torch.testing.assert_close(method.kl(batch, latent), log_ratio.mean(0), rtol=0.02, atol=0.05)
    torch.testing.assert_close(method.log_prior(z[:2], batch), log_normal(z[:2], 0.0, 0.1))
    assert built("vfae").prior_sd == 1.0


def test_a_bottleneck_may_leak_and_the_decoder_may_not_be_told():
    plain, saucie = (
        built("mmd-ae", negative_slope=0.2, leaky_bottleneck=leaks, tell_decoder=not leaks).eval()
        for leaks in (False, True)
    )
    plain.encoder.load_state_dict(saucie.encoder.state_dict())
    plain.to_mean.load_state_dict(saucie.to_mean.state_dict())
    batch = batch_for(saucie)
    z, leaked = plain.encode(batch).mean, saucie.encode(batch).mean
    torch.testing.assert_close(leaked, torch.where(z > 0, z, 0.2 * z))
    assert saucie.decoder.first.context is None and plain.decoder.first.context is not None
    assert saucie.responds_to == frozenset() and CONDITION in plain.responds_to
    other = saucie.predict(batch, {"stim": "b"}).mean
    torch.testing.assert_close(other, saucie.predict(batch, {}).mean)


@pytest.mark.parametrize("name", ["svae+", "ivae", "beta-vae", "nf-ivae"])
def test_parameters_may_move_as_weights_do(name):
    factors = {m.factor for m in built(name, speedup=1.0).modules() if isinstance(m, ScaledParameter)}
    assert factors == {1.0}
    assert {m.factor for m in built(name).modules() if isinstance(m, ScaledParameter)} == {10.0}


def test_values_do_not_depend_on_the_speed():
    slow, fast = built("svae+", speedup=1.0), built("svae+")
    torch.testing.assert_close(slow.mask_logits(), fast.mask_logits())
