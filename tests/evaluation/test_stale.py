"""What was made by another model, or of other cells, is not taken for this one's by its name."""

import numpy as np
import pytest

import cellalign
from cellalign.errors import InputError

FAST = {"method": "cvae", "condition": "stim", "epochs": 1, "settings": {"hidden": [8], "latent_dim": 3}}
ASKED = {"condition": "stim", "label": "cell_type", "panels": ["probe"]}


@pytest.fixture(scope="module")
def models(tiny_cells):
    return [cellalign.train(tiny_cells.copy(), seed=seed, **FAST) for seed in (0, 1)]


def notes(*args, **options):
    return "; ".join(cellalign.evaluate(*args, **(ASKED | options)).notes)


def test_an_unsaved_model_has_the_checksum_it_is_saved_with(models, tmp_path):
    before = models[0].weights_checksum
    models[0].save(tmp_path / "m")
    assert models[0].record.weights_checksum == before == cellalign.load(tmp_path / "m").weights_checksum
    assert before != models[1].weights_checksum


@pytest.mark.slow
def test_an_embedding_of_another_model_is_embedded_anew_and_said(tiny, models):
    one, other = models
    cellalign.embed(tiny, one)
    before = tiny.obsm["X_cvae"].copy()
    result = cellalign.evaluate(tiny, model=other, **ASKED)
    assert "X_cvae in obsm is of another model than model: embedded by it anew" in result.notes
    fresh = tiny.copy()
    del fresh.obsm["X_cvae"], fresh.uns["cellalign"]
    assert result.frame().equals(cellalign.evaluate(fresh, model=other, **ASKED).frame())
    np.testing.assert_array_equal(tiny.obsm["X_cvae"], before)
    assert "another model" not in notes(tiny, model=one)
    assert "X_cvae is of another model than model, and its scores are" in notes(tiny, model=other, embedding="X_cvae")


def test_the_embedding_of_the_model_is_scored_where_there_are_several(tiny, models):
    cellalign.embed(tiny, models[0])
    tiny.obsm["X_later"] = np.random.default_rng(0).normal(size=(tiny.n_obs, 2)).astype(np.float32)
    from cellalign.records import Embedding, Provenance

    later = Embedding(method="other", key="X_later", weights="sha256:other")
    tiny.uns["cellalign"] = Provenance.of(tiny.uns).with_steps(later).plain()
    by_model = cellalign.evaluate(tiny, model=models[0], **ASKED)
    of_means = by_model.frame().query("group == 'all'").reset_index(drop=True)  # the model alone can draw
    assert of_means.equals(cellalign.evaluate(tiny, embedding="X_cvae", **ASKED).frame())


def test_a_umap_of_another_embedding_is_not_drawn(tiny, models, monkeypatch):
    from cellalign.plots import umap as plots
    from cellalign.tasks import embed as embedding

    drawn = []
    monkeypatch.setattr(embedding, "_umap", lambda z, *_: np.asarray(z[:, :2]))
    monkeypatch.setattr(plots, "unintegrated_umap", lambda *_: None)
    monkeypatch.setattr(plots, "before_after", lambda before, shown, *_, **__: drawn.append(shown))
    one, other = models
    cellalign.embed(tiny, one, umap=True)
    of_one = tiny.obsm["X_umap"].copy()
    cellalign.plot_umap(tiny, one)
    with pytest.raises(InputError, match="'X_cvae' is of another model than the one given; embed the cells again"):
        cellalign.plot_umap(tiny, other)
    cellalign.embed(tiny, other)
    cellalign.plot_umap(tiny, other)
    np.testing.assert_array_equal(drawn[0], of_one)
    np.testing.assert_array_equal(drawn[1], tiny.obsm["X_cvae"][:, :2])
    np.testing.assert_array_equal(tiny.obsm["X_umap"], of_one)  # what is there stays
    own = tiny.copy()
    del own.uns["cellalign"]
    cellalign.plot_umap(own, other)  # the user's own: of what it is nobody knows
    np.testing.assert_array_equal(drawn[2], of_one)


def test_a_prediction_of_other_cells_or_another_model_is_said(tiny, models):
    one, other = models
    predicted = one.counterfactual(tiny, to="stimulated")
    asked = {"against": tiny, "panels": ["response"]}
    for model in (None, one):
        assert "another model" not in notes(predicted, model=model, **asked)
    assert "predicted by another model than model" in notes(predicted, model=other, **asked)
    changed = tiny.copy()
    changed.X = changed.X * np.float32(1.25)
    said = notes(predicted, **asked | {"against": changed})
    n = predicted.n_obs
    assert f"{n} of {n} cells that it was predicted from are others in against, under the same names" in said
    changed = tiny.copy()
    changed.obs_names = [f"{name}-2" for name in changed.obs_names]
    assert "not one of the cells it was predicted from is in against" in notes(
        predicted, **asked | {"against": changed}
    )
    assert "predicted from" not in notes(predicted, **asked | {"against": tiny[::-1].copy()})
    drawn = one.counterfactual(tiny, to="stimulated", draws=2)
    assert "predicted from" not in notes(drawn, **asked)


def test_other_cells_of_the_same_number_were_not_validated_on(tiny, tiny_counts, models):
    held = cellalign.train(tiny.copy(), batch=["donor"], holdout=["cell_type=B"], **FAST)
    of_counts = cellalign.train(tiny_counts.copy(), n_top_genes=20, **FAST)
    for model, cells in ((models[0], tiny), (held, tiny), (of_counts, tiny_counts)):
        assert len(model.validation_rows(cells)) == model.record.cells.validation
        assert model.validation_rows(cells[::-1].copy()) is None
        changed = cells.copy()
        changed.X.data[0] *= 2
        assert model.validation_rows(changed) is None
    older = tiny.copy()
    older.X.data[0] *= 2
    models[1].record = models[1].record.model_copy(update={"content": None})  # of an earlier version: by the numbers
    assert models[1].validation_rows(older) is not None
