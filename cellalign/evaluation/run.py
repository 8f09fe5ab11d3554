"""Runs the panels: all that the inputs allow, or those asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from cellalign.data.columns import column
from cellalign.data.embeddings import embedding_keys, has_embedding
from cellalign.data.matrices import refuse_zeros
from cellalign.errors import InputError, UsageError, kwonly, nearest, option, takes
from cellalign.evaluation.inputs import Inputs, NotApplicable, OfAnotherKind
from cellalign.evaluation.panel import Panel
from cellalign.evaluation.panels import PANELS
from cellalign.evaluation.predictions import check_finite, label_of, of_another_tool, origin_notes, refuse_predicted
from cellalign.evaluation.progress import told
from cellalign.evaluation.table import Evaluation
from cellalign.records import Counterfactual, Provenance, find_obsm_key

if TYPE_CHECKING:
    from anndata import AnnData

    from cellalign.model import Model

log = logging.getLogger("cellalign")
MOST_COLUMNS = 10_000  # of an embedding: as many latents as a method may have

SCORED = 50_000  # cells of an embedding that are scored, of more as many drawn at random


def evaluate(
    adata: AnnData,
    *,
    condition: str | None = None,
    batch: str | None = None,
    label: str | None = None,
    control: str | None = None,
    against: AnnData | None = None,
    embedding: str | Sequence[str] | None = None,
    panels: Sequence[str | Panel] | None = None,
    extra_panels: Sequence[str] = (),
    model: Model | None = None,
    device: str = "auto",
    seed: int = 0,
    expression: str | None = None,
    within: str | None = None,
    **options: Any,
) -> Evaluation:
    """Score embedded cells, or a counterfactual against real cells; `tasks.evaluate.evaluate` says what each means.

    Parameters
    ----------
    panels : sequence of str or Panel, optional
        By name, or with options of its own: `evaluation.panels.mixing.Mixing(k=50)`.
    **options
        Those of the panels' classes, such as k of mixing.
    """
    from cellalign.data.given import given_cells

    adata, against = given_cells(adata), None if against is None else given_cells(against)
    record = Provenance.of(adata.uns).latest
    if "also" in options:  # its name in earlier versions
        extra_panels = options.pop("also")
    _check_options(options)
    if panels is not None and not panels:
        raise UsageError(f"{option('panels')} names no panel")
    chosen = _chosen(PANELS if panels is None else panels, options)
    _chosen(extra_panels, options)  # an unknown name is refused also where all panels run
    check_installed([*(() if panels is None else panels), *extra_panels])
    condition = condition or (record.condition if record else None) or (model.condition if model else None)
    if condition is None and batch is None:
        raise UsageError(
            f"{option('condition', hint='KEY')} is needed: the obs column whose mixing or effect is scored; for "
            f"panel bio alone {option('batch', hint='KEY')} is enough"
        )
    continuous = record is not None and condition is not None and condition == record.condition and record.continuous
    columns = {"condition": None if continuous else condition, "batch": batch, "label": label}
    for purpose, key in columns.items():
        if key is not None:
            if not len(column(adata.obs, key, purpose=purpose, missing=True).categories) and adata.n_obs:
                raise InputError(f"not one cell has a value in {purpose} column {key!r}; name another")
    result = Evaluation()
    predictions = _predictions(adata, against, condition, control, embedding, panels, result, expression)
    if against is not None and predictions:
        from cellalign.data.recipe import comparable

        refuse_predicted(against)
        if len(predictions) > 1:  # one condition with a bad value is not one fewer to score
            check_finite(adata.X, "the prediction's X")

        against = comparable(adata, against, predictions[0].expression, option("against"))
        result.notes.extend(origin_notes(adata, against, model))
    scored = not predictions or _embedded(adata, embedding)
    inputs = Inputs(
        adata=adata,
        against=against,
        condition=condition,
        label=label,
        control=control,
        embeddings=_latents(adata, embedding, model, device, result.notes) if scored else {},
        seed=seed,
        result=result,
        model=model,
        device=device,
        values_in=_values_in(adata, model, expression),
        continuous=continuous,
        batch=batch,
        predictions=predictions,
        within=_within(within, against, predictions),
    )
    if label is None and against is not None and predictions:
        inputs = replace(inputs, label=label_of(inputs))
    inputs = replace(inputs, model_validation=_model_validation(inputs))
    inputs = sampled(replace(inputs, validation=_validation(inputs)))
    if panels is None and batch is None and len(inputs.embeddings) == 1:
        left_out = [panel for panel in chosen if panel.asked_only and panel.name not in extra_panels]
        named = {name: option(name) for name in ("panels", "batch")}
        unasked = {panel.name: panel.not_installed() or panel.asked_only.format(**named) for panel in left_out}
        chosen = [panel for panel in chosen if panel.name not in unasked]
        result.left_out |= unasked
    far = _run(chosen, inputs, required=panels is not None)
    if not result.rows:
        raise InputError(f"no panel can run: {_why_none(result.left_out, far)}")
    _note_unused(options if batch is None else options | {"batch": batch}, result)
    return result


def _note_unused(options: Mapping[str, Any], result: Evaluation) -> None:
    """Note options of panels of which none ran: they did nothing."""
    ran = {row.panel for row in result.rows}
    defaults = [(cls.name, own.name, own.default) for cls in PANELS.values() for own in fields(cls)]
    for panel, name, default in (*defaults, ("bio", "batch", None)):
        if options.get(name, default) != default and panel not in ran and takes(name):
            said = option(name, options[name])
            result.notes.append(f"{said} did nothing: it is of panel {panel}, which did not run")


def sampled(inputs: Inputs) -> Inputs:
    """Of more embedded cells than `SCORED` so many, drawn at random; that is noted, with how far shares may be off."""
    n = inputs.adata.n_obs
    if n <= SCORED or inputs.predictions or not inputs.embeddings:
        return inputs
    drawn = np.zeros(n, dtype=bool)
    drawn[np.random.default_rng(inputs.seed).permutation(n)[:SCORED]] = True
    found = inputs.some(drawn)
    shares = 1.96 * 0.5 * np.sqrt((1 - SCORED / n) / SCORED)
    inputs.notes.append(
        f"embeddings are scored on {SCORED:,} of {n:,} cells, drawn at random: a share of all, such as an accuracy, is "
        f"off by {shares:.2g} at most (95 %), one of a group of m cells by 1 / sqrt(m); neighbours are those among "
        "the drawn cells"
    )
    return found


def _values_in(adata: AnnData, model: Model | None, expression: str | None) -> str | None:
    """The matrix that is taken as it is: because it is asked for, or the model or what embedded the cells did so."""
    written = Provenance.of(adata.uns).latest_embedding
    if model is not None and model.expression == "any":
        return model.matrix
    if written is not None and written.expression == "any":
        return written.matrix or "X"
    return "X" if expression == "any" else None


def _model_validation(inputs: Inputs) -> np.ndarray | None:
    """Which cells the model was validated on, where these are the cells it knows."""
    rows = None if inputs.model is None else inputs.model.validation_rows(inputs.adata)
    return None if rows is None else np.isin(np.arange(inputs.adata.n_obs), rows)


def _validation(inputs: Inputs) -> np.ndarray | None:
    """Which cells the embedding's model was validated on: as `embed` wrote it, or as the model knows its own cells."""
    if len(inputs.embeddings) != 1:
        return None
    [key] = inputs.embeddings
    obs, record = inputs.adata.obs, Provenance.of(inputs.adata.uns).embedding.get(key)
    model = inputs.model
    own = model is not None and key in (model.embedding_key, model.draw_key)
    of_model = own and model is not None and model.made(record) is not False
    if of_model and inputs.model_validation is not None:
        return inputs.model_validation
    if record is None or record.split is None or record.split not in obs:
        return None
    return np.asarray(obs[record.split].astype(str) == "validation")


