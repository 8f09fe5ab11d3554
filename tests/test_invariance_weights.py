"""benchmarks/invariance_weights.py: the normaliser that makes inVAE's bound a number to compare."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch

from cellalign.nn.priors import ExponentialFamilyPrior

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the source archive has no benchmarks")


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("invariance_weights", BENCHMARKS / "invariance_weights.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(BENCHMARKS))


@torch.no_grad()
def test_the_normaliser_is_the_known_one_of_a_normal_prior(script):
    torch.manual_seed(0)
    prior = ExponentialFamilyPrior(6, 3)
    for weight in prior.weights.parameters():
        weight.zero_()  # without T it is a normal, whose integral is known
    prior.natural.last.weight.mul_(50)
    context = torch.tensor([0.0, 1.0, 0.0])
    linear, square = prior._natural(context[None])
    known = float((0.5 * torch.log(math.pi / -square) - linear.square() / (4 * square)).sum())
    found, effective = script.log_normaliser(prior, context, torch.randn(50, 6), 20_000)
    assert found == pytest.approx(known, abs=0.02) and effective > 1000


@torch.no_grad()
def test_the_normaliser_is_the_integral_of_one_latent(script):
    torch.manual_seed(1)
    prior = ExponentialFamilyPrior(1, 2)
    prior.weights.last.weight.mul_(100)  # far from a normal
    context, grid = torch.tensor([1.0, 0.0]), torch.linspace(-12, 12, 20_001)[:, None]
    integral = torch.trapezoid(prior(grid, context.expand(len(grid), -1)).exp(), grid[:, 0])
    found, _ = script.log_normaliser(prior, context, torch.randn(50, 1), 20_000)
    assert found == pytest.approx(float(integral.log()), abs=0.02)
