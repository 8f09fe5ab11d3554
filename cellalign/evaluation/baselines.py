"""What knows nothing of a group's own cells under a condition: the changes that a prediction has to beat.

Pure functions of means over G genes. A *group* is whatever has cells under both conditions (a cell type, a donor, a
type of a donor); `Groups` holds the means of those that a baseline may learn from, never the group that is asked for.
Of that one it knows the control mean alone, which scoring takes from the half of the control cells that the real change
does not start from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cellalign.evaluation.metrics.response import correlations
from cellalign.group_changes import SHARPNESS, likeness, local_shift

MEAN_SHIFT, MEAN_RESPONSE = "mean shift", "mean response"
# by what each learns from, the plainest first: tables keep this order
NAMES = (
    MEAN_SHIFT,
    "matched mean shift",
    MEAN_RESPONSE,
    "matching mean",
    "additive",
    "nearest cell type",
    "local shift",
    "shrunk local shift",
    "linear model",
)
FEW_GROUPS = 3  # below it nothing can be chosen by leaving one out
SHARPNESSES = (0.0, SHARPNESS)
SHRINKAGES = tuple(np.linspace(0, 0.6, 7))
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)  # relative to the mean spread of the control means


@dataclass(frozen=True)
class Groups:
    """Means of groups whose change is known: n groups, G genes.

    Attributes
    ----------
    kinds, places : tuple of str
        Of each its cell type, and its donor, plate or batch ("" where there is none).
    treated, control : arrays [n, G]
        Means under the condition and under the control.
    halves : array [2, n, G]
        Means of two halves of the control cells: what leans on a control is tried on one of them, against a change
        that starts from the other.
    """

    kinds: tuple[str, ...]
    places: tuple[str, ...]
    treated: np.ndarray
    control: np.ndarray
    halves: np.ndarray

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def changes(self) -> np.ndarray:
        """Mean change [n, G] of each."""
        return self.treated - self.control

    def some(self, kept: np.ndarray) -> Groups:
        """Those of a mask or of positions."""
        rows = np.arange(len(self))[kept]
        kinds, places = (tuple(of[i] for i in rows) for of in (self.kinds, self.places))
        return Groups(kinds, places, self.treated[rows], self.control[rows], self.halves[:, rows])


@dataclass(frozen=True)
class Chosen:
    """What leaving out one of the other groups after another chose: by the mean correlation of the change."""

    sharpness: float = SHARPNESS
    shrink: float = 0.0
    ridge: float = 1.0


def mean_shift(others: Groups) -> np.ndarray:
    """Mean change [G] of the other groups, each counting the same."""
    return np.asarray(others.changes.mean(0))


def matched_mean_shift(others: Groups, kind: str, place: str) -> np.ndarray | None:
    """Mean change [G] of the same cell type at the other donors, plates or batches; None where there is none."""
    mine = [i for i, (k, p) in enumerate(zip(others.kinds, others.places, strict=True)) if k == kind and p != place]
    return others.changes[mine].mean(0) if mine else None


def nearest_cell_type(control: np.ndarray, others: Groups) -> np.ndarray:
    """Change [G] of the one group whose control mean is nearest (Euclidean)."""
    nearest = np.argmin(np.linalg.norm(others.control - control, axis=1))
    return np.asarray(others.changes[nearest])


def mean_response(control: np.ndarray, conditions: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Mean of the group's real means [G] under all other conditions, each counting the same, less its control."""
    return np.mean(list(conditions.values()), axis=0) - control if conditions else None


def additive(control: np.ndarray, conditions: Mapping[str, np.ndarray], parts: Sequence[str]) -> np.ndarray | None:
    """Sum of the changes [G] of each of several conditions alone; None where one of them was not measured alone."""
    if len(parts) < 2 or any(part not in conditions for part in parts):
        return None
    return np.sum([conditions[part] - control for part in parts], axis=0)


def matching_mean(control: np.ndarray, conditions: Mapping[str, np.ndarray], parts: Sequence[str]) -> np.ndarray | None:
    """Mean of the real means [G] of each of several conditions alone, less the control (Systema 2025).

    For one that was not measured alone the mean of all other conditions stands. None of a single condition, for which
    it would be the mean response.
    """
    if len(parts) < 2 or not any(part in conditions for part in parts):
        return None
    rest = np.mean(list(conditions.values()), axis=0)
    return np.mean([conditions.get(part, rest) for part in parts], axis=0) - control


