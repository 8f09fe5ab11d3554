"""reproduce: train a model again from what model.yaml holds, and compare."""

from __future__ import annotations

import logging
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cellalign.data.reading import Reading
from cellalign.errors import InputError, ModelError, TrainingError
from cellalign.tasks import options as o
from cellalign.tasks.declaration import Argument, Call, Option, command_of
from cellalign.tasks.learn_on import check_parent
from cellalign.tasks.trained_with import training_options

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from cellalign.engine.fit import Progress
    from cellalign.model import Model
    from cellalign.records import ModelRecord

log = logging.getLogger("cellalign")
# How far apart latents may be, of their spread, where threads, device, processor or libraries are others; of networks
# that are trained against one another farther (docs/reproducing.md)
TOLERANCE, OF_PLAYERS = 0.5, 1.0


@dataclass(frozen=True)
class Reproduction:
    """A model beside the one that was trained again from its record.

    Attributes
    ----------
    model : Model
        The one trained now.
    identical : bool
        Whether all weights are the same, bit for bit.
    weights : float
        The largest difference of a weight.
    latents : float
        Root mean square difference of the training cells' latents over the root mean square of their spread, after one
        set was turned onto the other.
    validation_losses : pair of float, or None
        Then and now: which of the two is the better model.
    differs : list of str
        What is not as it was: libraries, device, processor, threads.
    """

    model: Model
    identical: bool
    weights: float
    latents: float
    validation_losses: tuple[float | None, float | None]
    differs: list[str]

    @property
    def tolerance(self) -> float:
        """How far latents may be apart: not at all where everything is as it was."""
        from cellalign.methods.base import HasPlayers

        if not self.differs:
            return 0.0
        return OF_PLAYERS if isinstance(self.model.method, HasPlayers) else TOLERANCE

    @property
    def agrees(self) -> bool:
        """Whether the models are the same, or as near as they can be expected to be."""
        return self.identical or self.latents <= self.tolerance

    @property
    def result(self) -> str:
        """In words."""
        return "identical" if self.identical else "within tolerance" if self.agrees else "different"


def reproduce(
    model: Model,
    adata: AnnData | None = None,
    *,
    device: Annotated[str | None, replace(o.DEVICE, help="Train there [where the model was].")] = None,
    threads: Annotated[int | None, replace(o.THREADS, help="CPU threads [as many as the model's].")] = None,
    progress: Progress | None = None,
    source: Reading | None = None,
) -> Reproduction:
    """Train a model again from its record, and compare weights and latents.

    With the same cells, libraries, processor and number of threads every bit is the same. Another number of threads
    adds sums up in another order; training magnifies that, and the latents end apart, of models as good as each other.
    Of models that were trained with `deterministic` the number of threads does not matter.

    Parameters
    ----------
    model : Model
    adata : AnnData, optional
        The training cells; by default the training files, read as they were.
    device, threads
        By default the model's own.
    source : Reading, optional
        The files the cells came from.

    Returns
    -------
    Reproduction

    Raises
    ------
    ModelError
        It was not trained, but transferred; or it learned on from a model that is gone.
    InputError
        The training files are unknown, gone or changed, or these are other cells.
    """
    from cellalign.data.files import read
    from cellalign.tasks.train import train

    record = model.record
    _check(record)
    options = training_options(record)
    machine = record.machine
    options["device"] = device or ("auto" if machine is None else machine.device)
    options["threads"] = threads or (None if machine is None else machine.threads)
    if adata is None:
        source = model.check_source()
        adata = read(source, streaming=True)
    elif record.content is not None:
        _check_content(record, adata, options)
    deterministic = machine is not None and machine.deterministic
    order = None if machine is None else machine.order
    again = train(adata, **options, deterministic=deterministic, order=order, progress=progress, source=source)
    again.record = again.record.model_copy(update={"tuned": record.tuned})  # the search is not repeated
    before, after = (_weights(each) for each in (model, again))
    cells = _trained_on(record, adata, options["control"])
    latents = [each.embeddings(cells, device=options["device"], threads=options["threads"]) for each in (model, again)]
    return Reproduction(
        again,
        _identical(before, after),
        _largest_difference(before, after),
        max(_apart(latents[0][key], latents[1][key]) for key in latents[0]),
        (_validation_loss(record), _validation_loss(again.record)),
        _differences(record, again.record),
    )


