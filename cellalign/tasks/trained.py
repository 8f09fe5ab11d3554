"""From what training starts with to the model: the networks, the loop, what is kept of the cells, the record."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cellalign.tasks.learn_on import Parent, started
from cellalign.tasks.notebook import shown
from cellalign.tasks.prepare import Prepared

if TYPE_CHECKING:
    import numpy as np
    import torch

    from cellalign.engine.checkpoint import Checkpoint
    from cellalign.engine.fit import Progress, State
    from cellalign.engine.plan import Plan
    from cellalign.methods.base import Method
    from cellalign.model import Model
    from cellalign.records import Outcome
    from cellalign.tasks.beginning import Beginning

log = logging.getLogger("cellalign")
MANY = 30  # conditions of which not every pair is looked at


def trained(
    begun: Beginning,
    *,
    checkpoint: Checkpoint | None,
    before: Callable[[Prepared, torch.device], None] | None,
    progress: Progress | bool | None,
    device: str,
    threads: int | None,
    deterministic: bool,
    seed: int,
    world: int,
) -> Model:
    """Train, calibrate and describe a model, of which nothing is written but checkpoints; parameters are `train`'s.

    Parameters
    ----------
    begun : Beginning
        What it starts from.
    world : int
        Processes that train together.

    Raises
    ------
    TrainingError
        As `train`.
    """
    import torch

    from cellalign.data.said import tell
    from cellalign.engine.device import computing, machine
    from cellalign.engine.fit import fit
    from cellalign.engine.observed import observe_cells
    from cellalign.model import Model
    from cellalign.model_directory import build_to_train
    from cellalign.tasks.calibrate import calibrated

    prepared, parent, planned = begun.prepared, begun.parent, begun.planned
    record = prepared.record
    with computing(device, threads, deterministic=deterministic) as torch_device:
        used = machine(torch_device, world, deterministic=deterministic)
        record = record.model_copy(update={"machine": used})
        if before is not None:
            before(prepared, torch_device)
        torch.manual_seed(seed)
        module, learning_on = (build_to_train(record), None) if parent is None else started(parent, record)
        prepared.cells.batch(torch.from_numpy(prepared.train_rows[:1]))  # what reads rows is compiled or loaded
        began, prepared.cells.waiting.seconds = time.perf_counter(), 0.0
        with shown(progress) as told:
            state = fit(
                module,
                prepared.cells,
                torch.from_numpy(prepared.train_rows),
                torch.from_numpy(prepared.validation_rows),
                prepared.plan,
                device=torch_device,
                seed=seed,
                progress=told,
                checkpoint=checkpoint,
                learning_on=learning_on,
                more_follows=planned is not None,
            )
        waiting = prepared.cells.waiting.seconds / max(time.perf_counter() - began, 1e-9)
        kept = None if parent is None else parent.model.method.observed
        observe_cells(module, prepared.cells, [torch.from_numpy(rows) for rows in prepared.rows], kept)
        _say_caveats(module)
        held_out, calibrating = None, None
        if planned is not None:
            began = time.monotonic()
            held_out = calibrated(prepared, planned, device=torch_device, seed=seed, checkpoint=checkpoint)
            calibrating = round(time.monotonic() - began, 2)
            record = record.model_copy(update={"calibration": planned.record})
    order = state.order if state.step else prepared.cells.order  # of a run that was cut off that which it began with
    record = record.model_copy(update={"machine": used.model_copy(update={"order": order})})
    findings = module.findings()
    for found in findings:
        tell(logging.INFO, found)
    if state.halvings:  # as if they had been asked for
        training = record.training | {"batch_size": prepared.plan.batch_size >> state.halvings}
        record = record.model_copy(update={"training": training})
    outcome = _outcome(state, findings, prepared.plan).model_copy(update={"seconds_calibrating": calibrating})
    record = record.model_copy(update={"outcome": outcome})
    model = Model(module, record, state.history, _seen(prepared, parent), held_out)
    model.waiting = waiting
    return model


def _say_caveats(method: Method) -> None:
    """What predictions from the control, or of few conditions between any two, will suffer from."""
    from cellalign.data.said import tell
    from cellalign.methods.base import Predicts

    conditions, control = range(method.layout.n_conditions), method.layout.control
    if not isinstance(method, Predicts) or (control is None and len(conditions) > MANY):
        return
    found = method.caveats(conditions if control is None else [control], conditions)
    if found:
        more = f" (and {len(found) - 1} others)" if len(found) > 1 else ""
        tell(logging.WARNING, found[0] + more)


def _seen(prepared: Prepared, parent: Parent | None) -> np.ndarray | None:
    """Fingerprints of all cells that the model has seen; None where it began with one that does not know its own."""
    import numpy as np

    from cellalign.data.fingerprints import of_trained

    before = None if parent is None else parent.model.trained
    if parent is not None and before is None:
        return None
    rows = np.concatenate([prepared.train_rows, prepared.validation_rows])
    return of_trained(prepared.cells.matrix, len(prepared.cells), rows, before)


def _outcome(state: State, findings: list[str], plan: Plan) -> Outcome:
    from cellalign.records import Outcome

    best = (state.best_epoch, round(state.best_loss, 6)) if state.best_epoch else (None, None)
    return Outcome(
        epochs=state.epoch,
        steps=state.step,
        seconds=round(state.seconds, 2),
        best_epoch=best[0],
        validation_loss=best[1],
        setbacks=state.setbacks,
        lr_factor=state.lr_factor,
        findings=findings,
        batch_size_asked=plan.batch_size if state.halvings else None,
    )
