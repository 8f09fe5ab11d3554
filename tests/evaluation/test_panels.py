"""Every panel: what it declares is what it prints, and its options are its own."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from support import counterfactual_record

import cellalign
from cellalign.errors import InputError, UsageError
from cellalign.evaluation import PANELS, Metric, Panel, run
from cellalign.evaluation.catalogue import OTHERS, catalogue
from cellalign.evaluation.metrics import scib
from cellalign.evaluation.metrics.metric import UP
from cellalign.evaluation.panels import bio
from cellalign.evaluation.panels.likelihood import Likelihood, mean_of_means
from cellalign.evaluation.panels.mixing import Mixing
from cellalign.records import Counterfactual, Embedding, Provenance

NAMES = [
    "mixing",
    "bio",
    "probe",
    "cross-condition",
    "response",
    "intervals",
    "de",
    "screen",
    "images",
    "identifiability",
    "likelihood",
]


@pytest.fixture
def integrated(tiny):
    """The 240 tiny cells with an embedding of their types."""
    kind = tiny.obs["cell_type"].cat.codes.to_numpy()
    tiny.obsm["X_any"] = np.random.default_rng(0).normal(size=(tiny.n_obs, 3)) + 8 * np.eye(3)[kind]
    return tiny


@pytest.fixture
def predicted(tiny):
    """Control cells with the response of others added, as a prediction of stimulated ones."""
    source = tiny[tiny.obs["stim"] == "control"].copy()
    source.X = source.X.toarray() + np.linspace(0, 0.5, source.n_vars)
    source.uns["cellalign"] = counterfactual_record()
    return source


def with_intervals(predicted):
    """The prediction with an interval of each gene, of each type."""
    found = predicted.copy()
    found.layers["lower"], found.layers["upper"] = found.X - 0.1, found.X + 0.1
    more = {"interval": 0.9, "groups": "cell_type"}
    record = Provenance.of(found.uns).counterfactual.model_copy(update=more)
    found.uns["cellalign"] = Provenance().with_steps(record).plain()
    return found


def drawn(predicted):
    """The prediction as draws."""
    found = predicted.copy()
    record = Provenance.of(found.uns).counterfactual.model_copy(update={"written": "draw"})
    found.uns["cellalign"] = Provenance().with_steps(record).plain()
    return found


def thick(images):
    """Those with thick strokes, as a prediction."""
    found = images[images.obs["stroke"] == "thick"].copy()
    record = Counterfactual(method="trvae", condition="stroke", from_="normal", to="thick")
    found.uns["cellalign"] = Provenance().with_steps(record).plain()
    return found


def test_every_panel_prints_what_it_declares_and_declares_what_it_prints(
    integrated, predicted, shifts, svae_model, monkeypatch
):
    declared = [each.name for each in scib.METRICS]
    scored = dict.fromkeys(declared, 0.5), {}
    monkeypatch.setattr(bio, "scib_beside_permuted", lambda *_, **__: scored)  # which compiles long
    dosed = integrated.copy()
    dosed.obs["dose"] = np.linspace(0, 1, dosed.n_obs)
    record = Embedding(method="any", key="X_any", condition="dose", continuous=True)
    dosed.uns["cellalign"] = Provenance().with_steps(record).plain()
    simulated, images = shifts[::4].copy(), cellalign.simulate.digits(30)
    results = [
        cellalign.evaluate(integrated, condition="stim", label="cell_type", k=15, min_cells=30, extra_panels=["bio"]),
        cellalign.evaluate(dosed, label="cell_type", panels=["probe"]),
        cellalign.evaluate(predicted, against=integrated, label="cell_type", condition="stim", more_genes=True),
        cellalign.evaluate(predicted, against=integrated, label="cell_type", panels=["screen"]),
        cellalign.evaluate(with_intervals(predicted), against=integrated, condition="stim", panels=["intervals"]),
        cellalign.evaluate(drawn(predicted), against=integrated, condition="stim", panels=["de"]),
        cellalign.evaluate(thick(images), against=images, label="digit", panels=["images"]),
        cellalign.evaluate(simulated, model=svae_model, panels=["identifiability", "likelihood"], particles=2),
    ]
    rows = [row for result in results for row in result.rows]
    for name, panel in PANELS.items():
        printed = {row.metric for row in rows if row.panel == name}
        assert printed == {each.name for each in panel.metrics}, name
    mixing = next(row for row in rows if row.metric == "kBET" and row.panel == "mixing")
    assert mixing.better == "towards permuted" and 0 < mixing.null.mean < 0.2
    probes = {(row.system, row.better) for row in rows if row.metric == "random forest"}
    assert probes == {("stim", "towards majority"), ("cell_type", "up")}
    assert {row.better for row in rows if row.metric == "random forest R2"} == {"towards 0"}


def test_panels_are_found_in_their_package_in_order():
    assert list(PANELS) == NAMES
    for name, panel in PANELS.items():
        assert panel.name == name and panel.summary.endswith(".") and issubclass(panel, Panel)
    assert [name for name, panel in PANELS.items() if panel.asked_only] == ["bio"]
    options = Counter(option for panel in PANELS.values() for option in panel.options())
    assert set(options.values()) == {1}, "evaluate takes the options of all panels by name"
    others = {"particles", "more_genes", "each_condition", "differential", "replicate"}
    assert set(options) == {"k", "alpha", "min_cells", "global_silhouette", *others}


@pytest.mark.parametrize(("where", "metric"), catalogue(), ids=lambda each: getattr(each, "name", each))
def test_every_metric_says_what_it_means(where, metric):
    assert where in [*PANELS, *OTHERS]
    assert metric.meaning[0].isupper() or metric.meaning[0].isdigit()
    assert metric.meaning.endswith(".") and metric.null and not metric.null.endswith(".")
    assert len(metric.meaning) < 180
    if metric.better.way == "towards" and isinstance(metric.better.target, (int, float)):
        assert metric.null_value == metric.better.target, "what carries no information of the condition is best"


def test_a_panel_may_not_print_what_it_has_not_declared():
    other = Metric("kBETT", "Not declared.", UP, "0")
    with pytest.raises(ValueError, match="panel mixing yields 'kBETT', which is not among its metrics"):
        Mixing().row("all", "all", other, 1.0, 10)


def test_a_panel_takes_its_own_options(integrated):
    named = cellalign.evaluate(integrated, condition="stim", panels=["mixing"], k=15, alpha=0.2)
    given = cellalign.evaluate(integrated, condition="stim", panels=[Mixing(k=15, alpha=0.2)])
    assert named.rows == given.rows and given.rows[0].value > cellalign.evaluate(
        integrated, condition="stim", panels=[Mixing(k=15, alpha=0.01)]
    ).value("kBET")
    default = cellalign.evaluate(integrated, condition="stim", panels=["mixing"])
    assert default.rows == cellalign.evaluate(integrated, condition="stim", panels=[Mixing(k=100)]).rows


def test_options_that_are_wrong(integrated):
    with pytest.raises(UsageError, match="unknown option 'alfa'. Did you mean 'alpha'.*k, alpha, min_cells.*particles"):
        cellalign.evaluate(integrated, condition="stim", alfa=0.2)
    for panel, options, says in (
        (Mixing, {"k": 1}, "k=1 is below 2"),
        (Mixing, {"alpha": 1.5}, r"alpha=1.5 is not in \[0, 1\]"),
        (Likelihood, {"particles": 0}, "particles=0 is below 1"),
    ):
        with pytest.raises(UsageError, match=says):
            panel(**options)


def remembered(integrated, n_validation=80):
    """Cells whose conditions lie apart where the cells were trained on, and mix where not."""
    rng = np.random.default_rng(0)
    validation = rng.permutation(integrated.n_obs) < n_validation
    integrated.obs["any_split"] = np.where(validation, "validation", "trained")
    stimulated = (integrated.obs["stim"] == "stimulated").to_numpy()
    z = rng.normal(size=(integrated.n_obs, 3)) + 2 * (stimulated & ~validation)[:, None]
    integrated.obsm["X_any"] = z.astype(np.float32)
    record = Embedding(method="any", key="X_any", condition="stim", split="any_split")
    integrated.uns["cellalign"] = Provenance().with_steps(record).plain()
    return validation


def test_mixing_is_scored_on_validation_cells_where_they_are_known(integrated):
    validation = remembered(integrated)
    found = cellalign.evaluate(integrated, label="cell_type", panels=["mixing"], k=20, min_cells=30)
    assert list(dict.fromkeys(row.system for row in found.rows)) == ["validation cells", "all"]
    first, over_all = (next(row for row in found.rows if row.system == s and row.metric == "own share")
                       for s in ("validation cells", "all"))  # fmt: skip
    assert first.n_cells == validation.sum() and over_all.n_cells == integrated.n_obs
    assert abs(first.value - first.null.mean) < 4 * first.null.sd, "these mix"
    assert over_all.value > over_all.null.mean + 4 * over_all.null.sd
    assert found.value("own share") == first.value
    (note,) = [note for note in found.notes if "not trained on" in note]
    assert "80 cells not trained on, among themselves (k = 20); of all cells 160 of 240 may have been trained" in note
    table = found.summary()[0][2]
    assert table[0][:2] == ["validation cells", "80"] and "all cells" in [line[0] for line in table]
    alone = integrated[validation].copy()
    assert {row.system for row in cellalign.evaluate(alone, panels=["mixing"], k=20).rows} == {"all"}


def test_too_few_validation_cells_are_not_scored_and_that_is_said(integrated):
    remembered(integrated, n_validation=30)
    found = cellalign.evaluate(integrated, panels=["mixing"], k=20)
    assert {row.system for row in found.rows} == {"all"}
    assert "mixing is scored on cells that were trained on: 30 validation cells are too few" in found.notes


def test_the_silhouette_of_types_may_be_of_neighbours_over_all_cells(integrated):
    integrated.obsm["X_any"] = np.random.default_rng(0).normal(size=(integrated.n_obs, 3))
    options = {"condition": "stim", "label": "cell_type", "panels": ["mixing"], "k": 20, "min_cells": 30}
    within, over = (cellalign.evaluate(integrated, **options, global_silhouette=each) for each in (False, True))
    pairs = list(zip(within.rows, over.rows, strict=True))
    differing = {(a.metric, a.group) for a, b in pairs if a.value != b.value}
    types = {*integrated.obs["cell_type"].unique(), "mean within cell types"}
    assert differing == {("s", group) for group in types}
    row = next(row for row in over.rows if row.metric == "s" and row.group == "mean within cell types")
    assert abs(row.value - row.null.mean) < 4 * row.null.sd


def test_a_panel_of_one_class_is_run_and_listed(integrated, monkeypatch):
    """As panel.py's docstring promises: nothing else has to know of it."""
    metric = Metric("spread", "Standard deviation of the latents.", UP, "0", 0)

    @dataclass(frozen=True)
    class Spread(Panel):
        name = "spread"
        summary = "How far cells lie apart."
        metrics = (metric,)

        scale: float = 1.0

        def run(self, inputs):
            z = inputs.latents()
            yield self.row("all", "all", metric, self.scale * float(z.std()), len(z))

    monkeypatch.setitem(run.PANELS, "spread", Spread)
    found = cellalign.evaluate(integrated, condition="stim", k=15, scale=2.0)
    z = integrated.obsm["X_any"].astype(np.float32)
    assert found.value("spread") == pytest.approx(2 * z.std()) and "spread" in [row.panel for row in found.rows]
    assert ("spread", metric) in catalogue()


