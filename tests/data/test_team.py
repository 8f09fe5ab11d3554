"""A file that several ranks write is the one that a process alone writes, and nothing is left of one that fails."""

import errno
import os
from pathlib import Path

import anndata as ad
import as_threads
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from cellalign.data import files
from cellalign.data.formats import team
from cellalign.data.stored import Held
from cellalign.data.streamed import StreamedCells
from cellalign.engine.ranks import RankLost
from cellalign.errors import InputError

N, GENES, COPIES = 83, 30, 3
rng = np.random.default_rng(0)
OBSERVED = sparse.random(N, GENES, 0.3, "csr", np.float32, 1)
DRAWS, SD = rng.random((COPIES, N, GENES), dtype=np.float32), rng.random((N, GENES), dtype=np.float32)
DRAWN = sparse.random(N, GENES, 0.2, "csr", np.float32, 2)
OBS = pd.DataFrame(index=[f"c{i}" for i in range(N)])
VAR = pd.DataFrame(index=[f"g{i}" for i in range(GENES)])


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr("cellalign.data.formats.by_rows.CHUNK_VALUES", 4 * GENES)
    monkeypatch.setattr("cellalign.data.formats.by_rows.SPARSE_CHUNK", 32)
    monkeypatch.setattr("cellalign.data.formats.by_rows.STORE_CHUNK", 32)
    monkeypatch.setattr(Held, "block_values", 90)


def bare(copies: int, stored: bool) -> AnnData:
    """Cells of which the observed are on disk or in memory."""
    obs = pd.concat([OBS] * copies)
    obs.index = [f"{name}-{i}" for i, name in enumerate(obs.index)]
    source = sparse.vstack([OBSERVED] * copies, format="csr")
    if stored:
        return StreamedCells({"source": Held(source)}, obs=obs, var=VAR)
    return AnnData(obs=obs, var=VAR, layers={"source": source})


