"""`plot`: figures of what other commands wrote, in every format, and mistakes in one line."""

import json

import anndata as ad
import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
import reported

import cellalign
from cellalign.errors import InputError, ModelError

MAGIC = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}


@pytest.fixture
def drawn(tiny_cells):
    """Cells with a UMAP and columns of every kind."""
    adata = tiny_cells.copy()
    rng = np.random.default_rng(0)
    adata.obsm["X_umap"] = rng.normal(size=(adata.n_obs, 2))
    adata.obs["depth"] = rng.gamma(2.0, 100.0, adata.n_obs)
    adata.obs["treated"] = adata.obs["stim"] == "stimulated"
    adata.obs["barcode"] = adata.obs_names
    adata.obs["gaps"] = pd.Categorical(np.where(np.arange(adata.n_obs) % 3, "a", None))
    adata.obs["$m_1$"] = pd.Categorical(rng.choice([reported.EVIL, "$b_2$"], adata.n_obs))
    return adata


def panels(figure):
    return [axes for axes in figure.axes if axes.get_title()]


def test_umap_by_columns_and_genes(drawn):
    figure = cellalign.pl.umap(drawn, color=["cell_type", "GENE3", "depth", "treated", "gaps", "$m_1$"])
    assert isinstance(figure, matplotlib.figure.Figure)
    shown = {axes.get_title(): axes for axes in panels(figure)}
    assert list(shown) == ["cell_type", "GENE3", "depth", "treated", "gaps", "$m_1$"]
    order = np.random.default_rng(0).permutation(drawn.n_obs)
    np.testing.assert_allclose(shown["GENE3"].collections[0].get_array(), drawn[:, "GENE3"].X.toarray()[order, 0])
    names = [text.get_text() for text in shown["cell_type"].get_legend().get_texts()]
    assert names == list(drawn.obs["cell_type"].cat.categories)
    assert any("no value" in text.get_text() for text in shown["gaps"].get_legend().get_texts())
    np.testing.assert_allclose(shown["depth"].collections[0].get_offsets(), drawn.obsm["X_umap"][order])


def test_one_name_need_not_be_a_list_and_another_basis_can_be_drawn(drawn):
    drawn.obsm["X_pca"] = drawn.obsm["X_umap"][:, ::-1].copy()
    (axes,) = panels(cellalign.pl.umap(drawn, color="cell_type", basis="pca"))
    assert axes.get_xlabel() == "PCA 1"
    assert not panels(cellalign.pl.umap(drawn))


def test_what_cannot_be_a_colour_is_named(drawn):
    with pytest.raises(InputError, match="cell_typ.*Did you mean 'cell_type'"):
        cellalign.pl.umap(drawn, color=["cell_typ"])
    with pytest.raises(InputError, match="240 values"):
        cellalign.pl.umap(drawn, color=["barcode"])
    with pytest.raises(InputError, match="no X_nothing in obsm"):
        cellalign.pl.umap(drawn, basis="nothing")
    del drawn.obsm["X_umap"]
    with pytest.raises(InputError, match="no X_umap in obsm"):
        cellalign.pl.umap(drawn)


def test_a_column_counts_before_a_gene_of_its_name(drawn):
    drawn.obs["GENE3"] = pd.Categorical(["x"] * drawn.n_obs)
    figure = cellalign.pl.umap(drawn, color=["GENE3"])
    assert [text.get_text() for text in panels(figure)[0].get_legend().get_texts()] == ["x"]


def test_curves_are_the_history(tiny_cells):
    small = {"hidden": [8], "latent_dim": 2}
    model = cellalign.train(tiny_cells.copy(), method="cvae", condition="stim", epochs=3, settings=small)
    figure = cellalign.pl.curves(model)
    axes = panels(figure)[0]
    assert axes.get_title() == "loss"
    np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), [row["train_loss"] for row in model.history])
    closed = cellalign.train(tiny_cells.copy(), method="linear", condition="stim")
    with pytest.raises(ModelError, match="closed form"):
        cellalign.pl.curves(closed)


def test_the_graph_has_its_edges(svae_model):
    graph = cellalign.targets(svae_model)
    figure = cellalign.pl.graph(graph)
    (axes,) = figure.axes
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) == 2]
    assert len(lines) == int((np.asarray(graph.X) != 0).sum())
    signs = {line.get_linestyle() for line in lines}
    assert signs <= {"-", "--"}
    assert cellalign.pl.heatmap(graph).axes


