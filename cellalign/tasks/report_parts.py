"""From what a user has, models, cells, scores, to the parts of a report: what is computed for it is computed here."""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.data.streamed import StreamedCells
from cellalign.errors import CellalignError, InputError, UsageError, spoken
from cellalign.records import Provenance
from cellalign.tasks.colours import MOST_VALUES, check_colours, expression, of_column

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from cellalign.evaluation import Evaluation
    from cellalign.model import Model
    from cellalign.reporting.parts import Benchmarked, Embedded, File, Parts, Predicted, Trained
    from cellalign.reporting.scores import Scores

log = logging.getLogger("cellalign")
LABELS = ("cell_type", "celltype", "cell_label", "cell_types", "CellType")
ROOM = 1_000_000  # bytes of all columns, before they are packed: a page stays under 5 MB
CROSSED = re.compile(r"batch|donor|site|plate|run|lane|chem|patient|replicate|library|cohort|tech", re.IGNORECASE)


@dataclass(frozen=True)
class How:
    """What is asked for of whatever a report computes.

    Attributes
    ----------
    condition, control, label : str, optional
    color : sequence of str
        obs columns and genes that cells can be coloured by, first; default whatever fits.
    max_cells : int
        As many are drawn, at random.
    seed, device, threads
        Of computing.
    """

    condition: str | None = None
    control: str | None = None
    label: str | None = None
    color: Sequence[str] = ()
    max_cells: int = 20_000
    seed: int = 0
    device: str = "auto"
    threads: int | None = None


def empty(title: str | None = None, command: str = "") -> Parts:
    """A report of nothing yet."""
    from importlib.metadata import version

    from cellalign.reporting import Parts

    when = (
        datetime.now().strftime("%-d %B %Y, %H:%M") if sys.platform != "win32" else datetime.now().strftime("%d %B %Y")
    )
    return Parts(title=title or "", command=command, version=version("cellalign"), when=when)


def command_line() -> str:
    """The command that runs, as it was typed."""
    return shlex.join(["cellalign", *sys.argv[1:]])


def trained(model: Model, name: str, *, look: bool = True) -> Trained:
    """A model, and whether its training file is as it was (where that is to be looked at)."""
    from cellalign.reporting.parts import Trained

    changed, record = "", model.record
    if look and record.source.path is not None:
        try:
            model.check_source()
        except InputError as reason:
            changed = (
                f"{name}: {str(reason).partition(';')[0]}, so that this page may be of other cells than the model."
            )
    if record.command:
        words = shlex.split(record.command)
        record = record.model_copy(update={"command": shlex.join(["cellalign", *words[1:]])})
    about = f"{model.name}: {model.method.summary} ({model.method.reference})."
    return Trained(name, record, model.history, about, changed)


def label_of(adata: AnnData, asked: str | None, model: Model | None) -> str | None:
    """The column of cell types: what is asked for, the model's, or one that is called so."""
    if asked is not None:
        return asked
    if model is not None and model.label in adata.obs:
        return model.label
    return next((name for name in LABELS if name in adata.obs), None)


def embedded(
    adata: AnnData,
    name: str,
    how: How,
    model: Model | None = None,
    *,
    score: bool = True,
    scores: Scores | None = None,
    genes: Sequence[str] = (),
) -> Embedded:
    """Cells with an embedding, before and after; scored where that is asked for, can be, and is not done yet.

    Raises
    ------
    InputError
        There is no embedding, or no such column or gene.
    """
    from cellalign.plots.umap import umap
    from cellalign.reporting.parts import Embedded

    check_colours(adata, how.color)
    provenance = Provenance.of(adata.uns)
    key, method = _embedding_of(adata, name)
    record = provenance.embedding.get(key)
    condition = how.condition or (record.condition if record else None) or (model.condition if model else None)
    label = label_of(adata, how.label, model)
    if scores is None and score and condition is not None:
        scores = _scored(adata, name, how, condition, label)
    rows = np.random.default_rng(how.seed).permutation(adata.n_obs)[: how.max_cells]
    drawn, after, why = provenance.umap, None, ""
    if "X_umap" in adata.obsm and (drawn is None or drawn.key == key):
        after = np.asarray(adata.obsm["X_umap"], dtype=np.float32)[rows, :2]
    else:
        log.info("%s: computing the UMAP of %d cells", name, len(rows))
        after, why = _drawn(lambda: umap(np.asarray(adata.obsm[key], dtype=np.float32)[rows], how.seed))
    some = adata[rows].copy() if isinstance(adata, StreamedCells) else adata[rows]  # a copy is in memory
    before, why = (None, why) if after is None else _before(some, how.seed)
    columns, left_out = _columns(some, [condition, label, *how.color], how.color, genes)
    return Embedded(
        name=name,
        method=method,
        condition=condition,
        label=label,
        after=after,
        before=before,
        columns=columns,
        n_cells=adata.n_obs,
        why_no_before=why,
        left_out=left_out,
        scores=scores,
        crossed=_crossed(adata.obs, condition, label),
    )