def parts(ranks, size: int, copies: int, drawn: bool):
    """Of one rank."""
    for number in range(ranks.rank, -(-N // size), ranks.world):
        rows = slice(number * size, min(N, (number + 1) * size))
        found = {"X": DRAWS[:copies, rows] if copies > 1 else DRAWS[0, rows], "sd": SD[rows]}
        yield rows.start, found | ({"drawn": DRAWN[rows]} if drawn else {})


def written(ranks, path, *, size=13, copies=1, drawn=False, stored=False):
    files.write_batches(bare(copies, stored), parts(ranks, size, copies, drawn), path, team=ranks, copies=copies)


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
@pytest.mark.parametrize(
    ("world", "how"),
    [
        (2, {"drawn": True}),
        (3, {"copies": COPIES, "stored": True}),
        (4, {"size": 3, "drawn": True, "stored": True}),
        (3, {"size": 50, "stored": True}),
    ],
    ids=["draws", "copies on disk", "batches within chunks", "fewer batches than ranks"],
)
def test_it_is_the_file_of_one(tmp_path, ending, world, how):
    written(team.ALONE, tmp_path / f"one.{ending}", **how)
    assert as_threads.on_all(world, lambda ranks: written(ranks, tmp_path / f"all.{ending}", **how)) == [None] * world
    one, found = (files.read(tmp_path / f"{name}.{ending}") for name in ("one", "all"))
    assert found.obs.equals(one.obs) and set(found.layers) == set(one.layers) >= {"source", "sd"}
    copies = how.get("copies", 1)
    np.testing.assert_array_equal(found.X, DRAWS[:copies].reshape(-1, GENES))
    np.testing.assert_array_equal(found.layers["sd"], np.concatenate([SD] * copies))
    assert abs(found.layers["source"] - sparse.vstack([OBSERVED] * copies)).max() == 0
    if "drawn" in how:
        assert abs(found.layers["drawn"] - DRAWN).max() == 0
    assert not [each for each in os.listdir(tmp_path) if each.startswith(".")]
    if ending == "h5ad":
        assert (ad.read_h5ad(tmp_path / "all.h5ad").X == one.X).all()


def test_who_does_not_see_the_store_writes_none_of_the_observed_cells(monkeypatch, tmp_path):
    there = Path.is_dir
    monkeypatch.setattr(Path, "is_dir", lambda path: as_threads.number() != 1 and there(path))
    output = tmp_path / "all.zarr"
    assert as_threads.on_all(2, lambda ranks: written(ranks, output, stored=True)) == [None] * 2
    assert abs(files.read(output).layers["source"] - OBSERVED).max() == 0


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.uint8, ">f4"])
@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
def test_dense_values_of_any_type_are_written_as_one_writes_them(tmp_path, ending, dtype):
    values = (100 * SD).astype(dtype)

    def of(ranks):
        for number in range(ranks.rank, -(-N // 13), ranks.world):
            rows = slice(number * 13, min(N, (number + 1) * 13))
            yield rows.start, {"X": SD[rows], "source": values[rows]}

    def what(ranks):
        files.write_batches(AnnData(obs=OBS, var=VAR), of(ranks), tmp_path / f"all.{ending}", team=ranks)

    assert as_threads.on_all(2, what) == [None] * 2
    found = files.read(tmp_path / f"all.{ending}").layers["source"]
    np.testing.assert_array_equal(found.toarray() if sparse.issparse(found) else found, values.astype(np.float32))


@pytest.mark.parametrize("in_memory", [0, 1])
def test_one_may_have_read_the_cells_that_others_left_on_disk(tmp_path, in_memory):
    """As where it has more memory free."""
    output = tmp_path / "all.zarr"
    assert as_threads.on_all(2, lambda ranks: written(ranks, output, stored=ranks.rank != in_memory)) == [None] * 2
    found = files.read(output)
    np.testing.assert_array_equal(found.X, DRAWS[0])
    assert abs(found.layers["source"] - OBSERVED).max() == 0


def shares(monkeypatch, ending, tmp_path):
    """Of how many rows each rank sends the first one the values, and of how many their packed chunks."""
    sent, packed = [0] * 3, [0] * 3
    written_there = team._File.written

    def counting(self, name, start, values):
        for piece in written_there(self, name, start, values):
            own = packed if isinstance(piece[2], list) else sent
            own[as_threads.number()] += len(piece[2]) * (4 if own is packed else 1)
            yield piece

    monkeypatch.setattr(team._File, "written", counting)
    assert as_threads.on_all(3, lambda ranks: written(ranks, tmp_path / f"all.{ending}")) == [None] * 3
    return sent, packed


def test_each_writes_its_whole_chunks_of_a_store(monkeypatch, tmp_path):
    """Of 13 rows in chunks of 4 two or three are whole; X and sd."""
    sent, packed = shares(monkeypatch, "zarr", tmp_path)
    assert packed == [0, 0, 0] and sent[0] == 0 and all(0 < rows <= 2 * 2 * 7 for rows in sent[1:])


def test_each_packs_its_whole_chunks_of_a_file(monkeypatch, tmp_path):
    sent, packed = shares(monkeypatch, "h5ad", tmp_path)
    assert sent[0] == packed[0] == 0 and all(0 < rows <= 2 * 2 * 7 for rows in sent[1:])
    assert [a + b for a, b in zip(sent, packed, strict=True)][1:] == [2 * 2 * 13, 2 * 2 * 13]


def test_who_does_not_see_the_store_sends_all(monkeypatch, tmp_path):
    there = Path.is_dir
    monkeypatch.setattr(Path, "is_dir", lambda path: as_threads.number() != 2 and there(path))
    sent, packed = shares(monkeypatch, "zarr", tmp_path)
    assert packed == [0, 0, 0] and sent == [0, 2 * 2 * 13, 2 * 2 * 13]
    np.testing.assert_array_equal(files.read(tmp_path / "all.zarr").X, DRAWS[0])


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
@pytest.mark.parametrize("who", [0, 1])
def test_one_that_cannot_go_on_ends_all_and_leaves_nothing(tmp_path, ending, who):
    def what(ranks):
        own = parts(ranks, 13, 1, False)

        def failing():
            yield next(own)
            if ranks.rank == who:
                raise InputError("the input was changed while it was read")
            yield from own

        files.write_batches(bare(1, False), failing(), tmp_path / f"all.{ending}", team=ranks)

    found = as_threads.on_all(2, what)
    assert isinstance(found[who], InputError) and isinstance(found[1 - who], RankLost)
    assert not os.listdir(tmp_path)


def test_a_full_disk_is_said_by_who_finds_it(monkeypatch, tmp_path):
    def full(place):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(team, "store_at", full)
    found = as_threads.on_all(2, lambda ranks: written(ranks, tmp_path / "all.zarr"))
    assert isinstance(found[0], RankLost) and str(found[1]).endswith("the disk is full; nothing was changed")
    assert not os.listdir(tmp_path)
