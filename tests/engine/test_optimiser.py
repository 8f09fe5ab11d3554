"""One fused step moves parameters as torch's AdamW does, one without a gradient not at all."""

import pytest
import torch

from cellalign.engine.optimiser import AdamW


@pytest.fixture
def both():
    torch.manual_seed(0)
    ours = [
        torch.nn.Parameter(torch.randn(7, 3)),
        torch.nn.Parameter(torch.randn(5)),
        torch.nn.Parameter(torch.ones(())),
    ]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    return ours, theirs


def test_it_moves_parameters_as_torchs_class_does(both):
    ours, theirs = both
    mine, reference = AdamW(ours, weight_decay=0.05, eps=1e-6), torch.optim.AdamW(theirs, weight_decay=0.05, eps=1e-6)
    for step in range(12):
        rate = 0.1 / (step + 1)
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            a.grad = b.grad = None if (step + i) % 4 == 0 else torch.randn_like(a)
        mine.step(rate)
        reference.param_groups[0]["lr"] = rate
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_of_some_parameters_nothing_decays(both):
    ours, theirs = both
    mine = AdamW(ours, weight_decay=0.3, eps=1e-8, undecayed={1})
    groups = [{"params": [theirs[0], theirs[2]]}, {"params": [theirs[1]], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.3)
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = b.grad = torch.randn_like(a)
        mine.step(0.1)
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_a_step_without_any_gradient_moves_nothing(both):
    before = [p.detach().clone() for p in both[0]]
    AdamW(both[0], weight_decay=0.5, eps=1e-8).step(1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, both[0], strict=True))


def test_what_was_kept_goes_on_to_the_bit(both):
    first, second = both
    one, other = AdamW(first, weight_decay=0.1, eps=1e-8), AdamW(second, weight_decay=0.1, eps=1e-8)
    steps = [[torch.randn_like(p) for p in first] for _ in range(4)]

    def go(optimiser, gradients):
        for p, gradient in zip(optimiser.parameters, gradients, strict=True):
            p.grad = gradient.clone()
        optimiser.step(0.01)

    for gradients in steps[:2]:
        go(one, gradients)
    other.restore({name: values.clone() for name, values in one.tensors().items()})
    for mine, theirs in zip(second, first, strict=True):
        mine.data.copy_(theirs.data)
    for gradients in steps[2:]:
        go(one, gradients)
        go(other, gradients)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_gradient_of_another_layout_moves_what_it_should():
    torch.manual_seed(0)
    one, other = (torch.nn.Parameter(torch.arange(12.0).view(4, 3)) for _ in range(2))
    gradient = torch.randn(3, 4)
    one.grad, other.grad = gradient.T, gradient.T.contiguous()
    for p in (one, other):
        AdamW([p], weight_decay=0.0, eps=1e-8).step(0.1)
    assert torch.equal(one, other)
    one.grad = torch.ones(()).expand(4, 3)
    other.grad = torch.ones(4, 3)
    for p in (one, other):
        AdamW([p], weight_decay=0.0, eps=1e-8).step(0.1)
    assert torch.equal(one, other)


def test_a_parameter_named_twice_moves_once_and_types_may_differ():
    narrow, wide = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimiser = AdamW([narrow, wide, narrow], weight_decay=0.0, eps=1e-8)
    narrow.grad, wide.grad = torch.ones(3), torch.ones(3, dtype=torch.float64)
    optimiser.step(0.1)
    torch.testing.assert_close(narrow, torch.full((3,), 0.9))
    torch.testing.assert_close(wide, torch.full((3,), 0.9, dtype=torch.float64))


def test_a_frozen_parameter_keeps_nothing():
    frozen, free = torch.nn.Parameter(torch.ones(3), requires_grad=False), torch.nn.Parameter(torch.ones(2))
    optimiser = AdamW([frozen, free], weight_decay=0.1, eps=1e-8)
    free.grad = torch.ones(2)
    optimiser.step(0.1)
    assert sorted(optimiser.tensors()) == ["1.exp_avg", "1.exp_avg_sq", "1.step"]
    assert torch.equal(frozen, torch.ones(3))


def test_of_a_parameter_parts_may_make_a_part_of_a_step_or_none():
    start = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    share = torch.tensor([0.0, 1.0, 0.5, 0.0])[:, None].expand(4, 3)
    whole, part = (torch.nn.Parameter(start.clone()) for _ in range(2))
    options = {"weight_decay": 0.1, "eps": 1e-8}
    for parameter, shares in ((whole, {}), (part, {0: share})):
        parameter.grad = torch.ones(4, 3)
        AdamW([parameter], **options, shares=shares).step(0.1)
    assert torch.equal(part[[0, 3]], start[[0, 3]]) and torch.equal(part[1], whole[1])
    torch.testing.assert_close(part[2], (start[2] + whole[2]) / 2)
