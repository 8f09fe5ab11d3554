"""Style-transfer GAN: who learns from which loss, and what a translation of three conditions keeps."""

import numpy as np
import pytest
import torch
from support import as_cells, layout, minibatch, predicted, to

import cellalign
from cellalign.engine.fit import _Run
from cellalign.engine.plan import Plan
from cellalign.methods.base import Loss
from cellalign.methods.registry import get

SETTINGS = {"hidden": [48, 16, 48], "discriminator_hidden": [32], "batch_size": 48, "lr": 0.01}


def build(conditions=3, control=1):
    torch.manual_seed(0)
    cls = get("stgan")
    settings = cls.Hyperparameters(hidden=(8, 4, 8), discriminator_hidden=(6,))
    return cls(settings, layout(12, conditions, control=control))


def cells(n=30):
    torch.manual_seed(1)
    return minibatch(torch.rand(n, 12), layout(12, 3), torch.arange(n) % 3)


def differentiate(method, loss):
    """Leave the gradients of a loss in the parameters, as the engine does."""
    rows, none = torch.arange(30), torch.arange(0)
    run = _Run(method, as_cells(cells()), rows, none, Plan(epochs=1), torch.device("cpu"), 0, None, None)
    run.differentiate(loss)


def reached(method):
    return {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}


def alone(method, player, *parts):
    """Networks that the engine moves where a player's loss is the sum of these parts, and the others' is nothing."""
    home, away = cells().x[cells().condition == 1], cells().x[cells().condition == 2]
    losses = method.pair(2, home, away)
    total = sum(losses[part] for part in parts)
    differentiate(method, Loss(total, {}, {player: total}))
    return reached(method)


def test_each_player_learns_from_its_own_loss():
    method = build()
    assert alone(method, "discriminators", "discrimination") == {"discriminators"}
    assert alone(method, "generators", "adversarial") == {"to_condition", "to_reference"}
    assert alone(method, "generators", "cycle", "identity") == {"to_condition", "to_reference"}


