"""Clusters of several conditions at once."""

import torch

from cellalign.methods import states as module


def test_clusters_are_of_all_conditions_after_levelling(monkeypatch):
    torch.manual_seed(0)
    kind, condition = torch.arange(600) % 3, (torch.arange(600) // 3) % 2
    at = torch.tensor([[0.0, 0, 0], [6, 0, 0], [0, 6, 0]])
    y = at[kind] + torch.tensor([[0.0, 0, 0], [3, 3, 9]])[condition] + 0.3 * torch.randn(600, 3)
    for most in (50_000, 300):
        monkeypatch.setattr(module, "MOST_CELLS", most)
        assert len(module.some(y)) == min(600, most)
        centres, levels = module.states(y, condition, 3)
        found = torch.cdist(y - levels[condition], centres).argmin(1)
        table = torch.zeros(3, 3)
        for a, b in zip(kind.tolist(), found.tolist(), strict=True):
            table[a, b] += 1
        assert (table.max(1).values == 200).all() and sorted(table.argmax(1).tolist()) == [0, 1, 2]
        apart = levels[1] - levels[0]
        assert torch.allclose(apart, torch.tensor([3.0, 3, 9]), atol=0.2)
