"""Cells that are held out decide nothing of a model of raw counts: no gene, no total, no weight."""

import anndata as ad
import numpy as np
import pytest
from conftest import make_counts
from scipy import sparse

import cellalign
from cellalign.data import files, recipe
from cellalign.data.reading import Reading
from cellalign.data.recipe import to_train_on
from cellalign.data.stored import Stored
from cellalign.errors import InputError, UsageError, on_command_line
from cellalign.records import Provenance
from cellalign.tasks import benchmark as benchmarking
from cellalign.tasks.made_of import made_of
from cellalign.tasks.reproduce import reproduce
from cellalign.tasks.trained_with import training_options

HELD = ["cell_type=NK,stim=stimulated"]
OPTIONS = {"condition": "stim", "n_top_genes": 20}
SMALL = {"settings": {"hidden": [8], "latent_dim": 2}, "epochs": 2}


def held_of(cells: ad.AnnData) -> np.ndarray:
    """Mask of the cells that `HELD` names."""
    return ((cells.obs["cell_type"] == "NK") & (cells.obs["stim"] == "stimulated")).to_numpy()


@pytest.fixture
def raw() -> ad.AnnData:
    """Raw counts, one trained cell and one held out of which are without any; a gene that is seen in none."""
    found = make_counts()
    x = found.X.toarray()
    x[[0, np.flatnonzero(held_of(found))[0]]] = 0
    x[:, 59] = 0
    found.X = sparse.csr_matrix(x)
    return found


@pytest.fixture
def changed(raw) -> ad.AnnData:
    """The same with other counts in the held-out cells: as deep as none else, of other genes, one of these theirs."""
    rng, found = np.random.default_rng(3), raw.copy()
    x, rows = found.X.toarray(), np.flatnonzero(held_of(raw))[1:]
    x[rows] = 3 * rng.poisson(rng.gamma(0.3, 10, (1, 60)), (len(rows), 60))
    x[rows, 59] = 5
    found.X = sparse.csr_matrix(x.astype(np.float32))
    return found


def left_on_disk(cells: ad.AnnData, path) -> ad.AnnData:
    cells.write_h5ad(path)
    found = cellalign.read(path, stream=True)
    assert isinstance(found.X, Stored)
    return found


def facts_of(model):
    return model.genes, model.target_sum, model.weights_checksum


@pytest.mark.parametrize("method", ["linear", "cvae", "scvi"])
def test_they_change_nothing_of_a_model_wherever_the_cells_lie(raw, changed, method, tmp_path):
    options = OPTIONS | {"method": method, "holdout": HELD} | ({} if method == "linear" else SMALL)
    one, other = (cellalign.train(cells, **options) for cells in (raw, changed))
    assert facts_of(one) == facts_of(other) and "GENE59" not in one.genes
    in_order = options | {"order": []}  # as in memory: sums are added up in it
    for name, cells in (("one", raw), ("other", changed)):
        found = cellalign.train(left_on_disk(cells, tmp_path / f"{name}.h5ad"), **in_order)
        assert facts_of(found) == facts_of(one)
    assert one.record.recipe.genes_by == "trained cells"
    assert one.record.content != other.record.content, "which are not the same cells"


def test_genes_and_total_are_those_of_the_other_cells_alone(raw):
    rest = raw[~held_of(raw)].copy()
    for batch in (None, "donor"):
        found = to_train_on(raw, "log", n_top_genes=20, batch=batch, trained_on=~held_of(raw))
        alone = cellalign.preprocess(rest, n_top_genes=20, batch=batch)
        assert list(found.var.index) == list(alone.var_names)
        assert found.recipe.target_sum == np.median(np.asarray(rest.X.sum(1)).ravel()[1:])
        kept = np.flatnonzero(~held_of(raw))[1:]
        np.testing.assert_array_equal(found.x[kept].toarray(), alone.X.toarray())
        assert found.x.shape[0] == raw.n_obs
    whole = to_train_on(raw, "log", n_top_genes=20, batch="donor")
    assert list(whole.var.index) != list(found.var.index), "these would tell nothing"


