"""What baselines may learn from: of each group the others that the model has learned from too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cellalign.evaluation.baselines import Chosen, Groups, changes_by_name, choose
from cellalign.evaluation.table import UNSEEN
from cellalign.group_changes import likeness


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
        """The baselines of a group: from its control mean [G] to changes by name.

        They learn from what the model has seen, or, where it has seen no other group, from all others.

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
        other = np.array([each != name for each in self.names])
        known = other & ~np.isin(self.status, UNSEEN)
        return self.groups.some(known if known.any() else other)
