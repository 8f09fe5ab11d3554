"""What runs of a grid are ranked by, and which criteria compare what the grid varies.

A validation loss is a sum of terms: where a weight of one is varied, the sums are of different things, and the weight 0
always wins. Such runs are compared by what they are trained for: how well cells kept back are reconstructed, how near
their conditions are to being mixed at random, how well cells held out are predicted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cellalign.errors import InputError, UsageError, option
from cellalign.tasks.prepare import resolved

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData

    from cellalign.methods.base import Method
    from cellalign.model import Model
    from cellalign.records import TunedRecord

CRITERIA = ("udr", "loss", "reconstruction", "mixing", "balance", "response")
ON_VALIDATION = ("loss", "reconstruction", "mixing", "balance")
# settings that change a network or its training, and no term of the loss
SHAPES = frozenset(
    ("hidden", "latent_dim", "dropout", "batch_norm", "negative_slope", "mask_start", "sparsity_from", "rotate_at")
    + ("threshold", "covariate_dropout", "ridge")
)
OF_BATCHES = frozenset(("gamma", "total_correlation"))  # penalties between the cells of a batch: its size matters
KNOWN_BY = 100  # cells of a group: they are found among a tenth of it, but for one time in 40,000
ENOUGH = 20  # validation cells, to look for neighbours among


def ranked_by(
    cls: type[Method],
    by: str,
    obs: pd.DataFrame,
    seeds: int,
    settings: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
) -> str:
    """What to rank by, settled before the first run; `settings` are those of each combination.

    Raises
    ------
    UsageError
        An unknown criterion or setting, too few seeds, no validation cells, or a criterion that does not compare what
        the settings vary.
    """
    if by not in ("auto", *CRITERIA):
        raise UsageError(f"{option('by', by)} is none of auto, {', '.join(CRITERIA)}")
    plans = [resolved(cls.name, own, options) for own in settings]
    held = bool(cases(obs, options))
    able = {name for name in CRITERIA if not _why(cls, name, plans, held, options)} - ({"udr"} if seeds < 2 else set())
    if by == "auto":
        by = next((name for name in _preferred(cls, held) if name in able), "")
        if not by:
            held_out = _why(cls, "response", plans, held, options)
            raise UsageError(f"nothing compares these runs: {_why(cls, 'loss', plans, held, options)}; and {held_out}")
    if by == "udr" and seeds < 2:
        raise UsageError(f"UDR compares models that differ by seed: {option('seeds')} must be at least 2")
    if by not in able:
        others = [name for name in CRITERIA if name in able]
        how = f"; set {option('by')} to {' or '.join(others)}" if others else ""
        raise UsageError(f"{option('by', by)} cannot rank these runs: {_why(cls, by, plans, held, options)}{how}")
    if by in ON_VALIDATION and any(plan.validation == 0 for _, plan in plans):
        raise UsageError(f"ranking by {by} needs validation cells; leave the setting validation above 0")
    return by


def _preferred(cls: type[Method], held: bool) -> Iterable[str]:
    """Criteria in the order in which auto takes them."""
    if cls.disentangles:
        yield "udr"
    if held:
        yield "response"
    yield from ("loss", "balance", "reconstruction", "mixing")


def _why(cls: type[Method], by: str, plans: Sequence[Any], held: bool, options: Mapping[str, Any]) -> str:
    """Why a criterion does not compare these runs; empty where it does."""
    from cellalign.methods.base import Trains

    found = _incomparable(cls, by, plans, held, options)
    if not found and by in ON_VALIDATION and not issubclass(cls, Trains):
        return f"{cls.name} is fitted to all cells at once, and keeps none back to compare runs by"
    return found


def _incomparable(cls: type[Method], by: str, plans: Sequence[Any], held: bool, options: Mapping[str, Any]) -> str:
    """Why it would not, were there validation cells."""
    from cellalign.methods.base import Predicts, Reconstructs

    varied = _varied(plans)
    if by == "loss":
        terms = sorted(name for name in varied if name not in _of_training(cls, plans))
        return f"{', '.join(terms)} changes what the loss is a sum of, so that losses do not compare" if terms else ""
    if by in ("mixing", "balance") and not _mixed(cls, options):
        return "it takes no condition or batch out of the latents, which then would have to mix"
    if by in ("reconstruction", "balance"):
        if not issubclass(cls, Reconstructs):
            return "it does not reconstruct cells"
        return "reconstructions by different likelihoods do not compare" if "likelihood" in varied else ""
    if by == "response":
        if not issubclass(cls, Predicts):
            return "it does not predict expression"
        example = option("holdout", ["cell_type=NK,stim=stimulated"])
        return "" if held else f"no cells are held out under a condition that others are trained under, as by {example}"
    return ""


def _varied(plans: Sequence[Any]) -> set[str]:
    """Settings of which not all runs have the same value."""
    every = [own.model_dump() | plan.model_dump() for own, plan in plans]
    return {name for name in every[0] if any(other[name] != every[0][name] for other in every)}


def _of_training(cls: type[Method], plans: Sequence[Any]) -> set[str]:
    """Settings under which losses compare, though they differ."""
    own, plan = plans[0]
    found = set(SHAPES) | (set(type(plan).model_fields) - {"validation"})
    if OF_BATCHES & set(cls.Hyperparameters.model_fields):
        found -= {"batch_size", "balanced"}
    else:
        found |= {"posterior_scale"}
    return found - {"latent_dim"} if getattr(own, "averaged", False) else found


def _mixed(cls: type[Method], options: Mapping[str, Any]) -> list[str]:
    """Columns of categories whose effect the method takes out of the latents."""
    numbers = {*(options.get("numeric") or ()), *(options.get("kinds") or {})}
    if options.get("continuous"):
        numbers.add(options.get("condition"))
    columns = {"condition": [options.get("condition")], "batch": options.get("batch") or []}
    return [c for role in cls.removes for c in columns.get(role, []) if c is not None and c not in numbers]


def cases(obs: pd.DataFrame, options: Mapping[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """Of every held-out item that names a condition besides the control: its value, and what else the cells have.

    None of a condition that no cell is left under to learn it from, unless it is a combination of such as are.
    """
    from cellalign.data.columns import column, find_control, parse_where
    from cellalign.data.split import held_out
    from cellalign.data.values import combined, joined, known, same

    condition, holdout = options.get("condition"), options.get("holdout") or ()
    if condition is None or not holdout or options.get("continuous") or condition in (options.get("kinds") or {}):
        return []
    control = options.get("control") or find_control(column(obs, condition, missing=True).categories)
    left = obs[~held_out(obs, holdout, control=control, quiet=True)]
    learned = known(tuple(column(left, condition, missing=True).categories), control)
    found = []
    for item in [holdout] if isinstance(holdout, str) else holdout:
        terms = parse_where([item], obs, "holdout")
        if control is not None and condition in terms and not same(terms[condition], control):
            to = terms.pop(condition)
            if learned.find(to) >= 0 or combined(joined(to, control).split("+"), learned):
                found.append((to, terms))
    return found


def tuned(by: str, best: Model, adata: AnnData, options: Mapping[str, Any], runs: int) -> TunedRecord:
    """What the model that is kept says of the choice: of how many runs, and by which held-out cells, if by such."""
    import numpy as np

    from cellalign.data.columns import select
    from cellalign.data.fingerprints import of_matrix
    from cellalign.data.stored import rows_in
    from cellalign.records import TunedRecord

    groups: list[dict[str, str]] = []
    cells: list[int] = []
    for to, where in cases(adata.obs, options) if by == "response" else ():
        groups.append({**where, str(best.condition): to})
        rows = np.flatnonzero(select(adata.obs, groups[-1], control=best.control, quiet=True))
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:KNOWN_BY])
        cells += of_matrix(rows_in(best.expression_of(adata), rows)).tolist()
    return TunedRecord(by=by, runs=runs, holdout=groups, cells=sorted(set(cells)))


def scores(by: str, model: Model, adata: AnnData, options: Mapping[str, Any], seed: int) -> dict[str, float]:
    """What a run is ranked by beside its loss, by column of the table.

    Raises
    ------
    InputError
        Too few cells to say.
    """
    found: dict[str, float] = {}
    if by == "response":
        found["response"] = response(model, adata, cases(adata.obs, options), seed)
    if by in ("reconstruction", "mixing", "balance"):
        rows = model.validation_rows(adata)
        cells = adata if rows is None else adata[rows]
        n, least = 0 if rows is None else len(rows), 1 if by == "reconstruction" else ENOUGH
        if n < least:
            raise InputError(f"{n} validation cells are too few to rank by {by}; {least} are needed")
        if by != "mixing":
            found["reconstruction"] = reconstruction(model, cells)
        if by != "reconstruction":
            each = [_mixing(model, cells, key) for key in _mixed(type(model.method), options)]
            found["mixing"] = sum(each) / len(each)
    return found


def reconstruction(model: Model, cells: AnnData) -> float:
    """Mean negative log-likelihood of cells decoded from the means of their posteriors, without any weight, in nats."""
    from cellalign.engine.device import computing
    from cellalign.engine.predict import in_batches
    from cellalign.methods.base import Predicts

    read, method = model.cells(cells), model.needs(Predicts)
    with computing("cpu") as device:
        each = in_batches(method, read, lambda batch: method.predict(batch, {}).nll(batch), device=device)
    return float(each.mean(dtype="float64"))


def _mixing(model: Model, cells: AnnData, key: str) -> float:
    """`mixing` of the embedding by a column, permuted within the model's label where it has one."""
    from cellalign.data.columns import column

    values = column(cells.obs, key, missing=True)
    label = model.label
    types = None if label is None else column(cells.obs, label, purpose="label", missing=True).codes
    known = values.codes >= 0
    z = model.embed(cells)
    return mixing(z[known], values.codes[known], None if types is None else types[known])


