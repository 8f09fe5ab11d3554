"""cellalign: integrate single cells across conditions, predict them under another, find what perturbations target.

    import cellalign
    adata = cellalign.preprocess(cellalign.read("kang.h5ad"))
    model = cellalign.train(adata, method="comp", condition="stim")
    cellalign.embed(adata, model)                                   # adata.obsm["X_comp"]
    stimulated = cellalign.counterfactual(adata, model, to="stimulated")
    print(cellalign.evaluate(stimulated, against=adata, condition="stim", label="cell_type").frame())
    model.save("my-model"); model = cellalign.load("my-model")

Everything is imported when first used, so that the command line answers at once.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # the name that type checkers know: typing itself takes time
if TYPE_CHECKING:
    from typing import Any

    __version__: str

    from cellalign import simulate
    from cellalign.evaluation import Evaluation
    from cellalign.graph import add_programs
    from cellalign.model import Model, load
    from cellalign.tasks import plot as pl
    from cellalign.tasks.annotate import annotate
    from cellalign.tasks.benchmark import benchmark
    from cellalign.tasks.check import check
    from cellalign.tasks.counterfactual import counterfactual
    from cellalign.tasks.embed import embed, plot_umap
    from cellalign.tasks.evaluate import evaluate
    from cellalign.tasks.info import info
    from cellalign.tasks.methods import list_methods
    from cellalign.tasks.preprocess import preprocess
    from cellalign.tasks.read import read
    from cellalign.tasks.reads import matrix_for
    from cellalign.tasks.report import report
    from cellalign.tasks.reproduce import reproduce
    from cellalign.tasks.targets import targets, write_targets
    from cellalign.tasks.train import train
    from cellalign.tasks.transfer import transfer
    from cellalign.tasks.tune import tune

_HOME = {
    "Evaluation": "evaluation",
    "Model": "model",
    "add_programs": "graph",
    "annotate": "tasks.annotate",
    "benchmark": "tasks.benchmark",
    "check": "tasks.check",
    "convert": "tasks.convert",
    "counterfactual": "tasks.counterfactual",
    "embed": "tasks.embed",
    "evaluate": "tasks.evaluate",
    "info": "tasks.info",
    "list_methods": "tasks.methods",
    "load": "model",
    "matrix_for": "tasks.reads",
    "plot_umap": "tasks.embed",
    "preprocess": "tasks.preprocess",
    "read": "tasks.read",
    "report": "tasks.report",
    "reproduce": "tasks.reproduce",
    "targets": "tasks.targets",
    "train": "tasks.train",
    "transfer": "tasks.transfer",
    "tune": "tasks.tune",
    "write_targets": "tasks.targets",
}

__all__ = [
    "Evaluation",
    "Model",
    "add_programs",
    "annotate",
    "benchmark",
    "check",
    "convert",
    "counterfactual",
    "embed",
    "evaluate",
    "info",
    "list_methods",
    "load",
    "matrix_for",
    "pl",
    "plot_umap",
    "preprocess",
    "read",
    "report",
    "reproduce",
    "simulate",
    "targets",
    "train",
    "transfer",
    "tune",
    "write_targets",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        try:
            return metadata.version("cellalign")
        except metadata.PackageNotFoundError:  # run from a source tree that was never installed
            return "0+unknown"
    if name == "simulate":
        return import_module("cellalign.simulate")
    if name == "pl":
        return import_module("cellalign.tasks.plot")
    if name not in _HOME:
        raise AttributeError(f"module 'cellalign' has no attribute {name!r}")
    return getattr(import_module(f"cellalign.{_HOME[name]}"), name)
