"""Panel on the genes that a prediction says differ from control: gene by gene, beside those that really do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cellalign.data.columns import column
from cellalign.errors import InputError, option, spoken
from cellalign.evaluation.compared import MIN_CELLS_PER_GROUP, CellType, Compared, compare
from cellalign.evaluation.inputs import Inputs, NotApplicable
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


@dataclass(frozen=True)
class DifferentialExpression(Panel):
    """Tests every gene of the predicted, and of the real cells against the same control cells, group by group.

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

    differential: bool = False
    replicate: str | None = None

    def concerns(self, inputs: Inputs) -> bool:
        """Whether it is asked for, and there is a prediction."""
        return bool(inputs.predictions) and (self.differential or self.replicate is not None)

    def run(self, inputs: Inputs) -> Iterator[Row]:
        """Every group; the tests of all genes are kept in the result."""
        if not inputs.predictions:
            raise NotApplicable("the input is no counterfactual")
        if inputs.against is None:
            raise NotApplicable(f"it needs {option('against', hint='FILE')}, the real cells and their control")
        if self.replicate is None:
            inputs.notes.append(
                "de: p-values are of cells, which are no replicates: they tell of these cells, not of other donors; "
                f"{option('replicate', hint='KEY')} compares donors or replicates"
            )
        declared = by_name(self.metrics)
        for record, tests in self.of_each(inputs, self._all_tested):
            for tested in tests:
                inputs.result.tested.append(tested)
                group = tested.group if len(inputs.predictions) == 1 else f"{record.to}, {tested.group}"
                if tested.real is None:
                    inputs.notes.append(f"de: {group} has too few real cells under {record.to} to test")
                    continue
                for name, value in de.agreement(tested.predicted, tested.real).items():
                    yield self.row("prediction", group, declared[name], value, tested.cells["real"])

    def _all_tested(self, inputs: Inputs, record: Counterfactual) -> list[TestedGenes]:
        """Every group of one prediction; those that cannot be tested are noted."""
        skipped: list[str] = []
        tests = list(self._tested(inputs, record, skipped))
        if not tests:
            raise NotApplicable("; ".join(skipped) or f"no group has {MIN_CELLS_PER_GROUP} cells")
        if skipped:
            inputs.notes.append(f"de leaves out {len(skipped)} groups, the first {skipped[0]}")
        return tests

    def _tested(self, inputs: Inputs, record: Counterfactual, skipped: list[str]) -> Iterator[TestedGenes]:
        """Every group that has predicted and control cells; what others lack is added to those skipped."""
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
            known = len(cells.real) >= MIN_CELLS_PER_GROUP
            if self.replicate is None:
                predicted = _as_many(cells.predicted, len(cells.real) if known else None, inputs.seed)
                found = de.wilcoxon(predicted, cells.control, is_log=is_log)
                real = de.wilcoxon(cells.real, cells.control, is_log=is_log) if known else None
                how, cells = OF_CELLS, replace(cells, predicted=predicted)
            else:
                try:
                    found, real = self._of_replicates(inputs, origin, record.to, name, labels, is_log)
                except (InputError, NotApplicable) as reason:
                    skipped.append(f"{name}: {reason}")
                    continue
                how = f"{OF_REPLICATES} over {self.replicate}"
            sizes = {"predicted": len(cells.predicted), "real": len(cells.real), "control": len(cells.control)}
            yield TestedGenes(name, record.to, how, genes, found, real, sizes)

    def _of_replicates(
        self, inputs: Inputs, origin: str, to: str, group: str, labels: np.ndarray, is_log: bool
    ) -> tuple[de.Test, de.Test | None]:
        """Tests of one group by replicates, of which predicted cells are those they were predicted from."""
        assert inputs.against is not None and self.replicate is not None
        mine = inputs.adata[labels == group]
        theirs = inputs.against
        if inputs.label is not None:
            values = column(theirs.obs, inputs.label, purpose="label", missing=True)
            theirs = theirs[np.asarray(values.astype(str)) == group]
        # what it notes of single replicates is not for the reader of all groups
        within = replace(inputs, adata=mine, against=theirs, label=self.replicate, result=Evaluation())
        within = within.known(self.replicate)
        shown = option("replicate", self.replicate)
        try:
            compared = compare(within, origin, to)
        except NotApplicable as reason:
            cells = f"{MIN_CELLS_PER_GROUP} real and control cells of {group}"
            raise InputError(f"{shown}: none of them has {cells}; at least {FEWEST} are needed") from reason
        bulks = [_Bulk.of(compared, name, is_log) for name in _names(within.adata, theirs, self.replicate)]
        predicted = _test(bulks, "predicted")
        if predicted is None:
            n = sum(bulk.predicted is not None for bulk in bulks)
            raise InputError(
                f"{shown}: {n} of them have {MIN_CELLS_PER_GROUP} predicted and control "
                f"cells of {group}; at least {FEWEST} are needed"
            )
        return predicted, _test(bulks, "real")


@dataclass(frozen=True)
class _Bulk:
    """A replicate's pseudobulk [G] of each kind of its cells; None where it has next to none."""

    predicted: np.ndarray | None
    real: np.ndarray | None
    control: np.ndarray | None

    @classmethod
    def of(cls, compared: Compared, name: str, is_log: bool) -> _Bulk:
        cells: CellType = compared.of(name)
        kinds = (cells.predicted, cells.real, cells.control)
        bulks = [de.pseudobulk(x, is_log=is_log) if len(x) >= MIN_CELLS_PER_GROUP else None for x in kinds]
        return cls(*bulks)


def _test(bulks: list[_Bulk], kind: str) -> de.Test | None:
    """Replicates against their own controls, or where these are others' against those; None of fewer than two."""
    own = [(getattr(bulk, kind), bulk.control) for bulk in bulks]
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


def _as_many(x: np.ndarray, n: int | None, seed: int) -> np.ndarray:
    """At most as many of the predicted cells as there are real ones: more cells find more genes."""
    if n is None or len(x) <= n:
        return x
    return x[np.sort(np.random.default_rng(seed).permutation(len(x))[:n])]
