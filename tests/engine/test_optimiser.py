"""The optimiser takes torch's steps, to the bit, and its state goes from one to the other."""

import copy

import pytest
import torch

from cellalign.engine.optimiser import AdamW


def stepped(kind, model, steps, state=None):
    optimiser = kind(model.parameters(), lr=0.01, weight_decay=0.1, eps=1e-8, fused=True)
    if state is not None:
        optimiser.load_state_dict(state)
    torch.manual_seed(1)
    for _ in range(steps):
        optimiser.zero_grad(set_to_none=True)
        model(torch.randn(8, 5)).square().sum().backward()
        optimiser.step()
    return [parameter.detach() for parameter in model.parameters()], copy.deepcopy(optimiser.state_dict())


@pytest.mark.parametrize("used_before", [False, True])
def test_steps_are_torchs(used_before):
    torch.manual_seed(0)
    start = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    if used_before:  # torch then wraps its own step once more
        stepped(torch.optim.AdamW, copy.deepcopy(start), 1)
    ours, state = stepped(AdamW, copy.deepcopy(start), 5)
    theirs, expected = stepped(torch.optim.AdamW, copy.deepcopy(start), 5)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert state["param_groups"] == expected["param_groups"]
    assert [sorted(slots) for slots in state["state"].values()] == [
        sorted(slots) for slots in expected["state"].values()
    ]
    ours, _ = stepped(AdamW, copy.deepcopy(start), 3, state)
    theirs, _ = stepped(torch.optim.AdamW, copy.deepcopy(start), 3, expected)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_a_step_is_not_differentiated():
    weight = torch.nn.Parameter(torch.ones(3))
    optimiser = AdamW([weight], lr=0.1)
    weight.sum().backward()
    optimiser.step()
    assert weight.is_leaf and weight.requires_grad and torch.is_grad_enabled()
