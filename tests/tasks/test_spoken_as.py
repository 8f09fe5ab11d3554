"""Python sees every parameter, and takes those of scanpy and scvi-tools for ours; both at once are refused."""

import inspect

import numpy as np
import pytest

import cellalign
from cellalign.engine.settings import resolve_settings
from cellalign.errors import UsageError
from cellalign.methods.registry import get


@pytest.mark.parametrize(
    "name", ["train", "tune", "benchmark", "read", "check", "embed", "counterfactual", "preprocess"]
)
def test_parameters_are_shown_by_name(name):
    function = getattr(cellalign, name)
    shown = inspect.signature(function).parameters
    assert not any(p.kind == p.VAR_KEYWORD for p in shown.values()), name
    assert function.__doc__ and "Parameters" in function.__doc__
    expected = {
        "train": {"adata", "method", "condition", "latent_dim", "holdout"},
        "tune": {"grid", "latent_dim", "batch_size", "validation"},
        "benchmark": {"methods", "holdout_each", "latent_dim", "batch"},
        "read": {"paths", "file_key", "obs", "modality", "gene_key"},
    }
    assert expected.get(name, set()) <= set(shown)
    if name in ("tune", "benchmark"):
        assert not {"model_path", "resume", "from_"} & set(shown)


def test_their_words_train_the_same_model(tiny):
    ours = cellalign.train(
        tiny,
        method="cvae",
        condition="stim",
        batch=["cell_type"],
        latent_dim=3,
        epochs=1,
        validation=0.2,
        settings={"hidden": [8, 8], "dropout": 0.1},
    )
    theirs = cellalign.train(
        tiny,
        method="cvae",
        condition_key="stim",
        batch_key="cell_type",
        n_latent=3,
        max_epochs=1,
        train_size=0.8,
        n_hidden=8,
        n_layers=2,
        dropout_rate=0.1,
    )
    assert (ours.embed(tiny) == theirs.embed(tiny)).all()
    assert (
        ours.record.training == theirs.record.training and ours.record.hyperparameters == theirs.record.hyperparameters
    )


def test_as_settings_too():
    def of(**settings):
        return resolve_settings(get("scvi"), settings=settings)

    hyperparameters, plan = of(n_latent=7, n_hidden=64, n_layers=2, gene_likelihood="nb", max_epochs=3)
    assert (hyperparameters.latent_dim, hyperparameters.hidden, hyperparameters.likelihood) == (7, (64, 64), "nb")
    assert plan.epochs == 3
    assert len(of(n_hidden=32)[0].hidden) == len(of()[0].hidden)
    assert of(gene_likelihood="normal", max_epochs=1)[0].likelihood == "gaussian"
    for both in ({"n_latent": 3, "latent_dim": 4}, {"n_hidden": 3, "hidden": [4]}):
        with pytest.raises(UsageError, match="and both are given; leave one out"):
            of(**both)
    with pytest.raises(UsageError, match="no number of layers"):
        of(n_layers=0.5)
    with pytest.raises(UsageError, match="unknown setting 'n_latents'"):
        of(n_latents=3)


def test_both_words_are_refused_and_none_is_no_word(tiny):
    with pytest.raises(UsageError, match="labels_key is another word for label, and both are given; leave one out"):
        cellalign.check(tiny, label="cell_type", labels_key="cell_type")
    with pytest.raises(TypeError, match="n_latents"):
        cellalign.train(tiny, n_latents=3)
    assert cellalign.check(tiny, condition_key="stim", labels_key="cell_type", batch_key=None).fit


@pytest.mark.process
def test_on_the_command_line_as_a_setting(tiny_path, mistaken, tmp_path):
    run = mistaken(cwd=tmp_path)
    more = "--condition stim --method cvae --epochs 1".split()
    done = run("train", tiny_path, *more, "--set", "n_latent=3", "--set", "n_hidden=8", "-m", "m")
    assert done.returncode == 0 and cellalign.load(tmp_path / "m").record.hyperparameters["latent_dim"] == 3
    done = run("train", tiny_path, *more, "--set", "n_latent=3", "--set", "latent_dim=4", "-m", "n")
    assert done.returncode == 2 and "n_latent is another word for latent_dim" in done.stderr