def test_of_several_files_they_are_the_same(raw, changed, tmp_path):
    options = OPTIONS | SMALL | {"method": "cvae", "holdout": HELD, "order": []}
    found = []
    for name, cells in (("raw", raw), ("changed", changed)):
        paths = [tmp_path / f"{name}{i}.h5ad" for i in range(2)]  # a streamed file stays open
        for path, part in zip(paths, (cells[:100], cells[100:]), strict=True):
            part.write_h5ad(path)
        for stream in (False, True):
            several = files.read(Reading(tuple(map(str, paths)), stream=stream), streaming=True)
            assert isinstance(several.X, Stored) == stream
            found.append(cellalign.train(several, **options))
    assert len({model.weights_checksum for model in found}) == 1
    assert found[0].genes == cellalign.train(raw, **options).genes


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_benchmark_holds_them_out_of_genes_and_total_too(raw, changed, on_disk, tmp_path, monkeypatch):
    models, real = [], benchmarking.train
    monkeypatch.setattr(benchmarking, "train", lambda *a, **k: models.append(real(*a, **k)) or models[-1])
    for name, cells in (("one", raw), ("other", changed)):
        given = left_on_disk(cells, tmp_path / f"{name}.h5ad") if on_disk else cells
        benchmarking.benchmark(given, methods=["linear"], holdout_each="cell_type", groups=["NK"], **OPTIONS)
    one, other = models
    assert one.record.holdout == other.record.holdout != []
    assert facts_of(one) == facts_of(other)


def test_rows_of_a_benchmark_of_before_are_not_taken_for_these(raw, monkeypatch):
    asked = OPTIONS | {"method": "linear", "settings": {}}
    new = made_of(raw, "cell_type", asked)
    nothing = made_of(raw, None, asked)
    monkeypatch.setattr("cellalign.tasks.made_of.chosen_apart", lambda *_: {})
    assert made_of(raw, "cell_type", asked).scores != new.scores
    assert made_of(raw, None, asked) == nothing, "nothing is held out: rows stay"


def test_where_nothing_is_held_out_all_cells_choose_and_the_record_is_as_before(raw):
    model = cellalign.train(raw, method="linear", **OPTIONS)
    made = cellalign.preprocess(raw, n_top_genes=20)
    assert model.genes == list(made.var_names)
    assert "genes_by" not in model.record.plain()["recipe"]
    counts = cellalign.train(raw, method="scvi", condition="stim", holdout=HELD, **SMALL)
    assert counts.record.recipe.genes_by is None and len(counts.genes) == raw.n_vars, "nothing was chosen"


def test_a_model_is_reproduced_by_the_cells_that_chose_its_genes(raw, tmp_path, monkeypatch):
    model = cellalign.train(raw, method="cvae", holdout=HELD, **OPTIONS, **SMALL)
    assert not training_options(model.record)["genes_by_all"]
    assert reproduce(model, raw).identical
    before = cellalign.train(raw, method="cvae", holdout=HELD, genes_by_all=True, **OPTIONS, **SMALL)
    assert before.record.recipe.genes_by is None and before.genes != model.genes
    assert training_options(before.record)["genes_by_all"]
    found = reproduce(before, raw)
    assert found.identical and found.model.genes == before.genes
    learned = cellalign.train(raw, from_=model, learn="all", epochs=1)
    assert learned.genes == model.genes and not training_options(learned.record)["genes_by_all"]


def test_a_run_is_gone_on_with_by_the_same_genes(raw, tmp_path):
    from support import StopAfter

    options = OPTIONS | {"method": "cvae", "holdout": HELD} | SMALL
    place = {"model_path": tmp_path / "model"}
    with pytest.raises(KeyboardInterrupt):
        cellalign.train(raw, progress=StopAfter(1), **place, **options)
    found = cellalign.train(raw, resume=True, **place, **options)
    assert facts_of(found) == facts_of(cellalign.train(raw, **options))
    again = cellalign.train(raw, auto_resume=True, **place, **options)
    assert facts_of(again) == facts_of(found)


def test_a_calibration_leaves_groups_out_of_the_fit_and_held_out_cells_of_all(raw, changed):
    options = OPTIONS | {"method": "linear", "label": "donor", "holdout": HELD, "calibrate": "donor"}
    raw.obs["donor"] = changed.obs["donor"] = [f"d{i // 6 % 6}" for i in range(raw.n_obs)]
    one, other = (cellalign.train(cells, **options) for cells in (raw, changed))
    np.testing.assert_array_equal(one.calibration.predicted, other.calibration.predicted)
    assert facts_of(one) == facts_of(other)


