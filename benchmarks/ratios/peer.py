"""scvi-tools' side of a comparison: run by a Python that has it, it trains an epoch whenever a line is read.

The first line that it writes is its name and version, every other one the seconds of an epoch. Cells are shuffled and
loaded within these seconds; setting up the trainer is not counted.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
import warnings
from typing import Any

import anndata
import lightning.pytorch as lightning
import scvi


class Turns(lightning.Callback):
    """Waits for its turn before every epoch, and tells what it took."""

    def __init__(self, answers: Any) -> None:
        self.answers, self.started = answers, 0.0

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        """Wait."""
        if not sys.stdin.readline():
            raise SystemExit
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Tell."""
        print(json.dumps(time.perf_counter() - self.started), file=self.answers, flush=True)


def main() -> None:
    """Train."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--method", choices=["scvi", "scanvi"], default="scvi")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--latent", type=int, default=10)
    parser.add_argument("--no-type", default="Unknown")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print(json.dumps(f"scvi-tools {scvi.__version__}"), file=answers, flush=True)
    scvi.settings.seed = 0
    cells = anndata.read_h5ad(options.file)
    shape: dict[str, Any] = {"n_layers": 2, "n_hidden": options.hidden, "n_latent": options.latent}
    if options.method == "scanvi":
        scvi.model.SCANVI.setup_anndata(
            cells, layer="counts", batch_key="stim", labels_key="told", unlabeled_category=options.no_type
        )
        model = scvi.model.SCANVI(cells, gene_likelihood="zinb", **shape)
    else:
        scvi.model.SCVI.setup_anndata(cells, layer="counts", batch_key="stim")
        model = scvi.model.SCVI(cells, gene_likelihood="zinb", **shape)
    model.train(
        max_epochs=options.epochs,
        batch_size=options.batch_size,
        train_size=1.0,
        accelerator="cpu",
        enable_progress_bar=False,
        logger=False,
        callbacks=[Turns(answers)],
    )


if __name__ == "__main__":
    main()
