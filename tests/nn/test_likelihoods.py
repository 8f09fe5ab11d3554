"""Likelihood layers: many draws at once give what one after the other gives; means are those of the equations."""

import pytest
import torch
from torch.nn import functional as F

from cellalign.nn.likelihoods import Counts, make_likelihood
from cellalign.nn.minibatch import Minibatch
from cellalign.nn.sparse import SparseRows


@pytest.fixture
def batch():
    torch.manual_seed(0)
    x = torch.poisson(torch.rand(6, 20) * 2)
    x[1] = 0
    return Minibatch(SparseRows.of(x))


@pytest.mark.parametrize("kind", ["gaussian", "nb", "zinb"])
def test_draws_at_once_and_one_by_one(kind, batch):
    layer = make_likelihood(kind, 5, 20)
    h = torch.randn(4, 6, 5)
    one_by_one = torch.stack([layer(draw, batch).nll(batch) for draw in h])
    torch.testing.assert_close(layer(h, batch).nll(batch), one_by_one, rtol=1e-5, atol=1e-4)


def test_means_of_counts_keep_the_library_size_unless_dropped_out(batch):
    torch.manual_seed(1)
    h = torch.randn(6, 5)
    nb, zinb = make_likelihood("nb", 5, 20), make_likelihood("zinb", 5, 20)
    # a cell without a count is taken to have one
    torch.testing.assert_close(nb(h, batch).mean.sum(1), batch.library_size[:, 0].clamp(min=1))
    kept = torch.sigmoid(-zinb.to_dropout(h))
    expected = F.softmax(zinb.to_logits(h), -1) * batch.library_size.clamp(min=1) * kept
    torch.testing.assert_close(zinb(h, batch).mean, expected)


@pytest.mark.parametrize("kind", ["nb", "zinb"])
def test_a_sample_prefers_its_own_parameters(kind, batch):
    torch.manual_seed(2)
    layer = make_likelihood(kind, 5, 20)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.05)
    h = torch.randn(6, 5)
    before = float(layer(h, batch).nll(batch).mean())
    for _ in range(200):
        optimiser.zero_grad()
        layer(h, batch).nll(batch).mean().backward()
        optimiser.step()
    assert float(layer(h, batch).nll(batch).mean()) < before - 5


@pytest.mark.parametrize("watched", [False, True])
def test_heads_of_another_kind_or_with_hooks_are_called(watched):
    """As a plugin's may be."""
    seen = []

    class Own(Counts):
        def __init__(self):
            super().__init__(4, 6)
            if watched:
                self.to_logits.register_forward_hook(lambda *_: seen.append(1))
            else:
                self.to_logits = torch.nn.Sequential(torch.nn.Linear(4, 6))

    cells = torch.poisson(torch.ones(3, 6))
    distribution = Own()(torch.randn(3, 4), Minibatch(cells))
    assert distribution.logits.shape == (3, 6) and len(seen) == watched
