"""model.yaml: everything needed to apply a model to new cells, and what was done to make it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from cellalign.records.base import Record, VersionedRecord


class FieldRecord(Record):
    """A column that a model was given, as its class (`data.fields`) keeps it: `kind` names the class."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str
    name: str
    role: str


class CellNumbers(Record):
    """How many cells the training file had, and how many of them were trained and validated on."""

    all: int
    trained: int
    validation: int


class FileRecord(Record):
    """A file that was read."""

    path: str | None = None
    checksum: str | None = None
    size: int | None = None
    modified_ns: int | None = None


class Recipe(Record):
    """What was done to the training cells' counts, so that it can be done to new ones.

    Attributes
    ----------
    target_sum : float, optional
        What the counts of a cell were scaled to before the logarithm; None where that is not known.
    n_top_genes : int, optional
        Of raw counts that training itself preprocessed: how many genes it kept, 0 for all; None where the training
        file had been preprocessed.
    rounded : bool
        Whether estimated counts were rounded.
    base : float, optional
        Of the logarithm, where it is not the natural one.
    expression : "any", optional
        The values are no expression but any real ones, taken as they are.
    genes_by : "trained cells", optional
        Of raw counts of which cells were held out: these chose neither the genes nor the total. Models of before have
        both of all cells.
    """

    target_sum: float | None = Field(None, gt=0, allow_inf_nan=False)
    n_top_genes: int | None = None
    rounded: bool = False
    base: float | None = None
    expression: Literal["any"] | None = None
    genes_by: Literal["trained cells"] | None = None

    @model_serializer(mode="wrap")
    def _plain(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `genes_by` where it is not set: records and digests of recipes are then as before there was one."""
        found: dict[str, Any] = written(self)
        if self.genes_by is None:
            found.pop("genes_by", None)
        return found


class SourceRecord(FileRecord):
    """The training file; all None where the cells came from memory or standard input.

    Attributes
    ----------
    others : list of FileRecord
        Files after the first, where the cells came from several.
    metadata : FileRecord, optional
        The table of cell metadata beside them.
    reading : dict of str to str
        The other options they were read with (`data.reading`).
    """

    others: list[FileRecord] = Field(default_factory=list)
    metadata: FileRecord | None = None
    reading: dict[str, str] = Field(default_factory=dict)

    def files(self) -> list[FileRecord]:
        """All of them."""
        first = FileRecord(**self.model_dump(include=set(FileRecord.model_fields)))
        return [first, *self.others, *([] if self.metadata is None else [self.metadata])]

    def same_as(self, other: SourceRecord) -> bool:
        """Whether these are the same cells, wherever the files lie."""
        ours, theirs = ([file.checksum for file in record.files()] for record in (self, other))
        return (ours, self.reading) == (theirs, other.reading)


class Outcome(Record):
    """How training ended.

    Attributes
    ----------
    setbacks : list of str
        Divergences that it went back from.
    lr_factor : float
        What they multiplied the learning rate by.
    findings : list of str
        What the method chose, and by which evidence.
    batch_size_asked : int, optional
        Where memory ran out and batches were halved to those of the training: what was asked for.
    seconds_calibrating : float, optional
        What the refits took after `seconds`; None where there were none, or of a model of before.
    """

    epochs: int
    steps: int
    seconds: float
    best_epoch: int | None = None
    validation_loss: float | None = None
    setbacks: list[str] = Field(default_factory=list)
    lr_factor: float = 1.0
    findings: list[str] = Field(default_factory=list)
    batch_size_asked: int | None = None
    seconds_calibrating: float | None = None

    @property
    def took(self) -> str:
        """Training and calibration together, in words."""
        seconds = self.seconds + (self.seconds_calibrating or 0.0)
        return f"{seconds:.0f} s" if seconds >= 1 else "less than 1 s"


class Machine(Record):
    """What trained the model, as far as it decides the last bits of the weights.

    Attributes
    ----------
    device : str
        "cpu", "cuda" or "mps".
    processor : str
        Name of the CPU or GPU.
    threads : int
        CPU threads that computed.
    deterministic : bool
        Whether the number of threads was kept from mattering.
    order : list of int, optional
        How an epoch's cells were shuffled (`data.loader.Cells.order`); None of a model that does not say.
    """

    device: str
    processor: str
    threads: int
    deterministic: bool = False
    order: list[int] | None = None


class CalibrationRecord(Record):
    """Held-out groups whose errors calibrate intervals; what was observed of them is in calibration.safetensors.

    Attributes
    ----------
    key : str
        The obs column of the groups.
    folds : int
        Refits by which they were predicted.
    groups, targets : list of str
        Each held-out group and the condition it was predicted under, in the order of the tensors' rows.
    checksum : str
        Of the file.
    """

    key: str
    folds: int
    groups: list[str]
    targets: list[str]
    checksum: str = ""


class LearnedFrom(Record):
    """The model whose weights a training began with.

    Attributes
    ----------
    path : str, optional
        Its directory; None where it was in memory.
    weights : str
        Their checksum, as in its model.yaml.
    content : str, optional
        A digest of the cells it was trained on.
    learn, missing_genes : str
        As they were asked for.
    """

    path: str | None = None
    weights: str
    content: str | None = None
    learn: str
    missing_genes: str = "error"


class TunedRecord(Record):
    """How the settings of a model that `tune` kept were chosen.

    Attributes
    ----------
    by : str
        What runs were ranked by.
    runs : int
        How many were compared.
    holdout : list of dict of str to str
        Column and value of the held-out cells by whose predictions they were, one for each group: scores of these are
        the best of so many, and no independent ones. Empty where other cells ranked.
    cells : list of int
        Fingerprints of some of them (`data.fingerprints`), by which other cells of such values are told from them.
    """

    by: str
    runs: int
    holdout: list[dict[str, str]] = Field(default_factory=list)
    cells: list[int] = Field(default_factory=list)

    @property
    def groups(self) -> list[str]:
        """The held-out cells in words."""
        return [",".join(f"{key}={value}" for key, value in terms.items()) for terms in self.holdout]


class ModelRecord(VersionedRecord):
    """What model.yaml holds.

    Attributes
    ----------
    cellalign : str
        Version that trained the model.
    method, preset : str
    hyperparameters, training : dict
        Every setting of the method, and of the training plan.
    matrix : str
        What was read: "X" or a layer.
    fields : list of FieldRecord
        Columns by role, with their categories or mean and standard deviation, in the order a network is given them.
    holdout : list of str
        Items "key=value,key=value" of cells that were not trained on.
    command, command_hint : str, optional
        The command line that trained the model, and the one that would prepare its input.
    transferred : list of str
        Conditions added by `transfer`, which started from the model with the checksum `transferred_from`.
    calibration : CalibrationRecord, optional
        Of a model that knows the errors of groups held out (`train --calibrate`).
    learned_from : LearnedFrom, optional
        Of a model that learned on from another (`train --from`).
    tuned : TunedRecord, optional
        Of a model whose settings `tune` chose.
    recipe : Recipe
    content : str, optional
        A digest of the cells it was trained on, as training read them (`data.loader.Cells.content`); models of before
        have none.
    machine : Machine, optional
        Models of before have none.
    image_shape : list of int, optional
        Height, width and channels of images whose pixels are the genes.
    genes, other_names : list of str
        In the order the model reads them, and the second name of each, empty where the training file had none.
    """

    FORMAT: ClassVar[int] = 2
    MIGRATIONS: ClassVar = {}  # set below

    weights_checksum: str | None = None
    cellalign: str
    method: str
    hyperparameters: dict[str, Any]
    training: dict[str, Any]
    preset: str | None = None
    matrix: str
    fields: list[FieldRecord]
    holdout: list[str]
    seed: int
    cells: CellNumbers
    source: SourceRecord
    command: str | None = None
    command_hint: str
    versions: dict[str, str] = Field(default_factory=dict)
    outcome: Outcome | None = None
    transferred: list[str] = Field(default_factory=list)
    transferred_from: str | None = None
    learned_from: LearnedFrom | None = None
    tuned: TunedRecord | None = None
    calibration: CalibrationRecord | None = None
    recipe: Recipe = Field(default_factory=Recipe)
    content: str | None = None
    machine: Machine | None = None
    image_shape: tuple[int, int, int] | None = None
    other_names: list[str] = Field(default_factory=list)
    genes: list[str]  # last in the file: a reader wants the outcome before 2,000 names

    def plain(self) -> dict[str, Any]:
        """As it is written to model.yaml, but for the checksum (`records.text`): without what is not set."""
        optional = (
            *("outcome", "transferred", "transferred_from", "learned_from", "content", "machine"),
            *("calibration", "tuned"),
            *("image_shape", "other_names"),
        )
        unset = {k for k in optional if not getattr(self, k)}
        plain = self.model_dump(mode="json", exclude=unset)
        plain["source"] = {k: v for k, v in plain["source"].items() if v or k in FileRecord.model_fields}
        return plain


def _fields_of_roles(roles: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Fields of the roles of format 1, in the order its networks were given them."""
    categories, numeric = roles["categories"], roles.get("numeric") or {}
    fields: list[dict[str, Any]] = []
    condition = roles["condition"]
    if condition is not None and roles.get("continuous"):
        fields.append({"kind": "number", "name": condition, "role": "condition", **roles["continuous"]})
    elif condition is not None:
        field = {"kind": "categorical", "name": condition, "role": "condition", "categories": categories[condition]}
        fields.append(field | {"reference": roles["control"], "may_be_missing": bool(roles.get("unknown"))})
    for role, keys in (("batch", roles["batches"]), ("covariate", roles["covariates"])):
        optional = {"may_be_missing": role == "covariate"}
        for key in keys:
            if key not in numeric:
                fields.append(
                    {"kind": "categorical", "name": key, "role": role, "categories": categories[key]} | optional
                )
        for key in keys:
            if key in numeric:
                fields.append({"kind": "number", "name": key, "role": role, **numeric[key]} | optional)
    label = roles["label"]
    if label is not None:
        field = {"kind": "categorical", "name": label, "role": "label", "categories": categories[label]}
        fields.append(field | {"may_be_missing": True, "missing_value": roles.get("unlabelled")})
    return fields


def _from_1(old: dict[str, Any]) -> dict[str, Any]:
    """Roles and dimensions became fields; a setting that got a better name is renamed by its method."""
    kept = {key: value for key, value in old.items() if key not in ("roles", "dimensions")}
    return kept | {"fields": _fields_of_roles(old["roles"])}


ModelRecord.MIGRATIONS = {1: _from_1}
