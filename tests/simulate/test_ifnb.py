"""The simulated cells look like the real ones, and carry a truth that their counts follow."""

from __future__ import annotations

import hashlib
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse
from typer.testing import CliRunner

from cellalign import simulate
from cellalign.cli.app import app
from cellalign.errors import InputError, UsageError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cells() -> anndata.AnnData:
    return simulate.ifnb(1500, 600, seed=3)


@pytest.fixture(scope="module")
def real(kang_path: Path) -> anndata.AnnData:
    return anndata.read_h5ad(kang_path)


def library_sizes(adata: anndata.AnnData) -> np.ndarray:
    return np.asarray(adata.X.sum(axis=1)).ravel()


def zeros(adata: anndata.AnnData) -> float:
    return 1 - adata.X.nnz / (adata.n_obs * adata.n_vars)


def gene_means(adata: anndata.AnnData) -> np.ndarray:
    return np.asarray(adata.X.mean(axis=0)).ravel()


def overdispersion(adata: anndata.AnnData) -> np.ndarray:
    """(variance - mean) / mean^2 of every gene with a mean above 0.1 counts."""
    mean = gene_means(adata)
    variance = np.asarray(adata.X.power(2).mean(axis=0)).ravel() - mean**2
    seen = mean > 0.1
    return (variance[seen] - mean[seen]) / mean[seen] ** 2


def change(adata: anndata.AnnData, cell_type: str) -> np.ndarray:
    """Log2 ratio of counts per 10,000 (+ 0.5), stimulated over control, of every gene."""
    scaled = sparse.csr_matrix(adata.X.multiply(1e4 / library_sizes(adata)[:, None]))
    of_type = (adata.obs["cell_type"] == cell_type).to_numpy()
    is_stimulated = (adata.obs["stim"] == "stimulated").to_numpy()
    means = [np.asarray(scaled[of_type & (is_stimulated == s)].mean(axis=0)).ravel() for s in (False, True)]
    return np.log2((means[1] + 0.5) / (means[0] + 0.5))


def test_counts_are_raw_sparse_and_named(cells: anndata.AnnData) -> None:
    assert cells.shape == (1500, 600)
    assert sparse.issparse(cells.X) and cells.X.format == "csr" and cells.X.dtype == np.float32
    assert (cells.X.data > 0).all() and (cells.X.data == np.round(cells.X.data)).all()
    assert cells.obs_names.is_unique and cells.var_names.is_unique
    assert {"ISG15", "IFIT1", "CXCL10", "CD3D", "MS4A1", "LYZ", "NKG7", "PPBP"} <= set(cells.var_names)
    assert list(cells.obs["cell_type"].cat.categories) == list(simulate.CELL_TYPES)
    assert cells.obs["stim"].value_counts().to_dict() == {"control": 750, "stimulated": 750}
    assert "batch" not in cells.obs and "donor" not in cells.obs and not cells.layers


@pytest.mark.slow
def test_all_genes_resemble_the_real_cells(real: anndata.AnnData) -> None:
    symbols = simulate.genes().symbols
    real = real[:, symbols].copy()
    made = simulate.ifnb(2000, len(symbols), seed=5)[:, symbols]
    assert np.median(library_sizes(made)) == pytest.approx(np.median(library_sizes(real)), rel=0.08)
    assert np.log(library_sizes(made)).std() == pytest.approx(np.log(library_sizes(real)).std(), rel=0.15)
    assert zeros(made) == pytest.approx(zeros(real), abs=0.01)
    share = [a.obs["cell_type"].value_counts(normalize=True).reindex(simulate.CELL_TYPES) for a in (made, real)]
    assert np.abs(share[0] - share[1]).max() < 0.005
    for q in (0.25, 0.5, 0.75, 0.9, 0.99):
        assert np.quantile(gene_means(made), q) == pytest.approx(np.quantile(gene_means(real), q), rel=0.25)
    assert np.median(overdispersion(made)) == pytest.approx(np.median(overdispersion(real)), rel=0.25)
    assert np.corrcoef(np.log1p(gene_means(made)), np.log1p(gene_means(real)))[0, 1] > 0.95


def test_panel_resembles_the_same_genes_of_the_real_cells(real: anndata.AnnData) -> None:
    made = simulate.ifnb(2000, 2000, seed=5)
    real = real[:, made.var_names].copy()
    assert np.median(library_sizes(made)) == pytest.approx(np.median(library_sizes(real)), rel=0.1)
    assert zeros(made) == pytest.approx(zeros(real), abs=0.015)


