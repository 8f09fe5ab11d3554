"""Sites and donors by the installed command: two blocks of latents, another site, and what is refused."""

import anndata as ad
import numpy as np
import pytest


@pytest.fixture(scope="module")
def folder(cellalign, tmp_path_factory):
    """A folder with sites.h5ad: counts of two sites, an age that some cells lack, labels of which some are Unknown."""
    made = tmp_path_factory.mktemp("sites")
    size = ("--cells", "240", "--genes", "60", "--cell-types", "3")
    run = cellalign(cwd=made)
    done = run("simulate", "ifnb", *size, "--sites", "2", "--donors", "2", "--stimulated", "0", "-o", "raw.h5ad")
    assert done.returncode == 0, done.stderr
    cells = ad.read_h5ad(made / "raw.h5ad")
    cells.obs["age"] = np.where(np.arange(240) % 5 > 0, np.linspace(20, 60, 240), np.nan)
    cells.obs["known"] = cells.obs["cell_type"].astype(str).where(np.arange(240) % 3 > 0, "Unknown")
    cells.layers["counts"] = cells.X.copy()
    cells.write_h5ad(made / "sites.h5ad")
    return made


def test_invae_from_train_to_another_site(folder, cellalign):
    run = cellalign(cwd=folder)
    roles = ("--batch", "site", "--covariate", "donor", "--covariate", "age", "--numeric", "age")
    done = run(
        "train", "sites.h5ad", "--method", "invae", *roles, "--set", "hidden=[16]", "--epochs", "2", "-o", "e.h5ad"
    )
    assert done.returncode == 0, done.stderr
    found = ad.read_h5ad(folder / "e.h5ad")
    assert found.obsm["X_invae"].shape == (240, 20) and found.obsm["X_invae_spurious"].shape == (240, 5)
    new = found[:20].copy()
    new.obs["site"] = "elsewhere"
    new.write_h5ad(folder / "new.h5ad")
    done = run("embed", "new.h5ad", "-o", "no.h5ad")
    assert done.returncode == 3 and "'elsewhere' in column 'site' was never trained on" in done.stderr
    assert run("embed", "new.h5ad", "--allow-unseen", "-o", "yes.h5ad").returncode == 0
    assert not (folder / "no.h5ad").exists() and np.isfinite(ad.read_h5ad(folder / "yes.h5ad").obsm["X_invae"]).all()
    done = run("counterfactual", "--to", "site=site2", "-o", "moved.h5ad")
    assert done.returncode == 0, done.stderr
    moved = ad.read_h5ad(folder / "moved.h5ad")
    assert (moved.obs["site"] == "site2").all() and (moved.obs["site_source"] == "site1").all()
    depth = np.maximum(moved.layers["source"].toarray().sum(1), 1)  # an empty cell is taken to have one count
    assert np.allclose(moved.X.sum(1), depth, rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("--method", "scanvi", "--batch", "site"), 2, "needs --label KEY"),
        (
            ("--method", "invae", "--numeric", "age"),
            2,
            "age is said to be a number, but is neither a --batch nor a --covariate",
        ),
        (
            ("--method", "invae", "--covariate", "donor", "--numeric", "donor"),
            3,
            "'donor' is not numeric, as --numeric",
        ),
        (("--method", "scanvi", "--label", "known", "--unlabelled", "none"), 3, "no cell has known=none"),
        (("--method", "scvi", "--batch", "age"), 3, "batch column 'age' has 48 missing values"),
    ],
)
def test_roles_that_do_not_fit(folder, mistaken, arguments, status, says):
    done = mistaken(cwd=folder)("train", "sites.h5ad", *arguments, "-m", "refused")
    assert done.returncode == status and says in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not (folder / "refused").exists()
