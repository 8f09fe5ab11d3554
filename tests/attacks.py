"""What has been done to get good scores without a prediction: each starts from the mean response of other types.

An attack is given the real cells, the mean response as a prediction (`start`) and random numbers, and returns its own.
"""

import anndata as ad
import numpy as np
from support import counterfactual_record

from cellalign.evaluation.panels.response import ANCHORED


def means(real):
    """Control and stimulated means by type."""
    of = real.to_df().groupby([real.obs["cell_type"], real.obs["stim"]], observed=True).mean()
    return of.xs("control", level="stim"), of.xs("stimulated", level="stim")


def start(real):
    """Control cells, predicted to change as the other types did: the mean shift, and what attacks change of it."""
    control, stimulated = means(real)
    change = stimulated - control
    cells = real[real.obs["stim"] == "control"].copy()
    kinds = cells.obs["cell_type"].to_numpy()
    others = {kind: change.drop(kind).mean().to_numpy() for kind in control.index}
    cells.layers["source"] = cells.X.copy()
    cells.X = (cells.X + np.array([others[kind] for kind in kinds])).astype(np.float32)
    cells.obs["stim"] = "stimulated"
    cells.uns["cellalign"] = counterfactual_record(expression="any")
    return cells


def own(real, cells):
    """What each cell's type deviates by from the control mean of the others, over all of its control cells."""
    control, _ = means(real)
    off = {kind: (control.loc[kind] - control.drop(kind).mean()).to_numpy() for kind in control.index}
    return np.array([off[kind] for kind in cells.obs["cell_type"]])


def leaning(real, cells, rng):
    cells.X = cells.X - 0.4 * own(real, cells)
    return cells


def control_pasted(real, cells, rng):
    cells.X = cells.layers["source"].copy()
    return cells


def mean_pasted(real, cells, rng):
    _, stimulated = means(real)
    cells.X = np.array([stimulated.drop(kind).mean().to_numpy() for kind in cells.obs["cell_type"]], dtype=np.float32)
    return cells


def inflated(real, cells, rng):
    cells.X = cells.X + rng.normal(0, 3, cells.shape)
    return cells


def tiled(real, cells, rng):
    copies = [cells.copy() for _ in range(5)]
    for i, copy in enumerate(copies):
        copy.obs_names = [f"{name}-draw{i}" for name in copy.obs_names]
    many = ad.concat(copies)
    many.uns = dict(cells.uns)
    return many


def tiled_strangers(real, cells, rng):
    many = tiled(real, cells, rng)
    many.obs_names = [f"other{i}" for i in range(many.n_obs)]
    return many


def permuted(real, cells, rng):
    cells.obs["cell_type"] = rng.permutation(cells.obs["cell_type"].to_numpy())
    return cells


def twisted_controls(real, cells, rng):
    """The cells it says it was predicted from lie off, so that its change would lean on the control's noise."""
    cells.layers["source"] = cells.layers["source"] + 0.4 * own(real, cells)
    added = real[real.obs["stim"] == "control"].copy()
    added.layers["source"] = added.X.copy()
    added.X = added.X + own(real, added)
    added.obs_names = [f"{name}-predicted" for name in added.obs_names]
    many = ad.concat([cells, added])
    many.obs["stim"] = "stimulated"
    many.uns = dict(cells.uns)
    return many


def absolute(real, cells, rng):
    cells.X = cells.layers["source"] + np.abs(cells.X - cells.layers["source"])
    return cells


ATTACKS = [leaning, control_pasted, mean_pasted, inflated, tiled, tiled_strangers, permuted, twisted_controls, absolute]


def anchors(result):
    return {
        row.metric: row.evidence.anchored
        for row in result.rows
        if (row.system, row.group) == ("prediction", "mean") and row.metric in ANCHORED
    }
