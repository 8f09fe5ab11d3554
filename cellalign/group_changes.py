"""Changes of groups of cells in closed form: what one group's change says of another's.

A group is whatever has cells under both conditions (a cell type, a donor, a type of a donor, a dose); its change is the
difference of its mean under the other condition from its mean under the control. Methods and baselines share these.

Notable: what is chosen (how sharply likeness counts, how far states converge, whether changes are differences or fold
changes) is chosen by leaving groups out, each predicted from one half of its control and compared with its change from
the other half, so that what leans on the noise of its own control gains nothing. No setting wins alone: all count, by
how little they are worse than the best, so that few groups choose softly and many sharply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

SHARPNESS = 4.0
ADDITIVE = 1.0  # the offset at which a change of scale is none: log(expm1(x) + 1) is x
DOUBTS = (0.0, 1.0, 2.0)  # with 1, of a change as large as its standard error a half is believed
NEGLIGIBLE = 1e-3  # share of a setting that is left away
TINY = 1e-12
DRAWN, SUMS_UP = 0.02, 1e3  # how much shares of a stack are drawn to a first guess, and to the sum 1


def likeness(control: np.ndarray, controls: np.ndarray, sharpness: float = SHARPNESS) -> np.ndarray:
    """Weight of each group [n] by how near its control mean is: exp(-sharpness d / mean d), summing up to 1.

    Parameters
    ----------
    control : array [..., G]
        Control mean of the group that is asked for; of several, or of cells, one row each.
    controls : array [n, G]
        Those of the groups whose changes are known.
    sharpness : float
        0 weighs all groups alike.

    Returns
    -------
    array [..., n]
    """
    distance = np.linalg.norm(np.asarray(control)[..., None, :] - controls, axis=-1)
    return by_distance(distance, sharpness)


def by_distance(distance: np.ndarray, sharpness: float, times: np.ndarray | float = 1.0) -> np.ndarray:
    """Weights [..., n] of groups at these distances: exp(-sharpness d / mean d), times others, summing up to 1."""
    scale = distance.mean(-1, keepdims=True)
    weights = times * np.exp(-sharpness * distance / np.where(scale > 0, scale, 1.0))
    return weights / weights.sum(-1, keepdims=True)


def local_shift(
    control: np.ndarray,
    controls: np.ndarray,
    changes: np.ndarray,
    *,
    sharpness: float = SHARPNESS,
    shrink: float = 0.0,
) -> np.ndarray:
    """Change [..., G] of a group as the changes of others, weighted by the likeness of their control means.

    Parameters
    ----------
    control : array [..., G]
    controls, changes : arrays [n, G]
        Control means and changes of the other groups.
    sharpness : float
        With 0 and no shrinkage it is their mean change.
    shrink : float
        How much of the group's deviation from the likewise weighted control mean is taken back: states converge under
        treatment.
    """
    weights = likeness(control, controls, sharpness)
    return weights @ changes - shrink * (np.asarray(control) - weights @ controls)


class Setting(NamedTuple):
    """How a group's change follows from others'.

    Attributes
    ----------
    sharpness : float
        Of the likeness of control means.
    shrink : float
        How much of the deviation from the weighted control mean is taken back.
    offset : float
        Changes are differences of log(expm1(x) + offset): with 1 of x itself, below that more and more fold changes.
    kinship : float
        A group weighs exp(kinship) times as much for each value (of type, donor, ...) that it shares.
    rank : float
        Above 0 weights are no likeness: they follow from ridge regression of changes on so many principal components of
        the control means, which may go beyond the groups that are known.
    ridge : float
        Of this regression, in parts of the mean square of a group's components.
    doubt : float
        How much the change of a gene is drawn to none where groups do not agree on it; see `agreed`.
    """

    sharpness: float
    shrink: float
    offset: float
    kinship: float
    rank: float = 0
    ridge: float = 0
    doubt: float = 0


def settings_to_try(*, signed: bool = False, related: bool = True) -> list[Setting]:
    """All that are compared.

    Parameters
    ----------
    signed : bool
        Values are no log expression but any real ones: there are no fold changes.
    related : bool
        Groups can share values, because they are known by more than one column.
    """
    offsets = (ADDITIVE,) if signed else (0.2, 0.5, ADDITIVE)
    kinships = (0.0, 1.0, 2.0, 4.0) if related else (0.0,)
    shrinks = (0, 0.2, 0.4, 0.6)
    # of many small groups like ones are of one type: regression adds nothing, and other types are no reason to doubt
    doubts = (0.0,) if related else DOUBTS
    alike = product((0, 1, 2, 3, 4, 6, 8), shrinks, offsets, kinships, (0,), (0,), doubts)
    if related:
        return [Setting(*each) for each in alike]
    regressed = product((0,), shrinks[:-1], offsets, kinships, (2, 4), (0.05, 0.2, 0.8), doubts)
    return [Setting(*each) for each in (*alike, *regressed)]


@dataclass(frozen=True)
class Known:
    """Groups whose changes are known.

    Attributes
    ----------
    controls, treated : arrays [n, G]
        Means under either condition.
    noise : arrays [n, 2]
        Sampling variance of these means, summed up over genes.
    values : int array [n, F]
        The group by its values, one for each column (type, donor, ...).
    units : array [G] or 1
        Spread of each gene within groups, where genes may be of any unit; 1 of log expression, which has one for all.
    """

    controls: np.ndarray
    treated: np.ndarray
    noise: np.ndarray
    values: np.ndarray
    units: np.ndarray | float = 1.0

    def __len__(self) -> int:
        return len(self.controls)

    def among(self, rows: np.ndarray) -> Known:
        """Some of them."""
        return Known(self.controls[rows], self.treated[rows], self.noise[rows], self.values[rows], self.units)

    def reliability(self) -> np.ndarray:
        """Weight [n] of each: the inverse variance of its change, within groups by sampling and between them."""
        if len(self) < 2:
            return np.ones(len(self))
        own = self.noise.sum(1)
        between = float((self.treated - self.controls).var(0, ddof=1).sum()) - float(own.mean())
        found = 1 / (max(between, 0.1 * float(own.mean()), TINY**2) + own)
        return found / found.max()


def changes(control: np.ndarray, values: np.ndarray, known: Known, settings: Sequence[Setting]) -> np.ndarray:
    """Change of a group under each of some settings, [settings, G].

    Parameters
    ----------
    control : array [G]
        Its control mean.
    values : int array [F]
        Its values; -1 where one is not known.
    """
    distance = np.linalg.norm(known.controls - control, axis=1)
    shared = (known.values == values).sum(1)
    reliable = known.reliability()
    components = _components(known, reliable, control)
    own = {offset: to_scale(control, offset) for offset in {s.offset for s in settings}}
    each = {offset: to_scale(known.treated, offset) - to_scale(known.controls, offset) for offset in own}
    means: dict[tuple[float, ...], tuple[np.ndarray, ...]] = {}
    changed: dict[tuple[float, ...], tuple[np.ndarray, np.ndarray]] = {}
    found = np.empty((len(settings), len(control)))
    for row, (sharpness, shrink, offset, kinship, rank, ridge, doubt) in enumerate(settings):
        key = (sharpness, kinship, rank, ridge)
        if key not in means:
            kin = reliable * np.exp(kinship * (shared - shared.max()))
            if rank:
                weights, counted = _regressed(*components, reliable, kin, int(rank), ridge), kin / kin.sum()
            else:
                weights = counted = by_distance(distance, sharpness, kin)
            means[key] = weights @ known.controls, weights @ known.treated, counted
        at = (*key, offset, doubt)
        if at not in changed:  # which settings share that differ by how much states converge
            before, after = (to_scale(mean, offset) for mean in means[key][:2])
            change = after - before
            trust = agreed(change, each[offset], means[key][2], doubt, known.units) if doubt else 1.0
            changed[at] = before, trust * change
        before, change = changed[at]
        moved = own[offset] + change - shrink * (own[offset] - before)
        found[row] = from_scale(moved, offset) - control
    return found


def agreed(
    change: np.ndarray,
    each: np.ndarray,
    weights: np.ndarray,
    doubt: float = 1.0,
    units: np.ndarray | float = 1.0,
) -> np.ndarray:
    """How far a mean change is believed, by gene: c^4 / (c^4 + (doubt s^2)^2), s its standard error as groups differ.

    Most genes do not respond: one whose change is within its error is drawn to none, one well beyond it stays as it is.

    Parameters
    ----------
    change : array [G]
        The mean change c.
    each : array [n, G]
        Those of the groups that it is a mean of.
    weights : array [n]
        By which they count, summing up to 1: s^2 = sum w (each - mean)^2 * sum w^2 / (1 - sum w^2). No gene's is below
        that of the gene in the middle: few groups agree by chance.
    units : array [G] or 1
        In which genes are compared to find the one in the middle; of a unit of 0 nothing is known, and none is below.
    """
    alone = float((weights**2).sum())
    if alone >= 1 - TINY:  # one group says nothing of how they differ
        return np.ones_like(change)
    variance = np.maximum(weights @ each**2 - (weights @ each) ** 2, 0) * alone / (1 - alone)
    squared = np.broadcast_to(np.square(units), variance.shape)
    known = squared > 0
    if known.any():
        variance = np.maximum(variance, squared * np.median(variance[known] / squared[known]))
    apart = np.divide(doubt * variance, change**2, out=np.full_like(change, np.inf), where=change != 0)
    return 1 / (1 + apart**2)


def _components(known: Known, reliable: np.ndarray, control: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Control means of known groups [n, r] and of another one [r] by principal components of the former."""
    centre = reliable / reliable.sum() @ known.controls
    spread = known.controls - centre
    values, vectors = np.linalg.eigh(spread @ spread.T)  # of as many as there are groups, not genes
    kept = values > TINY + 1e-9 * values.max(initial=0)
    basis = (vectors[:, kept] / np.sqrt(values[kept]))[:, ::-1].T @ spread
    return spread @ basis.T, basis @ (control - centre)


