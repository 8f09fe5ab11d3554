"""train --from: a trained model learns the batches and conditions of more cells, as reference mapping does elsewhere.

The networks are given a condition or batch as weights of its own, which enter at a layer. New ones get new weights,
that begin as the mean of the old ones; they alone learn, so what the model makes of cells it knows stays as it was, or
with `learn="all"` all others do too, slowly (scArches: Lotfollahi et al. 2022).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cellalign.errors import InputError, ModelError, UsageError, option
from cellalign.tasks.prepare import PLANNED, Prepared, made_by, on_device, split_rows, to_read_often, training_rows
from cellalign.tasks.roles import kinds_of
from cellalign.tasks.trained_with import training_options
from cellalign.tasks.unheeded import unheeded

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from cellalign.data.said import Note
    from cellalign.engine.learning_on import LearningOn
    from cellalign.engine.plan import Plan
    from cellalign.methods.base import ContextWeight, Fields, Method
    from cellalign.model import Model
    from cellalign.records import ModelRecord

log = logging.getLogger("cellalign")

Learn = Literal["new", "all"]
# learning rates, of the model's own: few weights have a long way to go, all others are where they should be
FASTER, SLOWER = 10.0, 0.1
DECIDED = (  # of the parameters of `train`, those that the model decides, but for kinds and settings
    "condition",
    "control",
    "batch",
    "covariate",
    "label",
    "unlabelled",
    "allow_missing_condition",
    "expression",
    "layer",
    "n_top_genes",
    "rounded",
)


@dataclass(frozen=True)
class Parent:
    """The model that is learned on from.

    Attributes
    ----------
    model : Model
    path : str, optional
        Its directory; None of a model in memory.
    learn : str
        "new" or "all".
    missing_genes : str
        "error" or "zero".
    """

    model: Model
    path: str | None
    learn: str
    missing_genes: str

    @classmethod
    def of(
        cls,
        given: Model | str | Path | None,
        learn: str | None = None,
        method: str | None = None,
        missing_genes: str = "error",
    ) -> Parent | None:
        """The model, or that of a directory; None where none is given.

        Raises
        ------
        ModelError
            It cannot be read, or its method has no weights for each condition or batch.
        UsageError
            It is of another method than the one that is named, or what needs it is asked for without it.
        """
        if given is None:
            _check_without(learn, missing_genes)
            return None
        from cellalign.methods.base import LearnsOn
        from cellalign.model import Model, load

        path = None if isinstance(given, Model) else os.path.abspath(given)
        model = given if isinstance(given, Model) else load(given)
        if method not in (None, model.name):
            named = "the model to learn on from" if path is None else option("from_", str(given))
            own = option("method", model.name)
            raise UsageError(f"{option('method', method)}: {named} is of another method; say {own}, or leave it out")
        model.needs(LearnsOn)
        if learn not in (None, "new", "all"):
            raise UsageError(f"{option('learn', learn)} is neither 'new' nor 'all'")
        return cls(model, path, learn or "new", missing_genes)


def _check_without(learn: str | None, missing_genes: str) -> None:
    """Refuse options of a training that begins with a model, where none is named."""
    asked = {"learn": learn, "missing_genes": None if missing_genes == "error" else missing_genes}
    for name, value in asked.items():
        if value is not None:
            raise UsageError(f"{option(name, value)} needs {option('from_', hint='MODEL')}, the model to learn on from")


def prepare_on(adata: AnnData, *, parent: Parent, **asked: Any) -> Prepared:
    """As `prepare`, of a training that begins with a model, whose genes, scale, columns and settings are taken.

    Parameters
    ----------
    adata : AnnData
        New cells; old ones may be among them.
    parent : Parent
    **asked
        Parameters of `prepare`.

    Raises
    ------
    UsageError
        Something is asked for that the model decides.
    InputError
        As `prepare`; or all new weights are to learn, and the cells have no value that the model does not know.
    """
    import pandas as pd

    from cellalign.data.counts import Place
    from cellalign.data.fields import field_records
    from cellalign.data.given import given_cells
    from cellalign.data.loader import make_cells
    from cellalign.engine.ranks import current
    from cellalign.methods.base import Fields
    from cellalign.records import CellNumbers, LearnedFrom

    model, seed = parent.model, asked.get("seed", 0)
    _check_asked(model, asked)
    plan = _plan(model, asked)
    adata = given_cells(adata)
    x = model.expression_of(adata, parent.missing_genes)
    trained_on = training_rows(adata, asked.get("holdout", ()), model.control)
    fields = Fields([field.extended(adata[trained_on]) for field in model.fields])
    notes = [*_of_new(parent, fields), *_of_labels(model, adata[trained_on]), *_of_design(adata[trained_on], fields)]
    cells = make_cells(adata, to_read_often(x, type(model.method)), fields, ignore=~trained_on)
    train_rows, validation_rows = split_rows(cells, trained_on, plan, seed)
    notes += unheeded(type(model.method), model.method.hp, asked, len(validation_rows))
    origin = LearnedFrom(
        path=parent.path,
        weights=model.weights_checksum,
        content=model.record.content,
        learn=parent.learn,
        missing_genes=parent.missing_genes,
    )
    changed: dict[str, Any] = {
        "training": plan.model_dump(mode="json"),
        # the model may know it of its own training file alone; and no genes are chosen of these cells
        "recipe": model.record.recipe.model_copy(update={"target_sum": model.target_sum, "n_top_genes": None}),
        "content": current().told(cells.content),
        "fields": field_records(fields),
        "holdout": list(asked.get("holdout", ())),
        "seed": seed,
        "cells": CellNumbers(all=adata.n_obs, trained=len(train_rows), validation=len(validation_rows)),
        "learned_from": origin,
        "hyperparameters": model.method.hp.model_dump(mode="json"),
        "format_version": type(model.record).FORMAT,
    }
    # the errors of held-out groups are the other model's, which knows the values that it was calibrated for
    unset = dict.fromkeys(("weights_checksum", "outcome", "machine", "calibration"))
    record = model.record.model_copy(update=changed | unset | made_by(asked.get("source")))
    counts = None
    if model.expression == "counts":
        counts = Place(model.matrix, x, pd.DataFrame(index=model.genes), adata.obs_names, f"the input's {model.matrix}")
    return Prepared(record, cells, plan, train_rows, validation_rows, notes, x, counts)


def started(parent: Parent, record: ModelRecord) -> tuple[Method, LearningOn]:
    """The model's networks with weights for the new values too, and what of them is to learn."""
    from cellalign.engine.learning_on import LearningOn
    from cellalign.model_directory import build_to_train

    wider = build_to_train(record)
    new = widen(parent.model.method, wider)
    rest = SLOWER / FASTER if parent.learn == "all" else 0.0
    return wider, LearningOn({name: mask for name, mask in new.items() if bool(mask.any())}, rest)


