"""scGen as pertpy has it, with its tutorial's settings; see shared.py."""

from __future__ import annotations

from typing import Any

import anndata
import numpy as np
import pertpy
import scvi
from shared import CONDITION, CONTROL, LABEL, TARGET, run

# as in pertpy's tutorial on Kang's cells; networks are its defaults: two layers of 800, 100 latents
TRAINING = {"max_epochs": 100, "batch_size": 32, "early_stopping": True, "early_stopping_patience": 25}


def predict(cells: anndata.AnnData, seed: int) -> tuple[np.ndarray, dict[str, Any], dict[str, Any]]:
    """Decoded cells moved by the mean difference of conditions in latents.

    The tutorial takes that difference over all cells, so also over the control cells of types that have no stimulated
    ones; "shared types" leaves these out. pertpy draws the cells of the difference from a generator without a seed.
    """
    scvi.settings.seed = seed
    pertpy.tl.Scgen.setup_anndata(cells, batch_key=CONDITION, labels_key=LABEL)
    model = pertpy.tl.Scgen(cells)
    model.train(**TRAINING)
    source = cells[cells.obs["predict"].to_numpy(dtype=bool)].copy()
    counts = cells.obs.groupby([LABEL, CONDITION], observed=False).size().unstack()
    types = [str(name) for name in counts.index[(counts > 0).all(axis=1)]]

    def moved(arithmetic: object) -> np.ndarray:
        asked = {"ctrl_key": CONTROL, "stim_key": TARGET, "adata_to_predict": source}
        return np.asarray(model.predict(**asked, restrict_arithmetic_to=arithmetic)[0].X)

    decoded, shared = moved("all"), moved({LABEL: types})
    own = np.asarray(model.module.as_bound().generative(model.get_latent_representation(source))["px"])
    others = {"shared types": shared, "shared types, residual": source.X + shared - own}
    return decoded, others | {"residual": source.X + decoded - own}, TRAINING | {"epochs": epochs(model)}


def epochs(model: pertpy.tl.Scgen) -> int:
    """After how many it stopped."""
    return len(next(iter(model.history.values()))) if model.history else 0


if __name__ == "__main__":
    run(predict)
