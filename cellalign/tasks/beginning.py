"""What a training begins with, settled before anything is fitted: for `train`, and for its dry run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cellalign.errors import UsageError, option, spoken
from cellalign.tasks.learn_on import Parent, prepare_on
from cellalign.tasks.prepare import Prepared, of_preparation, prepare

if TYPE_CHECKING:
    from anndata import AnnData

    from cellalign.model import Model
    from cellalign.tasks.calibrate import Calibrating
    from cellalign.tasks.resuming import Resuming


@dataclass(frozen=True)
class Beginning:
    """A training that has not begun, and what is done beside it.

    Attributes
    ----------
    prepared : Prepared
    parent : Parent, optional
        What is learned on from.
    planned : Calibrating, optional
        Which groups refits leave out.
    """

    prepared: Prepared
    parent: Parent | None
    planned: Calibrating | None

    def to_calibrate(self, finished: Model) -> Calibrating | None:
        """What is left to do for a model that is complete: the refits that it was not calibrated by."""
        return None if self.planned is None or self.planned.is_of(finished) else self.planned


def begin(
    adata: AnnData, parent: Parent | None, method: str, resuming: Resuming, asked: Mapping[str, Any], *, alone: bool
) -> Beginning:
    """Check everything that `train` with these options would, and settle what it would do.

    Parameters
    ----------
    adata : AnnData
    parent : Parent, optional
        What is learned on from.
    method : str
    resuming : Resuming
        Which says the precision of a run that is gone on with.
    asked : mapping
        Parameters of `train`.
    alone : bool
        Whether one process trains.

    Raises
    ------
    UsageError, InputError
        As `train`.
    """
    from cellalign.methods.registry import get
    from cellalign.tasks.calibrate import NONE, calibrating, how_to_calibrate

    key, folds = asked["calibrate"], asked["calibrate_folds"]
    options = of_preparation(asked) | {"method": method, "automatic": resuming.precision()}
    if parent is None:
        prepared = prepare(adata, **options)
    else:
        prepared = prepare_on(adata, parent=parent, **options)
        if key not in (None, NONE):
            raise UsageError(f"{option('calibrate', key)}: a model that learns on knows the cells to be left out")
    if asked.get("order") is not None:
        prepared = replace(prepared, cells=replace(prepared.cells, shuffled_as=tuple(asked["order"])))
    planned = None if parent is not None else calibrating(prepared, adata, get(method), key, folds)
    if planned is not None and not alone:
        later = spoken(python="train again with auto_resume=True, in one process", command="--auto-resume in one")
        raise UsageError(f"{option('calibrate', key)} takes one process: train without it, then {later}")
    if planned is not None:
        prepared = replace(prepared, refits=len(planned.folds))
    elif parent is None and key is None:
        prepared = replace(prepared, notes=[*prepared.notes, *how_to_calibrate(prepared, adata, get(method))])
    return Beginning(prepared, parent, planned)
