"""scvi, scanvi, nf-ivae and invae: what each sees, its loss from the equations, covariates that are missing."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import nbinom
from support import changed, columns, layout, minibatch

import cellalign
import cellalign.errors
from cellalign.engine.plan import Plan
from cellalign.methods.base import BATCH, COVARIATE, LABEL
from cellalign.methods.registry import get
from cellalign.nn.penalties import gaussian_total_correlation, total_correlation

N, GENES = 12, 9
SIZES = layout(GENES, conditions=1, batches=(2,), covariates=(3,), labels=3, cells=100)


def build(name, sizes=SIZES, **settings):
    torch.manual_seed(0)
    cls = get(name)
    method = cls(cls.Hyperparameters(**({"hidden": (16,), "latent_dim": 4} | settings)), sizes).eval()
    with torch.no_grad():  # away from a start where some outputs are constant
        for value in method.parameters():
            value += 0.1 * torch.randn_like(value)
    return method


def cells(n=N):
    generator = torch.Generator().manual_seed(1)
    counts = torch.poisson(torch.full((n, GENES), 2.0), generator=generator)
    codes = torch.arange(n)
    return minibatch(counts, SIZES, batches=[codes % 2], covariates=[codes % 3], label=codes % 3)


def decoded(method, z, batch):
    return method.decode(z, batch).distribution.mean


@pytest.mark.parametrize(
    ("name", "encoder_sees", "decoder_sees"),
    [
        ("scvi", set(), {BATCH}),
        ("scanvi", set(), {BATCH}),
        ("nf-ivae", {BATCH, COVARIATE}, set()),
        ("invae", {BATCH, COVARIATE}, set()),
    ],
)
def test_what_each_network_sees(name, encoder_sees, decoder_sees):
    method, batch = build(name), cells()
    z = torch.zeros(N, method.n_latent)
    for key in (BATCH, COVARIATE, LABEL):
        other = changed(batch, key, (columns(batch, key)[0] + 1) % 2)
        moved = (method.encode(other).mean - method.encode(batch).mean).abs().max()
        assert (float(moved.detach()) > 1e-4) == (key in encoder_sees), key
        moved = (decoded(method, z, other) - decoded(method, z, batch)).abs().max()
        assert (float(moved.detach()) > 1e-4) == (key in decoder_sees), key


def test_scvi_has_the_defaults_of_scvi_tools():
    cls = get("scvi")
    hp, plan = cls.Hyperparameters(), Plan(**cls.plan_defaults)
    assert (hp.latent_dim, hp.hidden, hp.dropout, hp.likelihood) == (10, (128,), 0.1, "zinb")
    assert (plan.batch_size, plan.lr, plan.weight_decay, plan.adam_eps) == (128, 1e-3, 1e-6, 0.01)
    assert [plan.resolve_epochs(n) for n in (500, 20_000, 40_000, 10**8)] == [400, 400, 200, 1]
    method = cls(cls.Hyperparameters(hidden=(8, 8)), SIZES)
    assert [m.p for m in method.encoder.modules() if isinstance(m, torch.nn.Dropout)] == [0.1, 0.1]
    assert not [m for m in method.decoder.modules() if isinstance(m, torch.nn.Dropout)]
    norms = [m for m in method.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    assert {(m.momentum, m.eps) for m in norms} == {(0.01, 1e-3)} and len(norms) == 4
    assert method.likelihood.log_theta().std() > 0.3  # drawn, as scvi-tools draws it


def test_the_batch_enters_every_layer_of_scvis_decoder():
    method, batch = build("scvi", hidden=(8, 8)), cells()
    context, z = batch.context(method.decoder_sees), torch.randn(N, 4)
    with torch.no_grad():
        method.decoder.first.context.zero_()  # what is left enters after the first layer
    (first, last), (other_first, other_last) = (method.decoder.layers(z, c) for c in (context, 1 - context))
    assert torch.equal(first, other_first)
    moved = last - other_last
    assert float(moved.detach().abs().max()) > 1e-4


def plain_zinb(x, mean, theta, logit) -> float:
    """Negative log-likelihood of one count, from the definition."""
    dropout = 1 / (1 + math.exp(-logit))
    p = (1 - dropout) * nbinom.pmf(x, theta, theta / (theta + mean)) + dropout * (x == 0)
    return -math.log(p)


def test_scvis_negative_elbo_is_the_equation():
    method, batch = build("scvi"), cells()
    torch.manual_seed(3)
    found = method.nelbo(batch).detach()
    torch.manual_seed(3)
    latent = method.encode(batch)
    h = method.decoder(latent.z, batch.context(method.decoder_sees))
    share = method.likelihood.to_logits(h).softmax(1).detach().double().numpy()
    logits = method.likelihood.to_dropout(h).detach().double().numpy()
    theta = method.likelihood.log_theta().exp().detach().double().numpy()
    mean, scale = latent.mean.detach().double().numpy(), latent.sd.detach().double().numpy()
    assert np.all(scale**2 > 1e-4)
    for i in range(N):
        x, size = batch.x[i].numpy(), float(batch.x[i].sum())
        total = sum(plain_zinb(x[g], size * share[i, g], theta[g], logits[i, g]) for g in range(GENES))
        total += sum(0.5 * (mean[i, k] ** 2 + scale[i, k] ** 2 - 1) - math.log(scale[i, k]) for k in range(4))
        assert float(found[i]) == pytest.approx(total, rel=1e-4)


def test_scanvis_loss_sums_over_labels():
    """log q(z) + sum_y q(y | z) [-log p(z | u, y) + w KL(u)] + w KL(y), and 50 times the cross-entropy."""
    method, batch = build("scanvi"), cells()
    batch = changed(batch, LABEL, torch.where(torch.arange(N) < 8, batch.label, -1))
    torch.manual_seed(4)
    loss = method(batch, warmup=0.25)
    torch.manual_seed(4)
    latent = method.encode(batch)
    normal = torch.distributions.Normal
    reconstruction = method.decode(latent.z, batch).distribution.nll(batch).mean()
    noise = torch.randn(3 * N, 4).view(3, N, 4)
    weights = method.logits(latent.z).softmax(1)
    total = normal(latent.mean, latent.sd).log_prob(latent.z).sum(1)
    for y in range(3):
        label = torch.zeros(N, 3)
        label[:, y] = 1
        mean, scale = method.encoder_u(latent.z, label)
        u = mean + scale * noise[y]
        prior = normal(*method.decoder_u(u, label)).log_prob(latent.z).sum(1)
        kl = torch.distributions.kl_divergence(normal(mean, scale), normal(0.0, 1.0)).sum(1)
        total = total + weights[:, y] * (-prior + 0.25 * kl)
        total = total + 0.25 * weights[:, y] * (weights[:, y] * 3).log()
    entropy = torch.nn.functional.cross_entropy(method.logits(latent.mean)[:8], batch.label[:8])
    torch.testing.assert_close(loss.total, reconstruction + total.mean() + 50 * entropy, rtol=1e-4, atol=1e-4)


def test_a_label_that_is_missing_does_not_change_scanvis_elbo():
    method, batch = build("scanvi"), cells()
    torch.manual_seed(1)
    known = method.nelbo(batch)
    torch.manual_seed(1)
    torch.testing.assert_close(known, method.nelbo(changed(batch, LABEL, torch.full((N,), -1))))


@pytest.mark.parametrize("name", ["scvi", "scanvi", "nf-ivae", "invae"])
def test_the_importance_weighted_bound_is_tighter_than_the_elbo(name):
    settings = {} if name.startswith("sc") else {"prior": "factorised"}
    method, batch = build(name, **settings), cells()
    with torch.inference_mode():
        elbo = torch.stack([method.nelbo(batch) for _ in range(400)]).mean(0)
        tight = method.importance_weighted_nll(batch, 400)
    assert bool((tight < elbo).all()) and float((elbo - tight).max()) < 30


def test_unknown_covariates_are_zeros_and_known_ones_are_hidden_in_training():
    method, batch = build("invae", covariate_dropout=0.5), cells(400)
    known = method.encoder_context(batch)
    assert torch.equal(known.sum(1), torch.full((400,), 2.0))
    unknown = changed(changed(batch, BATCH, torch.full((400,), -1)), COVARIATE, torch.full((400,), -1))
    assert float(method.encoder_context(unknown).abs().sum()) == 0
    told = method.train().encoder_context(batch).sum(1)
    assert set(told.tolist()) == {0.0, 2.0} and 0.4 < float((told > 0).float().mean()) < 0.6


def test_numbers_enter_as_they_are():
    sizes = layout(GENES, 1, covariates=(3,), numeric_batches=1, numeric_covariates=2, cells=100)
    method, numbers = build("invae", sizes), torch.randn(N, 3)
    first, *others = numbers.T
    batch = minibatch(cells().x, sizes, batches=[first], covariates=[torch.arange(N) % 3, *others])
    assert torch.equal(batch.context((BATCH,)), numbers[:, :1])
    assert torch.equal(batch.context((COVARIATE,))[:, 3:], numbers[:, 1:])
    assert bool(torch.isfinite(method(batch, 1.0).total))


@pytest.mark.parametrize("estimate", ["gaussian", "within-domain", "whole-batch"])
def test_invaes_loss_is_the_sum_of_its_parts(estimate):
    settings = {"total_correlation": 0.7, "correlation_estimate": estimate}
    method, batch = build("invae", spurious_dim=2, beta=0.5, **settings), cells()
    torch.manual_seed(5)
    loss = method(batch, warmup=0.5)
    torch.manual_seed(5)
    latent = method.encode(batch)
    d, b = batch.context((COVARIATE,)), batch.context((BATCH,))
    z = latent.z[:, :4]
    entropy = torch.distributions.Normal(0.0, latent.sd[:, :4]).entropy().sum(1)
    spurious = torch.distributions.kl_divergence(
        torch.distributions.Normal(latent.mean[:, 4:], latent.sd[:, 4:]),
        torch.distributions.Normal(*method.spurious_prior(b)),
    ).sum(1)
    kl = (spurious - entropy - method.prior(z, d)).mean()
    domain = columns(batch, COVARIATE)[0] * 2 + columns(batch, BATCH)[0]
    of = None if estimate == "whole-batch" else domain
    if estimate == "gaussian":
        tc = gaussian_total_correlation(latent.mean, latent.sd, 4, of)
    else:
        tc = total_correlation(latent.z, latent.mean, latent.sd, 4, 100, of)
    expected = method.decode(latent.z, batch).distribution.nll(batch).mean() + 0.5 * 0.5 * kl
    expected = expected + method.prior.score_matching(z, d) + 0.5 * 0.7 * tc
    torch.testing.assert_close(loss.total, expected)
    assert set(loss.parts) == {"reconstruction", "kl", "score_matching", "total_correlation"}


@pytest.mark.parametrize("prior", ["non-factorised", "factorised"])
@pytest.mark.parametrize("name", ["invae", "nf-ivae"])
def test_the_posteriors_scale_may_be_fixed(name, prior):
    method = build(name, prior=prior, posterior_scale=0.5)
    assert bool(torch.isfinite(method(cells(), 1.0).total))


@pytest.mark.parametrize("sizes", [layout(GENES, 1, cells=100), layout(GENES, 1, batches=(2,), cells=100)])
@pytest.mark.parametrize("prior", ["non-factorised", "factorised"])
def test_invae_does_without_any_covariates(sizes, prior):
    method = build("invae", sizes, prior=prior)
    batch = minibatch(cells().x, sizes, batches=[torch.arange(N) % 2] if len(sizes.fields) else [])
    loss = method(batch, 1.0)
    loss.total.backward()
    assert bool(torch.isfinite(loss.total))
    assert all(bool(p.grad.isfinite().all()) for p in method.parameters() if p.grad is not None)


def test_domains_are_the_combinations_of_all_covariates():
    method, batch = build("invae"), cells()
    codes = method.domains(batch)
    pairs = [tuple(p) for p in torch.stack([*columns(batch, COVARIATE), *columns(batch, BATCH)], 1).tolist()]
    for i in range(N):
        for j in range(N):
            assert (codes[i] == codes[j]) == (pairs[i] == pairs[j])


def test_another_batch_moves_the_spurious_latents_to_its_prior_and_no_others():
    method, batch = build("invae", spurious_dim=2), cells()
    z = method.encode(batch).mean
    moved, after = method.intervene(z, batch, {"batch0": "b1"})
    assert torch.equal(moved[:, :4], z[:, :4]) and bool((columns(after, BATCH)[0] == 1).all())
    stays = columns(batch, BATCH)[0] == 1
    torch.testing.assert_close(moved[stays], z[stays])
    prior = method.spurious_prior
    (mean, scale), (new_mean, new_scale) = (prior(b.context((BATCH,))) for b in (batch, after))
    torch.testing.assert_close((moved[:, 4:] - new_mean) / new_scale, (z[:, 4:] - mean) / scale)
    assert float((moved - z)[~stays].detach().abs().max()) > 1e-3


def test_injection_tells_the_decoder_the_batch_and_leaves_no_spurious_latents():
    method, batch = build("invae", inject=True), cells()
    assert method.n_latent == 4 and set(method.embeddings(batch)) == {""}
    moved, after = method.intervene(method.encode(batch).mean, batch, {"batch0": "b1"})
    change = decoded(method, moved, after) - decoded(method, moved, batch)
    assert float(change[columns(batch, BATCH)[0] == 0].detach().abs().max()) > 1e-4
    assert set(build("invae").embeddings(batch)) == {"", "_spurious"}


@pytest.fixture(scope="module")
def sites():
    """Two sites that shift every gene, three cell types, a disease that moves a fifth of the genes."""
    made = cellalign.simulate.ifnb(
        1200, 200, n_cell_types=3, sites=2, donors=4, diseased=0.5, disease_effect=2.0, stimulated=0, seed=3
    )
    return cellalign.preprocess(made, n_top_genes=190)


def accuracy(z, names) -> float:
    from sklearn.linear_model import LogisticRegression

    train, test = np.arange(0, len(z), 2), np.arange(1, len(z), 2)
    y = np.asarray(names).astype(str)
    return LogisticRegression(max_iter=2000).fit(z[train], y[train]).score(z[test], y[test])


@pytest.mark.slow
@pytest.mark.learns
def test_invae_keeps_the_biology_in_one_block_and_the_site_in_the_other(sites):
    model = cellalign.train(
        sites,
        method="invae",
        batch=["site"],
        covariate=["disease", "cell_type"],
        settings={"latent_dim": 8, "spurious_dim": 3, "hidden": (32,)},
        epochs=60,
        batch_size=128,
    )
    found = model.embeddings(sites)
    invariant, spurious = found["X_invae"], found["X_invae_spurious"]
    assert invariant.shape == (1200, 8) and spurious.shape == (1200, 3)
    assert accuracy(spurious, sites.obs["site"]) > 0.95 and accuracy(invariant, sites.obs["site"]) < 0.62
    assert accuracy(invariant, sites.obs["disease"]) > 0.8 and accuracy(invariant, sites.obs["cell_type"]) > 0.9
    assert accuracy(spurious, sites.obs["cell_type"]) < accuracy(invariant, sites.obs["cell_type"]) - 0.2
    moved = model.counterfactual(sites, to="site=site2")
    assert (moved.obs["site_source"] == "site1").all() and (moved.obs["site"] == "site2").all()
    real = sites[sites.obs["site"] == "site2"].layers["counts"].toarray()
    predicted, truth, before = (np.log1p(_shares(x)) for x in (moved.X, real, moved.layers["source"].toarray()))
    assert np.corrcoef(predicted - before, truth - before)[0, 1] > 0.95


def _shares(counts) -> np.ndarray:
    """Counts of every gene per 10,000."""
    return counts.sum(0) / counts.sum() * 1e4


def test_sources_of_a_batch_counterfactual_are_settled_before_any_cell_is_read(sites):
    model = cellalign.train(sites, method="scvi", batch=["site"], settings={"hidden": (8,)}, epochs=1)
    new = sites.copy()
    new.obs["site"] = new.obs["site"].astype(str).where(np.arange(1200) % 2 > 0, "site9")
    moved = model.counterfactual(new, to="site=site2", from_="site1")
    assert set(moved.obs["site_source"]) == {"site1"} and moved.n_obs == (new.obs["site"] == "site1").sum()
    done = moved.uns["cellalign"]["counterfactual"]
    assert done["condition"] == "site" and done["to"] == "site2"
    for options, error, says in (
        (dict(to="site=site2"), cellalign.errors.InputError, "'site9' in column 'site' was never trained on"),
        (dict(to="site=site5"), cellalign.errors.InputError, "'site5' in column 'site' was never trained on"),
        (dict(to="site=site2", from_="site2"), cellalign.errors.UsageError, "both 'site2'"),
        (dict(to="stimulated"), cellalign.errors.ModelError, "predict a batch with to=.site=VALUE"),
    ):
        with pytest.raises(error, match=says):
            model.counterfactual(new, **options)
    with pytest.MonkeyPatch.context() as patch:  # a model of before such a column was refused
        patch.setattr("cellalign.tasks.roles.REFUSED", ())
        blind = cellalign.train(sites, method="pca", batch=["site"])
    with pytest.raises(cellalign.errors.UsageError, match="'pca' does not see batches"):
        blind.counterfactual(sites, to="site=site2")


@pytest.mark.slow
def test_scanvi_labels_the_cells_that_have_no_label(sites):
    hidden = sites.copy()
    hidden.obs["known"] = hidden.obs["cell_type"].astype(str)
    hidden.obs.loc[hidden.obs_names[::3], "known"] = "Unknown"
    model = cellalign.train(
        hidden,
        method="scanvi",
        batch=["site"],
        label="known",
        unlabelled="Unknown",
        settings={"hidden": (32,)},
        epochs=20,
        lr=4e-3,
    )
    assert "Unknown" not in model.labels
    chosen = model.label_probability(model.embed(hidden)).argmax(1)
    names = np.array(model.labels)[chosen]
    blank = hidden.obs["known"] == "Unknown"
    assert (names == hidden.obs["cell_type"].astype(str))[blank].mean() > 0.85


def test_missing_covariates_and_numeric_ones_are_trained_on(sites):
    some = sites.copy()
    some.obs["disease"] = some.obs["disease"].astype(object).where(np.arange(1200) % 3 > 0, None)
    some.obs["age"] = np.where(np.arange(1200) % 4 > 0, np.linspace(20, 60, 1200), np.nan)
    model = cellalign.train(
        some,
        method="invae",
        batch=["site"],
        covariate=["disease", "age"],
        numeric=["age"],
        settings={"hidden": (16,)},
        epochs=2,
    )
    disease, age = model.fields.of(COVARIATE)
    assert age.mean == pytest.approx(np.nanmean(some.obs["age"]))
    assert age.kind == "number" and disease.kind == "categorical" and len(disease.categories) == 2
    bare = some.copy()
    bare.obs = bare.obs[["cell_type"]]
    with pytest.raises(cellalign.errors.InputError, match="no batch column 'site'"):
        model.embed(bare)
    assert np.isfinite(model.embed(bare, unseen=True)).all()
    new, siteless = some.copy(), some.copy()
    new.obs["site"] = "site9"
    del siteless.obs["site"]
    with pytest.raises(cellalign.errors.InputError, match="'site9' in column 'site' was never trained on"):
        model.embed(new)
    np.testing.assert_array_equal(model.embed(new, unseen=True), model.embed(siteless, unseen=True))
    assert np.abs(model.embed(new, unseen=True) - model.embed(some)).max() > 1e-3