def test_response_differs_between_cell_types_as_in_the_real_cells(real: anndata.AnnData) -> None:
    symbols = simulate.genes().symbols[simulate.genes().known]
    made = simulate.ifnb(3000, 2000, seed=6)[:, symbols].copy()
    real = real[:, symbols].copy()
    for cell_type in ("CD4 T", "CD14 Mono", "B"):
        assert np.corrcoef(change(made, cell_type), change(real, cell_type))[0, 1] > 0.9
    at = made.var_names.get_indexer(["CXCL10", "ISG15"])
    assert (change(made, "CD14 Mono")[at] > change(made, "CD4 T")[at] + 1).all()


def test_expected_is_the_mean_and_dispersion_the_variance_of_the_counts(cells: anndata.AnnData) -> None:
    means = np.zeros(cells.shape)
    for condition in ("control", "stimulated"):
        rows = (cells.obs["stim"] == condition).to_numpy()
        means[rows] = simulate.expected(cells, condition, rows)
    counts = cells.X.toarray().astype(np.float64)
    variances = means + cells.var["truth_dispersion"].to_numpy() * means**2
    # Sums over all cells of independent counts: standard normal scores for each gene, and for the squares overall.
    scores = (counts - means).sum(0) / np.sqrt(variances.sum(0))
    assert np.abs(scores).max() < 5.5 and 0.85 < scores.std() < 1.15
    assert np.mean((counts - means) ** 2 / variances) == pytest.approx(1, abs=0.05)
    assert library_sizes(cells).sum() == pytest.approx(means.sum(), rel=0.01)


def test_expected_equals_the_formula_for_one_cell(cells: anndata.AnnData) -> None:
    n = 17
    t = list(simulate.CELL_TYPES).index(cells.obs["cell_type"].iloc[n])
    for c, condition in enumerate(("control", "stimulated")):
        rate = cells.varm["truth_baseline"][:, t] + cells.varm["truth_programs"] @ cells.obsm["truth_programs"][n]
        rate = rate + c * cells.obs["response_strength"].iloc[n] * cells.varm["truth_response"][:, t]
        by_hand = np.exp(rate + cells.obsm["truth_log_scale"][n, c])
        np.testing.assert_allclose(simulate.expected(cells, condition, [n])[0], by_hand, rtol=1e-4)


def test_expected_survives_a_file_and_any_subset(tmp_path: Path) -> None:
    made = simulate.ifnb(300, 200, batches=2, donors=3, seed=4, truth_layers=True)
    made.write_h5ad(tmp_path / "made.h5ad")
    read = anndata.read_h5ad(tmp_path / "made.h5ad")
    part = read[(read.obs["cell_type"] == "B") & (read.obs["donor"] == "donor2"), 20:90].copy()
    assert part.n_obs > 2
    for condition in ("control", "stimulated"):
        np.testing.assert_allclose(read.layers[f"expected_{condition}"], simulate.expected(read, condition), rtol=1e-6)
        np.testing.assert_allclose(part.layers[f"expected_{condition}"], simulate.expected(part, condition), rtol=1e-5)


def test_same_seed_same_cells_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellalign.simulate._ifnb.CHUNK", 10_000)
    first, second = (simulate.ifnb(300, 100, seed=8, threads=threads) for threads in (1, 3))
    assert (first.X != second.X).nnz == 0
    assert first.obs.equals(second.obs)
    assert (first.X != simulate.ifnb(300, 100, seed=9).X).nnz > 0


def test_a_gene_does_not_depend_on_the_panel() -> None:
    small, large = simulate.ifnb(100, 150, seed=2), simulate.ifnb(100, 2500, seed=2)
    for key in ("truth_baseline", "truth_response", "truth_programs"):
        np.testing.assert_array_equal(small.varm[key], large[:, small.var_names].varm[key])
    assert set(small.var_names) < set(large.var_names)


def test_no_response_at_scale_zero() -> None:
    made = simulate.ifnb(200, 100, response_scale=0, seed=1)
    np.testing.assert_allclose(simulate.expected(made, "control"), simulate.expected(made, "stimulated"), rtol=1e-5)


