"""Leave-one-group-out: what is held out is not trained on, baselines stand beside, finished rows are kept."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import cellalign
from cellalign.engine.settings import plan_of
from cellalign.errors import InputError, UsageError
from cellalign.methods.registry import get
from cellalign.tasks import benchmark as benchmarking
from cellalign.tasks.benchmark import benchmark
from cellalign.tasks.benchmark_fitted import mixing_scores
from cellalign.tasks.benchmark_paired import paired, picture, sentence
from cellalign.tasks.benchmark_table import errors, metric_of, printed, summary
from cellalign.tasks.grid import of_each

OPTIONS = {"condition": "stim", "holdout_each": "cell_type", "validation": 0}


def test_linear_shift_is_the_mean_shift_baseline(tiny):
    tiny.X = sparse.csr_matrix(tiny.X.toarray() + 1)  # a prediction is cut at zero, the baseline is not
    table = benchmark(tiny, methods=["linear", "pca"], **OPTIONS)
    of_two = ["mean shift", "nearest cell type", "local shift"]  # other groups
    assert list(table["method"].unique()) == ["linear", "pca", "no change", *of_two, "split half", "attainable"]
    assert table.groupby("method").size().eq(3).all() and set(table["held_out"]) == {"B", "CD14 Mono", "NK"}
    wide = summary(table, "r_change_de")
    # both add the mean change of the other two cell types
    np.testing.assert_allclose(wide.loc["linear"].astype(float), wide.loc["mean shift"].astype(float), atol=1e-4)
    assert wide["mean"].dropna().is_monotonic_decreasing


def test_a_condition_that_one_group_alone_is_under_is_not_held_out_there(tiny, caplog):
    """Nothing was left to learn it from, and the whole benchmark ended when it was predicted."""
    own = (tiny.obs["stim"] == "stimulated") & (tiny.obs["cell_type"] == "NK")
    rare = own & (own.cumsum() % 2 == 0)
    tiny.obs["stim"] = tiny.obs["stim"].astype(str).where(~rare, "rare")
    for at_once in ("each", "all"):
        caplog.clear()
        with caplog.at_level("INFO", logger="cellalign"):
            table = benchmark(tiny, methods=["linear"], holdout_conditions=at_once, **OPTIONS)
        assert set(table["to"]) == {"stimulated"} and set(table["held_out"]) == {"B", "CD14 Mono", "NK"}
        assert "not held out, for no other cell is under the condition: NK under rare" in caplog.text
    tiny.obs["stim"] = np.where(own, "rare", "control")
    with pytest.raises(InputError, match="no group of 'cell_type' has 5 cells .* that other cells are under too"):
        benchmark(tiny, methods=["linear"], **OPTIONS)


def test_the_condition_is_no_column_of_groups(tiny):
    said = "holdout_each='stim' is the condition itself; name a column of groups.*: cell_type \\(3"
    with pytest.raises(UsageError, match=said):
        benchmark(tiny, methods=["linear"], **OPTIONS | {"holdout_each": "stim"})


def test_a_combination_is_held_out_though_one_group_alone_is_under_it(tiny):
    own = (tiny.obs["cell_type"] == "NK").to_numpy()
    rng = np.random.default_rng(0)
    guide = np.where(tiny.obs["stim"] == "control", "control", rng.choice(["a", "b"], tiny.n_obs))
    tiny.obs["stim"] = np.where(own & (guide != "control") & (rng.random(tiny.n_obs) < 0.3), "a+b", guide)
    table = benchmark(tiny, methods=["linear"], groups=["NK"], **OPTIONS)
    assert set(table["to"]) == {"a", "b", "a+b"}


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


def test_what_failed_on_a_group_is_not_better_for_it():
    """Where the hard group's training failed, the mean was over the others, and stood first."""
    table = scored(A=[0.91, 0.92, 0.5], B=[0.91, 0.92, 0.5], C=[np.nan, 0.22, 0.1])
    assert list(summary(table, "r_de").index) == ["method1", "method2", "method0"]
    rows = printed(table, ["r_de"], people=True)[1]
    assert rows[2] == ["method0", "0.910", "0.910", "-", "0.910 (of 2 of 3)"] and rows[0][-1] == "0.687"
    assert printed(table, ["mse_de", "r_de"], people=True)[1][2] == ["method0", *["0.910 (of 2 of 3)"] * 2]
    assert printed(table, ["r_de"], people=False)[1][2][-1] == pytest.approx(0.91)
    seeds = pd.concat([table.assign(seed=seed) for seed in range(2)])
    seeds.loc[(seeds["seed"] == 1) & (seeds["held_out"] == "C"), "r_de"] = [0.3, np.nan, 0.1]
    assert list(summary(seeds, "r_de").index)[0] == "method2", "the others lack a seed of C"


