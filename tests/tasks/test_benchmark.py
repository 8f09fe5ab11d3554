"""Leave-one-group-out: what is held out is not trained on, baselines stand beside, finished rows are kept."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import cellalign
from cellalign.errors import InputError, UsageError
from cellalign.tasks import benchmark as benchmarking
from cellalign.tasks.benchmark import benchmark, metric_of, summary

OPTIONS = {"condition": "stim", "holdout_each": "cell_type", "validation": 0}


def test_linear_shift_is_the_mean_shift_baseline(tiny):
    tiny.X = sparse.csr_matrix(tiny.X.toarray() + 1)  # a prediction is cut at zero, the baseline is not
    table = benchmark(tiny, methods=["linear", "pca"], **OPTIONS)
    assert sorted(table["method"].unique()) == ["attainable", "linear", "mean shift", "no change", "pca", "split half"]
    assert table.groupby("method").size().eq(3).all() and set(table["held_out"]) == {"B", "CD14 Mono", "NK"}
    wide = summary(table, "r_change_de")
    # both add the mean change of the other two cell types
    np.testing.assert_allclose(wide.loc["linear"].astype(float), wide.loc["mean shift"].astype(float), atol=1e-4)
    assert wide["mean"].dropna().is_monotonic_decreasing


def scored(**values):
    """A benchmark of one held-out group per column of values, one method per place."""
    methods = [f"method{i}" for i in range(len(next(iter(values.values()))))]
    rows = [
        {"method": method, "seed": 0, "held_out": group, "to": "stimulated", "mse_de": value, "r_de": value}
        for i, method in enumerate(methods)
        for group, value in ((group, of[i]) for group, of in values.items())
    ]
    return pd.DataFrame(rows)


def test_the_best_method_stands_first_whichever_way_is_better():
    table = scored(B=[0.3, 0.1, np.nan, 0.2], NK=[0.5, 0.3, np.nan, 0.1])
    errors, correlations = summary(table, "mse_de"), summary(table, "r_de")
    assert list(errors.index) == ["method3", "method1", "method0", "method2"]
    np.testing.assert_allclose(errors["mean"], [0.15, 0.2, 0.4, np.nan])
    assert list(correlations.index) == ["method0", "method1", "method3", "method2"]
    np.testing.assert_allclose(correlations.loc["method0"], [0.3, 0.5, 0.4])


def test_a_metric_that_the_table_lacks_is_empty_and_one_that_is_not_there_is_refused():
    table = scored(B=[0.3, 0.1])
    wide = summary(table, "r_change_de")
    assert list(wide.index) == ["method0", "method1"] and wide.isna().all().all()
    assert metric_of("energy").better.in_words == "lower is better"
    for wrong in ("mse_dee", "kBET"):
        with pytest.raises(UsageError, match=f"unknown metric '{wrong}'.*panel response: r_all, r_de, mse_all, mse_de"):
            summary(table, wrong)
    with pytest.raises(UsageError, match="Did you mean 'mse_de'"):
        metric_of("mse_dee")


def test_what_is_held_out_is_not_seen(tiny):
    changed = tiny.copy()
    held = (changed.obs["cell_type"] == "NK") & (changed.obs["stim"] == "stimulated")
    dense = changed.X.toarray()
    dense[np.flatnonzero(held)] = 1.0
    changed.X = sparse.csr_matrix(dense)
    models = [
        cellalign.train(
            a, method="linear", condition="stim", label="cell_type", holdout=["cell_type=NK,stim=stimulated"]
        )
        for a in (tiny, changed)
    ]
    a, b = (cellalign.counterfactual(tiny, m, to="stimulated", where={"cell_type": "NK"}) for m in models)
    np.testing.assert_array_equal(a.X, b.X)
    assert a.obs["held_out"].all()
    whole = cellalign.counterfactual(tiny, models[0], to="stimulated")
    assert (whole.obs["held_out"] == (whole.obs["cell_type"] == "NK")).all()
    scored = cellalign.evaluate(whole, against=tiny, condition="stim", label="cell_type", panels=["response"])
    assert "held out in training: NK" in scored.notes


def test_goes_on_where_it_was_stopped(tiny, tmp_path, monkeypatch):
    results = tmp_path / "benchmark.csv"
    first = benchmark(tiny, methods=["linear"], groups=["B"], results=results, **OPTIONS)
    calls = []
    real = benchmarking.train
    monkeypatch.setattr(benchmarking, "train", lambda *a, **k: calls.append(k["holdout"]) or real(*a, **k))
    table = benchmark(tiny, methods=["linear"], results=results, **OPTIONS)
    assert calls == [["cell_type=CD14 Mono,stim=stimulated"], ["cell_type=NK,stim=stimulated"]]
    kept = table[table["held_out"] == "B"].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, first, check_dtype=False)
    assert len(pd.read_csv(results)) == len(table) == 15


def test_three_conditions_are_each_predicted(tiny):
    rng = np.random.default_rng(0)
    dose = np.where(tiny.obs["stim"] == "control", "control", rng.choice(["low", "high"], tiny.n_obs))
    tiny.obs["dose"] = dose
    table = benchmark(tiny, methods=["linear"], condition="dose", holdout_each="cell_type", validation=0)
    assert set(table["to"]) == {"low", "high"} and (table["method"] == "linear").sum() == 6


def test_mistakes(tiny, tmp_path):
    with pytest.raises(InputError, match="no 'Nk'"):
        benchmark(tiny, methods=["linear"], groups=["Nk"], **OPTIONS)
    with pytest.raises(UsageError, match="unknown method 'liner'"):
        benchmark(tiny, methods=["liner"], **OPTIONS)
    tiny.obs["stim"] = tiny.obs["stim"].astype(str).replace({"control": "a", "stimulated": "b"})
    with pytest.raises(UsageError, match="^control is needed"):
        benchmark(tiny, methods=["linear"], **OPTIONS)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="holds no benchmark"):
        benchmark(tiny, methods=["linear"], control="a", results=tmp_path / "other.csv", **OPTIONS)
    assert (tmp_path / "other.csv").read_text() == "a,b\n1,2\n"
