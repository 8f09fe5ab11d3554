"""Of predicted responses: what was found, the groups beside their baselines, genes, and violins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.reporting.blocks import Block, Chart, Finding, Section, Table, Tone
from cellalign.reporting.figures import BLUE, GREEN, ORANGE, plain, response_scatter, rows_of_dots, violins
from cellalign.reporting.parts import Predicted
from cellalign.reporting.scores import Scores, between, listed, number, value_of

if TYPE_CHECKING:
    from cellalign.evaluation.table import Response

PANEL, PREDICTION, HALVES, MEAN, MAIN = "response", "prediction", "split half", "mean", "r_change_de"
FITTED, PREDICTED, TUNED = "fitted", "predicted", "tuned"
LATER = (FITTED, TUNED)  # behind what is predicted, the last first
MOST_GROUPS, LONG = 24, 40  # groups in pictures, a table has them all; rows of a table that is shown opened
EXPLAINED = (
    "r_change_de is the correlation of the predicted with the real change, over the 50 genes that change most: 1 is "
    "perfect, 0 says nothing. The best baseline is whatever simple rule does best on the same cells without a model; a "
    "prediction that is no better than it has not shown that the model is needed."
)


def finding(scores: Scores, of: str) -> Finding | None:
    """The verdict on a prediction; None where no response was scored."""
    rows = scores.panel(PANEL)
    mean = value_of(rows, system=PREDICTION, group=MEAN, metric=MAIN)
    if mean is None:
        mean = value_of(rows, system=PREDICTION, metric=MAIN)
    if not scores.verdict and mean is None:
        return None
    status = mean["status"] if mean is not None else ""
    nothing = scores.measurable is not None and not scores.measurable[0]
    if scores.verdict:
        text = scores.verdict
    else:
        assert mean is not None
        text = _of_row(mean)
    mark, tone = _mark(status, mean, nothing)
    return Finding(text, mark, tone, of, EXPLAINED)


def _mark(status: str, mean: Mapping[str, Any] | None, nothing: bool) -> tuple[str, Tone]:
    """What is seen first: fitted is never called predicted, and a baseline that is as good is said so."""
    if nothing:
        return "not measurable", "care"
    outcome = "undecided" if mean is None else outcome_of(mean)
    said = {"better": "better than any baseline", "worse": "a baseline is better", "undecided": "no better"}[outcome]
    if mean is not None and not mean["best_baseline"]:
        said = "no baseline"
    if status == FITTED:
        return "fitted, not predicted", "care"
    tones: dict[str, Tone] = {"better": "good", "worse": "bad", "undecided": "care"}
    known = {PREDICTED: "predicted", TUNED: "settings chosen by these cells"}.get(status, "not known whether fitted")
    return f"{known}: {said}", tones[outcome] if status == PREDICTED else "care"


def _of_row(mean: Mapping[str, Any]) -> str:
    """Of a table that keeps no verdict: the prediction beside the best baseline."""
    said = {FITTED: "fitted, not predicted; ", TUNED: "predicted, with settings chosen by these cells; "}
    seen = said.get(mean["status"], "")
    value = f"{MAIN} {number(mean['value'])}"
    if not mean["best_baseline"]:
        return f"{seen}{value}, with no baseline beside it"
    how = {"better": "better than", "worse": "worse than", "undecided": "no better than"}[outcome_of(mean)]
    interval = between(mean["difference_low"], mean["difference_high"], sign=True)
    apart = f"{number(mean['difference'], sign=True)} ({interval})"
    return f"{seen}{how} the best baseline, {mean['best_baseline']}: {value}, difference {apart}"


def outcome_of(row: Mapping[str, Any]) -> str:
    """Whether a prediction is better or worse than the best baseline, or that is undecided: the interval holds 0."""
    low, high = row["difference_low"], row["difference_high"]
    return "better" if low > 0 else "worse" if high < 0 else "undecided"


def groups_of(scores: Scores) -> list[str]:
    """Names of the groups that were scored, without means over them."""
    names = dict.fromkeys(row["group"] for row in scores.panel(PANEL))
    return [name for name in names if name != MEAN and not name.startswith(f"{MEAN} of ")]


def section(scores: Scores, predicted: Predicted | None, name: str, of: str) -> Section | None:
    """The groups beside their baselines, and where the cells are at hand what genes do; None without a response."""
    groups = groups_of(scores)
    if not groups:
        return None
    blocks: list[Block] = [_dots(scores, groups), _groups(scores, groups), _systems(scores)]
    if predicted is not None and predicted.responses:
        blocks += [_scatters(predicted.responses), _violins(predicted)]
    lead = _lead(predicted, groups)
    return Section(name, f"Predicted response{of}", lead, blocks)


def _lead(predicted: Predicted | None, groups: Sequence[str]) -> str:
    """What was predicted from what."""
    many = f"{len(groups)} groups" if len(groups) > 1 else "one group"
    if predicted is None or predicted.record is None:
        return f"The predicted change of mean expression beside the real one, in {many}."
    record = predicted.record
    to = listed([each.to for each in record.each()], 4)
    start = f" from {record.from_} cells" if record.from_ else ""
    return f"Expression under {record.condition} = {to}, predicted{start} and compared with real cells, in {many}."


def _dots(scores: Scores, groups: Sequence[str]) -> Chart:
    """Each group's prediction, best baseline and halves of the real cells."""
    rows = {(row["system"], row["group"]): row for row in scores.panel(PANEL) if row["metric"] == MAIN}
    nothing: dict[str, float] = {"value": math.nan, "low": math.nan, "high": math.nan}

    def of(system: str, group: str) -> Mapping[str, Any]:
        return rows.get((system, group), nothing)

    def place(group: str) -> tuple[int, float]:
        own = of(PREDICTION, group)
        return _later(own.get("status")), -float(np.nan_to_num(own["value"], nan=-9.0))

    measured = [group for group in groups if of(HALVES, group).get("measurable") is not False] or list(groups)
    ours = sorted(measured, key=place)[:MOST_GROUPS]
    status = [str(of(PREDICTION, group).get("status") or "") for group in ours]
    mixed = len({str(of(PREDICTION, group).get("status") or "") for group in groups}) > 1
    names = [f"{what}: {group}" if mixed and what else group for group, what in zip(ours, status, strict=True)]
    best = [of(str(of(PREDICTION, group).get("best_baseline") or ""), group) for group in ours]
    series: list[dict[str, Any]] = [
        {"name": "prediction", "colour": BLUE, "symbol": "circle", "rows": [of(PREDICTION, group) for group in ours]},
        {"name": "best baseline", "colour": ORANGE, "symbol": "diamond", "rows": best},
        {"name": "halves of the real cells", "colour": GREEN, "symbol": "line-ns-open", "size": 13}
        | {"rows": [of(HALVES, group) for group in ours]},
    ]
    for each in series:
        own = each.pop("rows")
        each |= {key: [row.get(column, math.nan) for row in own] for key, column in _ENDS.items()}
    figure = rows_of_dots(names, series, title=f"{MAIN} (1 is perfect)")
    few = f" {len(ours)} of {len(groups)} groups are drawn, those that are measurable, predicted ones first."
    more = "" if len(ours) == len(groups) else few
    caption = (
        f"Correlation of predicted and real change over the 50 genes that change most ({MAIN}), with 95 % intervals. "
        f"Halves of the real cells are what a repeat of the experiment would reach.{more}"
    )
    return Chart({"all": figure}, caption)


