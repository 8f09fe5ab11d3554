"""The options of `train` that a model was trained with, as its record tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellalign.records import ModelRecord


def training_options(record: ModelRecord) -> dict[str, Any]:
    """The parameters of `train` under which a model was trained, but for the machine's."""
    from cellalign.data.fields import read_fields
    from cellalign.methods.base import BATCH, CONDITION, COVARIATE, LABEL

    fields = read_fields(record.fields)
    condition, label = fields.one(CONDITION), fields.one(LABEL)
    others = [field for field in fields if field.role in (BATCH, COVARIATE)]
    given = [*others, *([] if condition is None else [condition])]
    origin = record.learned_from
    began = {} if origin is None else origin.model_dump(include={"learn", "missing_genes"}) | {"from_": origin.path}
    return began | {
        "method": record.method,
        "condition": None if condition is None else condition.name,
        "control": None if condition is None else condition.reference,
        "allow_missing_condition": condition is not None and condition.may_be_missing,
        "batch": [field.name for field in others if field.role == BATCH],
        "covariate": [field.name for field in others if field.role == COVARIATE],
        "label": None if label is None else label.name,
        "unlabelled": getattr(label, "missing_value", None),
        "kinds": {field.name: field.kind for field in given if field.kind != "categorical"},
        "expression": record.recipe.expression,
        "layer": _layer(record),
        "n_top_genes": record.recipe.n_top_genes,
        "rounded": record.recipe.rounded,
        # not `settings`, of which is said what does nothing: nobody asked for these one by one;
        # models of before precisions were all float32
        "config": {"precision": "float32", **record.hyperparameters, **record.training},
        "holdout": record.holdout,
        "genes_by_all": bool(record.holdout) and record.recipe.n_top_genes is not None and not record.recipe.genes_by,
        "calibrate": "none" if record.calibration is None else record.calibration.key,
        "calibrate_folds": None if record.calibration is None else record.calibration.folds,
        "seed": record.seed,
    }


def _layer(record: ModelRecord) -> str | None:
    """The matrix to name; None where training made it of raw counts, or found it in raw."""
    made = record.recipe.n_top_genes is not None and record.matrix == "X"
    return None if made or record.matrix == "raw" else record.matrix
