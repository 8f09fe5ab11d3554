"""What cells would look like under another condition: settled at once, computed batch by batch when it is read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from cellalign.combining import added_up, rule_of
from cellalign.data.columns import Where
from cellalign.data.fingerprints import written
from cellalign.data.images import KEY as IMAGES
from cellalign.data.interventions import Intervention, intervention
from cellalign.data.loader import Cells, make_cells
from cellalign.data.said import tell
from cellalign.data.split import held_out
from cellalign.data.stored import Stacked, Stored
from cellalign.data.streamed import StreamedCells
from cellalign.engine.device import computed, pick_device
from cellalign.engine.predict import n_batches, own_predictions, predictions
from cellalign.errors import UsageError, option
from cellalign.intervals import check_interval, intervals
from cellalign.methods.base import BATCH, Layout, Predicts
from cellalign.records import Counterfactual, Provenance
from cellalign.records.provenance import KEY

if TYPE_CHECKING:
    from cellalign.calibration import Over
    from cellalign.model import Model

log = logging.getLogger("cellalign")
T = TypeVar("T")


@dataclass(frozen=True)
class Prediction:
    """Cells under an intervention, computed batch by batch when `batches` is read.

    Attributes
    ----------
    obs : DataFrame
        Of the source cells, with what was set and, as `<column>_source`, what it was; of several draws all cells of the
        first, then of the second.
    var : DataFrame
    obsm : dict
        Vectors that the model reads.
    source : matrix [n_source, G]
        The observed expression.
    record : Counterfactual
    draws : int
        Cells predicted of each source cell; 0 for their mean.
    image_shape : tuple of int, optional
        Of images.
    trained : int64 array, optional
        Fingerprints of the cells that the model has seen: `evaluate` tells by them what is fitted.
    """

    obs: pd.DataFrame
    var: pd.DataFrame
    obsm: dict[str, Any]
    source: Any
    record: Counterfactual
    provenance: Provenance
    draws: int
    one: Settled
    image_shape: tuple[int, ...] | None = None
    trained: np.ndarray | None = None

    @property
    def copies(self) -> int:
        """Rows of each source cell."""
        return max(1, self.draws)

    def batches(self) -> Iterator[dict[str, Any]]:
        """Matrices by layer for the next source cells: "X" [B, G], of several draws [draws, B, G]; "drawn" is CSR."""
        for _, part in self.own_batches():
            yield part

    def own_batches(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Of several ranks this one's, each with the number of its first source cell."""
        for first, part in self.one.parts():
            if "drawn" in part:  # counts, of which most are 0
                part = part | {"drawn": sparse.csr_matrix(part["drawn"])}
            yield first, part

    @property
    def uns(self) -> dict[str, Any]:
        """Provenance, fingerprints, and the shape of images."""
        return uns_of(self.provenance.with_steps(self.record), self.trained, self.var.index, self.image_shape)

    def bare(self, *, writes: bool = True) -> AnnData:
        """All that is known before anything is computed: obs, var, uns and the observed cells as layers["source"].

        For a rank that does not write them without what is in memory of the last.
        """
        if not (writes or isinstance(self.source, Stored)):
            return AnnData(obs=self.obs[[]], var=self.var[[]])
        source = _repeated(self.source, max(1, self.draws))
        times = max(1, self.draws)
        obsm = {name: _repeated(values, times) for name, values in self.obsm.items()}
        if isinstance(source, Stored):
            return StreamedCells({"source": source}, obs=self.obs, var=self.var, obsm=obsm, uns=self.uns)
        return AnnData(obs=self.obs, var=self.var, obsm=obsm, layers={"source": source}, uns=self.uns)

    def to_adata(self) -> AnnData:
        """All of it in memory."""
        found: dict[str, list[Any]] = {}
        for batch in self.batches():
            for name, values in batch.items():
                found.setdefault(name, []).append(values)
        x = np.concatenate(found.pop("X"), axis=-2)
        if self.draws:
            x = x.reshape(-1, x.shape[-1])
        bare = self.bare()
        result = bare.to_memory() if isinstance(bare, StreamedCells) else bare
        result.X = x
        for name, parts in found.items():
            result.layers[name] = _repeated(whole(parts), max(1, self.draws))
        return result