def test_beside_a_baseline_a_prediction_is_without_what_it_owes_to_its_control():
    table = scored(A=[0.9, 0.88], B=[0.8, 0.78], C=[0.7, 0.68])
    table["method"] = table["method"].replace({"method1": "mean shift"})
    table["r_change_de"], table["mse_change_de"] = table["r_de"], 1 - table["r_de"]
    table["r_change_de leaning"] = table["mse_change_de leaning"] = np.where(table["method"] == "method0", 0.05, np.nan)
    for metric, owed in (("r_change_de", -0.03), ("mse_change_de", -0.03)):
        (row,) = paired(table, metric)
        assert row.difference == pytest.approx(owed) and row.best == "mean shift"
        assert list(summary(table, metric).index) == ["mean shift", "method0"]
    assert summary(table, "r_change_de").loc["method0", "mean"] == pytest.approx(0.75)


def test_a_benchmark_and_an_evaluation_differ_by_the_same_from_the_best_baseline(tiny):
    table = benchmark(tiny, methods=["local"], **OPTIONS)
    for group in ("B", "NK"):
        model = cellalign.train(
            tiny,
            method="local",
            condition="stim",
            label="cell_type",
            holdout=[f"cell_type={group},stim=stimulated"],
            validation=0,
        )
        cells = model.counterfactual(tiny, to="stimulated", from_="control", where={"cell_type": group})
        frame = cellalign.evaluate(
            cells, against=tiny, condition="stim", label="cell_type", panels=["response"]
        ).frame()
        own = frame[(frame["system"] == "prediction") & (frame["group"] == group)].set_index("metric")
        for metric in ("r_change_all", "mse_change_all"):
            best = own.loc[metric, "best_baseline"]
            wide = summary(table, metric)
            sign = 1 if metric.startswith("r_") else -1
            assert sign * (wide.loc["local", group] - wide.loc[best, group]) == pytest.approx(
                own.loc[metric, "difference"], abs=1e-6
            )


def test_a_metric_that_the_table_lacks_is_empty_and_one_that_is_not_there_is_refused():
    table = scored(B=[0.3, 0.1])
    wide = summary(table, "r_change_de")
    assert list(wide.index) == ["method0", "method1"] and wide.isna().all().all()
    assert metric_of("energy").better.in_words == "lower is better"
    assert metric_of("m-own share").better == metric_of("kBET").better
    assert list(summary(table, "kBET").index) == ["method0", "method1"]
    for wrong in ("mse_dee", "kbet"):
        with pytest.raises(UsageError, match=f"unknown metric '{wrong}'.*panel response: r_all, r_de, mse_all, mse_de"):
            summary(table, wrong)
    with pytest.raises(UsageError, match="Did you mean 'mse_de'"):
        metric_of("mse_dee")


def test_standard_errors_are_those_over_seeds():
    """Of the mean over groups: of each seed's mean, not of all values together."""
    seeds = (
        {"B": [0.3, 0.1], "NK": [0.5, 0.3]},
        {"B": [0.4, 0.1], "NK": [0.6, 0.1]},
        {"B": [0.8, 0.1], "NK": [0, 0.5]},
    )
    table = pd.concat([scored(**values).assign(seed=seed) for seed, values in enumerate(seeds)])
    found = errors(table, "r_de")
    assert list(found.index) == list(summary(table, "r_de").index) == ["method0", "method1"]
    for column, values in {"B": [0.3, 0.4, 0.8], "NK": [0.5, 0.6, 0.0], "mean": [0.4, 0.5, 0.4]}.items():
        assert found.loc["method0", column] == pytest.approx(np.std(values, ddof=1) / np.sqrt(3))
    columns, rows = printed(table, ["r_de"], people=True)
    assert columns == ["method", "B", "NK", "mean"]
    assert rows[0] == ["method0", "0.500 ± 0.153", "0.367 ± 0.186", "0.433 ± 0.033"]
    columns, rows = printed(table, ["r_de", "mse_de"], people=False)
    assert columns == ["method", "r_de", "r_de se", "mse_de", "mse_de se"]
    assert rows[0][0] == "method0" and rows[0][1:3] == pytest.approx([0.4333, 0.0333], abs=1e-4)
    alone = scored(**seeds[0])
    assert errors(alone, "r_de").isna().all().all()
    assert printed(alone, ["r_de"], people=True)[1][0] == ["method0", "0.300", "0.500", "0.400"]