def _trained_on(record: ModelRecord, adata: AnnData, control: str | None) -> AnnData:
    """The cells without those that were held out, which may be under conditions that the model does not know."""
    from cellalign.data.given import given_cells
    from cellalign.tasks.prepare import training_rows

    return given_cells(adata)[training_rows(adata, record.holdout, control)] if record.holdout else adata


def _check_content(record: ModelRecord, adata: AnnData, options: Mapping[str, Any]) -> None:
    """Refuse cells other than those trained on."""
    from cellalign.tasks.learn_on import Parent, prepare_on
    from cellalign.tasks.prepare import of_preparation, prepare

    parent = Parent.of(options.get("from_"), options.get("learn"), record.method, options.get("missing_genes", "error"))
    asked = of_preparation(options)
    found = prepare(adata, **asked) if parent is None else prepare_on(adata, parent=parent, **asked)
    if found.record.content != record.content:
        raise InputError("these are not the cells the model was trained on, read as they were then")


def _check_fields(record: ModelRecord) -> None:
    """Refuse a model whose networks were given a column otherwise than those of this version are."""
    for field in record.fields:
        if field.kind == "number" and field.role == "condition" and not getattr(field, "knots", None):
            raise ModelError(
                f"this model is of an older cellalign, which gave networks the value of {field.name!r} itself: "
                "it serves as before, but is not trained again so; train a new one"
            )


def _check(record: ModelRecord) -> None:
    """Refuse a model that no training made; say of one that was chosen among several."""
    if record.transferred:
        raise ModelError(
            f"this model was not trained: transfer added {len(record.transferred)} interventions to another one; "
            "reproduce that one, and transfer again"
        )
    check_parent(record)
    _check_fields(record)
    if record.tuned is not None or record.command is not None and shlex.split(record.command)[1:2] == ["tune"]:
        log.info("this model was chosen by tune; its own training is repeated, not the search")


def _validation_loss(record: ModelRecord) -> float | None:
    return None if record.outcome is None else record.outcome.validation_loss


def _weights(model: Model) -> dict[str, np.ndarray]:
    return {name: value.detach().cpu().numpy() for name, value in model.method.state_dict().items()}


