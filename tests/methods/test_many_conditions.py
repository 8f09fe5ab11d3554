"""Every method that takes a condition, with a control and three doses: each dose's own response is predicted."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import cellalign
from cellalign.methods.registry import BUILT_IN, get
from tests.conftest import make_counts, preprocessed

pytestmark = pytest.mark.learns

DOSES = ("control", "low", "mid", "high")
SMALL = {"hidden": [64], "latent_dim": 5, "epochs": 150, "batch_size": 160}
OWN = {
    # at its default the penalty takes most of the dose out of y, and with it out of the decoder, on so few cells
    "trvae": SMALL | {"gamma": 0.1},
    "linear": {},
    "local": {},
    "lemur": {"latent_dim": 5},
    "auto": {},
    "celligner": {"latent_dim": 5},
    "stgan": {"hidden": [48, 16, 48], "discriminator_hidden": [32], "epochs": 100, "batch_size": 160, "lr": 0.01},
}
# of the sparse mechanism family a perturbation acts in z alone; tests/methods/test_sparse_mechanism.py has theirs
ELSEWHERE = {"ivae", "svae", "svae+"}
METHODS = [name for name in BUILT_IN if get(name).needs_condition and name not in ELSEWHERE]


@pytest.fixture(scope="module")
def doses() -> AnnData:
    """480 cells x 60 genes, raw counts of three cell types; genes 24 to 33 rise with dose, 34 to 40 at the last one."""
    cells = make_counts(480, seed=3)
    rng = np.random.default_rng(0)
    level = np.arange(480) // 3 % 4
    mean = make_counts(480, seed=3)[cells.obs["stim"] == "control"].X.toarray().mean(0)
    counts = cells.X.toarray()
    counts[:, 24:34] = rng.poisson(mean[24:34] * np.exp(0.6 * level)[:, None])
    counts[:, 34:41] = rng.poisson(mean[34:41] * np.where(level == 3, 4.0, 1.0)[:, None])
    cells.X = sparse.csr_matrix(counts.astype(np.float32))
    cells.obs["dose"] = pd.Categorical.from_codes(level, DOSES)
    return preprocessed(cells)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_counterfactual_to_each_dose(doses, method):
    assert get(method).needs_condition
    settings = OWN.get(method, SMALL)
    model = cellalign.train(doses, method=method, condition="dose", label="cell_type", settings=settings)
    assert model.embed(doses).shape[0] == doses.n_obs
    real = {d: np.asarray(doses[doses.obs["dose"] == d].X.mean(0)).ravel() for d in DOSES}
    change = {}
    for dose in DOSES[1:]:
        predicted = cellalign.counterfactual(doses, model, to=dose, decoded=True)
        assert predicted.n_obs == 120 and set(predicted.obs["dose"]) == {dose}
        change[dose] = predicted.X.mean(0) - real["control"]
        floor = 0.4 if method in ("cvae", "stgan") else 0.7  # CVAE is not asked to align, stgan not trained for long
        assert np.corrcoef(change[dose], real[dose] - real["control"])[0, 1] > floor, dose
    late = slice(34, 41)
    assert change["high"][late].mean() > change["mid"][late].mean() + 0.1
    back = cellalign.counterfactual(doses, model, to="low", from_="high", decoded=True)
    assert np.corrcoef(back.X.mean(0) - real["high"], real["low"] - real["high"])[0, 1] > 0.4
