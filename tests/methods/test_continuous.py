"""A numeric condition: the penalty's kernel, z independent of the dose, and dose curves that follow the truth."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_predict

import cellalign
from cellalign import simulate
from cellalign.engine.players import undecayed
from cellalign.errors import InputError, UsageError
from cellalign.methods.base import Player
from cellalign.model_directory import build_to_train
from cellalign.nn.penalties import misalignment
from cellalign.tasks.prepare import prepare

pytestmark = pytest.mark.learns

SETTINGS = {"hidden": [128, 128], "latent_dim": 10, "epochs": 120, "batch_size": 256}


def reference(z, mean, scale, value, width, include_self):
    """The kernel penalty as a plain float64 loop over cells."""
    n, total = len(z), 0.0
    for i in range(n):
        own = [0.0, 0.0]
        other = [0.0, 0.0]
        for j in range(n):
            q = math.exp(-sum((a - b) ** 2 for a, b in zip(z[i], mean[j], strict=True)) / (2 * scale**2))
            k = math.exp(-((value[i] - value[j]) ** 2) / (2 * width**2))
            if i != j or include_self:
                own[0], own[1] = own[0] + k * q, own[1] + k
            other[0], other[1] = other[0] + (1 - k) * q, other[1] + (1 - k)
        total += math.log(own[0] / own[1]) - math.log(other[0] / other[1])
    return total / n


def draws(n=9, p=3):
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(n, p, generator=generator, dtype=torch.float64)
    value = torch.randn(n, generator=generator, dtype=torch.float64)
    return mean + 0.3 * torch.randn(n, p, generator=generator, dtype=torch.float64), mean, value


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("width", [0.2, 1.0])
def test_kernel_penalty_is_the_equation_and_so_is_its_gradient(width, include_self):
    z, mean, value = draws()
    scale = torch.tensor(0.7, dtype=torch.float64)
    options = {"include_self": include_self, "kernel_width": width}
    found = misalignment(z, mean, scale, value, **options)
    assert float(found) == pytest.approx(reference(z.tolist(), mean.tolist(), 0.7, value.tolist(), width, include_self))
    z.requires_grad_(), mean.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: misalignment(a, b, scale, value, **options), (z, mean))


def test_of_repeated_values_and_a_narrow_kernel_it_is_the_penalty_of_categories():
    z, mean, _ = draws(12)
    codes = torch.arange(12) % 3
    scale = torch.tensor(0.7, dtype=torch.float64)
    for include_self in (True, False):
        values = misalignment(z, mean, scale, codes.double(), kernel_width=0.05, include_self=include_self)
        torch.testing.assert_close(values, misalignment(z, mean, scale, codes, include_self=include_self))


def test_it_is_larger_where_z_follows_the_value():
    value = torch.linspace(-2, 2, 200)
    noise = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    follows = torch.stack([value * 2, noise[:, 0]], 1)
    scale = torch.tensor(1.0)
    assert misalignment(follows, follows, scale, value) > 0.5
    assert abs(float(misalignment(noise, noise, scale, value))) < 0.05


@pytest.fixture(scope="module")
def dosed():
    """1,200 simulated cells x 200 genes, each with a dose of its own."""
    return cellalign.preprocess(simulate.ifnb(1200, 200, doses=True, seed=2), n_top_genes=200)


def dose_from(z, dose):
    """R^2 with which z tells the dose of cells left out of the fit."""
    predicted = cross_val_predict(Ridge(1.0), z / z.std(0), dose, cv=5)
    return 1 - np.mean((predicted - dose) ** 2) / np.var(dose)


def drawn_mean(cells, dose, rows, library):
    """Mean log expression of counts drawn at a dose: the logarithm of expected counts changes more."""
    rng, dispersion = np.random.default_rng(0), cells.var["truth_dispersion"].to_numpy()
    expected = simulate.expected(cells, dose, rows)
    draws = (rng.poisson(expected * rng.gamma(1 / dispersion, dispersion, expected.shape)) for _ in range(20))
    return np.mean([np.log1p(x / np.maximum(x.sum(1, keepdims=True), 1) * library).mean(0) for x in draws], axis=0)


def test_weights_of_a_number_do_not_decay_and_those_of_categories_do(dosed):
    def free(method, **condition):
        model = cellalign.train(dosed, method=method, settings=SETTINGS | {"epochs": 1}, **condition)
        player = Player(list(model.method.parameters()))
        names = [name for name, _ in model.method.named_parameters()]
        return {names[i] for i in undecayed(model.method, player)}

    number = {"condition": "dose", "continuous": True}
    assert free("cvae", **number) == free("comp", **number) == {"encoder.first.context", "decoder.first.context"}
    assert free("cvae", condition="cell_type") == set()


def test_the_kl_of_a_cvae_keeps_a_number_out_of_z_by_default(dosed):
    def beta(method="cvae", **options):
        return cellalign.train(dosed, method=method, epochs=1, **options).record.hyperparameters["beta"]

    number = {"condition": "dose", "continuous": True}
    assert (
        beta(**number) == beta(condition="dose", kinds={"dose": "number"}) == pytest.approx(0.35 * 200**0.5, abs=0.05)
    )
    assert beta(**number, settings={"beta": 2.0}) == 2.0
    assert beta("comp", **number) == beta(condition="cell_type") == 1.0


def test_the_kl_goes_by_the_genes_that_are_chosen_of_raw_counts(tiny_counts):
    tiny_counts.obs["dose"] = np.arange(tiny_counts.n_obs) % 4
    options = {"method": "cvae", "condition": "dose", "continuous": True}
    record = prepare(tiny_counts, n_top_genes=25, **options).record
    assert len(record.genes) == 25 and record.hyperparameters["beta"] == pytest.approx(0.35 * 5, abs=0.06)
    stack = options | {"method": "auto", "settings": {"members": ["cvae"]}, "label": "cell_type"}
    built = build_to_train(prepare(tiny_counts, n_top_genes=25, **stack).record)
    assert built.members["cvae"].hp.beta == record.hyperparameters["beta"], "a member has its own defaults"


@pytest.mark.slow
def test_z_of_what_knows_no_dose_tells_it(dosed):
    knows_none = cellalign.train(dosed, method="vae", settings=SETTINGS)
    assert dose_from(knows_none.embed(dosed), dosed.obs["dose"].to_numpy()) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("method", ["comp", "cvae"])
def test_z_forgets_the_dose_and_dose_curves_follow_the_truth(dosed, method):
    dose = dosed.obs["dose"].to_numpy()
    model = cellalign.train(dosed, method=method, condition="dose", continuous=True, settings=SETTINGS)
    assert dose_from(model.embed(dosed), dose) < 0.1
    library = np.asarray(dosed.layers["counts"].sum(1)).ravel()
    control = dosed[dose == 0].copy()
    rows = np.flatnonzero(dose == 0)
    curve = {"true": [], "found": []}
    for to in (0.1, 0.3, 1.0):
        predicted = cellalign.counterfactual(control, model, to=to)
        assert predicted.n_obs == len(rows) and set(predicted.obs["dose"]) == {to}
        assert set(predicted.obs["dose_source"]) == {0.0}
        curve["true"].append(
            drawn_mean(dosed, to, rows, np.median(library)) - drawn_mean(dosed, 0.0, rows, np.median(library))
        )
        at_dose, at_none = (cellalign.counterfactual(control, model, to=d, decoded=True).X.mean(0) for d in (to, 0.0))
        curve["found"].append(at_dose - at_none)
    for true, found in zip(curve["true"], curve["found"], strict=True):
        assert pearsonr(true, found)[0] > 0.85
        # of decoded means: X is cut at zero, and loses what falls. A column of the value itself has 0.5
        assert 0.87 < true @ found / (true @ true) < 1.1
    strong = np.argsort(-np.abs(curve["true"][-1]))[:10]
    share = [np.mean(np.abs(c[strong])) for c in curve["found"]]
    assert share[0] < share[1] < share[2]


def test_what_cannot_be(dosed):
    with pytest.raises(UsageError, match="'vfae' has no continuous; these have: cvae, .*comp"):
        cellalign.train(dosed, method="vfae", condition="dose", continuous=True)
    with pytest.raises(InputError, match="'cell_type' is not numeric"):
        cellalign.train(dosed, condition="cell_type", continuous=True)
    with pytest.raises(InputError, match="name it with continuous=True, or bin it"):
        cellalign.train(dosed, condition="dose")
    model = cellalign.train(dosed, condition="dose", continuous=True, settings=SETTINGS | {"epochs": 1})
    with pytest.raises(UsageError, match="to='high' is no number"):
        cellalign.counterfactual(dosed, model, to="high")
    with pytest.raises(InputError, match="none has dose=0.5001"):
        cellalign.counterfactual(dosed, model, to=1.0, from_="0.5001")
    bare = dosed.copy()
    del bare.obs["dose"]
    with pytest.raises(InputError, match="no condition column 'dose'"):
        model.embed(bare)
    assert np.isfinite(model.embed(bare, unseen=True)).all()


def test_an_extrapolation_is_told(dosed, caplog):
    model = cellalign.train(dosed, condition="dose", continuous=True, settings=SETTINGS | {"epochs": 1})
    cellalign.counterfactual(dosed, model, to=3)
    assert "dose=3 lies outside what was trained on" in caplog.text
