"""Annotation by any method's embedding: known labels found, unknown cells flagged, nothing told to the encoder."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import cellalign
from cellalign.annotation import score
from cellalign.errors import InputError, UsageError
from cellalign.model import Model
from tests.conftest import make_counts, preprocessed

SETTINGS = {"pca": {"latent_dim": 5}, "vae": {"latent_dim": 5, "hidden": [32], "batch_size": 50, "epochs": 40}}
LEAST = {"pca": 0.98, "vae": 0.85}  # accuracy


@pytest.fixture(scope="module")
def cells() -> AnnData:
    """600 cells of three types."""
    return preprocessed(make_counts(600))


@pytest.fixture(scope="module")
def reference(cells):
    return cells[:300].copy()


@pytest.fixture(scope="module")
def query(cells):
    return cells[300:].copy()


@pytest.fixture(scope="module")
def models(reference):
    return {
        name: cellalign.train(reference, method=name, label="cell_type", settings=settings)
        for name, settings in SETTINGS.items()
    }


@pytest.fixture(scope="module")
def pca(models):
    return models["pca"]


def accuracy(table, query):
    return np.mean(table["cell_type_predicted"].astype(str) == query.obs["cell_type"].astype(str))


@pytest.mark.parametrize("classifier", ["linear", "knn"])
@pytest.mark.parametrize("method", SETTINGS)
def test_types_are_found_with_certainty(models, reference, query, method, classifier):
    table = cellalign.annotate(query, models[method], reference=reference, classifier=classifier)
    assert list(table) == ["cell_type_predicted", "cell_type_probability", "cell_type_unknown"]
    assert list(table.index) == list(query.obs_names)
    assert list(table["cell_type_predicted"].cat.categories) == ["B", "CD14 Mono", "NK"]
    assert table["cell_type_probability"].dtype == np.float32 and table["cell_type_unknown"].dtype == bool
    assert accuracy(table, query) > LEAST[method]
    assert table["cell_type_probability"].median() > 0.9
    assert table["cell_type_unknown"].mean() < 0.1


def test_the_label_is_never_told(pca, reference, query):
    """Not by the query's own column, whatever it holds, and not where it is among what the encoder sees."""
    table = cellalign.annotate(query, pca, reference=reference)
    wrong, none = query.copy(), query.copy()
    wrong.obs["cell_type"] = "B"
    del none.obs["cell_type"]
    for other in (wrong, none):
        pd.testing.assert_frame_equal(cellalign.annotate(other, pca, reference=reference), table)
    assert list(query.obs) == list(wrong.obs) and "cell_type" in reference.obs

    seeing = cellalign.train(reference, method="comp", condition="cell_type", settings=SETTINGS["vae"] | {"epochs": 2})
    told = [cellalign.annotate(q, seeing, label="cell_type", reference=reference) for q in (query, wrong, none)]
    pd.testing.assert_frame_equal(told[0], told[1])
    pd.testing.assert_frame_equal(told[0], told[2])


def test_cells_unlike_any_are_flagged(pca, reference, query):
    strange = query[:20].copy()
    strange.X = 3 * strange.X
    assert cellalign.annotate(strange, pca, reference=reference)["cell_type_unknown"].mean() > 0.9
    assert not cellalign.annotate(strange, pca, reference=reference, unknown=0)["cell_type_unknown"].any()


def test_reference_cells_without_a_label_and_held_out_ones_are_left_out(reference, query):
    labelled = reference[:200].copy()
    model = cellalign.train(reference, method="pca", settings=SETTINGS["pca"], holdout=["cell_type=NK"])
    two = cellalign.annotate(query, model, label="cell_type", reference=reference)
    assert list(two["cell_type_predicted"].cat.categories) == ["B", "CD14 Mono"]

    model = cellalign.train(reference, method="pca", label="cell_type", settings=SETTINGS["pca"])
    expected = cellalign.annotate(query, model, reference=labelled)
    partly = reference.copy()
    partly.obs.loc[partly.obs_names[200:], "cell_type"] = np.nan
    pd.testing.assert_frame_equal(cellalign.annotate(query, model, reference=partly), expected)
    whole = cellalign.annotate(query, model, reference=reference)
    assert (whole["cell_type_probability"] != expected["cell_type_probability"]).any()


