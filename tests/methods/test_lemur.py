"""lemur: subspaces, their geodesic, and the alignment; against the equations in float64."""

import numpy as np
import pytest
import torch

import cellalign
from cellalign.methods.states import SoftClusters
from tests.methods.test_local import QUIET, cells, mean, predicted


@pytest.fixture(scope="module")
def fitted():
    adata = cells(n=60, types="ABC")
    return adata, cellalign.train(adata, method="lemur", condition="stim", control="control", latent_dim=4)


def test_each_condition_has_its_own_components(fitted):
    adata, model = fitted
    for code, name in enumerate(model.conditions):
        x = adata[adata.obs["stim"] == name].X.toarray().astype(float)
        np.testing.assert_allclose(model.method.offsets[code], x.mean(0), atol=1e-5)
        _, _, vt = np.linalg.svd(x - x.mean(0), full_matrices=False)
        basis = model.method.bases[code].double().numpy()
        np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-5)
        # two of them are of the types; among the rest, which is noise, eigenvalues lie close together
        assert np.linalg.norm(vt[:2] @ basis) ** 2 == pytest.approx(2, abs=1e-2)


def test_bases_are_where_the_geodesic_leads(fitted):
    """Exp(Log(own)) from the common subspace, by the formulas of the Grassmann manifold."""
    _, model = fitted
    base = model.method.components.double().numpy()
    for basis in model.method.bases.double().numpy():
        inner = base.T @ basis
        tangent = (basis - base @ inner) @ np.linalg.inv(inner)
        u, s, vt = np.linalg.svd(tangent, full_matrices=False)
        angle = np.arctan(s)
        expected = base @ vt.T @ np.diag(np.cos(angle)) @ vt + u @ np.diag(np.sin(angle)) @ vt
        np.testing.assert_allclose(basis, expected, atol=1e-4)


def test_types_lie_on_one_another_and_a_cell_comes_back(fitted):
    adata, model = fitted
    z = model.embed(adata)
    first, last = (z[(adata.obs["cell_type"] == kind).to_numpy()].mean(0) for kind in "AC")
    between = np.linalg.norm(last - first)
    for kind in "ABC":
        own = (adata.obs["cell_type"] == kind).to_numpy()
        stim = (adata.obs["stim"] == "stimulated").to_numpy()
        assert np.linalg.norm(z[own & stim].mean(0) - z[own & ~stim].mean(0)) < 0.1 * between
    batch = next(model.cells(adata).in_order(1000))
    with torch.no_grad():
        same = model.method.predict(batch, {}).mean
        x = batch.x - model.method.offsets[batch.condition]
        for code in (0, 1):
            rows, basis = batch.condition == code, model.method.bases[code]
            kept = x[rows] @ basis @ basis.T + model.method.offsets[code]
            np.testing.assert_allclose(same[rows], kept, atol=1e-3)  # what its subspace holds of it


def test_types_change_as_they_do():
    adata = cells(n=60, types="ABC")
    model = cellalign.train(adata, method="lemur", **(QUIET | {"settings": {"latent_dim": 4}}))
    for kind in "ABC":
        truth = mean(adata, stim="stimulated", cell_type=kind) - mean(adata, stim="control", cell_type=kind)
        assert np.corrcoef(predicted(model, adata, stim="control", cell_type=kind), truth)[0, 1] > 0.95


def test_soft_clusters_have_all_conditions_alike():
    torch.manual_seed(0)
    z = torch.randn(400, 3) + torch.tensor([3.0, 0, 0]) * torch.arange(2).repeat(200)[:, None]
    condition = (torch.rand(400) < torch.where(z[:, 0] > 1.5, 0.8, 0.2)).long()
    clusters = SoftClusters(z, condition, 4)
    belongs = clusters.of(z)
    np.testing.assert_allclose(belongs.sum(1), 1, atol=1e-5)
    share = (belongs.T @ clusters.member) / belongs.sum(0)[:, None]
    cosine = torch.nn.functional.normalize(z, dim=1)
    near = (cosine @ clusters.centres.T).argmax(1)
    hard = torch.stack([clusters.member[near == k].mean(0) for k in range(4) if (near == k).any()])
    weight = belongs.sum(0) / belongs.sum()
    uneven = float(weight @ (share - clusters.share).abs().sum(1))
    assert uneven < float((hard - clusters.share).abs().sum(1).mean())