def _embedding_of(adata: AnnData, name: str) -> tuple[str, str]:
    """obsm key and what made it."""
    from cellalign.data.embeddings import embedding_keys
    from cellalign.records import find_obsm_key

    written = Provenance.of(adata.uns).latest_embedding
    key = find_obsm_key(written.key, adata.obsm) if written is not None else None
    if written is not None and key is not None:
        return key, written.method
    known = embedding_keys(adata)
    if not known:
        how = spoken(python="cellalign.embed(adata, model)", command="cellalign embed")
        raise InputError(f"{name}: no embedding X_* in obsm; run {how}")
    return known[0], known[0].removeprefix("X_")


def _scored(adata: AnnData, name: str, how: How, condition: str, label: str | None) -> Any:
    """Scores of an embedding; None where no panel can run."""
    from cellalign.reporting.scores import Scores

    try:
        result = _evaluate(adata, how, condition=condition, label=label)
    except (InputError, UsageError) as reason:
        log.warning("%s is not scored: %s", name, reason)
        return None
    return Scores.of(result, name)


def _before(adata: AnnData, seed: int) -> tuple[np.ndarray | None, str]:
    """UMAP of expression without integration, or why there is none."""
    from cellalign.plots.umap import unintegrated_umap

    return _drawn(lambda: unintegrated_umap(_log_expression(adata), seed))


def _drawn(draw: Callable[[], np.ndarray]) -> tuple[np.ndarray | None, str]:
    """Coordinates, or why there are none."""
    try:
        return draw(), ""
    except (CellalignError, ValueError, TypeError) as reason:
        return None, str(reason).splitlines()[0] if str(reason) else "these cells cannot be drawn"


def _log_expression(adata: AnnData) -> Any:
    """X, or the one layer there is, on a logarithmic scale: counts are normalised to their median, others kept."""
    from scipy import sparse

    x = adata.X if adata.X is not None else next(iter(adata.layers.values()), None)
    if x is None:
        raise InputError("the file has no expression")
    x = sparse.csr_matrix(x, dtype=np.float32) if sparse.issparse(x) else np.asarray(x, dtype=np.float32)
    values: Any = x.data if sparse.issparse(x) else x.ravel()
    if not np.isfinite(values).all():
        raise InputError("their expression holds NaN or infinite values")
    some = values[:100_000]
    if len(some) and (some >= 0).all() and (some == np.round(some)).all() and some.max() > 1:
        total = np.asarray(x.sum(axis=1)).ravel()
        scale = np.divide(np.median(total[total > 0]), total, out=np.zeros_like(total), where=total > 0)
        x = sparse.diags(scale).dot(x).tocsr() if sparse.issparse(x) else x * scale[:, None]
        x = x.log1p() if sparse.issparse(x) else np.log1p(x)
    return x


