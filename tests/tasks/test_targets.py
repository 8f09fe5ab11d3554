"""The targets of a trained model: what they hold, every format, and the genes behind each latent."""

import json

import anndata as ad
import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch

import cellalign
from cellalign.errors import ModelError, UsageError
from cellalign.plots.targets import heat_map, row_order
from cellalign.tasks.graph_files import edges
from cellalign.tasks.targets import write_targets


@pytest.fixture
def graph(svae_model):
    return cellalign.targets(svae_model)


def test_control_has_no_row_and_effects_lie_on_edges(graph, svae_model):
    assert graph.shape == (30, 4) and "control" not in graph.obs_names
    edge = graph.layers["edge"]
    assert (edge == (graph.layers["probability"] > 0.5)).all()
    assert ((graph.X != 0) == edge).all()
    assert graph.obs["n_targets"].tolist() == edge.sum(1).tolist()
    strict = cellalign.targets(svae_model, threshold=0.999999)
    assert strict.layers["edge"].sum() < edge.sum()
    with pytest.raises(UsageError, match="threshold=2 is not"):
        cellalign.targets(svae_model, threshold=2)


def test_perturbations_with_the_same_targets_share_a_group(graph):
    by_group = graph.obs.groupby("group")["targets"].nunique()
    assert (by_group == 1).all()
    sizes = graph.obs.loc[graph.obs["group"] > 0, "group"].value_counts().sort_index()
    assert (np.diff(sizes) <= 0).all()


def test_a_method_without_a_graph_says_so(tiny):
    model = cellalign.train(tiny, method="cvae", condition="stim", epochs=1, settings={"hidden": [8]})
    with pytest.raises(ModelError, match="'cvae' does not learn a graph .*methods that do: ivae, svae, svae\\+"):
        cellalign.targets(model)


def test_genes_of_a_latent_are_for_gene_sets(svae_model):
    with pytest.raises(UsageError, match="top_genes=5 is of gene_sets; add it"):
        cellalign.targets(svae_model, top_genes=5)


def test_every_format(graph, tmp_path):
    n = int(graph.layers["edge"].sum())
    for ending in ("h5ad", "csv", "json", "graphml", "png"):
        write_targets(graph, str(tmp_path / f"targets.{ending}"))
    assert ad.read_h5ad(tmp_path / "targets.h5ad").layers["edge"].sum() == n
    table = pd.read_csv(tmp_path / "targets.csv")
    assert len(table) == n and (table["probability"] > 0.5).all()
    network = nx.read_graphml(tmp_path / "targets.graphml")
    assert network.number_of_nodes() == 34 and network.number_of_edges() == n
    first = table.iloc[0]
    assert network.edges[first.perturbation, first.latent]["effect"] == pytest.approx(first.effect, rel=1e-5)
    content = json.loads((tmp_path / "targets.json").read_text())
    assert sum(len(p["targets"]) for p in content["perturbations"]) == n and len(content["latents"]) == 4
    assert (tmp_path / "targets.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="ends in none of"):
        write_targets(graph, str(tmp_path / "targets.txt"))


def test_heat_map_puts_like_targets_together_and_names_every_row(graph):
    order = row_order(np.asarray(graph.layers["edge"]), np.asarray(graph.X))
    assert sorted(order) == list(range(30))
    targets = graph.obs["targets"].to_numpy()[order]
    runs = 1 + int((targets[1:] != targets[:-1]).sum())
    assert runs <= graph.obs["targets"].nunique() + 1
    labels = heat_map(graph).axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == graph.obs_names[order].tolist()


def test_integrated_gradients_add_up_to_the_latents_change(shifts, svae_model):
    from cellalign.engine import attribution, predict

    cells = svae_model.cells(shifts, with_condition=False)
    rows, start = np.array([5]), np.flatnonzero(shifts.obs["perturbation"] == "control")[:1]
    weight, sign = attribution.integrated_gradients(
        svae_model.method, cells, rows, start, device=torch.device("cpu"), steps=400
    )
    z = predict.embed(svae_model.method, cells, device=torch.device("cpu"))
    change = (cells.batch(torch.tensor(rows)).x.log1p() - cells.batch(torch.tensor(start)).x.log1p()).numpy()[0]
    # |attribution| with the sign of gradient times change, summed over genes (completeness)
    total = (weight * sign * np.sign(change)).sum(1)
    np.testing.assert_allclose(total, z[rows[0]] - z[start[0]], atol=0.02 * np.abs(z).max())


def test_programs_name_the_genes_a_latent_reads(graph, shifts, svae_model):
    cellalign.add_programs(graph, svae_model, shifts, 6)
    programs = graph.uns["programs"]
    assert programs.groupby("latent").size().tolist() == [6] * 4
    assert graph.var["program"].iloc[0].split() == programs.gene[programs.latent == "z0"].tolist()
    assert edges(graph)["program"].notna().all()
    # genes of a program follow its latent; the other genes follow it less
    z, x = svae_model.embed(shifts), np.log1p(shifts.X.toarray())
    follow = np.abs(np.corrcoef(z.T, x.T)[:4, 4:])
    named = [
        follow[i, shifts.var_names.get_indexer(programs.gene[programs.latent == f"z{i}"])].mean() for i in range(4)
    ]
    assert np.mean(named) > follow.mean()
    with pytest.raises(UsageError, match="programs=0 is not positive"):
        cellalign.add_programs(graph, svae_model, shifts, 0)


def test_a_graph_is_written_as_zarr_too(svae_model, tmp_path):
    graph = cellalign.targets(svae_model)
    cellalign.write_targets(graph, str(tmp_path / "graph.zarr"))
    found = ad.read_zarr(tmp_path / "graph.zarr")
    np.testing.assert_array_equal(np.asarray(found.X), np.asarray(graph.X))
    with pytest.raises(UsageError, match=r"ends in none of .h5ad, .zarr"):
        cellalign.write_targets(graph, str(tmp_path / "graph.xml"))