def test_cells_without_a_label_are_left_out_and_counted_by_every_panel(integrated, predicted):
    for cells, against in ((integrated, None), (predicted, integrated)):
        partly = cells.copy()
        partly.obs["kind"] = partly.obs["cell_type"].astype(object)
        partly.obs.iloc[:5, partly.obs.columns.get_loc("kind")] = ["", "NA", None, float("nan"), "nan"]
        real = None if against is None else against.copy()
        if real is not None:
            real.obs["kind"] = real.obs["cell_type"].astype(object)
            real.obs.iloc[0, real.obs.columns.get_loc("kind")] = None
        options = {"condition": "stim", "label": "kind", "k": 10, "min_cells": 5, "against": real}
        found = cellalign.evaluate(partly, **options)
        assert "5 cells have no 'kind' and are left out of what needs it" in found.notes
        assert found.notes.count("5 cells have no 'kind' and are left out of what needs it") == 1
        assert (against is None) != any("1 cells of against have no 'kind'" in note for note in found.notes)
        known = partly[5:].copy()
        whole = cellalign.evaluate(known, **options)
        panels = {"cross-condition", "response"}
        one, other = ([row.value for row in r.rows if row.panel in panels] for r in (found, whole))
        np.testing.assert_array_equal(one, other)
        assert len(one) and not any("nan" in row.group or row.group == "" for row in found.rows)


