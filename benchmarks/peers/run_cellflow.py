"""CellFlow, with its tutorial's settings on narrower networks; see shared.py."""

from __future__ import annotations

import functools

import anndata
import jax
import numpy as np
import optax
from cellflow.model import CellFlow
from cellflow.preprocessing import centered_pca, reconstruct_pca
from cellflow.utils import match_linear
from shared import CONDITION, CONTROL, LABEL, TARGET, run

# The tutorial (10 million cells, 90 cytokines, 100 minutes of a large GPU) has 500,000 iterations of 1,024 cells on
# hidden layers of 2,048 and decoder layers of 4,096: on one thread of a CPU a second each, and more.
COMPONENTS, ITERATIONS, BATCH, AVERAGED = 50, 2000, 256, 4
NETWORK = {
    "condition_embedding_dim": 64,
    "cond_output_dropout": 0.5,
    "time_freqs": 256,
    "time_encoder_dims": (256, 256),
    "hidden_dims": (512, 512),
    "decoder_dims": (512, 512),
    "probability_path": {"constant_noise": 0.5},
}
LEARNING_RATE = 3e-4


def predict(cells: anndata.AnnData, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, object]]:
    """Control cells carried along the flow in principal components.

    Types are told to the model as donors are in the tutorial: by an embedding, here the mean of the type's control
    cells in principal components, so that a type never seen stimulated has one; flows pair cells within a type.
    """
    centered_pca(cells, n_comps=COMPONENTS, keep_centered_data=False)
    cells.obs["is_control"] = (cells.obs[CONDITION] == CONTROL).to_numpy()
    z, control = np.asarray(cells.obsm["X_pca"]), cells.obs["is_control"].to_numpy()
    types = cells.obs[LABEL].astype(str).to_numpy()
    means = {name: z[control & (types == name)].mean(0) for name in np.unique(types)}
    scale = np.std(np.array(list(means.values())))
    cells.uns["types"] = {name: (mean / scale).astype(np.float32) for name, mean in means.items()}
    cells.uns["conditions"] = {CONTROL: np.array([0.0, 1.0], np.float32), TARGET: np.array([1.0, 0.0], np.float32)}
    seen = types[~control]
    model = CellFlow(cells[np.isin(types, seen)].copy(), solver="otfm")
    model.prepare_data(
        sample_rep="X_pca",
        control_key="is_control",
        perturbation_covariates={"treatment": (CONDITION,)},
        perturbation_covariate_reps={"treatment": "conditions"},
        sample_covariates=[LABEL],
        sample_covariate_reps={LABEL: "types"},
        split_covariates=[LABEL],
    )
    model.prepare_model(
        **NETWORK,
        match_fn=functools.partial(match_linear, epsilon=0.5, tau_a=1.0, tau_b=1.0),
        optimizer=optax.MultiSteps(optax.adam(LEARNING_RATE), AVERAGED),
        seed=seed,
    )
    model.train(num_iterations=ITERATIONS, batch_size=BATCH, valid_freq=10**9)
    source = cells[cells.obs["predict"].to_numpy(dtype=bool)].copy()
    asked = source.obs.iloc[:1].copy()
    asked[CONDITION] = TARGET
    asked["is_control"] = False
    (moved,) = model.predict(source, covariate_data=asked, sample_rep="X_pca").values()
    after = np.asarray(moved)
    change = (after - np.asarray(source.obsm["X_pca"])) @ np.asarray(cells.varm["PCs"]).T
    source.obsm["moved"] = after
    reconstruct_pca(source, use_rep="moved", ref_adata=cells)
    settings = NETWORK | {"components": COMPONENTS, "iterations": ITERATIONS, "batch": BATCH, "averaged": AVERAGED}
    settings |= {"learning rate": LEARNING_RATE, "devices": len(jax.devices())}
    return np.asarray(source.layers["X_recon"]), {"residual": source.X + change}, settings


if __name__ == "__main__":
    run(predict)
