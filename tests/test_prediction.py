"""What a counterfactual writes: residual transfer, decoded means, draws, spreads; batch by batch, and from its seed."""

import functools
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import sparse

import cellalign
from cellalign.data.fields import Categorical
from cellalign.data.loader import Cells, as_matrix
from cellalign.engine.predict import own_predictions, predictions
from cellalign.errors import UsageError
from cellalign.evaluation.metrics import response as res
from cellalign.methods.base import Latent, Layout, Method, Normal, Predicts, Trains
from cellalign.nn.minibatch import Fields
from cellalign.records import Provenance

OLD = Path(__file__).parent / "fixtures" / "format1"
CPU = torch.device("cpu")
SMALL = {"hidden": [8], "latent_dim": 2, "epochs": 2}
STIM = Categorical(name="stim", role="condition", categories=("a", "b"), reference="a")


@pytest.fixture(scope="module")
def cells():
    """90 cells x 40 genes: X normalised log1p, counts in a layer, columns of every kind."""
    return ad.read_h5ad(OLD / "cells.h5ad")


@pytest.fixture(scope="module")
def old():
    """Models of every kind, by name."""
    return {path.parent.name: cellalign.load(path.parent) for path in OLD.glob("*/model.yaml")}


def dense(x):
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


@torch.no_grad()
def decoded(model, cells, do):
    """The method's own mean of these cells."""
    return model.method.predict(model.cells(cells).batch(torch.arange(cells.n_obs)), do).mean.numpy()


def of(cells, **where):
    keep = np.ones(cells.n_obs, dtype=bool)
    for key, value in where.items():
        keep &= (cells.obs[key] == value).to_numpy()
    return cells[keep].copy()


LOG = ["comp", "cvae-missing", "scgen", "trvae", "vfae", "mmd-ae", "linear", "celligner", "stgan"]


@pytest.mark.parametrize("name", LOG)
def test_residual_transfer_is_the_cell_plus_the_predicted_change(old, cells, name):
    model = old[name]
    predicted = model.counterfactual(cells, to="stimulated")
    source = cells[predicted.obs_names]
    change = decoded(model, source, {model.condition: "stimulated"}) - decoded(model, source, {})
    np.testing.assert_allclose(predicted.X, np.maximum(dense(source.X) + change, 0), atol=1e-5)
    assert predicted.X.min() >= 0 and predicted.X.dtype == np.float32
    assert Provenance.of(predicted.uns).counterfactual.written == "residual transfer"
    assert (dense(predicted.layers["source"]) == dense(source.X)).all()


@pytest.mark.parametrize("name", [*LOG, "svae+", "scanvi"])
def test_decoded_is_what_the_method_decodes(old, cells, name):
    model = old[name]
    to = "g1" if name == "svae+" else "stimulated"
    predicted = model.counterfactual(cells, to=to, decoded=True)
    expected = decoded(model, cells[predicted.obs_names], {model.condition: to})
    np.testing.assert_allclose(predicted.X, np.maximum(expected, 0), atol=1e-5)
    assert Provenance.of(predicted.uns).counterfactual.written == "decoded"


def test_something_is_cut_at_zero(old, cells):
    """Otherwise the tests above show nothing of the cut."""
    model, source = old["comp"], of(cells, stim="control")
    do = {"stim": "stimulated"}
    assert (decoded(model, source, do) < 0).any()
    assert (dense(source.X) + decoded(model, source, do) - decoded(model, source, {}) < 0).any()


@pytest.mark.parametrize("name", ["svae+", "scanvi"])
def test_counts_are_always_decoded(old, cells, name):
    to = "g1" if name == "svae+" else "stimulated"
    one, other = (old[name].counterfactual(cells, to=to, decoded=decoded) for decoded in (False, True))
    assert (one.X == other.X).all() and Provenance.of(one.uns).counterfactual.written == "decoded"
    assert Provenance.of(one.uns).counterfactual.expression == "counts"


@pytest.mark.parametrize("options", [{}, {"decoded": True}, {"draws": 2}, {"samples": 3}, {"draws": 1, "samples": 2}])
def test_no_value_is_negative_and_none_is_missing(old, cells, options):
    for name in ("comp", "trvae", "stgan", "linear", "svae+"):
        predicted = old[name].counterfactual(cells, to="g1" if name == "svae+" else "stimulated", **options)
        for x in (predicted.X, *(dense(layer) for layer in predicted.layers.values())):
            assert np.isfinite(x).all() and x.min() >= 0


