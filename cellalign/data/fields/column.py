"""What all kinds of fields share, and how a new kind becomes known: by being a class in this folder."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from cellalign.errors import CellalignError, UsageError, option
from cellalign.nn.minibatch import Role
from cellalign.records import FieldRecord

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


class Column(BaseModel):
    """What all kinds share.

    Attributes
    ----------
    name : str
        Of the obs column (of a vector: the obsm key).
    role : {"condition", "batch", "covariate", "label"}
    may_be_missing : bool
        Of some cells the value may be unknown.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    KINDS: ClassVar[dict[str, type[Column]]] = {}
    in_obsm: ClassVar[bool] = False  # where it lies, if not in obs

    kind: str
    name: str
    role: Role
    may_be_missing: bool = False

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Make the kind known to `read_fields` and `fit_fields`, where the class is one."""
        if not cls.model_fields["kind"].is_required():
            cls.KINDS[cls.model_fields["kind"].default] = cls

    @property
    @abstractmethod
    def width(self) -> int:
        """Of `context`."""

    @classmethod
    @abstractmethod
    def fit(cls, cells: AnnData, name: str, role: Role, *, may_be_missing: bool) -> Self:
        """The field of a column, from the training cells; InputError where the column is not fit."""

    def extended(self, cells: AnnData) -> Self:
        """The same field with the values of more cells, new ones after those it has; what has no categories stays."""
        return self

    @abstractmethod
    def encode(self, cells: AnnData, *, ignore: np.ndarray | None = None, unseen: bool = False) -> np.ndarray:
        """The column [n, ...] as a minibatch holds it.

        Parameters
        ----------
        cells : AnnData
        ignore : bool array [n], optional
            Cells that are never looked at, and may hold anything.
        unseen : bool
            Values never trained on, missing ones and an absent column count as unknown.

        Raises
        ------
        InputError
            The column is absent, or holds what the model does not know.
        """

    @abstractmethod
    def context(self, column: Tensor) -> Tensor:
        """What a network is given of a column: float [B, width], zeros where the value is unknown."""

    @abstractmethod
    def parsed(self, text: str) -> Any:
        """The value that a user names; InputError or UsageError where there is none."""

    def knows(self, text: str) -> bool:
        """Whether `parsed` gives a value."""
        try:
            self.parsed(text)
        except CellalignError:
            return False
        return True

    @abstractmethod
    def filled(self, column: Tensor, value: Any) -> Tensor:
        """A column like this one in which every cell has `value`; KeyError for a category it does not have."""

    @abstractmethod
    def blank(self, n: int) -> Tensor:
        """The column of n cells of which it need not be known."""

    @abstractmethod
    def sources(self, cells: AnnData, value: Any, origin: str | None) -> tuple[np.ndarray, str]:
        """Mask [n] of the cells to set to `value`, and the value they have now ("" where they have several).

        Parameters
        ----------
        origin : str, optional
            The value that the user asks for; by default the reference, or every other one.
        """

    @abstractmethod
    def replaced(self, obs: pd.DataFrame, value: Any) -> Any:
        """The column of obs when every cell has `value`."""

    def record(self) -> FieldRecord:
        """What model.yaml keeps."""
        return FieldRecord(**self.model_dump(mode="json", exclude_none=True))


class Numeric(Column):
    """What kinds without categories share."""

    @property
    def categories(self) -> tuple[str, ...]:
        """None: it holds numbers."""
        return ()

    @property
    def reference(self) -> str | None:
        """None: there is no category to compare others with."""
        return None


def as_number(text: str, name: str, parameter: str = "to") -> float:
    """The number that was typed for a column; UsageError where it is none, or not finite."""
    try:
        number = float(text)
    except ValueError:
        several = f"; of several each is named: {option('to', [1, 2])}" if parameter == "to" else ""
        raise UsageError(f"{option(parameter, text)} is no number, but {name!r} holds numbers{several}") from None
    if not math.isfinite(number):
        raise UsageError(f"{option(parameter, text)} is not finite; give {name!r} a number")
    return number


def check_size(text: Any, values: Any) -> None:
    """UsageError where what a network is given of a number is too large for it."""
    largest = np.abs(values).max()
    if not largest < np.finfo(np.float32).max / 1e6:
        raise UsageError(f"{option('to', text)} is {largest:.3g} standard deviations from what was trained on; too far")
