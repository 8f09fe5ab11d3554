"""uns["cellalign"]: what was done to the cells of a file, one record for each step and key.

Version 2 keeps what earlier steps wrote: `embed` by a second method adds a record, and none erases another. Version 3
knows counterfactuals of several conditions in one file. What is written is plain enough for every reader of HDF5:
strings, numbers, booleans and groups of these; what is not set is left out.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, field_serializer

from cellalign.errors import InputError
from cellalign.records.base import Record, RecordError, VersionedRecord

log = logging.getLogger("cellalign")
KEY = "cellalign"  # of uns


def _from_json(value: Any) -> Any:
    """What text in a file stands for; all else as it is."""
    return json.loads(value) if isinstance(value, str) else value


def _as_json(value: tuple[Any, ...]) -> str | None:
    """Text that a file holds in place of several values; None, which is left out, where there is none."""
    return json.dumps(value, ensure_ascii=False) if value else None


READ, WRITTEN = BeforeValidator(_from_json), PlainSerializer(_as_json)  # of what is JSON in a file


class Step(Record):
    """What every step says.

    Attributes
    ----------
    step : int
        Its place among all steps of the file, from 1; 0 where it is not known.
    version : str
        Of cellalign, at the step; of a model's steps the version that trained the model.
    """

    step: int = 0
    version: str = ""


class Preprocessing(Step):
    """Of `preprocess`: where the counts were, what X was normalised to, and what was kept.

    Attributes
    ----------
    counts_from : str, optional
        "X", "raw" or a layer's name; None where there was normalised expression only, "" where a model's total was
        taken.
    n_top_genes : int
    target_sum : float, optional
        What the normalised expression of a cell sums up to, over all genes of the input; None where it is not known.
    batch : str, optional
    min_genes, min_cells : int
    holdout : tuple of str
        Items "key=value,key=value" of the cells that chose neither genes nor total, in this step and those before.
    """

    counts_from: str | None = None
    n_top_genes: int
    target_sum: float | None = Field(None, gt=0, allow_inf_nan=False)
    batch: str | None = None
    min_genes: int = 1
    min_cells: int = 1
    holdout: Annotated[tuple[str, ...], READ, WRITTEN] = ()

    @property
    def chose(self) -> bool:
        """Whether cells of the file chose genes or total, rather than a model that they were brought to."""
        return self.counts_from != ""


class ModelStep(Step):
    """What a step by a model says: its method, and the checksum of its weights."""

    method: str
    weights: str | None = None


class Embedding(ModelStep):
    """Of `embed`: obsm[key] holds the latents; `condition` is the column that was modelled.

    `split` is the obs column that tells cells trained on from those validated on; None of other cells.

    Attributes
    ----------
    written : {"mean", "draw"}
        Posterior means, or a draw of every cell's posterior, of this seed.
    expression : "any", optional
        The model reads any real values, of this matrix.
    """

    key: str
    split: str | None = None
    condition: str | None = None
    continuous: bool = False
    written: str = "mean"
    seed: int | None = None
    expression: str | None = None
    matrix: str | None = None


class Umap(ModelStep):
    """Of `embed --umap`: obsm["X_umap"] is of the latents in obsm[key]."""

    key: str


class Target(Record):
    """One of several conditions that a file predicts: what was set in its cells, which had `from_` before."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    to: str
    from_: str = Field("", alias="from")
    changes: dict[str, str] = Field(default_factory=dict)