def uns_of(
    provenance: Provenance, trained: np.ndarray | None, genes: pd.Index, image_shape: tuple[int, ...] | None
) -> dict[str, Any]:
    """What a file of predictions says of itself."""
    found: dict[str, Any] = {KEY: provenance.plain()} | written(trained, genes)
    return found if image_shape is None else found | {IMAGES: np.array(image_shape)}


def whole(parts: list[Any]) -> Any:
    """Batches of a matrix, one below the other."""
    return sparse.vstack(parts, format="csr") if sparse.issparse(parts[0]) else np.concatenate(parts)


def predict(
    model: Model,
    adata: AnnData,
    *,
    to: str | float | Mapping[str, Any],
    from_: str | float | None = None,
    where: Where | None = None,
    decoded: bool = False,
    draws: int = 0,
    samples: int = 0,
    combine: str = "auto",
    missing_genes: str = "error",
    interval: float | None = None,
    interval_over: Over = "all",
    interval_cells: int | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
) -> Prediction:
    """What cells would look like under another condition (CoMP eq. 1), computed when it is read.

    Parameters
    ----------
    adata : AnnData
    to : str, float or mapping
        The condition to predict; "a+b" of two known ones, whose effects are added up (`combine`); a number where
        the condition is continuous; "key=value" of a batch column: the cells as if measured in that batch; several
        of these, separated by commas or as a mapping of columns to values.
    from_ : str, optional
        Condition of the source cells; default the control, or every condition but `to`; of a continuous condition
        all cells.
    where : mapping of column to value or values, or sequence of "key=value,value", optional
        Further restricts the source cells.
    decoded : bool
        X is the decoded mean. By default, of log expression and of any real values, it is the residual transfer: the
        observed cell plus the change from what is decoded of it as it is, so that it keeps what the model does not
        explain; log expression alone is cut at zero. Counts are always decoded, and images by networks that are of
        images; beside the mean of counts layers["drawn"] holds one draw of each cell, by which they are scored: the log
        of a mean is not the mean of logs.
    draws : int
        0 predicts the mean; n writes n cells of each, drawn from the prediction: counts are integers, log
        expression keeps the noise of real cells.
    samples : int
        0 predicts from the posterior mean; n averages n posterior draws.
    combine : {"auto", "observed", "expression", "latent"}
        How the effects of "a+b" are added up: the mean changes observed of the trained cells (of labelled cells, over
        the types that both conditions have), which the networks are not asked for; the predicted changes of each by
        itself from the control, in expression (of counts fold changes multiply); or by the method's own rule in its
        latents. auto is the first of these that the model has. Whichever it is, it is an additive rule, which knows no
        interaction.
    interval : float, optional
        Of a model that was calibrated (`train(calibrate=...)`): layers["lower"] and layers["upper"] hold for every cell
        between which values the mean of its group will be observed, for this share of the genes; obs["abstain"] whether
        predictions of held-out groups like it were no better than no change, or clearly worse than the mean shift. The
        cells are predicted twice.
    interval_over : {"all", "de"}
        The share of all genes, or of the 50 that turn out to differ most from the control: wider.
    interval_cells : int, optional
        Of how many cells the observed mean will be; by default in proportion to the control cells, as in the groups
        held out.

    Raises
    ------
    InputError
        Unknown condition, or no source cell is left.
    UsageError
        `to` equals `from_`, a number is negative or not finite, or the method does not combine conditions so.
    ModelError
        The method does not predict, or sees no conditions of which several are asked for; or, when it is read, a
        prediction is not finite.
    """
    how = How(decoded, draws, samples, combine, seed, device, threads, interval, interval_over, interval_cells)
    how.check()
    model.needs(Predicts)
    found = model.aligned(adata, missing_genes)
    asked = intervention(adata, model.fields, to, from_=from_, where=where)
    one = settled(model, adata, found.x, asked, how)
    how.check_combined([one.record.combined])
    obs = _predicted_obs(one.cells.obs, asked, model.record.holdout, model.control, draws)
    observed, vectors = found.x[asked.rows], one.cells.obsm
    shape, provenance = model.record.image_shape, prepared(model, adata)
    kept = dict(vectors)
    return Prediction(obs, found.var, kept, observed, one.record, provenance, draws, one, shape, model.trained)


