"""Embedding and its picture from Python."""

import anndata
import numpy as np
import pytest

import cellalign
from cellalign.errors import InputError, ModelError, UsageError
from cellalign.evaluation.metrics.probe import probes

FAST = {"method": "cvae", "condition": "stim", "epochs": 1, "settings": {"hidden": [8], "latent_dim": 3}}


@pytest.fixture(scope="module")
def model(tiny_cells):
    return cellalign.train(tiny_cells, **FAST)


@pytest.mark.slow
def test_umap_and_picture(tiny, model, tmp_path):
    with pytest.raises(InputError, match="cellalign.embed"):
        cellalign.plot_umap(tiny, model)
    done = cellalign.embed(tiny, model, umap=True, seed=1)
    assert done is tiny and tiny.obsm["X_umap"].shape == (240, 2) and tiny.obsm["X_cvae"].shape == (240, 3)
    assert list(tiny.uns["cellalign"]["embedding"]) == ["X_cvae"]
    figure = cellalign.plot_umap(tiny, model)
    titles = [axis.get_legend().get_title().get_text() for axis in figure.axes if axis.get_legend()]
    assert titles == ["stim", "cell_type"]
    figure.savefig(tmp_path / "umap.png")
    with pytest.raises(InputError, match="'celltype'"):
        cellalign.plot_umap(tiny, model, color=["celltype"])


def test_where_counts_are_is_said_once_for_each_call(tiny_counts, model, caplog):
    with caplog.at_level("INFO", logger="cellalign"):
        cellalign.embed(tiny_counts, model)
        assert caplog.text.count("counts in X") == caplog.text.count("raw counts normalised to") == 1
        cellalign.embed(tiny_counts, model)
    assert caplog.text.count("counts in X") == 2


def test_which_cells_were_validated_on_is_written_and_read(tiny, model, tmp_path):
    """By a file and a subset of it, without the model; and by the model where nothing is written."""
    cellalign.embed(tiny, model)
    assert dict(tiny.obs["cvae_split"].value_counts()) == {"trained": 216, "validation": 24, "held out": 0}
    rows = model.validation_rows(tiny)
    np.testing.assert_array_equal(np.flatnonzero(tiny.obs["cvae_split"] == "validation"), rows)
    tiny.write_h5ad(tmp_path / "cells.h5ad")
    read = anndata.read_h5ad(tmp_path / "cells.h5ad")
    of_file = cellalign.evaluate(read, condition="stim", panels=["mixing"], k=10)
    assert of_file.rows[0].system == "validation cells" and of_file.rows[0].n_cells == 24
    del tiny.uns["cellalign"], tiny.obs["cvae_split"]
    of_model = cellalign.evaluate(tiny, condition="stim", panels=["mixing"], k=10, model=model)
    assert of_model.rows[0] == of_file.rows[0]
    new = tiny[:100].copy()
    cellalign.embed(new, model)
    assert "cvae_split" not in new.obs and "split" not in new.uns["cellalign"]["embedding"]["X_cvae"]


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "5", None])
def test_cells_at_once_are_a_whole_number(tiny, model, size):
    with pytest.raises(UsageError, match="batch_size must be a whole number from 1 on, not"):
        cellalign.embed(tiny, model, batch_size=size)


def test_methods_from_python():
    table = cellalign.list_methods()
    assert {"comp", "svae+"} <= set(table["method"])
    assert "gamma" in set(cellalign.list_methods("comp")["setting"])


def test_draws_are_of_the_posterior_and_say_so(tiny, model):
    mean, sd = model.posterior(tiny)
    draws = model.embed(tiny, draw=True, seed=4)
    noise = np.random.default_rng(4).standard_normal(mean.shape, dtype=np.float32)
    np.testing.assert_allclose(draws, mean + sd * noise, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(draws, model.embed(tiny, draw=True, seed=4, batch_size=7))  # no matter the batches
    assert np.abs(draws - model.embed(tiny, draw=True, seed=5)).max() > 0
    bare = tiny.copy()
    bare.obsm.clear()
    bare.uns.clear()
    cellalign.embed(bare, model, draw=True, seed=4, umap=True)
    assert set(bare.obsm) == {"X_cvae_draw", "X_umap"}, "the means, which may tell more, are not written beside them"
    written = bare.uns["cellalign"]
    record = written["embedding"]["X_cvae_draw"]
    assert (record["written"], record["seed"]) == ("draw", 4) and written["umap"]["key"] == "X_cvae_draw"
    figure = cellalign.plot_umap(bare, model)
    assert figure.axes


def test_draws_of_every_block_of_latents(tiny_cells):
    model = cellalign.train(
        tiny_cells,
        method="invae",
        batch=["stim"],
        covariate=["cell_type"],
        epochs=1,
        settings={"hidden": [8], "latent_dim": 3, "spurious_dim": 2},
    )
    found = model.embeddings(tiny_cells, draw=True)
    assert {key: z.shape[1] for key, z in found.items()} == {"X_invae_draw": 3, "X_invae_spurious_draw": 2}


def test_a_method_without_a_spread_has_no_draws(tiny_cells):
    model = cellalign.train(tiny_cells, method="pca", settings={"latent_dim": 3})
    with pytest.raises(ModelError, match="'pca' has no posterior to draw from"):
        cellalign.embed(tiny_cells, model, draw=True)


@pytest.mark.slow
def test_the_probes_of_a_model_are_of_means_and_of_draws(tiny, model):
    for draw, other in ((False, "draws"), (True, "means")):
        cells = tiny.copy()
        cells.obsm.clear()
        cells.uns.clear()
        cellalign.embed(cells, model, draw=draw, seed=0)
        options = {"condition": "stim", "label": "cell_type", "panels": ["probe"]}
        alone = cellalign.evaluate(cells, **options).frame()
        assert set(alone["group"]) == {"all"}
        beside = cellalign.evaluate(cells, model=model, **options).frame()
        assert set(beside["group"]) == {"all", other}
        z = model.embed(cells, draw=not draw, seed=0)
        expected = probes(z, cells.obs["stim"].to_numpy().astype(str), 0)
        rows = beside[(beside["group"] == other) & (beside["system"] == "stim")].set_index("metric")["value"]
        assert rows["logistic regression"] == pytest.approx(expected["logistic regression"])


def test_what_cannot_be_drawn_is_refused_before_any_work(tiny_cells, model, tmp_path, mistaken, monkeypatch):
    tiny_cells.write_h5ad(tmp_path / "in.h5ad")
    model.save(tmp_path / "m")
    monkeypatch.setattr("cellalign.tasks.embed.embed", None)  # is not called
    run = mistaken(tmp_path)
    for words, status, said in (
        (["--plot", "u.gif"], 2, "--plot u.gif ends in none of .png, .pdf, .svg"),
        (["--color", "cell_type"], 2, "--color cell_type needs --plot FILE"),
        (
            ["--plot", "u.png", "--color", "cell_typ"],
            3,
            "--color cell_typ is neither an obs column nor a gene. Did you",
        ),
    ):
        done = run("embed", "in.h5ad", "-m", "m", "-o", "e.h5ad", *words)
        assert done.returncode == status and said in done.stderr, done.stderr
