"""What is written down: models, checkpoints, provenance, benchmark rows. Checked when read, versioned, migrated.

A record is a pydantic model. Each format has a version; files of older versions are brought up to date by a function
per version, files of newer ones are refused. Nothing else in the package spells the keys of these formats.
"""

from cellalign.records.base import Record, RecordError, VersionedRecord
from cellalign.records.benchmark import BenchmarkRow
from cellalign.records.checkpoint import CheckpointRecord
from cellalign.records.model import (
    CalibrationRecord,
    CellNumbers,
    FieldRecord,
    FileRecord,
    LearnedFrom,
    Machine,
    ModelRecord,
    Outcome,
    Recipe,
    SourceRecord,
    TunedRecord,
)
from cellalign.records.provenance import (
    Annotation,
    Counterfactual,
    Embedding,
    Preprocessing,
    Provenance,
    Target,
    Targets,
    Umap,
    find_obsm_key,
    obsm_key,
)
from cellalign.records.text import checked_text, plain_of, verify

__all__ = [
    "Annotation",
    "BenchmarkRow",
    "CellNumbers",
    "CheckpointRecord",
    "Counterfactual",
    "Embedding",
    "FieldRecord",
    "FileRecord",
    "CalibrationRecord",
    "LearnedFrom",
    "Machine",
    "ModelRecord",
    "checked_text",
    "plain_of",
    "verify",
    "Outcome",
    "Preprocessing",
    "Provenance",
    "Recipe",
    "Record",
    "RecordError",
    "SourceRecord",
    "Target",
    "Targets",
    "TunedRecord",
    "Umap",
    "VersionedRecord",
    "find_obsm_key",
    "obsm_key",
]
