"""CPA as cpa-tools has it, with its Kang tutorial's settings; see shared.py."""

from __future__ import annotations

import tempfile

import anndata
import cpa
import numpy as np
import torch
from shared import CONDITION, CONTROL, LABEL, TARGET, dense, run

MODEL = {
    "n_latent": 64,
    "recon_loss": "nb",
    "doser_type": "linear",
    "n_hidden_encoder": 128,
    "n_layers_encoder": 2,
    "n_hidden_decoder": 512,
    "n_layers_decoder": 2,
    "use_batch_norm_encoder": True,
    "use_layer_norm_encoder": False,
    "use_batch_norm_decoder": False,
    "use_layer_norm_decoder": True,
    "dropout_rate_encoder": 0.0,
    "dropout_rate_decoder": 0.1,
    "variational": False,
}
PLAN = {
    "n_epochs_pretrain_ae": 30,
    "n_epochs_adv_warmup": 50,
    "n_epochs_mixup_warmup": 0,
    "mixup_alpha": 0.0,
    "adv_steps": None,
    "n_hidden_adv": 64,
    "n_layers_adv": 3,
    "use_batch_norm_adv": True,
    "use_layer_norm_adv": False,
    "dropout_rate_adv": 0.3,
    "reg_adv": 20.0,
    "pen_adv": 5.0,
    "lr": 0.0003,
    "wd": 4e-07,
    "adv_lr": 0.0003,
    "adv_wd": 4e-07,
    "adv_loss": "cce",
    "doser_lr": 0.0003,
    "doser_wd": 4e-07,
    "do_clip_grad": True,
    "gradient_clip_value": 1.0,
    "step_size_lr": 10,
}
# batches are cpa-tools' default: the tutorial's larger ones are for seven times as many cells and a GPU
TRAINING = {"max_epochs": 2000, "batch_size": 128, "early_stopping_patience": 5, "check_val_every_n_epoch": 5}
VALIDATION = 0.1  # of the cells: the tutorial's file has a column for it, of which only the numbers are known


def predict(cells: anndata.AnnData, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, object]]:
    """Expected counts of the control cells under the other condition, as log1p at the cells' own total.

    As in the tutorial the predicted cells are among those that are set up, as cells of another split, and hold the
    expression of control cells (there of any type, here of their own).
    """
    source = cells.obs["predict"].to_numpy(dtype=bool)
    asked = cells[source].copy()
    asked.obs[CONDITION] = TARGET
    asked.obs_names = asked.obs_names + "-asked"
    both = anndata.concat([cells, asked])
    rng = np.random.default_rng(seed)
    split = np.where(rng.random(cells.n_obs) < VALIDATION, "valid", "train")
    obs = {"split": np.concatenate([split, np.full(asked.n_obs, "ood")]), "dose": "1.0", "smiles": ""}
    both.obs = both.obs.assign(**obs).astype({CONDITION: str, LABEL: str})
    counts = dense(both.layers["counts"])
    both.X = counts.copy()
    cpa.CPA.setup_anndata(
        both,
        perturbation_key=CONDITION,
        control_group=CONTROL,
        dosage_key="dose",
        smiles_key="smiles",  # without one 0.8.1 fails on the pandas of today; it is not used
        categorical_covariate_keys=[LABEL],
        is_count_data=True,
        max_comb_len=1,
    )
    model = cpa.CPA(
        both, split_key="split", train_split="train", valid_split="valid", test_split="ood", **MODEL | {"seed": seed}
    )
    with tempfile.TemporaryDirectory() as folder:
        model.train(use_gpu=False, plan_kwargs=PLAN, save_path=folder, **TRAINING)
    model.predict(both, batch_size=512)
    expected = np.asarray(both.obsm["CPA_pred"])
    per_count = (cells.uns["total"] / cells.obs["n_counts"].to_numpy()[source])[:, None]
    after, before = expected[cells.n_obs :], expected[: cells.n_obs][source]
    theta = torch.exp(model.module.px_r).detach().cpu().numpy()
    drawn = rng.poisson(rng.gamma(theta, after / theta))
    log = [np.log1p(x * per_count) for x in (after, before, drawn)]
    others = {"residual": cells.X[source] + log[0] - log[1], "drawn": log[2]}
    done = {"epochs": int(model.trainer.current_epoch)} if getattr(model, "trainer", None) else {}
    return log[0], others, MODEL | PLAN | TRAINING | done


if __name__ == "__main__":
    run(predict)
