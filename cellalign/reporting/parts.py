"""What a report is of: models, embedded cells, predictions, scores, benchmarks and graphs, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.reporting.scores import Scores

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from cellalign.evaluation.table import Response
    from cellalign.records import Counterfactual, ModelRecord

EDGES_ALONE = "edges_alone"  # in uns of a graph: what has no edge is not in it


@dataclass(frozen=True)
class Trained:
    """A model.

    Attributes
    ----------
    name : str
        The directory.
    record : ModelRecord
    history : list of dict
        A row per epoch.
    about : str
        The method in a sentence.
    changed : str
        What is not as it was in training: the training file. Empty where it is, or where that is not known.
    """

    name: str
    record: ModelRecord
    history: Sequence[Mapping[str, float]]
    about: str = ""
    changed: str = ""


@dataclass(frozen=True)
class Embedded:
    """Cells before and after integration.

    Attributes
    ----------
    name : str
    method : str
    condition, label : str or None
        obs columns.
    after : array [n, 2], optional
        UMAP of the latents, of the cells that are drawn; None where too few cells are there for one.
    before : array [n, 2], optional
        UMAP of their expression.
    why_no_before : str
    columns : dict
        What they can be coloured by: Categorical [n], or numbers [n].
    left_out : sequence of str
        Columns that are not offered, with the reason.
    n_cells : int
        Of the whole file.
    scores : Scores, optional
    crossed : dict of str to table, optional
        Cells of every condition by another column: what is confounded with it.
    """

    name: str
    method: str
    condition: str | None
    label: str | None
    after: np.ndarray | None
    before: np.ndarray | None
    columns: Mapping[str, Any]
    n_cells: int
    why_no_before: str = ""
    left_out: Sequence[str] = ()
    scores: Scores | None = None
    crossed: Mapping[str, pd.DataFrame] = field(default_factory=dict)


@dataclass(frozen=True)
class Predicted:
    """Cells under another condition, beside real ones.

    Attributes
    ----------
    name, against : str
        The files.
    record : Counterfactual, optional
        None of another tool's prediction.
    responses : sequence of Response
    scores : Scores
    label : str or None
    """

    name: str
    against: str
    record: Counterfactual | None
    responses: Sequence[Response]
    scores: Scores
    label: str | None = None


@dataclass(frozen=True)
class Benchmarked:
    """Methods on held-out groups.

    Attributes
    ----------
    name : str
    metric, better : str
        What they are compared by, and which way is better, in words.
    held_out : bool
        Whether groups were; else methods were fitted to what they are scored on.
    methods, groups : sequence of str
    values : array [methods, groups]
    best, ceiling : (name, array [groups]), optional
    columns, rows, beside_columns, beside : tables of text
    sentence : str
    """

    name: str
    metric: str
    better: str
    held_out: bool
    methods: Sequence[str]
    groups: Sequence[str]
    values: np.ndarray
    best: tuple[str, np.ndarray] | None
    ceiling: tuple[str, np.ndarray] | None
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    beside_columns: Sequence[str]
    beside: Sequence[Sequence[str]]
    sentence: str


@dataclass(frozen=True)
class Targeted:
    """A graph from perturbations to latents, and the file it is from."""

    name: str
    graph: AnnData

    @property
    def counted(self) -> str:
        """How many perturbations have a target, of all where the graph holds those without."""
        edge: Any = np.asarray(self.graph.layers["edge"]).astype(bool)
        of = "" if EDGES_ALONE in self.graph.uns else f" of {len(edge)}"
        return f"{edge.any(1).sum()}{of} perturbations have a target"


@dataclass(frozen=True)
class File:
    """What was read."""

    name: str
    kind: str
    checksum: str
    size: int


@dataclass
class Parts:
    """All of a report.

    Attributes
    ----------
    models, embedded, predicted, scored, benchmarks, graphs : lists
    files : list of File
    without : dict of str to str
        Why something that might be looked for is not here, by the section's name.
    cautions : list of str
        Of the inputs together.
    command, version, when : str
    title : str
        Empty: it is made of the parts.
    """

    models: list[Trained] = field(default_factory=list)
    embedded: list[Embedded] = field(default_factory=list)
    predicted: list[Predicted] = field(default_factory=list)
    scored: list[Scores] = field(default_factory=list)
    benchmarks: list[Benchmarked] = field(default_factory=list)
    graphs: list[Targeted] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    without: dict[str, str] = field(default_factory=dict)
    cautions: list[str] = field(default_factory=list)
    command: str = ""
    version: str = ""
    when: str = ""
    title: str = ""

    def all_scores(self) -> list[Scores]:
        """Of whatever has scores, each once."""
        own = [each.scores for each in self.predicted]
        own += [each.scores for each in self.embedded if each.scores is not None]
        return own + [each for each in self.scored if not any(each.same_as(other) for other in own)]
