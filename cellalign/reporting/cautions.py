"""What a careful colleague would say of these results before they are sent on."""

from __future__ import annotations

import math
from collections.abc import Iterator

from cellalign.reporting.embedding import MIXING, VALIDATION
from cellalign.reporting.parts import Embedded, Parts, Predicted, Trained
from cellalign.reporting.response import FITTED, HALVES, MAIN, PANEL, PREDICTION, TUNED, groups_of
from cellalign.reporting.scores import Scores, listed, value_of

FEW = 50  # cells, below which a group's mean is uncertain
LATE = 0.97  # share of the epochs, after which a best epoch means that training was cut short
OVERFIT = 0.1  # by how much a validation loss may have risen at the end
SAID_ELSEWHERE = ("held out in training", "tune chose the settings", "screen:", "mixing of validation cells")
OF_TABLES = ("m-kBET and m-s",)


def cautions(parts: Parts) -> list[str]:
    """All of them, each once."""
    found = list(parts.cautions)
    for model in parts.models:
        found += _of_model(model)
    for scores in parts.all_scores():
        found += _of_scores(scores)
    for predicted in parts.predicted:
        found += _of_prediction(predicted)
    for embedded in parts.embedded:
        found += _of_cells(embedded)
    if any(not each.held_out for each in parts.benchmarks):
        found.append("The benchmark held nothing out: it compares how well methods fit, not how well they predict.")
    return list(dict.fromkeys(found))


def _of_model(own: Trained) -> Iterator[str]:
    outcome, training = own.record.outcome, own.record.training
    if own.changed:
        yield own.changed
    if outcome is None:
        return
    asked = training.get("epochs")
    if outcome.best_epoch and asked and outcome.epochs >= asked and outcome.best_epoch >= LATE * outcome.epochs:
        yield (
            f"{own.name}: the best epoch, {outcome.best_epoch}, is among the last of {outcome.epochs}: training may "
            "not have been long enough; try more --epochs."
        )
    for each in outcome.setbacks:
        yield f"{own.name}: training diverged and went back ({each}); a smaller --lr is safer."
    losses = [row.get("validation_loss") for row in own.history]
    there = [float(x) for x in losses if x is not None and math.isfinite(float(x))]
    if len(there) > 5 and min(there) > 0 and there[-1] > (1 + OVERFIT) * min(there) and not outcome.best_epoch:
        yield f"{own.name}: the validation loss rose again by the end: the model has overfitted."
    if own.record.cells.trained < 500:
        yield f"{own.name} was trained on {own.record.cells.trained} cells, which is few for a network."


def _of_scores(scores: Scores) -> Iterator[str]:
    rows = [row for row in scores.panel(PANEL) if row["metric"] == MAIN]
    ours = [row for row in rows if row["system"] == PREDICTION]
    fitted = [row["group"] for row in ours if row["status"] == FITTED and row["group"] in groups_of(scores)]
    if fitted:
        yield (
            f"The model was trained on the real cells of {listed(fitted)}: those scores say how well it fits, not how "
            "well it predicts. To test a prediction, hold the group out: cellalign train --holdout KEY=VALUE,KEY=VALUE."
        )
    tuned = [row["group"] for row in ours if row["status"] == TUNED and row["group"] in groups_of(scores)]
    if tuned:
        yield (
            f"The settings were chosen by how well {listed(tuned)} are predicted: those scores are the best of several "
            "tries, and no independent test. Score a group that took no part in tune."
        )
    few = [
        f"{row['group']} ({row['n_cells']})"
        for row in ours
        if row["group"] in groups_of(scores) and 0 < row["n_cells"] < FEW
    ]
    if few:
        yield f"Groups of under {FEW} real cells have uncertain means: {listed(few)}."
    halves = [row["group"] for row in rows if row["system"] == HALVES and row["measurable"] is False]
    if halves:
        yield f"In {listed(halves)} two halves of the real cells do not agree: no prediction of these can be judged."
    if len(groups_of(scores)) == 1 and ours:
        yield "One group was scored: its interval is over its cells, not over other groups, donors or experiments."
    mixing = scores.panel(MIXING)
    if mixing and value_of(mixing, system=VALIDATION) is None:
        yield "Mixing is scored on all cells: a model that remembers those it was trained on mixes these alone."
    for note in scores.notes:
        if not note.startswith((*SAID_ELSEWHERE, *OF_TABLES)):
            yield note[:1].upper() + note[1:] + ("" if note.endswith(".") else ".")


def _of_prediction(own: Predicted) -> Iterator[str]:
    if own.record is not None:
        for note in own.record.notes.split("; "):
            if note:
                yield f"{own.name}: {note}."
        if own.record.combined:
            yield f"{own.name}: effects were added up ({own.record.combined}); their interactions are not."
    if own.label is None:
        yield f"{own.name} was scored over all cells at once, which hides what cell types do (--label KEY)."


def _of_cells(own: Embedded) -> Iterator[str]:
    for other, table in own.crossed.items():
        alone = [str(name) for name in table.index if (table.loc[name] > 0).sum() == 1]
        if alone and len(alone) == len(table.index):
            yield (
                f"Every value of {other} is of one {own.condition} only: what is an effect of {own.condition} and what "
                f"of {other} cannot be told apart in these cells."
            )
        elif alone and other == own.label:
            yield f"{listed(alone)}: cells of one {own.condition} only; mixing there would be a mistake, no merit."
    if own.label is None:
        yield f"{own.name} has no column of cell types: whether types were kept apart is not scored (--label KEY)."