def test_all_players_learn_at_once_and_of_what_they_are_given():
    method = build()
    players = method.players()
    owned = [p for player in players.values() for p in player.parameters]
    assert len(owned) == len(set(owned)) and set(owned) == set(method.parameters())
    loss = method(cells(), 1.0)
    expected = {
        name: torch.autograd.grad(loss.by_player[name], player.parameters, retain_graph=True, allow_unused=True)
        for name, player in players.items()
    }
    # the discriminators' loss sees translations as given
    generators = players["generators"].parameters
    unused = torch.autograd.grad(
        loss.by_player["discriminators"], generators, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    assert not any(gradient.any() for gradient in unused)
    differentiate(method, loss)
    for name, player in players.items():
        for parameter, gradient in zip(player.parameters, expected[name], strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


def test_losses_are_the_equations():
    method, batch = build().eval(), cells()
    home, away = batch.x[batch.condition == 1], batch.x[batch.condition == 2]
    found = method.pair(2, home, away)
    leave, back = method.to_condition["2"], method.to_reference["2"]
    judge_home, judge_away = method.discriminators[1], method.discriminators[2]
    p = {
        name: torch.sigmoid(logit).double()
        for name, logit in (
            ("home", judge_home(home)),
            ("away", judge_away(away)),
            ("made home", judge_home(back(away))),
            ("made away", judge_away(leave(home))),
        )
    }
    judge = 0.5 * -(p["home"].log().mean() + p["away"].log().mean())
    judge = judge - 0.5 * ((1 - p["made home"]).log().mean() + (1 - p["made away"]).log().mean())
    torch.testing.assert_close(found["discrimination"].double(), judge, atol=1e-5, rtol=1e-5)
    fooled = -(p["made home"].log().mean() + p["made away"].log().mean())
    torch.testing.assert_close(found["adversarial"].double(), fooled, atol=1e-5, rtol=1e-5)
    cycle = (back(leave(home)) - home).square().mean() + (leave(back(away)) - away).square().mean()
    torch.testing.assert_close(found["cycle"], cycle)
    identity = (leave(away) - away).square().mean() + (back(home) - home).square().mean()
    torch.testing.assert_close(found["identity"], identity)


def test_conditions_meet_at_the_reference():
    method, batch = build().eval(), cells()
    home = batch.condition == 1
    z = method.at_reference(batch)
    torch.testing.assert_close(z[home], batch.x[home])
    torch.testing.assert_close(z[batch.condition == 2], method.to_reference["2"](batch.x[batch.condition == 2]))
    found = predicted(method, batch, to(0), samples=3)
    torch.testing.assert_close(found["X"], method.to_condition["0"](z).detach())
    assert not found["sd_of_mean"].any()
    torch.testing.assert_close(method.embedding(batch), method.to_condition["0"].bottleneck(z))
    assert method.embedding(batch).shape == (30, 4)


def test_a_batch_without_a_pair_costs_nothing():
    batch = cells()
    single = batch.with_condition(torch.ones(30, dtype=torch.int64))
    method = build()
    loss = method(single, 1.0)
    differentiate(method, loss)
    assert float(loss.total.detach()) == 0 and all(p.grad is None for p in method.parameters())
    assert set(loss.parts) == set(method(batch, 1.0).parts)  # the engine averages parts over an epoch's batches


@pytest.mark.learns
@pytest.mark.slow
@pytest.mark.parametrize("to", ["stimulated", "control"])
def test_it_learns_the_response(tiny, to):
    model = cellalign.train(tiny, method="stgan", condition="stim", settings=SETTINGS | {"epochs": 100})
    predicted = cellalign.counterfactual(tiny, model, to=to, from_="control" if to == "stimulated" else "stimulated")
    real = {c: np.asarray(tiny[tiny.obs["stim"] == c].X.mean(0)).ravel() for c in ("control", "stimulated")}
    change = predicted.X.mean(0) - real["control" if to == "stimulated" else "stimulated"]
    true = real[to] - real["control" if to == "stimulated" else "stimulated"]
    assert np.corrcoef(change, true)[0, 1] > 0.8


def test_after_training_a_generator_normalises_by_the_cells_it_translates():
    """Whatever it met in training: its prediction is what training's own normalisation of those cells gives."""
    torch.manual_seed(0)
    cls = get("stgan")
    sizes = layout(6, 2, control=0)
    method = cls(cls.Hyperparameters(hidden=(8, 4, 8), discriminator_hidden=(4,)), sizes)
    condition = torch.arange(4000) % 2
    batch = minibatch(torch.rand(4000, 6) + 3 * condition[:, None], sizes, condition)
    home, away = batch.x[condition == 0], batch.x[condition == 1]
    leave, back = method.to_condition["1"], method.to_reference["1"]
    expected = leave(home).detach(), back(away).detach()
    for _ in range(5):  # what training shows it besides
        leave(away), back(home)
    off = (leave.eval()(home) - expected[0]).abs().max()
    with torch.no_grad():
        method.fit_closed_form(lambda: iter([batch]))
    torch.testing.assert_close(leave(home), expected[0], atol=0.01, rtol=0.01)
    torch.testing.assert_close(back(away), expected[1], atol=0.01, rtol=0.01)
    assert float(off.detach()) > 0.1


def test_statistics_are_of_cells_as_they_are_translated():
    """Without dropout; and a condition of which no batch has two cells keeps what training gave it."""
    batch = cells()
    condition = batch.condition.clone()
    condition[(condition == 2).nonzero()[1:]] = 0
    batch = batch.with_condition(condition)
    plain, dropped = build(), build()
    for module in dropped.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    for method in (plain, dropped):
        torch.manual_seed(3)
        method.to_reference["2"](batch.x)
    before = {k: v.clone() for k, v in plain.to_reference["2"].state_dict().items()}
    for method in (plain, dropped):
        method.eval()
        with torch.no_grad():
            method.fit_closed_form(lambda: iter([batch]))
        assert not any(module.training for module in method.modules())
    torch.testing.assert_close(dropped.to_condition["0"](batch.x), plain.to_condition["0"](batch.x))
    assert all(torch.equal(v, before[k]) for k, v in plain.to_reference["2"].state_dict().items())
