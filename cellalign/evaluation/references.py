"""What baselines may learn from: of each group the others that the model has learned from too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cellalign.evaluation.baselines import Chosen, Groups, changes_by_name, choose
from cellalign.evaluation.table import UNSEEN
from cellalign.group_changes import likeness


def learned_from(status: Sequence[str]) -> np.ndarray:
    """Which of the other groups a baseline learns from, bool [n]: what the model has seen too, or if that is none, all.

    Parameters
    ----------
    status : sequence of str
        Of each whether the model has seen its real cells: `FITTED`, `UNSEEN`, "" where that is not known.
    """
    known = np.array([each not in UNSEEN for each in status], dtype=bool)
    return known if known.any() else ~known


@dataclass(frozen=True)
class References:
    """All groups whose change is known.

    Attributes
    ----------
    groups : Groups
    names, status : sequence of str
        Of each, and whether the model has seen it.
    parts : sequence of str
        Of several conditions at once, each alone.
    """

    groups: Groups
    names: Sequence[str]
    status: Sequence[str]
    parts: Sequence[str] = ()

    def of(self, name: str, conditions: Mapping[str, np.ndarray]) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        """The baselines of a group: from its control mean [G] to changes by name; what they learn from: `learned_from`.

        Parameters
        ----------
        name : str
        conditions : mapping of str to array [G]
            Its means under other conditions.
        """
        own, others = self.names.index(name), self._others(name)
        chosen: list[Chosen] = []  # when it is first asked for

        def changes(control: np.ndarray) -> dict[str, np.ndarray]:
            if not chosen:
                chosen.append(choose(others))
            kind, place = self.groups.kinds[own], self.groups.places[own]
            return changes_by_name(
                control, others, chosen[0], kind=kind, place=place, conditions=conditions, parts=self.parts
            )

        return changes

    def neighbours(self, name: str) -> np.ndarray | None:
        """Control mean [G] of the other groups, weighted by their likeness to a group; None where there is no other."""
        own, others = self.names.index(name), self._others(name)
        return likeness(self.groups.control[own], others.control) @ others.control if len(others) else None

    def _others(self, name: str) -> Groups:
        other = [i for i, each in enumerate(self.names) if each != name]
        known = learned_from([self.status[i] for i in other])
        return self.groups.some(np.array(other, dtype=int)[known])
