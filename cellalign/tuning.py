"""Model selection over a small grid of settings and several seeds, without looking at labels.

Methods whose latents should each mean one thing are ranked by UDR (unsupervised disentanglement ranking, Duan et
al. 2020), as the sVAE+ paper did: of settings under which models that differ by seed alone agree. All others are
ranked by the loss on validation cells (the negative ELBO, and with it any penalty).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cellalign.api import discard_checkpoint, load, settings_of, train
from cellalign.data.files import checksum
from cellalign.engine.plan import Plan
from cellalign.errors import ModelError, TrainingError, UsageError
from cellalign.evaluation.metrics.identifiability import udr
from cellalign.methods.registry import get
from cellalign.model import Model

log = logging.getLogger("cellalign")
INFORMATIVE = 0.01  # nats of KL to the prior from which a latent carries information (Duan et al. 2020)
UDR_CELLS = 5000


def tune(
    adata: AnnData,
    *,
    method: str,
    grid: Mapping[str, Sequence[Any]],
    seeds: int = 5,
    by: str = "auto",
    settings: Mapping[str, Any] | None = None,
    runs: str | os.PathLike[str] | None = None,
    **options: Any,
) -> tuple[Model, pd.DataFrame]:
    """Train every combination of a grid under several seeds, rank them, and keep the best model.

    Parameters
    ----------
    adata : AnnData
    method : str
    grid : mapping of setting to values
        As `train`'s settings.
    seeds : int
        Seeds 0 to seeds - 1 of each combination; UDR needs at least 2.
    by : {"auto", "udr", "loss"}
        auto is UDR for the methods made to disentangle, and the validation loss for others.
    settings : mapping, optional
        Settings that are the same in all runs.
    runs : path, optional
        Where finished runs are kept; those there already with the same settings are not trained again.
    options
        As `train` takes them.

    Returns
    -------
    best : Model
        Of the best combination, the model with the best score of its own.
    table : DataFrame
        One row per run: settings, seed, validation loss, udr, score of the combination, rank of the combination.

    Raises
    ------
    UsageError
        An empty grid, an unknown setting or criterion, too few seeds, or no validation cells to rank by.
    TrainingError
        Every run failed; single ones that fail are left out with a warning.
    """
    combinations = list(_combinations(grid))
    by = _criterion(method, by, seeds, combinations, settings or {}, options)
    records: list[dict[str, Any]] = []
    models: list[Model] = []
    for combination, seed in itertools.product(combinations, range(seeds)):
        try:
            model = _run(adata, method, (dict(settings or {}) | combination), seed, runs, options)
        except TrainingError as error:
            log.warning("%s, seed %d: %s; left out", _said(combination), seed, error)
            continue
        outcome = model.record.outcome
        loss = np.nan if outcome is None or outcome.validation_loss is None else outcome.validation_loss
        log.info(
            "%s, seed %d: validation loss %.4g, %.0f s",
            _said(combination),
            seed,
            loss,
            outcome.seconds if outcome else 0,
        )
        records.append(combination | {"seed": seed, "validation_loss": loss})
        models.append(model)
    if not models:
        raise TrainingError("every run of the grid failed")
    table = pd.DataFrame(records)
    combination_of = table[list(grid)].astype(str).agg(", ".join, axis=1)
    table["udr"] = _udr(adata, models, combination_of, by)
    own = table["udr"] if by == "udr" else -table["validation_loss"]
    table["score"] = own.groupby(combination_of).transform("median")
    table["rank"] = table["score"].rank(method="dense", ascending=False).astype(int)
    best = own.where(table["rank"] == 1).idxmax()
    return models[int(best)], table.sort_values(["rank", "seed"], kind="stable").reset_index(drop=True)


def _combinations(grid: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    if not grid or not all(grid.values()):
        raise UsageError("--grid KEY=VALUE,VALUE is needed at least once, with a value")
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _criterion(
    method: str,
    by: str,
    seeds: int,
    combinations: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
) -> str:
    """Settle what to rank by; check all settings before the first run starts."""
    cls = get(method)
    if by not in ("auto", "udr", "loss"):
        raise UsageError(f"--by {by!r} is none of auto, udr, loss")
    if by == "auto":
        by = "udr" if cls.disentangles and seeds > 1 else "loss"
    if by == "udr" and seeds < 2:
        raise UsageError("UDR compares models that differ by seed: --seeds must be at least 2")
    for combination in combinations:
        _, plan = _settled(method, {**settings, **combination}, options)
        if by == "loss" and plan.validation == 0:
            raise UsageError("ranking by validation loss needs validation cells; leave --validation above 0")
    return by


def _settled(method: str, settings: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Any, Plan]:
    """Hyperparameters and plan of a run, as `train` would settle them."""
    named = {key: options.get(key) for key in ("epochs", "batch_size", "lr", "latent_dim", "validation")}
    return settings_of(get(method), options.get("preset"), options.get("config"), settings, named)


def _run(
    adata: AnnData,
    method: str,
    settings: dict[str, Any],
    seed: int,
    runs: str | os.PathLike[str] | None,
    options: Mapping[str, Any],
) -> Model:
    """One model: read where it is finished already, trained and kept otherwise."""
    if runs is None:
        return train(adata, method=method, settings=settings, seed=seed, **options)
    folder = Path(runs) / _folder(settings, seed)
    if folder.is_dir():
        try:
            kept = load(folder)
        except ModelError as error:
            log.warning("%s; trained again", error)
        else:
            if _is_of(kept, adata, method, settings, options):
                return kept
            log.warning("%s is of other data or options; trained again", folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    model = train(adata, method=method, settings=settings, seed=seed, model_path=folder, **options)
    model.save(folder, force=True)
    discard_checkpoint(folder)
    return model


def _is_of(model: Model, adata: AnnData, method: str, settings: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    """Whether a finished run is what would be trained now."""
    record, source = model.record, options.get("source")
    hyperparameters, plan = _settled(method, settings, options)
    return (
        (record.method, record.hyperparameters, record.training)
        == (method, hyperparameters.model_dump(mode="json"), plan.model_dump(mode="json"))
        and (model.condition, record.holdout) == (options.get("condition"), list(options.get("holdout", ())))
        and model.genes == [str(gene) for gene in adata.var_names]
        and record.cells.all == adata.n_obs
        and (source is None or record.source.checksum == checksum(source))
    )


def _folder(settings: Mapping[str, Any], seed: int) -> str:
    """A name that says the settings, short enough for any file system, and their digest."""
    said = json.dumps(settings, sort_keys=True)
    safe = "".join(c if c.isalnum() or c in ".-" else "_" for c in said.strip("{}").replace('"', ""))
    return f"{safe[:80]}-{hashlib.sha256(said.encode()).hexdigest()[:8]}-seed{seed}"


def _said(combination: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in combination.items())


def _udr(adata: AnnData, models: Sequence[Model], combination_of: pd.Series, by: str) -> np.ndarray:
    """UDR of every model among those of its combination; NaN where it is not asked for."""
    scores = np.full(len(models), np.nan)
    if by != "udr":
        return scores
    rows = np.sort(np.random.default_rng(0).permutation(adata.n_obs)[:UDR_CELLS])
    cells = adata[rows]
    for _, members in combination_of.groupby(combination_of):
        index = list(members.index)
        posteriors = [models[i].posterior(cells) for i in index]
        informative = [
            (0.5 * (mean**2 + scale**2 - 1) - np.log(scale)).mean(0) > INFORMATIVE for mean, scale in posteriors
        ]
        scores[index] = udr([mean for mean, _ in posteriors], informative)
    return scores
