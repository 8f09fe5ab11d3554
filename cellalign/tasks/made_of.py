"""What the scores of a benchmark depend on, as a digest: rows of other cells or settings are not mistaken for these."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cellalign.tasks.prepare import of_preparation, prepare, resolved

if TYPE_CHECKING:
    from anndata import AnnData

    from cellalign.records import ModelRecord

DIGITS = 16  # of a digest: a coincidence of two is one in 10^19


@dataclass(frozen=True)
class MadeOf:
    """Digests of all that scores depend on but the seed and what is held out.

    Attributes
    ----------
    scores, baselines : str
        Of a method's own scores, and of those of the baselines beside it.
    """

    scores: str
    baselines: str


def made_of(adata: AnnData, holdout_each: str | None, asked: Mapping[str, Any]) -> MadeOf:
    """What `train` with these options would be given and make of it, and what its predictions are compared with.

    On which device and with how many threads does not count, nor does a precision that follows from the device.
    """
    from cellalign.data.matrices import default_matrix
    from cellalign.evaluation.panels.mixing import Mixing
    from cellalign.evaluation.panels.response import PredictedResponse
    from cellalign.methods.registry import get

    record = prepare(adata, **of_preparation(asked)).record
    hyperparameters, plan = resolved(asked["method"], asked["settings"], asked)
    as_they_are = record.recipe.expression == "any"
    counts = get(asked["method"]).reads(hyperparameters) == "counts"
    key = record.matrix if as_they_are else default_matrix(adata, "counts") if counts else "X"
    compared = {
        "version": PredictedResponse.version,
        "columns": {key: _values(adata, key) for key in (asked["condition"], holdout_each) if key is not None},
        "held out": holdout_each,
        "condition": [field.model_dump(mode="json") for field in record.fields if field.role == "condition"],
        "real": _real(adata, key),
        "genes": record.genes,
        # rows of before know no kind of values
        "recipe": record.recipe.model_dump(mode="json", exclude=set() if as_they_are else {"expression"}),
        "matrix": record.matrix,
    }
    compared |= chosen_apart(record, holdout_each)
    if holdout_each is None:  # then mixing is scored as well, and the response within these
        label = asked.get("label")
        compared |= {"mixing": Mixing.version, "label": None if label is None else _values(adata, label)}
        compared |= {"min_cells": asked.get("min_cells")}
    if asked.get("holdout_conditions", "each") != "each":
        compared |= {"held out under": asked["holdout_conditions"]}
    trained = record.model_dump(mode="json", include={"method", "hyperparameters", "fields", "content"})
    version = get(asked["method"]).version_of(hyperparameters)
    trained |= {"version of the method": version} if version > 1 else {}  # rows of before know none
    return MadeOf(_digest(compared | trained | {"training": plan.model_dump(mode="json")}), _digest(compared))


def chosen_apart(record: ModelRecord, holdout_each: str | None) -> dict[str, str]:
    """Of raw counts that each training chooses genes of, by the cells it does not hold out: rows of before differ."""
    chosen = holdout_each is not None and record.recipe.n_top_genes is not None
    return {"genes by": "cells that are not held out"} if chosen else {}


def _digest(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:DIGITS]


def _values(adata: AnnData, key: str) -> str:
    """A digest of what every cell has in a column."""
    from cellalign.data.columns import column

    values = column(adata.obs, key, missing=True)
    names = [*map(str, values.categories), None]
    return _digest([names[code] for code in values.codes])


def _real(adata: AnnData, key: str) -> list[str]:
    """A digest of the matrix that predictions are compared with."""
    from cellalign.data.source import content_of

    matrix = adata.X if key == "X" else adata.layers[key]
    matrices = (
        [matrix] if matrix is not None else [adata.layers[name] for name in sorted(key for key in adata.layers if key)]
    )  # of anndata 0.13 X is the layer None
    return [content_of(each) for each in matrices]