def widen(method: Any, wider: Any) -> dict[str, Any]:
    """Fill a method that was built for more values with the weights of one that knows fewer; new ones are their mean.

    Parameters
    ----------
    method, wider : Method with LearnsOn
        The fields of the second are those of the first, some with more values after the old ones.

    Returns
    -------
    dict of str to bool Tensor
        By name of each parameter for conditions, batches or covariates, which of its values are new.
    """
    import torch

    state, new = wider.state_dict(), {}
    weights: Mapping[str, ContextWeight] = wider.context_weights()
    for name, value in method.state_dict().items():
        if name not in weights:
            state[name] = value
            continue
        weight, mask = weights[name], torch.zeros(state[name].shape, dtype=torch.bool)
        filled = value.narrow(weight.dim, 0, weight.before)
        parts, at = [filled], weight.before
        for old, field in zip(method.layout.fields, wider.layout.fields, strict=True):
            if field.role not in weight.roles:
                continue
            own, added = value.narrow(weight.dim, at, old.width), field.width - old.width
            at += old.width
            parts += [own, own.mean(weight.dim, keepdim=True).repeat_interleave(added, weight.dim)]
            end = sum(part.shape[weight.dim] for part in parts)
            mask.narrow(weight.dim, end - added, added).fill_(True)
        state[name], new[name] = torch.cat(parts, weight.dim), mask
    wider.load_state_dict(state)
    return new


def _check_asked(model: Model, asked: Mapping[str, Any]) -> None:
    """Refuse columns, and ways to read them or the matrix, that are not the model's."""
    own = training_options(model.record) | {"layer": model.matrix}
    if asked.get("preset") is not None:
        raise UsageError(f"{option('preset', asked['preset'])}: the model's settings stay as they are; leave it out")
    for name in DECIDED:
        given, has = asked.get(name), own[name]
        listed = name in ("batch", "covariate")
        if not given or (sorted(given) == sorted(has) if listed else str(given) == str(has)):
            continue
        shown = option(name, list(given) if listed else given)
        kept = f"learned with {option(name, has)}" if has else "learned without"
        raise UsageError(f"{shown}: the model {kept}, and goes on so; leave it out")
    kinds = kinds_of(own["condition"], asked.get("continuous", False), asked.get("numeric", ()), asked.get("kinds"))
    known = {field.name: field.kind for field in model.fields}
    for key, kind in kinds.items():
        if known.get(key) != kind:
            has = f"a {known[key]}" if key in known else "none of its columns"
            raise UsageError(f"{key} is said to be a {kind}; to the model it is {has}")


