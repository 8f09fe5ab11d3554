"""`--report` of other commands: a page of what one run found, from what it has in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellalign.data.embeddings import has_embedding
from cellalign.tasks import report_parts as make
from cellalign.tasks.report_parts import How, check_page

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from cellalign.data.reading import Reading
    from cellalign.evaluation import Evaluation
    from cellalign.model import Model
    from cellalign.reporting import Parts

__all__ = ["check_page", "of_benchmark", "of_evaluation", "of_training"]


def of_training(
    path: str, model: Model, adata: AnnData, directory: str, source: Reading, how: How, force: bool
) -> None:
    """Write a page of a model, and of the cells it was trained on, which are embedded already."""
    parts = make.empty(command=make.command_line())
    parts.models.append(make.trained(model, Path(directory).name, look=False))
    parts.embedded.append(make.embedded(adata, _name(source), how, model))
    _write(parts, path, force)


def of_evaluation(
    path: str,
    result: Evaluation,
    cells: AnnData,
    read: tuple[Reading, str | None, str | None],
    how: How,
    model: Model | None,
    force: bool,
) -> None:
    """Write a page of an evaluation, of a prediction or of embedded cells.

    Parameters
    ----------
    read : (cells, real cells, model directory)
        The files, as far as there are any.
    """
    from cellalign.records import Provenance
    from cellalign.reporting.scores import Scores

    source, against, directory = read
    parts, name = make.empty(command=make.command_line()), _name(source)
    if model is not None:
        parts.models.append(make.trained(model, Path(str(directory)).name))
    if against is not None:
        own = make.of_evaluation(cells, result, name, Path(against).name, how.label)
        parts.predicted.append(own)
    elif has_embedding(cells):
        scores = Scores.of(result, name)
        parts.embedded.append(make.embedded(cells, name, how, model, scores=scores))
    else:
        parts.scored.append(Scores.of(result, name))
    if against is not None and Provenance.of(cells.uns).embedding:
        parts.without["cells"] = f"{name} was scored as a prediction (cellalign report shows both)"
    _write(parts, path, force)


def of_benchmark(path: str, table: pd.DataFrame, metric: str, name: str, force: bool) -> None:
    """Write a page of a benchmark."""
    parts = make.empty(command=make.command_line())
    parts.benchmarks.append(make.benchmarked(table, Path(name).name, metric))
    _write(parts, path, force)


def _write(parts: Parts, path: str, force: bool) -> None:
    from cellalign.reporting import build

    make.write(build(parts), path, force)


def _name(source: Any) -> str:
    """The files of the cells, without their folders."""
    return ", ".join(Path(path).name if path != "-" else "standard input" for path in source.paths) or "the cells"
