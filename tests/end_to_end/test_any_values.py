"""Any real values, `--expression any`: other kinds of data than counts and log expression go through every verb."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import sparse

import cellalign
from cellalign.engine.settings import resolve_settings
from cellalign.errors import InputError, UsageError
from cellalign.methods.comp import CoMP

N, G = 120, 12
SMALL = {"hidden": [16], "latent_dim": 4}
SETTINGS = {
    "trvae": SMALL,
    "scgen": SMALL,
    "mmd-ae": SMALL,
    "comp": SMALL,
    "cvae": SMALL,
    "vfae": SMALL,
    "stgan": {"hidden": [16, 4, 16], "discriminator_hidden": [8]},
    "scvi": SMALL | {"likelihood": "gaussian"},
    "invae": SMALL | {"likelihood": "gaussian", "spurious_dim": 2},
    "linear": {"latent_dim": 4},
    "local": {"latent_dim": 4},
    "lemur": {"latent_dim": 4},
    "auto": {},
    "pca": {"latent_dim": 4},
    "celligner": {"latent_dim": 3, "contrastive": 2},
}


def cells(x) -> ad.AnnData:
    """Cells of two conditions and two types around a matrix [N, G]."""
    obs = pd.DataFrame(
        {"arm": np.tile(["a", "b"], N // 2), "kind": np.repeat(["k0", "k1"], N // 2)},
        index=[f"cell{i}" for i in range(N)],
    )
    return ad.AnnData(x, obs, pd.DataFrame(index=[f"f{g}" for g in range(G)]))


def made(kind: str) -> ad.AnnData:
    """Data of a kind in which condition b differs from a."""
    rng = np.random.default_rng(0)
    shift = np.tile([0, 1], N // 2)[:, None] * rng.normal(0, 1, G) + np.repeat([0, 1], N // 2)[:, None] * 2
    z = rng.normal(size=(N, G)) + shift
    counts = rng.poisson(np.exp(1 + 0.3 * z)) + 1
    logs = np.log(counts)
    return cells(
        {
            "z-scored": lambda: (z - z.mean(0)) / z.std(0),
            "float32": lambda: z.astype(np.float32),
            "CLR protein": lambda: logs - logs.mean(1, keepdims=True),
            "gene activity": lambda: sparse.csr_matrix(np.where(z > 1, 30 * z, 0)),
            "negative sparse": lambda: sparse.csc_matrix(np.where(np.abs(z) > 1, z, 0)),
            "bulk log TPM": lambda: np.log2(1e6 * np.exp(z) / np.exp(z).sum(1, keepdims=True) + 0.001),
            "one-hot": lambda: (z > 0.5).astype(np.int64),
            "bool": lambda: z > 0.5,
            "sparse bool": lambda: sparse.csr_matrix(z > 0.5),
            "large": lambda: 1e4 * z,
        }[kind]()
    )


KINDS = (
    "z-scored",
    "float32",
    "CLR protein",
    "gene activity",
    "negative sparse",
    "bulk log TPM",
    "one-hot",
    "bool",
    "sparse bool",
    "large",
)


def trained(adata, method="comp", **more):
    options = {} if method in ("linear", "local", "lemur", "auto", "pca", "celligner") else {"epochs": 2}
    given = {"covariate": ["kind"], "batch": ["arm"]} if method == "invae" else {"condition": "arm", "label": "kind"}
    return cellalign.train(
        adata, method=method, expression="any", settings=SETTINGS[method], **given, **options, **more
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_goes_through(kind):
    adata = made(kind)
    given = adata.X.copy()
    model = trained(adata)
    assert model.expression == "any" and model.record.recipe.target_sum is None
    cellalign.embed(adata, model)
    assert np.isfinite(adata.obsm["X_comp"]).all() and (adata.X != given).sum() == 0
    predicted = cellalign.counterfactual(adata, model, to="b", from_="a")
    observed = np.asarray(given.todense() if sparse.issparse(given) else given, dtype=np.float64)[::2]
    # residual transfer: the observed cell plus a change, which is not cut at zero
    source = predicted.layers["source"]
    source = source.toarray() if sparse.issparse(source) else source
    np.testing.assert_allclose(source, observed, rtol=1e-6)
    assert np.isfinite(predicted.X).all() and np.abs(predicted.X - observed).max() > 0
    scores = cellalign.evaluate(predicted, against=adata, condition="arm", label="kind").frame()
    assert {"prediction", "no change"} <= set(scores["system"])
    # an unchanged cell scores as it does by hand: nothing is normalised or log-transformed on the way
    real = np.asarray(given.todense() if sparse.issparse(given) else given, dtype=np.float64)
    by_type = [real[(adata.obs.arm == arm) & (adata.obs.kind == "k0")].mean(0) for arm in ("a", "b")]
    row = scores[(scores.system == "no change") & (scores.group == "k0") & (scores.metric == "mse_all")]
    np.testing.assert_allclose(row["value"].iloc[0], np.mean((by_type[0] - by_type[1]) ** 2), rtol=1e-4)


@pytest.mark.parametrize("method", SETTINGS)
def test_methods_of_log_expression_give_negative_values(method, tmp_path):
    adata = made("z-scored")
    adata.X -= 5  # nothing is above zero: a ReLU could give none of it
    if method == "trvae":  # enough steps to come down there
        model = cellalign.train(
            adata, method=method, condition="arm", expression="any", settings=SMALL | {"lr": 0.03}, epochs=60
        )
    else:
        model = trained(adata, method)
    model.save(tmp_path / "m")
    model = cellalign.load(tmp_path / "m")
    assert model.expression == "any"
    assert np.isfinite(model.embed(adata)).all()
    if method == "scvi":  # its decoder sees batches alone
        return
    for decoded in (False, True):
        predicted = cellalign.counterfactual(adata, model, to={"arm": "b"}, from_="a", decoded=decoded)
        assert predicted.X.min() < 0 and np.isfinite(predicted.X).all()
    if method == "trvae":
        assert predicted.X.mean() < -2


def test_linear_is_the_mean_change_by_hand():
    adata = made("z-scored")
    every = {
        "method": "linear",
        "condition": "arm",
        "label": "kind",
        "expression": "any",
        "settings": {"validation": 0},
    }
    predicted = cellalign.counterfactual(adata, cellalign.train(adata, **every), to="b", from_="a").X
    arm, kind = adata.obs.arm.to_numpy(), adata.obs.kind.to_numpy()
    means = {a: np.mean([adata.X[(arm == a) & (kind == k)].mean(0) for k in ("k0", "k1")], 0) for a in "ab"}
    np.testing.assert_allclose(predicted, adata.X[arm == "a"] + means["b"] - means["a"], atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_matrix])
def test_what_is_not_finite_is_refused_and_located(bad, layout):
    x = np.ones((N, G))
    x[3, 7] = bad
    with pytest.raises(InputError, match="1 (NaN|inf|too large) values, the first in cell 'cell3', gene 'f7'"):
        trained(cells(layout(x)))


@pytest.mark.parametrize("kind", ["z-scored", "CLR protein", "large"])
def test_the_refusal_says_how_to_go_on(kind):
    with pytest.raises(InputError, match="expression='any'"):
        cellalign.train(made(kind), method="comp", condition="arm", epochs=1)


def test_counts_named_as_log_expression_are_refused_with_the_way_out(caplog):
    adata = made("one-hot")
    with pytest.raises(InputError, match="raw counts.*expression='any'"):
        cellalign.train(adata, method="comp", condition="arm", layer="X", epochs=1)
    cellalign.train(adata, method="comp", condition="arm", epochs=1, settings=SMALL)
    assert "0 and 1 alone; expression='any'" in caplog.text


def test_count_methods_and_options_of_counts_are_refused():
    adata = made("z-scored")
    with pytest.raises(UsageError, match="'scvi' reads counts.*expression='any'.*gaussian"):
        cellalign.train(adata, method="scvi", condition="arm", expression="any")
    with pytest.raises(UsageError, match="n_top_genes=5.*expression='any'"):
        trained(adata, n_top_genes=5)
    with pytest.raises(UsageError, match="is not any"):
        cellalign.train(adata, method="comp", condition="arm", expression="log")
    with pytest.raises(UsageError, match="reads values as they are"):
        cellalign.preprocess(adata, like=trained(adata))


def test_a_column_beside_which_no_other_is_heard_is_said(caplog):
    adata = made("z-scored")
    adata.X[:, 2] *= 1e4
    trained(adata)
    assert "standardise the columns" in caplog.text


def test_the_presets_of_the_fairness_experiment_run():
    for method, preset in (("comp", "comp"), ("vfae", "vfae"), ("trvae", "trvae")):
        adata = made("z-scored")
        model = cellalign.train(
            adata,
            method=method,
            condition="arm",
            preset=f"{preset}-adult-income",
            expression="any",
            epochs=2,
            validation=0,
        )
        assert model.record.preset == f"{preset}-adult-income" and model.expression == "any"


@pytest.mark.slow
def test_a_layer_on_the_command_line_from_training_to_transfer(cellalign, tmp_path):
    run = cellalign(cwd=tmp_path)
    adata = made("CLR protein")
    adata.layers["clr"] = adata.X
    adata.X = np.random.default_rng(0).poisson(2, (N, G)).astype(np.float32)
    adata.write_h5ad(tmp_path / "cite.h5ad")
    small = ("--set", "hidden=[16]", "--set", "latent_dim=4", "--epochs", 2)
    kept = ("--condition", "arm", "--label", "kind")
    done = run("train", "cite.h5ad", "--method", "trvae", *kept, "--layer", "clr", "--expression", "any", *small)
    assert done.returncode == 0, done.stderr
    record = yaml.safe_load((tmp_path / "cellalign-model" / "model.yaml").read_text())
    assert record["recipe"]["expression"] == "any" and record["matrix"] == "clr"
    for words in (
        ("embed", "-o", "emb.h5ad"),
        ("embed", "cite.h5ad", "-o", "draw.h5ad", "--draw", "--seed", 3),
        ("counterfactual", "--to", "b", "--from", "a", "-o", "b.h5ad"),
        ("evaluate", "emb.h5ad", "--label", "kind", "--panel", "probe,mixing", "-m", "cellalign-model", "--k", 10),
        ("evaluate", "b.h5ad", "--against", "cite.h5ad", "--label", "kind", "-o", "scores.csv"),
        ("annotate", "cite.h5ad", "-o", "annotated.h5ad"),
        ("reproduce", "cellalign-model"),
    ):
        done = run(*words)
        assert done.returncode == 0, (words, done.stderr)
    clr = adata.layers["clr"]
    predicted = ad.read_h5ad(tmp_path / "b.h5ad")
    assert predicted.uns["cellalign"]["counterfactual"]["expression"] == "any"
    np.testing.assert_allclose(predicted.layers["source"], clr[::2], rtol=1e-6)
    scores = pd.read_csv(tmp_path / "scores.csv")
    row = scores[(scores.system == "no change") & (scores.group == "k0") & (scores.metric == "mse_all")]
    k0 = [clr[: N // 2][start::2].mean(0) for start in (0, 1)]
    np.testing.assert_allclose(row["value"].iloc[0], np.mean((k0[0] - k0[1]) ** 2), rtol=1e-4)
    draw = ad.read_h5ad(tmp_path / "draw.h5ad").uns["cellalign"]["embedding"]["X_trvae_draw"]
    assert (draw["written"], int(draw["seed"])) == ("draw", 3)
    refused = run("train", "cite.h5ad", "--layer", "clr", "--condition", "arm", "--force")
    assert refused.returncode == 3 and "--expression any" in refused.stderr
    refused = run("train", "cite.h5ad", "--method", "svae+", "--condition", "arm", "--expression", "any", "--force")
    assert refused.returncode == 2 and "reads counts" in refused.stderr


def test_another_tools_prediction_of_any_values():
    adata = made("large")
    foreign = adata[adata.obs.arm == "a"].copy()
    foreign.obs["arm"] = "b"
    with pytest.raises(InputError, match="expression='any'"):
        cellalign.evaluate(foreign, against=adata, condition="arm", control="a", label="kind")
    found = cellalign.evaluate(foreign, against=adata, condition="arm", control="a", label="kind", expression="any")
    both = found.frame().query("metric == 'mse_all' and group == 'k0'").set_index("system")["value"]
    np.testing.assert_allclose(both["prediction"], both["no change"], rtol=1e-6)


def test_tune_and_benchmark_take_it():
    adata = made("z-scored")
    best, _ = cellalign.tune(
        adata, method="cvae", condition="arm", expression="any", grid={"beta": [1.0]}, seeds=1, settings=SMALL, epochs=1
    )
    assert best.expression == "any"
    table = cellalign.benchmark(
        adata, methods=["linear"], condition="arm", control="a", holdout_each="kind", expression="any"
    )
    assert {"linear", "no change"} <= set(table["method"])


def test_comp_has_defaults_of_its_own_for_any_values():
    adata = made("z-scored")
    found = cellalign.train(adata, condition="arm", expression="any", epochs=1)
    assert (found.method.hp.posterior_scale, found.method.hp.latent_dim, found.method.hp.hidden) == (0.1, 16, (64, 64))
    assert (found.method.hp.include_self, found.method.hp.floor, found.method.weight) == (True, None, 5)
    of_many, plan = resolve_settings(CoMP, expression="any", n_features=50, n_cells=10_000)
    assert (of_many.include_self, of_many.floor, of_many.gamma, of_many.latent_dim) == (False, 50, 2, 16)
    few = resolve_settings(CoMP, expression="any", n_features=50, n_cells=9_999)[1]
    assert plan.resolve_epochs(45_000) == pytest.approx(2 * few.resolve_epochs(45_000), abs=1)
    assert resolve_settings(CoMP, expression="any", n_features=501, n_cells=10_000)[0].include_self
    given = cellalign.train(adata, condition="arm", expression="any", epochs=1, latent_dim=3, settings={"gamma": 1})
    assert (given.method.hp.posterior_scale, given.method.hp.latent_dim, given.method.hp.gamma) == (0.1, 3, 1)
    usual = cellalign.train(cells(np.abs(adata.X)), condition="arm", epochs=1, settings=SMALL)
    assert usual.expression == "log" and usual.method.weight == 10


def test_a_model_of_any_values_learns_on_and_is_transferred():
    adata = made("z-scored")
    new = adata[adata.obs.kind == "k1"].copy()
    new.obs["arm"] = np.where(new.obs.arm == "b", "c", "a")
    wider = cellalign.train(new, from_=trained(adata), epochs=1)
    assert wider.expression == "any" and wider.conditions == ["a", "b", "c"]
    with pytest.raises(UsageError, match="the model learned with"):
        cellalign.train(new, from_=trained(adata), layer="other", expression="any", epochs=1)
    perturbed = cellalign.train(
        adata,
        method="svae+",
        condition="arm",
        control="a",
        expression="any",
        epochs=1,
        settings=SMALL | {"likelihood": "gaussian"},
    )
    moved = cellalign.transfer(new, perturbed)
    assert moved.expression == "any" and moved.transferred == ["c"]


def test_components_beside_an_embedding_are_of_the_values_themselves():
    from cellalign.evaluation.panels.bio import _checked_pca
    from cellalign.plots.umap import unintegrated_pca

    adata = made("one-hot")  # whose values would pass for counts
    arm, kind = (adata.obs[key].to_numpy().astype(str) for key in ("arm", "kind"))
    found = _checked_pca(adata, arm, kind, 0, "X")
    np.testing.assert_allclose(found, unintegrated_pca(adata.X, 0), atol=1e-4)


def test_draws_of_any_values_go_below_zero():
    adata = made("z-scored")
    drawn = cellalign.counterfactual(adata, trained(adata), to="b", from_="a", draws=2)
    assert drawn.shape == (N, G) and drawn.X.min() < 0