def _identical(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> bool:
    return before.keys() == after.keys() and all(
        (value.shape, value.dtype, value.tobytes()) == (after[name].shape, after[name].dtype, after[name].tobytes())
        for name, value in before.items()
    )


def _largest_difference(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> float:
    """Of any weight; infinite where these are not weights of the same networks."""
    import numpy as np

    if {k: v.shape for k, v in before.items()} != {k: v.shape for k, v in after.items()}:
        return np.inf
    pairs = ((value.astype(np.float64), after[name].astype(np.float64)) for name, value in before.items() if value.size)
    return max((float(np.abs(a - b).max()) for a, b in pairs), default=0.0)


def _apart(before: np.ndarray, after: np.ndarray) -> float:
    """Root mean square difference of latents [n, d] over the root mean square of their spread, turned onto each other.

    No loss here tells axes apart that were turned, swapped or mirrored together with the weights that read them.
    """
    import numpy as np

    if before.shape != after.shape:
        return np.inf
    if np.array_equal(before, after):
        return 0.0
    a, b = (z.astype(np.float64) - z.mean(0, dtype=np.float64) for z in (before, after))
    spread = (a**2).sum()
    # the best orthogonal map of b leaves |a|^2 + |b|^2 - 2 (sum of the singular values of a'b); Schoenemann 1966
    left = spread + (b**2).sum() - 2 * np.linalg.svd(a.T @ b, compute_uv=False).sum()
    return float(np.sqrt(max(left, 0.0) / spread)) if spread > 0 else np.inf


def _differences(before: ModelRecord, after: ModelRecord) -> list[str]:
    """What was not the same in the two trainings, with both values."""
    pairs: dict[str, tuple[Any, Any]] = {"cellalign": (before.cellalign, after.cellalign)}
    pairs |= {name: (value, after.versions.get(name, "none")) for name, value in before.versions.items()}
    if before.machine is None or after.machine is None:
        found = ["device and threads (of a model that an older cellalign trained, not known)"]
    else:
        found = []
        for name in ("device", "processor", *([] if before.machine.deterministic else ["threads"])):
            pairs[name] = getattr(before.machine, name), getattr(after.machine, name)
    return found + [f"{name} ({old}, now {new})" for name, (old, new) in pairs.items() if old != new]


@command_of(reproduce, example="cellalign reproduce cellalign-model")
def command(
    call: Call,
    model: Annotated[str, Argument("The model's directory.", metavar="MODEL")],
    input: Annotated[
        Reading, Argument("The training cells, where they lie elsewhere now; - is standard input.", metavar="INPUT")
    ] = o.TRAINING_FILES,
    output: Annotated[str | None, Option("Also keep the model trained now.", ("--output", "-o"), metavar="DIR")] = None,
    format: Annotated[o.TableFormat, o.FORMAT] = "table",
    force: Annotated[bool, o.FORCE] = False,
) -> None:
    """Train a model again from its model.yaml, and compare weights and latents.

    Exit status 0 where all is the same, or as near as another number of threads or other libraries allow; 5 where not.
    """
    _tell_threads(model, call.options["threads"])
    from cellalign.engine.device import own_process
    from cellalign.model import load
    from cellalign.model_directory import check_model_output
    from cellalign.tasks.paths import cells_for, source_of
    from cellalign.tasks.reads import vectors

    fitted = load(model)
    _check(fitted.record)
    if output is not None:
        check_model_output(output, force, [input, model])
    source = source_of(input, fitted)
    machine = fitted.record.machine
    own_process(call.options["device"] or ("auto" if machine is None else machine.device))
    options = training_options(fitted.record)
    adata = cells_for(source, fitted.expression, vectors(options["kinds"]), options["layer"], streaming=True)
    with call.training_progress() as progress:
        known = None if input.from_stdin else source
        found = reproduce(fitted, adata, progress=progress, source=known, **call.options)
    if output is not None:
        found.model.save(output, force=force)
    _report(call, found, format)
    if not found.agrees:
        much = f"latents differ by {found.latents:.2g} of their spread"
        why = "more than training on another machine explains" if found.differs else "though nothing else does"
        raise TrainingError(f"{model} is not reproduced: {much}, {why}")


def _report(call: Call, found: Reproduction, format: str) -> None:
    row: dict[str, Any] = {
        "result": found.result,
        "weights": found.weights,
        "latents": found.latents,
        "tolerance": found.tolerance,
        "loss_then": found.validation_losses[0],
        "loss_now": found.validation_losses[1],
        "differs": "; ".join(found.differs) or None,
    }
    if format == "table":
        row = {name: f"{value:.6g}" if isinstance(value, float) else value or "-" for name, value in row.items()}
    headings = ["result", "weights differ by", "latents, of their spread", "tolerance", "validation loss then", "now"]
    call.print_rows("reproduce", list(row), [list(row.values())], format, headings=[*headings, "not as then"])


def _tell_threads(directory: str, asked: int | None) -> None:
    """Have libraries that are not imported yet start with as many threads as the model was trained with."""
    from cellalign.threads import tell_libraries

    if asked is not None or "numpy" in sys.modules:
        return
    try:
        text = (Path(directory) / "model.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return  # said when the model is loaded
    kept = re.search(r"^machine:\n(?: +.*\n)*? +threads: (\d{1,4})$", text, re.MULTILINE)
    if kept is not None and int(kept[1]):
        tell_libraries(int(kept[1]))
