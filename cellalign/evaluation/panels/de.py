"""Panel on the genes that a prediction says differ from control: gene by gene, beside those that really do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.data.columns import column
from cellalign.errors import InputError, option, spoken
from cellalign.evaluation.compared import MIN_CELLS_PER_GROUP, CellType, called, compare
from cellalign.evaluation.inputs import Inputs, NotApplicable, OfAnotherKind
from cellalign.evaluation.metrics import de
from cellalign.evaluation.metrics.metric import by_name
from cellalign.evaluation.panel import Panel
from cellalign.evaluation.table import WHOLE, Evaluation, Row, TestedGenes

if TYPE_CHECKING:
    from anndata import AnnData

    from cellalign.records import Counterfactual

FEWEST = 2  # replicates
OF_CELLS = "Wilcoxon rank-sum test of cells"
OF_REPLICATES = "moderated t-test of pseudobulk"

# of predicted and real cells with all of the control, and, when they are asked for, of each halving of it
Tests = tuple[de.Test, de.Test | None, Iterable[tuple[de.Test | None, de.Test | None]]]


@dataclass(frozen=True)
class DifferentialExpression(Panel):
    """Tests every gene of the predicted, and of the real cells against control cells, group by group.

    The table of genes, and how many differ, is of all control cells. What predicted and real genes agree in
    (`de_jaccard`) is not, for the noise of control cells that both are tested against makes them alike: the control is
    halved a few times, the predicted cells (those that were predicted from the first half) are tested against it, as
    many real ones against the other. By replicates, each one's control cells are halved. What a replicate's control
    differs in as a whole, as by its preparation, is in both halves, which no halving of cells can mend.

    Attributes
    ----------
    differential : bool
        Whether the panel runs unasked.
    replicate : str, optional
        obs column of donors or replicates: they are compared, not cells, and each with its own control.
    """

    name = "de"
    summary = "Which genes a prediction says differ from control, and which of them really do; needs drawn cells."
    metrics = de.METRICS
    order = 52
    version = 2

    differential: bool = False
    replicate: str | None = None

    def concerns(self, inputs: Inputs) -> bool:
        """Whether it is asked for, and there is a prediction."""
        return bool(inputs.predictions) and (self.differential or self.replicate is not None)

    def run(self, inputs: Inputs) -> Iterator[Row]:
        """Every group; the tests of all genes are kept in the result."""
        if not inputs.predictions:
            raise OfAnotherKind("the input is no counterfactual")
        if inputs.against is None:
            raise NotApplicable(f"it needs {option('against', hint='FILE')}, the real cells and their control")
        if self.replicate is None:
            inputs.notes.append(
                "de: p-values are of cells, which are no replicates: they tell of these cells, not of other donors; "
                f"{option('replicate', hint='KEY')} compares donors or replicates"
            )
        declared = by_name(self.metrics)
        for record, tests in self.of_each(inputs, self._all_tested):
            for tested, overlap in tests:
                inputs.result.tested.append(tested)
                group = tested.group if len(inputs.predictions) == 1 else f"{record.to}, {tested.group}"
                if tested.real is None:
                    inputs.notes.append(f"de: {group} has too few real cells under {record.to} to test")
                    continue
                found = de.counts(tested.predicted, tested.real) | {"de_jaccard": overlap}
                for name, value in found.items():
                    yield self.row("prediction", group, declared[name], value, tested.cells["real"])

    def _all_tested(self, inputs: Inputs, record: Counterfactual) -> list[tuple[TestedGenes, float]]:
        """Every group of one prediction; those that cannot be tested are noted."""
        skipped: list[str] = []
        tests = list(self._tested(inputs, record, skipped))
        if not tests:
            raise NotApplicable("; ".join(skipped) or f"no group has {MIN_CELLS_PER_GROUP} cells")
        if skipped:
            inputs.notes.append(f"de leaves out {len(skipped)} groups, the first {skipped[0]}")
        return tests

    def _tested(
        self, inputs: Inputs, record: Counterfactual, skipped: list[str]
    ) -> Iterator[tuple[TestedGenes, float]]:
        """Every group that has predicted and control cells, and its Jaccard index; why others have none is added."""
        origin = record.from_ or inputs.control or ""
        inputs = _first_draw(inputs.known(inputs.label), record, cells=self.replicate is None)
        if self.replicate is not None:  # each is compared with its own control
            inputs = replace(inputs, within=None)
        compared = compare(inputs, origin, record.to)
        labels = inputs.labels() if inputs.label is not None else np.full(inputs.adata.n_obs, WHOLE)
        genes, is_log = np.asarray(inputs.adata.var_names, dtype=str), record.expression != "any"
        for name in compared.predicted:
            cells = compared.of(name)
            if min(len(cells.predicted), len(cells.control)) < MIN_CELLS_PER_GROUP:
                skipped.append(f"{name}: {len(cells.predicted)} predicted, {len(cells.control)} control cells")
                continue
            sizes = {"predicted": len(cells.predicted), "real": len(cells.real), "control": len(cells.control)}
            if self.replicate is None:
                how, (found, real, halves) = OF_CELLS, _of_cells(cells, is_log, inputs.seed)
                if real is not None:
                    sizes["predicted"] = min(sizes["predicted"], sizes["real"])
            else:
                how = f"{OF_REPLICATES} over {self.replicate}"
                try:
                    found, real, halves = self._of_replicates(inputs, origin, record.to, name, labels, is_log)
                except (InputError, NotApplicable) as reason:
                    skipped.append(f"{name}: {reason}")
                    continue
            yield TestedGenes(name, record.to, how, genes, found, real, sizes), _overlap(halves)

    def _of_replicates(
        self, inputs: Inputs, origin: str, to: str, group: str, labels: np.ndarray, is_log: bool
    ) -> Tests:
        """Tests of one group by replicates, of which predicted cells are those they were predicted from."""
        assert inputs.against is not None and self.replicate is not None
        mine = inputs.adata[labels == group]
        theirs = inputs.against
        if inputs.label is not None:
            theirs = theirs[called(inputs, theirs, inputs.label)[1] == group]
        # what it notes of single replicates is not for the reader of all groups
        within = replace(inputs, adata=mine, against=theirs, label=self.replicate, result=Evaluation())
        within = within.known(self.replicate)
        shown = option("replicate", self.replicate)
        try:
            compared = compare(within, origin, to)
        except NotApplicable as reason:
            cells = f"{MIN_CELLS_PER_GROUP} real and control cells of {group}"
            raise InputError(f"{shown}: none of them has {cells}; at least {FEWEST} are needed") from reason
        names = _names(within.adata, theirs, self.replicate)
        bulks, *halved = zip(*(_bulks(compared.of(name), is_log, inputs.seed) for name in names), strict=True)
        predicted = _test(bulks, "predicted")
        if predicted is None:
            n = sum(bulk.predicted is not None for bulk in bulks)
            raise InputError(
                f"{shown}: {n} of them have {MIN_CELLS_PER_GROUP} predicted and control "
                f"cells of {group}; at least {FEWEST} are needed"
            )
        return predicted, _test(bulks, "real"), ((_test(half, "predicted"), _test(half, "real")) for half in halved)


def _overlap(halves: Iterable[tuple[de.Test | None, de.Test | None]]) -> float:
    """Mean Jaccard index over halvings of the control, of those in which any gene differs."""
    found = [de.jaccard(guess, real) for guess, real in halves if guess is not None and real is not None]
    found = [value for value in found if np.isfinite(value)]
    return float(np.mean(found)) if found else float("nan")


def _of_cells(cells: CellType, is_log: bool, seed: int) -> Tests:
    """Tests of one group by its cells."""
    known = len(cells.real) >= MIN_CELLS_PER_GROUP
    predicted = _as_many(cells.predicted, len(cells.real) if known else None, np.random.default_rng(seed))
    found = de.wilcoxon(predicted, cells.control, is_log=is_log)
    if not known:
        return found, None, ()
    return found, de.wilcoxon(cells.real, cells.control, is_log=is_log), _halves(cells, is_log, seed)


def _halves(cells: CellType, is_log: bool, seed: int) -> Iterator[tuple[de.Test, de.Test]]:
    """Tests of predicted cells against one half of the control, and of as many real ones against the other."""
    rng = np.random.default_rng(seed)
    for split in cells.splits(seed):
        mine = cells.predicted[cells.predicted_rows(split)]
        guess, real = _as_many(mine, len(cells.real), rng), _as_many(cells.real, len(mine), rng)
        yield (
            de.wilcoxon(guess, cells.control[split.start], is_log=is_log),
            de.wilcoxon(real, cells.control[split.other], is_log=is_log),
        )


@dataclass(frozen=True)
class _Bulk:
    """A replicate's pseudobulks of each kind of its cells, and of the control of each; None where it has next to none.

    Attributes
    ----------
    predicted, real : arrays [G] or None
    of_predicted, of_real : arrays [G] or None
        The control of each: all of it, or one half and the other.
    """

    predicted: np.ndarray | None
    real: np.ndarray | None
    of_predicted: np.ndarray | None
    of_real: np.ndarray | None


def _bulks(cells: CellType, is_log: bool, seed: int) -> list[_Bulk]:
    """A replicate's pseudobulks with the whole control, and with each of its halvings."""

    def bulk(x: np.ndarray, rows: Any = slice(None)) -> np.ndarray | None:
        return de.pseudobulk(x[rows], is_log=is_log) if len(x) >= MIN_CELLS_PER_GROUP else None

    real, control = bulk(cells.real), bulk(cells.control)
    found = [_Bulk(bulk(cells.predicted), real, control, control)]
    for split in cells.splits(seed):
        halves = bulk(cells.control, split.start), bulk(cells.control, split.other)
        found.append(_Bulk(bulk(cells.predicted, cells.predicted_rows(split)), real, *halves))
    return found


