"""Likelihood layers: many draws at once give what one after the other gives; means are those of the equations."""

import pytest
import torch
from torch.nn import functional as F

from cellalign.nn.batch import Batch, SparseRows
from cellalign.nn.likelihoods import make_likelihood


@pytest.fixture
def batch():
    torch.manual_seed(0)
    x = torch.poisson(torch.rand(6, 20) * 2)
    x[1] = 0
    return Batch.of(SparseRows.of(x), torch.zeros(6, dtype=torch.int64))


@pytest.mark.parametrize("kind", ["gaussian", "nb", "zinb"])
def test_draws_at_once_and_one_by_one(kind, batch):
    layer = make_likelihood(kind, 5, 20)
    h = torch.randn(4, 6, 5)
    one_by_one = torch.stack([layer.nll(draw, batch) for draw in h])
    torch.testing.assert_close(layer.particles_nll(h, batch), one_by_one, rtol=1e-5, atol=1e-4)


def test_means_of_counts_keep_the_library_size_unless_dropped_out(batch):
    torch.manual_seed(1)
    h = torch.randn(6, 5)
    nb, zinb = make_likelihood("nb", 5, 20), make_likelihood("zinb", 5, 20)
    # a cell without a count is taken to have one
    torch.testing.assert_close(nb.mean(h, batch).sum(1), batch.library_size[:, 0].clamp(min=1))
    kept = torch.sigmoid(-zinb.to_dropout(h))
    expected = F.softmax(zinb.to_logits(h), -1) * batch.library_size.clamp(min=1) * kept
    torch.testing.assert_close(zinb.mean(h, batch), expected)


@pytest.mark.parametrize("kind", ["nb", "zinb"])
def test_a_sample_prefers_its_own_parameters(kind, batch):
    torch.manual_seed(2)
    layer = make_likelihood(kind, 5, 20)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.05)
    h = torch.randn(6, 5)
    before = float(layer.nll(h, batch).mean())
    for _ in range(200):
        optimiser.zero_grad()
        layer.nll(h, batch).mean().backward()
        optimiser.step()
    assert float(layer.nll(h, batch).mean()) < before - 5
