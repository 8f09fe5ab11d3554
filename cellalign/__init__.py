"""cellalign: integrate single cells across conditions, predict them under another, find what perturbations target.

    import cellalign
    adata = cellalign.preprocess(anndata.read_h5ad("kang.h5ad"))
    model = cellalign.train(adata, method="comp", condition="stim")
    cellalign.embed(adata, model)                                   # adata.obsm["X_comp"]
    stimulated = cellalign.counterfactual(adata, model, to="stimulated")
    print(cellalign.evaluate(stimulated, against=adata, condition="stim", label="cell_type").frame())
    model.save("my-model"); model = cellalign.load("my-model")

Everything is imported when first used, so that the command line answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellalign import simulate
    from cellalign.annotation import annotate
    from cellalign.api import counterfactual, embed, load, train
    from cellalign.benchmarking import benchmark
    from cellalign.data.preprocess import preprocess
    from cellalign.evaluation import Evaluation, evaluate
    from cellalign.graph import add_programs, targets
    from cellalign.model import Model
    from cellalign.transfer_learning import transfer
    from cellalign.tuning import tune

_HOME = {
    "train": "api",
    "load": "api",
    "embed": "api",
    "counterfactual": "api",
    "targets": "graph",
    "add_programs": "graph",
    "annotate": "annotation",
    "transfer": "transfer_learning",
    "tune": "tuning",
    "benchmark": "benchmarking",
    "preprocess": "data.preprocess",
    "evaluate": "evaluation",
    "Evaluation": "evaluation",
    "Model": "model",
}

__all__ = [
    "Evaluation",
    "Model",
    "add_programs",
    "annotate",
    "benchmark",
    "counterfactual",
    "embed",
    "evaluate",
    "load",
    "preprocess",
    "simulate",
    "targets",
    "train",
    "transfer",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name == "simulate":
        return import_module("cellalign.simulate")
    if name not in _HOME:
        raise AttributeError(f"module 'cellalign' has no attribute {name!r}")
    return getattr(import_module(f"cellalign.{_HOME[name]}"), name)
