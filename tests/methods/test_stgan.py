"""Style-transfer GAN: who learns from which loss, and what a translation of three conditions keeps."""

import numpy as np
import pytest
import torch

import cellalign
from cellalign.methods.base import Dimensions, Target
from cellalign.methods.registry import get
from cellalign.nn.batch import Batch

SETTINGS = {"hidden": [48, 16, 48], "judge": [32], "batch_size": 48, "lr": 0.01}


def build(conditions=3, control=1):
    torch.manual_seed(0)
    cls = get("stgan")
    return cls(cls.Hyperparameters(hidden=(8, 4, 8), judge=(6,)), Dimensions(12, conditions, control=control))


def cells(n=30):
    torch.manual_seed(1)
    return Batch.of(torch.rand(n, 12), torch.arange(n) % 3)


def gradients(method, *parts):
    method.zero_grad()
    home, away = cells().x[cells().condition == 1], cells().x[cells().condition == 2]
    losses = method.pair(2, home, away)
    sum(losses[part] for part in parts).backward()
    reached = {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    return reached


def test_each_player_learns_from_its_own_loss():
    method = build()
    assert gradients(method, "judge") == {"judges"}
    assert gradients(method, "adversarial") == {"leave", "back"}
    assert gradients(method, "cycle", "identity") == {"leave", "back"}


def test_losses_are_the_equations():
    method, batch = build().eval(), cells()
    home, away = batch.x[batch.condition == 1], batch.x[batch.condition == 2]
    found = method.pair(2, home, away)
    leave, back, judge_home, judge_away = method.leave["2"], method.back["2"], method.judges[1], method.judges[2]
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
    torch.testing.assert_close(found["judge"].double(), judge, atol=1e-5, rtol=1e-5)
    fooled = -(p["made home"].log().mean() + p["made away"].log().mean())
    torch.testing.assert_close(found["adversarial"].double(), fooled, atol=1e-5, rtol=1e-5)
    cycle = (back(leave(home)) - home).square().mean() + (leave(back(away)) - away).square().mean()
    torch.testing.assert_close(found["cycle"], cycle)
    identity = (leave(away) - away).square().mean() + (back(home) - home).square().mean()
    torch.testing.assert_close(found["identity"], identity)


def test_conditions_meet_at_the_reference():
    method, batch = build().eval(), cells()
    home = batch.condition == 1
    z = method.encode(batch).mean
    torch.testing.assert_close(z[home], batch.x[home])
    torch.testing.assert_close(z[batch.condition == 2], method.back["2"](batch.x[batch.condition == 2]))
    predicted, spread = method.counterfactual(batch, Target((0,)), n_samples=3)
    torch.testing.assert_close(predicted, method.leave["0"](z))
    assert spread is not None and not spread.any()
    assert method.embedding(batch).shape == (30, 4)


def test_a_batch_without_a_pair_costs_nothing():
    batch = cells()
    alone = Batch.of(batch.x, torch.ones(30, dtype=torch.int64))
    method = build()
    loss = method.loss(alone, 1.0)
    loss.total.backward()
    assert float(loss.total.detach()) == 0 and all(p.grad is None for p in method.parameters())
    assert set(loss.parts) == set(method.loss(batch, 1.0).parts)  # the engine averages parts over an epoch's batches


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
    method = cls(cls.Hyperparameters(hidden=(8, 4, 8), judge=(4,)), Dimensions(6, 2, control=0))
    condition = torch.arange(4000) % 2
    batch = Batch.of(torch.rand(4000, 6) + 3 * condition[:, None], condition)
    home, away = batch.x[condition == 0], batch.x[condition == 1]
    leave, back = method.leave["1"], method.back["1"]
    expected = leave(home).detach(), back(away).detach()
    for _ in range(5):  # what training shows it besides
        leave(away), back(home)
    off = (leave.eval()(home) - expected[0]).abs().max()
    with torch.no_grad():
        method.finish(lambda: iter([batch]))
    torch.testing.assert_close(leave(home), expected[0], atol=0.01, rtol=0.01)
    torch.testing.assert_close(back(away), expected[1], atol=0.01, rtol=0.01)
    assert float(off.detach()) > 0.1


def test_statistics_are_of_cells_as_they_are_translated():
    """Without dropout; and a condition of which no batch has two cells keeps what training gave it."""
    batch = cells()
    condition = batch.condition.clone()
    condition[(condition == 2).nonzero()[1:]] = 0
    batch = Batch.of(batch.x, condition)
    plain, dropped = build(), build()
    for module in dropped.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    for method in (plain, dropped):
        torch.manual_seed(3)
        method.back["2"](batch.x)
    before = {k: v.clone() for k, v in plain.back["2"].state_dict().items()}
    for method in (plain, dropped):
        method.eval()
        with torch.no_grad():
            method.finish(lambda: iter([batch]))
        assert not any(module.training for module in method.modules())
    torch.testing.assert_close(dropped.leave["0"](batch.x), plain.leave["0"](batch.x))
    assert all(torch.equal(v, before[k]) for k, v in plain.back["2"].state_dict().items())