def linear_model(control: np.ndarray, others: Groups, ridge: float) -> np.ndarray:
    """Ridge regression of changes on control means: how the change [G] depends on the group's state.

    Parameters
    ----------
    control : array [G]
    others : Groups
    ridge : float
        Relative to the mean squared deviation of the control means; without bound it is the mean shift.
    """
    return _ridge(control, others.control, others.changes, np.array([ridge]))[0]


def _ridge(control: np.ndarray, controls: np.ndarray, changes: np.ndarray, ridges: np.ndarray) -> np.ndarray:
    """Changes [ridges, G] by ridge regression of n changes on n control means, solved in the n x n dual."""
    centre, mean = controls.mean(0), changes.mean(0)
    spread = controls - centre
    gram, near = spread @ spread.T, spread @ (control - centre)
    values, vectors = np.linalg.eigh(gram)
    scale = max(float(np.trace(gram)) / len(gram), 1e-12)
    weights = (vectors.T @ near) / (np.maximum(values, 0) + scale * ridges[:, None])
    return mean + (weights @ vectors.T) @ (changes - mean)


def choose(others: Groups) -> Chosen:
    """Sharpness, shrinkage and ridge that predict each of the groups best from the rest.

    A group is predicted from one half of its control cells and compared with its change from the other: with one
    control for both, what leans on its noise would win.
    """
    n = len(others)
    if n < FEW_GROUPS:
        return Chosen()
    local = np.zeros((len(SHARPNESSES), len(SHRINKAGES)))
    linear = np.zeros(len(RIDGES))
    for i in range(n):
        rest = others.some(np.arange(n) != i)
        start, real = others.halves[0, i], others.treated[i] - others.halves[1, i]
        for j, sharpness in enumerate(SHARPNESSES):
            weights = likeness(start, rest.control, sharpness)
            deviation = start - weights @ rest.control
            tried = weights @ rest.changes - np.multiply.outer(SHRINKAGES, deviation)
            local[j] += np.nan_to_num(correlations(tried, real))
        tried = _ridge(start, rest.control, rest.changes, np.array(RIDGES))
        linear += np.nan_to_num(correlations(tried, real))
    sharp, shrunk = divmod(int(np.argmax(local)), len(SHRINKAGES))
    return Chosen(SHARPNESSES[sharp], float(SHRINKAGES[shrunk]), RIDGES[int(np.argmax(linear))])


def changes_by_name(
    control: np.ndarray,
    others: Groups,
    chosen: Chosen,
    *,
    kind: str = "",
    place: str = "",
    conditions: Mapping[str, np.ndarray] | None = None,
    parts: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Every baseline's change [G] of a group, by its name in `NAMES`; those that there is nothing for are left out.

    Parameters
    ----------
    control : array [G]
        The group's control mean.
    others : Groups
        What they may learn from; may be empty.
    chosen : Chosen
        What `choose` found of `others`.
    kind, place : str
        The group's cell type, and its donor, plate or batch.
    conditions : mapping of str to array [G], optional
        The group's real means under other conditions than the control and the one that is predicted.
    parts : sequence of str
        Of several conditions at once the names of each, among `conditions`.
    """
    conditions = conditions or {}
    found: dict[str, np.ndarray | None] = {
        MEAN_RESPONSE: mean_response(control, conditions),
        "matching mean": matching_mean(control, conditions, parts),
        "additive": additive(control, conditions, parts),
    }
    if len(others):
        found[MEAN_SHIFT] = mean_shift(others)
        found["matched mean shift"] = matched_mean_shift(others, kind, place)
    if len(others) > 1:  # of one other group all are its change
        found["nearest cell type"] = nearest_cell_type(control, others)
        found["local shift"] = local_shift(control, others.control, others.changes)
    if len(others) >= FEW_GROUPS:
        shrunk = {"sharpness": chosen.sharpness, "shrink": chosen.shrink}
        found["shrunk local shift"] = local_shift(control, others.control, others.changes, **shrunk)
        found["linear model"] = linear_model(control, others, chosen.ridge)
    return {name: change for name in NAMES if (change := found.get(name)) is not None}