def _later(status: Any) -> int:
    """How far behind predicted groups one of this status stands."""
    return LATER[::-1].index(status) + 1 if status in LATER else 0


_ENDS = {"values": "value", "low": "low", "high": "high"}


def _groups(scores: Scores, groups: Sequence[str]) -> Table:
    """A row per group: what follows, its prediction, its best baseline, its halves."""
    rows = {(row["system"], row["group"]): row for row in scores.panel(PANEL) if row["metric"] == MAIN}
    cells = {row["group"]: row["n_cells"] for row in scores.panel(PANEL)}
    lines = []
    for group in sorted(groups, key=lambda each: _later(rows.get((PREDICTION, each), {}).get("status"))):
        own, half = rows.get((PREDICTION, group)), rows.get((HALVES, group))
        status = own["status"] if own else ""
        if half is not None and half["measurable"] is False:
            line = ["not measurable", "", "", "", ""]
        elif own is None or math.isnan(own["value"]):
            line = ["predicts no change", "", "", "", ""]
        else:
            difference = between(own["difference_low"], own["difference_high"], sign=True)
            said = _sign(own)
            line = [said, number(own["value"]), own["best_baseline"], number(own["difference"], sign=True), difference]
        lines.append([group, status, *line, number(half["value"]) if half else "", str(cells[group])])
    columns = ["group", "status", "verdict", "prediction", "best baseline", "better by", "95 %", "halves", "real cells"]
    caption = f"{MAIN} of each group beside its best baseline"
    if scores.measurable is not None:
        caption += f"; measurable groups: {scores.measurable[0]} of {scores.measurable[1]}"
    known = {line[1] for line in lines}
    if len(known) == 1:  # said once
        caption += OF_ALL.get(known.pop(), "")
        columns, lines = [columns[0], *columns[2:]], [[line[0], *line[2:]] for line in lines]
    folded = f"All {len(lines)} groups" if len(lines) > LONG else ""
    words = [i for i, name in enumerate(columns) if name in ("group", "status", "verdict", "best baseline")]
    return Table(columns, lines, caption, words=words, folded=folded)


