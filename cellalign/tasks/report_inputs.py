"""What the inputs of a report are, by their content: models, cells of every kind, scores, benchmarks, graphs."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellalign.data.reading import Reading
from cellalign.errors import InputError, UsageError
from cellalign.tasks.graph_read import graph_of_edges, graph_of_json

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from cellalign.model import Model
    from cellalign.reporting.scores import Scores

KNOWN = "a model directory, cells, a table of evaluate, of benchmark or of targets"
NOT_SHOWN = {
    "history": "the history of a model; give the model directory",
    "de": "a table of tested genes, which a report does not show; give the prediction with the real cells",
    "tuning": "a ranking of tune, which a report does not show; give the model that tune kept",
}
LARGEST = 1 << 28  # bytes of a table
NAMES = ("panel", "system", "group", "metric", "perturbation", "latent")  # columns of tables


@dataclass
class Given:
    """What was found, by kind; each with its name.

    Attributes
    ----------
    reader, takes : str
        How messages call what is made of it, and what that takes.
    """

    reader: str = "a report"
    takes: str = KNOWN
    models: list[tuple[str, Model]] = field(default_factory=list)
    embedded: list[tuple[str, AnnData]] = field(default_factory=list)
    predicted: list[tuple[str, AnnData]] = field(default_factory=list)
    real: list[tuple[str, AnnData]] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)
    benchmarks: list[tuple[str, pd.DataFrame]] = field(default_factory=list)
    graphs: list[tuple[str, AnnData]] = field(default_factory=list)
    kinds: dict[str, str] = field(default_factory=dict)

    def add(self, given: Any) -> None:
        """One input: a path, or an object of this package.

        Raises
        ------
        InputError
            No such file, or of a kind that nothing is shown of.
        """
        import pandas as pd
        from anndata import AnnData

        from cellalign.evaluation import Evaluation
        from cellalign.model import Model
        from cellalign.reporting.scores import Scores

        if isinstance(given, Model):
            self.models.append((given.name, given))
        elif isinstance(given, AnnData):
            self._cells("cells", given)
        elif isinstance(given, Evaluation):
            self.scores.append(Scores.of(given, "evaluation"))
        elif isinstance(given, pd.DataFrame):
            self._frame("table", given)
        else:
            self._path(str(given))

    @property
    def _takes(self) -> str:
        return f"{self.reader} takes {self.takes}"

    def _path(self, path: str) -> None:
        from cellalign.data.outputs import holds_model
        from cellalign.model import load

        if path == "-":
            raise UsageError(f"- is standard input, which is not read for {self.reader}; name a file")
        if not Path(path).exists():
            raise InputError(f"no such file: {path}")
        name = Path(path).name or path
        if holds_model(path):
            self.models.append((name, load(path)))
            self.kinds[path] = "model"
            return
        head = b"" if Path(path).is_dir() else _head(path)
        if head.lstrip()[:1] in (b"{", b"["):
            self.kinds[path] = self._json(path, name)
        elif (columns := _columns(head)) and (kind := _kind_of_table(columns)) is not None:
            if kind in NOT_SHOWN:
                why = f"is {NOT_SHOWN[kind]}" if self.takes == KNOWN else f"is not known; {self._takes}"
                raise InputError(f"{path} {why}")
            self.kinds[path] = self._table(path, name, kind)
        else:
            from cellalign.data.files import read

            self.kinds[path] = self._cells(name, read(Reading((path,)), streaming=True))

    def _json(self, path: str, name: str) -> str:
        from cellalign.reporting.scores import Scores

        try:
            content = json.loads(_text(path))
        except ValueError as error:
            raise InputError(f"{path} is not whole JSON: {str(error).splitlines()[0]}") from error
        if isinstance(content, dict) and isinstance(content.get("scores"), list):
            try:
                self.scores.append(Scores.of_json(content, name))
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(f"{path} is no table of evaluate that can be read: {error!r}") from error
            return "scores of an evaluation"
        if isinstance(content, dict) and {"perturbations", "latents"} <= content.keys():
            self.graphs.append((name, graph_of_json(content, path)))
            return "graph of targets"
        raise InputError(f"{path} is JSON, but neither of evaluate nor of targets; {self._takes}")

    def _table(self, path: str, name: str, kind: str) -> str:
        from cellalign.data.formats.as_written import read_as_written
        from cellalign.reporting.scores import Scores

        if kind == "benchmark":
            from cellalign.tasks.benchmark_file import finished
            from cellalign.tasks.benchmark_table import as_table

            self.benchmarks.append((name, as_table(list(finished(path).values()))))
            return "benchmark"
        try:
            # names as they are written: a cell type may be called NA, a perturbation 007
            table = read_as_written(path, NAMES)
            if kind == "scores":
                self.scores.append(Scores.of_table(table, name))
                return "scores of an evaluation"
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} cannot be read as a table: {str(error).splitlines()[0]}") from error
        self.graphs.append((name, graph_of_edges(table)))
        return "graph of targets"

    def _frame(self, name: str, table: pd.DataFrame) -> None:
        from cellalign.reporting.scores import Scores

        kind = _kind_of_table([str(column) for column in table.columns])
        if kind == "benchmark":
            self.benchmarks.append((name, table))
        elif kind == "scores":
            self.scores.append(Scores.of_table(table, name))
        elif kind == "edges":
            self.graphs.append((name, graph_of_edges(table)))
        else:
            columns = ", ".join(map(str, table.columns[:8]))
            raise InputError(f"a table of the columns {columns} is not known; {self._takes}")

    def _cells(self, name: str, adata: AnnData) -> str:
        """Cells by what their record says of them; of embedded ones the matrices may stay on disk."""
        from cellalign.data.embeddings import has_embedding
        from cellalign.data.streamed import StreamedCells
        from cellalign.records import Provenance

        record = Provenance.of(adata.uns)
        embedded = record.counterfactual is None and record.targets is None and has_embedding(adata)
        if embedded and "edge" not in adata.layers:
            self.embedded.append((name, adata))
            return "embedded cells"
        adata = adata.to_memory() if isinstance(adata, StreamedCells) else adata
        if record.targets is not None or {"probability", "edge"} <= set(adata.layers):
            self.graphs.append((name, adata))
            return "graph of targets"
        if record.counterfactual is not None:
            self.predicted.append((name, adata))
            return "predicted cells"
        self.real.append((name, adata))
        return "cells"


def _head(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(1 << 16).removeprefix(b"\xef\xbb\xbf")


def _text(path: str) -> str:
    if Path(path).stat().st_size > LARGEST:
        raise InputError(f"{path} is larger than any table that a report shows")
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _columns(head: bytes) -> list[str]:
    """Names in the first line of a table with commas; none where it is no text."""
    try:
        line = head.split(b"\n", 1)[0].decode()
    except UnicodeDecodeError:
        return []
    return next(csv.reader([line.rstrip("\r")]), []) if "\0" not in line else []


def _kind_of_table(columns: list[str]) -> str | None:
    """What a table is, by its columns; None of one that is not of this package."""
    from cellalign.reporting.scores import COLUMNS

    there = set(columns)
    if set(COLUMNS) <= there:
        return "scores"
    if {"method", "seed", "held_out", "to"} <= there:
        return "benchmark"
    if {"epoch", "train_loss"} <= there:
        return "history"
    if {"group", "gene", "predicted_p"} <= there:
        return "de"
    if {"seed", "validation_loss", "score", "rank"} <= there:
        return "tuning"
    return "edges" if {"perturbation", "latent", "probability", "effect"} <= there else None