def _test(bulks: Sequence[_Bulk], kind: str) -> de.Test | None:
    """Replicates against their own controls, or where these are others' against those; None of fewer than two."""
    own = [(getattr(bulk, kind), getattr(bulk, f"of_{kind}")) for bulk in bulks]
    both = [(x, control) for x, control in own if x is not None and control is not None]
    if len(both) >= FEWEST:
        return de.moderated_t(np.stack([x for x, _ in both]), np.stack([control for _, control in both]), paired=True)
    apart = [[x for x in each if x is not None] for each in zip(*own, strict=True)]
    if min(map(len, apart)) < FEWEST:
        return None
    return de.moderated_t(*map(np.stack, apart), paired=False)


def _names(predicted: AnnData, real: AnnData, key: str) -> list[str]:
    """All replicates."""
    found = [column(each.obs, key, purpose="replicate", missing=True).categories for each in (predicted, real)]
    return list(dict.fromkeys(str(name) for names in found for name in names))


def _first_draw(inputs: Inputs, record: Counterfactual, *, cells: bool) -> Inputs:
    """Of several draws of a cell the first: more of them are no more cells.

    Raises
    ------
    InputError
        Cells are to be tested, and they are no draws.
    """
    adata = inputs.adata
    if cells and record.method and record.written != "draw" and "drawn" not in adata.layers:
        how = spoken(python="model.counterfactual(..., draws=1)", command="cellalign counterfactual --draw")
        raise InputError(
            f"p-values of cells need drawn ones: the prediction is {record.written or 'a mean'}, whose cells vary less "
            f"than real ones, so that nearly every gene would differ; predict with {how}, or compare donors or "
            f"replicates by {option('replicate', hint='KEY')}"
        )
    if record.draws > 1 and "draw" in adata.obs:
        return replace(inputs, adata=adata[np.asarray(adata.obs["draw"]).astype(int) == 1])
    return inputs


def _as_many(x: np.ndarray, n: int | None, rng: np.random.Generator) -> np.ndarray:
    """At most as many of some cells as there are of those they stand beside: more cells find more genes."""
    if n is None or len(x) <= n:
        return x
    return x[np.sort(rng.permutation(len(x))[:n])]
