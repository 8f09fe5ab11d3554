"""One forward pass: what a method changes in `encode` or `decode` holds in loss, bounds, embedding and prediction.

And what several optimisers follow from: stgan's players.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import StopAfter, at_every_change

from cellalign.data.fields import Categorical
from cellalign.data.loader import Cells, as_matrix
from cellalign.engine.checkpoint import Checkpoint
from cellalign.engine.fit import _Run, fit
from cellalign.engine.optimiser import AdamW
from cellalign.engine.plan import Plan
from cellalign.methods.autoencoder import Autoencoder, VariationalAutoencoder
from cellalign.methods.base import Layout, Loss
from cellalign.methods.registry import get, names
from cellalign.methods.vae import VAE
from cellalign.nn.distributions import Normal
from cellalign.nn.minibatch import Fields, Minibatch

CPU = torch.device("cpu")
GENES, CELLS = 12, 30
STIM = Categorical(name="stim", role="condition", categories=("a", "b", "c"), reference="b")
SITE = Categorical(name="site", role="batch", categories=("x", "y"))


class Moved(VAE):
    """Its encoder puts cells elsewhere."""

    name = "moved"

    def encode(self, batch):
        latent = super().encode(batch)
        return replace(latent, mean=latent.mean + 2, z=latent.z + 2)


class Raised(VAE):
    """Its decoder gives more."""

    name = "raised"

    def decode(self, z, batch):
        decoded = super().decode(z, batch)
        given = decoded.distribution
        return replace(decoded, distribution=Normal(given.mean + 1, given.sd))


def build(cls, fields=(STIM,), **settings):
    torch.manual_seed(0)
    hyperparameters = cls.Hyperparameters(**{"hidden": (8, 4), "latent_dim": 3} | settings)
    return cls(hyperparameters, Layout(GENES, Fields(fields), CELLS)).eval()


def cells(n=CELLS, counts=False):
    torch.manual_seed(1)
    x = torch.poisson(3 * torch.rand(n, GENES)) if counts else torch.rand(n, GENES)
    return Minibatch(x, Fields((STIM,)), (torch.arange(n) % 3,))


@torch.no_grad()
def seeded(function, *args):
    torch.manual_seed(7)
    return function(*args)


def everything(method, batch):
    """All that is computed of a batch."""
    return {
        "loss": seeded(method, batch).total,
        "nelbo": seeded(method.nelbo, batch),
        "bound": seeded(method.importance_weighted_nll, batch, 5),
        "embedding": seeded(method.embedding, batch),
        "prediction": seeded(method.predict, batch, {"stim": "a"}).mean,
        "as they are": seeded(method.predict, batch, {}).mean,
        "drawn": seeded(drawn, method, batch),
    }


def drawn(method, batch):
    return method.predict(batch, {"stim": "a"}, draw=True).mean


def test_another_encoder_changes_all_alike():
    plain, moved = everything(build(VAE), cells()), everything(build(Moved), cells())
    torch.testing.assert_close(moved["embedding"], plain["embedding"] + 2)
    for what in plain:
        assert not torch.allclose(plain[what], moved[what], atol=1e-3), what


def test_another_decoder_changes_all_but_the_embedding_alike():
    plain, raised = everything(build(VAE), cells()), everything(build(Raised), cells())
    torch.testing.assert_close(raised.pop("embedding"), plain.pop("embedding"))
    for what in ("prediction", "as they are", "drawn"):
        torch.testing.assert_close(raised[what], plain[what] + 1)
    for what in plain:
        assert not torch.allclose(plain[what], raised[what], atol=1e-3), what


@pytest.mark.parametrize("cls", [VAE, Moved, Raised])
def test_the_bound_of_many_draws_is_no_worse_than_the_mean_over_one(cls):
    """As it must be where both are of the same model: one that bounds another's likelihood would not."""
    method, batch = build(cls), cells()
    torch.manual_seed(0)
    with torch.no_grad():
        one = torch.stack([method.nelbo(batch) for _ in range(100)]).mean(0)
        many = method.importance_weighted_nll(batch, 300)
    assert (many < one + 0.05).all()


