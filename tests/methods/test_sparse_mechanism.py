"""ivae, svae, svae+ and beta-vae: their priors and penalties against loops, and recovery of a known truth."""

import math

import numpy as np
import pytest
import torch
from support import layout, minibatch, to

import cellalign
from cellalign.methods.ivae import outliers
from cellalign.methods.registry import get
from cellalign.nn.distributions import log_normal

SPARSE = ("ivae", "svae", "svae+")


def build(name, control=0, **settings):
    torch.manual_seed(0)
    cls = get(name)
    method = cls(cls.Hyperparameters(latent_dim=3, hidden=(16,), **settings), layout(12, 4, control=control, cells=50))
    if name in SPARSE:
        method.shift.set(torch.randn(4, 3) * 3)
    if hasattr(method, "mask_logits"):
        method.mask_logits.set(torch.tensor([[9.0, 9, 9], [9, -9, 9], [-9, -9, 9], [0.1, -0.1, 9]]))
    return method


def cells(n=40):
    torch.manual_seed(1)
    return minibatch(torch.poisson(torch.rand(n, 12) * 5), layout(12, 4), torch.arange(n) % 4)


def decoded(method, z, batch):
    return method.decode(z, batch).distribution.mean


@pytest.mark.parametrize("name", SPARSE)
def test_neither_network_sees_the_intervention(name):
    method, batch = build(name).eval(), cells()
    torch.testing.assert_close(method.embedding(batch), method.embedding(batch.do(to(1))))
    z = torch.randn(len(batch), 3)
    torch.testing.assert_close(decoded(method, z, batch), decoded(method, z, batch.do(to(1))))
    assert not method.embedding_needs_condition and method.needs_condition


@pytest.mark.parametrize("name", SPARSE)
def test_prior_is_shifted_along_open_edges_and_control_cells_have_none(name):
    method, batch = build(name), cells()
    prior = method.prior_mean(batch)
    assert bool((prior[batch.condition == 0] == 0).all())
    expected = method.shift()[1] * (torch.tensor([1.0, 0, 1]) if name != "ivae" else 1)
    # logits of 9 are open but for one draw in 8,000
    torch.testing.assert_close(prior[batch.condition == 1].median(0).values, expected.detach())
    without = build(name, control=None)
    assert bool((without.prior_mean(batch)[batch.condition == 0] != 0).any())


def test_loss_of_ivae_by_hand():
    method, batch = build("ivae", beta=0.7), cells()
    torch.manual_seed(2)
    loss = method(batch, warmup=0.5)
    torch.manual_seed(2)
    latent = method.encode(batch)
    prior = method.prior_mean(batch)
    kl = 0.0
    for i in range(len(batch)):
        for j in range(3):
            m, s = float(latent.mean[i, j].detach() - prior[i, j].detach()), float(latent.sd[i, j].detach())
            kl += 0.5 * (m * m + s * s - 1) - math.log(s)
    assert float(loss.parts["kl"]) == pytest.approx(kl / len(batch), rel=1e-5)
    reconstruction = method.decode(latent.z, batch).distribution.nll(batch).mean()
    assert float(loss.total.detach()) == pytest.approx(
        float(reconstruction.detach()) + 0.35 * kl / len(batch), rel=1e-5
    )


def test_sparsity_terms_by_hand():
    pi = torch.sigmoid(build("svae").mask_logits()).double().detach()[1:]  # without the control
    alpha = 3  # interventions
    assert float(build("svae").sparsity_term().detach()) == pytest.approx(alpha * float(pi.mean()), rel=1e-5)
    beta_prior = torch.distributions.Beta(torch.tensor(1.0).double(), torch.tensor(7.0).double())
    expected = -float(beta_prior.log_prob(pi).sum()) / 50
    assert float(build("svae+", alpha=7).sparsity_term().detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["svae", "svae+"])
def test_sparsity_sets_in_late_and_always_counts_in_validation(name):
    method, batch = build(name), cells()
    full = float(method.sparsity_term().detach())
    found = []
    for done in (0.0, 0.2, 0.3, 0.375, 0.9):
        method.train().on_epoch_start(done, 0.01)
        found.append(float(method(batch, 1.0).parts["penalty"]) / full)
    np.testing.assert_allclose(found, [0, 0, 0.4, 1, 1], atol=1e-5)
    method.eval().on_epoch_start(0.0, 0.01)
    assert float(method(batch, 1.0).parts["penalty"]) == pytest.approx(full)


def test_rotation_changes_neither_reconstruction_nor_prior_density():
    method, batch = build("svae+").eval(), cells()
    before = decoded(method, method.embedding(batch), batch)
    shifted = (method.embedding(batch) - method.shifts()[batch.condition]).norm(dim=1)
    method.rotate(np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0])
    method.mask_logits.set(torch.full((4, 3), 9.0))  # a turned shift has no zeros
    torch.testing.assert_close(decoded(method, method.embedding(batch), batch), before, rtol=1e-4, atol=1e-4)
    after = (method.embedding(batch) - method.shifts()[batch.condition]).norm(dim=1)
    torch.testing.assert_close(after, shifted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SPARSE)
def test_counterfactual_takes_the_old_shift_away_and_adds_the_new_ones(name):
    method, batch = build(name).eval(), cells()
    shifts, z = method.shifts(), method.embedding(batch)
    for codes in ((2,), (1, 3)):
        moved = z - shifts[batch.condition] + sum(shifts[code] for code in codes)
        torch.testing.assert_close(method.predict(batch, to(*codes)).mean, decoded(method, moved, batch))
    back = method.predict(batch, to(0)).mean
    torch.testing.assert_close(back[batch.condition == 0], decoded(method, z, batch)[batch.condition == 0])


def test_importance_weights_against_a_loop():
    method, batch = build("ivae").eval(), cells(5)
    torch.manual_seed(3)
    found = method.importance_weighted_nll(batch, 7, at_once=3)
    torch.manual_seed(3)
    latent = method.encode(batch)
    log_weights = []
    for n in (3, 3, 1):
        for z in latent.mean + latent.sd * torch.randn(n, 5, 3):
            log_p = -method.decode(z, batch).distribution.nll(batch) + log_normal(z, method.prior_mean(batch), 1.0)
            log_weights.append(log_p - log_normal(z, latent.mean, latent.sd))
    expected = math.log(7) - torch.stack(log_weights).logsumexp(0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_outliers_are_those_off_the_bulk():
    values = np.random.default_rng(0).normal(size=15) * 0.1
    values[[3, 8]] = [5, -4]
    assert np.flatnonzero(outliers(values)).tolist() == [3, 8]
    assert not outliers(np.zeros(15)).any()
    assert np.flatnonzero(outliers(np.eye(15)[4])).tolist() == [4]


def test_svae_plus_recovers_latents_and_graph(shifts, svae_model):
    train = shifts[shifts.obs["split"] == "train"].copy()
    cellalign.embed(train, svae_model)
    scores = cellalign.evaluate(train, condition="perturbation", model=svae_model, panels=["identifiability"])
    assert scores.value("pearson_mcc") > 0.93 and scores.value("r2") > 0.93
    assert scores.value("f1", system="graph") > 0.9 > scores.value("f1", system="graph, signed matching")


def test_gradient_descent_alone_is_still_there(shifts):
    train = shifts[shifts.obs["split"] == "train"].copy()
    settings = {"latent_dim": 4, "hidden": [32], "epochs": 3, "rotate_at": []}
    model = cellalign.train(train, method="svae+", condition="perturbation", settings=settings)
    assert model.record.hyperparameters["rotate_at"] == []
