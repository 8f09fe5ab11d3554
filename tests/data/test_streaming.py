"""Cells whose matrices stay on disk: the same as in memory, of every command that reads them so."""

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from support import at_every_change

import cellalign
from cellalign import memory
from cellalign.data import files
from cellalign.data.formats.on_disk import CsrOnDisk
from cellalign.data.loader import Cells, balanced, shuffled, together
from cellalign.data.reading import Reading
from cellalign.data.source import as_matrix, content_of
from cellalign.data.stored import Stored, means_of
from cellalign.data.streamed import StreamedCells
from cellalign.errors import InputError, UsageError
from tests.support import StopAfter

OPTIONS = {"method": "cvae", "condition": "stim", "epochs": 2, "settings": {"hidden": [8]}, "batch_size": 32}


def streamed(*paths, **options):
    """The cells of files, left on disk."""
    found = files.read(Reading(tuple(map(str, paths)), stream=True, **options), streaming=True)
    assert isinstance(found, StreamedCells)
    return found


@pytest.fixture(params=at_every_change(["h5ad", "zarr", "dense"], ["zarr"]))
def both(request, tiny, tmp_path):
    """The same cells in memory and on disk."""
    if request.param == "dense":
        tiny.X = tiny.X.toarray()
    path = tmp_path / f"in.{'zarr' if request.param == 'zarr' else 'h5ad'}"
    files.write(tiny, path)
    return files.read(path), streamed(path), path


def dense(x):
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


def test_rows_in_any_order_are_those_in_memory(both):
    there, left, _ = both
    assert isinstance(left.X, Stored)
    rng = np.random.default_rng(0)
    for rows in (np.arange(left.n_obs), np.array([5, 3, 3, 60]), rng.permutation(left.n_obs)[:40], np.array([], int)):
        np.testing.assert_array_equal(dense(left.X.rows(rows)), dense(there.X[rows]))
        np.testing.assert_array_equal(
            dense(left.X[rows].to_memory()) if len(rows) else 0, dense(there.X[rows]) if len(rows) else 0
        )
    np.testing.assert_array_equal(dense(left.X[:, [3, 1]].to_memory()), dense(there.X[:, [3, 1]]))
    assert content_of(left.X) == content_of(there.X)
    for found, known in zip(means_of(left.X), means_of(there.X), strict=True):
        np.testing.assert_allclose(found, known, rtol=1e-12)
    with pytest.raises(IndexError):
        left.X.rows(np.array([left.n_obs]))


def test_what_one_pass_finds(both):
    there, left, _ = both
    x, facts = dense(there.X), left.X.facts
    np.testing.assert_array_equal(facts.held, (x != 0).sum(1))
    np.testing.assert_array_equal(facts.genes, (x != 0).sum(0))
    np.testing.assert_allclose(facts.sums, x.sum(1), rtol=1e-6)
    assert facts.high == x.max() and facts.off == (x != np.rint(x)).sum()
    row, gene = divmod(facts.first, left.n_vars)
    assert facts.first_value == x[row, gene] != np.rint(x[row, gene])


def test_a_model_is_trained_embeds_and_predicts_as_in_memory(both, tmp_path):
    there, left, _ = both
    torch.manual_seed(0)
    model = cellalign.train(left, **OPTIONS)
    known = cellalign.train(there, **OPTIONS)
    assert model.record.content == known.record.content  # and so does a run in memory go on from its checkpoint
    np.testing.assert_array_equal(model.trained, known.trained)
    np.testing.assert_array_equal(known.embed(left), known.embed(there))
    for options in ({}, {"draws": 2}, {"samples": 2}):
        predicted = known.predict(left, to="stimulated", **options)
        asked = known.counterfactual(there, to="stimulated", **options)
        for ending in ("h5ad", "zarr"):
            output = tmp_path / f"out.{ending}"
            files.write_batches(predicted.bare(), predicted.own_batches(), output, copies=predicted.copies, force=True)
            found = ad.read_zarr(output) if ending == "zarr" else ad.read_h5ad(output)
            np.testing.assert_array_equal(found.X, asked.X)
            np.testing.assert_array_equal(dense(found.layers["source"]), dense(asked.layers["source"]))
            assert set(found.layers) == set(asked.layers)
    several = [known.predict(cells, to=["stimulated"], per_condition=5, with_control=True) for cells in (left, there)]
    np.testing.assert_array_equal(*(dense(each.to_adata().X) for each in several))


