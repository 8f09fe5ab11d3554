"""What all records share: checked fields, a format version, and migrations from the versions before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError


class RecordError(ValueError):
    """A record cannot be read; the message says what is wrong with it, as the end of a sentence about the file."""


class Record(BaseModel):
    """Part of a record. Keys it does not know are left alone: a newer version of the same format may add some."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class VersionedRecord(Record):
    """A record with a format of its own.

    Attributes
    ----------
    FORMAT : int
        The version that is written.
    MIGRATIONS : mapping of int to function
        From each older version, what makes a plain record of the next.
    """

    FORMAT: ClassVar[int]
    MIGRATIONS: ClassVar[Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {}

    format_version: int

    @classmethod
    def read(cls, plain: Any) -> Self:
        """The record that plain data of this or an older version stand for.

        Raises
        ------
        RecordError
            No record, of a newer version, or with a key missing or of the wrong kind: the first one is named.
        """
        version = plain.get("format_version") if isinstance(plain, Mapping) else None
        if not isinstance(version, int) or isinstance(version, bool):
            raise RecordError("it has no format_version")
        if version > cls.FORMAT:
            written = plain.get("cellalign", "unknown")
            raise RecordError(
                f"it was written by a newer cellalign ({written}, format {version}; this one reads up to "
                f"{cls.FORMAT}); upgrade cellalign"
            )
        current = dict(plain)
        try:
            while version < cls.FORMAT:
                current = cls.MIGRATIONS[version](current)
                version += 1
            return cls.model_validate(current | {"format_version": version})
        except ValidationError as error:
            raise RecordError(first_fault(error)) from error
        except KeyError as error:
            raise RecordError(f"it lacks {str(error.args[0])!r}") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise RecordError(str(error).splitlines()[0]) from error


def first_fault(error: ValidationError) -> str:
    """The first thing that is wrong, in words."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"]) or "it"
    if first["type"] == "missing":
        return f"it lacks {name!r}"
    shown = repr(first["input"])
    return f"{name} is {shown if len(shown) < 60 else shown[:57] + '...'}: {first['msg'].lower()}"
