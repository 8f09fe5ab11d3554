"""The Python API: what every command does, as a function of AnnData.

`cellalign.train(adata, method="comp", condition="stim")` is `cellalign train`; so are the others. The commands
are thin callers of these.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from pydantic import BaseModel, ValidationError

from cellalign.data.checks import nearest
from cellalign.data.inputs import check_expression, checked_names, default_matrix, make_cells, matrix_of
from cellalign.data.roles import Roles, settle_roles
from cellalign.data.split import held_out, stratified_split
from cellalign.engine.checkpoint import Checkpoint
from cellalign.engine.device import pick_device
from cellalign.engine.fit import Progress, State, fit
from cellalign.engine.plan import Plan
from cellalign.errors import InputError, UsageError
from cellalign.methods.base import Method
from cellalign.methods.registry import get, names, preset_settings
from cellalign.model import Model, build, source_record

log = logging.getLogger("cellalign")
LEAST_CELLS = 4
FEW_CELLS = 10  # of an intervention


def train(
    adata: AnnData,
    *,
    method: str = "comp",
    condition: str | None = None,
    control: str | None = None,
    batch: Sequence[str] = (),
    covariate: Sequence[str] = (),
    label: str | None = None,
    numeric: Sequence[str] = (),
    unlabelled: str | None = None,
    continuous: bool = False,
    allow_missing_condition: bool = False,
    layer: str | None = None,
    preset: str | None = None,
    config: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    latent_dim: int | None = None,
    holdout: Sequence[str] = (),
    validation: float | None = None,
    early_stopping: bool | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
    source: str | os.PathLike[str] | None = None,
    model_path: str | os.PathLike[str] | None = None,
    resume: bool = False,
) -> Model:
    """Train a method on cells.

    Parameters
    ----------
    adata : AnnData [n_cells, n_genes]
        As `preprocess` writes it: normalised log1p expression in X for Gaussian likelihoods, counts in
        layers["counts"] for count likelihoods.
    method : str
        A name of `cellalign methods`.
    condition, control, batch, covariate, label : str
        obs columns by role, and the reference value of the condition. Covariates and labels may be missing.
    numeric : sequence of str
        Those of the batches and covariates that are numbers.
    unlabelled : str, optional
        The label's value that means there is none.
    continuous : bool
        The condition is a number (a dose, a time).
    allow_missing_condition : bool
        Cells whose condition is missing are trained on with the condition the model infers.
    layer : str, optional
        Read this layer (or "X") instead of the method's default matrix.
    preset, config, settings
        Published hyperparameters by name, then a mapping, then single settings; later ones win. The named
        arguments (`epochs`, `batch_size`, ...) win over all.
    holdout : sequence of "key=value,key=value"
        Cells that meet all of an item's terms are not trained on.
    source : path, optional
        The file the data came from, recorded in the model.
    model_path : path, optional
        Where the model will be saved: a checkpoint is left beside it while training runs.
    resume : bool
        Go on from that checkpoint.

    Returns
    -------
    Model

    Raises
    ------
    UsageError
        Unknown method, preset or setting, or a value out of range.
    InputError
        The data is not fit for the method.
    TrainingError
        Training diverged or memory ran out.
    """
    cls = get(method)
    if cls.needs_condition and condition is None:
        raise UsageError(f"method {method!r} needs --condition KEY, the obs column whose effect is modelled")
    if cls.needs_label and label is None:
        raise UsageError(f"method {method!r} needs --label KEY, the obs column of cell types; some may be missing")
    named = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "latent_dim": latent_dim}
    named |= {"validation": validation, "early_stopping": early_stopping}
    hyperparameters, plan = settings_of(cls, preset, config, settings, named)
    _check_condition(cls, condition, continuous, allow_missing_condition)
    torch_device = pick_device(device, threads)

    genes = checked_names(adata, "the input")
    scale = cls.reads(hyperparameters)
    key = layer or default_matrix(adata, scale)
    hint = _preprocess_command(source)
    x = matrix_of(adata, key)
    check_expression(x, scale, f"the input's {key}", hint)
    trained_on = ~held_out(adata.obs, holdout)
    if trained_on.sum() < LEAST_CELLS:
        raise InputError(f"{trained_on.sum()} cells are left to train on; at least {LEAST_CELLS} are needed")
    roles = settle_roles(
        adata.obs[trained_on],
        condition=condition,
        control=control,
        batches=batch,
        covariates=covariate,
        label=label,
        continuous=continuous,
        unknown=allow_missing_condition,
        numeric=numeric,
        unlabelled=unlabelled,
    )
    cells = make_cells(adata, x, roles, ignore=~trained_on)
    kept = np.flatnonzero(trained_on)
    train_rows, validation_rows = _split(cells.condition.numpy(), kept, plan.validation, seed)
    if cls.has_graph:
        _warn_of_few_cells(cells.condition.numpy()[kept], roles)

    spec = {
        "cellalign": package_version(),
        "method": method,
        "hyperparameters": hyperparameters.model_dump(mode="json"),
        "training": plan.model_dump(mode="json"),
        "preset": preset,
        "matrix": key,
        "roles": roles.as_dict(),
        "dimensions": _dimensions(roles, len(genes), len(train_rows)),
        "holdout": list(holdout),
        "seed": seed,
        "cells": {"all": adata.n_obs, "trained": len(train_rows), "validation": len(validation_rows)},
        "source": source_record(source),
        "command": shlex.join(sys.argv) if source is not None else None,
        "command_hint": hint,
        "versions": _library_versions(),
        "genes": genes,
    }
    checkpoint = _checkpoint(model_path, spec, resume)
    torch.manual_seed(seed)
    module = build(spec)
    state = fit(
        module,
        cells,
        torch.from_numpy(train_rows),
        torch.from_numpy(validation_rows),
        plan,
        device=torch_device,
        seed=seed,
        progress=progress,
        checkpoint=checkpoint,
    )
    return Model(module, _with_outcome(spec, state), state.history)


def discard_checkpoint(model_path: str | os.PathLike[str]) -> None:
    """Delete the checkpoint beside a model directory: the model is saved, nothing is left to resume."""
    Checkpoint.beside(model_path, {}).remove()


def load(directory: str | os.PathLike[str]) -> Model:
    """Read a model directory; ModelError where it is absent, damaged or of a newer version."""
    return Model.load(Path(directory))


def embed(adata: AnnData, model: Model, **options: Any) -> AnnData:
    """Add the latents to `adata.obsm[model.embedding_key]` and return it; options as for `Model.embeddings`."""
    adata.obsm.update(model.embeddings(adata, **options))
    adata.uns["cellalign"] = embedding_record(model)
    of_both = {key: value for key, value in options.items() if key != "batch_size"}
    for name, values in model.inferred_condition(adata, **of_both).items():
        adata.obs[name] = values
    return adata


def embedding_record(model: Model) -> dict[str, str | bool]:
    """Provenance of an embedding, for uns["cellalign"]."""
    return {
        "kind": "embedding",
        "method": model.name,
        "key": model.embedding_key,
        "condition": model.condition or "",
        "continuous": model.roles.continuous is not None,
        "version": model.spec["cellalign"],
        "weights": model.spec.get("weights_checksum", ""),
    }


def counterfactual(adata: AnnData, model: Model, *, to: str, **options: Any) -> AnnData:
    """Predicted expression under another condition; options as for `Model.counterfactual`."""
    return model.counterfactual(adata, to=to, **options)


def settings_of(
    cls: type[Method],
    preset: str | None = None,
    config: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    named: Mapping[str, Any] | None = None,
) -> tuple[Any, Plan]:
    """Hyperparameters and plan of a method: preset, then config, then settings, then named arguments not None.

    Raises
    ------
    UsageError
        An unknown preset or key, or a value out of range.
    """
    published = preset_settings(preset, cls.name) if preset else {}
    given = {key: value for key, value in (named or {}).items() if value is not None}
    return resolve_settings(cls, [published, config or {}, settings or {}, given])


def resolve_settings(cls: type[Method], layers: Sequence[Mapping[str, Any]]) -> tuple[BaseModel, Plan]:
    """Merge settings, later ones winning, into a method's hyperparameters and the training plan.

    Raises
    ------
    UsageError
        An unknown key (the nearest known one is named), or a value out of range.
    """
    merged: dict[str, Any] = dict(cls.plan_defaults)
    for layer in layers:
        merged.update(layer)
    own, plan = cls.Hyperparameters.model_fields, Plan.model_fields
    unknown = [key for key in merged if key not in own and key not in plan]
    if unknown:
        known = sorted([*own, *plan])
        raise UsageError(f"unknown setting {unknown[0]!r}.{nearest(unknown[0], known)} Settings: {', '.join(known)}")
    try:
        hyperparameters = cls.Hyperparameters(**{k: v for k, v in merged.items() if k in own})
        return hyperparameters, Plan(**{k: v for k, v in merged.items() if k in plan})
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "settings"
        raise UsageError(f"{key}={first['input']!r} is out of range: {first['msg'].lower()}") from error


def _check_condition(cls: type[Method], condition: str | None, continuous: bool, unknown: bool) -> None:
    """Refuse an option about the condition that the method has no answer to."""
    for asked, able, option in (
        (continuous, "takes_continuous", "--continuous"),
        (unknown, "takes_unknown", "--allow-missing-condition"),
    ):
        if asked and condition is None:
            raise UsageError(f"{option} needs --condition KEY")
        if asked and not getattr(cls, able):
            able_ones = [name for name in names() if getattr(get(name), able)]
            raise UsageError(f"method {cls.name!r} has no {option}; these have: {', '.join(able_ones)}")


def package_version() -> str:
    """Version of the installed package."""
    try:
        return version("cellalign")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"


def _library_versions() -> dict[str, str]:
    names = ("torch", "anndata", "numpy", "scipy")
    return {"python": sys.version.split()[0]} | {name: version(name) for name in names}


def _warn_of_few_cells(codes: np.ndarray, roles: Roles) -> None:
    """Tell of interventions whose targets a handful of cells can hardly show."""
    known = roles.categories[str(roles.condition)]
    sizes = np.bincount(codes, minlength=len(known))
    few = [f"{name} ({n})" for name, n in zip(known, sizes, strict=True) if n < FEW_CELLS and name != roles.control]
    if few:
        named = ", ".join(few[:10]) + (", ..." if len(few) > 10 else "")
        log.warning("%d of %r have fewer than %d cells; kept: %s", len(few), roles.condition, FEW_CELLS, named)


def _dimensions(roles: Roles, n_genes: int, n_cells: int) -> dict[str, Any]:
    def sizes(keys: tuple[str, ...]) -> list[int]:
        return [len(roles.categories[key]) for key in roles.categorical(keys)]

    def n_numeric(keys: tuple[str, ...]) -> int:
        return sum(key in roles.numeric for key in keys)

    return {
        "genes": n_genes,
        "conditions": len(roles.categories.get(roles.condition or "", [""])),
        "batches": sizes(roles.batches),
        "covariates": sizes(roles.covariates),
        "labels": len(roles.categories[roles.label]) if roles.label else 0,
        "control": roles.categories[roles.condition].index(roles.control)
        if roles.condition is not None and roles.control is not None
        else None,
        "cells": n_cells,
        "continuous": roles.continuous is not None,
        "unknown": roles.unknown,
        "numeric_batches": n_numeric(roles.batches),
        "numeric_covariates": n_numeric(roles.covariates),
    }


def _split(condition: np.ndarray, kept: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation rows among those kept."""
    train_rows, validation_rows = stratified_split(condition[kept], fraction, seed)
    return kept[train_rows], kept[validation_rows]