def _regressed(
    known: np.ndarray, own: np.ndarray, reliable: np.ndarray, kin: np.ndarray, rank: int, ridge: float
) -> np.ndarray:
    """Weights [n], summing up to 1, by which ridge regression on components predicts what groups have.

    Parameters
    ----------
    known : array [n, r]
        Components of the groups that are known, about their mean.
    own : array [r]
    reliable : array [n]
        Of less reliable ones less is learned.
    kin : array [n]
        Weights of the mean from which the regression goes on.
    """
    z = known[:, :rank]
    share, start = reliable / reliable.sum(), kin / kin.sum()
    gram = z @ z.T
    penalty = ridge * np.trace(gram) / len(z) / (len(z) * share)
    found = np.linalg.solve(gram + np.diag(np.maximum(penalty, TINY)), z @ (own[:rank] - start @ z))
    return start + found - found.sum() * share


def to_scale(x: np.ndarray, offset: float) -> np.ndarray:
    """log(expm1(x) + offset), on which an addition is between a difference of x and a fold change."""
    return x if offset == ADDITIVE else np.log(np.expm1(np.maximum(x, 0)) + offset)


def from_scale(moved: np.ndarray, offset: float) -> np.ndarray:
    """The inverse; nothing falls below zero."""
    return moved if offset == ADDITIVE else np.log1p(np.maximum(np.exp(moved) - offset, 0))