def test_steps_are_the_same_in_the_same_order(both, monkeypatch):
    there, left, _ = both
    order = [left.X.neighbours, as_matrix(left.X).read_together]
    monkeypatch.setattr(Cells, "order", order)
    histories = [cellalign.train(cells, **OPTIONS).history for cells in (there, left)]
    for one, other in zip(*histories, strict=True):
        assert {k: v for k, v in one.items() if k != "seconds"} == {k: v for k, v in other.items() if k != "seconds"}


@pytest.mark.parametrize("begun_on_disk", [True, False])
def test_a_run_goes_on_wherever_the_cells_lie_now(both, tmp_path, begun_on_disk):
    """Its order of cells is the one that it began with."""
    there, left, _ = both
    first, then = (left, there) if begun_on_disk else (there, left)
    options = OPTIONS | {"model_path": tmp_path / "m"}
    with pytest.raises(KeyboardInterrupt):
        cellalign.train(first, progress=StopAfter(1), **options)
    resumed = cellalign.train(then, resume=True, **options)
    whole = cellalign.train(first, **OPTIONS)
    for one, other in zip(resumed.method.state_dict().values(), whole.method.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("options", [{}, {"batch": "cell_type", "n_top_genes": 20}, {"min_genes": 12, "min_cells": 9}])
@pytest.mark.parametrize("ending", at_every_change(["h5ad", "zarr"], ["h5ad"]))
def test_preprocessing_gives_the_same_file(kang_raw_cells, tmp_path, options, ending):
    files.write(kang_raw_cells, tmp_path / f"raw.{ending}")
    options = {"n_top_genes": 30} | options
    made = cellalign.preprocess(streamed(tmp_path / f"raw.{ending}"), **options)
    known = cellalign.preprocess(files.read(tmp_path / f"raw.{ending}"), **options)
    files.write(made, tmp_path / f"made.{ending}")
    files.write(known, tmp_path / "known.h5ad")
    found, known = files.read(tmp_path / f"made.{ending}"), files.read(tmp_path / "known.h5ad")
    np.testing.assert_array_equal(found.X.toarray(), known.X.toarray())
    np.testing.assert_array_equal(found.layers["counts"].toarray(), known.layers["counts"].toarray())
    pd.testing.assert_frame_equal(found.obs, known.obs)
    pd.testing.assert_frame_equal(found.var, known.var, rtol=1e-5)
    assert found.uns["cellalign"].keys() == known.uns["cellalign"].keys()


@pytest.fixture
def kang_raw_cells():
    """Counts of cells of which some hold next to nothing."""
    rng = np.random.default_rng(3)
    rate = rng.gamma(0.5, 1.0, (90, 60)) * rng.gamma(1.0, 1.0, (90, 1))
    obs = pd.DataFrame({"cell_type": rng.choice(["a", "b", "c"], 90)}, index=[f"c{i}" for i in range(90)])
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(60)]))


def test_a_model_makes_log_expression_of_counts_as_they_are_read(kang_raw_cells, tmp_path):
    kang_raw_cells.obs["stim"] = ["control", "stimulated"] * 45
    files.write(kang_raw_cells, tmp_path / "raw.h5ad")
    left = streamed(tmp_path / "raw.h5ad")
    model = cellalign.train(left, **OPTIONS | {"n_top_genes": 20})
    assert model.record.recipe.n_top_genes == 20
    part = kang_raw_cells[:, ::-1].copy()
    files.write(part, tmp_path / "other.h5ad")
    np.testing.assert_array_equal(model.embed(streamed(tmp_path / "other.h5ad")), model.embed(part))
    fewer = part[:, 3:].copy()
    files.write(fewer, tmp_path / "fewer.h5ad")
    found = model.embed(streamed(tmp_path / "fewer.h5ad"), missing_genes="zero")
    np.testing.assert_array_equal(found, model.embed(fewer, missing_genes="zero"))
    with pytest.raises(InputError, match="lacks"):
        model.embed(streamed(tmp_path / "fewer.h5ad"))


def test_three_files_are_one(tiny, tmp_path):
    parts = [tiny[:30], tiny[30:70, ::-1], tiny[70:]]
    names = [tmp_path / "a.h5ad", tmp_path / "b.zarr", tmp_path / "c.h5ad"]
    for part, name in zip(parts, names, strict=True):
        files.write(part.copy(), name)
    left = streamed(*names, file_key="site")
    there = files.read(Reading(tuple(map(str, names)), file_key="site"))
    pd.testing.assert_frame_equal(left.obs, there.obs)
    assert list(left.var_names) == list(there.var_names)
    np.testing.assert_array_equal(dense(left.X.to_memory()), dense(there.X))
    np.testing.assert_array_equal(dense(left.X.rows(np.array([80, 2, 31]))), dense(there.X[[80, 2, 31]]))
    model = cellalign.train(left, **OPTIONS, batch=["site"])
    np.testing.assert_array_equal(model.embed(left), model.embed(there))


