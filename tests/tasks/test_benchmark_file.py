"""A benchmark's CSV: rows are of cells and settings, several runs add to it, and nothing in it is lost."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from cellalign.errors import InputError
from cellalign.records import BenchmarkRow
from cellalign.tasks import benchmark as benchmarking
from cellalign.tasks.benchmark import benchmark
from cellalign.tasks.benchmark_file import add, finished

OPTIONS = {"condition": "stim", "holdout_each": "cell_type", "groups": ["B"], "validation": 0}
HEADER = "format_version,method,seed,held_out,to,r_de\n"


@pytest.fixture
def trainings(monkeypatch):
    """The methods that were trained, in order."""
    calls, real = [], benchmarking.train
    monkeypatch.setattr(benchmarking, "train", lambda *a, **k: calls.append(k["method"]) or real(*a, **k))
    return calls


@pytest.fixture
def begun(tiny, tmp_path, trainings):
    """The file and table of a benchmark of two methods."""
    path = tmp_path / "benchmark.csv"
    table = benchmark(tiny, methods=["linear", "pca"], results=path, **OPTIONS)
    trainings.clear()
    return path, table


def changed_value(adata):
    adata.X.data[-1] *= 1.25


def changed_condition(adata):
    """Of two cells that are not held out."""
    stim = adata.obs["stim"].astype(str).to_numpy()
    rows = [np.flatnonzero((adata.obs["cell_type"] == "NK") & (stim == value))[0] for value in np.unique(stim)]
    stim[rows] = stim[rows[::-1]]
    adata.obs["stim"] = stim


def changed_group(adata):
    groups = adata.obs["cell_type"].astype(str).to_numpy()
    groups[np.flatnonzero(groups == "NK")[0]] = "CD14 Mono"
    adata.obs["cell_type"] = groups


def another_gene(adata):
    adata.var_names = ["renamed", *adata.var_names[1:]]


@pytest.mark.parametrize("change", [changed_value, changed_condition, changed_group, another_gene])
def test_rows_of_other_cells_are_kept_and_not_taken_for_these(tiny, begun, trainings, caplog, change):
    path, first = begun
    before = path.read_text()
    change(tiny)
    with caplog.at_level("INFO", "cellalign"):
        table = benchmark(tiny, methods=["linear", "pca"], results=path, **OPTIONS)
    assert trainings == ["linear", "pca"] and list(table["method"]) == list(first["method"])
    assert not set(table["made_of"]) & set(first["made_of"])
    assert f"{path}: {len(first)} rows are of other cells, settings or scores: they are kept there" in caplog.text
    assert path.read_text().startswith(before) and len(pd.read_csv(path)) == 2 * len(first)


@pytest.mark.parametrize(
    ("more", "again"),
    [
        ({}, []),
        ({"threads": 1, "device": "cpu"}, []),
        ({"settings": {"linear": {"change": "ridge"}}}, ["linear"]),
        ({"settings": {"linear": {"change": "shift"}}}, []),  # as it is by default
        ({"label": "donor"}, ["linear", "pca"]),
        ({"layer": "other"}, ["linear", "pca"]),
        ({"validation": 0.2}, ["linear", "pca"]),
    ],
)
def test_what_counts_as_the_same_settings(tiny, begun, trainings, more, again):
    path, first = begun
    tiny.layers["other"] = tiny.X.copy()
    tiny.obs["unread"] = 1.0
    table = benchmark(tiny, methods=["linear", "pca"], results=path, **(OPTIONS | more))
    assert trainings == again and list(table["method"]) == list(first["method"])
    kept = set(first["made_of"]) & set(table["made_of"])
    assert ("linear" in again) == (first["made_of"].iloc[0] not in kept)


def test_epochs_count(tiny, tmp_path, trainings):
    options = OPTIONS | {"results": tmp_path / "b.csv", "settings": {"vae": {"hidden": [8], "latent_dim": 2}}}
    for epochs in (1, 2, 2, 1):
        benchmark(tiny, methods=["vae"], epochs=epochs, **options)
    assert trainings == ["vae", "vae"]
    seeds = benchmark(tiny, methods=["vae"], epochs=1, seeds=(0, 1), **options)
    assert trainings == ["vae"] * 3 and list(seeds["seed"].unique()) == [0, 1]


def test_scores_of_another_version_of_the_panel_are_computed_again(tiny, begun, trainings, monkeypatch):
    from cellalign.evaluation.panels.response import PredictedResponse

    monkeypatch.setattr(PredictedResponse, "version", PredictedResponse.version + 1)
    table = benchmark(tiny, methods=["linear"], results=begun[0], **OPTIONS)
    assert trainings == ["linear"] and not set(table["made_of"]) & set(begun[1]["made_of"])


def test_scores_of_another_version_of_the_method_are_computed_again(tiny, begun, trainings, monkeypatch):
    """`local` predicts otherwise since it doubts genes; its rows of before were taken for its own."""
    from cellalign.methods.linear import Linear
    from cellalign.methods.registry import get

    auto = get("auto")
    hyperparameters = auto.Hyperparameters(members="local,linear")
    before = auto.version_of(hyperparameters)
    monkeypatch.setattr(Linear, "version", Linear.version + 1)
    assert auto.version_of(hyperparameters) == before + 1 and get("local").version_of(None) == 2
    table = benchmark(tiny, methods=["linear", "pca"], results=begun[0], **OPTIONS)
    assert trainings == ["linear"]
    kept = set(begun[1]["made_of"]) & set(table["made_of"])
    assert len(kept) == 2  # of pca, and of the baselines


def test_methods_of_one_matrix_share_their_baselines(tiny, begun):
    table = begun[1].set_index("method")["made_of"]
    assert table["no change"] == table["mean shift"] == table["split half"] == table["attainable"]
    assert len(set(table)) == 3


def test_rows_of_an_earlier_version_are_kept_computed_again_and_said(tiny, begun, trainings, caplog):
    """Their format had nothing to tell which cells they are of."""
    path, first = begun
    old = first.drop(columns="made_of").assign(format_version=2)
    old.to_csv(path, index=False)
    before = path.read_text().splitlines()
    table = benchmark(tiny, methods=["linear"], results=path, **OPTIONS)
    assert trainings == ["linear"] and len(table) == len(first) - 1 and table["made_of"].notna().all()
    assert f"{len(first)} rows of an earlier version do not say of which cells and settings they are" in caplog.text
    both = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert list(both["format_version"]) == ["2"] * len(first) + ["3"] * len(table)
    columns = before[0].split(",")
    assert both[columns].iloc[: len(first)].agg(",".join, axis=1).tolist() == before[1:]


def row(method, **more):
    given = {"method": method, "seed": 0, "held_out": "B", "to": "stimulated", "made_of": "1", "scores": {"r_de": 0.5}}
    return BenchmarkRow(**(given | more))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\n",
        "gene,score\nISG15,2.5\n",
        "method,seed,held_out,to,note\nlinear,0,B,stimulated,mine\n",
        HEADER + "2,linear,0,B,stim",
        HEADER + "2,linear,0,B,stimulated,0.51",  # of 0.5123: the end of a row is its line's
        HEADER + "2,linear,0,B,stimulated,0.5\n2,li\n",
        HEADER + "2,linear,0,B,stimulated,0.5,7\n",
        HEADER + "2,linear,zero,B,stimulated,0.5\n",
        HEADER + "4,linear,0,B,stimulated,0.5\n",
        HEADER + '2,"linear,0,B,stimulated,0.5\n',
        "method,seed,held_out,to,to\nlinear,0,B,stimulated,stimulated\n",
        b"\xff\xfe\x00binary\x00",
        b"\x89HDF\r\n\x1a\n",
    ],
)
def test_what_is_no_whole_benchmark_is_left_as_it_is(tmp_path, content):
    path = tmp_path / "mine.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = path.read_bytes()
    for act in (lambda: finished(path), lambda: add(path, [row("pca")])):
        with pytest.raises(
            InputError, match=r"mine\.csv (holds no benchmark|cannot be read as CSV).*it is left as it is"
        ):
            act()
    assert path.read_bytes() == before


def test_odd_names_survive(tmp_path):
    path = tmp_path / "b.csv"
    names = ["NA", "7", "", "a,b", 'a "b"', "two\nlines", "\u2028", " x ", "\u03b2"]
    rows = [row("linear", held_out=name, to=name) for name in names]
    add(path, rows)
    add(path, rows)
    assert list(finished(path).values()) == rows


def test_a_row_that_is_there_is_not_written_again(tmp_path):
    path = tmp_path / "b.csv"
    add(path, [row("linear")])
    before = path.read_text()
    add(path, [row("linear", scores={"r_de": 0.1})])
    assert path.read_text() == before
    add(path, [row("linear", made_of="2", scores={"mse_de": 0.1})])
    assert [list(one.scores) for one in finished(path).values()] == [["r_de"], ["mse_de"]]


ADDING = """
import sys
from cellalign.records import BenchmarkRow
from cellalign.tasks.benchmark_file import add
for seed in range(25):
    add(sys.argv[1], [BenchmarkRow(method=sys.argv[2], seed=seed, held_out="B", to="x", made_of="1", scores={"r": 1})])