def _predictions(
    adata: AnnData,
    against: AnnData | None,
    condition: str | None,
    control: str | None,
    embedding: str | Sequence[str] | None,
    panels: Sequence[str | Panel] | None,
    result: Evaluation,
    expression: str | None,
) -> list[Counterfactual]:
    """What the cells predict; with real cells to compare with, cells without a record are another tool's prediction."""
    own = Provenance.of(adata.uns).counterfactual
    asked = any((panel if isinstance(panel, str) else panel.name) == "response" for panel in panels or ())
    if own is not None or against is None or (_embedded(adata, embedding) and not asked):
        return [] if own is None else own.each()
    found = of_another_tool(adata, against, condition, control, expression)
    values = ", ".join(record.to for record in found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    result.notes.append(
        f"no record of cellalign counterfactual: taken as another tool's prediction ({found[0].expression} expression) "
        f"of {condition}={values}, from {found[0].from_ or 'all other cells'}"
    )
    return found


def _within(key: str | None, against: AnnData | None, predictions: Sequence[Counterfactual]) -> str | None:
    """The column in which controls are as what they are compared with, where it is one of the real cells."""
    if key is None:
        return None
    if against is None or not predictions:
        raise UsageError(
            f"{option('within', key)} chooses the controls of a prediction: it needs one, and the real cells"
        )
    column(against.obs, key, purpose=option("within"), missing=True)
    return key


def _embedded(adata: AnnData, keys: str | Sequence[str] | None) -> bool:
    """Whether there is an embedding to score: one was named, or cellalign wrote one."""
    return bool(keys) or bool(Provenance.of(adata.uns).embedding)


OF_ANOTHER_KIND, NOT_OF_THE_INPUT = 1, 2  # how far a reason is from the input that was given


def _why_none(left_out: Mapping[str, str], far: Mapping[str, int]) -> str:
    """Why each panel has no scores: first those whose inputs these are, last what is no matter of the input."""
    own = [f"{panel}: {reason}" for panel, reason in left_out.items() if panel in far and not far[panel]]
    by_reason: dict[str, list[str]] = {}
    others = (panel for panel in left_out if far.get(panel, NOT_OF_THE_INPUT))
    for panel in sorted(others, key=lambda panel: far.get(panel, NOT_OF_THE_INPUT)):
        by_reason.setdefault(left_out[panel], []).append(panel)
    return "; ".join([*own, *(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())])


def _run(panels: Iterable[Panel], inputs: Inputs, *, required: bool) -> dict[str, int]:
    """Add every panel's rows to the result, or the reason why there are none; InputError where it was required.

    Returns
    -------
    dict
        Of the panels without scores how far the reason is from the input: 0 where it is of it, `OF_ANOTHER_KIND` where
        the panel is of other inputs, `NOT_OF_THE_INPUT` where a package is not here.
    """
    far = {}
    for panel in panels:
        if not required and not panel.concerns(inputs):
            continue
        try:
            if panel.not_installed():
                raise NotApplicable(panel.not_installed())
            with told(f"panel {panel.name}"):
                inputs.result.rows += list(panel.run(inputs))
        except NotApplicable as reason:
            if required:
                raise InputError(f"panel {panel.name} cannot run: {reason}") from reason
            inputs.result.left_out[panel.name] = str(reason)
            of_another = OF_ANOTHER_KIND if isinstance(reason, OfAnotherKind) else 0
            far[panel.name] = NOT_OF_THE_INPUT if panel.not_installed() else of_another
        if panel.metrics_as_rows:
            inputs.result.metrics_as_rows.add(panel.name)
    return far


def check_installed(panels: Iterable[str | Panel]) -> None:
    """Refuse panels, by name or not, that compute with a package that is not here: UsageError that says the cure."""
    for panel in _chosen(panels, {}):
        if panel.not_installed():
            raise UsageError(f"panel {panel.name} cannot run: {panel.not_installed()}")


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuse an option that no panel has: UsageError."""
    known = [name for cls in PANELS.values() for name in cls.options()]
    for name in options:
        if name not in known:
            near = nearest(name, [*known, *kwonly(evaluate)])
            raise UsageError(f"unknown option {name!r}.{near} Options of panels: {', '.join(known)}")


def _chosen(panels: Iterable[str | Panel], options: Mapping[str, Any]) -> list[Panel]:
    """The panels, those given by name with what of the options is theirs; UsageError of an unknown name."""
    settled = []
    for panel in panels:
        if isinstance(panel, str):
            name = _present_name(panel.strip())
            if name not in PANELS:
                raise UsageError(f"unknown panel {name!r}.{nearest(name, PANELS)} Panels: {', '.join(PANELS)}")
            cls = PANELS[name]
            panel = cls(**{option: options[option] for option in cls.options() if option in options})
        settled.append(panel)
    return settled


def _present_name(name: str) -> str:
    """The panel's name now, where an earlier version had another."""
    for cls in PANELS.values():
        if name in cls.former_names:
            log.info("panel %s is called %s now", name, cls.name)
            return cls.name
    return name


def _latents(
    adata: AnnData, keys: str | Sequence[str] | None, model: Model | None, device: str, notes: list[str]
) -> dict[str, np.ndarray]:
    """The embeddings to score by obsm key, from the model where the cells have none, or of other models alone."""
    provenance = Provenance.of(adata.uns)
    records = {key: record for key, record in provenance.embedding.items() if find_obsm_key(key, adata.obsm)}
    if model is not None and not keys:
        own = sorted((key for key in records if model.made(records[key])), key=lambda key: records[key].step)
        others = [key for key in records if model.made(records[key]) is False]
        if not own and (others or not has_embedding(adata)):
            if others:
                there = ", ".join(others)
                notes.append(f"{there} in obsm is of another model than {option('model')}: embedded by it anew")
            return {model.embedding_key: model.embed(adata, device=device)}
        keys = own[-1:]
    named: Sequence[str | None] = [keys] if isinstance(keys, str) else keys or [None]
    found = dict(_embedding(adata, key) for key in named)
    for key in found:
        if model is not None and model.made(records.get(key)) is False:
            notes.append(f"{key} is of another model than {option('model')}, and its scores are of that one")
    return found


def _embedding(adata: AnnData, key: str | None) -> tuple[str, np.ndarray]:
    """obsm key and latents of the embedding to score."""
    known, written = embedding_keys(adata), Provenance.of(adata.uns).latest_embedding
    key = key or (written.key if written is not None else None)
    if key is None:
        if len(known) != 1:
            found = ", ".join(known) or "none"
            raise InputError(
                f"no single embedding X_* in obsm (found: {found}); run cellalign embed or give {option('embedding')}; "
                f"to score a prediction give {option('against', hint='FILE')}, the real cells"
            )
        key = known[0]
    there = find_obsm_key(key, adata.obsm)
    if there is None:
        raise InputError(f"no embedding {key!r} in obsm.{nearest(key, adata.obsm)} There: {', '.join(adata.obsm)}")
    return key, _as_array(adata.obsm[there], key)


def _as_array(values: Any, key: str) -> np.ndarray:
    """An element of obsm, be it an array, sparse, or a table, as float32 [n, p].

    Raises
    ------
    InputError
        It holds no numbers, no columns, nothing but zeros, or NaN or infinite values, or it has more columns than an
        embedding.
    """
    if len(values.shape) != 2 or values.shape[1] == 0:
        raise InputError(f"embedding {key!r} is of shape {tuple(values.shape)}; it needs a row per cell and columns")
    if values.shape[1] > MOST_COLUMNS:
        raise InputError(f"embedding {key!r} has {values.shape[1]} columns, more than an embedding has; name another")
    try:
        with np.errstate(over="ignore"):
            z = np.asarray(values.toarray() if sparse.issparse(values) else values)
            if z.dtype.kind not in "iufbO":
                raise ValueError(f"it holds {z.dtype}")
            z = z.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"embedding {key!r} is not numeric: {str(error).splitlines()[0]}") from error
    if not np.isfinite(z).all():
        raise InputError(f"embedding {key!r} holds NaN or infinite values")
    refuse_zeros(z, f"embedding {key!r}")
    return z
