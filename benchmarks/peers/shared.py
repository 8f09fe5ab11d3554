"""What the runners share; of packages only what every peer's environment has (anndata, numpy, pandas).

A runner reads cells without the stimulated ones of one type, trains on them, and predicts them from the type's control
cells, which `obs["predict"]` marks: `python run_PEER.py cells.h5ad predicted.h5ad --seed 0`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import anndata
import numpy as np
import pandas as pd

CONDITION, CONTROL, TARGET, LABEL = "stim", "control", "stimulated", "cell_type"
# of control cells [n, G]: the prediction as the package gives it, and others by name
Predict = Callable[[anndata.AnnData, int], tuple[np.ndarray, dict[str, np.ndarray], dict[str, object]]]


def dense(x: object) -> np.ndarray:
    """A matrix as a float32 array."""
    return np.asarray(x.toarray() if hasattr(x, "toarray") else x, dtype=np.float32)


def plain(cells: anndata.AnnData) -> anndata.AnnData:
    """A copy with X dense, names and obs columns as every version of pandas and anndata has them."""
    cells = cells.copy()
    cells.X = dense(cells.X)
    cells.obs_names, cells.var_names = ([str(name) for name in names] for names in (cells.obs_names, cells.var_names))
    for key in (CONDITION, LABEL):
        cells.obs[key] = cells.obs[key].astype(str).astype("category")
    return cells


def run(predict: Predict) -> None:
    """The command line of a runner.

    Parameters
    ----------
    predict : callable
        From the cells and a seed to the predicted log1p expression [n, G] of the cells of `obs["predict"]`, other
        predictions by the same model by name, and the settings that were used.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("cells")
    parser.add_argument("output")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pd.set_option("future.infer_string", False)  # anndata of CPA's time cannot write pandas 3's strings
    cells = plain(anndata.read_h5ad(options.cells))
    begun = time.perf_counter()
    x, others, settings = predict(cells, options.seed)
    seconds = time.perf_counter() - begun
    source = cells.obs["predict"].to_numpy(dtype=bool)
    obs = cells.obs.loc[source, [LABEL]].copy()
    obs[CONDITION] = TARGET
    found = anndata.AnnData(np.asarray(x, dtype=np.float32), obs=obs, var=cells.var[[]].copy())
    for name, other in others.items():
        found.layers[name] = np.asarray(other, dtype=np.float32)
    found.uns["peer"] = json.dumps({"seconds": seconds, "settings": settings}, default=str)
    found.write_h5ad(options.output)
