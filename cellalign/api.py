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
from cellalign.data.fields import field_records, fit_fields
from cellalign.data.loader import make_cells
from cellalign.data.source import check_expression, checked_names, default_matrix, matrix_of
from cellalign.data.split import held_out, stratified_split
from cellalign.engine.checkpoint import Checkpoint
from cellalign.engine.device import pick_device
from cellalign.engine.fit import Progress, State, fit
from cellalign.engine.plan import Plan
from cellalign.errors import InputError, UsageError
from cellalign.methods.base import CONDITION, InfersCondition, LearnsGraph, Method, old_names
from cellalign.methods.registry import get, lacks, loadable, preset_settings
from cellalign.model import Model
from cellalign.model_directory import build, source_record
from cellalign.records import CellNumbers, CheckpointRecord, ModelRecord, Outcome, Provenance
from cellalign.records.provenance import KEY

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
    kinds: Mapping[str, str] | None = None,
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
    kinds : mapping of column to kind, optional
        Of batches and covariates that are not categories: "number" (as `numeric`), "vector" (several numbers from
        obsm), "multi-label" (several categories at once, joined by +).
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
    kinds = _kinds(condition, continuous, numeric, kinds)
    _check_condition(cls, condition, kinds, continuous, allow_missing_condition)
    torch_device = pick_device(device, threads)

    genes = checked_names(adata, "the input")
    expression = cls.reads(hyperparameters)
    key = layer or default_matrix(adata, expression)
    hint = _preprocess_command(source)
    x = matrix_of(adata, key)
    check_expression(x, expression, f"the input's {key}", hint)
    trained_on = ~held_out(adata.obs, holdout)
    if trained_on.sum() < LEAST_CELLS:
        raise InputError(f"{trained_on.sum()} cells are left to train on; at least {LEAST_CELLS} are needed")
    fields = fit_fields(
        adata[trained_on],
        condition=condition,
        control=control,
        batches=batch,
        covariates=covariate,
        label=label,
        kinds=kinds,
        condition_may_be_missing=allow_missing_condition,
        unlabelled=unlabelled,
    )
    cells = make_cells(adata, x, fields, ignore=~trained_on)
    kept = np.flatnonzero(trained_on)
    train_rows, validation_rows = _split(cells.condition.numpy(), kept, plan.validation, seed)
    if issubclass(cls, LearnsGraph):
        _warn_of_few_cells(cells.condition.numpy()[kept], fields.one(CONDITION))

    record = ModelRecord(
        format_version=ModelRecord.FORMAT,
        cellalign=package_version(),
        method=method,
        hyperparameters=hyperparameters.model_dump(mode="json"),
        training=plan.model_dump(mode="json"),
        preset=preset,
        matrix=key,
        fields=field_records(fields),
        holdout=list(holdout),
        seed=seed,
        cells=CellNumbers(all=adata.n_obs, trained=len(train_rows), validation=len(validation_rows)),
        source=source_record(source),
        command=shlex.join(sys.argv) if source is not None else None,
        command_hint=hint,
        versions=_library_versions(),
        genes=genes,
    )
    checkpoint = _checkpoint(model_path, record, resume)
    torch.manual_seed(seed)
    module = build(record)
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
    return Model(module, record.model_copy(update={"outcome": _outcome(state)}), state.history)


def discard_checkpoint(model_path: str | os.PathLike[str]) -> None:
    """Delete the checkpoint beside a model directory: the model is saved, nothing is left to resume."""
    Checkpoint.beside(model_path, {}).remove()


def load(directory: str | os.PathLike[str]) -> Model:
    """Read a model directory; ModelError where it is absent, damaged or of a newer version."""
    return Model.load(Path(directory))