@dataclass(frozen=True)
class LeftOut:
    """A group that was left out, predicted from halves of its control.

    Attributes
    ----------
    truth : array [splits, G]
        Its change from the one half.
    predicted : array [splits, candidates, G]
        From the other, by others' changes.
    """

    truth: np.ndarray
    predicted: np.ndarray

    @property
    def size(self) -> float:
        """Square of the change, summed up over genes and splits; above 0."""
        return max(float((self.truth**2).mean()), TINY**2) * self.truth.size

    def errors(self) -> np.ndarray:
        """Squared error of each candidate, in parts of the change's own square, [candidates]."""
        return ((self.predicted - self.truth[:, None]) ** 2).sum((0, 2)) / self.size

    def products(self) -> np.ndarray:
        """Products of candidates' errors, [candidates, candidates]: s @ products @ s is the error of an average by s.

        `errors` is their diagonal. What is kept of many groups does not grow with genes.
        """
        apart = self.predicted - self.truth[:, None]
        return np.einsum("scg,sdg->cd", apart, apart, optimize=True) / self.size


def soft_choice(errors: np.ndarray) -> np.ndarray:
    """Share of each candidate [c] by its errors on groups that were left out, [groups, c].

    exp(-excess / se): the excess is the mean error over that of the best, se its standard error as groups differ. With
    one group or none no setting is better than another.
    """
    n, most = errors.shape
    if n < 2:
        return np.full(most, 1 / most)
    mean = errors.mean(0)
    apart = errors - errors[:, [mean.argmin()]]
    se = np.sqrt(apart.var(0, ddof=1).mean() / n) * (n + 1) / (n - 1)  # of few groups it is itself uncertain
    share = np.exp(-(mean - mean.min()) / max(float(se), TINY))
    share[share < NEGLIGIBLE * share.max()] = 0
    return share / share.sum()