def mixing(z: np.ndarray, condition: np.ndarray, types: np.ndarray | None = None) -> float:
    """How far the share of a cell's own condition among its neighbours is from that of permuted conditions.

    Parameters
    ----------
    z : array [n, p]
    condition, types : int arrays [n]
        Conditions are permuted within types, whose composition may differ.
    """
    from cellalign.evaluation.metrics.mixing import NEAREST, beside_permuted, neighbours, own_share

    near = neighbours(z, NEAREST)
    found = beside_permuted(lambda codes: {"share": own_share(near, codes)}, condition, within=types)
    return abs(found.values["share"] - float(found.permuted["share"].mean()))


def response(model: Model, adata: AnnData, of: Sequence[tuple[str, Mapping[str, str]]], seed: int) -> float:
    """Correlation of the predicted with the real change from control, over all genes: mean over what was held out.

    No change where there is one counts as 0.
    """
    from cellalign.data.columns import select
    from cellalign.evaluation import evaluate

    if model.control is None:
        raise UsageError(f"{option('control', hint='VALUE')} is needed: the condition that predictions start from")
    found = []
    for to, where in of:
        real = adata[select(adata.obs, where)] if where else adata
        predicted = model.counterfactual(real, to=to, from_=model.control, seed=seed)
        scored = evaluate(predicted, against=real.copy(), condition=model.condition, panels=["response"], seed=seed)
        table = scored.frame()
        own = table[(table["system"] == "prediction") & (table["metric"] == "r_change_all")]
        found.append(float(own["value"].iloc[-1]))
    return sum(found) / len(found)