def test_where_the_condition_is_not_seen_cells_stay_as_they_are(cells, caplog):
    with caplog.at_level("WARNING", logger="cellalign"):
        model = cellalign.train(cells, method="vae", condition="stim", settings=SMALL)
    assert len(caplog.records) == 1 and "does not see the condition 'stim'" in caplog.text
    caplog.clear()
    with caplog.at_level("WARNING", logger="cellalign"):
        predicted = model.counterfactual(cells, to="stimulated")
    source = of(cells, stim="control")
    np.testing.assert_allclose(predicted.X, dense(source.X), atol=1e-6)
    assert len(caplog.records) == 1 and "does not see 'stim'" in caplog.text
    assert set(predicted.obs["stim"]) == {"stimulated"} and set(predicted.obs["stim_source"]) == {"control"}


def test_a_batch_that_is_not_seen_is_refused(old, cells):
    with pytest.MonkeyPatch.context() as patch:  # a model of before such a column was refused
        patch.setattr("cellalign.tasks.roles.REFUSED", ())
        model = cellalign.train(cells, method="linear", condition="stim", batch=["site"], settings={"latent_dim": 2})
    with pytest.raises(UsageError, match="does not see batches"):
        model.counterfactual(cells, to="site=b")
    with pytest.raises(UsageError, match="does not see batches"):
        model.counterfactual(cells, to={"stim": "stimulated", "site": "b"})


# a toy whose posterior, decoder and spread are known


class Toy(Trains, Predicts, Method):
    """z = x + N(0, 0.5^2) of the first two genes, x = W z + shift + N(0, 2^2): all gaussian, all linear."""

    name, summary = "toy", "linear and gaussian"
    responds_to = frozenset({"condition"})
    W = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, -1.0]])
    Z_SD, X_SD = 0.5, 2.0

    def __init__(self):
        super().__init__(None, Layout(3, Fields((STIM,)), 10))
        self.sizes = []

    def encode(self, batch):
        self.sizes.append(len(batch))
        mean = batch.x[:, :2]
        return Latent(mean, torch.tensor(self.Z_SD), mean + self.Z_SD * torch.randn_like(mean))

    def forward(self, batch, warmup=1.0):
        raise AssertionError

    def predict(self, batch, do, *, draw=False):
        latent = self.encode(batch)
        moved = batch.do(do).condition[:, None].float()
        return Normal((latent.z if draw else latent.mean) @ self.W + 5 * moved, torch.full((len(batch), 1), self.X_SD))


def toy_cells(n=10):
    x = np.random.default_rng(0).normal(10, 1, (n, 3)).astype(np.float32)
    return Cells(as_matrix(x), Fields((STIM,)), (torch.arange(n) % 2,), n)


def toy(**options):
    method = options.pop("method", None) or Toy()
    parts = list(predictions(method, options.pop("cells", None) or toy_cells(), {"stim": "b"}, device=CPU, **options))
    return {key: np.concatenate([part[key] for part in parts], axis=-2) for key in parts[0]}


SPREAD = (Toy.Z_SD * Toy.W.square().sum(0).sqrt()).numpy()  # of the mean over z, exactly


def test_spreads_of_a_linear_gaussian_are_the_exact_ones():
    n = 4000
    found = toy(samples=n)
    expected = toy_cells().matrix.rows(torch.arange(10))[:, :2] @ Toy.W + 5
    error = SPREAD / np.sqrt(n)
    assert (np.abs(found["X"] - expected.numpy()) < 5 * error).all()
    assert (np.abs(found["sd_of_mean"] - SPREAD) < 5 * SPREAD / np.sqrt(2 * n)).all()
    total = np.sqrt(SPREAD**2 + Toy.X_SD**2)
    assert (np.abs(found["sd"] - total) < 5 * SPREAD**2 / total / np.sqrt(2 * n) + 1e-4).all()


def test_the_spread_of_a_change_is_that_of_the_same_draw_under_both_conditions():
    """W z cancels: the residual transfer of this toy is certain, whatever z is."""
    found = toy(samples=20, residual=True)
    given = toy_cells()
    own = (torch.arange(10) % 2)[:, None]
    np.testing.assert_allclose(
        found["X"], given.matrix.rows(torch.arange(10)).numpy() + (5 - 5 * own.numpy()), atol=1e-4
    )
    assert found["sd_of_mean"].max() < 1e-4
    np.testing.assert_allclose(found["sd"], Toy.X_SD, rtol=1e-4)


def test_one_sample_has_no_spread_of_the_mean():
    found = toy(samples=1)
    assert not found["sd_of_mean"].any()
    np.testing.assert_allclose(found["sd"], Toy.X_SD, rtol=1e-5)


def test_without_samples_or_draws_there_is_no_spread():
    assert set(toy()) == {"X"} and set(toy(draws=1)) == {"X", "sd"} and set(toy(samples=2)) == {"X", "sd", "sd_of_mean"}


