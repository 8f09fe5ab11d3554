"""The one structure a mini-batch travels in: the expression of its cells, and one column per field.

A field is a column of obs that a method is given: condition, batch, covariate or label, whatever its kind. Methods know
no more of it than the protocol here; the classes are in `data.fields`. The expression stays sparse until somebody asks
for `x`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from cellalign.nn.sparse import SparseRows

Role = Literal["condition", "batch", "covariate", "label"]
CONDITION: Role = "condition"
BATCH: Role = "batch"
COVARIATE: Role = "covariate"
LABEL: Role = "label"


class Field(Protocol):
    """What a method may know of a column: its role, the width of what a network is given, how it is changed."""

    @property
    def name(self) -> str:
        """Of the obs column."""

    @property
    def role(self) -> Role:
        """What the column is used as."""

    @property
    def kind(self) -> str:
        """Its class: categorical, number, ..."""

    @property
    def width(self) -> int:
        """Of `context`."""

    @property
    def categories(self) -> tuple[str, ...]:
        """In the order of their codes; empty where the column holds none."""

    @property
    def reference(self) -> str | None:
        """The category that others are compared with."""

    @property
    def may_be_missing(self) -> bool:
        """Whether the value of some cells may be unknown."""

    def context(self, column: Tensor) -> Tensor:
        """What a network is given of a column [B, ...]: float [B, width], zeros where the value is unknown."""

    def filled(self, column: Tensor, value: Any) -> Tensor:
        """A column like this one in which every cell has `value`."""

    def blank(self, n: int) -> Tensor:
        """The column of n cells of which it need not be known."""


class Fields(Sequence[Field]):
    """The fields of a data set, in the order in which networks are given them: by role, then as they were named."""

    def __init__(self, fields: Sequence[Field] = ()) -> None:
        self._fields = tuple(fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __getitem__(self, index: Any) -> Any:
        return self._fields[index]

    def __iter__(self) -> Iterator[Field]:
        return iter(self._fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fields) and self._fields == other._fields

    def __hash__(self) -> int:
        return hash(self._fields)

    def of(self, role: Role) -> tuple[Field, ...]:
        """Those of a role."""
        return tuple(field for field in self._fields if field.role == role)

    def one(self, role: Role) -> Field | None:
        """The condition or the label, of which there is one at most."""
        return next(iter(self.of(role)), None)

    def place(self, name: str) -> int:
        """The place of the field of that column, or of the only field of that role.

        Raises
        ------
        KeyError
            There is none, or the name is a role of several.
        """
        named = [i for i, field in enumerate(self._fields) if field.name == name and field.role != LABEL]
        named = named or [i for i, field in enumerate(self._fields) if field.role == name]
        if len(named) != 1:
            raise KeyError(name)
        return named[0]

    def width(self, roles: Sequence[Role]) -> int:
        """Width of `Minibatch.context`."""
        return sum(field.width for field in self._fields if field.role in roles)


@dataclass(frozen=True)
class Layout:
    """What a method is built for.

    Attributes
    ----------
    n_genes : int
    fields : Fields
    n_cells : int
        Number of cells trained on.
    image : (height, width, channels), optional
        Where the genes are the pixels of images, in this order.
    signed : bool
        Values may be negative, so that nothing is cut at zero: they are no expression but any real ones.
    """

    n_genes: int
    fields: Fields = Fields()
    n_cells: int = 1
    image: tuple[int, int, int] | None = None
    signed: bool = False

    @property
    def condition(self) -> Field | None:
        """The field whose effect is modelled."""
        return self.fields.one(CONDITION)

    @property
    def n_conditions(self) -> int:
        """Categories of the condition; 1 where there is none or it is a number."""
        return max(1, len(self.condition.categories)) if self.condition is not None else 1

    @property
    def continuous(self) -> bool:
        """Whether the condition is a number."""
        return self.condition is not None and not self.condition.categories

    @property
    def control(self) -> int | None:
        """Code of the reference condition."""
        condition = self.condition
        if condition is None or condition.reference is None:
            return None
        return condition.categories.index(condition.reference)

    def targets(self, do: Mapping[str, Any]) -> tuple[int, ...]:
        """Codes of the conditions that an intervention asks for: of several at once all, none where it changes none."""
        condition = self.condition
        if condition is None or not condition.categories or condition.name not in do:
            return ()
        value = do[condition.name]
        names = value if isinstance(value, tuple) else (value,)
        return tuple(condition.categories.index(name) for name in names)

    def target(self, do: Mapping[str, Any]) -> int | None:
        """Code of the one condition that an intervention asks for, None where it changes none.

        Raises
        ------
        ValueError
            It asks for several at once.
        """
        found = self.targets(do)
        if len(found) > 1:
            raise ValueError("several conditions at once, which this method cannot predict")
        return found[0] if found else None

    def without_condition(self, do: Mapping[str, Any]) -> dict[str, Any]:
        """What an intervention changes besides the condition."""
        return {name: value for name, value in do.items() if self.condition is None or name != self.condition.name}

    @property
    def n_labels(self) -> int:
        """Categories of the label; 0 where there is none."""
        label = self.fields.one(LABEL)
        return len(label.categories) if label is not None else 0


@dataclass(frozen=True)
class Minibatch:
    """B cells.

    Attributes
    ----------
    expression : Tensor [B, G] or SparseRows
        On the scale the method reads (log1p-normalised, or raw counts). `x` is the same, dense.
    fields : Fields
    columns : tuple of Tensor [B, ...]
        One for each field, as the field encodes it: int64 codes, -1 where unknown; float32 numbers, 0 where unknown.
    """

    expression: Tensor | SparseRows
    fields: Fields = Fields()
    columns: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.expression)

    @property
    def device(self) -> torch.device:
        """Where its tensors lie."""
        return self.expression.value.device if isinstance(self.expression, SparseRows) else self.expression.device

    @cached_property
    def x(self) -> Tensor:
        """Dense expression [B, G]; made once, and only where a method asks for it."""
        return self.expression.dense() if isinstance(self.expression, SparseRows) else self.expression

    @cached_property
    def nonzeros(self) -> SparseRows:
        """Expression as its stored values."""
        return self.expression if isinstance(self.expression, SparseRows) else SparseRows.of(self.expression)

    @cached_property
    def library_size(self) -> Tensor:
        """Sum of the expression per cell, [B, 1]: counts for count methods."""
        if isinstance(self.expression, SparseRows):
            return self.expression.sums()[:, None]
        return self.expression.sum(1, keepdim=True)

    @cached_property
    def condition(self) -> Tensor:
        """The condition's column [B]: codes, or standardised numbers; zeros where there is no condition."""
        found = self._only(CONDITION)
        return torch.zeros(len(self), dtype=torch.int64, device=self.device) if found is None else found

    @cached_property
    def label(self) -> Tensor:
        """The label's codes [B], -1 where a cell has none."""
        found = self._only(LABEL)
        return torch.full((len(self),), -1, dtype=torch.int64, device=self.device) if found is None else found

    def _only(self, role: Role) -> Tensor | None:
        return next((c for f, c in zip(self.fields, self.columns, strict=True) if f.role == role), None)

    def of(self, role: Role) -> list[tuple[Field, Tensor]]:
        """Fields of a role, each with its column."""
        return [(f, c) for f, c in zip(self.fields, self.columns, strict=True) if f.role == role]

    def context(self, roles: Sequence[Role]) -> Tensor:
        """What a network is given besides its input, [B, fields.width(roles)]."""
        given = [f.context(c) for f, c in zip(self.fields, self.columns, strict=True) if f.role in roles]
        if len(given) == 1:
            return given[0]
        return torch.cat(given, 1) if given else torch.empty(len(self), 0, device=self.device)

    def do(self, changes: Mapping[str, Any] | None = None, /, **by_name: Any) -> Minibatch:
        """The same cells under an intervention: columns of these names, or of these roles, set to a value.

        `batch.do(stim="stimulated", site="B")`, or `batch.do({"cell line": "K562"})`. The cached expression goes along.

        Raises
        ------
        KeyError
            No such field, or a category it does not have.
        """
        columns = list(self.columns)
        for name, value in {**(changes or {}), **by_name}.items():
            place = self.fields.place(name)
            columns[place] = self.fields[place].filled(columns[place], value)
        return self.with_columns(columns)

    def with_condition(self, column: Tensor) -> Minibatch:
        """The same cells with another column of the condition."""
        both = zip(self.fields, self.columns, strict=True)
        return self.with_columns([column if field.role == CONDITION else c for field, c in both])

    def with_columns(self, columns: Sequence[Tensor]) -> Minibatch:
        """The same cells with other columns; what was made of the expression is kept."""
        other = replace(self, columns=tuple(columns))
        for name in ("x", "nonzeros", "library_size"):
            if name in self.__dict__:
                other.__dict__[name] = self.__dict__[name]
        return other

    def taken(self, rows: Tensor) -> Minibatch:
        """Cells of it [n], dense, in this order."""
        return Minibatch(self.x[rows], self.fields, tuple(column[rows] for column in self.columns))

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Minibatch:
        """The same mini-batch on another device; of pinned memory it need not be waited for."""
        columns = tuple(column.to(device, non_blocking=non_blocking) for column in self.columns)
        return Minibatch(self.expression.to(device, non_blocking=non_blocking), self.fields, columns)

    def pinned(self) -> Minibatch:
        """The same mini-batch in memory from which a GPU can be filled while the CPU goes on."""
        columns = tuple(column.pin_memory() for column in self.columns)
        return Minibatch(self.expression.pin_memory(), self.fields, columns)

    def split(self, sizes: Sequence[int]) -> list[Minibatch]:
        """Runs of cells, of these numbers, that share memory."""
        expression = self.expression.split(list(sizes))
        columns = zip(*(column.split(list(sizes)) for column in self.columns), strict=True)
        of_each = list(columns) if self.columns else [()] * len(sizes)
        return [Minibatch(x, self.fields, own) for x, own in zip(expression, of_each, strict=True)]
