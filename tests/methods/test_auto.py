"""auto: shares are those of the equation, follow from what was left out, and nothing leaks."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import cellalign
from cellalign.errors import UsageError
from cellalign.group_changes import LeftOut, soft_choice, stacked
from cellalign.methods.local import Local
from tests.methods.test_local import cells, mean, predicted

HELD = {"holdout": ["cell_type=C,stim=stimulated"]}
FAST = {"epochs": 2, "batch_size": 128}


def test_shares_are_the_least_squares_ones():
    rng = np.random.default_rng(0)
    left = []
    for _ in range(5):
        truth = rng.standard_normal((1, 50))
        said = np.stack(
            [truth + 0.5 * rng.standard_normal((1, 50)), truth + 0.8 * rng.standard_normal((1, 50)), -truth]
        )
        left.append(LeftOut(truth, said.swapaxes(0, 1)))
    found, drawn = stacked(left), soft_choice(np.array([each.errors() for each in left]))

    def loss(w):
        fit = sum((((w @ e.predicted[0]) - e.truth[0]) ** 2).sum() / (e.truth**2).sum() for e in left)
        return fit + 0.02 * len(left) / 3 * ((w - drawn) ** 2).sum()

    best = minimize(
        loss, np.full(3, 1 / 3), bounds=[(0, 1)] * 3, constraints={"type": "eq", "fun": lambda w: w.sum() - 1}
    )
    np.testing.assert_allclose(found, best.x, atol=5e-3)
    assert found[0] > found[1] > found[2] and found.sum() == pytest.approx(1)


@pytest.mark.slow
def test_a_stack_is_no_worse_than_its_members_where_it_was_learned():
    adata = cells(n=24)
    model = cellalign.train(adata, method="auto", label="cell_type", condition="stim", control="control", **HELD)
    own, local, lemur, shift = model.method.evidence.mean(0).tolist()
    assert own <= min(local, lemur) + 0.01 and own < shift
    assert model.method.shares.sum().item() == pytest.approx(1)
    said = model.record.outcome.findings
    assert said[0].startswith("auto: shares local") and "4 groups left out in turn" in said[0]
    assert said[1].startswith("local: ")
    where = {"cell_type": "C"}
    truth = mean(adata, stim="stimulated", **where) - mean(adata, stim="control", **where)
    assert np.corrcoef(predicted(model, adata, stim="control", **where), truth)[0, 1] > 0.9


def test_networks_are_members_by_name_and_a_prediction_is_their_average(tmp_path):
    adata = cells(n=20, types="ABCD")
    settings = {"members": "scgen", "fold_epochs": 1, "folds": 2} | FAST
    options = {"condition": "stim", "control": "control", "label": "cell_type", "settings": settings} | HELD
    model = cellalign.train(adata, method="auto", **options)
    assert model.record.hyperparameters["members"] == ["local", "scgen"]
    assert model.record.outcome.epochs in (0, 2)
    method = model.method
    method.shares = torch.tensor([0.3, 0.7])
    batch = next(model.cells(adata[adata.obs["stim"] == "control"].copy()).in_order(1000))
    do = {"stim": "stimulated"}
    with torch.no_grad():
        expected = batch.x.clone()
        for share, member in zip((0.3, 0.7), method.members.values(), strict=True):
            expected += share * (member.predict(batch, do).mean - member.predict(batch, {}).mean)
        np.testing.assert_allclose(method.predict(batch, do).mean, expected, atol=1e-6)
        np.testing.assert_array_equal(method.predict(batch, {}).mean, batch.x)
    model.save(tmp_path / "m")
    again = cellalign.load(tmp_path / "m")
    found = [cellalign.counterfactual(adata, each, to="stimulated").X for each in (model, again)]
    np.testing.assert_array_equal(*found)
    assert again.method.findings() == method.findings()


def test_the_epochs_of_all_networks_are_told_as_of_one_training():
    told = []

    class Told:
        def update(self, epoch, epochs, row):
            told.append((epoch, epochs))

    settings = {"members": "scgen,cvae", "folds": 2, "fold_epochs": 0.5, "epochs": 4, "batch_size": 64}
    options = {"condition": "stim", "control": "control", "label": "cell_type", "settings": settings} | HELD
    cellalign.train(cells(n=20, types="ABCD"), method="auto", progress=Told(), **options)
    whole = 2 * (2 * 2 + 4)  # two networks: two folds of half the epochs, then all
    assert {epochs for _, epochs in told} == {whole} and told[:8] == [(i, whole) for i in range(1, 9)]


def test_no_member_sees_what_is_left_out(monkeypatch):
    """Of a group that is left out only the half of its control, from which it is predicted, is seen."""
    adata = cells(n=20, types="ABCD")
    seen = []
    fit = Local.fit_closed_form

    def noted(self, batches):
        counts = np.zeros((2, 4), int)
        for batch in batches():
            for c, t in zip(batch.condition.tolist(), batch.label.tolist(), strict=True):
                counts[c, t] += 1
        seen.append(counts)
        fit(self, batches)

    monkeypatch.setattr(Local, "fit_closed_form", noted)
    cellalign.train(adata, method="auto", label="cell_type", condition="stim", control="control", validation=0, **HELD)
    whole, folds = seen[0], seen[1:]
    assert whole.tolist() == [[20, 20, 20, 20], [20, 20, 0, 20]] and len(folds) == 3
    for fold in folds:
        (gone,) = np.flatnonzero(fold[0] == 10)
        assert fold[1, gone] == 0 and gone != 2
        others = [t for t in (0, 1, 3) if t != gone]
        assert (fold[:, others] == 20).all() and fold[0, 2] == 20


def test_a_donor_that_is_left_out_is_left_out_with_cells_of_no_type_or_of_one_without_a_control(monkeypatch):
    adata = cells(n=20, types="AB", donors=("d1", "d2", "d3"))
    kind = adata.obs["cell_type"].astype(object).to_numpy(copy=True)
    treated = (adata.obs["stim"] == "stimulated").to_numpy()
    kind[np.random.default_rng(0).random(adata.n_obs) < 0.5] = None
    first = np.flatnonzero(treated & (adata.obs["donor"] == "d1"))[:3]
    kind[first] = "C"  # which has no control cells
    adata.obs["cell_type"] = kind
    seen, fit = [], Local.fit_closed_form

    def noted(self, batches):
        counts = np.zeros((2, 3), int)
        for batch in batches():
            donor = [field.name for field in batch.fields].index("donor")
            np.add.at(counts, (batch.condition.numpy(), batch.columns[donor].numpy()), 1)
        seen.append(counts)
        fit(self, batches)

    monkeypatch.setattr(Local, "fit_closed_form", noted)
    given = {"method": "auto", "label": "cell_type", "batch": ["donor"], "condition": "stim", "control": "control"}
    cellalign.train(adata, **given, validation=0, holdout=["donor=d3,stim=stimulated"])
    assert seen[0].tolist() == [[40, 40, 40], [40, 40, 0]]
    assert sorted(fold[1].tolist() for fold in seen[1:]) == [[0, 40, 0], [40, 0, 0]]


def test_a_condition_that_one_type_alone_is_under_is_not_asked_of_members_without_it():
    """They had never seen it, and their shares followed from that."""
    adata = cells(n=20, types="ABCD")
    more = (adata.obs["stim"] == "stimulated") & (adata.obs["cell_type"] == "A")
    adata.obs["stim"] = adata.obs["stim"].where(~(more & (np.arange(adata.n_obs) % 2 == 0)), "other")
    options = {"method": "auto", "label": "cell_type", "condition": "stim", "control": "control", "calibrate": "none"}
    evidence = cellalign.train(adata, **options).method.evidence
    assert len(evidence) == 4  # of the types under "stimulated": a fifth had an error of 1, as of no change


@pytest.mark.parametrize(
    ("members", "said"),
    [("local,scv", "unknown method 'scv'"), ("scvi", "reads counts"), ("auto", "cannot be a member")],
)
def test_what_cannot_be_a_member_is_refused(members, said):
    with pytest.raises(UsageError, match=said):
        cellalign.train(cells(n=5), method="auto", condition="stim", settings={"members": members})


def test_without_two_groups_local_alone_predicts():
    adata = cells(n=20, types="A")
    model = cellalign.train(adata, method="auto", condition="stim", control="control", label="cell_type")
    assert model.method.shares.tolist() == [1, 0]
    assert "no two groups" in model.record.outcome.findings[0]


def test_a_dose_is_local_ones():
    adata = cells(n=20, types="AB")
    adata.obs["dose"] = (adata.obs["stim"] == "stimulated").astype(float)
    model = cellalign.train(adata, method="auto", condition="dose", continuous=True, label="cell_type")
    alone = cellalign.train(adata, method="local", condition="dose", continuous=True, label="cell_type")
    found = [cellalign.counterfactual(adata, each, to=1.0).X for each in (model, alone)]
    np.testing.assert_allclose(*found, atol=1e-4)


def test_a_screen_has_no_subspace_for_each_perturbation_unless_it_is_asked_for():
    adata = cells(n=42, types="A")
    adata.obs["stim"] = [f"p{i % 21}" for i in range(adata.n_obs)]
    model = cellalign.train(adata, method="auto", condition="stim", control="p0", label="cell_type")
    assert list(model.method.members) == ["local"] and model.method.shares.tolist() == [1]
