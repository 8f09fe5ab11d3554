"""Strategies of command lines over a file of fuzzed cells."""

from __future__ import annotations

from typing import Any

from fuzz.cells import Cells, letters, mostly
from hypothesis import strategies as st

METHODS = {
    "comp": True, "cvae": True, "vae": False, "scvi": False, "scanvi": True, "linear": True, "pca": False,
    "svae+": True, "ivae": True, "invae": True, "nf-ivae": True, "scgen": True, "trvae": True, "mmd-ae": True,
    "vfae": True, "stgan": True, "celligner": True, "local": True, "lemur": True, "auto": True,
    "beta-vae": False,
}  # fmt: skip
UNTRAINED = ("linear", "local", "lemur", "auto", "pca", "celligner")
MODELS = ("comp", "linear", "scvi", "svae", "cvae", "dose")
PANELS = ("mixing", "probe", "transfer", "response", "identifiability", "likelihood", "screen")
OUTPUTS = {"preprocess": "o", "embed": "o", "counterfactual": "o", "annotate": "o", "train": "m", "targets": "t"}


def some(draw: Any, *options: Any, most: int = 2) -> list[object]:
    """A few of the options, each with a drawn value or alone."""
    chosen = draw(st.lists(st.integers(0, len(options) - 1), max_size=most, unique=True), label="options")
    words: list[object] = []
    for i in sorted(chosen):
        name, values = options[i] if isinstance(options[i], tuple) else (options[i], None)
        # with =, so that a value may begin with a dash
        words.append(name if values is None else f"{name}={draw(values, label=name)}")
    return words


def key(cells: Cells) -> Any:
    return mostly(st.sampled_from([str(name) for name in cells.adata.obs.columns]), st.just("absent"))


def value(cells: Cells, *keys: str) -> Any:
    """A value of these columns as text, or any text."""
    found = {str(v) for name in keys if name in cells.adata.obs for v in cells.adata.obs[name].unique()[:5]}
    odd = letters | st.sampled_from(["nan", "inf", "1e3"])
    return mostly(st.sampled_from(sorted(found)), odd) if found else odd


@st.composite
def terms(draw: Any, cells: Cells) -> str:
    name = draw(key(cells))
    return f"{name}={draw(value(cells, name))}"


def preprocess(draw: Any, cells: Cells, input: str) -> list[object]:
    return [input, *some(
        draw,
        ("--n-top-genes", st.sampled_from([0, 1, 5, 20, 2000])),
        ("--batch", key(cells)),
        ("--target-sum", st.sampled_from([1e4, 1, 0.001, 0, -5, "nan", "inf"])),
        ("--min-genes", st.sampled_from([0, 1, 5, 1000])),
        ("--min-cells", st.sampled_from([0, 1, 5, 1000])),
        ("--layer", st.sampled_from(["counts", "X", "absent"])),
        "--raw", "--round",
        ("--gene-key", st.sampled_from(["absent", "_note"])),
    )]  # fmt: skip


def train(draw: Any, cells: Cells, input: str) -> list[object]:
    method = draw(st.just("comp") | st.sampled_from(list(METHODS)), label="method")
    words: list[object] = [input, "--method", method]
    if METHODS[method] or draw(st.booleans()):
        words += [f"--condition={draw(mostly(st.just('stim'), key(cells)), label='condition')}"]
    if method == "scanvi":
        words += ["--label", "cell_type"]
    if method not in UNTRAINED:
        words += ["--epochs", 1, "--set", "hidden=[4]"]
    return words + some(
        draw,
        ("--batch", key(cells)),
        ("--covariate", key(cells)),
        ("--label", key(cells)),
        ("--control", value(cells, "stim")),
        ("--numeric", key(cells)),
        ("--holdout", terms(cells)),
        ("--validation", st.sampled_from([0, 0.1, 0.5, 1, -1, "nan"])),
        ("--batch-size", st.sampled_from([1, 2, 7, 0])),
        ("--latent-dim", st.sampled_from([1, 2, 100, 0])),
        ("--layer", st.sampled_from(["counts", "X", "absent"])),
        ("--unlabelled", value(cells, "cell_type")),
        "--continuous", "--allow-missing-condition", "--early-stopping",
        most=3,
    )  # fmt: skip


