"""Passes that other processes make: what they find and write is what one process does, to the last bit."""

import filecmp
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
from scipy import sparse
from support import at_every_change

import cellalign
from cellalign.data import cluster, crew, files
from cellalign.data.facts import Facts
from cellalign.data.formats import by_rows
from cellalign.data.formats.on_disk import Place, stored_matrix
from cellalign.data.formats.shared import _tasks
from cellalign.data.formats.writing import fill
from cellalign.data.reading import Reading
from cellalign.data.stored import Stored, helped_by
from cellalign.errors import InputError, TrainingError, UsageError

cloudpickle = pytest.importorskip("cloudpickle")


class Others:
    """Those who help, in this process: they have nothing but what is sent to them."""

    def __init__(self):
        self.runs = []

    def over(self, matrices, function, asked):
        sent = cloudpickle.dumps(matrices)
        for run, arguments in asked:
            self.runs.append(run)
            theirs = cloudpickle.loads(sent)
            several = isinstance(theirs, list)
            rows = [each.runs([run]) for each in theirs] if several else theirs.runs([run])
            yield cloudpickle.loads(cloudpickle.dumps(function))(rows, *cloudpickle.loads(cloudpickle.dumps(arguments)))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(Stored, "block_values", 600)
    monkeypatch.setattr(by_rows, "SPARSE_CHUNK", 200)
    monkeypatch.setattr(by_rows, "STORE_CHUNK", 300)


def elements(node, name=""):
    """All that an HDF5 file holds: values, types, chunks and attributes."""
    found = {f"{name}@{key}": np.asarray(value).tolist() for key, value in node.attrs.items()}
    if isinstance(node, h5py.Dataset):
        found[name] = (node.dtype, node.chunks, node.compression, node.compression_opts, node.maxshape)
        value = np.asarray(node[()])
        return found | {f"{name}=": value.tolist() if value.dtype.kind == "O" else value.tobytes()}
    for key in node:
        found |= elements(node[key], f"{name}/{key}")
    return found


def check_same_file(one, other):
    if one.suffix == ".zarr":
        names = [{path.relative_to(each) for path in each.rglob("*") if path.is_file()} for each in (one, other)]
        assert names[0] == names[1]
        assert not [name for name in names[0] if not filecmp.cmp(one / name, other / name, shallow=False)]
        return
    with h5py.File(one) as a, h5py.File(other) as b:
        assert elements(a) == elements(b)


def raw_counts(tiny, kind):
    """Raw counts, and what to ask for, of many kinds."""
    cells = ad.AnnData(tiny.layers["counts"].astype(np.float32), obs=tiny.obs, var=tiny.var)
    if kind == "integers":
        cells.X = cells.X.astype(np.int64)
    if kind == "dense":
        cells.X = cells.X.toarray()
    if kind == "dropped":
        cells.X[3:9] = 0
        cells.X.eliminate_zeros()
    if kind == "raw":
        cells.raw = cells
        cells.X = None
    if kind == "log":
        cells.X = tiny.X
    if kind == "rounded":
        cells.X.data[::7] += 0.3
    return cells


OPTIONS = {
    "plain": {"n_top_genes": 20},
    "integers": {"n_top_genes": 20},
    "dense": {"n_top_genes": 20, "batch": "cell_type"},
    "dropped": {"n_top_genes": 0},
    "few": {"n_top_genes": 15, "min_genes": 12, "min_cells": 9, "target_sum": 500.0},
    "batches": {"n_top_genes": 20, "batch": "cell_type"},
    "raw": {"n_top_genes": 20, "raw": True},
    "log": {"n_top_genes": 20},
    "rounded": {"n_top_genes": 20, "rounded": True},
}


@pytest.mark.parametrize("kind", at_every_change([*OPTIONS, "plain zarr zarr"], list(OPTIONS)[:4]))
def test_others_write_the_file_that_one_process_writes(tiny, tmp_path, kind):
    kind, read, written = [*kind.split(), "h5ad", "h5ad"][:3]
    source, made = tmp_path / f"in.{read}", [tmp_path / f"{name}.{written}" for name in ("alone", "together")]
    files.write(raw_counts(tiny, kind), source)
    others = Others()
    for output, within in zip(made, (None, others), strict=True):
        with helped_by(within):
            cells = files.read(Reading((str(source),), stream=True), streaming=True)
            files.write(cellalign.preprocess(cells, **OPTIONS[kind]), output)
    assert len(set(others.runs)) > 3
    check_same_file(*made)


def test_a_file_that_is_not_to_be_packed(tiny, tmp_path):
    """As what goes to standard output."""
    files.write(raw_counts(tiny, "plain"), tmp_path / "in.h5ad")
    for name, within in (("alone", None), ("together", Others())):
        with helped_by(within):
            cells = files.read(Reading((str(tmp_path / "in.h5ad"),), stream=True), streaming=True)
            fill(cellalign.preprocess(cells, n_top_genes=20), tmp_path / f"{name}.h5ad", False)
    check_same_file(tmp_path / "alone.h5ad", tmp_path / "together.h5ad")