def test_draws_of_the_toy_spread_as_they_should():
    found = toy(draws=4000)["X"]
    assert found.shape == (4000, 10, 3)
    total = np.sqrt(SPREAD**2 + Toy.X_SD**2)
    assert (np.abs(found.std(0) - total) < 5 * total / np.sqrt(2 * 4000)).all()
    mean = (toy_cells().matrix.rows(torch.arange(10))[:, :2] @ Toy.W + 5).numpy()
    assert (np.abs(found.mean(0) - mean) < 5 * total / np.sqrt(4000)).all()


@pytest.mark.parametrize("name", ["comp", "cvae-missing", "scgen", "svae+", "scanvi"])
def test_the_total_spread_is_at_least_that_of_the_mean(old, cells, name):
    predicted = old[name].counterfactual(cells, to="g1" if name == "svae+" else "stimulated", samples=5)
    sd, of_mean = predicted.layers["sd_of_mean"], predicted.layers.get("sd")
    assert sd.shape == predicted.shape and sd.max() > 0
    if old[name].method.predict(old[name].cells(cells).batch(torch.arange(3)), {}).has_spread:
        assert (of_mean >= sd - 1e-6).all() and (of_mean > sd).any()
    else:
        assert of_mean is None


# draws


def test_draws_of_counts_are_integers_whose_mean_is_the_decoded_one(old, cells):
    model, source = old["svae+"], of(cells, guide="ctrl")[:6].copy()
    n = 1000
    drawn = model.counterfactual(source, to="g1", draws=n)
    assert (drawn.X == np.round(drawn.X)).all() and drawn.X.min() >= 0
    each = drawn.X.reshape(n, 6, -1)
    averaged = model.counterfactual(source, to="g1", samples=n)
    error = each.std(0) / np.sqrt(n) + averaged.layers["sd_of_mean"] / np.sqrt(n)
    assert (np.abs(each.mean(0) - averaged.X) < 5.5 * error + 1e-3).all()


@pytest.mark.parametrize("name", ["comp", "svae+", "stgan"])
def test_draws_are_cells_with_names_and_numbers_of_their_own(old, cells, name):
    model, to = old[name], "g1" if name == "svae+" else "stimulated"
    one = model.counterfactual(cells, to=to, draws=1)
    three = model.counterfactual(cells, to=to, draws=3)
    n = one.n_obs
    assert three.n_obs == 3 * n and three.obs_names.is_unique and "draw" not in one.obs
    assert list(three.obs["draw"]) == [1] * n + [2] * n + [3] * n
    source = list(one.obs_names) * 3
    assert all(drawn.startswith(name) for drawn, name in zip(three.obs_names, source, strict=True))
    key = f"{model.condition}_source"
    assert list(three.obs[key]) == list(one.obs[key]) * 3 and set(three.obs[model.condition]) == {to}
    assert (dense(three.layers["source"]) == np.tile(dense(one.layers["source"]), (3, 1))).all()
    record = Provenance.of(three.uns).counterfactual
    assert (record.draws, record.written) == (3, "draw")
    if name != "stgan":
        assert (three.X[:n] != three.X[n : 2 * n]).any() and three.layers["sd"].shape == three.shape


def test_draws_can_be_written_and_read(old, cells, tmp_path):
    drawn = old["comp"].counterfactual(cells, to="stimulated", draws=2, samples=2)
    drawn.write_h5ad(tmp_path / "drawn.h5ad")
    again = ad.read_h5ad(tmp_path / "drawn.h5ad")
    assert (again.X == drawn.X).all() and set(again.layers) - {None} == {"source", "sd", "sd_of_mean"}
    assert Provenance.of(again.uns) == Provenance.of(drawn.uns)


def test_a_single_cell_can_be_drawn(old, cells):
    one = of(cells, stim="control")[:1].copy()
    for name in ("comp", "scgen", "stgan"):
        assert np.isfinite(old[name].counterfactual(one, to="stimulated", draws=2).X).all()


@pytest.mark.parametrize("options", [{"draws": -1}, {"samples": -1}])
def test_negative_numbers_are_refused(old, cells, options):
    with pytest.raises(UsageError, match="must not be negative"):
        old["comp"].counterfactual(cells, to="stimulated", **options)


# seeds


@pytest.mark.parametrize("options", [{"draws": 1}, {"samples": 2}, {"draws": 2, "samples": 2, "decoded": True}])
def test_the_same_seed_gives_the_same_cells(old, cells, options):
    for name in ("comp", "svae+"):
        to = "g1" if name == "svae+" else "stimulated"
        torch.manual_seed(1)
        first = old[name].counterfactual(cells, to=to, seed=3, **options)
        torch.manual_seed(2)
        again = old[name].counterfactual(cells, to=to, seed=3, **options)
        other = old[name].counterfactual(cells, to=to, seed=4, **options)
        assert (first.X == again.X).all() and all(
            (dense(first.layers[k]) == dense(again.layers[k])).all() for k in first.layers
        )
        changed = (
            first.layers["sd_of_mean"] != other.layers["sd_of_mean"] if "samples" in options else first.X != other.X
        )
        assert changed.any()


