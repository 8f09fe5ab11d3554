"""A table with a known sensitive attribute, as of a census: what leaks it, and what may be kept, are known.

    s ~ Bernoulli(share),  u ~ N(0, 1),  x_g = a_g.u + leak b_g (s - share) + noise
    label = [w.u + gap (s - share) + noise > t]

Numbers are x_g; categories are one-hot codes of draws from the softmax of several x_g. A known part of the columns has
b_g other than zero. All are standardised, as in the fairness experiment of the CoMP paper (appendix D.1), or left.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from cellalign.errors import UsageError, option

SEX, LABELS = ("Female", "Male"), ("<=50K", ">50K")
CATEGORIES = (3, 12)  # fewest and most of a categorical column
NOISE = 0.7  # standard deviation of what neither latents nor the attribute explain
SHARP = 1.5  # of the logits: how much of a category its latents decide


def fairness(
    n_cells: int = 4000,
    *,
    n_numeric: int = 6,
    n_categorical: int = 8,
    n_latent: int = 6,
    share: float = 0.675,
    leaking: float = 0.6,
    leak: float = 1.0,
    gap: float = 1.0,
    label_rate: float = 0.25,
    standardise: bool = True,
    seed: int = 0,
) -> AnnData:
    """Simulate people with a sensitive attribute that leaks into many features, and a label that goes with it.

    Parameters
    ----------
    n_cells
        People, one a row.
    n_numeric, n_categorical
        Columns of numbers, and of categories; of a categorical one 3 to 12 one-hot codes are features.
    n_latent
        Latent variables behind features and label, independent of the attribute.
    share
        Of the second value of the attribute ("Male"): the floor of a classifier that guesses it.
    leaking
        Share of the columns that depend on the attribute.
    leak
        Size of that, in standard deviations of a column's noise and latents.
    gap
        What the attribute adds to the label's score, in its standard deviations.
    label_rate
        Share of the label ">50K".
    standardise
        Features of mean 0 and variance 1; otherwise numbers and codes of 0 and 1.
    seed

    Returns
    -------
    AnnData [n_cells, n_features]
        X float32, dense: to be read with `expression="any"`. obs: sex, income. var: column, and leaks (whether it
        depends on sex). obsm["truth"]: the latents. uns["truth"]: the settings.

    Raises
    ------
    UsageError
        A setting out of range.
    """
    for name, value in (("share", share), ("label_rate", label_rate)):
        if not 0 < value < 1:
            raise UsageError(f"{option(name, value)} is not between 0 and 1")
    if not 0 <= leaking <= 1:
        raise UsageError(f"{option('leaking', leaking)} is not in [0, 1]")
    if n_cells < 2 or n_numeric + n_categorical < 1 or n_latent < 1:
        raise UsageError("at least two people, one column and one latent are needed")
    rng = np.random.default_rng(seed)
    male = rng.random(n_cells) < share
    u = rng.normal(size=(n_cells, n_latent))
    n_columns = n_numeric + n_categorical
    leaks = np.zeros(n_columns, dtype=bool)
    leaks[rng.permutation(n_columns)[: round(leaking * n_columns)]] = True
    parts, names, columns = [], [], []
    for i in range(n_columns):
        width = 1 if i < n_numeric else int(rng.integers(CATEGORIES[0], CATEGORIES[1] + 1))
        logits = _scores(rng, u, male - share, width, leak if leaks[i] else 0.0)
        parts.append(logits if width == 1 else _one_hot(rng, SHARP * logits))
        column = f"number{i}" if width == 1 else f"kind{i - n_numeric}"
        names += [column] if width == 1 else [f"{column}_{k}" for k in range(width)]
        columns += [i] * width
    x = np.hstack(parts)
    if standardise:
        spread = x.std(0)
        x = (x - x.mean(0)) / np.where(spread > 0, spread, 1)
    weights = rng.normal(size=n_latent)
    score = u @ weights / np.linalg.norm(weights) + gap * (male - share) + NOISE * rng.normal(size=n_cells)
    high = score > np.quantile(score, 1 - label_rate)
    obs = pd.DataFrame(
        {
            "sex": pd.Categorical.from_codes(male.astype(int), SEX),
            "income": pd.Categorical.from_codes(high.astype(int), LABELS),
        },
        index=[f"p{i}" for i in range(n_cells)],
    )
    described = [f"number{i}" if i < n_numeric else f"kind{i - n_numeric}" for i in columns]
    settings = {"leak": leak, "leaking": leaking, "gap": gap, "share": share, "seed": seed}
    return AnnData(
        X=x.astype(np.float32),
        obs=obs,
        var=pd.DataFrame({"column": described, "leaks": leaks[columns]}, index=names),
        obsm={"truth": u.astype(np.float32)},
        uns={"truth": {"settings": settings}},
    )


def _scores(rng: np.random.Generator, u: np.ndarray, sex: np.ndarray, width: int, leak: float) -> np.ndarray:
    """Scores [n, width] of columns: latents, the attribute centred, and noise."""
    loadings = rng.normal(size=(u.shape[1], width)) / np.sqrt(u.shape[1])
    pulls = rng.choice([-1.0, 1.0], width) * rng.uniform(0.5, 1.5, width)
    return u @ loadings + leak * sex[:, None] * pulls + NOISE * rng.normal(size=(len(u), width))


def _one_hot(rng: np.random.Generator, logits: np.ndarray) -> np.ndarray:
    """Draws [n, K] from the softmax of logits: the largest of them and Gumbel noise."""
    drawn = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    return np.eye(logits.shape[1])[drawn]
