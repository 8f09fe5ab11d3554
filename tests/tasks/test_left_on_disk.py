"""Tasks on cells whose matrices stay on disk, and on AnnData opened backed: the results of memory, to the bit."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from support import at_every_change

import cellalign
from cellalign.data import files
from cellalign.data.stored import Stored
from cellalign.tasks.reproduce import reproduce

SMALL = {"condition": "stim", "method": "cvae", "epochs": 2, "settings": {"hidden": [8]}, "batch_size": 32}


@pytest.fixture
def on_disk(tmp_path):
    """The same cells, with their matrices on disk."""

    def left(adata, name="cells.h5ad"):
        adata.write_h5ad(tmp_path / name)
        found = cellalign.read(tmp_path / name, stream=True)
        assert isinstance(found.X, Stored)
        return found

    return left


@pytest.fixture
def never_whole(monkeypatch):
    """No matrix of half of the cells or more is read as a whole."""
    real = Stored.to_memory

    def some(self):
        assert self.shape[0] < 120, "read as a whole"
        return real(self)

    monkeypatch.setattr(Stored, "to_memory", some)


IN_ORDER = {"order": []}  # as in memory: sums are added up in it


def same(found, known):
    pd.testing.assert_frame_equal(found, known, check_exact=True)


@pytest.mark.parametrize("dense", at_every_change([False, True], [False]))
@pytest.mark.parametrize("method", ["linear", "scvi"])
def test_a_prediction_is_scored_against_them(tiny, on_disk, never_whole, method, dense):
    settings = {} if method == "linear" else {"hidden": [8]}
    epochs = {} if method == "linear" else {"epochs": 1}
    label = {"label": "cell_type"} if method == "linear" else {}
    held = ["cell_type=NK,stim=stimulated"]
    model = cellalign.train(tiny, method=method, condition="stim", holdout=held, settings=settings, **epochs, **label)
    predicted = cellalign.counterfactual(tiny, model, to="stimulated")
    if dense:
        tiny.X = tiny.X.toarray()
    asked = {"condition": "stim", "label": "cell_type", "panels": ["response", "screen"]}
    known = cellalign.evaluate(predicted, against=tiny, **asked)
    same(cellalign.evaluate(predicted, against=on_disk(tiny), **asked).frame(), known.frame())
    both = cellalign.evaluate(on_disk(predicted, "predicted.h5ad"), against=on_disk(tiny), **asked)
    same(both.frame(), known.frame())
    assert {"response", "screen"} <= set(known.frame()["panel"].str.split().str[0]) and both.verdict == known.verdict


def test_what_is_no_number_on_disk_is_found(tiny, on_disk):
    model = cellalign.train(tiny, method="linear", condition="stim")
    predicted = cellalign.counterfactual(tiny, model, to="stimulated")
    predicted.X = np.asarray(predicted.X)
    predicted.X[3, 4] = np.nan
    said = "the prediction's X holds 1 NaN or infinite values"
    for cells in (predicted, on_disk(predicted)):
        with pytest.raises(cellalign.errors.InputError, match=said):
            cellalign.evaluate(cells, against=tiny, condition="stim")


def test_a_benchmark_of_closed_forms(tiny, on_disk, never_whole):
    asked = {"methods": ["linear", "local"], "condition": "stim", "holdout_each": "cell_type", "groups": ["NK", "B"]}
    asked |= IN_ORDER
    same(cellalign.benchmark(on_disk(tiny), **asked), cellalign.benchmark(tiny, **asked))


def test_a_benchmark_with_nothing_held_out(tiny, on_disk):
    asked = {"methods": ["pca", "linear"], "condition": "stim", "label": "cell_type"} | IN_ORDER
    same(cellalign.benchmark(on_disk(tiny), **asked), cellalign.benchmark(tiny, **asked))


@pytest.mark.parametrize("method", ["linear", "cvae"])
def test_a_grid(tiny, on_disk, method):
    asked = {"condition": "stim", "label": "cell_type", "holdout": ["cell_type=NK,stim=stimulated"], "seeds": 1}
    asked |= {
        "method": method,
        "grid": {"change": ["shift", "ridge"]} if method == "linear" else {"latent_dim": [2, 3]},
    }
    asked |= {} if method == "linear" else {"epochs": 1, "settings": {"hidden": [8]}}
    asked |= IN_ORDER
    best, table = cellalign.tune(on_disk(tiny), **asked)
    known, of_memory = cellalign.tune(tiny, **asked)
    assert list(table) == list(of_memory) and table["response"].notna().all()
    same(table, of_memory)
    np.testing.assert_array_equal(best.embed(tiny), known.embed(tiny))


@pytest.mark.slow
def test_targets_and_transfer(shifts, svae_model, on_disk, tmp_path, never_whole):
    train = shifts[shifts.obs["split"] == "train"].copy()
    names = train.obs["perturbation"].astype(str)
    a, b, c = [name for name in names.value_counts().index if name != "control"][:3]
    train.obs["perturbation"] = names.replace({c: f"{a}+{b}"})
    sets = {"first": list(train.var_names[:20]), "next": list(train.var_names[20:40])}
    asked = {"programs": 5, "gene_sets": sets, "top_genes": 5, "interactions": True}
    known = cellalign.targets(svae_model, train, **asked)
    found = cellalign.targets(svae_model, on_disk(train), **asked)
    for name in ("programs", "enrichment", "interactions", "interactions_latents"):
        same(found.uns[name], known.uns[name])
    held_out = shifts[shifts.obs["split"] == "heldout"].copy()
    known = cellalign.transfer(held_out, svae_model)
    for cells in (on_disk(held_out, "new.h5ad"), ad.read_h5ad(tmp_path / "new.h5ad", "r")):
        found = cellalign.transfer(cells, svae_model)
        assert found.transferred == known.transferred
        np.testing.assert_array_equal(found.method.shift().detach(), known.method.shift().detach())
        np.testing.assert_array_equal(found.trained, known.trained)


@pytest.mark.parametrize("method", ["cvae", pytest.param("auto", marks=pytest.mark.slow)])
def test_a_model_is_reproduced_wherever_the_cells_lie(tiny, on_disk, method):
    """In the order in which its cells were shuffled."""
    asked = SMALL if method == "cvae" else {"condition": "stim", "label": "cell_type", "method": "auto", "epochs": 2}
    there = on_disk(tiny)
    models = [cellalign.train(cells, **asked, threads=1) for cells in (there, tiny)]
    assert models[0].record.machine.order == there_order(there) and models[1].record.machine.order == []
    if method == "cvae":
        assert not np.array_equal(models[0].embed(tiny), models[1].embed(tiny))
    for model in models:
        for cells in (there, tiny):
            assert reproduce(model, cells).identical


def there_order(cells):
    from cellalign.data.loader import Cells
    from cellalign.data.source import as_matrix
    from cellalign.nn.minibatch import Fields

    return Cells(as_matrix(cells.X), Fields([]), (), cells.n_obs).order


def test_a_model_of_before_does_not_say_its_order(tiny, tmp_path):
    from tests.support import rewritten

    cellalign.train(tiny, **SMALL, threads=1, model_path=tmp_path / "model")

    def without(plain):
        del plain["machine"]["order"]
        return plain

    rewritten(tmp_path / "model", without)
    model = cellalign.load(tmp_path / "model")
    assert model.record.machine.order is None and reproduce(model, tiny).identical


@pytest.mark.parametrize("dense", [False, True])
def test_backed_cells_stay_on_disk(tiny, tmp_path, monkeypatch, dense):
    if dense:
        tiny.X = tiny.X.toarray()
    tiny.raw = tiny
    tiny.layers["more"] = sparse.csr_matrix(tiny.X) * 2
    tiny.write_h5ad(tmp_path / "cells.h5ad")
    known = cellalign.train(cellalign.read(tmp_path / "cells.h5ad", stream=True), **SMALL, threads=1)

    def refuse(self, *args, **kwargs):
        raise AssertionError("read as a whole")

    real = Stored.to_memory

    def some(self):
        assert self.shape[0] < tiny.n_obs, "read as a whole"
        return real(self)

    def backed():
        return ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")

    expected = [known.embed(tiny), cellalign.counterfactual(tiny, known, to="stimulated").X]
    with monkeypatch.context() as patch:
        patch.setattr(ad.AnnData, "to_memory", refuse)
        patch.setattr(Stored, "to_memory", some)
        model = cellalign.train(backed(), **SMALL, threads=1)
        np.testing.assert_array_equal(model.embed(backed()), expected[0])
        np.testing.assert_array_equal(cellalign.counterfactual(backed(), model, to="stimulated").X, expected[1])
        predicted = cellalign.counterfactual(tiny, model, to="stimulated")
        result = cellalign.evaluate(predicted, against=backed(), condition="stim", label="cell_type")
    same(result.frame(), cellalign.evaluate(predicted, against=tiny, condition="stim", label="cell_type").frame())
    assert cellalign.check(backed(), condition="stim").findings == cellalign.check(tiny, condition="stim").findings
    layer = cellalign.train(backed(), **SMALL, layer="more")
    assert layer.record.matrix == "more"


def test_backed_cells_that_are_kept_by_columns_or_are_a_view_are_read(tiny, tmp_path):
    tiny.X = tiny.X.tocsc()
    tiny.write_h5ad(tmp_path / "columns.h5ad")
    tiny.X = tiny.X.tocsr()
    tiny.write_h5ad(tmp_path / "rows.h5ad")
    known = cellalign.train(tiny, **SMALL, threads=1)
    by_columns = ad.read_h5ad(tmp_path / "columns.h5ad", backed="r")
    some = ad.read_h5ad(tmp_path / "rows.h5ad", backed="r")[: tiny.n_obs]
    for cells in (by_columns, some):
        np.testing.assert_array_equal(cellalign.train(cells, **SMALL, threads=1).embed(tiny), known.embed(tiny))


@pytest.mark.parametrize("method", at_every_change(["comp", "scvi", "local"], ["comp"]))
def test_the_same_weights_from_a_file_a_store_and_three_files(tiny, tmp_path, method):
    """In the same order, wherever the cells lie: all bits of weights and latents."""
    parts = [tiny[:70], tiny[70:160], tiny[160:]]
    for part, name in zip(parts, ("a.h5ad", "b.zarr", "c.h5ad"), strict=True):
        files.write(part.copy(), tmp_path / name)
    files.write(tiny, tmp_path / "whole.h5ad")
    files.write(tiny, tmp_path / "whole.zarr")
    several = [tmp_path / name for name in ("a.h5ad", "b.zarr", "c.h5ad")]
    places = {
        "h5ad": cellalign.read(tmp_path / "whole.h5ad", stream=True),
        "zarr": cellalign.read(tmp_path / "whole.zarr", stream=True),
        "three": cellalign.read(*several, stream=True),
        "zarr in memory": cellalign.read(tmp_path / "whole.zarr"),
        "three in memory": cellalign.read(*several),
    }
    asked = {"method": method, "condition": "stim", "label": "cell_type", "threads": 1, "order": [16, 64]}
    if method != "local":
        asked |= {"epochs": 2, "settings": {"hidden": [8]}, "batch_size": 32}
    known = cellalign.train(tiny, **asked)
    latents, weights = known.embed(tiny), known.method.state_dict()
    for name, cells in places.items():
        assert isinstance(cells.X, Stored) == ("in memory" not in name)
        found = cellalign.train(cells, **asked)
        assert found.record.content == known.record.content, name
        assert weights.keys() == found.method.state_dict().keys()
        for key, value in found.method.state_dict().items():
            assert torch.equal(value, weights[key]), (name, key)
        np.testing.assert_array_equal(found.embed(cells), latents)
