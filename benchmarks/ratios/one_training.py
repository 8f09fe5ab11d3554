"""Trains once with whichever version of cellalign is on PYTHONPATH, and prints what it took.

Run by `ratios/versions.py`. It uses nothing that versions of the last year lack.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import anndata

import cellalign
from cellalign.engine.device import own_process


def training(options: argparse.Namespace) -> tuple[anndata.AnnData, dict[str, Any]]:
    """The cells, and how `train` is called with them."""
    if options.method == "comp":
        cells = cellalign.preprocess(anndata.read_h5ad(options.file), n_top_genes=2000)
        return cells, {"condition": "stim"}
    cells = cellalign.simulate.sparse_shift(variant="code", seed=0)
    return cells[cells.obs["split"] == "train"].copy(), {"condition": "perturbation", "settings": {"latent_dim": 15}}


def main() -> None:
    """Print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=["comp", "svae+"])
    parser.add_argument("file", nargs="?")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    own_process()  # as the command line prepares its process
    cells, how = training(options)
    model = cellalign.train(cells, method=options.method, epochs=options.epochs, seed=options.seed, **how)
    ends = [row["seconds"] for row in model.history]
    each = [after - before for before, after in zip(ends, ends[1:], strict=False)] or ends
    outcome = model.record.outcome
    assert outcome is not None
    found = {"seconds": outcome.seconds, "seconds_per_epoch": statistics.median(each), "epochs": outcome.epochs}
    print(json.dumps(found | {"package": cellalign.__file__}))


if __name__ == "__main__":
    main()