def test_what_cannot_be_chosen_is_said_of_the_cells_that_choose(raw):
    x = raw.X.toarray()
    x[~held_of(raw)] = x[1]
    raw.X = sparse.csr_matrix(x)
    with pytest.raises(InputError, match=f"no gene differs between the {(~held_of(raw)).sum()} cells"):
        cellalign.train(raw, method="linear", holdout=HELD, **OPTIONS)
    assert recipe.to_train_on(raw, "log", n_top_genes=20).x.shape[0] == raw.n_obs


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_file_preprocessed_with_them_held_out_is_that_of_the_others(raw, changed, on_disk, tmp_path, caplog):
    caplog.set_level("INFO", logger="cellalign")
    options = {"method": "cvae", "condition": "stim", "holdout": HELD, **SMALL}
    rest = cellalign.preprocess(raw[~held_of(raw)].copy(), n_top_genes=20)
    for name, cells in (("one", raw), ("other", changed)):
        given = left_on_disk(cells, tmp_path / f"{name}.h5ad") if on_disk else cells
        made = cellalign.preprocess(given, n_top_genes=20, holdout=HELD)
        files.write(made, str(tmp_path / f"{name}.pp.h5ad"))
        made = cellalign.read(tmp_path / f"{name}.pp.h5ad")
        record = Provenance.of(made.uns).preprocess
        assert record.holdout == tuple(HELD) and record.target_sum == Provenance.of(rest.uns).preprocess.target_sum
        assert made.n_obs == raw.n_obs - 2, "without the cells of no counts"
        assert list(made.var_names) == list(rest.var_names)
        np.testing.assert_array_equal(made[~held_of(made)].X.toarray(), rest.X.toarray())
        cellalign.train(made, **options)
    assert "helped to choose" not in caplog.text
    model = cellalign.train(raw, n_top_genes=20, **options)
    assert model.genes == list(rest.var_names), "as training on raw counts has it"


def test_training_says_where_they_helped_to_choose(raw, caplog):
    caplog.set_level("INFO", logger="cellalign")
    options = {"method": "linear", "condition": "stim"}
    said = "held-out cells helped to choose this file's genes and total"
    made = cellalign.preprocess(raw, n_top_genes=20, holdout="cell_type=NK,stim=stimulated")
    cellalign.train(made, **options)
    cellalign.train(made, holdout=HELD, **options)
    cellalign.train(made, holdout=["cell_type=NK,stim=stimulated,donor=d1"], **options)
    assert said not in caplog.text
    cellalign.train(made, holdout=["cell_type=NK"], **options)
    assert said in caplog.text
    caplog.clear()
    cellalign.train(cellalign.preprocess(raw, n_top_genes=20), holdout=HELD, **options)
    assert said in caplog.text


def test_preprocess_refuses_what_holds_out_nothing_or_all(raw):
    with pytest.raises(InputError, match=r"holdout=\['cell_type=nobody'\]|nobody"):
        cellalign.preprocess(raw, holdout=["cell_type=nobody"])
    with pytest.raises(InputError, match="0 cells are left"):
        cellalign.preprocess(raw, holdout=["stim=control", "stim=stimulated"])
    model = cellalign.train(raw, method="linear", **OPTIONS)
    with pytest.raises(UsageError, match="cannot stand beside"):
        cellalign.preprocess(raw, holdout=HELD, like=model)
    with (
        on_command_line({}),
        pytest.raises(UsageError, match="^--holdout cell_type=NK,stim=stimulated cannot stand beside --like"),
    ):
        cellalign.preprocess(raw, holdout=HELD, like=model)
    with pytest.raises(InputError, match="all cells that are not held out have fewer than 61 genes; lower min_genes"):
        cellalign.preprocess(with_many_genes(raw), holdout=HELD, min_genes=61)


def with_many_genes(raw: ad.AnnData) -> ad.AnnData:
    """Held-out cells alone have more than 60 genes."""
    x = np.hstack([raw.X.toarray(), np.repeat(held_of(raw)[:, None], 60, 1)])
    return ad.AnnData(sparse.csr_matrix(x.astype(np.float32)), obs=raw.obs)


def test_what_was_chosen_before_or_by_a_model_is_told_apart(raw, caplog):
    caplog.set_level("INFO", logger="cellalign")
    options = {"method": "linear", "condition": "stim", "holdout": HELD}
    chosen = cellalign.preprocess(raw, n_top_genes=30)
    again = cellalign.preprocess(chosen, n_top_genes=20, holdout=HELD)
    cellalign.train(again, **options)
    assert "helped to choose" in caplog.text, "when it was preprocessed first"
    caplog.clear()
    apart = cellalign.preprocess(raw, n_top_genes=30, holdout=HELD)
    model = cellalign.train(cellalign.preprocess(apart, n_top_genes=20, holdout=HELD), **options)
    cellalign.train(cellalign.preprocess(raw, like=model), **options)
    assert "helped to choose" not in caplog.text