def test_one_text_is_one_of_several(tiny):
    """Its letters were columns, and a model kept them as what was held out."""
    model = cellalign.train(tiny, method="linear", condition="stim", holdout="cell_type=NK", batch=None)
    assert model.record.holdout == ["cell_type=NK"]
    with pytest.raises(UsageError, match=r"makes no use of batch=\[.cell_type.\]"):
        cellalign.train(tiny, method="linear", condition="stim", batch="cell_type")
    with pytest.raises(UsageError, match="unknown method 'linea'"):
        cellalign.benchmark(tiny, methods="linea", condition="stim")


def test_seeds_of_numpy_are_seeds_and_others_are_refused(tiny):
    options = {"method": "linear", "condition": "stim"}
    assert cellalign.train(tiny, seed=np.int64(3), **options).record.seed == 3
    for seed in (-1, 2**32, 1.5, None, "3", True):
        with pytest.raises(UsageError, match=f"seed={seed!r} is no whole number from 0 to 4294967295"):
            cellalign.train(tiny, seed=seed, **options)


def test_what_are_no_cells_is_said(tiny):
    for given in ("cells.h5ad", tiny.to_df(), None):
        with pytest.raises(UsageError, match=r"as an AnnData, not as \w+; cellalign.read\(path\) gives"):
            cellalign.train(given, method="linear", condition="stim")


@pytest.mark.parametrize(
    ("verb", "given", "said"),
    [
        ("train", {"threads": 1.5}, "threads=1.5 is no whole number"),
        ("train", {"threads": 0}, "threads must be at least 1, not 0"),
        ("train", {"calibrate": "cell_type", "calibrate_folds": 0}, "calibrate_folds must be at least 2, not 0"),
        ("train", {"lr": "fast"}, "lr='fast' is no number"),
        ("preprocess", {"n_top_genes": 2.5}, "n_top_genes=2.5 is no whole number"),
        ("preprocess", {"min_genes": -1}, "min_genes must be at least 0, not -1"),
        ("preprocess", {"n_top_genes": True}, "n_top_genes=True is no whole number"),
        ("evaluate", {"alpha": float("nan")}, "alpha must be at least 0 and at most 1, not nan"),
    ],
)
def test_numbers_are_checked_as_on_the_command_line(tiny, verb, given, said):
    options = {"method": "linear", "condition": "stim"} if verb == "train" else {}
    with pytest.raises(UsageError, match=said):
        getattr(cellalign, verb)(tiny, **options, **given)


def test_a_mistyped_argument_is_told_by_the_function_called_and_the_nearest_one(tiny):
    model = cellalign.train(tiny, method="linear", condition="stim")
    for call, said in (
        (
            lambda: model.counterfactual(tiny, to="stimulated", draw=True),
            "counterfactual.* Did you mean 'draws'",
        ),
        (lambda: model.predict(tiny, to="stimulated", sampels=2), "predict.*'sampels'. Did you mean 'samples'"),
        (lambda: model.predict(tiny, to="all", per_conditoin=2), "predict.* Did you mean 'per_condition'"),
        (lambda: model.embed(tiny, unsen=True), "embed.*'unsen'. Did you mean 'unseen'"),
        (lambda: cellalign.embed(tiny, model, umpa=True), "embed.*'umpa'. Did you mean 'umap'"),
        (lambda: cellalign.train(tiny, methd="pca"), "train.*'methd'. Did you mean 'method'"),
    ):
        with pytest.raises(TypeError, match=rf"^{said}"):
            call()
    with pytest.raises(UsageError, match="unknown option 'condtion'. Did you mean 'condition'"):
        cellalign.evaluate(tiny, condtion="stim")