@pytest.mark.parametrize("most", [30, 1])
def test_cells_of_labels_that_are_not_shared_are_not_counted_as_tested(integrated, monkeypatch, most):
    monkeypatch.setattr("cellalign.evaluation.metrics.probe.ALL_TRAINED", most)
    of_one = (integrated.obs["cell_type"] == "NK") & (integrated.obs["stim"] == "stimulated")
    cells = integrated[~of_one].copy()
    found = cellalign.evaluate(cells, condition="stim", label="cell_type", panels=["cross-condition"])
    shared = cells.obs["cell_type"] != "NK"
    n = {value: int((shared & (cells.obs["stim"] == value)).sum()) for value in ("control", "stimulated")}
    of = {"control -> stimulated": "stimulated", "stimulated -> control": "control"}
    of |= {"control -> others": "stimulated", "stimulated -> others": "control"}
    counted = {row.group: row.n_cells for row in found.rows}
    mean = counted.pop("mean")
    assert counted == {group: n[of[group]] for group in counted}
    assert mean == (sum(n.values()) if most > 1 else sum(counted.values()))


def test_labels_of_a_prediction_and_of_real_cells_are_compared_as_values(integrated, predicted):
    clusters = {name: code for code, name in enumerate(sorted(integrated.obs["cell_type"].unique()))}
    predicted.obs["cluster"] = predicted.obs["cell_type"].map(clusters).astype(float)
    integrated.obs["cluster"] = integrated.obs["cell_type"].map(clusters).astype(int)
    found = cellalign.evaluate(predicted, against=integrated, condition="stim", label="cluster", panels=["response"])
    assert {row.group for row in found.rows} == {"0.0", "1.0", "2.0", "mean"}


