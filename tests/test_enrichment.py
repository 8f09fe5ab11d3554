"""Gene sets among the genes that a latent moves: the test against scipy's, and a latent whose genes are known."""

import logging

import numpy as np
import pytest
from scipy import stats

import cellalign
from cellalign.enrichment import add_enrichment, enrichment, fisher, latent_effects
from cellalign.errors import InputError, UsageError


def test_fisher_is_scipys_exact_test_of_every_table():
    rng = np.random.default_rng(0)
    for _ in range(200):
        n = int(rng.integers(4, 40))
        moved, members = int(rng.integers(1, n)), int(rng.integers(1, n))
        overlap = int(rng.integers(max(0, moved + members - n), min(moved, members) + 1))
        table = [[overlap, moved - overlap], [members - overlap, n - moved - members + overlap]]
        expected = stats.fisher_exact(table, alternative="greater")
        p, odds = fisher(np.array([overlap]), moved, np.array([members]), n)
        assert p[0] == pytest.approx(expected.pvalue, rel=1e-9)
        assert odds[0] == pytest.approx(expected.statistic, nan_ok=True)


def test_a_planted_set_is_found_and_q_is_over_all_tests():
    rng = np.random.default_rng(1)
    genes = np.array([f"G{i}" for i in range(200)])
    effect = rng.normal(size=(2, 200)) * 0.1
    effect[0, :20] = -3
    member = np.zeros((11, 200), dtype=bool)
    member[0, 2:22] = True
    for row in member[1:]:
        row[rng.choice(200, 20, replace=False)] = True
    names = [f"S{i}" for i in range(11)]
    table = enrichment(effect, member, names, [25] * 11, genes, ["z0", "z1"], 20)
    assert len(table) == 22 and table.iloc[0][["latent", "gene_set"]].tolist() == ["z0", "S0"]
    first = table.iloc[0]
    assert (first["size"], first["in_model"], first["moved"], first["overlap"]) == (25, 20, 20, 18)
    assert first["direction"] == 0 and set(first["genes"].split()) == {f"G{i}" for i in range(2, 20)}
    assert first["odds_ratio"] == pytest.approx(18 * 178 / 4)
    assert first["q"] < 1e-9 and (table["q"][1:] > 0.05).all()
    order = np.sort(table["p"].to_numpy())
    by_hand = np.minimum.accumulate((order * 22 / np.arange(1, 23))[::-1])[::-1]
    np.testing.assert_allclose(np.sort(table["q"]), by_hand)


@pytest.fixture
def planted(svae_model, shifts):
    """A set of the genes that z0 moves most, and sets of others."""
    effect = np.abs(latent_effects(svae_model, shifts))
    genes = np.array(svae_model.genes)
    order = np.argsort(-effect[0])
    return {"MOVED": genes[order[:8]].tolist(), "STILL": genes[order[-8:]].tolist(), "TWO": genes[:2].tolist()}


def test_effects_of_latents_against_a_loop(svae_model, shifts):
    import torch

    chosen = shifts[:3]
    found = latent_effects(svae_model, chosen)
    method, z = svae_model.method, torch.as_tensor(svae_model.embed(chosen))
    batch = svae_model.cells(chosen, with_condition=False).batch(torch.arange(3))
    control = np.flatnonzero((chosen.obs["perturbation"] == "control").to_numpy())
    rows = control if len(control) else np.arange(3)
    with torch.no_grad():
        for latent in range(z.shape[1]):
            change = 0.0
            for sign in (1, -1):
                moved = z.clone()
                moved[:, latent] += sign
                mean = method.decode(moved, batch).distribution.mean.double().numpy()
                change = change + sign * np.log1p(1e4 * mean / mean.sum(1, keepdims=True))[rows].mean(0) / 2
            np.testing.assert_allclose(found[latent], change, rtol=1e-3, atol=1e-5)


def test_targets_tell_the_sets_a_latent_moves(svae_model, shifts, planted, caplog):
    caplog.set_level(logging.INFO, logger="cellalign")
    graph = cellalign.targets(svae_model, shifts, gene_sets=planted, top_genes=8)
    table = graph.uns["enrichment"]
    assert "2 of 3 gene sets are tested" in caplog.text and len(table) == 2 * graph.n_vars
    first = table[table["latent"] == "z0"].iloc[0]
    assert first["gene_set"] == "MOVED" and first["overlap"] == 8 and first["odds_ratio"] == np.inf
    assert graph.var.loc["z0", "gene_sets"].startswith("MOVED")
    assert (table["p"] <= 1).all() and (table["q"] >= table["p"]).all()


def test_what_cannot_be_tested_is_one_line(svae_model, shifts, planted):
    graph = cellalign.targets(svae_model)
    for n in (0, len(svae_model.genes)):
        with pytest.raises(UsageError, match=f"top_genes={n} is not between"):
            add_enrichment(graph, svae_model, shifts, planted, n)
    with pytest.raises(InputError, match="none of 1 sets has 3 of the model's"):
        add_enrichment(graph, svae_model, shifts, {"TWO": planted["TWO"]}, 5)
    with pytest.raises(UsageError, match="gene_sets needs cells"):
        cellalign.targets(svae_model, gene_sets=planted)


def test_of_few_genes_half_are_moved_by_default(svae_model, shifts, planted):
    table = add_enrichment(cellalign.targets(svae_model), svae_model, shifts, planted).uns["enrichment"]
    assert set(table["moved"]) == {min(50, len(svae_model.genes) // 2)}


def test_a_latent_that_moves_no_gene_has_no_gene_sets():
    """It was taken to move the genes that the file has first."""
    effect = np.zeros((2, 200))
    effect[1, 150:160] = 1.0
    member = np.arange(200)[None] < 20
    genes = np.array([f"g{i}" for i in range(200)])
    table = enrichment(effect, member, ["first"], [20], genes, ["z0", "z1"], 50)
    assert table["moved"].tolist() == [0, 10] and table["overlap"].tolist() == [0, 0]
    assert (table["q"] == 1).all()
