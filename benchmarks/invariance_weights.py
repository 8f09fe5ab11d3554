"""inVAE's weights chosen as its paper did, by the bound on validation cells, beside what the choice costs.

    python benchmarks/invariance_weights.py --grid beta=0.3,0.6,1 --grid total_correlation=0,1,10

The cells of invariance.py, a tenth of them held back. The bound of every combination is the same sum, all terms at
weight 1: reconstruction and KL of both blocks. What score matching fits has no normaliser: log Z(d) is found by
importance sampling, so it is an estimate, as good as the effective number of draws (`draws`, the least over d). Beside
it a random forest's accuracy for site, donor and disease from z_I.
"""

from __future__ import annotations

import argparse
import itertools
import math
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
from invariance import BIOLOGY, cells_of, forest
from torch import Tensor

import cellalign
from cellalign.model import Model
from cellalign.nn.distributions import log_normal
from cellalign.nn.priors import ExponentialFamilyPrior
from cellalign.tasks.options import key_lists

WIDER = 1.3  # than the latents of a context: a proposal has to reach beyond them


def log_normaliser(prior: ExponentialFamilyPrior, context: Tensor, z: Tensor, draws: int) -> tuple[float, float]:
    """log of the integral of p~(z | d), and the effective number of draws; z [n, p] are latents of cells of d.

    Drawn from three normals alike: around these latents, the standard one, and the factor of p~ that is a normal.
    """
    linear, square = prior._natural(context[None])
    normals = [
        (z.mean(0), (WIDER * z.std(0, correction=0)).clamp(min=1e-2)),
        (torch.zeros_like(z[0]), torch.ones_like(z[0])),
        (-0.5 * (linear / square)[0], (-0.5 / square)[0].sqrt()),
    ]
    drawn = torch.cat([mean + sd * torch.randn(draws, len(mean)) for mean, sd in normals])
    proposal = torch.stack([log_normal(drawn, *normal) for normal in normals]).logsumexp(0) - math.log(len(normals))
    log_weight = prior(drawn, context.expand(len(drawn), -1)) - proposal
    weight = torch.softmax(log_weight, 0)
    return float(log_weight.logsumexp(0)) - math.log(len(drawn)), float(1 / weight.square().sum())


@torch.no_grad()
def bound(model: Model, cells: anndata.AnnData, held: anndata.AnnData, draws: int, seed: int) -> tuple[float, float]:
    """Negative bound of the held cells in nats, mean over cells, and the least effective number of draws."""
    torch.manual_seed(seed)
    method: Any = model.method.eval()
    batch = model.cells(held).batch(torch.arange(held.n_obs))
    found = method.nelbo(batch)
    if not isinstance(method.prior, ExponentialFamilyPrior):
        return float(found.mean()), math.nan
    trained = model.cells(cells).batch(torch.arange(cells.n_obs))
    latent, contexts = method.invariant(method.encode(trained)), trained.context(method.prior_sees)
    own, of_cell = batch.context(method.prior_sees).unique(dim=0, return_inverse=True)
    normalisers = []
    for context in own:
        members = (contexts == context).all(1)
        z = latent.z[members] if int(members.sum()) > 1 else latent.z
        normalisers.append(log_normaliser(method.prior, context, z, draws))
    log_z, effective = (torch.tensor(values) for values in zip(*normalisers, strict=True))
    return float((found + log_z[of_cell]).mean()), float(effective.min())


def main() -> None:
    """Print a row per combination and seed, then means and standard deviations, the best bound first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", action="append", default=[], metavar="KEY=VALUE,VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cells", type=int, default=8000)
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--draws", type=int, default=20_000)
    options = parser.parse_args()
    grid = key_lists(options.grid or ["beta=0.3,0.6,1", "total_correlation=0,1,10"])
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        cells, _ = cells_of(seed, options.cells, options.genes)
        held = np.random.default_rng(seed).random(cells.n_obs) < 0.1
        train, validation = cells[~held].copy(), cells[held].copy()
        for values in itertools.product(*grid.values()):
            settings = dict(zip(grid, values, strict=True))
            told: dict[str, Any] = {"batch": ["site"], "covariate": BIOLOGY, "seed": seed, "epochs": options.epochs}
            model = cellalign.train(train, method="invae", settings=settings, **told)
            nats, effective = bound(model, train, validation, options.draws, seed)
            z = model.embed(train)
            told_by_z = {key: forest(z, train.obs[key], seed) for key in ("site", "donor", "disease")}
            rows.append(settings | {"seed": seed, "bound": nats, "draws": effective} | told_by_z)
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    each = pd.DataFrame(rows).drop(columns="seed").groupby(list(grid), sort=False)
    mean, spread = each.mean().sort_values("bound"), each.std()
    shown = mean.map("{:.3f}".format) + " (" + spread.reindex(mean.index).map("{:.3f}".format) + ")"
    print("\nmean (sd over seeds), the best bound first\n" + shown.to_string())


if __name__ == "__main__":
    main()
