"""vae, cvae and comp: what each sees, its loss, and its counterfactual."""

import pytest
import torch
from support import columns, layout, minibatch, predicted, to
from torch.nn import functional as F

from cellalign.methods import vfae
from cellalign.methods.base import HasLikelihood
from cellalign.methods.registry import get, presets
from cellalign.nn.distributions import gaussian_nll, kl_to_standard_normal
from cellalign.nn.penalties import MULTI_SCALE, misalignment, mmd

SMALL = {"hidden": (16, 8), "latent_dim": 3}
SIZES = layout(12, 3, batches=(2,))


def build(name, **settings):
    torch.manual_seed(0)
    cls = get(name)
    return cls(cls.Hyperparameters(**SMALL, **settings), SIZES).eval()


def cells(n=10):
    torch.manual_seed(1)
    return minibatch(torch.rand(n, 12), SIZES, torch.arange(n) % 3, batches=[torch.arange(n) % 2])


def decoded(method, z, batch):
    return method.decode(z, batch).distribution.mean


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
        moved = method.embedding(batch.do(to(1))) - method.embedding(batch)
        assert (float(moved.detach().abs().max()) > 1e-4) == sees, name
        z = torch.zeros(len(batch), 3)
        moved = decoded(method, z, batch.do(to(1))) - decoded(method, z, batch)
        assert (float(moved.detach().abs().max()) > 1e-4) == sees, name


@pytest.mark.parametrize("name", ["vae", "cvae", "comp"])
@pytest.mark.parametrize("posterior_scale", [0.3, None])
def test_loss_is_the_sum_of_its_parts(name, posterior_scale):
    method, batch = build(name, posterior_scale=posterior_scale, beta=0.7), cells()
    torch.manual_seed(5)
    loss = method(batch, warmup=0.5)
    torch.manual_seed(5)
    latent = method.encode(batch)
    h = method.decoder(latent.z, batch.context(method.decoder_sees))
    scale = 0.01 + torch.nn.functional.softplus(method.likelihood.to_scale(h))
    expected = gaussian_nll(batch.x, method.likelihood.to_mean(h), scale).mean()
    expected = expected + 0.7 * 0.5 * kl_to_standard_normal(latent.mean, latent.sd.expand_as(latent.mean)).mean()
    if name == "comp":
        options = dict(include_self=method.hp.include_self, floor=method.hp.floor)
        penalty = misalignment(latent.z, latent.mean, latent.sd, batch.condition, **options)
        torch.testing.assert_close(loss.parts["penalty"], method.weight * penalty.detach())
        expected = expected + method.weight * penalty
    torch.testing.assert_close(loss.total, expected)


@pytest.mark.parametrize("penalty_on", ["z", "encoder", "decoder"])
def test_mmd_is_taken_where_the_method_says(penalty_on):
    batch = cells()
    if penalty_on == "decoder":
        method = build("trvae", gamma=3.0)
    else:
        method = build("vfae", gamma=3.0, penalty_on=penalty_on, kernel="rbf", kernel_length=1.5)
    torch.manual_seed(5)
    found = method(batch, warmup=1.0).parts["penalty"]
    torch.manual_seed(5)
    z = method.encode(batch).z
    codes = torch.cat([F.one_hot(batch.condition, 3), F.one_hot(columns(batch, "batch")[0], 2)], 1).float()
    aligned = {
        "z": z,
        "encoder": method.encoder.layers(batch.x, codes)[0],
        "decoder": method.decoder.layers(z, codes)[0],
    }[penalty_on]
    kernel = (MULTI_SCALE,) if penalty_on == "decoder" else ((2.25,),)
    torch.testing.assert_close(found, 3 * 12 * mmd(aligned, batch.condition, *kernel, unbiased=True).detach())


def test_an_mmd_weighs_on_a_cell_as_of_two_conditions():
    """A sum over 561 pairs of 34 conditions drowned the reconstruction (benchmarks, "Two genes at once")."""
    assert build("trvae").weight == 35 / 3 and build("trvae", gamma=2.0).weight == 2
    for name in ("vfae", "mmd-ae"):
        for gamma, expected in ((None, 1 / 3), (2.0, 2.0)):
            method = build(name, gamma=gamma)
            assert vfae.weight(method.hp, method.layout) == expected
    three = torch.randn(90, 4, generator=torch.Generator().manual_seed(0)).double()
    slopes = []
    for n in (2, 3):  # a cell of the first group, apart from the others by the same distance
        groups = torch.arange(30 * n) // 30
        z = (three[: 30 * n] + 2.0 * (groups > 0)[:, None]).requires_grad_()
        (mmd(z, groups, unbiased=True) / (n * (n - 1) / 2)).backward()
        slopes.append(float(z.grad[:30].sum(0).norm() * n))  # a cell weighs 1 / (30 n) in the reconstruction
    assert 0.8 < slopes[1] / slopes[0] < 1.25