def test_batches_and_donors_shift_expression() -> None:
    plain = simulate.ifnb(2000, 300, batches=2, donors=2, batch_effect=0, donor_effect=0, seed=1)
    assert not plain.varm["truth_batch"].any() and not plain.varm["truth_donor"].any()
    made = simulate.ifnb(2000, 300, batches=2, donors=4, batch_effect=0.5, donor_effect=0.3, seed=1)
    assert list(made.obs["donor"].cat.categories) == ["donor1", "donor2", "donor3", "donor4"]
    assert made.obs.groupby(["batch", "donor"], observed=True).size().shape == (8,)
    sums = [made.X[(made.obs["batch"] == name).to_numpy()].sum(axis=0).A1 + 1 for name in ("batch1", "batch2")]
    observed = np.log(sums[1] / sums[0])
    true = made.varm["truth_batch"][:, 1] - made.varm["truth_batch"][:, 0]
    assert np.corrcoef(observed, true)[0, 1] > 0.8
    assert made.varm["truth_donor"].std() == pytest.approx(0.3, rel=0.1)


def test_earlier_arguments_give_the_same_cells_as_earlier_versions() -> None:
    made = simulate.ifnb(301, 24, batches=2, donors=3, seed=11)
    assert list(made.obs) == ["stim", "cell_type", "batch", "donor", "response_strength"]
    codes = np.stack([made.obs[key].cat.codes for key in ("stim", "cell_type", "batch", "donor")]).astype(np.int8)
    assert hashlib.sha256(codes.tobytes()).hexdigest().startswith("fcb4a5776dbc493e")
    assert set(made.varm) == {f"truth_{key}" for key in ("baseline", "response", "programs", "batch", "donor")}
    assert set(made.obsm) == {"truth_log_scale", "truth_programs"}
    np.testing.assert_allclose(made.varm["truth_batch"][:2], [[-0.104883, -0.252533], [-0.008745, 0.260616]], atol=1e-5)
    np.testing.assert_allclose(made.obsm["truth_log_scale"][0], [-1.684438, -5.936459], atol=1e-4)
    np.testing.assert_allclose(made.obs["response_strength"].iloc[:2], [1.346817, 1.079109], atol=1e-5)
    # fmt: off
    totals = [51, 9, 51, 123, 8, 24, 26, 24, 11, 84, 25, 33, 37, 69, 10, 186, 122, 45, 25, 41, 13, 19, 30, 14]
    # fmt: on
    # Other processors may round the last bit of a mean, so a few counts may differ.
    np.testing.assert_allclose(made.X.sum(axis=0).A1, totals, atol=2)


def test_share_of_stimulated_cells() -> None:
    quarter = simulate.ifnb(2000, 50, stimulated=0.25).obs
    table = quarter.groupby(["cell_type", "stim"], observed=False).size().unstack()
    assert (np.abs(table["stimulated"] - 0.25 * table.sum(axis=1)) <= 1).all()
    for share in (0.001, 0.999):
        few = simulate.ifnb(200, 20, stimulated=share).obs.groupby(["cell_type", "stim"], observed=False).size()
        assert few.min() == 1
        assert (few[:, "stimulated" if share < 0.5 else "control"] == 1).all()


def test_no_cell_is_stimulated_at_a_share_of_zero() -> None:
    none = simulate.ifnb(8, 50, stimulated=0, seed=6)
    assert (none.obs["cell_type"].value_counts() == 1).all()
    assert list(none.obs["stim"].cat.categories) == ["control", "stimulated"]
    assert (none.obs["stim"] == "control").all()
    control, stimulated = (simulate.expected(none, condition) for condition in ("control", "stimulated"))
    monocyte, isg15 = none.obs["cell_type"].to_list().index("CD14 Mono"), none.var_names.get_loc("ISG15")
    assert stimulated[monocyte, isg15] > 4 * control[monocyte, isg15]


def test_command_passes_sites_disease_and_share_on(tmp_path: Path) -> None:
    path = tmp_path / "made.h5ad"
    options = "--cells 200 --genes 50 --donors 4 --sites 2 --site-effect 0.7 --diseased 0.25 --disease-effect 0.9"
    done = CliRunner().invoke(
        app, ["simulate", "ifnb", *options.split(), "--stimulated", "0.1", "--quiet", "-o", str(path)]
    )
    assert done.exit_code == 0, done.output
    made = anndata.read_h5ad(path)
    again = simulate.ifnb(
        200, 50, donors=4, sites=2, site_effect=0.7, diseased=0.25, disease_effect=0.9, stimulated=0.1
    )
    assert (made.X != again.X).nnz == 0
    assert made.obs["site"].to_list() == again.obs["site"].to_list()
    assert made.obs["disease"].to_list() == again.obs["disease"].to_list()


