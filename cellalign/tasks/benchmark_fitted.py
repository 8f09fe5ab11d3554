"""What a benchmark scores: the response; where nothing is held out that which was fitted, and mixing as well."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cellalign.evaluation.metrics import mixing
from cellalign.evaluation.metrics.metric import NULL, Metric

if TYPE_CHECKING:
    from anndata import AnnData

    from cellalign.evaluation import Evaluation, Row
    from cellalign.model import Model

log = logging.getLogger("cellalign")
NOTHING = "nothing"  # is held out
LEANING = "leaning"  # of a metric: what its score may owe to the noise of the prediction's own control
WITHIN, VALIDATION = "m-", "validation "


def null_of(metric: str) -> str:
    """Under which name the value stands that a metric has under permuted conditions."""
    return f"{metric} {NULL}"


def _declared() -> tuple[Metric, ...]:
    """Metrics of mixing by cells (all, or validation cells) and place (everywhere, or the mean within cell types)."""
    found = []
    for cells, of_cells in (("", ""), (VALIDATION, ", of validation cells")):
        for place, of_place in (("", ""), (WITHIN, ", mean within cell types")):
            for each in mixing.METRICS:
                meaning = f"{each.meaning.rstrip('.')}{of_place}{of_cells}."
                found.append(Metric(f"{cells}{place}{each.name}", meaning, each.better, each.null))
    return tuple(found)


METRICS = _declared()


def mixing_scores(
    adata: AnnData, model: Model, label: str | None, seed: int, device: str, min_cells: int | None
) -> dict[str, float]:
    """Scores of panel mixing by name of `METRICS`, each beside its null; none where the panel says that it cannot run.

    Raises
    ------
    InputError
        The embedding or a column is not fit to be scored.
    """
    from cellalign.errors import InputError
    from cellalign.evaluation import NotApplicable, evaluate
    from cellalign.evaluation.panels.mixing import VALIDATION as CELLS
    from cellalign.evaluation.panels.mixing import WITHIN as MEAN

    cells = adata.copy()
    cells.uns, key = {}, "X_benchmark"  # nothing of other embeddings
    cells.obsm[key] = model.embed(adata, device=device)
    split = model.split(adata)
    options: dict[str, Any] = {"condition": model.condition, "label": label, "embedding": key, "seed": seed}
    if split is not None:
        cells = _with_split(cells, split, key, model)
    try:
        scored = evaluate(cells, panels=["mixing"], device=device, min_cells=min_cells, **options)
    except InputError as error:
        if not isinstance(error.__cause__, NotApplicable):
            raise
        log.warning("%s: mixing is not scored: %s", model.name, error.__cause__)
        return {}
    found: dict[str, float] = {}
    for row in scored.rows:
        if row.group in ("all", MEAN):
            cells_of, place = VALIDATION * (row.system == CELLS), WITHIN * (row.group == MEAN)
            name = f"{cells_of}{place}{row.metric}"
            found |= {name: row.value} | ({} if row.null is None else {null_of(name): row.null.mean})
    return found


def _with_split(cells: AnnData, split: Any, key: str, model: Model) -> AnnData:
    """Cells that say which of them were validated on, as `embed` writes it."""
    from cellalign.records import Embedding, Provenance
    from cellalign.records.provenance import KEY

    cells.obs["benchmark_split"] = split
    record = Embedding(method=model.name, key=key, condition=model.condition, split="benchmark_split")
    cells.uns[KEY] = Provenance().with_steps(record).plain()
    return cells


def scores_of(
    adata: AnnData,
    model: Model,
    holdout_each: str | None,
    group: str,
    to: str,
    label: str | None,
    seed: int,
    control: str,
    device: str,
    threads: int | None,
) -> Mapping[str, dict[str, float]]:
    """Scores by system: "prediction", of the method, and the baselines."""
    from cellalign.evaluation import evaluate
    from cellalign.methods.base import Predicts
    from cellalign.threads import limited

    found: Mapping[str, dict[str, float]] = {}
    kinds = holdout_each or label
    # with nothing held out a method that cannot predict is still mixed; else it is refused as it always was
    if holdout_each is not None or isinstance(model.method, Predicts):
        start: dict[str, Any] = {"from_": control} | ({"where": {holdout_each: group}} if holdout_each else {})
        predicted = model.counterfactual(adata, to=to, **start, seed=seed, device=device, threads=threads)
        asked: dict[str, Any] = {"condition": model.condition, "label": kinds}
        asked |= {"panels": ["response"], "more_genes": True}
        with limited(threads):
            scored = evaluate(predicted, against=adata, seed=seed, device=device, **asked)
        found = response_scores(scored, kinds, group if holdout_each else None)
    return found


def response_scores(scored: Evaluation, label: str | None, group: str | None) -> Mapping[str, dict[str, float]]:
    """Scores of the response by system: of a group, or the mean over cell types, or of all cells.

    Beside a score of the change stand its interval, its place between mean shift and halves of the real cells, and what
    it may owe to the noise of its own control; and whether the change can be told from noise at all.
    """
    from cellalign.evaluation.group_names import as_group
    from cellalign.evaluation.table import FITTED, MEAN

    mean = MEAN if label is not None and MEAN in {row.group for row in scored.rows} else "all"
    wanted = mean if group is None else as_group(group)
    found: dict[str, dict[str, float]] = {}
    for row in scored.rows:
        if row.group == wanted:
            found.setdefault(row.system, {}).update(_worth(row))
    if scored.measurable is not None and wanted != mean:
        for values in found.values():
            values["measurable"] = float(scored.measurable[0] > 0)
    for row in scored.rows:
        if row.group == wanted and row.system == "prediction" and row.evidence and row.evidence.status == FITTED:
            found["prediction"]["fitted"] = 1.0
    return found


def _worth(row: Row) -> dict[str, float]:
    """A score, and of changes under names of their own what it is worth."""
    found, worth = {row.metric: row.value}, row.evidence
    if worth is not None and "change" in row.metric:
        more = {"low": worth.low, "high": worth.high, "anchored": worth.anchored}
        more |= {LEANING: worth.leaning} if worth.leaning else {}
        found |= {f"{row.metric} {name}": value for name, value in more.items() if value == value}
    return found
