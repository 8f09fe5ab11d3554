"""The mean changes of trained cells, which every model of several conditions keeps and adds up for a+b."""

import numpy as np
import pytest
import torch
from anndata import AnnData
from safetensors.torch import load_file, save_file

import cellalign
from cellalign.methods.condition_means import ConditionMeans
from cellalign.records.provenance import Provenance

SMALL = {"latent_dim": 2, "hidden": [4], "epochs": 1, "validation": 0.2}


@pytest.fixture(scope="module")
def screen():
    """Log expression of two cell types in unequal shares under a control and two guides; doubles held out."""
    rng = np.random.default_rng(0)
    guide = rng.choice(["ctrl", "g1", "g2", "g1+g2"], 300, p=[0.4, 0.25, 0.25, 0.1])
    kind = np.where(rng.random(300) < np.where(guide == "g1", 0.7, 0.3), "a", "b")
    x = rng.gamma(2.0, 1.0, (300, 12)) + 2 * (kind == "a")[:, None] + (guide == "g1")[:, None]
    cells = AnnData(x.astype(np.float32))
    cells.obs["guide"], cells.obs["kind"] = guide, kind
    return cells


@pytest.fixture(scope="module")
def singles(screen):
    return screen[screen.obs["guide"] != "g1+g2"].copy()


def by_hand(cells, double, kinds):
    """Control cells plus the sum of both guides' mean changes, types counting alike, cut at zero."""
    x, guide = np.asarray(cells.X, dtype=np.float64), cells.obs["guide"].to_numpy()
    kind = cells.obs["kind"].to_numpy() if kinds else np.full(len(x), "all")
    change = np.zeros(x.shape[1])
    for single in double.split("+"):
        each = [
            x[(guide == single) & (kind == k)].mean(0) - x[(guide == "ctrl") & (kind == k)].mean(0)
            for k in np.unique(kind)
        ]
        change += np.mean(each, 0)
    return np.maximum(x[guide == "ctrl"] + change, 0)


@pytest.mark.parametrize("method", ["comp", "cvae", "trvae", "mmd-ae", "vfae", "celligner", "local"])
@pytest.mark.parametrize("label", [None, "kind"])
def test_what_was_observed_is_added_up(screen, method, label, tmp_path):
    settings = SMALL if method not in ("celligner", "local") else {}
    options = {"condition": "guide", "control": "ctrl", "holdout": ["guide=g1+g2"], "label": label}
    model = cellalign.train(screen, method=method, settings=settings, **options)
    model.save(tmp_path / "model")
    model = cellalign.load(tmp_path / "model")
    found = model.counterfactual(screen, to="g1+g2")
    assert Provenance.of(found.uns).counterfactual.combined == "observed"
    np.testing.assert_allclose(found.X, by_hand(screen, "g1+g2", label is not None), rtol=1e-4, atol=1e-4)
    own = model.counterfactual(screen, to="g1+g2", combine="expression")
    assert Provenance.of(own.uns).counterfactual.combined == "expression"
    assert np.abs(own.X - found.X).max() > 1e-3


def test_a_decoded_mean_and_draws_move_by_the_same(singles):
    model = cellalign.train(singles, method="cvae", condition="guide", control="ctrl", settings=SMALL)
    control = singles[singles.obs["guide"] == "ctrl"]
    names = model.fields.one("condition").categories
    added = model.method.observed.added(torch.tensor([names.index("ctrl")]), [names.index("g1"), names.index("g2")])[
        0
    ].numpy()
    decoded = model.counterfactual(singles, to="g1+g2", decoded=True).X
    with torch.no_grad():
        own = model.method.predict(next(model.cells(control).in_order(1000)), {}).mean.numpy()
    np.testing.assert_allclose(decoded, np.maximum(own + added, 0), rtol=1e-4, atol=1e-4)
    drawn = model.counterfactual(singles, to="g1+g2", draws=20, seed=1)
    shift = np.asarray(drawn.X).mean(0) - np.asarray(control.X).mean(0)
    assert np.abs(shift - added).max() < 0.35 and np.corrcoef(shift, added)[0, 1] > 0.9