def test_mixing_is_ordered_by_the_distance_to_its_null():
    table = scored(nothing=[0.0, 0.09, 0.4]).rename(columns={"mse_de": "kBET"})
    table["kBET permuted"] = 0.1
    assert list(summary(table, "kBET").index) == ["method1", "method0", "method2"]
    columns, rows = printed(table, ["kBET", "r_de"], people=True)
    assert columns == ["method", "kBET", "kBET permuted", "r_de"] and rows[0] == ["method1", "0.090", "0.100", "0.090"]


def test_a_grid_is_a_row_for_every_combination(tiny):
    """The same figures as of the setting by itself."""
    table = benchmark(tiny, methods=["linear"], grid={"change": ["shift", "ridge"], "ridge": [1]}, **OPTIONS)
    alone = benchmark(tiny, methods=["linear"], settings={"linear": {"change": "ridge", "ridge": 1}}, **OPTIONS)
    names = ["linear change=ridge, ridge=1", "linear change=shift, ridge=1"]
    assert sorted(name for name in set(table["method"]) if name.startswith("linear")) == names
    both = [t[t["method"] == name]["r_de"].to_numpy() for t, name in ((table, names[0]), (alone, "linear"))]
    np.testing.assert_array_equal(*both)
    assert (table["method"] == "no change").sum() == 3, "baselines stand there once"
    for wrong, says in (({"chnge": ["ridge"]}, "chnge"), ({}, "grid"), ({"change": []}, "at least one")):
        with pytest.raises(UsageError, match=says):
            benchmark(tiny, methods=["linear"], grid=wrong, **OPTIONS)


def test_a_grid_of_one_method_leaves_others_as_they_are(tiny):
    grid = {"linear.change": ["shift", "ridge"], "latent_dim": [2]}
    table = benchmark(tiny, methods=["linear", "pca"], grid={"linear.change": ["shift", "ridge"]}, **OPTIONS)
    assert {"linear change=shift", "linear change=ridge", "pca"} < set(table["method"])
    assert of_each(grid, ["linear", "pca"]) == {
        "linear": [{"change": "shift", "latent_dim": 2}, {"change": "ridge", "latent_dim": 2}],
        "pca": [{"latent_dim": 2}],
    }
    for wrong, says in (
        ({"change": ["shift", "ridge"]}, r"pca has no setting 'change'; for linear alone: grid='linear.change=shift,r"),
        ({"linaer.change": ["shift"]}, r"linaer.change=...' is of none of the methods"),
        ({"linear.chnge": ["shift"]}, "unknown setting 'chnge'"),
        ({"chnge": ["shift"]}, "unknown setting 'chnge'"),
    ):
        with pytest.raises(UsageError, match=says):
            benchmark(tiny, methods=["linear", "pca"], grid=wrong, **OPTIONS)


def test_settings_of_steps_are_not_listed_for_a_closed_form(tiny):
    with pytest.raises(UsageError, match="unknown setting") as error:
        benchmark(tiny, methods=["local"], grid={"beta": [1]}, **OPTIONS)
    listed = str(error.value).partition("Settings of local: ")[2].split(", ")
    assert "neighbours" in listed or "validation" in listed
    assert not {"lr", "warmup_epochs", "patience", "epochs"} & set(listed)
    assert {"lr", "epochs"} <= set(plan_of(get("auto"))) & set(plan_of(get("cvae")))