def test_very_many_perturbations_are_drawn_by_their_targets():
    rng = np.random.default_rng(0)
    sets = np.eye(4, dtype=bool)
    edge = sets[rng.integers(4, size=200)]
    graph = ad.AnnData(
        X=(edge * 1.5).astype(np.float32),
        obs=pd.DataFrame(index=[f"p{i}" for i in range(200)]),
        var=pd.DataFrame(index=[f"z{i}" for i in range(5)][:4]),
        layers={"edge": edge, "probability": edge * 0.9},
    )
    (axes,) = cellalign.pl.graph(graph).axes
    assert len([line for line in axes.get_lines() if len(line.get_xdata()) == 2]) == 4
    assert any("more" in text.get_text() for text in axes.texts)
    graph.layers["edge"] = np.zeros_like(edge)
    with pytest.raises(InputError, match="no edge"):
        cellalign.pl.graph(graph)


def test_scatter_and_violin_are_those_of_an_evaluation(tiny_cells):
    model = cellalign.train(tiny_cells.copy(), method="linear", condition="stim")
    predicted = cellalign.counterfactual(tiny_cells, model, to="stimulated")
    for draw in (cellalign.pl.scatter, cellalign.pl.violin):
        figure = draw(predicted, against=tiny_cells, label="cell_type")
        assert len(figure.axes) == 3


@pytest.mark.parametrize("ending", list(MAGIC))
def test_the_command_writes_every_format(drawn, tmp_path, mistaken, ending):
    drawn.write_h5ad(tmp_path / "cells.h5ad")
    run = mistaken(cwd=tmp_path)
    output = f"picture.{ending}"
    done = run("plot", "umap", "cells.h5ad", "--color", "cell_type", "--color", "GENE3", "-o", output)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / output).read_bytes().startswith(MAGIC[ending])
    again = run("plot", "umap", "cells.h5ad", "-o", output)
    assert again.returncode == 2 and "--force" in again.stderr
    wrong = run("plot", "umap", "cells.h5ad", "--color", "nothing", "-o", f"new.{ending}")
    assert wrong.returncode == 3 and "--color nothing" in wrong.stderr


def test_the_commands_of_models_and_graphs(svae_model, tmp_path, mistaken):
    run = mistaken(cwd=tmp_path)
    svae_model.save(tmp_path / "m")
    assert run("targets", "-m", "m", "-o", "t.json").returncode == 0
    for kind, source in (("curves", "m"), ("graph", "t.json"), ("heatmap", "m")):
        done = run("plot", kind, source, "-o", f"{kind}.svg")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"{kind}.svg").read_bytes().startswith(b"<?xml")
        assert f"{kind}.svg: the picture" in done.stderr
        assert run("plot", kind, "-m", "m", "-o", f"named-{kind}.svg").returncode == 0
        both = run("plot", kind, source, "-m", "m", "-o", "both.svg")
        assert both.returncode == 2 and f"{source} and --model m are both given" in both.stderr
    absent = run("plot", "graph", "-o", "g.png")
    assert absent.returncode == 4 and "no model directory cellalign-model" in absent.stderr
    assert run("plot", "graph", "t.json", "-o", "g.jpg").returncode == 2
    shown = run("targets", "-m", "m", "-o", "again.json", "--format", "json")
    edges = json.loads((tmp_path / "again.json").read_text())["perturbations"]
    assert len(json.loads(shown.stdout)) == sum(len(each["targets"]) for each in edges)
    heat = run("targets", "-m", "m", "-o", "t.pdf")
    assert heat.returncode == 0 and (tmp_path / "t.pdf").read_bytes().startswith(b"%PDF")


def test_embed_draws_genes_too(tiny_cells):
    model = cellalign.train(tiny_cells.copy(), method="linear", condition="stim")
    adata = cellalign.embed(tiny_cells.copy(), model)
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(adata.n_obs, 2)).astype(np.float32)
    figure = cellalign.plot_umap(adata, model, color=["cell_type", "GENE3"])
    labels = {axes.get_ylabel() for axes in figure.axes}
    assert "GENE3" in labels, "the bar of its colours"