"""


@pytest.mark.slow
def test_rows_of_runs_at_the_same_time_are_all_kept(tmp_path):
    (tmp_path / "link.csv").symlink_to(tmp_path / "b.csv")
    names = {"one": "b.csv", "two": "b.csv", "three": "link.csv"}
    running = [subprocess.Popen([sys.executable, "-c", ADDING, tmp_path / path, name]) for name, path in names.items()]
    assert [process.wait(timeout=120) for process in running] == [0] * 3
    assert (tmp_path / "link.csv").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"b.csv", "link.csv"}
    found = finished(tmp_path / "b.csv")
    assert len(found) == 75
    for name in names:  # each in the order it was added
        assert [one.seed for one in found.values() if one.method == name] == list(range(25))


def test_a_file_that_stays_locked_is_said(tmp_path, monkeypatch):
    from filelock import FileLock

    from cellalign.tasks import benchmark_file

    monkeypatch.setattr(benchmark_file, "WAIT", 0.1)
    with FileLock(tmp_path / ".b.csv.lock"), pytest.raises(InputError, match="has been locked by another run"):
        add(tmp_path / "b.csv", [row("linear")])


def test_what_is_interrupted_says_that_finished_rows_are_kept(tiny, tmp_path, monkeypatch):
    path, real = tmp_path / "benchmark.csv", benchmarking.train

    def once(*args, **options):
        if finished(path):
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(benchmarking, "train", once)
    with pytest.raises(KeyboardInterrupt) as caught:
        benchmark(tiny, methods=["linear", "pca"], results=path, **OPTIONS)
    assert caught.value.__notes__ == [f"finished rows are kept in {path}; the same command goes on from there"]
    monkeypatch.setattr(benchmarking, "train", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt) as caught:
        benchmark(tiny, methods=["linear"], results=tmp_path / "none.csv", **OPTIONS)
    assert not getattr(caught.value, "__notes__", [])