def test_with_nothing_held_out_mixing_is_scored_beside_its_null_and_the_fitted_response(tiny, tmp_path):
    options = {"condition": "stim", "label": "cell_type", "results": tmp_path / "fitted.csv"}
    small = {"hidden": [8], "latent_dim": 3}
    table = benchmark(tiny, methods=["cvae", "pca"], settings={"cvae": small}, epochs=1, seeds=(0, 1), **options)
    own = table[table["method"].isin(["cvae", "pca"])]
    assert set(table["held_out"]) == {"nothing"} and len(own) == 4
    assert own[["kBET", "kBET permuted", "s", "own share", "own share permuted"]].notna().all().all()
    assert (own["own share permuted"] - 0.5).abs().max() < 0.05
    assert own["r_de"].notna().all() and own["r_de"].nunique() > 1
    model = cellalign.train(tiny, method="cvae", condition="stim", settings=small, epochs=1, seed=1)
    tiny.obsm["X_mine"] = model.embed(tiny)
    same = cellalign.evaluate(tiny, condition="stim", embedding="X_mine", panels=["mixing"], seed=1)
    assert own[(own["method"] == "cvae") & (own["seed"] == 1)]["kBET"].item() == pytest.approx(same.value("kBET"))
    with pytest.raises(UsageError, match="groups needs holdout_each"):
        benchmark(tiny, methods=["pca"], groups=["B"], **options)


def test_why_mixing_is_not_scored_is_said_and_a_fault_is_not_taken_for_it(tiny, caplog):
    model = cellalign.train(tiny, method="cvae", condition="stim", settings={"hidden": [8]}, epochs=1)
    asked = {"label": "cell_type", "seed": 0, "device": "cpu", "min_cells": None}
    of_one = tiny[tiny.obs["stim"] == "control"].copy()
    assert mixing_scores(of_one, model, **asked) == {}
    assert "cvae: mixing is not scored: the cells are of one condition only" in caplog.text
    assert "own share" in mixing_scores(tiny, model, **asked)
    tiny.obs["cell_type"] = np.nan
    with pytest.raises(InputError, match="not one cell has a value in label column 'cell_type'"):
        mixing_scores(tiny, model, **asked)


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
    pd.testing.assert_frame_equal(kept[list(first)], first, check_dtype=False)  # others have no anchored score of B
    assert len(pd.read_csv(results)) == len(table) == 21


def test_three_conditions_are_each_predicted(tiny):
    rng = np.random.default_rng(0)
    dose = np.where(tiny.obs["stim"] == "control", "control", rng.choice(["low", "high"], tiny.n_obs))
    tiny.obs["dose"] = dose
    table = benchmark(tiny, methods=["linear"], condition="dose", holdout_each="cell_type", validation=0)
    assert set(table["to"]) == {"low", "high"} and (table["method"] == "linear").sum() == 6


def test_a_group_is_held_out_under_all_conditions_but_the_control_at_once(tiny, tmp_path, monkeypatch):
    tiny.obs["stim"] = tiny.obs["stim"].astype(str)
    stimulated = np.flatnonzero(tiny.obs["stim"] == "stimulated")
    tiny.obs.iloc[stimulated[::2], tiny.obs.columns.get_loc("stim")] = "more"
    held, real = [], benchmarking.train
    monkeypatch.setattr(benchmarking, "train", lambda *a, **k: held.append(k["holdout"]) or real(*a, **k))
    options = {"methods": ["linear"], "condition": "stim", "holdout_each": "cell_type", "groups": ["NK", "B"]}
    options |= {"results": tmp_path / "rows.csv"}
    table = cellalign.benchmark(tiny, holdout_conditions="all", **options)
    under = ["cell_type={},stim=more", "cell_type={},stim=stimulated"]
    assert held == [[item.format(group) for item in under] for group in ("NK", "B")]
    rows = table[table["method"] == "linear"]
    assert sorted(zip(rows["held_out"], rows["to"], strict=True)) == [
        (group, to) for group in ("B", "NK") for to in ("more", "stimulated")
    ]
    assert rows["r_change_all"].notna().all()
    assert "mean response" not in set(table["method"])  # the group's own, under conditions that were held out as well
    cellalign.benchmark(tiny, holdout_conditions="all", **options)
    assert len(held) == 2  # rows that are there are not computed again
    assert "mean response" in set(cellalign.benchmark(tiny, **options)["method"])
    assert [len(items) for items in held] == [2, 2, 1, 1, 1, 1]  # one at a time is another thing
    with pytest.raises(UsageError, match="holdout_conditions needs holdout_each"):
        cellalign.benchmark(tiny, methods=["linear"], condition="stim", holdout_conditions="all")


