"""A grid is trained, ranked and its best model kept; finished runs are not trained again."""

import numpy as np
import pytest

import cellalign
from cellalign.errors import UsageError

FAST = {"settings": {"hidden": [16], "epochs": 15, "latent_dim": 3}, "condition": "stim"}


def test_ranks_by_validation_loss(tiny):
    best, table = cellalign.tune(tiny, method="cvae", grid={"lr": [1e-6, 1e-2]}, seeds=2, **FAST)
    assert best.record.training["lr"] == 1e-2
    assert table["lr"].tolist() == [1e-2, 1e-2, 1e-6, 1e-6] and table["rank"].tolist() == [1, 1, 2, 2]
    assert best.record.outcome.validation_loss == pytest.approx(table["validation_loss"].iloc[:2].min())
    assert table["udr"].isna().all()


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


def test_a_presets_grid_is_the_papers_where_none_is_given():
    from cellalign.tasks.grid import of_preset

    assert of_preset("svae+", "svae-plus-simulation") == {
        "epochs": [300, 500],
        "alpha": [10, 20, 40, 60, 80, 100],
    }
    assert of_preset("svae+", "svae-plus-norman") == {} == of_preset("comp", None)