def test_mmd_ae_has_neither_noise_nor_prior():
    method, batch = build("mmd-ae", gamma=3.0), cells()
    loss = method(batch, warmup=1.0)
    latent = method.encode(batch)
    assert torch.equal(latent.z, latent.mean) and float(loss.parts["kl"]) == 0
    error = 0.5 * (batch.x - decoded(method, latent.z, batch)).square().sum(1).mean()
    torch.testing.assert_close(loss.total, error + 3 * 12 * mmd(latent.z, batch.condition, unbiased=True))
    assert not isinstance(method, HasLikelihood)
    with pytest.raises(ValueError, match="less than or equal to 0"):
        build("mmd-ae", beta=1.0)


def test_averaged_losses_have_the_published_weights():
    """trVAE eq. 9: eta / 2 mean_g (x - m)^2 + alpha / 2 mean_j (exp v + mu^2 - 1 - v)."""
    method, batch = build("trvae", likelihood="mse", averaged=True, eta=100.0, beta=0.2, gamma=0.0), cells()
    torch.manual_seed(5)
    loss = method(batch, warmup=1.0)
    torch.manual_seed(5)
    latent = method.encode(batch)
    found = decoded(method, latent.z, batch)
    v = 2 * latent.sd.log()
    expected = 100 * 0.5 * (batch.x - found).square().mean()
    expected = expected + 0.2 * 0.5 * (v.exp() + latent.mean.square() - 1 - v).mean()
    torch.testing.assert_close(loss.total, expected)
    assert float(found.detach().min()) >= 0


def test_counterfactual_of_the_mean_and_of_draws():
    method, batch = build("comp"), cells()
    found = predicted(method, batch, to(2))
    expected = decoded(method, method.embedding(batch), batch.do(to(2))).detach()
    torch.testing.assert_close(method.predict(batch, to(2)).mean.detach(), expected)
    torch.testing.assert_close(found["X"], expected)
    assert set(found) == {"X"}
    found = predicted(method, batch, to(2), samples=200, seed=0)
    torch.manual_seed(0)
    draws = [method.decode(method.encode(batch).z, batch.do(to(2))).distribution for _ in range(200)]
    means = torch.stack([draw.mean for draw in draws]).detach()
    torch.testing.assert_close(found["X"], means.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["sd_of_mean"], means.std(0), atol=1e-5, rtol=1e-4)
    within = torch.stack([draw.variance for draw in draws]).mean(0).detach()
    torch.testing.assert_close(found["sd"], (within + means.var(0)).sqrt(), atol=1e-5, rtol=1e-4)


def test_unknown_hyperparameter_is_refused():
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        get("comp").Hyperparameters(nothing=1)


def test_the_default_of_comp_is_the_equation_as_printed_and_its_presets_are_as_published():
    """Eq. 4 by a loop over cells in float64, every cell in its own mixture and none cut off."""
    method, batch = build("comp"), cells()
    torch.manual_seed(5)
    found = method(batch, warmup=1.0).parts["penalty"]
    torch.manual_seed(5)
    latent = method.encode(batch)
    z, mean, scale = latent.z.double(), latent.mean.double(), method.hp.posterior_scale
    total = 0.0
    for i in range(len(z)):
        density = torch.stack([torch.exp(-((z[i] - m) ** 2).sum() / (2 * scale**2)) for m in mean])
        own = batch.condition == batch.condition[i]
        total += float((density[own].mean().log() - density[~own].mean().log()).detach())
    assert float(found) == pytest.approx(method.weight * total / len(z), rel=1e-4)
    published = [preset["settings"] for preset in presets().values() if preset["method"] == "comp"]
    assert {(own["include_self"], own["floor"]) for own in published} == {(False, None)}


def test_the_weight_of_comp_grows_with_the_genes_unless_it_is_given():
    def weight(genes, **settings):
        cls = get("comp")
        return cls(cls.Hyperparameters(**SMALL, **settings), layout(genes, 3)).weight

    assert [weight(n) for n in (40, 1000, 2000, 9000)] == [10, 25, 50, 50]
    assert weight(40, gamma=3) == 3 and weight(2000, gamma=0) == 0