def test_mistakes(tiny, tmp_path):
    with pytest.raises(InputError, match="no 'Nk'"):
        benchmark(tiny, methods=["linear"], groups=["Nk"], **OPTIONS)
    with pytest.raises(UsageError, match="unknown method 'liner'"):
        benchmark(tiny, methods=["liner"], **OPTIONS)
    with pytest.raises(UsageError, match="methods names no method"):
        benchmark(tiny, methods=[], **OPTIONS)
    with pytest.raises(UsageError, match="min_cells=30 is of mixing.* leave out it or holdout_each"):
        benchmark(tiny, methods=["linear"], min_cells=30, **OPTIONS)
    with pytest.raises(UsageError, match="unknown setting 'beta'.* Settings of local: "):
        benchmark(tiny, methods=["local"], grid={"beta": [1]}, **OPTIONS)
    tiny.obs["stim"] = tiny.obs["stim"].astype(str).replace({"control": "a", "stimulated": "b"})
    with pytest.raises(UsageError, match="^control is needed"):
        benchmark(tiny, methods=["linear"], **OPTIONS)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="holds no benchmark"):
        benchmark(tiny, methods=["linear"], control="a", results=tmp_path / "other.csv", **OPTIONS)
    assert (tmp_path / "other.csv").read_text() == "a,b\n1,2\n"


def made(**values):
    """A benchmark by r_change_de of four groups."""
    rows = [
        {"method": method, "seed": seed, "held_out": group, "to": "x", "r_change_de": value, "measurable": 1.0}
        for method, of in values.items()
        for seed in (0, 1)
        for group, value in zip("abcdef", of, strict=True)
    ]
    return pd.DataFrame(rows)


def test_methods_stand_beside_the_best_baseline_group_by_group():
    base = np.array([0.5, 0.6, 0.7, 0.8, 0.55, 0.65])
    of = {"good": base + 0.1, "poor": base - 0.05, "same": base + [0.01, -0.01] * 3}
    table = made(**of, **{"mean shift": base - 0.2, "local shift": base, "split half": base + 0.2})
    found = paired(table, "r_change_de")
    assert [row.method for row in found] == ["good", "same", "poor"] and {row.best for row in found} == {"local shift"}
    assert found[0].difference == pytest.approx(0.1) and found[0].low > 0 and found[0].p == pytest.approx(2 / 64)
    assert found[2].high < 0 and found[1].low <= 0 <= found[1].high and found[1].groups == 6
    said = sentence(found, "r_change_de")
    assert said == (
        "best baseline by r_change_de: local shift; better than it: good; worse than it: poor; "
        "no better than it: same (6 groups)"
    )
    table.loc[table["held_out"] == "a", "measurable"] = 0.0
    assert paired(table, "r_change_de")[0].groups == 5, "what cannot be measured is no evidence"
    assert paired(table[table["method"] == "good"], "r_change_de") == [] and sentence([], "r_change_de") == ""
    assert paired(table, "mse_de") == []


def test_the_picture_has_a_point_per_method_and_group_between_two_lines():
    base = np.array([0.5, 0.6, 0.7, 0.8, 0.55, 0.65])
    table = made(good=base + 0.1, **{"local shift": base, "split half": base + 0.2})
    (axes,) = picture(table, "r_change_de").axes
    assert [text.get_text() for text in axes.get_xticklabels()] == list("abcdef")
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert set(labels) == {"best baseline: local shift", "halves of the real cells", "good"}
    lines = [np.array([part[0, 1] for part in drawn.get_segments()]) for drawn in axes.collections[:2]]
    np.testing.assert_allclose(lines, [base, base + 0.2])
    with pytest.raises(InputError, match="nothing to draw: no method has mse_de"):
        picture(table, "mse_de")


def test_rows_hold_intervals_and_anchored_scores(tiny, tmp_path):
    table = benchmark(tiny, methods=["linear"], groups=["NK"], results=tmp_path / "b.csv", **OPTIONS)
    own = table[table["method"] == "linear"].iloc[0]
    assert own["r_change_de low"] < own["r_change_de"] < own["r_change_de high"]
    shift = table[table["method"] == "mean shift"].iloc[0]
    name = next(name for name in table if name.endswith("anchored"))
    assert shift[name] == pytest.approx(0) and own["measurable"] == 1
    assert table[table["method"] == "split half"].iloc[0][name] == pytest.approx(1)
    again = benchmark(tiny, methods=["linear"], groups=["NK"], results=tmp_path / "b.csv", **OPTIONS)
    pd.testing.assert_frame_equal(again, table, check_dtype=False)


def test_one_group_is_no_groups(tiny):
    table = benchmark(tiny, methods=["linear"], groups=["NK"], **OPTIONS)
    assert sentence(paired(table, "r_change_de"), "r_change_de").endswith("(1 group)")