@pytest.mark.slow
def test_several_files_and_the_recipe_of_a_model(tiny, tmp_path):
    for part, name in ((slice(0, 120), "a.h5ad"), (slice(120, None), "b.zarr")):
        some = raw_counts(tiny, "plain")[part].copy()
        files.write(some if name == "a.h5ad" else some[:, ::-1].copy(), tmp_path / name)
    options = {"method": "cvae", "condition": "stim", "epochs": 1, "settings": {"hidden": [8]}}
    model = cellalign.train(raw_counts(tiny, "plain"), n_top_genes=20, **options)
    for options in ({"n_top_genes": 20, "batch": "file"}, {"like": model}):
        made = [tmp_path / f"{name}-{len(options)}.h5ad" for name in ("alone", "together")]
        for output, within in zip(made, (None, Others()), strict=True):
            with helped_by(within):
                reading = Reading((str(tmp_path / "a.h5ad"), str(tmp_path / "b.zarr")), stream=True)
                files.write(cellalign.preprocess(files.read(reading, streaming=True), **options), output)
        check_same_file(*made)


def test_every_value_is_written_once_in_whole_chunks():
    rng = np.random.default_rng(0)
    for _ in range(200):
        n, chunks = int(rng.integers(1, 40)), rng.integers(1, 30, 2).tolist()
        ends = [np.cumsum(rng.integers(0, 9, n)) for _ in chunks]
        cuts = np.unique([0, n, *rng.integers(0, n + 1, 4)])
        runs = list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True))
        written = [np.zeros(of[-1], int) for of in ends]
        for (first, last), parts in _tasks(runs, ends, chunks):
            assert 0 <= first < last <= n
            for of, chunk, cut, count in zip(ends, chunks, parts, written, strict=True):
                if cut.stop == cut.start:
                    continue
                assert cut.before == (of[first - 1] if first else 0) and cut.held == of[last - 1] - cut.before
                assert cut.before <= cut.start < cut.stop <= cut.before + cut.held
                assert cut.start % chunk == 0 and (cut.stop % chunk == 0 or cut.stop == of[-1])
                count[cut.start : cut.stop] += 1
        assert all((count == 1).all() for count in written)


@pytest.mark.parametrize("as_dense", [False, True])
def test_facts_of_parts_add_up(as_dense):
    rng = np.random.default_rng(0)
    x = sparse.random(60, 30, 0.3, "csr", random_state=rng, dtype=np.float32)
    x.data[:] = rng.integers(1, 9, x.nnz)
    x.data[[50, 70, 90, 120, 200]] = [np.nan, np.inf, -1, 2.5, -7.25]
    found = Facts(np.zeros(60, np.int64), np.zeros(60, np.float32), np.zeros(30, np.int64))
    for start in range(0, 60, 7):
        block = x[start : start + 7]
        found.add(start, Facts.of(block.toarray() if as_dense else block))
    dense = x.toarray()
    np.testing.assert_array_equal(found.held, (dense != 0).sum(1))
    np.testing.assert_array_equal(found.genes, (dense != 0).sum(0))
    flat = dense.ravel()
    for kind, mark in (("NaN", np.isnan(flat)), ("inf", np.isinf(flat)), ("negative", flat < 0)):
        assert found.wrong[kind] == (mark.sum(), int(np.argmax(mark)))
    with np.errstate(invalid="ignore"):
        odd = flat != np.rint(flat)
    assert found.off == odd.sum() and found.first == int(np.argmax(odd))
    assert found.not_zero == np.count_nonzero(flat)


def test_a_matrix_is_opened_where_it_lies_and_no_other_is_taken_for_it(tiny, tmp_path):
    path = tmp_path / "in.h5ad"
    files.write(tiny, path)
    with h5py.File(path) as handle:
        sent = cloudpickle.dumps(stored_matrix(handle["layers/counts"], "it", tiny.shape)[:, [4, 2]])
    np.testing.assert_array_equal(
        cloudpickle.loads(sent).to_memory().toarray(), tiny.layers["counts"].toarray()[:, [4, 2]]
    )
    files.write(tiny[:50].copy(), path, force=True)
    with pytest.raises(InputError, match="is another file on"):
        cloudpickle.loads(sent)
    path.unlink()
    with pytest.raises(InputError, match="is not there on .*: the workers of a cluster read and write"):
        cloudpickle.loads(sent)
    with pytest.raises(InputError, match="is not there on"):
        Place(str(tmp_path / "none.zarr"), "X").open()