def _columns(
    adata: AnnData, first: Sequence[str | None], asked: Sequence[str], genes: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """What cells can be coloured by: obs columns in a useful order, then genes; and what is not offered, with why."""
    names = {str(name) for name in adata.var_names}
    order = dict.fromkeys([key for key in first if key is not None and key in adata.obs])
    order |= dict.fromkeys(str(key) for key in adata.obs.columns)
    found: dict[str, Any] = {}
    left_out, room = [], ROOM
    for key in order:
        values, why = of_column(adata.obs[key])
        size = 0 if values is None else len(values) * (1 if hasattr(values, "categories") else 2)
        if values is not None and size > room:
            values, why = None, "no room"
        if values is None:
            left_out.append(f"{key} ({why})")
            continue
        room -= size
        found[key] = values
    for gene in dict.fromkeys([*(name for name in asked if name not in adata.obs), *genes]):
        if gene in names and room > 0:
            room -= 2 * adata.n_obs
            found[f"gene {gene}"] = expression(adata, gene)
    return found, left_out


def _crossed(obs: pd.DataFrame, condition: str | None, label: str | None) -> dict[str, pd.DataFrame]:
    """Cells of the label and of what may be a batch, by condition; those without a value are of none."""
    import pandas as pd

    if condition is None or condition not in obs or obs[condition].nunique() > MOST_VALUES:
        return {}
    keys = [key for key in map(str, obs.columns) if key != condition and (key == label or CROSSED.search(key))]
    fit = [key for key in keys if 1 < obs[key].nunique() <= MOST_VALUES]
    text = {key: obs[key].astype(object).map(str, na_action="ignore") for key in (condition, *fit)}
    return {key: pd.crosstab(text[key], text[condition]) for key in fit}


def predicted(
    adata: AnnData, real: AnnData, name: str, against: str, how: How, model: Model | None = None
) -> Predicted:
    """A prediction, scored against real cells.

    Raises
    ------
    InputError, UsageError
        As `evaluate`.
    """
    label = label_of(adata, how.label, model)
    if label is not None and label not in real.obs:
        label = how.label
    result = _evaluate(adata, how, against=real, condition=how.condition, label=label)
    return of_evaluation(adata, result, name, against, label)


def _evaluate(adata: AnnData, how: How, **more: Any) -> Evaluation:
    """All panels that the cells allow, but for what takes long."""
    from cellalign.engine.device import computing
    from cellalign.evaluation import evaluate

    with computing(how.device, how.threads):
        return evaluate(adata, control=how.control, device=how.device, seed=how.seed, **more)


def of_evaluation(adata: AnnData, result: Evaluation, name: str, against: str, label: str | None) -> Predicted:
    """A prediction that was scored."""
    from cellalign.reporting.parts import Predicted
    from cellalign.reporting.scores import Scores

    record = Provenance.of(adata.uns).counterfactual
    return Predicted(name, against, record, result.responses, Scores.of(result, name), label)


def benchmarked(table: pd.DataFrame, name: str, metric: str = "r_change_de") -> Benchmarked:
    """A table of `benchmark`.

    Raises
    ------
    InputError
        It holds rows of several runs that do not go together.
    """
    from cellalign.reporting.parts import Benchmarked
    from cellalign.tasks.benchmark_fitted import NOTHING
    from cellalign.tasks.benchmark_paired import CEILINGS, COLUMNS, paired, sentence, values_of
    from cellalign.tasks.benchmark_table import metric_of, printed

    if metric not in table:
        metric = next((each for each in ("kBET", "s") if each in table), metric)
    declared = metric_of(metric)
    beside, wide = paired(table, metric), values_of(table, metric)
    columns, rows = printed(table, [metric], people=True)
    methods = [row.method for row in beside] or [str(each) for each in wide.index if each not in CEILINGS]
    several = len({to for _, to in wide.columns}) > 1
    groups = [f"{group}, {to}" if several else str(group) for group, to in wide.columns]

    def line(key: str, called: str) -> tuple[str, np.ndarray] | None:
        return (called, wide.loc[key].to_numpy(dtype=float)) if key in wide.index else None

    return Benchmarked(
        name=name,
        metric=metric,
        better=declared.better.in_words,
        held_out=set(table["held_out"].astype(str)) != {NOTHING},
        methods=methods,
        groups=groups,
        values=wide.reindex(methods).to_numpy(dtype=float),
        best=line(beside[0].best, f"best baseline: {beside[0].best}") if beside else None,
        ceiling=line("split half", "halves of the real cells"),
        columns=columns,
        rows=rows,
        beside_columns=["method", *COLUMNS],
        beside=[[row.method, *row.cells()] for row in beside],
        sentence=sentence(beside, metric),
    )


def file_of(path: str | os.PathLike[str], kind: str) -> File:
    """What was read, with its checksum."""
    from cellalign.data.files import checksum, stamp
    from cellalign.reporting.parts import File

    return File(Path(path).name or str(path), kind, checksum(path), stamp(path)[0])


def genes_of(parts: Sequence[Predicted], most: int = 8) -> list[str]:
    """The genes that differ most in the predictions, of which cells show their expression."""
    found: dict[str, None] = {}
    for own in parts:
        for response in own.responses:
            found |= dict.fromkeys(str(gene) for gene in response.genes[response.de[:3]])
    return list(found)[:most]


def write(page: Any, path: str, force: bool) -> None:
    """The page as a file."""
    from cellalign.data.files import atomic_path

    text = page.html()
    with atomic_path(path, force) as fresh:
        fresh.write_text(text, encoding="utf-8")
    log.info("%s: %.1f MB, for any browser", path, len(text.encode()) / 1e6)


def check_page(path: str, force: bool, inputs: Sequence[Any]) -> None:
    """Refuse a report that could not be written, before any work: UsageError."""
    from cellalign.data.files import check_output
    from cellalign.reporting import check_installed

    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"a report is HTML, and {path} does not end in .html")
    check_output(path, force, inputs)
    check_installed()
