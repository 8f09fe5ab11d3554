"""Embedding and its picture from Python."""

import pytest

import cellalign
from cellalign.errors import InputError

FAST = {"method": "cvae", "condition": "stim", "epochs": 1, "settings": {"hidden": [8], "latent_dim": 3}}


@pytest.fixture(scope="module")
def model(tiny_cells):
    return cellalign.train(tiny_cells, **FAST)


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


def test_methods_from_python():
    table = cellalign.list_methods()
    assert {"comp", "svae+"} <= set(table["method"])
    assert "gamma" in set(cellalign.list_methods("comp")["setting"])