def test_proportions_and_rare_types() -> None:
    rare = simulate.ifnb(2000, 50, rare=0.002).obs["cell_type"].value_counts()
    assert rare[["CD16 Mono", "DC", "Mk"]].to_list() == [4, 4, 4]
    given = simulate.ifnb(1000, 50, proportions={"Mk": 0.5, "B": 0}).obs["cell_type"].value_counts()
    assert given["Mk"] == pytest.approx(500, abs=2) and given["B"] == 2
    few = simulate.ifnb(100, 50, n_cell_types=3, conditions=("untreated", "ifn")).obs
    assert list(few["cell_type"].cat.categories) == ["CD4 T", "CD14 Mono", "CD8 T"]
    assert list(few["stim"].cat.categories) == ["untreated", "ifn"]
    smallest = simulate.ifnb(16, 20).obs
    assert (smallest.groupby(["cell_type", "stim"], observed=False).size() == 1).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"n_cells": 15},
        {"n_genes": 19},
        {"n_genes": 10_000},
        {"n_cell_types": 0},
        {"n_cell_types": 9},
        {"rare": -0.1},
        {"rare": 0.3},
        {"proportions": {"Tregs": 0.1}},
        {"proportions": {"B": 0.6, "NK": 0.5}},
        {"proportions": {"B": -0.1}},
        {"proportions": {"B": float("nan")}},
        {"proportions": dict.fromkeys(simulate.CELL_TYPES, 0.0)},
        {"batches": -1},
        {"donors": -1},
        {"batch_effect": -1},
        {"response_scale": float("nan")},
        {"library_size": 0},
        {"conditions": ("a", "a")},
        {"conditions": ("a", "b", "c")},
        {"sites": -1},
        {"sites": 1},
        {"sites": 2, "site_effect": -0.1},
        {"sites": 2, "site_effect": float("nan")},
        {"diseased": 0.5},
        {"diseased": 0.5, "donors": 1},
        {"diseased": -0.1, "donors": 4},
        {"diseased": 1.0, "donors": 4},
        {"diseased": 0.5, "donors": 4, "disease_effect": -0.1},
        {"stimulated": -0.1},
        {"stimulated": 1.0},
        {"stimulated": float("nan")},
        {"stimulated": 0.3, "doses": True},
        {"stimulated": 0.0, "n_cells": 7},
    ],
)
def test_wrong_arguments_are_reported_in_one_line(arguments: dict) -> None:
    with pytest.raises(UsageError) as caught:
        simulate.ifnb(**arguments)
    assert "\n" not in str(caught.value)


def test_expected_says_what_is_wrong(cells: anndata.AnnData) -> None:
    with pytest.raises(InputError, match="choose from control, stimulated"):
        simulate.expected(cells, "stimulate")
    with pytest.raises(InputError, match="no simulated truth"):
        simulate.expected(anndata.AnnData(np.ones((2, 2), dtype=np.float32)), "control")


def test_example_data_is_what_its_command_makes() -> None:
    path = ROOT / "example_data" / "ifnb.h5ad"
    assert path.stat().st_size < 3_000_000
    example, again = anndata.read_h5ad(path), simulate.ifnb(1500, 1500, seed=1)
    assert example.obs_names.equals(again.obs_names) and example.var_names.equals(again.var_names)
    # Other processors may round the last bit of a mean, so a few counts may differ.
    assert (example.X != again.X).nnz <= 100


def test_doses_lie_between_the_two_conditions():
    cells = simulate.ifnb(400, 80, doses=True, seed=5)
    dose = cells.obs["dose"].to_numpy()
    assert "stim" not in cells.obs and dose.min() == 0 and 0.9 < dose.max() <= 1 and 0.04 < (dose == 0).mean() < 0.2
    none, half, full = (simulate.expected(cells, d) for d in (0.0, 1 / 7, 1.0))
    np.testing.assert_allclose(none, simulate.expected(cells, "control"), rtol=1e-5)
    np.testing.assert_allclose(full, simulate.expected(cells, "stimulated"), rtol=1e-5)
    np.testing.assert_allclose(half, np.sqrt(none * full), rtol=1e-3)  # half of the log response
    own = np.stack([simulate.expected(cells, d, np.array([i]))[0] for i, d in enumerate(dose)])
    low, high = cells.X[dose < 0.2], cells.X[dose > 0.6]
    change = np.log((np.asarray(high.mean(0)) + 0.1) / (np.asarray(low.mean(0)) + 0.1)).ravel()
    truth = np.log((own[dose > 0.6].mean(0) + 0.1) / (own[dose < 0.2].mean(0) + 0.1))
    assert np.corrcoef(change, truth)[0, 1] > 0.9