def calls_of(cls, batch):
    """Which of encode and decode each entry point calls."""
    calls = []

    class Watched(cls):
        def encode(self, batch):
            calls.append("encode")
            return super().encode(batch)

        def decode(self, z, batch):
            calls.append("decode")
            return super().decode(z, batch)

    method = build(Watched, batch.fields, hidden=(6,), latent_dim=2)
    entries = {"loss": lambda: method(batch), "prediction": lambda: method.predict(batch, {})}
    entries["embedding"] = lambda: method.embedding(batch)
    if isinstance(method, VariationalAutoencoder):
        entries["nelbo"] = lambda: method.nelbo(batch)
        if method.comparable:
            entries["bound"] = lambda: method.importance_weighted_nll(batch, 2)
    found = {}
    for name, entry in entries.items():
        calls.clear()
        seeded(entry)
        found[name] = set(calls)
    return found


@pytest.mark.parametrize("name", [name for name in names() if issubclass(get(name), Autoencoder)])
def test_every_autoencoder_goes_through_encode_and_decode(name):
    cls = get(name)
    fields = [STIM, SITE] if cls.needs_condition else [SITE]
    fields += [Categorical(name="tissue", role="covariate", categories=("t", "u"), may_be_missing=True)]
    fields += [Categorical(name="type", role="label", categories=("B", "T"), may_be_missing=True)]
    x = cells(counts=cls.reads(cls.Hyperparameters()) == "counts").expression
    batch = Minibatch(x, Fields(fields), tuple(torch.arange(CELLS) % field.width for field in fields))
    found = calls_of(cls, batch)
    assert found.pop("embedding") == {"encode"}
    assert all(calls == {"encode", "decode"} for calls in found.values()), found


def test_the_loss_is_the_equation():
    """mean over cells of -log p(x | z) + warmup beta KL(q || N(0, 1)), by loops in float64 over the layers' weights."""
    method = build(VAE, beta=0.7, batch_norm=False)
    w = {key: value.double().numpy() for key, value in method.state_dict().items()}
    batch = cells(6)
    x = batch.x.double().numpy()

    def linear(h, weight, bias):  # weight [n_in, n_out]
        return [bias[j] + sum(h[i] * weight[i][j] for i in range(len(h))) for j in range(len(bias))]

    def leaky(h):
        return [v if v > 0 else 0.01 * v for v in h]

    def network(h, prefix):
        h = leaky(linear(h, w[f"{prefix}.first.weight"], w[f"{prefix}.first.bias"]))
        return leaky(linear(h, w[f"{prefix}.rest.0.0.weight"].T, w[f"{prefix}.rest.0.0.bias"]))

    torch.manual_seed(11)
    noise = torch.randn(6, 3).double().numpy()
    reconstruction = kl = 0.0
    for i in range(6):
        h = network(x[i], "encoder")
        mean = linear(h, w["to_mean.weight"].T, w["to_mean.bias"])
        sd = [math.exp(v / 2) for v in linear(h, w["to_log_variance.weight"].T, w["to_log_variance.bias"])]
        kl += sum(0.5 * (m**2 + s**2 - 1) - math.log(s) for m, s in zip(mean, sd, strict=True)) / 6
        h = network([m + s * e for m, s, e in zip(mean, sd, noise[i], strict=True)], "decoder")
        location = linear(h, w["likelihood.to_mean.weight"].T, w["likelihood.to_mean.bias"])
        scale = 0.01 + math.log1p(
            math.exp(linear(h, w["likelihood.to_scale.weight"].T, w["likelihood.to_scale.bias"])[0])
        )
        for g in range(GENES):
            error = (x[i, g] - location[g]) / scale
            reconstruction += (0.5 * error**2 + math.log(scale) + 0.5 * math.log(2 * math.pi)) / 6
    torch.manual_seed(11)
    loss = method(batch, warmup=0.5)
    assert float(loss.parts["reconstruction"]) == pytest.approx(reconstruction, rel=1e-5)
    assert float(loss.parts["kl"]) == pytest.approx(kl, rel=1e-5)
    assert float(loss.total.detach()) == pytest.approx(reconstruction + 0.5 * 0.7 * kl, rel=1e-5)


def test_parts_of_a_loss_carry_no_gradient():
    loss = build(get("comp"))(cells())
    assert loss.total.requires_grad and not any(part.requires_grad for part in loss.parts.values())