def test_cells_are_annotated_and_preprocessed_like_a_model(both, tmp_path):
    there, left, _ = both
    model = cellalign.train(there, **OPTIONS)
    for name in ("knn", "linear"):
        asked = {"label": "cell_type", "classifier": name}
        found = cellalign.annotate(left, model, reference=left, **asked)
        pd.testing.assert_frame_equal(found, cellalign.annotate(there, model, reference=there, **asked))
    made, known = (cellalign.preprocess(cells, like=model) for cells in (left, there))
    files.write(made, tmp_path / "like.h5ad")
    found = files.read(tmp_path / "like.h5ad")
    np.testing.assert_array_equal(dense(found.X), dense(known.X))
    np.testing.assert_array_equal(dense(found.layers["counts"]), dense(known.layers["counts"]))


@pytest.mark.parametrize("as_dense", [False, True])
def test_the_genes_of_any_file_are_zero_where_one_lacks_them(tiny, tmp_path, as_dense):
    if as_dense:
        tiny.X = tiny.X.toarray()
    names = [str(tmp_path / "a.h5ad"), str(tmp_path / "b.h5ad")]
    for part, name in zip([tiny[:50, :40], tiny[50:, 10:]], names, strict=True):
        files.write(part.copy(), name)
    left, there = streamed(*names, genes="union"), files.read(Reading(tuple(names), genes="union"))
    assert set(there.var_names) == set(tiny.var_names) == set(left.var_names)
    expected = dense(tiny.X).copy()
    expected[:50, 40:] = 0
    expected[50:, :10] = 0
    for cells in (left.to_memory(), there):
        np.testing.assert_array_equal(dense(cells[:, tiny.var_names].X), expected)
    pd.testing.assert_frame_equal(left.obs, there.obs)
    with pytest.raises(UsageError, match="neither inner nor union"):
        files.read(Reading(tuple(names), genes="some"))


@pytest.mark.slow
def test_columns_are_converted_to_rows_in_few_passes(tiny, tmp_path, monkeypatch):
    expected, counts = dense(tiny.X), dense(tiny.layers["counts"])
    tiny.X, tiny.layers["counts"] = tiny.X.tocsc(), tiny.layers["counts"].tocsc()
    tiny.raw = tiny.copy()
    files.write(tiny, tmp_path / "in.h5ad")
    monkeypatch.setattr("cellalign.data.formats.on_disk.CscOnDisk.block_values", 500)
    left = files.read(Reading((str(tmp_path / "in.h5ad"),), stream=True), streaming=True, by_columns=True)
    for cells, output in ((left, "out.h5ad"), (left, "out.zarr"), (files.read(tmp_path / "in.h5ad"), "again.h5ad")):
        files.write(cellalign.convert(cells), tmp_path / output)
        found = streamed(tmp_path / output)
        np.testing.assert_array_equal(dense(found.X.to_memory()), expected)
        np.testing.assert_array_equal(dense(found.layers["counts"].to_memory()), counts)
        np.testing.assert_array_equal(dense(found.raw.X.to_memory()), expected)
        pd.testing.assert_frame_equal(found.obs, files.read(tmp_path / "in.h5ad").obs)


def test_sharded_stores_are_read_by_rows(tiny, tmp_path):
    import zarr
    from anndata.io import write_elem

    root = zarr.open_group(str(tmp_path / "in.zarr"), mode="w", zarr_format=3)
    x = tiny.X.tocsr()
    write_elem(root, "/", ad.AnnData(x, obs=tiny.obs, var=tiny.var))
    for name in ("data", "indices"):
        del root["X"][name]
        array = root["X"].create_array(
            name, shape=x.data.shape, dtype=getattr(x, name).dtype, chunks=(50,), shards=(500,)
        )
        array[:] = getattr(x, name)
    left = streamed(tmp_path / "in.zarr")
    rows = np.random.default_rng(0).permutation(tiny.n_obs)[:70]
    np.testing.assert_array_equal(dense(left.X.rows(rows)), dense(x[rows]))
    np.testing.assert_array_equal(dense(left.X.to_memory()), dense(x))


