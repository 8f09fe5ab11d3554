"""A grid is trained, ranked and its best model kept; finished runs are not trained again."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

import cellalign
from cellalign.errors import InputError, UsageError
from cellalign.methods.linear import Linear
from cellalign.tasks import tune as tuning
from cellalign.tasks.tune_criteria import cases, mixing

FAST = {"settings": {"hidden": [16], "epochs": 15, "latent_dim": 3}, "condition": "stim"}


def test_ranks_by_validation_loss(tiny):
    best, table = cellalign.tune(tiny, method="cvae", grid={"lr": [1e-6, 1e-2]}, seeds=2, **FAST)
    assert best.record.training["lr"] == 1e-2
    assert table["lr"].tolist() == [1e-2, 1e-2, 1e-6, 1e-6] and table["rank"].tolist() == [1, 1, 2, 2]
    assert best.record.outcome.validation_loss == pytest.approx(table["validation_loss"].iloc[:2].min())
    assert table["udr"].isna().all()


@pytest.mark.slow
@pytest.mark.learns
def test_ranks_by_udr_where_latents_should_mean_one_thing(shifts):
    train = shifts[shifts.obs["split"] == "train"].copy()
    settings = {"latent_dim": 4, "hidden": [64, 64], "batch_size": 128, "epochs": 40}
    best, table = cellalign.tune(
        train,
        method="svae+",
        grid={"rotate_at": [[], [0.25, 0.5]]},
        seeds=2,
        settings=settings,
        condition="perturbation",
    )
    # models whose latents were turned to the same axes agree; the others do not
    assert best.record.hyperparameters["rotate_at"] == [0.25, 0.5]
    assert table["udr"].iloc[0] > table["udr"].iloc[-1] and ((table["udr"] > 0) & (table["udr"] <= 1)).all()


def test_finished_runs_are_read_and_others_not_mistaken_for_them(tiny, tmp_path, monkeypatch):
    options = {"method": "cvae", "grid": {"lr": [1e-3, 1e-2]}, "seeds": 1, "runs": tmp_path / "runs", **FAST}
    _, first = cellalign.tune(tiny, **options)
    calls = []
    from cellalign.tasks import tune as tuning

    real = tuning.train
    monkeypatch.setattr(tuning, "train", lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs))
    _, again = cellalign.tune(tiny, **options)
    assert not calls
    np.testing.assert_array_equal(first["validation_loss"], again["validation_loss"])
    cellalign.tune(tiny[:120].copy(), **options)
    assert len(calls) == 2


def test_wrong_grids(tiny):
    for grid, options, said in (
        ({}, {}, "^grid is needed"),
        ({"gama": [1]}, {}, "unknown setting 'gama'"),
        ({"lr": [1e-3]}, {"by": "luck"}, "luck"),
        ({"lr": [1e-3]}, {"by": "udr", "seeds": 1}, "at least 2"),
        ({"lr": [1e-3], "validation": [0]}, {}, "validation"),
    ):
        with pytest.raises(UsageError, match=said):
            cellalign.tune(tiny, method="comp", grid=grid, condition="stim", **options)


def test_finished_runs_of_raw_counts_are_read(tiny_counts, tmp_path, monkeypatch):
    options = {"method": "cvae", "grid": {"beta": [0.5]}, "seeds": 1, "condition": "stim", "runs": tmp_path / "runs"}
    options |= {"settings": {"hidden": [8], "latent_dim": 2}, "epochs": 1}
    first, _ = cellalign.tune(tiny_counts, n_top_genes=20, **options)
    assert len(first.genes) == 20
    with monkeypatch.context() as patched:
        patched.setattr("cellalign.tasks.tune.train", None)
        again, _ = cellalign.tune(tiny_counts, n_top_genes=20, **options)
    assert again.record.weights_checksum == first.record.weights_checksum
    other, _ = cellalign.tune(tiny_counts, n_top_genes=30, **options)
    assert len(other.genes) == 30


SMALL = {"hidden": [8], "latent_dim": 2, "epochs": 1, "validation": 0.3}


def refused(cells, **options):
    with pytest.raises(UsageError) as caught:
        cellalign.tune(cells, **{"seeds": 1, "condition": "stim", "settings": SMALL} | options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_losses_that_are_sums_of_other_terms_are_not_compared(tiny):
    for method, grid, term in (
        ("comp", {"gamma": [1, 10]}, "gamma"),
        ("comp", {"beta": [0, 1], "lr": [0.1, 0.01]}, "beta"),
        ("comp", {"batch_size": [16, 64]}, "batch_size"),
        ("cvae", {"likelihood": ["gaussian", "mse"]}, "likelihood"),
        ("vae", {"validation": [0.1, 0.2]}, "validation"),
        ("scvi", {"eta": [1, 2]}, "eta"),
    ):
        options = {"condition": None} if method == "vae" else {}
        said = refused(tiny, method=method, grid=grid, by="loss", **options)
        assert said.startswith(f"by='loss' cannot rank these runs: {term} changes what the loss is a sum of")
        assert "set by to " in said
    assert "latent_dim" in refused(
        tiny, method="cvae", grid={"latent_dim": [1, 2]}, by="loss", settings=SMALL | {"averaged": True}
    )


def test_what_does_not_compare_is_refused_by_the_other_criteria_too(tiny):
    said = refused(tiny, method="cvae", grid={"likelihood": ["gaussian", "mse"]}, by="reconstruction")
    assert "reconstructions by different likelihoods do not compare" in said
    assert "takes no condition or batch out" in refused(tiny, method="scgen", grid={"beta": [0, 1]}, by="mixing")
    said = refused(tiny, method="celligner", grid={"latent_dim": [2, 3]}, by="reconstruction", settings={})
    assert "does not reconstruct" in said
    assert "no cells are held out under a condition" in refused(
        tiny, method="cvae", grid={"beta": [0, 1]}, by="response"
    )
    of_control = ["cell_type=NK,stim=control"]
    assert "no cells are held out" in refused(
        tiny, method="cvae", grid={"beta": [0, 1]}, by="response", holdout=of_control
    )


def test_a_weight_is_ranked_by_reconstruction_and_mixing_together(tiny):
    _, table = cellalign.tune(tiny, method="comp", grid={"gamma": [0, 10]}, seeds=1, condition="stim", settings=SMALL)
    assert {"reconstruction", "mixing"} <= {*table} and "response" not in table
    both = -(table["reconstruction"].rank() + table["mixing"].rank()) / 2
    assert table["score"].tolist() == both.tolist()


def test_a_value_that_is_null_is_a_combination_of_its_own_in_pandas_3_too(tiny):
    grid = {"gamma": [None, 30]}
    with pd.option_context("future.infer_string", True):  # which is pandas 3's way
        _, table = cellalign.tune(tiny, method="comp", grid=grid, seeds=2, condition="stim", settings=FAST["settings"])
    assert sorted(table["rank"]) == [1, 1, 2, 2] and table.groupby("rank")["score"].nunique().tolist() == [1, 1]
    assert table.groupby("rank")["gamma"].apply(lambda own: own.isna().sum()).isin([0, 2]).all()


def test_a_method_that_takes_nothing_out_is_ranked_by_reconstruction(tiny):
    best, table = cellalign.tune(tiny, method="vae", grid={"beta": [0.1, 1]}, seeds=1, settings=SMALL)
    assert table["reconstruction"].notna().all() and "mixing" not in table
    cells = tiny[best.validation_rows(tiny)]
    batch = next(best.cells(cells).in_order(1000))
    with torch.no_grad():
        latent = best.method.encode(batch)
        of = best.method.decode(latent.mean, batch).distribution
    nll = -torch.distributions.Normal(of.mean.double(), of.sd.double()).log_prob(batch.x.double()).sum(1).mean()
    assert table["reconstruction"].min() == pytest.approx(float(nll), rel=1e-5)


def test_what_is_held_out_is_what_is_ranked_by(tiny):
    held = ["cell_type=NK,stim=stimulated"]
    options = {"condition": "stim", "holdout": held, "label": "cell_type"}
    best, table = cellalign.tune(tiny, method="linear", grid={"change": ["shift", "ridge"]}, seeds=1, **options)
    assert table["response"].is_monotonic_decreasing and (table["score"] == table["response"]).all()
    assert 0.5 < table["response"].max() <= 1 and best.record.holdout == held


def test_a_condition_that_is_held_out_altogether_ranks_nothing(tiny):
    """It was chosen to rank by, and the first model that was trained did not know it."""
    rare = (tiny.obs["stim"] == "stimulated").to_numpy() & (np.arange(tiny.n_obs) % 3 == 0)
    tiny.obs["stim"] = tiny.obs["stim"].astype(str).where(~rare, "rare")
    best, table = cellalign.tune(tiny, method="cvae", grid={"lr": [1e-3, 1e-2]}, seeds=1, holdout=["stim=rare"], **FAST)
    assert "response" not in table and len(table) == 2 and best.conditions == ["control", "stimulated"]
    options = {"condition": "stim", "holdout": ["stim=rare"]}
    with pytest.raises(UsageError, match="no cells are held out under a condition that others are trained under"):
        cellalign.tune(tiny, method="linear", grid={"ridge": [0.1, 1]}, seeds=1, by="response", **options)
    # of a combination the parts are known
    tiny.obs["stim"] = tiny.obs["stim"].replace("rare", "stimulated+other")
    assert cases(tiny.obs, {"condition": "stim", "holdout": ["stim=stimulated+other"]}) == []
    tiny.obs.iloc[:10, tiny.obs.columns.get_loc("stim")] = "other"
    assert len(cases(tiny.obs, {"condition": "stim", "holdout": ["stim=stimulated+other"]})) == 1


def test_a_run_that_predicts_no_change_ranks_last(tiny, monkeypatch):
    """Its correlation with the real change had no row, and tune ended with an IndexError."""
    change = Linear.change

    def none_by_ridge(self, batch, target):
        return change(self, batch, target) * (self.hp.change != "ridge")

    monkeypatch.setattr(Linear, "change", none_by_ridge)
    options = {"condition": "stim", "holdout": ["cell_type=NK,stim=stimulated"], "seeds": 2}
    best, table = cellalign.tune(tiny, method="linear", grid={"change": ["ridge", "shift"]}, **options)
    assert best.method.hp.change == "shift" and table["change"].tolist() == ["shift"] * 2 + ["ridge"] * 2
    assert table["rank"].tolist() == [1, 1, 2, 2] and table["response"].tolist()[2:] == [0, 0]


def test_a_combination_is_not_ranked_by_its_luckier_seeds(tiny, monkeypatch, caplog):
    of = {("shift", 0): 0.9, ("shift", 1): np.nan, ("shift", 2): np.nan, ("ridge", 0): 0.1, ("ridge", 1): 0.2}
    of["ridge", 2] = np.nan

    def scored(by, model, adata, options, seed):
        return {"response": of[model.method.hp.change, seed]}

    monkeypatch.setattr(tuning, "scores", scored)
    options = {"condition": "stim", "holdout": ["cell_type=NK,stim=stimulated"], "seeds": 3}
    _, table = cellalign.tune(tiny, method="linear", grid={"change": ["shift", "ridge"]}, **options)
    assert table["change"].tolist() == ["ridge"] * 3 + ["shift"] * 3
    assert "shift, seed 1: its response is not a number, which counts as the worst" in caplog.text
    assert table["score"].tolist()[:3] == [0.1] * 3 and table["score"].isna().tolist() == [False] * 3 + [True] * 3


def test_mixing_is_near_zero_for_conditions_at_random_and_not_for_others():
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 600)
    z = rng.standard_normal((600, 4)) + 8 * kind[:, None]
    at_random = (rng.random(600) < np.array([0.2, 0.5, 0.8])[kind]).astype(int)  # of other shares in each type
    assert mixing(z, at_random, kind) < 0.03 < 0.05 < mixing(z, at_random)  # which without types looks unmixed
    assert mixing(z + 9 * at_random[:, None], at_random, kind) > 0.25
    around = NearestNeighbors(n_neighbors=15).fit(z).kneighbors(None)[1]
    share = sum(at_random[j] == at_random[i] for i in range(600) for j in around[i]) / (600 * 15)
    null = np.mean([1 - 2 * p * (1 - p) for p in (np.mean(at_random[kind == k]) for k in kind)])
    assert mixing(z, at_random, kind) == pytest.approx(abs(share - null), abs=0.01)


def test_too_few_validation_cells_are_said(tiny):
    with pytest.raises(InputError, match="validation cells are too few to rank by balance"):
        cellalign.tune(
            tiny,
            method="comp",
            grid={"gamma": [0, 1]},
            seeds=1,
            condition="stim",
            settings=SMALL | {"validation": 0.05},
        )


def test_a_value_that_is_given_twice_is_tried_once():
    from cellalign.tasks.grid import combinations

    assert list(combinations({"beta": [1, 1.0, 2], "batch_norm": [True, 1]})) == [
        {"beta": beta, "batch_norm": norm} for beta in (1, 2) for norm in (True, 1)
    ]


def test_a_presets_grid_is_the_papers_where_none_is_given():
    from cellalign.tasks.grid import of_preset

    assert of_preset("svae+", "svae-plus-simulation") == {
        "epochs": [300, 500],
        "alpha": [10, 20, 40, 60, 80, 100],
    }
    assert of_preset("svae+", "svae-plus-norman") == {} == of_preset("comp", None)


def test_a_closed_form_has_nothing_kept_back_to_be_ranked_by(tiny):
    asked = {"method": "local", "condition": "stim", "label": "cell_type", "grid": {"latent_dim": [2, 3]}}
    with pytest.raises(UsageError, match="local is fitted to all cells at once.*no cells are held out"):
        cellalign.tune(tiny, **asked)
    _, table = cellalign.tune(tiny, holdout=["cell_type=NK,stim=stimulated"], seeds=1, **asked)
    assert len(table) == 2 and table["response"].notna().all()


def test_a_setting_that_the_grid_varies_too_is_said_not_to_be_used(caplog):
    from cellalign.tasks.grid import warn_overruled

    warn_overruled({"beta": 2, "lr": 1}, {"beta": [0.1, 1]})
    assert [record.message for record in caplog.records] == [
        "grid varies beta: the value that it is set to beside is not used"
    ]