def _sign(own: Mapping[str, Any]) -> str:
    """The verdict on a group; of a fitted one it is of the fit."""
    if not own["best_baseline"]:
        return "no baseline"
    sign = SIGNS[outcome_of(own)]
    return sign.replace("\u00a0", "\u00a0fit\u00a0") if own["status"] == FITTED else sign


OF_ALL = {
    FITTED: "; all are fitted, not predicted",
    PREDICTED: "; all are predicted",
    TUNED: "; all are predicted, with settings chosen by how well",
}
SIGNS = {"better": "▲\u00a0better", "worse": "▼\u00a0worse", "undecided": "●\u00a0undecided"}


def _systems(scores: Scores) -> Table:
    """Prediction, baselines and ceilings over all groups."""
    rows = [row for row in scores.panel(PANEL) if row["group"] == MEAN]
    known = list(dict.fromkeys(row["metric"] for row in rows))
    shown = [name for name in (MAIN, "r_change_all", "mse_change_de", "mse_change_all") if name in known]
    lines = []
    for system in dict.fromkeys(row["system"] for row in rows):
        own = {row["metric"]: row for row in rows if row["system"] == system}
        main = own.get(MAIN)
        worth = [between(main["low"], main["high"]), number(main["anchored"])] if main else ["", ""]
        values = [number(own[name]["value"]) if name in own else "" for name in shown]
        lines.append([system, *values[:1], *worth, *values[1:]])
    columns = ["", shown[0] if shown else MAIN, "95 %", "anchored", *shown[1:]]
    caption = "Means over groups. Anchored: 0 is what knows nothing of the group, 1 a repeat of the experiment"
    return Table(columns, lines, caption, folded="All baselines and ceilings")


def _title(response: Response, several: bool) -> str:
    name = "all cells" if response.group == "all" else response.group
    seen = "held out" if response.held_out else ""
    return ", ".join(part for part in (response.to if several else "", name, seen) if part)


def _by_group(responses: Sequence[Response]) -> dict[str, Response]:
    """Those that are drawn, held out ones first, by a title that each has alone."""
    several = len({each.to for each in responses}) > 1
    found: dict[str, Response] = {}
    for each in sorted(responses, key=lambda own: not own.held_out)[:MOST_GROUPS]:
        title, i = _title(each, several), 2
        while title in found:
            title, i = f"{_title(each, several)} ({i})", i + 1
        found[title] = each
    return found


def _scatters(responses: Sequence[Response]) -> Chart:
    """Predicted against real means, one picture per group."""
    figures, genes = {}, responses[0].genes
    shown = _by_group(responses)
    for title, each in shown.items():
        named = each.de[: each.cells["real"].shape[1]]
        figures[title] = response_scatter(
            np.asarray(each.means["predicted"], dtype=float),
            np.asarray(each.means["real"], dtype=float),
            each.de,
            named,
            [str(gene) for gene in each.genes],
            to=each.to,
            among=len(shown),
        )
        said = {"text": f"R² {each.r2_all:.3f} all genes<br>R² {each.r2_de:.3f} DE genes", "showarrow": False}
        corner = {"xref": "paper", "yref": "paper", "x": 0.99, "y": 0.02, "xanchor": "right", "yanchor": "bottom"}
        layout = figures[title]["layout"]
        for place in (layout, layout["narrow"]):
            place["annotations"] = [*place["annotations"], said | corner | {"align": "right"}]
    caption = (
        "Every point is a gene: its mean in predicted and in real cells of the group. On the dashed line the "
        "prediction is right; the genes that differ most between the conditions are named."
    )
    return Chart(figures, caption, shared={"genes": [plain(gene) for gene in genes]})


def _violins(predicted: Predicted) -> Chart:
    """The most different genes before, predicted and after, one picture per group."""
    figures = {}
    for title, each in _by_group(predicted.responses).items():
        named = each.de[: each.cells["real"].shape[1]]
        names = {"control": f"{each.origin or f'not {each.to}'}, real", "predicted": f"{each.to}, predicted"}
        names |= {"real": f"{each.to}, real"}
        means = {kind: np.asarray(values)[named] for kind, values in each.means.items()}
        figures[title] = violins([str(gene) for gene in each.genes[named]], each.cells, means, names)
    caption = "Cells before, as predicted and after, in the genes that differ most; a bar is the mean. "
    return Chart(figures, caption + _are_cells(predicted))


def _are_cells(predicted: Predicted) -> str:
    """Whether predicted values can be looked at as those of cells."""
    record = predicted.record
    if record is None:
        return "How wide a predicted violin is depends on what the other tool writes: means are narrower than cells."
    if record.written == "draw" or record.expression == "counts":
        return "Predicted cells are drawn, so that they vary as cells do."
    return (
        f"The prediction is {record.written}, no draw: judge its means, not its width "
        "(cellalign counterfactual --draw gives cells that vary as real ones do)."
    )