def test_a_prediction_can_be_read_twice(old, cells):
    prediction = old["comp"].predict(cells, to="stimulated", draws=1)
    assert (prediction.to_adata().X == prediction.to_adata().X).all()


@pytest.mark.parametrize("options", [{}, {"draws": 2}, {"samples": 2}])
def test_the_callers_random_stream_is_left_alone(old, cells, options):
    before = torch.get_rng_state()
    old["comp"].counterfactual(cells, to="stimulated", **options)
    assert torch.equal(torch.get_rng_state(), before)


def test_between_two_batches_too_everything_is_the_callers():
    """Whoever reads batch by batch may draw, and train, in between."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    mine, inferring = [], []
    for _ in predictions(Toy(), toy_cells(), {"stim": "b"}, device=CPU, draws=1, batch_size=4):
        inferring.append(torch.is_inference_mode_enabled())
        mine.append(torch.rand(1))
    assert inferring == [False] * 3 and torch.equal(torch.cat(mine), expected)


def test_what_is_not_read_to_the_end_leaves_nothing_behind():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    parts = predictions(Toy(), toy_cells(), {"stim": "b"}, device=CPU, draws=1, batch_size=4)
    next(parts)
    found, inferring = torch.get_rng_state(), torch.is_inference_mode_enabled()
    parts.close()
    assert torch.equal(found, before) and not inferring


# batches


def test_predictions_come_batch_by_batch():
    method = Toy()
    sizes = [len(part["X"]) for part in predictions(method, toy_cells(), {"stim": "b"}, device=CPU, batch_size=4)]
    assert sizes == [4, 4, 2] and max(method.sizes) == 4
    nine = [len(part["X"]) for part in predictions(Toy(), toy_cells(), {"stim": "b"}, device=CPU, batch_size=9)]
    assert nine == [5, 5], "equal parts, not 9 and 1"
    drawn = [
        part["X"].shape for part in predictions(Toy(), toy_cells(), {"stim": "b"}, device=CPU, batch_size=4, draws=2)
    ]
    assert drawn == [(2, 2, 3)] * 5, "several draws of fewer cells: no more values at once"


def test_nothing_is_computed_before_it_is_read():
    method = Toy()
    parts = predictions(method, toy_cells(), {"stim": "b"}, device=CPU, batch_size=4)
    before = list(method.sizes)
    next(parts)
    after = sum(method.sizes)
    parts.close()
    assert before == [] and after == 4


def test_the_size_of_a_batch_does_not_change_a_mean():
    for residual in (False, True):
        whole, parted = (toy(residual=residual, batch_size=size)["X"] for size in (100, 3))
        np.testing.assert_allclose(whole, parted, rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"samples": 2}, {"draws": 1}, {"draws": 3, "samples": 2}])
def test_batches_put_together_are_the_whole(old, cells, options, monkeypatch):
    """Many small batches, as `Prediction.batches` yields them, make up to_adata in its order."""
    import cellalign.prediction as module

    monkeypatch.setattr(module, "own_predictions", functools.partial(own_predictions, batch_size=7))
    prediction = old["comp"].predict(cells, to="stimulated", **options)
    parts = list(prediction.batches())
    n, draws = prediction.source.shape[0], options.get("draws", 0)
    most = max(1, 7 // max(1, draws))
    assert len(parts) == -(-n // most) and all(part["X"].shape[-2] <= most for part in parts)
    whole = prediction.to_adata()
    x = np.concatenate([part["X"] for part in parts], axis=-2)
    assert (x.reshape(-1, x.shape[-1]) == whole.X).all()
    assert whole.n_obs == n * max(1, draws) == len(prediction.obs)
    if draws > 1:
        first = parts[0]["X"]
        assert (whole.X[:most] == first[0]).all() and (whole.X[n : n + most] == first[1]).all()


@pytest.mark.parametrize("method", ["local", "linear", "comp"])
def test_the_mean_of_draws_is_the_prediction(tiny, method):
    """Of every cell type and gene, to the draws' own error."""
    settings = {} if method in ("local", "linear") else {"epochs": 3}
    model = cellalign.train(tiny, method=method, condition="stim", label="cell_type", **settings)
    mean = model.counterfactual(tiny, to="stimulated")
    drawn = model.counterfactual(tiny, to="stimulated", draws=40)
    for kind in ("NK", "B", "CD14 Mono"):
        drawn_x, wanted, own = (res.dense(cells[cells.obs["cell_type"] == kind].X) for cells in (drawn, mean, tiny))
        wanted, error = wanted.mean(0), own.std(0) / np.sqrt(len(drawn_x)) + 0.01
        np.testing.assert_array_less(np.abs(drawn_x.mean(0) - wanted), 4 * error + 0.02 * wanted)
