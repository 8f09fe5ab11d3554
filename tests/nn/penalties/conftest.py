"""What the tests of the penalties share: blocks of a few rows, and gradients to compare."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cellalign.nn.penalties import blocks


@pytest.fixture(params=["as ever", "small"])
def block_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Blocks as they are, into which few cells fit at once, or so small that there are many and some are shared."""
    if request.param == "small":
        for name, value in {"PAIRS": 1, "LEAST_ROWS": 5, "OWN_BLOCK": 4}.items():
            monkeypatch.setattr(blocks, name, value)
    return request.param


Agree = Callable[..., None]


def _with_gradients(penalty: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    value = penalty(*leaves)
    return value.detach(), *torch.autograd.grad(value, leaves)


@pytest.fixture
def agree() -> Agree:
    """Assert that two penalties have the same value and gradients, relative to the largest entry of each."""

    def check(found: Callable[..., Tensor], expected: Callable[..., Tensor], *inputs: Tensor, value: float) -> None:
        pairs = zip(*(_with_gradients(penalty, inputs) for penalty in (found, expected)), strict=True)
        for number, (a, b) in enumerate(pairs):
            tolerance = value if number == 0 else 10 * value
            torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(b.abs().max()) + 1e-12)

    return check


@pytest.fixture
def slope() -> Callable[..., list[Tensor]]:
    """Gradients of a function of tensors by central differences, in float64."""

    def differences(function: Callable[..., float], *inputs: Tensor, step: float = 1e-5) -> list[Tensor]:
        gradients = []
        for number, tensor in enumerate(inputs):
            gradient = torch.empty_like(tensor)
            for k in range(tensor.numel()):
                sides = []
                for sign in (1, -1):
                    moved = [t.clone() for t in inputs]
                    moved[number].view(-1)[k] += sign * step
                    sides.append(function(*moved))
                gradient.view(-1)[k] = (sides[0] - sides[1]) / (2 * step)
            gradients.append(gradient)
        return gradients

    return differences
