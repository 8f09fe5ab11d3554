"""A method of cellalign with its defaults, in the place of a peer; see shared.py.

python run_cellalign.py "METHOD [SETTING=VALUE ...]" cells.h5ad predicted.h5ad
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout, whichever one is installed

from shared import CONDITION, CONTROL, LABEL, TARGET, dense, run  # noqa: E402

import cellalign  # noqa: E402
from cellalign.errors import CellalignError  # noqa: E402


def predict(
    method: str, cells: anndata.AnnData, seed: int
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, object]]:
    """What the method writes (of log expression the residual transfer), and the decoded mean where there is one."""
    name, *changed = method.split()
    settings = dict(item.split("=", 1) for item in changed)
    model = cellalign.train(cells, method=name, condition=CONDITION, label=LABEL, seed=seed, settings=settings)
    source = cells[cells.obs["predict"].to_numpy(dtype=bool)].copy()
    asked: dict[str, Any] = {"to": TARGET, "from_": CONTROL, "seed": seed}
    x = dense(cellalign.counterfactual(source, model, **asked).X)
    others: dict[str, np.ndarray] = {}
    try:
        decoded = dense(cellalign.counterfactual(source, model, **asked, decoded=True).X)
        others = {} if np.array_equal(x, decoded) else {"decoded": decoded}
    except CellalignError:
        pass  # a closed form has nothing to decode
    return x, others, {"method": name, "findings": "; ".join(model.method.findings())}


if __name__ == "__main__":
    asked_method = sys.argv.pop(1)
    run(functools.partial(predict, asked_method))
