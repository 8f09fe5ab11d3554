"""vae, cvae and comp: what each sees, its loss, and its counterfactual."""

import pytest
import torch
from torch.nn import functional as F

from cellalign.methods.base import Dimensions, Method, Target
from cellalign.methods.registry import get
from cellalign.nn.batch import Batch
from cellalign.nn.distributions import gaussian_nll, kl_to_standard_normal
from cellalign.nn.penalties import MULTI_SCALE, misalignment, mmd

SMALL = {"hidden": (16, 8), "latent_dim": 3}


def build(name, conditions=3, batches=(2,), **settings):
    torch.manual_seed(0)
    cls = get(name)
    return cls(cls.Hyperparameters(**SMALL, **settings), Dimensions(12, conditions, batches)).eval()


def cells(n=10, conditions=3):
    torch.manual_seed(1)
    return Batch.of(torch.rand(n, 12), torch.arange(n) % conditions, batches=torch.arange(n)[:, None] % 2)


def test_vae_does_not_see_the_condition_and_cvae_does():
    batch = cells()
    for name, sees in (
        ("vae", False),
        ("cvae", True),
        ("comp", True),
        ("vfae", True),
        ("trvae", True),
        ("mmd-ae", True),
    ):
        method = build(name)
        moved = method.embedding(batch.with_condition(1)) - method.embedding(batch)
        assert (float(moved.detach().abs().max()) > 1e-4) == sees, name
        z = torch.zeros(len(batch), 3)
        moved = method.predict(z, batch.with_condition(1)) - method.predict(z, batch)
        assert (float(moved.detach().abs().max()) > 1e-4) == sees, name


@pytest.mark.parametrize("name", ["vae", "cvae", "comp"])
@pytest.mark.parametrize("posterior_scale", [0.3, None])
def test_loss_is_the_sum_of_its_parts(name, posterior_scale):
    method, batch = build(name, posterior_scale=posterior_scale, beta=0.7), cells()
    torch.manual_seed(5)
    loss = method.loss(batch, warmup=0.5)
    torch.manual_seed(5)
    latent = method.encode(batch)
    h = method.decode(latent.z, batch)
    scale = 0.01 + torch.nn.functional.softplus(method.likelihood.to_scale(h))
    expected = gaussian_nll(batch.x, method.likelihood.to_mean(h), scale).mean()
    expected = expected + 0.7 * 0.5 * kl_to_standard_normal(latent.mean, latent.scale.expand_as(latent.mean)).mean()
    if name == "comp":
        options = dict(include_self=method.hp.include_self, floor=method.hp.floor)
        penalty = misalignment(latent.z, latent.mean, latent.scale, batch.condition, **options)
        torch.testing.assert_close(loss.parts["penalty"], method.hp.gamma * penalty.detach())
        expected = expected + method.hp.gamma * penalty
    torch.testing.assert_close(loss.total, expected)


@pytest.mark.parametrize("penalty_on", ["z", "encoder", "decoder"])
def test_mmd_is_taken_where_the_method_says(penalty_on):
    batch = cells()
    if penalty_on == "decoder":
        method = build("trvae", gamma=3.0)
    else:
        method = build("vfae", gamma=3.0, penalty_on=penalty_on, kernel="rbf", kernel_length=1.5)
    torch.manual_seed(5)
    found = method.loss(batch, warmup=1.0).parts["penalty"]
    torch.manual_seed(5)
    z = method.encode(batch).z
    codes = torch.cat([F.one_hot(batch.condition, 3), F.one_hot(batch.batches[:, 0], 2)], 1).float()
    aligned = {
        "z": z,
        "encoder": method.encoder.first_hidden(batch.x, codes),
        "decoder": method.decoder.first_hidden(z, codes),
    }[penalty_on]
    kernel = (MULTI_SCALE,) if penalty_on == "decoder" else ((2.25,),)
    torch.testing.assert_close(found, 3 * 12 * mmd(aligned, batch.condition, *kernel, unbiased=True).detach())


def test_mmd_ae_has_neither_noise_nor_prior():
    method, batch = build("mmd-ae", gamma=3.0), cells()
    loss = method.loss(batch, warmup=1.0)
    latent = method.encode(batch)
    assert torch.equal(latent.z, latent.mean) and float(loss.parts["kl"]) == 0
    error = 0.5 * (batch.x - method.predict(latent.z, batch)).square().sum(1).mean()
    torch.testing.assert_close(loss.total, error + 3 * 12 * mmd(latent.z, batch.condition, unbiased=True))
    assert type(method).nelbo is Method.nelbo
    with pytest.raises(ValueError, match="less than or equal to 0"):
        build("mmd-ae", beta=1.0)


def test_averaged_losses_have_the_published_weights():
    """trVAE eq. 9: eta / 2 mean_g (x - m)^2 + alpha / 2 mean_j (exp v + mu^2 - 1 - v)."""
    method, batch = build("trvae", likelihood="mse", averaged=True, eta=100.0, beta=0.2, gamma=0.0), cells()
    torch.manual_seed(5)
    loss = method.loss(batch, warmup=1.0)
    torch.manual_seed(5)
    latent = method.encode(batch)
    predicted = method.predict(latent.z, batch)
    v = 2 * latent.scale.log()
    expected = 100 * 0.5 * (batch.x - predicted).square().mean()
    expected = expected + 0.2 * 0.5 * (v.exp() + latent.mean.square() - 1 - v).mean()
    torch.testing.assert_close(loss.total, expected)
    assert float(predicted.detach().min()) >= 0


def test_counterfactual_of_the_mean_and_of_draws():
    method, batch = build("comp"), cells()
    mean, std = method.counterfactual(batch, to=Target((2,)))
    torch.testing.assert_close(mean, method.predict(method.embedding(batch), batch.with_condition(2)))
    assert std is None
    torch.manual_seed(3)
    drawn, spread = method.counterfactual(batch, to=Target((2,)), n_samples=200)
    torch.manual_seed(3)
    draws = torch.stack([method.predict(method.encode(batch).z, batch.with_condition(2)) for _ in range(200)])
    torch.testing.assert_close(drawn, draws.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(spread, draws.std(0), atol=1e-5, rtol=1e-4)


def test_unknown_hyperparameter_is_refused():
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        get("comp").Hyperparameters(nothing=1)