def _checkpoint(model_path: str | os.PathLike[str] | None, spec: Mapping[str, Any], resume: bool) -> Checkpoint | None:
    if model_path is None:
        if resume:
            raise UsageError("--resume needs the model directory's path")
        return None
    keys = ("method", "hyperparameters", "training", "roles", "holdout", "seed", "cells", "genes")
    checkpoint = Checkpoint.beside(model_path, {key: spec[key] for key in keys})
    if resume and not checkpoint.exists():
        raise UsageError(f"nothing to resume: there is no {checkpoint.path}; train without --resume")
    if not resume:
        checkpoint.remove()
    return checkpoint


def _with_outcome(spec: dict[str, Any], state: State) -> dict[str, Any]:
    genes = spec.pop("genes")  # last in the file: a reader of model.yaml wants the outcome before 2,000 names
    outcome = {"epochs": state.epoch, "steps": state.step, "seconds": round(state.seconds, 2)}
    if state.best_epoch:
        outcome |= {"best_epoch": state.best_epoch, "validation_loss": round(state.best_loss, 6)}
    return spec | {"outcome": outcome, "genes": genes}


def _preprocess_command(source: str | os.PathLike[str] | None) -> str:
    if source is None:
        return "cellalign.preprocess(adata)"
    path = Path(source)
    return shlex.join(["cellalign", "preprocess", str(source), "-o", f"{path.stem}.pp.h5ad"])