@dataclass(frozen=True)
class How:
    """How cells are predicted: the parameters of `predict` of these names."""

    decoded: bool = False
    draws: int = 0
    samples: int = 0
    combine: str = "auto"
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    interval: float | None = None
    interval_over: Over = "all"
    interval_cells: int | None = None

    def check(self) -> None:
        """UsageError where a number is negative, or something is asked of an interval that is not, or of no cell."""
        for name, number in (("samples", self.samples), ("draws", self.draws)):
            if number < 0:
                raise UsageError(f"{option(name)} must not be negative, got {number}")
        if self.interval_cells is not None and self.interval_cells < 1:
            raise UsageError(f"{option('interval_cells')} must be at least 1, got {self.interval_cells}")
        asked = {"interval_over": self.interval_over, "interval_cells": self.interval_cells}
        for name, value in asked.items():
            if self.interval is None and value not in ("all", None):
                raise UsageError(f"{option(name, value)} is of {option('interval', hint='0.9')}; add it")

    def check_combined(self, rules: Sequence[str]) -> None:
        """UsageError where a rule is named and nothing is added up; "" is the rule of one condition."""
        if self.combine != "auto" and not any(rules):
            raise UsageError(
                f"{option('combine', self.combine)} is of several conditions at once, such as {option('to', 'A+B')}, "
                "and none is asked for; leave it out"
            )


@dataclass(frozen=True)
class Settled:
    """One intervention that a model was found to predict, nothing of it computed.

    Attributes
    ----------
    asked : Intervention
    cells : AnnData
        Its source cells: obs, and the vectors that the model reads.
    record : Counterfactual
    parts : callable
        The matrices by layer, batch by batch, each with the number of its first cell. Of several ranks this one's; the
        first of all is that of a rank that may be named, counted round.
    n_batches : int
        Of all.
    """

    asked: Intervention
    cells: AnnData
    record: Counterfactual
    parts: Callable[..., Iterator[tuple[int, dict[str, np.ndarray]]]]
    n_batches: int


