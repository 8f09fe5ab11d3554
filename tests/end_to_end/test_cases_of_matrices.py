"""Where counts are and on which scale a matrix is, through the command: what was tried on real files, and its kinds."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from scipy import sparse


@pytest.fixture
def at(tmp_path, cellalign):
    """`at(name, adata)` writes a file; `at.run(...)` runs the command beside it."""

    class Folder:
        run = staticmethod(cellalign(cwd=tmp_path))

        def __call__(self, name: str, adata: ad.AnnData) -> Path:
            adata.write_h5ad(tmp_path / name)
            return tmp_path / name

        def preprocess(self, source: Path, *options: object):
            done = self.run("preprocess", source, "-o", "o.h5ad", "--force", *options)
            return done, (ad.read_h5ad(tmp_path / "o.h5ad") if done.returncode == 0 else None)

    return Folder()


def scaled(x) -> np.ndarray:
    x = x.toarray()
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32)


def test_05_cells_of_a_zero_filled_layer_are_not_dropped(at, tiny_counts):
    first, second = tiny_counts, tiny_counts.copy()
    first.layers["counts"] = first.X.copy()
    joined = ad.concat([first, second], join="outer", label="dataset", index_unique="-")
    done, out = at.preprocess(at("in.h5ad", joined), "--n-top-genes", 0)
    assert out.obs["dataset"].value_counts().to_dict() == {"0": 240, "1": 240}
    assert (
        'layers["counts"] does not serve: all zero in 240 of 480 cells' in done.stderr and "counts in X" in done.stderr
    )
    joined.X = joined.X.log1p()
    done, _ = at.preprocess(at("log.h5ad", joined))
    assert done.returncode == 3 and "give these cells their counts, or leave them out" in done.stderr


def test_06_stored_zeros_are_zeros(at, tiny_counts):
    adata = tiny_counts
    _, expected = at.preprocess(at("clean.h5ad", adata), "--n-top-genes", 0, "--min-genes", 40)
    full = sparse.csr_matrix(adata.X.toarray() + 1)
    full.data -= 1
    adata.X = full
    _, got = at.preprocess(at("zeros.h5ad", adata), "--n-top-genes", 0, "--min-genes", 40)
    assert got.shape == expected.shape and (got.obs["n_genes"] == expected.obs["n_genes"]).all()


@pytest.mark.parametrize("values", ["int", "bool", "float", "unique"])
def test_13_batches_of_numbers(at, tiny_counts, values):
    adata, n = tiny_counts, 240
    columns = {"int": np.arange(n) % 3, "bool": np.arange(n) % 2 == 0, "float": np.arange(n) % 3 * 1.0}
    adata.obs["lib"] = columns.get(values, [f"s{i}" for i in range(n)])
    done, out = at.preprocess(at("in.h5ad", adata), "--n-top-genes", 30, "--batch", "lib")
    if values == "unique":
        assert done.returncode == 3 and "a value of its own in the --batch column" in done.stderr
    else:
        assert out.shape == (n, 30) and "highly_variable_nbatches" in out.var


@pytest.mark.parametrize("place", ["layer", "raw"])
def test_21_scaled_expression_beside_counts(at, tiny, place):
    adata = tiny
    adata.layers["scale.data"] = scaled(adata.X)
    if place == "raw":
        counts = ad.AnnData(adata.layers.pop("counts"), obs=adata.obs, var=adata.var)
        adata.raw = counts
        adata = adata[:, :40].copy()
    adata.X = scaled(adata.X)
    done, out = at.preprocess(at("in.h5ad", adata), "--n-top-genes", 30)
    assert out.n_vars == 30 and f"counts in {place if place == 'raw' else 'layers'}" in done.stderr


def test_22_a_layer_that_is_not_read_may_hold_anything(at, tiny_counts):
    adata = tiny_counts
    adata.layers["velocity"] = np.full(adata.shape, np.nan, dtype=np.float32)
    assert at.preprocess(at("in.h5ad", adata), "--n-top-genes", 30)[0].returncode == 0


@pytest.mark.slow
def test_23_estimated_counts(at, tiny_counts):
    adata, rng = tiny_counts, np.random.default_rng(0)
    x = adata.X.toarray().astype(np.float64)
    adata.X = sparse.csr_matrix(np.where(x > 0, x - 1e-6, 0))
    done, out = at.preprocess(at("noise.h5ad", adata), "--n-top-genes", 0)
    assert (out.layers["counts"].toarray() == x).all() and "as of arithmetic: rounded" in done.stderr
    for part in (np.where((x > 1) & (rng.random(x.shape) < 0.02), x - 0.5, x), x * 0.97):
        adata.X = sparse.csr_matrix(part)
        path = at("part.h5ad", adata)
        done, _ = at.preprocess(path)
        assert done.returncode == 3 and "--round of preprocess or train takes estimated counts" in done.stderr
        _, out = at.preprocess(path, "--round", "--n-top-genes", 0)
        np.testing.assert_array_equal(out.layers["counts"].toarray(), np.rint(part))
        done = at.run("train", path, "--method", "scvi", "--epochs", 1, "-m", "m", "--force")
        assert done.returncode == 3 and "in cell 'cell" in done.stderr and "--round" in done.stderr
        done = at.run("train", path, "--method", "scvi", "--epochs", 1, "-m", "m", "--force", "--round")
        assert done.returncode == 0, done.stderr


def test_24_counts_in_another_layer(at, tiny):
    adata = tiny
    adata.layers["raw_counts"] = adata.layers.pop("counts")
    done, out = at.preprocess(at("in.h5ad", adata))
    assert 'counts in layers["raw_counts"]' in done.stderr and "counts" in out.layers
    adata.layers["mine"] = adata.layers.pop("raw_counts")
    path = at("mine.h5ad", adata)
    done, out = at.preprocess(path, "--layer", "mine")
    assert 'counts in layers["mine"]' in done.stderr and "counts" in out.layers
    done, _ = at.preprocess(path, "--layer", "nothing")
    assert done.returncode == 3 and "no layer 'nothing'; matrices: X, mine" in done.stderr
    assert at.preprocess(path, "--layer", "mine", "--raw")[0].returncode == 2


def test_25_only_normalised_expression(at, tiny):
    adata = tiny
    del adata.layers["counts"]
    done, out = at.preprocess(at("log.h5ad", adata), "--n-top-genes", 30)
    assert "no counts: X is kept as the log expression it is" in done.stderr and out.n_vars == 30
    adata.raw = adata.copy()
    adata.X = scaled(adata.X)
    path = at("scaled.h5ad", adata)
    train = ("train", "--method", "linear", "--condition", "stim", "-m", "m")
    refused = at.run(*train, path)
    assert refused.returncode == 3 and "cellalign preprocess" in refused.stderr
    assert at.preprocess(path)[0].returncode == 0  # what was advised
    assert at.run(*train, "o.h5ad").returncode == 0
    adata.raw = None
    done, _ = at.preprocess(at("only.h5ad", adata))
    assert done.returncode == 3 and "as it was before it was scaled" in done.stderr


def test_37_nothing_untrue_is_said(at, tiny):
    adata = tiny
    adata.uns["log1p"] = {"base": None}
    done, _ = at.preprocess(at("in.h5ad", adata), "--n-top-genes", 30, "-q")
    assert done.returncode == 0 and not done.stderr


@pytest.mark.parametrize("what", ["median", "fractions", "z"])
def test_39_no_logarithm_but_small(at, tiny_counts, what):
    adata = tiny_counts
    x = adata.X.toarray()
    shares = x / x.sum(1, keepdims=True)
    made = {"median": shares * 50, "fractions": shares, "z": scaled(adata.X).clip(0, 10)}[what]
    adata.X = sparse.csr_matrix(made.astype(np.float32))
    path = at("in.h5ad", adata)
    train = ("train", "--method", "linear", "--condition", "stim", "-m", "m")
    done = at.run(*train, path)
    assert done.returncode == 3 and "normalised log1p expression is needed" in done.stderr
    done, _ = at.preprocess(path)  # what was advised
    assert done.returncode == (3 if what == "z" else 0)
    if what != "z":
        assert "no counts: X is log1p of X" in done.stderr and at.run(*train, "o.h5ad").returncode == 0


def test_43_columns_of_the_user(at, tiny_counts):
    adata = tiny_counts
    adata.obs["n_counts"], adata.obs["n_genes"] = 12345.0, 999
    done, out = at.preprocess(at("in.h5ad", adata), "--n-top-genes", 0)
    assert (out.obs["n_counts"] == 12345).all() and (out.obs["n_genes"] == 999).all()
    assert "obs 'n_counts' and 'n_genes' of the input stay as they are" in done.stderr


def test_44_a_prediction_is_read(at, tiny):
    path = at("in.h5ad", tiny)
    for words in (
        ("train", path, "--method", "linear", "--condition", "stim", "-m", "m"),
        ("counterfactual", "-m", "m", "--to", "stimulated", "-o", "c.h5ad"),
        ("embed", "c.h5ad", "-m", "m", "-o", "e.h5ad"),
        ("annotate", "c.h5ad", "-m", "m", "--label", "cell_type", "-o", "a.h5ad"),
        ("train", "c.h5ad", "--method", "pca", "-m", "m2"),
        ("preprocess", "c.h5ad", "-o", "p.h5ad"),
    ):
        done = at.run(*words)
        assert done.returncode == 0, done.stderr