def of_model(draw: Any) -> list[object]:
    return ["-m", f"../{draw(st.just('comp') | st.sampled_from(MODELS), label='model')}"]


def embed(draw: Any, cells: Cells, input: str) -> list[object]:
    return [input, *of_model(draw), *some(draw, ("--missing-genes", st.just("zero")), "--allow-unseen")]


def counterfactual(draw: Any, cells: Cells, input: str) -> list[object]:
    odd = value(cells, "stim") | st.sampled_from(["batch=b1", "100", "nan", "inf", "control+stim"])
    to = mostly(st.just("stim"), odd)
    return [input, *of_model(draw), f"--to={draw(to, label='to')}", *some(
        draw,
        ("--from", value(cells, "stim")),
        ("--where", terms(cells)),
        ("--missing-genes", st.just("zero")),
        ("--samples", st.sampled_from([2, -1])),
        ("--draws", st.sampled_from([2])),
        "--decoded", "--draw",
    )]  # fmt: skip


def annotate(draw: Any, cells: Cells, input: str) -> list[object]:
    key_or_type = mostly(st.just("cell_type"), key(cells))
    return [input, *of_model(draw), f"--label={draw(key_or_type, label='label')}", *some(
        draw,
        ("--reference", st.just(input)),
        ("--classifier", st.sampled_from(["knn", "linear"])),
        ("--k", st.sampled_from([1, 5, 1000])),
        ("--unknown", st.sampled_from([0, 0.5, 1, 2, "nan"])),
        ("--missing-genes", st.just("zero")),
        ("--unlabelled", value(cells, "cell_type")),
    )]  # fmt: skip


def evaluate(draw: Any, cells: Cells, input: str) -> list[object]:
    way = draw(st.sampled_from(["embedding", "against", "predicted"]), label="way")
    first = {
        "embedding": [input],
        "against": ["../predicted.h5ad", "--against", input],
        "predicted": [input, "--against", "../pp.h5ad"],
    }[way]
    condition = draw(mostly(st.just("stim"), key(cells)), label="condition")
    places = [str(name) for name in cells.adata.obsm] or ["X_pca"]
    return [*first, f"--condition={condition}", "--format", draw(st.sampled_from(["json", "csv", "table"])), *some(
        draw,
        ("--label", mostly(st.just("cell_type"), key(cells))),
        ("--embedding", st.sampled_from(places)),
        ("--k", st.sampled_from([2, 5, 100])),
        ("--control", value(cells, "stim")),
        ("--where", terms(cells)),
        ("--panel", st.sampled_from(PANELS)),
        ("--min-cells", st.sampled_from([2, 1000])),
        ("--model", st.sampled_from(["../comp", "../svae"])),
        most=4,
    )]  # fmt: skip


def targets(draw: Any, cells: Cells, input: str) -> list[object]:
    model = draw(mostly(st.just("svae"), st.sampled_from(MODELS)), label="model")
    return [input, "-m", f"../{model}", "--programs", draw(st.sampled_from([1, 3, 100])), *some(
        draw, ("--threshold", st.sampled_from([0, 0.5, 2, "nan"])), ("--missing-genes", st.just("zero"))
    )]  # fmt: skip


COMMANDS = {f.__name__: f for f in (preprocess, train, embed, counterfactual, annotate, evaluate, targets)}


def line(draw: Any, command: str, cells: Cells, input: str) -> list[object]:
    """A command line without its output."""
    quiet = ["-q"] if draw(st.booleans(), label="quiet") else []
    return [command, *COMMANDS[command](draw, cells, input), *quiet]