def test_two_conditions_and_counts_keep_nothing(singles):
    two = singles[singles.obs["guide"].isin(["ctrl", "g1"])].copy()
    assert cellalign.train(two, method="cvae", condition="guide", settings=SMALL).method.observed is None
    counts = singles.copy()
    counts.X = np.round(counts.X)
    model = cellalign.train(counts, method="scvi", condition="guide", control="ctrl", settings=SMALL)
    assert model.method.observed is None
    found = model.counterfactual(counts, to="g1+g2")
    assert Provenance.of(found.uns).counterfactual.combined == "expression"


def test_a_model_of_before_adds_up_as_it_did(singles, tmp_path):
    model = cellalign.train(singles, method="trvae", condition="guide", control="ctrl", settings=SMALL)
    model.save(tmp_path / "model")
    weights = load_file(tmp_path / "model" / "weights.safetensors")
    before = {name: value for name, value in weights.items() if not name.startswith("observed.")}
    assert len(before) == len(weights) - 3
    model.method.observed = None
    model.save(tmp_path / "old")
    old = cellalign.load(tmp_path / "old")
    assert not old.method.observed.complete
    assert Provenance.of(old.counterfactual(singles, to="g1+g2").uns).counterfactual.combined == "expression"
    with pytest.raises(cellalign.errors.UsageError, match="expression or latent alone, not in observed"):
        old.counterfactual(singles, to="g1+g2", combine="observed")
    weights.pop("observed.sizes")  # damaged, not old
    save_file(weights, tmp_path / "model" / "weights.safetensors")
    with pytest.raises(cellalign.errors.ModelError):
        cellalign.load(tmp_path / "model")


def test_what_earlier_cells_told_is_kept(screen):
    model = cellalign.train(screen, method="cvae", condition="guide", control="ctrl", label="kind", settings=SMALL)
    kept: ConditionMeans = model.method.observed
    groups, sizes, means = kept.groups.clone(), kept.sizes.clone(), kept.means.clone()
    fewer = ConditionMeans(kept.layout, kept.width)
    some = torch.tensor([1, 4])
    fewer.groups, fewer.sizes, fewer.means = groups[some], sizes[some] + 1, means[some] + 1
    fewer.keep(kept)
    assert torch.equal(fewer.groups, groups)
    # what was seen both times is 1 higher now, whatever the condition, so the rest would be too
    torch.testing.assert_close(fewer.means, means + 1)
    assert torch.equal(fewer.sizes[some], sizes[some] + 1)


def test_a_model_that_learns_on_keeps_the_old_means(screen):
    known = screen[screen.obs["guide"].isin(["ctrl", "g1"])].copy()
    more = screen[screen.obs["guide"].isin(["ctrl", "g2"])].copy()
    parent = cellalign.train(
        screen[screen.obs["guide"] != "g2"].copy(), method="cvae", condition="guide", control="ctrl", settings=SMALL
    )
    child = cellalign.train(more, from_=parent, epochs=1)
    names = child.fields.one("condition").categories
    assert set(names) == {"ctrl", "g1", "g2", "g1+g2"} and child.method.observed.complete
    g1 = child.method.observed.means[child.method.observed.groups[:, 0] == names.index("g1")]
    np.testing.assert_allclose(g1[0], np.asarray(known[known.obs["guide"] == "g1"].X).mean(0), rtol=1e-5)


@pytest.mark.parametrize("label", [None, "kind"])
def test_a_batch_that_is_learned_later_is_no_change_by_the_earlier_conditions(singles, label):
    """Earlier conditions were set against the control cells of the new batch: a+b had its effect twice."""
    options = {"condition": "guide", "control": "ctrl", "label": label, "batch": ["run"], "settings": SMALL}
    first, second = (singles.copy() for _ in range(2))
    second = second[second.obs["guide"] != "g2"].copy()
    second.obs["guide"] = second.obs["guide"].astype(str).replace("g1", "g3")
    second.X = second.X + np.where(second.obs["kind"] == "a", 3, 2)[:, None].astype(np.float32)
    first.obs["run"], second.obs["run"] = "one", "two"
    parent = cellalign.train(first, method="cvae", **options)
    child = cellalign.train(second, from_=parent, epochs=1)

    def change(model):
        found = model.counterfactual(first, to="g1+g2")
        return np.asarray(found.X) - np.asarray(found.layers["source"])

    np.testing.assert_allclose(change(child), change(parent), rtol=1e-4, atol=1e-4)
