"""What a metric says of itself: its name, its meaning, which way is better, and its value where there is no signal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
T = TypeVar("T")
NULL = "permuted"  # of `Better.target`: the value that the same score has under permuted labels


@dataclass(frozen=True)
class Null:
    """What a score is where there is no signal, on these very cells: mean and standard deviation over permutations."""

    mean: float
    sd: float

    @classmethod
    def of(cls, values: np.ndarray) -> Null:
        """Of the scores of permutations; the standard deviation of one alone is 0."""
        return cls(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.sd:.3f}"


@dataclass(frozen=True)
class Better:
    """Which way a metric gets better.

    Attributes
    ----------
    way : {"up", "down", "towards", "none"}
        "none" is for what a score is read beside, such as the majority rate: it is neither good nor bad.
    target : float or str, optional
        Where `way` is "towards": the best value, the name of the metric of the same row that is the best value, or
        `NULL`: the score's own value under permuted labels.
    """

    way: Literal["up", "down", "towards", "none"]
    target: float | str | None = None

    def __str__(self) -> str:
        return f"towards {self._said}" if self.way == "towards" else self.way

    @property
    def arrow(self) -> str:
        """The sign that tables show: ↑, ↓, →0, or nothing."""
        return {"up": "↑", "down": "↓", "towards": f"→{self._said}", "none": ""}[self.way]

    @property
    def in_words(self) -> str:
        """For a title: "higher is better"."""
        said = {"up": "higher is better", "down": "lower is better", "towards": f"best at {self._said}"}
        return said.get(self.way, "no value is better than another")

    @property
    def _said(self) -> str:
        return self.target if isinstance(self.target, str) else f"{self.target:g}" if self.target is not None else ""

    def loss(self, values: Any, null: Any = None) -> np.ndarray:
        """Numbers that are smaller the better the values are, of the shape of `values`; NaN stays NaN.

        Parameters
        ----------
        values : array
        null : array, optional
            Of a metric that is best at its value under permuted labels: those values, of the same shape.

        Raises
        ------
        ValueError
            The best value is another metric's or is not given, or there is none.
        """
        values = np.asarray(values, dtype=np.float64)
        if self.target == NULL and null is not None:
            return np.abs(values - np.asarray(null, dtype=np.float64))
        if self.way == "up":
            return -values
        if self.way == "down":
            return values
        if self.way == "towards" and isinstance(self.target, (int, float)):
            return np.abs(values - self.target)
        raise ValueError(f"values cannot be ordered by {self}")


UP, DOWN, NEITHER = Better("up"), Better("down"), Better("none")


def towards(target: float | str) -> Better:
    """Better the nearer to a value, or to the metric of that name."""
    return Better("towards", target)


@dataclass(frozen=True)
class Metric:
    """A declared metric: what a table needs to know of a number before it may print it.

    Declared by `@metric` where a function computes it alone, and by itself where one function computes several.

    Attributes
    ----------
    name : str
        As tables show it. Unique within a panel, unless which way is better depends on what is scored.
    meaning : str
        One sentence, with the unit where there is one.
    better : Better
    null : str
        What its value is where there is no signal.
    null_value : float, optional
        That value, where it is the same for all data.
    spread_of : str, optional
        The metric of the same row whose standard deviation it is; tables for people show both in one column.
    """

    name: str
    meaning: str
    better: Better
    null: str
    null_value: float | None = None
    spread_of: str | None = None

    @property
    def heading(self) -> str:
        """Name and arrow: "mse_all ↓"."""
        return f"{self.name} {self.better.arrow}".rstrip()


@dataclass(frozen=True)
class MetricFunction(Metric, Generic[P, T]):
    """A declared metric that is computed by calling it."""

    compute: Callable[P, T] = field(kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Take the function's docstring, for `inspect.getdoc`."""
        object.__setattr__(self, "__doc__", self.compute.__doc__)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """The metric's value."""
        return self.compute(*args, **kwargs)


def metric(
    name: str, meaning: str, *, better: Better, null: str, null_value: float | None = None
) -> Callable[[Callable[P, T]], MetricFunction[P, T]]:
    """Declare the decorated function a metric; parameters as the attributes of `Metric`."""

    def declare(function: Callable[P, T]) -> MetricFunction[P, T]:
        return MetricFunction(name, meaning, better, null, null_value, compute=function)

    return declare


def by_name(metrics: tuple[Metric, ...]) -> dict[str, Metric]:
    """Metrics by their names, in order.

    Raises
    ------
    ValueError
        Two have the same name.
    """
    found = {declared.name: declared for declared in metrics}
    if len(found) < len(metrics):
        raise ValueError(f"two metrics of one name among {', '.join(m.name for m in metrics)}")
    return found
