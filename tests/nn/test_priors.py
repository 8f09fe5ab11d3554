"""Priors given covariates: derivatives against autograd, and score matching against densities that are known."""

import pytest
import torch

from cellalign.nn.priors import ExponentialFamilyPrior, NormalPrior

torch.set_num_threads(1)


def prior(p=4, n_context=3, **options) -> ExponentialFamilyPrior:
    torch.manual_seed(0)
    made = ExponentialFamilyPrior(p, n_context, hidden=(7, 6), n_statistics=5, **options).double()
    with torch.no_grad():  # away from its start, where everything but the square is nearly zero
        for value in made.parameters():
            value += 0.3 * torch.randn_like(value)
    return made


def test_derivatives_are_the_gradient_and_the_diagonal_of_the_hessian():
    made, z, context = prior(), torch.randn(6, 4).double(), torch.rand(6, 3).double()
    first, second = made.derivatives(z, context)
    off_diagonal = 0.0
    for i in range(len(z)):

        def density(point, i=i):
            return made(point[None], context[i : i + 1])[0]

        gradient = torch.autograd.functional.jacobian(density, z[i])
        hessian = torch.autograd.functional.hessian(density, z[i])
        torch.testing.assert_close(first[i], gradient)
        torch.testing.assert_close(second[i], hessian.diagonal())
        off_diagonal = max(off_diagonal, float((hessian.sum(1) - hessian.diagonal()).abs().max()))
    assert off_diagonal > 1e-3  # sums of rows, as the authors' code takes them, would be something else


def test_derivatives_agree_with_finite_differences():
    made, z, context = prior(), torch.randn(5, 4).double(), torch.rand(5, 3).double()
    first, second = (d.detach() for d in made.derivatives(z, context))
    step = 1e-4
    for j in range(4):
        shift = torch.zeros(4).double()
        shift[j] = step
        up, here, down = (made(z + k * shift, context).detach() for k in (1, 0, -1))
        torch.testing.assert_close(first[:, j], (up - down) / (2 * step), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(second[:, j], (up - 2 * here + down) / step**2, rtol=1e-4, atol=1e-5)


def test_score_matching_is_the_equation():
    made, z, context = prior(), torch.randn(5, 4).double(), torch.rand(5, 3).double()
    expected = 0.0
    for i in range(5):
        x = z[i : i + 1].clone().requires_grad_()
        gradient = torch.autograd.grad(made(x, context[i : i + 1]).sum(), x, create_graph=True)[0][0]
        for j in range(4):
            second = float(torch.autograd.grad(gradient[j], x, retain_graph=True)[0][0, j])
            expected += second + 0.5 * float(gradient[j].detach()) ** 2 + 0.3 * second**2
    assert float(made.score_matching(z, context, 0.3)) == pytest.approx(expected / 5, rel=1e-10)


def test_score_matching_moves_the_prior_alone_and_the_kl_everything_else():
    made, context = prior(), torch.rand(5, 3).double()
    z = torch.randn(5, 4).double().requires_grad_()
    made.score_matching(z, context).backward()
    assert z.grad is None and all(value.grad is not None for value in made.parameters())
    made.zero_grad(set_to_none=True)
    made.kl(z, torch.full_like(z, 0.5), context).sum().backward()
    assert z.grad is not None and all(value.grad is None for value in made.parameters())


def test_at_the_start_it_is_the_standard_normal():
    made = ExponentialFamilyPrior(3, 2)
    z, context = torch.randn(50, 3), torch.rand(50, 2)
    first, second = made.derivatives(z, context)
    assert float((first + z).detach().abs().max()) < 0.2
    assert float((second + 1).detach().abs().max()) < 0.2


def fitted(z, context, steps=800) -> ExponentialFamilyPrior:
    torch.manual_seed(1)
    made = ExponentialFamilyPrior(z.shape[1], context.shape[1])
    optimiser = torch.optim.Adam(made.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, steps)
    for _ in range(steps):
        rows = torch.randint(len(z), (256,))
        loss = made.score_matching(z[rows], context[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return made


def relative_error(made, z, context, true) -> float:
    """Mean squared error of the fitted score over the true score's mean square."""
    first = made.derivatives(z, context)[0].detach()
    return float((first - true).square().mean() / true.square().mean())


@pytest.mark.slow
def test_the_fitted_score_converges_to_that_of_a_correlated_normal():
    """Two groups whose latents have other means and other correlations: what a factorised prior cannot say."""
    generator = torch.Generator().manual_seed(0)
    group = torch.randint(2, (20_000,), generator=generator)
    context = torch.nn.functional.one_hot(group, 2).float()
    mean = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
    factor = torch.tensor([[[1.0, 0.0], [0.8, 0.6]], [[0.5, 0.0], [-0.9, 1.0]]])
    noise = torch.randn(len(group), 2, generator=generator)
    z = mean[group] + torch.einsum("bij,bj->bi", factor[group], noise)
    precision = torch.linalg.inv(factor @ factor.transpose(1, 2))
    true = -torch.einsum("bij,bj->bi", precision[group], z - mean[group])
    assert relative_error(fitted(z, context), z, context, true) < 0.03


@pytest.mark.slow
def test_the_fitted_score_converges_to_that_of_a_mixture():
    """Two modes of one dimension: no exponential family of z and z^2 has them, T has to learn them."""
    generator = torch.Generator().manual_seed(0)
    side = torch.randint(2, (20_000, 1), generator=generator) * 4.0 - 2.0
    z = side + 0.7 * torch.randn(20_000, 1, generator=generator)
    weights = torch.softmax(torch.cat([-((z + 2) ** 2), -((z - 2) ** 2)], 1) / (2 * 0.7**2), 1)
    true = (-(z + 2) * weights[:, :1] - (z - 2) * weights[:, 1:]) / 0.7**2
    context = torch.zeros(len(z), 0)
    assert relative_error(fitted(z, context), z, context, true) < 0.1


def test_normal_prior_kl_is_closed_form_and_can_be_centred():
    torch.manual_seed(0)
    made = NormalPrior(3, 2).double()
    mean, scale, context = (torch.rand(4, n).double() for n in (3, 3, 2))
    centre, width = made(context)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, scale), torch.distributions.Normal(centre, width)
    ).sum(1)
    torch.testing.assert_close(made.kl(mean, scale, context), expected)
    assert float(NormalPrior(3, 2, centred=True)(torch.rand(4, 2))[0].abs().max()) == 0


def test_means_of_a_normal_prior_can_start_apart():
    torch.manual_seed(0)
    near, far = NormalPrior(4, 3), NormalPrior(4, 3, apart=2.0)
    spread = [float(made(torch.eye(3))[0].detach().std(0).mean()) for made in (near, far)]
    assert spread[0] < 0.5 and 1 < spread[1] < 4