def embed(adata: AnnData, model: Model, **options: Any) -> AnnData:
    """Add the latents to `adata.obsm[model.embedding_key]` and return it; options as for `Model.embeddings`."""
    adata.obsm.update(model.embeddings(adata, **options))
    adata.uns[KEY] = Provenance.of(adata.uns).with_steps(model.embedding_record()).plain()
    of_both = {key: value for key, value in options.items() if key != "batch_size"}
    for name, values in model.inferred_condition(adata, **of_both).items():
        adata.obs[name] = values
    return adata


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
        for old, new in old_names(cls.renamed_settings, layer).items():
            log.info("setting %r is called %r now", old, new)
            layer = {new if key == old else key: value for key, value in layer.items()}
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


def _check_condition(
    cls: type[Method], condition: str | None, kinds: Mapping[str, str], continuous: bool, may_be_missing: bool
) -> None:
    """Refuse an option about the condition that the method has no answer to."""
    for asked, option in ((continuous, "--continuous"), (may_be_missing, "--allow-missing-condition")):
        if asked and condition is None:
            raise UsageError(f"{option} needs --condition KEY")
    kind = kinds.get(condition or "", "categorical")
    if kind not in cls.condition_kinds:
        able = ", ".join(name for name, other in loadable() if kind in other.condition_kinds) or "none"
        said = "--continuous" if kind == "number" else f"condition of the kind {kind!r}"
        raise UsageError(f"method {cls.name!r} has no {said}; these have: {able}")
    if may_be_missing and not issubclass(cls, InfersCondition):
        raise UsageError(f"{lacks(cls.name, InfersCondition)} (--allow-missing-condition)")


def _kinds(
    condition: str | None, continuous: bool, numeric: Sequence[str], kinds: Mapping[str, str] | None
) -> dict[str, str]:
    """Kinds of the columns that are not categories."""
    found = {key: "number" for key in numeric} | dict(kinds or {})
    return found | ({condition: "number"} if continuous and condition is not None else {})


def package_version() -> str:
    """Version of the installed package."""
    try:
        return version("cellalign")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"


def _library_versions() -> dict[str, str]:
    names = ("torch", "anndata", "numpy", "scipy")
    return {"python": sys.version.split()[0]} | {name: version(name) for name in names}


def _warn_of_few_cells(codes: np.ndarray, condition: Any) -> None:
    """Tell of interventions whose targets a handful of cells can hardly show."""
    known = condition.categories
    sizes = np.bincount(codes, minlength=len(known))
    named = zip(known, sizes, strict=True)
    few = [f"{name} ({n})" for name, n in named if n < FEW_CELLS and name != condition.reference]
    if few:
        listed = ", ".join(few[:10]) + (", ..." if len(few) > 10 else "")
        log.warning("%d of %r have fewer than %d cells; kept: %s", len(few), condition.name, FEW_CELLS, listed)


def _split(condition: np.ndarray, kept: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation rows among those kept."""
    train_rows, validation_rows = stratified_split(condition[kept], fraction, seed)
    return kept[train_rows], kept[validation_rows]


def _checkpoint(model_path: str | os.PathLike[str] | None, record: ModelRecord, resume: bool) -> Checkpoint | None:
    if model_path is None:
        if resume:
            raise UsageError("--resume needs the model directory's path")
        return None
    settings = record.model_dump(mode="json", include=set(CheckpointRecord.COMPARED))
    checkpoint = Checkpoint.beside(model_path, settings)
    if resume and not checkpoint.exists():
        raise UsageError(f"nothing to resume: there is no {checkpoint.path}; train without --resume")
    if not resume:
        checkpoint.remove()
    return checkpoint


def _outcome(state: State) -> Outcome:
    best = (state.best_epoch, round(state.best_loss, 6)) if state.best_epoch else (None, None)
    return Outcome(
        epochs=state.epoch,
        steps=state.step,
        seconds=round(state.seconds, 2),
        best_epoch=best[0],
        validation_loss=best[1],
    )


def _preprocess_command(source: str | os.PathLike[str] | None) -> str:
    if source is None:
        return "cellalign.preprocess(adata)"
    path = Path(source)
    return shlex.join(["cellalign", "preprocess", str(source), "-o", f"{path.stem}.pp.h5ad"])
