"""Transfer: old interventions stay, new ones get the shift that maximises their evidence bound."""

import numpy as np
import pytest
import torch

import cellalign
from cellalign.errors import InputError, ModelError


@pytest.fixture(scope="module")
def heldout(shifts):
    return shifts[shifts.obs["split"] == "heldout"].copy()


@pytest.fixture(scope="module")
def wider(svae_model, heldout):
    return cellalign.transfer(heldout, svae_model)


def test_what_was_known_stays_as_it_was(svae_model, wider, shifts):
    known = svae_model.conditions
    assert wider.conditions[: len(known)] == known
    assert wider.transferred == [f"p{i}" for i in range(30, 36)]
    train = shifts[shifts.obs["split"] == "train"].copy()
    np.testing.assert_array_equal(wider.embed(train), svae_model.embed(train))
    before, after = cellalign.targets(svae_model), cellalign.targets(wider)
    np.testing.assert_array_equal(after[before.obs_names].X, before.X)
    assert after.obs["transferred"].sum() == 6 and (after[wider.transferred].layers["probability"] > 0.99).all()


def test_the_shift_is_the_maximum_of_the_bound(wider, heldout):
    rows = {name: heldout[heldout.obs["perturbation"] == name].copy() for name in ("p31", "p34")}
    for name, cells in rows.items():
        code = wider.conditions.index(name)
        at_best = wider.nelbo(cells, seed=1).mean()
        shift = wider.method.shift().detach().clone()
        for step in np.eye(4)[:, :] * 0.3:
            for sign in (1, -1):
                moved = shift.clone()
                moved[code] += torch.as_tensor(sign * step, dtype=moved.dtype)
                wider.method.shift.set(moved)
                assert wider.nelbo(cells, seed=1).mean() > at_best
        wider.method.shift.set(shift)


def test_likelihood_of_unseen_interventions_gains_by_it(wider, svae_model, heldout):
    fitted = wider.nll(heldout, particles=50).mean()
    as_control = heldout.copy()
    as_control.obs["perturbation"] = "control"
    assert fitted < svae_model.nll(as_control, particles=50).mean() - 5
    assert wider.nll(heldout, particles=200).mean() < wider.nelbo(heldout).mean()


def test_saved_and_loaded_and_transferred_again(wider, heldout, tmp_path):
    wider.save(tmp_path / "wider")
    again = cellalign.load(tmp_path / "wider")
    assert again.transferred == wider.transferred
    np.testing.assert_array_equal(again.embed(heldout), wider.embed(heldout))
    other = heldout.copy()
    other.obs["perturbation"] = "new " + other.obs["perturbation"].astype(str)
    assert len(cellalign.transfer(other, again).transferred) == 12


def test_panels_with_a_model(wider, shifts):
    scores = cellalign.evaluate(
        shifts.copy(), condition="perturbation", model=wider, panels=["identifiability", "likelihood"], particles=20
    )
    assert scores.value("nll", system="transferred interventions") < scores.value(
        "nelbo", system="transferred interventions"
    )
    # transferred interventions have every mask open: they are not part of the graph that is scored
    assert scores.value("f1", system="graph") > 0.9


def test_nothing_new_and_no_embedding_to_fit(svae_model, shifts, tiny):
    known = shifts[shifts.obs["split"] == "train"].copy()
    with pytest.raises(InputError, match="not a single new intervention"):
        cellalign.transfer(known, svae_model)
    model = cellalign.train(tiny, method="vae", epochs=1, settings={"hidden": [8]})
    said = "'vae' does not learn an embedding per intervention.*methods that do: ivae, svae, svae\\+"
    with pytest.raises(ModelError, match=said):
        cellalign.transfer(tiny, model)