def others(known: Known, row: int, columns: Sequence[int]) -> np.ndarray:
    """Mask [n] of the groups that stay when one is left out with all that share one of its values in these columns.

    Columns are dropped from the last on while nothing would stay.
    """
    for n in range(len(columns), -1, -1):
        lost = list(columns[:n])
        gone = (known.values[:, lost] == known.values[row, lost]).any(1)
        gone[row] = True
        if not gone.all():
            break
    return ~gone


def columns_asked(asked: np.ndarray, cells: np.ndarray, known: np.ndarray) -> list[int]:
    """Columns of which a whole value is to be predicted: those to leave out by.

    Parameters
    ----------
    asked : int array [m, F]
        Groups, by their values, whose change is not known; -1 where a value is not known, which no column lacks.
    cells : int array [m]
        Cells of each.
    known : int array [n, F]
        Groups whose change is.

    Returns
    -------
    list of int
        The columns whose value no known group has, as most of the cells lack them; none where groups are asked for
        whose every value is known from others.
    """
    found: dict[tuple[int, ...], int] = {}
    for values, n in zip(asked, cells, strict=True):
        lacking = tuple(c for c in range(asked.shape[1]) if values[c] >= 0 and values[c] not in known[:, c].tolist())
        if lacking or (values >= 0).all():
            found[lacking] = found.get(lacking, 0) + int(n)
    most = max(found.values(), default=0)
    return next((list(lacking) for lacking, n in found.items() if n == most), [])


def stacked(left: Sequence[LeftOut]) -> np.ndarray:
    """Shares of candidates [c], at least 0 and summing up to 1, whose average tells best what was left out.

    Least squares, each group in parts of its own squared change, drawn to the shares of `soft_choice`: of few groups
    candidates that are nearly alike cannot be told apart.
    """
    from scipy.optimize import nnls

    choice = soft_choice(np.array([each.errors() for each in left]))
    rows, goal = [], []
    for each in left:
        size = np.sqrt(each.size)
        rows.append(np.moveaxis(each.predicted, 1, 2).reshape(-1, len(choice)) / size)
        goal.append(each.truth.reshape(-1) / size)
    drawn = np.sqrt(DRAWN * len(left) / len(choice))
    total = SUMS_UP * np.sqrt(len(left))
    design = np.concatenate([*rows, drawn * np.eye(len(choice)), total * np.ones((1, len(choice)))])
    found = nnls(design, np.concatenate([*goal, drawn * choice, [total]]))[0]
    found[found < 0.01] = 0
    return found / found.sum()
