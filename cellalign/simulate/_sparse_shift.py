"""Cells under many interventions, each of which shifts few latent variables (Lopez et al. 2023, appendix B).

    z ~ N(mu_a, 1),  mu_ai = +-N(effect, 0.5) on the targeted latents, 0 elsewhere,  x_g ~ Poisson(l f_g(z))

f has three hidden layers of 40 units with leaky ReLU (0.2), random Gaussian weights with orthogonal columns, and
a softmax over genes. The paper's text and its code differ; `variant` chooses. As text: targets without
replacement, l = 1e5. As code: targets with replacement, each layer scaled by sqrt(2 / (1 + 0.2^2)) and
sqrt(2 / (fan_in + fan_out)), the softmax over cells instead of genes times 1e6, so that library sizes vary and
are far smaller. Both divide the logits by their standard deviation: without it the data cannot be learned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from cellalign.errors import UsageError, option

HIDDEN = (40, 40, 40)
SLOPE = 0.2
EFFECT_SD = 0.5
CONTROL = "control"


@dataclass(frozen=True)
class _Split:
    """How many latents the interventions of a split target, and how strongly."""

    n: int
    effect: float
    sparsity: float | None


def sparse_shift(
    n_interventions: int = 100,
    n_cells: int = 500,
    *,
    n_latent: int = 15,
    n_genes: int = 100,
    n_heldout: int = 20,
    n_controls: int = 0,
    library_size: float | None = None,
    targets: tuple[int, int] = (1, 3),
    sparsity: float | None = None,
    effect: float = 5.0,
    heldout_sparsity: float | None = None,
    heldout_effect: float | None = None,
    variant: str = "text",
    seed: int = 0,
) -> AnnData:
    """Simulate raw counts under sparse interventions.

    Parameters
    ----------
    n_interventions, n_cells
        Interventions, and cells under each.
    n_latent, n_genes
        Latent variables and genes.
    n_heldout
        The last so many interventions are marked "heldout" in obs["split"], to transfer to.
    n_controls
        Cells under no intervention, named "control".
    library_size
        Counts per cell; default 1e5 (text), or 1e6 per gene over all cells (code).
    targets
        Fewest and most latents an intervention targets, drawn uniformly.
    sparsity
        Instead of `targets`: share of the latents each intervention targets (appendix D).
    effect
        Mean size of a shift, in standard deviations of z; its own standard deviation is 0.5, its sign random.
    heldout_sparsity, heldout_effect
        Other values for the held-out interventions (appendix D.3); default the same.
    variant : {"text", "code"}
        The paper's text, or its code.
    seed

    Returns
    -------
    AnnData [cells, n_genes]
        X: raw counts, CSR float32. obs: perturbation, split. obsm["truth"]: z. uns["truth"]: `interventions`
        (names), `graph` and `effects` [interventions, n_latent], and the settings.

    Raises
    ------
    UsageError
        A setting out of range.
    """
    _check(n_interventions, n_heldout, n_latent, targets, (sparsity, heldout_sparsity), variant)
    rng = np.random.default_rng(seed)
    splits = [
        _Split(n_interventions - n_heldout, effect, sparsity),
        _Split(
            n_heldout,
            effect if heldout_effect is None else heldout_effect,
            sparsity if heldout_sparsity is None else heldout_sparsity,
        ),
    ]
    graph = np.concatenate([_draw_graph(rng, s, n_latent, targets, variant) for s in splits])
    size = np.concatenate([rng.normal(s.effect, EFFECT_SD, (s.n, n_latent)) for s in splits])
    effects = graph * size * rng.choice([-1.0, 1.0], size.shape)

    names = [f"p{i:0{len(str(n_interventions - 1))}d}" for i in range(n_interventions)]
    code = np.concatenate([np.repeat(np.arange(n_interventions), n_cells), np.full(n_controls, -1)])
    z = rng.normal(size=(len(code), n_latent)) + np.vstack([effects, np.zeros(n_latent)])[code]
    logits = _decode(rng, z, n_genes, variant)
    counts = rng.poisson(_rates(logits, library_size, variant))

    obs = pd.DataFrame(
        {
            "perturbation": pd.Categorical.from_codes(
                np.where(code < 0, n_interventions, code), [*names, CONTROL]
            ).remove_unused_categories(),
            "split": pd.Categorical(np.where(code >= n_interventions - n_heldout, "heldout", "train")),
        },
        index=[f"cell{i}" for i in range(len(code))],
    )
    settings = {"variant": variant, "seed": seed, "effect": effect, "library_size": library_size or 0.0}
    return AnnData(
        X=sparse.csr_matrix(counts.astype(np.float32)),
        obs=obs,
        var=pd.DataFrame(index=[f"gene{g}" for g in range(n_genes)]),
        obsm={"truth": z.astype(np.float32)},
        uns={"truth": {"interventions": np.array(names), "graph": graph, "effects": effects, "settings": settings}},
    )


def _check(
    n_interventions: int,
    n_heldout: int,
    n_latent: int,
    targets: tuple[int, int],
    sparsities: tuple[float | None, ...],
    variant: str,
) -> None:
    if variant not in ("text", "code"):
        raise UsageError(f"{option('variant', variant)} is neither text nor code")
    if not 0 <= n_heldout < n_interventions:
        raise UsageError(
            f"{option('n_heldout', n_heldout)} must leave at least one of {n_interventions} interventions to train on"
        )
    if not 1 <= targets[0] <= targets[1] <= n_latent:
        asked = f"fewest and most {option('targets')}, {targets[0]} and {targets[1]},"
        raise UsageError(f"{asked} must lie between 1 and {option('n_latent', n_latent)}, in order")
    for value in sparsities:
        if value is not None and not 0 < value <= 1:
            raise UsageError(f"sparsity {value} is not between 0 and 1")


def _draw_graph(
    rng: np.random.Generator, split: _Split, n_latent: int, targets: tuple[int, int], variant: str
) -> np.ndarray:
    """Which latents each intervention targets, bool [n, n_latent]."""
    graph = np.zeros((split.n, n_latent), dtype=bool)
    for row in graph:
        if split.sparsity is None:
            n = int(rng.integers(targets[0], targets[1] + 1))
        else:
            n = max(1, round(split.sparsity * n_latent))
        row[rng.choice(n_latent, n, replace=variant == "code")] = True
    return graph


def _decode(rng: np.random.Generator, z: np.ndarray, n_genes: int, variant: str) -> np.ndarray:
    """Logits [cells, n_genes] of standard deviation 1."""
    h = z
    widths = [*HIDDEN, n_genes]
    for i, width in enumerate(widths):
        h = h @ _orthogonal(rng, h.shape[1], width)
        if variant == "code":
            h *= math.sqrt(2 / (1 + SLOPE**2)) * math.sqrt(2 / (h.shape[1] + width))
        if i < len(widths) - 1:
            h = np.where(h > 0, h, SLOPE * h)
    return h / h.std()


def _orthogonal(rng: np.random.Generator, n_in: int, n_out: int) -> np.ndarray:
    """Gaussian [n_in, n_out] made orthonormal along its shorter side: x -> x W is injective where it can be."""
    square = rng.normal(size=(max(n_in, n_out), min(n_in, n_out)))
    q, r = np.linalg.qr(square)
    q = q * np.sign(np.diag(r))
    return q.T if n_in < n_out else q


def _rates(logits: np.ndarray, library_size: float | None, variant: str) -> np.ndarray:
    """Poisson rates: softmax over genes, or in the code over cells."""
    axis, size = (1, library_size or 1e5) if variant == "text" else (0, library_size or 1e6)
    share = np.exp(logits - logits.max(axis, keepdims=True))
    return size * share / share.sum(axis, keepdims=True)