class Counterfactual(ModelStep):
    """Of `counterfactual`: what X predicts.

    Attributes
    ----------
    condition : str
        The obs column that was changed (the first of them).
    from_, to : str
        Its value of the source cells, empty where they have several, and what was predicted; of several conditions
        how they were asked for.
    changes : dict of str to str
        Every column that was changed, and to what; of several conditions `targets` has them.
    targets : tuple of Target
        Where the file predicts several conditions: each of them. The column `condition` says which a row is of.
    source : str
        The obs column of the names of the cells that rows were predicted from; empty where these are the rows' own.
    with_control : str
        The condition under which observed cells stand beside the predicted ones; empty where there are none.
    within : str
        The obs column in which source cells are as the real cells of a condition; empty where all are taken.
    continuous : bool
        The column holds numbers.
    expression : {"log", "counts", "any"}
        The scale of X.
    matrix : str
        Where real cells of that scale "any" have what X predicts: "X", or a layer.
    written : {"residual transfer", "decoded", "draw"}
        What X is: the observed cell plus the predicted change; the decoded mean; a draw.
    samples, draws : int
        Posterior draws averaged; draws written of each cell.
    combined : {"", "observed", "expression", "latent"}
        Of several conditions at once, where their effects were added up.
    interval : float, optional
        What share of the genes of an observed group has its mean between layers["lower"] and layers["upper"].
    interval_over : {"all", "de"}
        Of which genes.
    groups : str
        The obs column of the groups, where there are intervals.
    label : str
        The obs column of cell types that the model was trained with; empty where it knows of none.
    tuned_on : tuple of dict of str to str
        Column and value of the held-out cells by which the model's settings were chosen (`tune`), for each group.
    tuned_cells : tuple of int
        Fingerprints of some of them.
    notes : str
        What whoever reads the prediction should know, sentences separated by "; ".
    """

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    condition: str
    from_: str = Field("", alias="from")
    to: str
    changes: Annotated[dict[str, str], READ] = Field(default_factory=dict)  # a column's name may hold a slash
    targets: Annotated[tuple[Target, ...], READ] = ()
    source: str = ""
    with_control: str = ""
    within: str = ""
    continuous: bool = False
    expression: str = "log"
    matrix: str = "X"
    written: str = "decoded"
    samples: int = 0
    draws: int = 0
    combined: str = ""
    interval: float | None = None
    interval_over: str = "all"
    groups: str = ""
    label: str = ""
    tuned_on: Annotated[tuple[dict[str, str], ...], READ, WRITTEN] = ()
    tuned_cells: Annotated[tuple[int, ...], READ, WRITTEN] = ()
    notes: str = ""

    @field_serializer("changes")
    def _write_changes(self, value: dict[str, str]) -> str:
        return json.dumps(value, ensure_ascii=False)

    @field_serializer("targets")
    def _write_targets(self, value: tuple[Target, ...]) -> str | None:
        return _as_json(tuple(each.model_dump(by_alias=True) for each in value))

    def each(self) -> list[Counterfactual]:
        """One record for each condition that the file predicts."""
        if not self.targets:
            return [self]
        return [
            self.model_copy(update={"to": t.to, "from_": t.from_, "changes": t.changes, "targets": ()})
            for t in self.targets
        ]


class Annotation(ModelStep):
    """Of `annotate`: obs["<label>_predicted"], by a classifier that learned from the reference."""

    label: str
    reference: str = ""
    classifier: str = "auto"
    k: int = 15
    unknown: float = 0.01


class Targets(ModelStep):
    """Of `targets`: the file is a graph from the conditions of this column to latents."""

    condition: str
    threshold: float


# what a step says of the file it is in; where it differs, it is not known of several
OF_A_FILE = ("step", "version", "notes", "target_sum")


def _alike(first: Step | None, *others: Step | None) -> Step | None:
    """A step that is the same in all, but for what it says of each file; None where it is not."""
    if first is None:
        return None
    own = {name: getattr(first, name) for name in OF_A_FILE if name in type(first).model_fields}
    for other in others:
        if other is None or other.model_copy(update=own) != first:
            return None
    unset = {n: type(first).model_fields[n].default for n in own if any(getattr(o, n) != own[n] for o in others)}
    return first.model_copy(update=unset)


def _from_1(old: dict[str, Any]) -> dict[str, Any]:
    """Version 1 kept one record, told apart by `kind`, and beside it one of an annotation."""
    new: dict[str, Any] = {}
    if "annotation" in old:
        annotation = dict(old["annotation"])
        new["annotation"] = {_safe(annotation["label"]): annotation | {"step": 2}}
    kind = old.get("kind")
    record = {k: v for k, v in old.items() if k not in ("kind", "annotation", "format_version")} | {"step": 1}
    for key in ("condition", "batch", "weights"):
        if record.get(key) == "":
            del record[key]
    if kind == "embedding":
        new["embedding"] = {record["key"]: record}
    elif kind == "counterfactual":
        record["expression"] = record.pop("scale", "log")
        new["counterfactual"] = record
    elif kind in ("preprocess", "targets"):
        new[kind] = record
    return new


def _from_2(old: dict[str, Any]) -> dict[str, Any]:
    """Version 2 knew counterfactuals of one condition only, and none of its keys has changed."""
    return old


