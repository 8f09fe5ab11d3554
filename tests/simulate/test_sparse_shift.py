"""Simulated sparse shifts have the distribution that the paper's appendix B gives, and options do what they say."""

import numpy as np
import pytest

from cellalign import simulate
from cellalign.errors import UsageError


@pytest.fixture(scope="module")
def made():
    return simulate.sparse_shift(30, 200, n_latent=10, n_genes=25, n_heldout=6, n_controls=150)


def test_cells_and_names(made):
    sizes = made.obs["perturbation"].value_counts()
    assert made.shape == (30 * 200 + 150, 25) and sizes.pop("control") == 150 and set(sizes) == {200}
    held = made.obs.loc[made.obs["split"] == "heldout", "perturbation"].unique()
    assert sorted(held) == [f"p{i}" for i in range(24, 30)]


def test_latents_are_normal_around_the_effects(made):
    truth = made.uns["truth"]
    for name, effect in zip(truth["interventions"], truth["effects"], strict=True):
        z = made.obsm["truth"][made.obs["perturbation"] == name]
        np.testing.assert_allclose(z.mean(0), effect, atol=0.35)
        np.testing.assert_allclose(z.std(0), 1, atol=0.25)
    assert abs(made.obsm["truth"][made.obs["perturbation"] == "control"].mean()) < 0.1


def test_effects_lie_on_the_graph_and_have_both_signs(made):
    truth = made.uns["truth"]
    graph, effects = truth["graph"], truth["effects"]
    assert ((effects != 0) == graph).all() and set(graph.sum(1)) <= {1, 2, 3}
    size = np.abs(effects[graph])
    assert abs(size.mean() - 5) < 0.3 and 0.3 < size.std() < 0.7
    assert 0.25 < (effects[graph] > 0).mean() < 0.75


def test_counts_are_poisson_at_a_library_size_of_100_000(made):
    size = np.asarray(made.X.sum(1)).ravel()
    assert abs(size.mean() - 1e5) < 100 and 250 < size.std() < 400  # sqrt(1e5) = 316
    assert (made.X.data == np.round(made.X.data)).all()


def test_the_decoder_is_injective():
    from cellalign.simulate._sparse_shift import _orthogonal

    rng = np.random.default_rng(0)
    for n_in, n_out in ((15, 40), (40, 40), (40, 100), (50, 40)):
        w = _orthogonal(rng, n_in, n_out)
        shorter = w @ w.T if n_in <= n_out else w.T @ w
        np.testing.assert_allclose(shorter, np.eye(min(n_in, n_out)), atol=1e-12)


def test_the_codes_variant_has_varying_and_smaller_library_sizes():
    code = simulate.sparse_shift(30, 200, n_latent=10, n_genes=25, n_heldout=6, variant="code")
    size = np.asarray(code.X.sum(1)).ravel()
    # 1e6 counts of each gene over all cells
    np.testing.assert_allclose(np.asarray(code.X.sum(0)).ravel(), 1e6, rtol=0.01)
    assert size.std() > 5 * np.sqrt(size.mean())


def test_sparsity_and_effect_of_both_splits():
    made = simulate.sparse_shift(
        40, 2, n_latent=10, n_genes=5, n_heldout=20, sparsity=0.5, heldout_sparsity=0.2, effect=2, heldout_effect=8
    )
    graph, effects = made.uns["truth"]["graph"], made.uns["truth"]["effects"]
    assert set(graph[:20].sum(1)) == {5} and set(graph[20:].sum(1)) == {2}
    assert abs(np.abs(effects[:20][graph[:20]]).mean() - 2) < 0.3
    assert abs(np.abs(effects[20:][graph[20:]]).mean() - 8) < 0.4


def test_the_same_seed_gives_the_same_cells_and_another_others():
    a, b, c = (simulate.sparse_shift(4, 5, n_latent=3, n_genes=6, n_heldout=1, seed=s) for s in (1, 1, 2))
    assert (a.X != b.X).nnz == 0 and (a.X != c.X).nnz > 0


@pytest.mark.parametrize(
    "settings", [{"n_heldout": 30}, {"targets": (2, 1)}, {"targets": (1, 99)}, {"sparsity": 0.0}, {"variant": "paper"}]
)
def test_settings_out_of_range(settings):
    with pytest.raises(UsageError):
        simulate.sparse_shift(30, 5, **settings)