def test_the_value_that_means_no_label(reference, query):
    partly = reference.copy()
    names = partly.obs["cell_type"].astype(str)
    names[200:] = "to do"
    partly.obs["cell_type"] = names.astype("category")
    model = cellalign.train(partly, method="pca", label="cell_type", unlabelled="to do", settings=SETTINGS["pca"])
    table = cellalign.annotate(query, model, reference=partly)
    assert list(table["cell_type_predicted"].cat.categories) == ["B", "CD14 Mono", "NK"]
    truth = query.obs.copy()
    truth["cell_type"] = np.where(np.arange(len(truth)) < 250, truth["cell_type"].astype(str), "to do")
    result = score(truth, table, "cell_type", unlabelled="to do")
    assert result.value("all cells") > 0.98 and "50 cells" in result.notes[0]
    assert sum(row.n_cells for row in result.rows if row.metric == "accuracy") == 250


def test_a_rare_type_is_found(reference, query):
    rows = (reference.obs["cell_type"] != "NK") | (np.arange(reference.n_obs) < 12)
    few = reference[rows].copy()
    assert (few.obs["cell_type"] == "NK").sum() == 4
    model = cellalign.train(few, method="pca", label="cell_type", settings=SETTINGS["pca"])
    found = score(query.obs, cellalign.annotate(query, model, reference=few), "cell_type")
    assert found.value("accuracy", panel="cell_type", group="NK") > 0.8
    assert found.value("unknown", panel="cell_type", group="NK") < 0.5


def test_the_models_own_classifier_is_taken_where_none_is_named(pca, reference, query, monkeypatch):
    asked = []

    def own(self, z, **options):
        asked.append(z)
        return np.tile(np.array([[0.1, 0.2, 0.7]], dtype=np.float32), (len(z), 1))

    monkeypatch.setattr(Model, "label_probability", own)
    table = cellalign.annotate(query, pca, reference=reference)
    assert (table["cell_type_predicted"] == "NK").all() and np.allclose(table["cell_type_probability"], 0.7)
    np.testing.assert_array_equal(asked[0], pca.embed(query))
    # the reference has only some of the model's labels: the model's still go by their names
    some = reference[reference.obs["cell_type"] != "B"].copy()
    assert (cellalign.annotate(query, pca, reference=some)["cell_type_predicted"] == "NK").all()
    assert accuracy(cellalign.annotate(query, pca, reference=reference, classifier="linear"), query) > 0.98
    # nor does it know other labels than its own
    assert set(cellalign.annotate(query, pca, label="donor", reference=reference)["donor_predicted"]) == {"d1", "d2"}
    assert len(asked) == 2


def test_scanvi_predicts_by_itself_cells_of_a_new_batch(reference, query):
    settings = {"hidden": [32], "latent_dim": 5, "batch_size": 50, "epochs": 20}
    model = cellalign.train(reference, method="scanvi", label="cell_type", batch=["donor"], settings=settings)
    new = query.copy()
    new.obs["donor"] = "d3"
    table = cellalign.annotate(new, model, reference=reference)
    own = model.label_probability(model.embed(new, unseen=True))
    np.testing.assert_allclose(table["cell_type_probability"], own.max(1), rtol=1e-6)
    assert accuracy(table, new) > 0.9
    del new.obs["donor"]
    pd.testing.assert_frame_equal(cellalign.annotate(new, model, reference=reference), table)


def test_scores_where_the_query_has_labels_the_reference_lacks(reference, query):
    two = reference[reference.obs["cell_type"] != "B"].copy()
    model = cellalign.train(two, method="pca", label="cell_type", settings=SETTINGS["pca"])
    table = cellalign.annotate(query, model, reference=two)
    truth = query.obs.copy()
    truth.loc[truth.index[:10], "cell_type"] = np.nan
    kinds = truth["cell_type"].astype(str)
    result = score(truth, table, "cell_type")
    known = kinds.isin(["NK", "CD14 Mono"])
    right = table["cell_type_predicted"].astype(str) == kinds
    each = [right[kinds == kind].mean() for kind in ("CD14 Mono", "NK")]
    assert result.value("all cells") == pytest.approx(right[known].mean())
    assert result.value("average") == pytest.approx(np.mean(each))
    assert (result.value("minimum"), result.value("maximum")) == pytest.approx((min(each), max(each)))
    assert result.value("accuracy", panel="cell_type", group="NK") == pytest.approx(each[1])
    flagged = table["cell_type_unknown"]
    found = result.value("unknown", panel="not in the reference", group="B")
    assert found == pytest.approx(flagged[kinds == "B"].mean())
    assert [row.n_cells for row in result.rows if row.panel == "not in the reference"] == [(kinds == "B").sum()]
    assert result.notes == ["10 cells have no 'cell_type' and are not scored"]
    assert f'"n_cells": {(kinds == "B").sum()}' in result.to_json()


