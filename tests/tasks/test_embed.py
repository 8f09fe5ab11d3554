"""Embedding and its picture from Python."""

import anndata
import numpy as np
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


def test_methods_from_python():
    table = cellalign.list_methods()
    assert {"comp", "svae+"} <= set(table["method"])
    assert "gamma" in set(cellalign.list_methods("comp")["setting"])