class Provenance(VersionedRecord):
    """All that cellalign did to the cells of a file."""

    FORMAT: ClassVar[int] = 3
    MIGRATIONS: ClassVar = {1: _from_1, 2: _from_2}

    format_version: int = FORMAT
    preprocess: Preprocessing | None = None
    embedding: dict[str, Embedding] = Field(default_factory=dict)
    umap: Umap | None = None
    counterfactual: Counterfactual | None = None
    annotation: dict[str, Annotation] = Field(default_factory=dict)
    targets: Targets | None = None

    @classmethod
    def of(cls, uns: Mapping[str, Any]) -> Self:
        """What is written in an AnnData's `uns`; nothing where there is no record or none that can be read."""
        plain = uns.get(KEY)
        if plain is None:
            return cls()
        plain = _plain(plain)
        if isinstance(plain, dict) and "format_version" not in plain:
            plain = {"format_version": 1, **plain}
        try:
            return cls.read(plain)
        except RecordError as error:
            log.warning('uns["%s"] is not read: %s', KEY, error)
            return cls()

    @classmethod
    def to_extend(cls, uns: Mapping[str, Any]) -> Self:
        """The same, for a step that writes it anew.

        Raises
        ------
        InputError
            The record is of a newer version: writing would erase it.
        """
        plain = _plain(uns.get(KEY))
        version = plain.get("format_version") if isinstance(plain, dict) else None
        if isinstance(version, int) and version > cls.FORMAT:
            raise InputError(
                f'uns["{KEY}"] was written by a newer cellalign (format {version}; this one writes {cls.FORMAT}), and '
                "would be lost; upgrade cellalign"
            )
        return cls.of(uns)

    def with_steps(self, *records: Step) -> Self:
        """These steps added after all others; one of the same kind and key is replaced."""
        changed: dict[str, Any] = {}
        number = max((step.step for step in self.steps()), default=0)
        for given in records:
            number += 1
            record = given.model_copy(update={"step": number})
            if isinstance(record, Preprocessing):
                changed["preprocess"] = record
            elif isinstance(record, Embedding):
                changed["embedding"] = {**self.embedding, **changed.get("embedding", {}), record.key: record}
            elif isinstance(record, Umap):
                changed["umap"] = record
            elif isinstance(record, Counterfactual):
                changed["counterfactual"] = record
            elif isinstance(record, Annotation):
                kept = changed.get("annotation", self.annotation)
                changed["annotation"] = {**kept, _safe(record.label): record}
            elif isinstance(record, Targets):
                changed["targets"] = record
        return self.model_copy(update=changed)

    def in_common(self, *others: Provenance) -> Provenance:
        """The steps that several files have alike: each as a whole, or not at all."""

        def single(name: str) -> Any:
            return _alike(*(getattr(each, name) for each in (self, *others)))

        def keyed(name: str) -> dict[str, Any]:
            every = [getattr(each, name) for each in (self, *others)]
            found = {key: _alike(*(steps.get(key) for steps in every)) for key in every[0]}
            return {key: step for key, step in found.items() if step is not None}

        names = ("preprocess", "umap", "counterfactual", "targets")
        return Provenance(**{n: single(n) for n in names}, **{n: keyed(n) for n in ("embedding", "annotation")})

    def steps(self) -> Iterable[Step]:
        """Every step, in no order."""
        single = (self.preprocess, self.umap, self.counterfactual, self.targets)
        return [step for step in (*single, *self.embedding.values(), *self.annotation.values()) if step is not None]

    @property
    def latest_embedding(self) -> Embedding | None:
        """The embedding that was written last."""
        return max(self.embedding.values(), key=lambda e: e.step, default=None)

    @property
    def latest(self) -> Embedding | Counterfactual | None:
        """What was written last of an embedding and a counterfactual."""
        both = [step for step in (self.counterfactual, self.latest_embedding) if step is not None]
        return max(both, key=lambda step: step.step, default=None)

    def plain(self) -> dict[str, Any]:
        """As it is written into `uns`."""
        return _without_none(self.model_dump(mode="json", by_alias=True))


def obsm_key(method: str, suffix: str = "") -> str:
    """Where a method's latents are put: X_<method>, of the characters that every reader of obsm takes.

    cellxgene wants `^[a-zA-Z][a-zA-Z0-9_.-]*$`.
    """
    return _safe(f"X_{method}{suffix}")


def find_obsm_key(key: str, there: Iterable[str]) -> str | None:
    """The key among those there, also where one of them is spelt as an older version did (X_svae+)."""
    keys = list(there)
    if key in keys:
        return key
    return next((other for other in keys if _safe(other) == _safe(key)), None)


def _safe(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_.-]", "_", name.replace("+", "_plus"))


def _plain(value: Any) -> Any:
    """Without numpy's types, which come out of HDF5."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None and v != {}}
    return value