def test_a_value_of_the_reference_may_mean_no_label(pca, reference, query):
    blank = reference.copy()
    blank.obs["known"] = blank.obs["cell_type"].astype(str).where(np.arange(300) % 4 > 0, "Unknown")
    table = cellalign.annotate(query, pca, reference=blank, label="known", unlabelled="Unknown")
    assert list(table["known_predicted"].cat.categories) == ["B", "CD14 Mono", "NK"]
    assert np.mean(table["known_predicted"].astype(str) == query.obs["cell_type"].astype(str)) > 0.98


def test_without_labels_the_prediction_is_summed_up(pca, reference, query):
    table = cellalign.annotate(query, pca, reference=reference)
    result = score(query.obs.drop(columns="cell_type"), table, "cell_type")
    assert {row.panel for row in result.rows} == {"predicted"}
    counted = {row.group: row.n_cells for row in result.rows}
    assert counted == table["cell_type_predicted"].value_counts().to_dict()
    b = table[table["cell_type_predicted"] == "B"]
    assert result.value("probability", group="B") == pytest.approx(b["cell_type_probability"].mean())


def test_mistakes(pca, reference, query):
    one_type, none = reference[reference.obs["cell_type"] == "B"].copy(), reference.copy()
    none.obs["cell_type"] = np.full(none.n_obs, np.nan)
    bare = cellalign.train(reference, method="pca", settings=SETTINGS["pca"])
    for error, says, model, options in (
        (InputError, "'cell_type'", pca, {"label": "celltype"}),
        (InputError, "one label only", pca, {"reference": one_type}),
        (InputError, "no labelled cell", pca, {"reference": none}),
        (InputError, "reference: the input lacks 3", pca, {"reference": reference[:, 3:].copy()}),
        (UsageError, "^label is needed", bare, {}),
        (UsageError, "'linear'", pca, {"classifier": "liner"}),
        (UsageError, "^k must be at least 1, not 0", pca, {"k": 0}),
        (UsageError, "^unknown=.* is not in", pca, {"unknown": 1.0}),
        (UsageError, "^unknown=.* is not in", pca, {"unknown": float("nan")}),
    ):
        with pytest.raises(error, match=says):
            cellalign.annotate(query, model, **({"reference": reference} | options))


def test_labels_that_are_numbers_are_compared_as_numbers(reference, query):
    """Clusters: integers in the reference and as text in the new cells, or as floats."""
    clusters = {name: code for code, name in enumerate(sorted(reference.obs["cell_type"].unique()))}
    known, new = reference.copy(), query.copy()
    known.obs["cluster"] = known.obs["cell_type"].map(clusters).astype(int)
    new.obs["cluster"] = new.obs["cell_type"].map(clusters).astype(float)
    model = cellalign.train(known, method="pca", label="cluster", settings=SETTINGS["pca"])
    table = cellalign.annotate(new, model, reference=known)
    found = score(new.obs, table, "cluster")
    assert not [row for row in found.rows if row.panel == "not in the reference"]
    assert {row.group for row in found.rows if row.panel == "cluster"} == {str(code) for code in clusters.values()}


def test_reference_cells_without_a_label_are_left_out_and_counted(reference, query, pca, caplog):
    partly = reference.copy()
    partly.obs["cell_type"] = partly.obs["cell_type"].astype(object)
    partly.obs.iloc[:4, partly.obs.columns.get_loc("cell_type")] = "nan"
    with caplog.at_level("INFO", logger="cellalign"):
        table = cellalign.annotate(query, pca, reference=partly)
    assert "4 reference cells have no 'cell_type'; left out" in caplog.text
    assert "nan" not in table["cell_type_predicted"].cat.categories
