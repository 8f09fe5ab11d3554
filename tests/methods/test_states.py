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
        assert len(module.some(condition)) == min(600, most)
        centres, levels = module.states(y, condition, 3)
        found = torch.cdist(y - levels[condition], centres).argmin(1)
        table = torch.zeros(3, 3)
        for a, b in zip(kind.tolist(), found.tolist(), strict=True):
            table[a, b] += 1
        assert (table.max(1).values == 200).all() and sorted(table.argmax(1).tolist()) == [0, 1, 2]
        apart = levels[1] - levels[0]
        assert torch.allclose(apart, torch.tensor([3.0, 3, 9]), atol=0.2)


def test_of_many_cells_those_of_rare_conditions_are_among_those_drawn(monkeypatch):
    """A condition of which no cell was drawn was not levelled, and its cells were no state of others'."""
    monkeypatch.setattr(module, "MOST_CELLS", 200)
    torch.manual_seed(0)
    condition = torch.cat([torch.zeros(3000), torch.ones(25), torch.full((4,), 2.0)]).long()
    kind = torch.arange(len(condition)) % 2
    y = 5.0 * kind[:, None] + 3.0 * condition[:, None] + 0.1 * torch.randn(len(condition), 2)
    state = torch.random.get_rng_state()
    drawn = module.some(condition)
    torch.random.set_rng_state(state)
    first = torch.randperm(len(y))[:200]
    assert bool(torch.isin(first, drawn).all()) and len(drawn.unique()) == len(drawn)
    there = condition[drawn].bincount()
    assert there[1:].tolist() == [10, 4] and there[0] == condition[first].bincount()[0]
    level = module.levels(y[drawn], condition[drawn], kind[drawn], 3)
    assert float((level.diff(dim=0) - 3).abs().max()) < 0.2
    assert module.some(condition[:200]).tolist() == list(range(200))