def settled(model: Model, adata: AnnData, x: Any, asked: Intervention, how: How) -> Settled:
    """An intervention on cells whose aligned expression is x [n, G]; what is wrong with it is raised.

    Raises
    ------
    InputError, UsageError, ModelError
        As `predict`.
    """
    method = model.needs(Predicts)
    _check(model, asked)
    rule = rule_of(model, asked, how.combine)
    do, together = added_up(model, asked, rule)
    observed = method.layout.targets(asked.changes) if rule == "observed" else ()
    vectors = {key: adata.obsm[key][asked.rows] for key in model.obsm if key in adata.obsm}
    source = AnnData(obs=adata.obs.iloc[asked.rows], obsm=vectors)
    if how.interval is not None:
        check_interval(model, asked, how)
    teller = method.observed if observed else method
    notes = _caveats(method.layout, teller, make_cells(source, x[asked.rows], model.fields), asked)
    residual = model.expression != "counts" and not how.decoded and method.keeps_residual

    def computing(by: Callable[..., Iterator[T]], **more: Any) -> Iterator[T]:
        found = by(
            method,
            make_cells(source, x[asked.rows], model.fields),
            do,
            together=together,
            observed=observed,
            device=pick_device(how.device, how.threads),
            residual=residual,
            at_least=0.0 if model.expression == "log" else None,
            seed=how.seed,
            **more,
        )
        return computed(found, how.device, how.threads)

    means = partial(computing, predictions)  # every rank knows the groups'
    known = None if how.interval is None else intervals(model, source.obs, asked, x[asked.rows], means, how)
    wanted: dict[str, Any] = {"samples": how.samples, "draws": how.draws, "drawn": model.expression == "counts"}

    def parts(turn: int = 0) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        for first, part in computing(own_predictions, turn=turn, **wanted):
            yield first, part if known is None else part | known.of(first, part["X"].shape[-2])

    tuned = model.record.tuned
    record = Counterfactual(
        method=model.name,
        condition=asked.fields[0].name,
        continuous=asked.fields[0].kind == "number",
        from_=asked.origin,
        to=asked.said[0],
        changes={field.name: said for field, said in zip(asked.fields, asked.said, strict=True)},
        expression=model.expression,
        matrix=model.matrix,
        written="draw" if how.draws else "residual transfer" if residual else "decoded",
        samples=how.samples,
        draws=how.draws,
        combined=rule,
        interval=how.interval,
        interval_over=how.interval_over,
        groups="" if known is None else known.key,
        label=model.label or "",
        tuned_on=() if tuned is None else tuple(tuned.holdout),
        tuned_cells=() if tuned is None else tuple(tuned.cells),
        notes="; ".join(notes),
        version=model.record.cellalign,
        weights=model.weights_checksum,
    )
    if known is not None:
        source.obs = source.obs.assign(abstain=known.abstain[known.codes])
    return Settled(asked, source, record, parts, n_batches(len(asked.rows), how.draws))


def prepared(model: Model, adata: AnnData) -> Provenance:
    """What was done to cells before they are predicted."""
    return Provenance(preprocess=Provenance.of(model.preprocessed(adata.uns, model.target_sum)).preprocess)


def _check(model: Model, asked: Intervention) -> None:
    """Refuse what the method would answer with something else; say where it will answer with no change."""
    method = model.needs(Predicts)
    for field in asked.fields:
        if field.role in method.responds_to:
            continue
        if field.role == BATCH:
            raise UsageError(
                f"method {model.name!r} does not see batches, so it has no counterfactual of {field.name!r}"
            )
        tell(logging.WARNING, f"method {model.name} does not see {field.name!r}: it predicts no change of the cells")


def _caveats(layout: Layout, teller: Any, cells: Cells, asked: Intervention) -> list[str]:
    """What the method, or whoever knows the changes, says of predictions between these conditions, which is told."""
    targets, control = layout.targets(asked.changes), layout.control
    sources = [code for code in cells.condition.unique().tolist() if code >= 0] if targets else []
    if len(targets) > 1 and control is not None:  # all changes are from there
        notes: list[str] = [*teller.caveats(sources, [control]), *teller.caveats([control], targets)]
    else:
        notes = teller.caveats(sources, targets)
    for note in notes:
        tell(logging.WARNING, note)
    return notes


def _predicted_obs(
    obs: pd.DataFrame, asked: Intervention, holdout: list[str], control: str | None, draws: int
) -> pd.DataFrame:
    obs = asked.applied(obs)
    if holdout:
        obs["held_out"] = held_out(obs, holdout, must_exist=False, control=control)
    if draws < 2:
        return obs
    number = np.repeat(np.arange(1, draws + 1), len(obs))
    drawn = pd.concat([obs] * draws).assign(draw=number)
    drawn.index = [f"{name}-draw{i}" for name, i in zip(drawn.index, number, strict=True)]
    return drawn


def _repeated(x: Any, times: int) -> Any:
    """The rows of a matrix, all of them several times."""
    if times == 1:
        return x
    if isinstance(x, Stored):
        return Stacked([x] * times)
    if hasattr(x, "tocsr"):
        return sparse.vstack([x] * times, format="csr")
    return np.concatenate([x] * times)