@pytest.mark.parametrize("name", ["vae", "comp", "stgan"])
def test_calling_a_method_is_torchs_call(name):
    """So that hooks run, and it can be wrapped for several devices."""
    method = stgan() if name == "stgan" else build(get(name))
    assert type(method).__call__ is torch.nn.Module.__call__
    met = []
    method.register_forward_pre_hook(lambda module, args: met.append(len(args[0])))
    method.register_forward_hook(lambda module, args, loss: met.append(type(loss)))
    method(cells())
    assert met == [CELLS, Loss]


def test_the_engine_trains_by_that_call():
    method, met = build(VAE), []
    method.register_forward_pre_hook(lambda module, args: met.append(args[1]))
    train(method, Plan(epochs=2, batch_size=10, validation=0.0, warmup_epochs=1))
    assert met == [0.5] * 3 + [1.0] * 3


def stgan(**settings):
    torch.manual_seed(0)
    cls = get("stgan")
    shape = {"hidden": (8, 4, 8), "discriminator_hidden": (6,)}
    return cls(cls.Hyperparameters(**shape | settings), Layout(GENES, Fields((STIM,)), CELLS))


def all_cells(n=CELLS):
    batch = cells(n)
    return Cells(as_matrix(batch.x.numpy()), batch.fields, batch.columns, n)


def train(method, plan, **options):
    rows = torch.arange(CELLS)
    return fit(method, all_cells(), rows, rows[:0], plan, device=CPU, seed=0, **options)


def weights(method):
    return {key: value.clone() for key, value in method.state_dict().items()}


def test_players_share_out_all_parameters():
    method = stgan()
    players = method.players()
    owned = [id(p) for player in players.values() for p in player.parameters]
    assert set(players) == {"generators", "discriminators"}
    assert len(owned) == len(set(owned)) and set(owned) == {id(p) for p in method.parameters()}
    inside = {id(p) for p in method.discriminators.parameters()}
    assert {id(p) for p in players["discriminators"].parameters} == inside


def test_a_method_of_one_player_has_all_parameters():
    method = build(VAE)
    run = _Run(method, all_cells(), torch.arange(CELLS), torch.arange(0), Plan(epochs=1), CPU, 0, None, None)
    (player,) = run.players.values()
    assert {id(p) for p in player.parameters} == {id(p) for p in method.parameters()}


@pytest.mark.parametrize("mine, others", [("generators", "discriminators"), ("discriminators", "generators")])
def test_each_player_learns_from_its_own_loss_alone(mine, others):
    """The gradient the engine leaves is that of its loss by itself, whatever the other's loss is."""
    method = stgan(dropout=0.0, discriminator_dropout=0.0)
    batch = cells()
    run = _Run(method, all_cells(), torch.arange(CELLS), torch.arange(0), Plan(epochs=1), CPU, 0, None, None)
    loss = method(batch, 1.0)
    assert set(loss.by_player) == {"generators", "discriminators"}
    expected = torch.autograd.grad(
        loss.by_player[mine], run.players[mine].parameters, retain_graph=True, allow_unused=True
    )
    run.differentiate(replace(loss, by_player=loss.by_player | {others: 1000 * loss.by_player[others]}))
    for parameter, gradient in zip(run.players[mine].parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in run.players[mine].parameters)


def test_the_discriminators_loss_does_not_reach_the_generators():
    method = stgan()
    loss = method(cells(), 1.0)
    parameters = list(method.players()["generators"].parameters)
    reached = torch.autograd.grad(loss.by_player["discriminators"], parameters, allow_unused=True)
    assert all(gradient is None or not gradient.any() for gradient in reached)


def test_the_step_of_one_player_does_not_depend_on_the_other():
    """With a loss of the generators times zero the discriminators step as before, and the generators stay."""
    stepped = {}
    for weight in (1.0, 0.0):
        method = stgan(discriminator_dropout=0.0)
        forward = method.forward

        def scaled(batch, warmup=1.0, forward=forward, weight=weight):
            loss = forward(batch, warmup)
            by_player = loss.by_player | {"generators": weight * loss.by_player["generators"]}
            return replace(loss, by_player=by_player)

        method.forward = scaled
        run = _Run(method, all_cells(), torch.arange(CELLS), torch.arange(0), plan(), CPU, 0, None, None)
        before = weights(method)
        run.step(cells(), 1.0)
        stepped[weight] = {
            key: value - before[key] for key, value in weights(method).items() if value.is_floating_point()
        }
    learnt = [key for key, _ in method.named_parameters()]
    for key in learnt:
        if key.startswith("discriminators"):
            assert torch.equal(stepped[1.0][key], stepped[0.0][key])
        else:
            assert not stepped[0.0][key].any()
    assert any(stepped[1.0][key].abs().max() > 0 for key in learnt if not key.startswith("discriminators"))


