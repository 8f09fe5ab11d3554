"""Of more embedded cells than are scored some are drawn, which is said; cells on disk are scored as in memory."""

import numpy as np
import pytest

import cellalign
from cellalign.data import files
from cellalign.data.reading import Reading
from cellalign.evaluation import compared, run
from cellalign.evaluation.panels import response
from cellalign.evaluation.scored import score
from cellalign.records import Provenance

SCORED = {"condition": "stim", "label": "cell_type", "panels": ["mixing", "probe"]}


@pytest.fixture
def embedded(tiny):
    model = cellalign.train(tiny, method="cvae", condition="stim", epochs=1, settings={"hidden": [8]})
    return cellalign.embed(tiny, model), model


def values(result):
    return {(row.panel, row.system, row.group, row.metric): row.value for row in result.frame().itertuples()}


def test_a_sample_is_scored_and_said(embedded, monkeypatch):
    cells, _ = embedded
    whole = cellalign.evaluate(cells, **SCORED)
    monkeypatch.setattr(run, "SCORED", 200)
    some = cellalign.evaluate(cells, **SCORED)
    (note,) = [note for note in some.notes if "drawn at random" in note]
    assert "200 of 240 cells" in note and not any("drawn at random" in note for note in whole.notes)
    drawn = np.sort(np.random.default_rng(0).permutation(240)[:200])
    known = values(cellalign.evaluate(cells[drawn].copy(), **SCORED))
    found = values(some)
    assert found.keys() == known.keys() and found != values(whole)
    for key, value in known.items():
        assert found[key] == pytest.approx(value, nan_ok=True), key


def test_the_likelihood_of_validation_cells_is_of_those_that_were_drawn(embedded, monkeypatch):
    """Of a sample the model did not know its own cells again, and the row was gone without a word."""
    cells, model = embedded
    asked = {"condition": "stim", "panels": ["likelihood"], "model": model, "particles": 2}
    rows = model.validation_rows(cells)
    drawn = np.sort(np.random.default_rng(0).permutation(240)[:200])
    monkeypatch.setattr(run, "SCORED", 200)
    cells.obsm["X_other"] = np.random.default_rng(0).normal(size=(240, 2)).astype(np.float32)
    for embedding in (None, "X_other"):  # whichever is scored: it is the model's likelihood
        table = cellalign.evaluate(cells, embedding=embedding, **asked).frame()
        of = table[table["system"] == "validation cells"]
        assert list(of["n_cells"]) == [len(np.intersect1d(rows, drawn))]
        expected = model.nelbo(cells[np.intersect1d(rows, drawn)].copy()).mean()
        assert of["value"].iloc[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_cells_on_disk_are_scored_as_in_memory(embedded, tmp_path):
    cells, model = embedded
    files.write(cells, tmp_path / "emb.zarr")
    left = files.read(Reading((str(tmp_path / "emb.zarr"),), stream=True), streaming=True)
    assert Provenance.of(left.uns).embedding
    for more in ({}, {"model": model}):
        found, known = (values(cellalign.evaluate(each, **SCORED, **more)) for each in (left, cells))
        assert found.keys() == known.keys()
        for key, value in known.items():
            assert found[key] == pytest.approx(value, nan_ok=True), key
    part = left[left.obs["stim"] == "control"]
    assert part.X.shape[0] == part.n_obs == (cells.obs["stim"] == "control").sum()
    names = list(cells.obs_names[[7, 2]])
    np.testing.assert_array_equal(left[names].X.to_memory().toarray(), cells[names].X.toarray())


def test_of_large_groups_some_cells_are_scored_and_said(tiny, monkeypatch):
    model = cellalign.train(tiny, method="linear", condition="stim", control="control")
    predicted = cellalign.counterfactual(tiny, model, to="stimulated")
    asked = {"against": tiny, "condition": "stim", "label": "cell_type", "panels": ["response"]}
    whole = cellalign.evaluate(predicted, **asked)
    scored = []
    monkeypatch.setattr(compared, "MOST_CELLS", 25)
    monkeypatch.setattr(response, "score", lambda cells, *rest: scored.append(cells) or score(cells, *rest))
    some = cellalign.evaluate(predicted, **asked)
    (note,) = [note for note in some.notes if "drawn at random" in note]
    assert "25 of a kind" in note and "B (40 predicted, 40 real, 40 control)" in note and "0.39 of a cell's" in note
    assert not any("drawn at random" in note for note in whole.notes)
    assert len(scored) == 3
    for cells in scored:
        assert [len(part) for part in (cells.predicted, cells.real, cells.control)] == [25, 25, 25]
        assert (cells.source >= 0).all()  # of every predicted cell the one that it was predicted from
    known, found = values(whole), values(some)
    key = ("response", "prediction", "mean", "r_change_de")
    assert found.keys() == known.keys() and 0 < abs(found[key] - known[key]) < 0.1
    of_one = predicted[predicted.obs["cell_type"] == "B"].copy()
    (note,) = [note for note in cellalign.evaluate(of_one, **asked).notes if "drawn at random" in note]
    assert note.endswith("(95 %): B (40 predicted, 40 real, 40 control)")  # the others are not scored