@pytest.mark.slow
def test_an_input_that_changes_is_one_line_and_no_output(tiny, tmp_path):
    files.write(raw_counts(tiny, "plain"), tmp_path / "in.zarr")

    class Changing(Others):
        def over(self, matrices, function, asked):
            if function.__name__ == "_write":
                files.write(raw_counts(tiny, "dropped"), tmp_path / "in.zarr", force=True)
            yield from super().over(matrices, function, asked)

    with helped_by(Changing()):
        cells = files.read(Reading((str(tmp_path / "in.zarr"),), stream=True), streaming=True)
        found = cellalign.preprocess(cells, n_top_genes=0, min_cells=0)
        with pytest.raises(InputError, match="changed while it was read"):
            files.write(found, tmp_path / "out.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["in.zarr"]


@pytest.mark.parametrize("given", ["nonsense", "tcp:/host", "/no/such/folder/scheduler.json", ""])
def test_what_is_no_address(given, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is no address"), cluster.connected(given, [], None):
        pass


def test_nobody_answers(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "PATIENCE", 0.3)
    (tmp_path / "other.json").write_text("{}")
    for given, said in (
        ("tcp://127.0.0.1:1", "no dask scheduler answers at tcp://127.0.0.1:1"),
        (str(tmp_path / "none.json"), "none.json is not there; start one: dask scheduler --scheduler-file"),
        (str(tmp_path / "other.json"), "is no file that a dask scheduler writes"),
    ):
        with pytest.raises(InputError, match=said), cluster.connected(given, [], None):
            pass


def test_addresses():
    for given in ("tcp://10.0.0.1:8786", "node7:8786", "tls://h:1", "[::1]:8786", "tcp://[::1]:8786", ":8786"):
        assert cluster.ADDRESS.fullmatch(given), given
    for given in ("local", "scheduler.json", "/a/b:c/scheduler.json", "node7", "a:b"):
        assert not cluster.ADDRESS.fullmatch(given), given


def test_workers_of_another_kind_are_refused(tmp_path, monkeypatch):
    """Of an earlier version, of another Python, without cellalign, on another file system."""

    class Client:
        scheduler = type("Scheduler", (), {"address": "tcp://h:1"})
        python, answer = "3.9.1.final.0", None

        def wait_for_workers(self, n, timeout):
            pass

        def get_versions(self):
            return {"workers": {"w": {"host": {"python": self.python}}}}

        def run(self, function):
            return {"w": self.answer or function()}

        def nthreads(self):
            return {"w": 1}

    import platform

    client, here = Client(), tmp_path / "in.h5ad"
    with pytest.raises(InputError, match=r"runs Python 3\.9, and this is"):
        cluster._check(client, [], None)
    client.python = platform.python_version()
    here.touch()
    cluster._check(client, [str(here)], tmp_path / "out.zarr")
    with pytest.raises(InputError, match=f"does not see {tmp_path / 'none'}: the workers of a cluster"):
        cluster._check(client, [str(here), str(tmp_path / "none")], None)
    for answer, said in (
        (("node", None, []), "the worker w on node has no cellalign"),
        (("node", "0.0.1", []), "has cellalign 0.0.1, and this is"),
    ):
        client.answer = answer
        with pytest.raises(InputError, match=said):
            cluster._check(client, [], None)
    assert not [path for path in tmp_path.iterdir() if path != here]


def test_files_that_no_worker_could_read(tiny, tmp_path, monkeypatch):
    """Refused in a line that names the option."""
    from cellalign.tasks.preprocess import _on_disk

    with pytest.raises(UsageError, match="cluster reads files, not standard input"):
        _on_disk(Reading(("-",)))
    with pytest.raises(UsageError, match="cannot stand beside cluster"):
        _on_disk(Reading(("a.h5ad",), stream=False))
    tiny.X = tiny.X.tocsc()
    files.write(tiny, tmp_path / "columns.h5ad")
    (tmp_path / "cells.csv").write_text("cell,g1\na,1\n")
    for name in ("columns.h5ad", "cells.csv"):
        with helped_by(Others()), pytest.raises(InputError, match="run: cellalign convert"):
            source = Reading((str(tmp_path / name),), stream=True)
            files.read_matrix(source, "X", streaming=True)
    assert Path(tmp_path / "columns.h5ad").exists()


class Late:
    """A result that does not come, or comes as an error; and a client without workers."""

    status, error = "pending", TimeoutError()
    scheduler = type("Scheduler", (), {"address": "tcp://h:1"})

    def result(self, timeout):
        raise self.error

    def nthreads(self):
        return {}


def test_what_goes_wrong_with_workers_is_one_line(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(crew, "GONE", 0.05)
    late = Late()
    those = crew.Crew(late)
    with pytest.raises(TrainingError, match="tcp://h:1 has had no workers for"):
        those._result(late)
    for error, kind, said in (
        (MemoryError(), TrainingError, "a worker ran out of memory"),
        (ModuleNotFoundError("no", name="cellalign.data"), InputError, "a worker has no cellalign"),
        (InputError("as it is"), InputError, "^as it is$"),
        (ZeroDivisionError("as it is"), ZeroDivisionError, "^as it is$"),
    ):
        late.error = error
        with pytest.raises(kind, match=said):
            those._result(late)
    late.error, late.status = TimeoutError("of the task"), "error"
    with pytest.raises(TimeoutError, match="of the task"):
        those._result(late)
    with pytest.raises(InputError, match=r"has cellalign .*, and the command 0\.0\.1; install the same"):
        _ = crew.Packed(b"", "0.0.1").matrices
