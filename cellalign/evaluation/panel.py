"""What a panel is: a class with its own options, the metrics it declares, and the rows it yields.

A module of `cellalign/evaluation/panels/` that defines a subclass adds it to the evaluation, to
`cellalign evaluate --panel` and to `cellalign methods --metrics`; no other file has to know of it:

    @dataclass(frozen=True)
    class Spread(Panel):
        name = "spread"
        summary = "How far cells lie from their mean."
        metrics = (spread,)                      # declared with @metric

        scale: float = 1.0                       # an option: evaluate(..., scale=2), or panels=[Spread(scale=2)]

        def run(self, inputs):
            z = inputs.latents()                 # NotApplicable, with the reason, where there are none
            yield self.row("all", "all", spread, spread(z, self.scale), len(z))
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, TypeVar

from cellalign.errors import InputError, counted
from cellalign.evaluation.inputs import Inputs, NotApplicable
from cellalign.evaluation.metrics.metric import Metric, Null
from cellalign.evaluation.table import Evidence, Row

if TYPE_CHECKING:
    from cellalign.records import Counterfactual

T = TypeVar("T")


@dataclass(frozen=True)
class Panel(ABC):
    """Scores that belong together; a subclass is a frozen dataclass whose fields are its options.

    Attributes
    ----------
    name : str
        As `--panel` takes it.
    summary : str
        One sentence.
    metrics : tuple of Metric
        Everything a row may be of.
    asked_only : str
        Why the panel runs only where something asks for it; empty where it always does. `{panels}` and `{batch}` stand
        for these parameters as the caller spells them.
    needs : str
        The package, as it is imported, that an extra of cellalign installs and that the panel computes with.
    extra : str
        That extra.
    metrics_as_rows : bool
        Whether it has more metrics than a screen has columns for, so that they are printed as rows.
    order : int
        Its place among the panels, which run and are printed by order and then name.
    former_names : tuple of str
        Under which earlier versions knew it; still taken.
    version : int
        Of its scores: one more when the same cells get others. What was scored before is then computed again.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    asked_only: ClassVar[str] = ""
    needs: ClassVar[str] = ""
    extra: ClassVar[str] = ""
    metrics_as_rows: ClassVar[bool] = False
    order: ClassVar[int] = 100
    former_names: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1

    @abstractmethod
    def run(self, inputs: Inputs) -> Iterator[Row]:
        """The panel's scores.

        Raises
        ------
        NotApplicable
            The panel cannot run on these inputs; the message is the reason.
        """

    def concerns(self, inputs: Inputs) -> bool:
        """Whether the inputs are of its kind; of those that are not nothing is said, unless it is asked for by name."""
        return True

    def of_each(
        self,
        inputs: Inputs,
        made: Callable[[Inputs, Counterfactual], T],
        records: Sequence[Counterfactual] | None = None,
    ) -> Iterator[tuple[Counterfactual, T]]:
        """What the panel makes of each prediction; of several, those that cannot be compared are left out and noted.

        Parameters
        ----------
        made : callable
            From the inputs of one prediction, and its record.
        records : sequence of Counterfactual, optional
            Those of the inputs' predictions that are scored; default all.

        Raises
        ------
        NotApplicable
            None of several can be compared.
        InputError, NotApplicable
            What `made` raises of the only one.
        """
        records = inputs.predictions if records is None else records
        reasons: dict[str, str] = {}
        for record in records:
            try:
                found = made(inputs.of_prediction(record), record)
            except (NotApplicable, InputError) as reason:
                if len(inputs.predictions) == 1:
                    raise
                reasons[record.to] = str(reason)
                continue
            yield record, found
        each = [f"{to}: {reason}" for to, reason in reasons.items()]
        if reasons and len(reasons) == len(records):
            raise NotApplicable(each[0].split(": ", 1)[1] if len(set(reasons.values())) == 1 else "; ".join(each))
        if reasons:
            skipped = counted(len(reasons), "predicted condition")
            inputs.notes.append(f"{self.name} skips {skipped}, the first {each[0]}")

    @classmethod
    def not_installed(cls) -> str:
        """Which package the panel lacks and how to install it; empty where it lacks none. Nothing is imported."""
        if not cls.needs or find_spec(cls.needs) is not None:
            return ""
        return f"it needs {cls.needs.replace('_', '-')}; run: pip install 'cellalign[{cls.extra}]'"

    @classmethod
    def options(cls) -> list[str]:
        """Names of the panel's own options."""
        return [option.name for option in fields(cls)]

    def row(
        self,
        system: str,
        group: str,
        metric: Metric,
        value: float,
        n_cells: int,
        null: Null | None = None,
        evidence: Evidence | None = None,
    ) -> Row:
        """One score of this panel, and where it is known its value under permuted labels, or what it is worth.

        Raises
        ------
        ValueError
            The panel does not declare such a metric.
        """
        if metric.name not in {declared.name for declared in self.metrics}:
            raise ValueError(f"panel {self.name} yields {metric.name!r}, which is not among its metrics")
        return Row(self.name, system, group, metric, value, n_cells, null, evidence)