def plan(**changes):
    return Plan(
        **dict(epochs=4, batch_size=15, lr=0.01, schedule="constant", weight_decay=0.0, validation=0.0) | changes
    )


def test_discriminator_lr_scales_that_players_steps_alone():
    """Adam's first step is the learning rate times the sign of the gradient."""
    for factor in (1.0, 0.25, 3.0):
        method = stgan(discriminator_lr=factor, discriminator_dropout=0.0)
        run = _Run(method, all_cells(), torch.arange(CELLS), torch.arange(0), plan(adam_eps=1e-30), CPU, 0, None, None)
        before = {key: p.detach().clone() for key, p in method.named_parameters()}
        run.step(cells(), 1.0)
        for key, p in method.named_parameters():
            if p.grad is None:
                continue
            step = (p.detach() - before[key])[p.grad.abs() > 1e-6].abs()
            rate = 0.01 * (factor if key.startswith("discriminators") else 1.0)
            if len(step):
                torch.testing.assert_close(step, torch.full_like(step, rate), rtol=1e-3, atol=1e-6)


def test_the_schedule_holds_for_every_player(monkeypatch):
    rates = {}
    monkeypatch.setattr(AdamW, "step", lambda optimiser, rate: rates.setdefault(id(optimiser), []).append(rate))
    method = stgan(discriminator_lr=0.5)
    run = _Run(method, all_cells(), torch.arange(CELLS), torch.arange(0), plan(schedule="cosine"), CPU, 0, None, None)
    for step in range(4):
        run.step(cells(), 1.0)
        rate = plan(schedule="cosine").learning_rate(step, 8)
        assert rates[id(run.optimisers["generators"])][-1] == pytest.approx(rate)
        assert rates[id(run.optimisers["discriminators"])][-1] == pytest.approx(0.5 * rate)


@pytest.mark.parametrize("stop", at_every_change([1, 3], [1]))
def test_stgan_resumed_ends_in_the_same_weights_bit_for_bit(tmp_path, stop):
    balanced = plan(balanced=True)
    whole = stgan()
    train(whole, balanced)
    checkpoint = Checkpoint.beside(tmp_path / "model", {"seed": 0})
    with pytest.raises(KeyboardInterrupt):
        train(stgan(), balanced, checkpoint=checkpoint, progress=StopAfter(stop))
    resumed = stgan()
    torch.manual_seed(99)  # the state says where the random stream was
    train(resumed, balanced, checkpoint=checkpoint)
    once, twice = whole.state_dict(), resumed.state_dict()
    assert once.keys() == twice.keys() and all(torch.equal(once[key], twice[key]) for key in once)


def test_a_run_stopped_before_any_weights_counted_as_best_goes_on(tmp_path):
    """In warm-up there is no best loss yet: it is infinite, and stays so in the checkpoint."""
    rows = torch.arange(CELLS)

    def go(**options):
        method = build(VAE)
        warm = Plan(epochs=6, batch_size=10, warmup_epochs=4)
        return method, fit(method, all_cells(), rows[:24], rows[24:], warm, device=CPU, seed=0, **options)

    checkpoint = Checkpoint.beside(tmp_path / "model", {"seed": 0})
    with pytest.raises(KeyboardInterrupt):
        go(checkpoint=checkpoint, progress=StopAfter(2))
    (resumed, state), (whole, expected) = go(checkpoint=checkpoint), go()
    assert state.best_loss == expected.best_loss and np.isfinite(state.best_loss)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_part_that_lacks_a_player_leaves_it_as_it_is():
    """A batch without a pair of conditions: no loss, no step of anybody, and the step still counts."""
    method = stgan()
    run = _Run(method, all_cells(), torch.arange(CELLS), torch.arange(0), plan(), CPU, 0, None, None)
    before = {key: p.detach().clone() for key, p in method.named_parameters()}
    batch = cells()
    run.step(batch.with_columns((torch.ones_like(batch.condition),)), 1.0)
    assert all(torch.equal(p, before[key]) for key, p in method.named_parameters()) and run.state.step == 1