def _plan(model: Model, asked: Mapping[str, Any]) -> Plan:
    """The model's own plan without KL warm-up and at a higher rate, but for what is asked for.

    Raises
    ------
    UsageError
        Another setting of the method is asked for.
    """
    from cellalign.engine.settings import merge_settings

    cls, own = type(model.method), model.method.hp.model_dump(mode="json")
    kept = {key: value for key, value in model.record.training.items() if key != "precision"}
    named = {name: asked[name] for name in PLANNED if asked.get(name) is not None}
    changed = {"warmup_epochs": 0, "lr": min(1.0, FASTER * kept["lr"])}
    layers = [own, kept, changed, asked.get("config") or {}, asked.get("settings") or {}, named]
    hyperparameters, plan = merge_settings(cls, layers)
    for key, value in hyperparameters.model_dump(mode="json").items():
        if value != own[key]:
            raise UsageError(f"{key}={value}: the model learned with {key}={own[key]}, and goes on so; leave it out")
    device, threads = asked.get("device", "auto"), asked.get("threads")
    return on_device(cls, hyperparameters, plan, device, threads, asked.get("automatic"))


def _of_new(parent: Parent, fields: Fields) -> Iterator[Note]:
    """What is new, and what of it the networks are given.

    Raises
    ------
    InputError
        New weights alone are to learn, and there are none.
    """
    from cellalign.data.values import listed

    method: Any = parent.model.method
    weights = list(method.context_weights().values())
    seen = {role for weight in weights for role in weight.roles}
    embedded = {role for weight in weights if weight.embeds for role in weight.roles}
    learned = 0
    for old, field in zip(parent.model.fields, fields, strict=True):
        new = field.categories[len(old.categories) :]
        if not new:
            continue
        yield logging.INFO, f"new {field.role} of {field.name!r} beside {len(old.categories)}: {listed(new, 8)}"
        if field.role not in seen:
            yield logging.WARNING, f"method {parent.model.name} is not given {field.name!r}, and learns nothing of it"
            continue
        learned += 1
        if field.role not in embedded and parent.learn == "new":
            said = f"the encoder of {parent.model.name} is not given {field.name!r}: cells are embedded as before"
            yield logging.WARNING, f"{said}, and their decoding is learned; {option('learn', 'all')} moves both"
    if not learned and parent.learn == "new":
        of = ", ".join(repr(field.name) for field in fields if field.role in seen and field.categories)
        raise InputError(
            f"these cells have no value of {of or 'any column'} that the model does not know: there is nothing new to "
            f"learn; embed takes them as they are, {option('learn', 'all')} trains all weights on"
        )


def _of_labels(model: Model, cells: AnnData) -> Iterator[Note]:
    """Labels that the model does not know, which count as none."""
    from cellalign.data.columns import column
    from cellalign.data.values import listed

    field = model.fields.one("label")
    if field is None:
        return
    if field.name not in cells.obs:
        yield logging.INFO, f"no column {field.name!r} in obs: these cells are learned from as unlabelled"
        return
    names = column(cells.obs, field.name, purpose="label", missing=True, named=field.named)
    unknown = field.known.codes(list(names.categories)) < 0
    new = [str(name) for name, no in zip(names.categories, unknown, strict=True) if no and name != field.missing_value]
    if new:
        n = int(cells.obs[field.name].astype(str).isin(new).sum())
        said = f"{n} cells have a label that the model does not know, and are learned from as unlabelled"
        yield logging.WARNING, f"{said}: {listed(new, 8)}"


def _of_design(cells: AnnData, fields: Fields) -> list[Note]:
    """What the columns of these cells say of each other: as of any training, of the values that are there."""
    from cellalign.data.design import check_design
    from cellalign.methods.base import LABEL, Fields

    there = [_occurring(field, cells) for field in fields if field.role != LABEL]
    several = [field for field in there if len(field.categories) != 1]  # one new batch is what is usual here
    return [note for note in check_design(cells, Fields(several)) if note[0] > logging.INFO]


def _occurring(field: Any, cells: AnnData) -> Any:
    """A field with those of its categories that cells have."""
    import numpy as np

    if field.kind != "categorical":
        return field
    codes: np.ndarray = field.encode(cells)
    used = np.unique(codes[codes >= 0])
    names = tuple(field.categories[code] for code in used)
    reference = field.reference if field.reference in names else None
    return field.model_copy(update={"categories": names, "reference": reference})


def check_parent(record: ModelRecord) -> None:
    """Refuse to train a model again whose parent is not what it was.

    Raises
    ------
    ModelError
        It is not known, gone, or has other weights now.
    """
    from cellalign.model_directory import read_record

    origin = record.learned_from
    if origin is None:
        return
    if origin.path is None:
        raise ModelError("this model learned on from one in memory, which is gone: it cannot be trained again")
    try:
        now = read_record(origin.path).weights_checksum
    except ModelError as error:
        raise ModelError(f"this model learned on from another one, which cannot be read: {error}") from error
    if now != origin.weights:
        raise ModelError(
            f"this model learned on from {origin.path}, whose weights are others now; put it back as it was"
        )
