"""Effects of sites and of a disease: what is stored is what the counts follow."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest

from cellalign import simulate
from cellalign.errors import InputError


def zeros(adata: anndata.AnnData) -> float:
    return 1 - adata.X.nnz / (adata.n_obs * adata.n_vars)


@pytest.fixture(scope="module")
def at_sites() -> anndata.AnnData:
    """Cells with every effect there is."""
    return simulate.ifnb(1200, 400, batches=2, donors=5, sites=3, diseased=0.4, seed=7)


def test_sites_and_disease_leave_the_other_draws_as_they_were(at_sites: anndata.AnnData) -> None:
    without = simulate.ifnb(1200, 400, batches=2, donors=5, seed=7)
    assert at_sites.obs[list(without.obs)].equals(without.obs)
    for key in without.varm:
        np.testing.assert_array_equal(at_sites.varm[key], without.varm[key])
    np.testing.assert_array_equal(at_sites.obsm["truth_programs"], without.obsm["truth_programs"])
    assert (at_sites.X != without.X).nnz > 1000


def test_sites_and_donors_are_crossed(at_sites: anndata.AnnData) -> None:
    assert list(at_sites.obs["site"].cat.categories) == ["site1", "site2", "site3"]
    per_pair = at_sites.obs.groupby(["site", "donor"], observed=False).size()
    assert len(per_pair) == 15 and per_pair.min() > 50 and per_pair.max() < 110  # 80 expected


def test_counts_follow_the_stored_effect_of_a_site_on_a_type() -> None:
    made = simulate.ifnb(8000, 150, n_cell_types=2, sites=2, stimulated=0, library_size=20, seed=2)
    cell_type, site = (made.obs[key].cat.codes.to_numpy() for key in ("cell_type", "site"))
    means = np.array([[made.X[(cell_type == t) & (site == s)].mean(axis=0).A1 for s in (0, 1)] for t in (0, 1)])
    observed = np.log(means[:, 1] / means[:, 0])
    effect = made.varm["truth_site"].T.reshape(2, 2, -1)  # sites, types, genes
    residual = observed - (effect[1] - effect[0])
    # The library size shifts all genes of a type alike.
    assert (residual.std(axis=1) < 0.12).all() and (observed.std(axis=1) > 0.5).all()
    assert np.corrcoef(observed[1] - observed[0], (effect[1] - effect[0])[1] - (effect[1] - effect[0])[0])[0, 1] > 0.9
    factors = made.uns["simulation"]["site_library"]
    assert abs(np.log(factors[1] / factors[0])) > 0.1
    for t in (0, 1):
        assert means[t, 1].sum() / means[t, 0].sum() == pytest.approx(factors[1] / factors[0], rel=0.05)


def test_sizes_of_the_effects_of_sites_and_disease() -> None:
    made = simulate.ifnb(100, 3000, donors=2, sites=3, diseased=0.5, seed=3)
    site = made.varm["truth_site"]
    assert site.shape == (3000, 24) and site.std() == pytest.approx(0.5 * np.sqrt(1.09), rel=0.05)
    assert np.corrcoef(site[:, 8], site[:, 15])[0, 1] == pytest.approx(1 / 1.09, abs=0.03)  # two types at site2
    assert abs(np.corrcoef(site[:, 0], site[:, 8])[0, 1]) < 0.1  # one type at two sites
    disease = made.varm["truth_disease"]
    changed = (disease != 0).any(axis=1)
    assert disease.shape == (3000, 8) and changed.mean() == pytest.approx(0.2, abs=0.03)
    assert (disease[changed] != 0).all()
    assert disease[changed].std() == pytest.approx(0.4 * np.sqrt(1.25), rel=0.1)
    assert np.corrcoef(disease[changed, 0], disease[changed, 7])[0, 1] == pytest.approx(1 / 1.25, abs=0.06)
    none = simulate.ifnb(100, 50, donors=2, sites=2, site_effect=0, diseased=0.5, disease_effect=0, seed=3)
    assert not none.varm["truth_site"].any() and not none.varm["truth_disease"].any()
    assert (none.uns["simulation"]["site_library"] == 1).all()


@pytest.mark.parametrize(("share", "count"), [(0.4, 2), (0.01, 1), (0.99, 4)])
def test_disease_is_a_property_of_the_donor(share: float, count: int) -> None:
    obs = simulate.ifnb(300, 20, donors=5, diseased=share, seed=4).obs
    assert list(obs["disease"].cat.categories) == ["healthy", "diseased"]
    by_donor = obs.groupby("donor", observed=True)["disease"].agg(["nunique", "first"])
    assert len(by_donor) == 5 and (by_donor["nunique"] == 1).all()
    assert (by_donor["first"] == "diseased").sum() == count


def test_counts_follow_the_stored_effect_of_the_disease() -> None:
    made = simulate.ifnb(
        6000, 200, n_cell_types=1, donors=4, donor_effect=0, diseased=0.5, stimulated=0, library_size=20, seed=5
    )
    is_diseased = (made.obs["disease"] == "diseased").to_numpy()
    observed = np.log(made.X[is_diseased].mean(axis=0).A1 / made.X[~is_diseased].mean(axis=0).A1)
    truth = made.varm["truth_disease"][:, 0]
    shift = np.median((observed - truth)[truth == 0])
    assert (observed - truth - shift).std() < 0.08 and truth[truth != 0].std() > 0.3


def test_expected_holds_all_effects(at_sites: anndata.AnnData) -> None:
    means, neutral = np.zeros((2, *at_sites.shape))
    for condition in ("control", "stimulated"):
        rows = (at_sites.obs["stim"] == condition).to_numpy()
        means[rows] = simulate.expected(at_sites, condition, rows)
        neutral[rows] = simulate.expected(at_sites, condition, rows, technical=False)
    counts, dispersion = at_sites.X.toarray().astype(np.float64), at_sites.var["truth_dispersion"].to_numpy()
    for column in ("site", "disease"):
        for name in at_sites.obs[column].cat.categories:
            rows = (at_sites.obs[column] == name).to_numpy()
            difference = counts[rows] - means[rows]
            scores = difference.sum(0) / np.sqrt((means + dispersion * means**2)[rows].sum(0))
            assert np.abs(scores).max() < 5.5 and 0.85 < scores.std() < 1.15
    away = (counts - neutral).sum(0) / np.sqrt((neutral + dispersion * neutral**2).sum(0))
    assert away.std() > 1.5


def test_expected_equals_the_formula_for_a_diseased_cell_at_a_site(at_sites: anndata.AnnData) -> None:
    obs, varm = at_sites.obs, at_sites.varm
    n = np.flatnonzero((obs["disease"] == "diseased") & (obs["site"] == "site2") & (obs["cell_type"] == "B"))[0]
    t = list(simulate.CELL_TYPES).index("B")
    biological = varm["truth_baseline"][:, t] + varm["truth_programs"] @ at_sites.obsm["truth_programs"][n]
    biological = biological + varm["truth_donor"][:, obs["donor"].cat.codes.iloc[n]] + varm["truth_disease"][:, t]
    rate = biological + varm["truth_batch"][:, obs["batch"].cat.codes.iloc[n]] + varm["truth_site"][:, 8 + t]
    by_hand = np.exp(rate + at_sites.obsm["truth_log_scale"][n, 0])
    np.testing.assert_allclose(simulate.expected(at_sites, "control", [n])[0], by_hand, rtol=1e-4)
    by_hand = np.exp(biological + at_sites.obsm["truth_log_scale_biological"][n, 0])
    np.testing.assert_allclose(simulate.expected(at_sites, "control", [n], technical=False)[0], by_hand, rtol=1e-4)


def test_expected_without_technical_effects_is_that_of_cells_never_at_a_site(at_sites: anndata.AnnData) -> None:
    same = simulate.ifnb(1200, 400, batches=2, batch_effect=0, donors=5, diseased=0.4, seed=7)
    factor = at_sites.uns["simulation"]["site_library"][at_sites.obs["site"].cat.codes]
    for condition in ("control", "stimulated"):
        neutral = simulate.expected(at_sites, condition, technical=False)
        np.testing.assert_allclose(neutral, simulate.expected(same, condition), rtol=1e-4)
        measured = simulate.expected(at_sites, condition)
        np.testing.assert_allclose(measured.sum(1) / neutral.sum(1), factor, rtol=1e-4)
    plain = simulate.ifnb(100, 50, donors=2, seed=7)
    without = simulate.expected(plain, "control", technical=False)
    np.testing.assert_array_equal(without, simulate.expected(plain, "control"))
    with pytest.raises(InputError, match="only with sites"):
        simulate.expected(simulate.ifnb(100, 50, batches=2), "control", technical=False)


@pytest.mark.parametrize("technical", [True, False])
def test_effects_of_sites_survive_a_file_and_any_subset(
    tmp_path: Path, at_sites: anndata.AnnData, technical: bool
) -> None:
    at_sites.write_h5ad(tmp_path / "made.h5ad")
    read = anndata.read_h5ad(tmp_path / "made.h5ad")
    rows = ((read.obs["site"] == "site3") & (read.obs["disease"] == "diseased")).to_numpy()
    part = read[rows, 20:90].copy()
    assert part.n_obs > 50
    whole = simulate.expected(at_sites, "stimulated", technical=technical)
    np.testing.assert_allclose(
        simulate.expected(part, "stimulated", technical=technical), whole[rows, 20:90], rtol=1e-5
    )


def test_sites_and_disease_depend_on_the_seed_not_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellalign.simulate._ifnb.CHUNK", 10_000)
    first, second, other = (
        simulate.ifnb(300, 100, donors=3, sites=2, diseased=0.4, seed=seed, threads=threads)
        for seed, threads in ((8, 1), (8, 3), (9, 1))
    )
    assert (first.X != second.X).nnz == 0 and first.obs.equals(second.obs)
    np.testing.assert_array_equal(first.obsm["truth_log_scale_biological"], second.obsm["truth_log_scale_biological"])
    for key in ("truth_site", "truth_disease"):
        np.testing.assert_array_equal(first.varm[key], second.varm[key])
        assert not np.allclose(first.varm[key], other.varm[key])
    assert (first.obs["site"].to_numpy() != other.obs["site"].to_numpy()).any()
    larger = simulate.ifnb(500, 600, donors=3, sites=2, diseased=0.4, seed=8)[:, first.var_names]
    np.testing.assert_array_equal(first.varm["truth_site"], larger.varm["truth_site"])
    np.testing.assert_array_equal(first.varm["truth_disease"], larger.varm["truth_disease"])