def test_an_embedding_is_written_into_a_copy_of_a_store(tiny, tmp_path):
    files.write(tiny, tmp_path / "in.zarr")
    z = np.ones((tiny.n_obs, 2), dtype=np.float32)
    for ending in ("zarr", "h5ad"):
        output = tmp_path / f"out.{ending}"
        files.write_with(
            Reading((str(tmp_path / "in.zarr"),), stream=True), output, obsm={"X_z": z}, obs={"n": z[:, 0]}
        )
        found = files.read(output)
        np.testing.assert_array_equal(found.obsm["X_z"], z)
        np.testing.assert_array_equal(dense(found.X), dense(tiny.X))
        assert (found.obs["n"] == 1).all()


def test_shuffled_blocks_are_all_rows_once_in_equal_batches():
    rows = torch.arange(1000)[torch.arange(1000) % 7 > 0]
    generator = torch.Generator().manual_seed(0)
    found = shuffled(rows, 32, generator, 16, 200)
    assert torch.equal(torch.cat(found).sort().values, rows)
    assert {len(part) for part in found} == {31, 32} and len(found) == -(-len(rows) // 32)
    other = shuffled(rows, 32, generator, 16, 200)
    assert not torch.equal(found[0], other[0])
    for first, last in together(found, 200):  # what is read at once comes from few blocks of 16, of which two are cut
        own = torch.cat(found[first:last]).sort().values
        assert len(own) <= 200 and int((own.diff() > 2).sum()) <= len(own) // 16 + 3


def test_batches_of_a_sorted_file_hold_all_conditions_alike():
    condition = (torch.arange(20_000) >= 10_000).long()
    found = shuffled(torch.arange(20_000), 100, torch.Generator().manual_seed(0), 64, 8192)
    shares = torch.stack([condition[part].float().mean() for part in found])
    assert 0.2 < shares.min() and shares.max() < 0.8
    assert shares.std() < 1.5 * 0.5 / 100**0.5  # of batches drawn at random it is 0.05


def test_balanced_batches_of_blocks_hold_as_many_of_each_condition():
    condition = (torch.arange(3000) >= 2600).long()
    found = balanced(torch.arange(3000), condition, 100, torch.Generator().manual_seed(0), 16, 500)
    assert all(int(condition[part].sum()) == 50 for part in found)
    frequent = torch.cat([part[condition[part] == 0] for part in found])
    assert len(frequent.unique()) == len(frequent)


def test_batches_from_the_middle_of_an_epoch_are_those_that_were_left(both):
    there, left, _ = both
    model = cellalign.train(there, **OPTIONS)
    on_disk, in_memory = model.cells(left), model.cells(there)
    rows = shuffled(torch.arange(left.n_obs), 16, torch.Generator().manual_seed(1), *on_disk.order)
    for start in (0, 2, len(rows) - 1):
        pairs = list(zip(on_disk.batches(rows, start), in_memory.batches(rows, start), strict=True))
        assert len(pairs) == len(rows) - start
        for one, other in pairs:
            assert torch.equal(one.x, other.x) and torch.equal(one.columns[0], other.columns[0])


def test_parts_of_parts_are_read_from_disk(both):
    there, left, _ = both
    model = cellalign.train(there, **OPTIONS)
    rng = np.random.default_rng(0)
    outer = torch.from_numpy(rng.permutation(left.n_obs)[:100])
    inner = torch.from_numpy(rng.permutation(100)[:60])
    parts = [model.cells(cells).part(outer).part(inner) for cells in (left, there)]
    parts[0].keep(torch.arange(5))
    rows = list(torch.arange(60).split(16))
    for one, other in zip(*(list(part.batches(rows)) for part in parts), strict=True):
        assert torch.equal(one.x, other.x) and torch.equal(one.columns[0], other.columns[0])
    for one, other in zip(*(list(part.in_order(25)) for part in parts), strict=True):
        assert torch.equal(one.x, other.x)
    assert torch.equal(parts[0].batch(torch.arange(5)).x, parts[1].batch(torch.arange(5)).x)
    assert parts[0].content() == parts[1].content()


def test_damage_that_shows_when_rows_are_read_is_one_line(tiny, tmp_path):
    files.write(tiny, tmp_path / "in.h5ad")
    with h5py.File(tmp_path / "in.h5ad", "r+") as handle:
        handle["X/indices"][5] = 10_000
    with pytest.raises(InputError, match="in.h5ad: X is damaged: an index of 10000"):
        cellalign.train(streamed(tmp_path / "in.h5ad"), **OPTIONS)
    with h5py.File(tmp_path / "in.h5ad", "r+") as handle:
        handle["X/indptr"][3] = 10_000_000
    with pytest.raises(InputError, match="pointers"):
        streamed(tmp_path / "in.h5ad")


def test_values_that_are_not_fit_are_named_as_in_memory(tiny, tmp_path):
    for value in (np.nan, np.inf, -3.0):
        cells = tiny.copy()
        cells.X.data[20] = value
        files.write(cells, tmp_path / "bad.h5ad", force=True)
        said = []
        for read in (files.read, streamed):
            with pytest.raises(InputError) as caught:
                cellalign.train(read(tmp_path / "bad.h5ad"), **OPTIONS)
            said.append(str(caught.value))
        assert said[0] == said[1]


def test_columns_are_not_streamed_and_the_command_that_converts_is_named(tiny, tmp_path):
    tiny.X = tiny.X.tocsc()
    files.write(tiny, tmp_path / "in.h5ad")
    assert list(streamed(tmp_path / "in.h5ad").matrices) == ["counts"]
    del tiny.layers["counts"]
    files.write(tiny, tmp_path / "in.h5ad", force=True)
    with pytest.raises(InputError, match="kept by columns.*cellalign convert"):
        streamed(tmp_path / "in.h5ad")


def test_what_is_chosen_depends_on_memory(tiny, tmp_path, monkeypatch):
    files.write(tiny, tmp_path / "in.h5ad")
    assert not isinstance(files.read(tmp_path / "in.h5ad", streaming=True), StreamedCells)
    monkeypatch.setattr("cellalign.memory.available", lambda: 1000)
    assert isinstance(files.read(tmp_path / "in.h5ad", streaming=True), StreamedCells)
    asked = Reading((str(tmp_path / "in.h5ad"),), stream=False)
    assert not isinstance(files.read(asked, streaming=True), StreamedCells)


def test_processes_of_one_machine_each_have_their_share_of_memory(tiny, tmp_path, monkeypatch, caplog):
    files.write(tiny, tmp_path / "in.h5ad")
    monkeypatch.setattr(memory, "_of_cgroups", lambda: [("memory.max", 10**7, 0)])
    assert not isinstance(files.read(tmp_path / "in.h5ad", streaming=True), StreamedCells)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    with caplog.at_level("INFO", "cellalign"):
        assert isinstance(files.read(tmp_path / "in.h5ad", streaming=True), StreamedCells)
    assert "10 kB of free memory for each of 1000 processes have no room" in caplog.text


def test_rows_are_read_by_whole_chunks(tmp_path):
    x = sparse.random(500, 40, 0.2, "csr", dtype=np.float32, random_state=0)
    with h5py.File(tmp_path / "x.h5", "w") as handle:
        for name in ("data", "indices", "indptr"):
            handle.create_dataset(name, data=getattr(x, name), chunks=(64,), compression="gzip")
    with h5py.File(tmp_path / "x.h5") as handle:
        found = CsrOnDisk(handle, "x", x.shape)
        assert found.chunk_rows == 8 and found.neighbours == 16
        rng = np.random.default_rng(0)
        for size in (1, 7, 100, 499):
            rows = rng.permutation(500)[:size]
            assert (found.rows(rows) != x[rows]).nnz == 0


def test_counts_by_columns_are_not_left_out_for_another_matrix(tiny, tmp_path, monkeypatch, caplog):
    tiny.layers["counts"] = tiny.layers["counts"].tocsc()
    files.write(tiny, tmp_path / "cols.h5ad")
    said = "cellalign convert .*cols.h5ad -o cols.rows.h5ad"
    with pytest.raises(InputError, match=f"layers/counts is kept by columns.*{said}"):
        streamed(tmp_path / "cols.h5ad")
    monkeypatch.setattr(memory, "available", lambda: 1)  # there is no room, but no other way either
    found = files.read(Reading((str(tmp_path / "cols.h5ad"),)), streaming=True)
    assert "counts" in found.layers and "so it is read into memory" in caplog.text


def test_the_file_of_several_that_is_to_be_converted_is_named(tiny, tmp_path):
    del tiny.layers["counts"]
    files.write(tiny, tmp_path / "a.rows.h5ad")
    tiny.X = tiny.X.tocsc()
    files.write(tiny, tmp_path / "b.rows.h5ad")
    with pytest.raises(InputError, match=r"convert \S+b.rows.h5ad -o b.rows.rows.h5ad"):
        streamed(tmp_path / "a.rows.h5ad", tmp_path / "b.rows.h5ad")
