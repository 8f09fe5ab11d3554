"""Raw counts of new cells on an old model, by one command each; and a model of raw counts."""

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

TRAIN = ("--method", "cvae", "--condition", "stim", "--epochs", 2, "--set", "hidden=[16]")


@pytest.fixture(scope="module")
def folder(kang_raw, cellalign, tmp_path_factory):
    """Cells held back before preprocessing, their genes shuffled, and a model of the rest's raw counts."""
    folder = tmp_path_factory.mktemp("new")
    cells, rng = ad.read_h5ad(kang_raw), np.random.default_rng(0)
    held = np.zeros(cells.n_obs, dtype=bool)
    held[rng.permutation(cells.n_obs)[:100]] = True
    cells[~held].copy().write_h5ad(folder / "old.h5ad")
    new = cells[held][:, rng.permutation(cells.n_vars)].copy()
    new.write_h5ad(folder / "new.h5ad")
    half = new.copy()
    half.X = sparse.csr_matrix(half.X)
    half.X.data = rng.binomial(half.X.data.astype(int), 0.5).astype(np.float32)
    half.write_h5ad(folder / "half.h5ad")
    done = cellalign(cwd=folder)("train", "old.h5ad", *TRAIN, "--n-top-genes", 150)
    assert done.returncode == 0, done.stderr
    assert "raw counts normalised to" in done.stderr and "150 genes kept" in done.stderr
    return folder


def latents(path):
    return ad.read_h5ad(path).obsm["X_cvae"]


def test_it_is_the_model_of_the_preprocessed_file(folder, cellalign):
    run = cellalign(cwd=folder)
    assert run("preprocess", "old.h5ad", "-o", "pp.h5ad", "--n-top-genes", 150).returncode == 0
    assert run("train", "pp.h5ad", *TRAIN, "-m", "of-pp").returncode == 0
    assert run("embed", "-o", "e1.h5ad").returncode == 0  # the training file, raw as it is
    assert run("embed", "-m", "of-pp", "-o", "e2.h5ad").returncode == 0
    np.testing.assert_array_equal(latents(folder / "e1.h5ad"), latents(folder / "e2.h5ad"))


def test_raw_counts_are_taken_by_every_command(folder, cellalign):
    run = cellalign(cwd=folder)
    for done in (
        run("preprocess", "new.h5ad", "--like", "cellalign-model", "-o", "new.pp.h5ad"),
        run("embed", "new.h5ad", "-o", "raw.h5ad"),
        run("embed", "new.pp.h5ad", "-o", "prepared.h5ad"),
        run("counterfactual", "new.h5ad", "--to", "stimulated", "-o", "c1.h5ad"),
        run("counterfactual", "new.pp.h5ad", "--to", "stimulated", "-o", "c2.h5ad"),
        run("annotate", "new.h5ad", "--label", "cell_type", "-o", "a1.h5ad"),
        run("annotate", "new.pp.h5ad", "--label", "cell_type", "-o", "a2.h5ad"),
        run("evaluate", "c1.h5ad", "--against", "old.h5ad", "-o", "s1.csv"),
        run("evaluate", "c1.h5ad", "--against", "pp.h5ad", "-o", "s2.csv"),
    ):
        assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(latents(folder / "raw.h5ad"), latents(folder / "prepared.h5ad"), atol=1e-5)
    first, second = (ad.read_h5ad(folder / name) for name in ("c1.h5ad", "c2.h5ad"))
    np.testing.assert_allclose(first.X, second.X, atol=1e-5)
    a1, a2 = (ad.read_h5ad(folder / name).obs["cell_type_predicted"] for name in ("a1.h5ad", "a2.h5ad"))
    assert (a1.astype(str) == a2.astype(str)).all()
    assert (folder / "s1.csv").read_text() == (folder / "s2.csv").read_text()
    # the raw file goes along as it is
    np.testing.assert_array_equal(
        ad.read_h5ad(folder / "raw.h5ad").X.toarray(), ad.read_h5ad(folder / "new.h5ad").X.toarray()
    )


def test_counts_elsewhere_and_another_depth(folder, cellalign):
    run = cellalign(cwd=folder)
    new = ad.read_h5ad(folder / "new.h5ad")
    new.layers["counts"] = new.X.copy()
    x = new.X.toarray()
    new.X = ((x - x.mean(0)) / np.maximum(x.std(0), 1e-3)).astype(np.float32)  # scaled, as scanpy's tutorials end
    new.write_h5ad(folder / "scaled.h5ad")
    for name in ("scaled", "half"):
        done = run("embed", f"{name}.h5ad", "-o", f"{name}.emb.h5ad")
        assert done.returncode == 0, done.stderr
    assert run("embed", "new.h5ad", "-o", "raw2.h5ad").returncode == 0
    wanted = latents(folder / "raw2.h5ad")
    np.testing.assert_allclose(latents(folder / "scaled.emb.h5ad"), wanted, atol=1e-5)
    found = latents(folder / "half.emb.h5ad")
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.9


def test_genes_by_another_name_and_missing_ones(folder, cellalign):
    run = cellalign(cwd=folder)
    new = ad.read_h5ad(folder / "new.h5ad")
    new.var["gene_symbols"] = new.var_names
    new.var_names = [f"ENSG{i:011d}" for i in range(new.n_vars)]
    new.write_h5ad(folder / "ids.h5ad")
    done = run("embed", "ids.h5ad", "-o", "ids.emb.h5ad")
    assert done.returncode == 0 and "150 by var column 'gene_symbols'" in done.stderr
    assert run("embed", "new.h5ad", "-o", "raw3.h5ad").returncode == 0
    np.testing.assert_allclose(latents(folder / "ids.emb.h5ad"), latents(folder / "raw3.h5ad"), atol=1e-5)
    new[:, :200].copy().write_h5ad(folder / "fewer.h5ad")
    done = run("embed", "fewer.h5ad", "-o", "fewer.emb.h5ad")
    assert done.returncode == 3 and "--missing-genes zero" in done.stderr
    done = run("embed", "fewer.h5ad", "--missing-genes", "zero", "-o", "fewer.emb.h5ad")
    assert done.returncode == 0, done.stderr
