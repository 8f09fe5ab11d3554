"""Pictures are written in the format their name asks for, and UMAP is reproducible and compiled once."""

import io
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from cellalign.plots import umap as plots
from cellalign.plots.palette import PALETTE, colours
from cellalign.plots.targets import heat_map
from cellalign.plots.umap import before_after, umap


@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")])
def test_picture(tmp_path, name, magic):
    xy = np.random.default_rng(0).normal(size=(40, 2))
    kinds = pd.Categorical([f"kind {i % 12}" for i in range(40)])
    before_after(xy, xy, {"kind": kinds}).savefig(tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_names_are_written_as_they_are():
    """A dollar sign begins no formula, as matplotlib takes it to."""
    odd, xy = r"a$\frac$b", np.random.default_rng(0).normal(size=(20, 2))
    kinds = pd.Categorical([odd, "_other"] * 10)
    figure = before_after(xy, xy, {odd: kinds, f"number {odd}": np.arange(20.0)})
    figure.savefig(io.BytesIO())
    legend = figure.axes[1].get_legend()
    assert legend.get_title().get_text() == odd and [t.get_text() for t in legend.get_texts()] == ["_other", odd]
    layers = {"edge": np.eye(2, dtype=bool)}
    names = pd.DataFrame(index=[odd, "b"])
    heat_map(AnnData(np.eye(2, dtype=np.float32), obs=names, var=names, layers=layers)).savefig(io.BytesIO())


@pytest.mark.parametrize("n", [1, 10, 11, 24, 60])
def test_categories_have_different_colours(n):
    found = colours(n)
    assert len(found) == len(set(found)) == n and tuple(found[:10]) == PALETTE[:n]
    assert not {plots.GREY, "#ffffff"} & set(found)  # those of no value, and of the page


def test_umap_separates_clusters_and_repeats():
    z = np.random.default_rng(0).normal(size=(60, 5)) + 20 * (np.arange(60) % 2)[:, None]
    first, again = umap(z, 3), umap(z, 3)
    np.testing.assert_array_equal(first, again)
    centres = first[::2].mean(0), first[1::2].mean(0)
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * first[::2].std()


@pytest.mark.parametrize("exact", [True, pytest.param(False, marks=pytest.mark.slow)])  # it compiles for half a minute
def test_neighbours_are_the_nearest_and_first_the_cell_itself(monkeypatch, exact):
    monkeypatch.setattr(plots, "EXACT", 400 if exact else 100)
    z = np.random.default_rng(0).normal(size=(400, 5)).astype(np.float32)
    z[7] = z[8]
    rows, distance = plots._neighbours(z, 6, 0)
    assert rows.shape == distance.shape == (400, 6)
    assert (distance[:, 0] == 0).all() and (np.diff(distance, axis=1) >= 0).all()
    others = np.linalg.norm(z[:, None] - z, axis=2)
    np.testing.assert_allclose(distance, np.take_along_axis(others, rows, 1), atol=1e-3)
    found = [len(set(one) & set(true)) for one, true in zip(rows, others.argsort(1)[:, :6], strict=True)]
    assert np.mean(found) > 5.9
    twins = np.isin(np.arange(400), [7, 8])
    np.testing.assert_array_equal(rows[~twins, 0], np.flatnonzero(~twins))


COMPILED = """
import sys
import numpy as np
from numba.core import event
from cellalign.plots import umap as plots

class Listener(event.Listener):
    def on_start(self, found): pass
    def on_end(self, found):
        function = found.data["dispatcher"].py_func
        if str(function.__module__).partition(".")[0] in ("umap", "pynndescent"):
            print(function.__module__, function.__qualname__)

event.register("numba:compile", Listener())
plots.EXACT = int(sys.argv[1])
plots.umap(np.random.default_rng(0).normal(size=(300, 5)))
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("exact", "every_time"),
    [
        pytest.param(300, set(), marks=pytest.mark.slow),
        # they ask for the number of threads by an address, which no other process shares
        pytest.param(100, {"nn_descent", "nn_descent_internal"}, marks=pytest.mark.slow),
    ],
)
def test_another_process_compiles_nothing_again(exact, every_time):
    def compiled():
        command = [sys.executable, "-c", COMPILED, str(exact)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        return {line.split()[1] for line in done.stdout.splitlines()}

    compiled()
    # umap compiles these two while it is imported
    assert compiled() <= every_time | {"tau_rand", "tau_rand_int"}
