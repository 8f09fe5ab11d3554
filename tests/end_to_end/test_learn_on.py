"""A model that learns on, by the command: train, train --from, embed, counterfactual to what is new, reproduce."""

import anndata as ad
import numpy as np
import pytest
import yaml


@pytest.fixture(scope="module")
def folder(cellalign, tmp_path_factory):
    """old.h5ad and new.h5ad, raw counts of two sites and of a third, and a model `old` of the first."""
    made = tmp_path_factory.mktemp("learns")
    run = cellalign(cwd=made)
    done = run("simulate", "ifnb", "--cells", 240, "--genes", 60, "--sites", 3, "-o", "raw.h5ad")
    assert done.returncode == 0, done.stderr
    cells = ad.read_h5ad(made / "raw.h5ad")
    third = (cells.obs["site"] == "site3").to_numpy()
    cells[~third].write_h5ad(made / "old.h5ad")
    cells[third].write_h5ad(made / "new.h5ad")
    small = ("--set", "hidden=[16]", "--latent-dim", "4", "--epochs", "2")
    done = run("train", "old.h5ad", "--method", "cvae", "--condition", "stim", "--batch", "site", *small, "-m", "old")
    assert done.returncode == 0, done.stderr
    return made


def test_from_a_model_to_another_that_knows_more(folder, cellalign):
    run = cellalign(cwd=folder)
    done = run("train", "new.h5ad", "--from", "old", "--epochs", "2", "-m", "wider", "-o", "new.emb.h5ad")
    assert done.returncode == 0, done.stderr
    assert "new batch of 'site' beside 2: site3" in done.stderr and "wider: cvae, 2 epochs" in done.stderr
    record = yaml.safe_load((folder / "wider" / "model.yaml").read_text())
    origin = yaml.safe_load((folder / "old" / "model.yaml").read_text())
    assert record["learned_from"]["weights"] == origin["weights_checksum"]
    assert record["learned_from"]["path"] == str(folder / "old") and record["learned_from"]["learn"] == "new"
    assert "X_cvae" in ad.read_h5ad(folder / "new.emb.h5ad").obsm
    for model in ("old", "wider"):
        done = run("embed", "old.h5ad", "-m", model, "-o", f"{model}.emb.h5ad")
        assert done.returncode == 0, done.stderr
    before, after = (ad.read_h5ad(folder / f"{model}.emb.h5ad").obsm["X_cvae"] for model in ("old", "wider"))
    np.testing.assert_allclose(after, before, atol=1e-5)
    done = run("counterfactual", "old.h5ad", "-m", "wider", "--from", "site1", "--to", "site=site3", "-o", "as3.h5ad")
    assert done.returncode == 0, done.stderr
    assert (ad.read_h5ad(folder / "as3.h5ad").obs["site"] == "site3").all()
    done = run("reproduce", "wider", "--format", "csv")
    assert done.returncode == 0 and "identical" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("new.h5ad", "--from", "old", "--method", "comp"), 2, "--method comp: --from old is of another method"),
        (("new.h5ad", "--from", "old", "--batch", "cell_type"), 2, "--batch cell_type: the model learned with --batch"),
        (("old.h5ad", "--from", "old"), 3, "nothing new to learn"),
        (("new.h5ad", "--from", "nowhere"), 4, "no model directory nowhere"),
        (("new.h5ad", "--from", "old", "-m", "old", "--force"), 2, "old"),
        (("new.h5ad", "--learn", "all"), 2, "--learn all needs --from MODEL"),
    ],
)
def test_what_is_refused(arguments, status, says, folder, mistaken):
    given = arguments if "-m" in arguments else (*arguments, "-m", "refused")
    done = mistaken(cwd=folder)("train", *given)
    assert done.returncode == status and says in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (folder / "refused").exists()