def test_a_label_that_no_cell_has_is_refused(integrated):
    integrated.obs["kind"] = "nan"
    with pytest.raises(InputError, match="not one cell has a value in label column 'kind'"):
        cellalign.evaluate(integrated, condition="stim", label="kind")


def test_every_intervention_counts_alike_however_many_cells_it_has(shifts, svae_model):
    values, group = np.array([1.0, 3.0, 10.0, 7.0]), np.array([5, 5, 2, 5])
    assert mean_of_means(values, group) == pytest.approx((10 + (1 + 3 + 7) / 3) / 2)
    known = shifts.obs["perturbation"].astype(str).isin(svae_model.conditions).to_numpy()
    few = np.flatnonzero(known)[::7]  # not as many of each
    cells = shifts[few].copy()
    rows = cellalign.evaluate(cells, model=svae_model, panels=["likelihood"], particles=2).rows
    found = {(row.system, row.metric): row.value for row in rows}
    by_cell = svae_model.nelbo(cells, seed=0)
    expected = pd.Series(by_cell).groupby(cells.obs["perturbation"].astype(str).to_numpy()).mean().mean()
    assert found["trained interventions", "nelbo"] == pytest.approx(expected, rel=1e-5)


def test_mixing_of_few_cells_beside_its_neighbours_is_said(tiny):
    cells = tiny[:120].copy()
    cells.obsm["X_z"] = np.random.default_rng(0).normal(size=(120, 3))
    few = cellalign.evaluate(cells, condition="stim", panels=["mixing"], embedding="X_z")
    assert any("100 neighbours are a large part of 120 cells" in note for note in few.notes)
    enough = cellalign.evaluate(cells, condition="stim", panels=["mixing"], embedding="X_z", k=30)
    assert not any("large part" in note for note in enough.notes)
