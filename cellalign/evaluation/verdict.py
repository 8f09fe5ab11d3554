"""What the scores of a predicted response come to: the prediction beside the best baseline, and that in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cellalign.data.values import apart, listed
from cellalign.evaluation import intervals as iv
from cellalign.evaluation.scored import MEASURABLE, PREDICTION, Scored, sign_of
from cellalign.evaluation.seen import SAID
from cellalign.evaluation.table import FITTED, PREDICTED, TUNED, WHOLE

DECIDES = "r_change_de"
NAMED = 8  # groups in a sentence


@dataclass(frozen=True)
class Beside:
    """A prediction beside the best baseline by one metric."""

    best: str
    paired: iv.Paired


def concerned(groups: Sequence[Scored]) -> list[Scored]:
    """The groups that means and the verdict are over: measurable ones, of them those that are predicted where some are.

    Where none is, those not seen that settings were chosen by. All where none is measurable.
    """
    kept = [group for group in groups if group.measurable] or list(groups)
    of = ([group for group in kept if group.status == status] for status in (PREDICTED, TUNED))
    return next(filter(None, of), kept)


def best_baseline(groups: Sequence[Scored], metric: str) -> str | None:
    """The baseline that all groups have whose mean score is best; None where none has that score."""
    sign = sign_of(metric)
    names = [name for name in groups[0].baselines if all(name in group.values for group in groups)]
    means = {name: np.mean([sign * group.plain(name, metric) for group in groups]) for name in names}
    means = {name: value for name, value in means.items() if np.isfinite(value)}
    return max(means, key=lambda name: means[name]) if means else None


def beside_best(groups: Sequence[Scored], metric: str, seed: int) -> Beside | None:
    """The prediction beside the baseline that is best over these groups; None where there is nothing to compare."""
    best = best_baseline(groups, metric)
    there = [group for group in groups if np.isfinite(group.plain(PREDICTION, metric))]
    if best is None or not there or metric not in there[0].drawn[PREDICTION]:
        return None
    sign = sign_of(metric)
    values, drawn = {}, {}
    for group in there:
        values[group.name] = sign * (group.plain(PREDICTION, metric) - group.plain(best, metric))
        drawn[group.name] = sign * (group.drawn[PREDICTION][metric] - group.drawn[best][metric])
    paired = iv.compare_pairs(values, drawn, seed)
    return Beside(best, paired) if np.isfinite(paired.difference) else None


@dataclass
class _Sorted:
    """Names of groups by what can be said of them."""

    better: list[str] = field(default_factory=list)
    worse: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)


def verdict(groups: Sequence[Scored], seed: int, metric: str = DECIDES) -> str:
    """One sentence: what is better than the best baseline, what is not, and what cannot be measured."""
    of = concerned(groups)
    nothing = [_short(group.name) for group in groups if not group.measurable]
    said = [_status(of), _of_means(of, seed, metric)] if any(group.measurable for group in groups) else []
    if len(of) > 1 and said:
        said.append(_of_each(of, seed, metric))
    if nothing:
        why = f"over all genes two halves of the real cells agree by less than {MEASURABLE:g}"
        said.append(f"not measurable ({why}): {listed(nothing, NAMED)}")
    return "; ".join(part for part in said if part)


def _short(name: str) -> str:
    """A group's name in a list of them: of a condition's one group the condition's."""
    return name.removesuffix(f", {WHOLE}")


def _status(groups: Sequence[Scored]) -> str:
    """What the verdict is of, where the model has seen it, or its settings were chosen by it."""
    for status, sentence in SAID.items():
        own = [_short(group.name) for group in groups if group.status == status]
        if own:
            return sentence.format("these cells" if len(own) == len(groups) else listed(own, NAMED))
    return ""


def _of_means(groups: Sequence[Scored], seed: int, metric: str) -> str:
    """The means of prediction and best baseline, and their difference."""
    found = beside_best(groups, metric, seed)
    what = "response" if groups[0].status != FITTED else "fit"
    if not any(group.changed for group in groups):
        return f"the {what} holds no change, so there is nothing to correlate"
    if found is None:
        return f"no other group and no other condition is there for a baseline, and the {what} is judged by none"
    ours, theirs = (np.mean([group.plain(name, metric) for group in groups]) for name in (PREDICTION, found.best))
    how = {"better": "better than", "worse": "worse than", "undecided": "no better than"}[found.paired.verdict]
    paired, shown = found.paired, np.mean([group.values[PREDICTION][metric] for group in groups])
    owes = f" ({shown:.3f} less what it owes to its own control's noise)" if f"{shown:.3f}" != f"{ours:.3f}" else ""
    p = f", p {paired.p:.2g} over {len(groups)} groups" if np.isfinite(paired.p) else ""
    same = [_short(group.name) for group in groups if not group.changed]
    counted = f"; no change is predicted of {listed(same, NAMED)}, scored as r 0" if same else ""
    return (
        f"the {what} is {how} the best baseline, {found.best}: {metric} {ours:.3f}{owes} beside {theirs:.3f}, "
        f"difference {paired.difference:+.3f} ({paired.interval.low:+.3f} to {paired.interval.high:+.3f}{p}){counted}"
    )


def _of_each(groups: Sequence[Scored], seed: int, metric: str) -> str:
    """In which groups it is better or worse than the best baseline of each."""
    found = _Sorted()
    for group in groups:
        beside = beside_best([group], metric, seed)
        if beside is not None:
            getattr(found, beside.paired.verdict).append(_short(group.name))
    said = {"better in": found.better, "worse in": found.worse, "undecided in": found.undecided}
    between = apart(name for names in said.values() for name in names)
    return between.join(f"{how} {listed(names, NAMED)}" for how, names in said.items() if names)
