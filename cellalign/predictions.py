"""Cells under several conditions at once, for one file: settled for all of them, computed one batch after the other."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from cellalign.data.columns import Where, having, select
from cellalign.data.interventions import Intervention, To, interventions, some_of, within_groups
from cellalign.data.said import tell, told_once
from cellalign.data.split import held_out
from cellalign.data.stored import rows_in
from cellalign.engine.ranks import current
from cellalign.errors import InputError, UsageError, option
from cellalign.prediction import How, Settled, prepared, settled, uns_of, whole
from cellalign.records import Counterfactual, Provenance
from cellalign.records.provenance import Target

if TYPE_CHECKING:
    from cellalign.model import Model

OF_SEVERAL = ("per_condition", "within", "with_control")  # what `predict_several` takes beside the options of one
SOURCE = "source_cell"  # obs column: the name of the cell that a row was predicted from
OBSERVED = 4096  # control cells that are written together


@dataclass(frozen=True)
class Predictions:
    """Cells under several interventions, computed batch by batch when `batches` is read.

    Rows are in the order of the conditions, of each in that of its source cells, of each cell its draws; observed
    control cells, where they are asked for, stand last.

    Attributes
    ----------
    obs : DataFrame
        Of the rows, with what was set and, as `<column>_source`, what it was; `source_cell` is the source's name.
    var : DataFrame
    obsm : dict
        Vectors that the model reads.
    record : Counterfactual
        With all conditions as `targets`.
    each : list of Settled
    x : matrix [n, G]
        The observed expression of all cells.
    control : int array
        The observed cells that are written too.
    """

    obs: pd.DataFrame
    var: pd.DataFrame
    obsm: dict[str, Any]
    record: Counterfactual
    provenance: Provenance
    each: list[Settled]
    x: Any
    control: np.ndarray
    image_shape: tuple[int, ...] | None = None
    trained: np.ndarray | None = None
    copies: int = 1  # as `Prediction`'s, for whoever writes them: rows follow one another

    @property
    def draws(self) -> int:
        """Cells predicted of each source cell; 0 for their mean."""
        return self.record.draws

    def batches(self) -> Iterator[dict[str, Any]]:
        """Matrices by layer for the next rows, [B, G]; "source" and "drawn" are CSR where they are sparse."""
        for _, part in self.own_batches():
            yield part

    def own_batches(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Of several ranks this one's, each with the number of its first row; controls are the first one's."""
        row = turn = 0
        names: list[str] = []
        for one in self.each:
            for first, part in one.parts(turn=turn):
                names = names or list(part)
                yield row + first * max(1, self.draws), self._of(one, first, part)
            row += len(one.asked.rows) * max(1, self.draws)
            turn += one.n_batches
        if current().first:  # which has predicted a batch, as not all need have, and knows the layers
            for start, part in self._controls(names):
                yield row + start, part

    def _of(self, one: Settled, first: int, part: dict[str, Any]) -> dict[str, Any]:
        """Of some source cells under one condition: what is written."""
        source = rows_in(self.x, one.asked.rows[first : first + part["X"].shape[-2]])
        found = {name: _rows(name, values, self.draws) for name, values in part.items()}
        return {"source": _times(source, self.draws)} | found

    def _controls(self, names: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Observed control cells, with the layers that predicted ones have."""
        for start in range(0, len(self.control), OBSERVED):
            found = rows_in(self.x, self.control[start : start + OBSERVED])
            yield start, {"source": found} | _observed(found, names)

    def bare(self, *, writes: bool = True) -> AnnData:
        """All that is known before anything is computed: obs, var, obsm, uns; of a rank that writes none, the names."""
        if not writes:
            return AnnData(obs=self.obs[[]], var=self.var[[]])
        uns = uns_of(self.provenance.with_steps(self.record), self.trained, self.var.index, self.image_shape)
        return AnnData(obs=self.obs, var=self.var, obsm=self.obsm, uns=uns)

    def to_adata(self) -> AnnData:
        """All of it in memory."""
        found: dict[str, list[Any]] = {}
        for batch in self.batches():
            for name, values in batch.items():
                found.setdefault(name, []).append(values)
        result = self.bare()
        result.X = whole(found.pop("X"))
        for name, parts in found.items():
            result.layers[name] = whole(parts)
        return result


def predict_several(
    model: Model,
    adata: AnnData,
    *,
    to: To | Sequence[To],
    from_: str | float | None = None,
    where: Where | None = None,
    within: str | None = None,
    per_condition: int = 0,
    with_control: bool = False,
    missing_genes: str = "error",
    **how: Any,
) -> Predictions:
    """Cells under each of several conditions, computed when it is read; parameters as `prediction.predict`, and these.

    Parameters
    ----------
    to : as there, or a sequence of these
        "all" is every condition that the model knows but that of the source cells, and every a+b among the cells of
        which it knows the parts. A condition that is called so is meant first.
    within : str, optional
        obs column, such as the donor or plate: a condition is predicted from the source cells of those of its values
        under which it was observed, where it was.
    per_condition : int
        Predict so many cells of each condition, drawn at random from its source cells (with `within` in the
        proportions in which it was observed); 0 predicts of all.
    with_control : bool
        Write the observed control cells too, those that `where` allows.

    Raises
    ------
    InputError, UsageError, ModelError
        As there, of any condition; a number is negative; there is no control.
    """
    settings = How(**how)
    settings.check()
    if per_condition < 0:
        raise UsageError(f"{option('per_condition')} must not be negative, got {per_condition}")
    found = model.aligned(adata, missing_genes)
    with told_once():
        asked = interventions(adata, model.fields, to, from_=from_, where=where)
        if within is not None:
            asked = [within_groups(adata, one, within) for one in asked]
        if per_condition:
            asked = [
                some_of(adata, one, per_condition, within, np.random.default_rng([settings.seed, i]))
                for i, one in enumerate(asked)
            ]
            few = min(len(one.rows) for one in asked)
            if few < per_condition:
                tell(logging.INFO, f"there are {few} source cells, fewer than {option('per_condition', per_condition)}")
        each = [
            settled(model, adata, found.x, one, replace(settings, seed=_seed_of(settings.seed, i)))
            for i, one in enumerate(asked)
        ]
    settings.check_combined([one.record.combined for one in each])
    name, control = _control(model, adata, asked, where) if with_control else ("", np.empty(0, dtype=np.int64))
    record = _record([one.record for one in each], to, within or "", name)
    times = max(1, settings.draws)
    rows = np.concatenate([*(np.repeat(one.asked.rows, times) for one in each), control])
    obs = _obs(adata.obs, each, rows, control, name, times)
    if model.record.holdout:
        obs["held_out"] = held_out(obs, model.record.holdout, must_exist=False, control=model.control)
    obsm = {key: adata.obsm[key][rows] for key in model.obsm if key in adata.obsm}
    provenance, shape = prepared(model, adata), model.record.image_shape
    seen = model.trained
    return Predictions(obs, found.var, obsm, record, provenance, each, found.x, control, shape, seen)


def _seed_of(seed: int, number: int) -> int:
    """Of one of several conditions: what is drawn of one is not what is drawn of another."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _control(model: Model, adata: AnnData, asked: list[Intervention], where: Where | None) -> tuple[str, np.ndarray]:
    """The condition of control cells, and their rows."""
    field: Any = asked[0].fields[0]
    origins = {one.origin for one in asked}
    name = field.reference or (origins.pop() if len(origins) == 1 else "")
    if not name or field.name not in adata.obs:
        raise UsageError(
            f"{option('with_control', True)} needs a control, and {field.name!r} has none; name it in training"
        )
    mask = having(adata.obs, field.name, name, control=field.reference)
    if where:
        mask = mask & select(adata.obs, where, control=model.control, quiet=True)
    if not mask.any():
        raise InputError(f"{option('with_control', True)}: no cell has {field.name}={name}")
    return name, np.flatnonzero(mask)


def _record(each: list[Counterfactual], to: Any, within: str, control: str) -> Counterfactual:
    """One record for all conditions."""
    first = each[0]
    targets = tuple(Target(to=one.to, from_=one.from_, changes=one.changes) for one in each)
    origins = {one.from_ for one in each}
    notes = dict.fromkeys(note for one in each for note in one.notes.split("; ") if note)
    changes = {
        "to": to if isinstance(to, str) else ", ".join(target.to for target in targets),
        "from_": first.from_ if len(origins) == 1 else "",
        "changes": {},
        "targets": targets,
        "source": SOURCE,
        "with_control": control,
        "within": within,
        "combined": next((one.combined for one in each if one.combined), ""),
        "notes": "; ".join(notes),
    }
    return first.model_copy(update=changes)


def _obs(
    obs: pd.DataFrame, each: list[Settled], rows: np.ndarray, control: np.ndarray, name: str, times: int
) -> pd.DataFrame:
    """Of all rows, under names of their own, of which none occurs twice."""
    source = obs.index.astype(str)
    found = obs.iloc[rows].copy()
    parts = [one.asked.applied(one.cells.obs) for one in each]
    if len(control):
        parts.append(_observed_obs(each[0].asked, obs.iloc[control], name))
    repeats = np.concatenate([np.full(sum(map(len, parts)) - len(control), times), np.ones(len(control), dtype=int)])
    fields = each[0].asked.fields
    for key in [k for field in fields for k in (f"{field.name}_source", field.name) if k in parts[0]]:
        found[key] = _joined([part[key] for part in parts], repeats)
    if "abstain" in each[0].cells.obs:
        apart = [np.repeat(one.cells.obs["abstain"].to_numpy(), times) for one in each]
        found["abstain"] = np.concatenate([*apart, np.zeros(len(control), dtype=bool)])
    found[SOURCE] = pd.Categorical(source[rows])
    said = np.concatenate([np.repeat("-" + one.asked.said[0], len(one.asked.rows) * times) for one in each])
    names = np.array(source[rows], dtype=object)
    names[: len(said)] += said.astype(object)
    if times > 1:
        names[: len(said)] += np.array([f"-draw{i + 1}" for i in range(times)], dtype=object)[
            np.arange(len(said)) % times
        ]
        found["draw"] = np.concatenate([np.arange(len(said)) % times + 1, np.zeros(len(control), dtype=int)])
    found.index = pd.Index(names, name=obs.index.name)
    if not found.index.is_unique:
        found.index = pd.Index([f"{name}-{i}" for i, name in enumerate(names)], name=obs.index.name)
    return found


def _observed_obs(asked: Intervention, obs: pd.DataFrame, name: str) -> pd.DataFrame:
    """Of control cells, with the columns that predicted cells have."""
    found = asked.applied(obs)
    for field in asked.fields:
        if field.name in obs:
            found[field.name] = found[f"{field.name}_source"]
    first = asked.fields[0]
    return found if first.kind == "number" else found.assign(**{first.name: first.replaced(obs, name)})


def _joined(columns: list[pd.Series], repeats: np.ndarray) -> Any:
    """One column of several that follow one another, each value so many times."""
    if all(isinstance(column.dtype, pd.CategoricalDtype) for column in columns):
        joined = pd.api.types.union_categoricals([column.array for column in columns])
        return pd.Categorical.from_codes(np.repeat(joined.codes, repeats), joined.categories)
    return np.repeat(np.concatenate([np.asarray(column) for column in columns]), repeats)


def _times(x: Any, draws: int) -> Any:
    """Rows, each of them so many times."""
    return x if draws < 2 else x[np.repeat(np.arange(x.shape[0]), draws)]


def _rows(name: str, values: np.ndarray, draws: int) -> Any:
    """What was computed [B, G], or [draws, B, G], as rows in which the draws of a cell follow one another."""
    if values.ndim == 3:
        return np.ascontiguousarray(values.swapaxes(0, 1)).reshape(-1, values.shape[-1])
    found = _times(values, draws)
    return sparse.csr_matrix(found) if name == "drawn" else found


def _observed(x: Any, names: Sequence[str]) -> dict[str, Any]:
    """Layers of observed cells: they are what was predicted of them, and nothing about them is uncertain."""
    whole = np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float32)
    found: dict[str, Any] = {"X": whole}
    for name in names:
        if name == "drawn":
            found[name] = sparse.csr_matrix(whole)
        elif name in ("lower", "upper"):
            found[name] = whole
        elif name != "X":
            found[name] = np.zeros_like(whole)
    return found
