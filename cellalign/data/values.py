"""Values of a column, compared as values and not as text: the one place that knows when two of them are the same.

0, 0.0, "0" and " 0.00 " are one number, 1e3 is 1000, "True" is "TRUE", "Quis_1000" is "Quis_1000.0", and a date
without a time is its midnight, "2020-01-01 00:00:00" or "2020-01-01T00:00". The exact text always wins, and
where two categories would be the same value ("0" beside "0.0") only the exact text counts. A cell perturbed by a+b is
one by b+a, and where c is the control a+c is a.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np

from cellalign.errors import UsageError

MISSING = frozenset(
    ("", "NA", "na", "N/A", "n/a", "#N/A", "<NA>", "<na>", "nan", "NaN", "NAN", "-nan", "None", "null", "NULL", "NaT")
)
ALSO_CONTROL = "ctrl"  # as GEARS and the files of its users write pairs, whatever the control itself is called
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d)(?::(\d\d)(?:\.(\d+))?)?)?", re.ASCII)  # ISO 8601
WHOLE = re.compile(r"(?<![\d.])(\d+)\.0+(?![\d.])", re.ASCII)  # 1000.0 within a name
MOST_PARTS = 32  # of one value, joined by +
DIGITS = 9  # significant ones from which a number may have been through float32


def text_of(value: Any) -> str:
    """A value of a column as text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)


def texts_of(values: Iterable[Any], dtype: Any) -> list[str]:
    """Values of a column as text; numbers of few bits are as short as their own type has them, 0.1 and not 0.09998.

    Parameters
    ----------
    values : iterable
        Those that are there, which pandas may have made wider.
    dtype : numpy or pandas type
        Of the column.
    """
    own = getattr(dtype, "numpy_dtype", dtype)  # of pandas' Float32
    if own not in (np.float16, np.float32):
        return [text_of(value) for value in values]
    # what is whole is exact, and as long as it is
    return [text_of(value) if float(value).is_integer() else text_of(own.type(value)) for value in values]


def doubles(values: Any) -> np.ndarray:
    """A pandas column of numbers, float64 [n], NaN where there is none; of half precision the decimals that were meant.

    Half precision has 0.1 as 0.09998, too far from it to be found by what is typed; single precision is near enough.
    """
    wide = values.to_numpy(dtype=np.float64, na_value=np.nan)
    if values.dtype != np.float16:
        return wide
    distinct, codes = np.unique(wide, return_inverse=True)
    return np.array(texts_of(distinct, np.dtype(np.float16)), dtype=np.float64)[codes]


def means_missing(text: str) -> bool:
    """Whether a text stands for no value: '', 'NA', 'nan', 'None', ..."""
    return text.strip() in MISSING


def number_of(text: str) -> Decimal | None:
    """The finite number that a text is, None where it is none."""
    text = text.strip()
    if not NUMBER.fullmatch(text):
        return None
    number = Decimal(text)
    if len(number.as_tuple().digits) > DIGITS and number != number.to_integral_value():
        with np.errstate(over="ignore", under="ignore"):
            single = str(np.float32(text))  # 0.10000000149011612 is 0.1 that was stored as float32
        return Decimal(single) if NUMBER.fullmatch(single) else number
    return number


def at_number(values: np.ndarray, number: float) -> np.ndarray:
    """Which of some numbers are the one that was typed, also stored in single precision; 0 is not 1e-9, a dose."""
    return np.isclose(values, number, rtol=1e-6, atol=0)


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same."""
    return text_of(one) == text_of(other) or value_of(text_of(one)) == value_of(text_of(other))


def value_of(text: str, control: str | None = None) -> Any:
    """What is compared: equal, and of equal hash, for texts that are the same value.

    Parameters
    ----------
    control : str, optional
        Of a condition: what adds nothing in "a+control".
    """
    parts = text.split("+")
    if len(parts) < 2 or not all(part.strip() for part in parts):
        return _single(text)
    nothing = {_single(ALSO_CONTROL), *([] if control is None else [_single(control)])}
    left = [value for value in map(_single, parts) if value not in nothing]
    if not left:
        return _single(ALSO_CONTROL if control is None else control)
    return left[0] if len(left) == 1 else ("together", tuple(sorted(left, key=repr)))


def _single(text: str) -> tuple[str, Any]:
    """Of a text that is not several joined by +."""
    number = number_of(text)
    if number is not None:
        return "number", number
    text = unicodedata.normalize("NFKC", text).strip()
    if text.lower() in ("true", "false"):
        return "truth", text.lower()
    moment = MOMENT.fullmatch(text)
    if moment:
        day, minute, second, fraction = moment.groups()
        return "moment", (day, minute or "00:00", second or "00", (fraction or "").rstrip("0"))
    return "text", WHOLE.sub(r"\1", text)


def joined(text: str, control: str | None) -> str:
    """A condition without the control in it: "a+ctrl" is "a", "ctrl+ctrl" the control; others are as they are."""
    parts = text.split("+")
    if len(parts) < 2 or not all(part.strip() for part in parts):
        return text
    nothing = {_single(ALSO_CONTROL), *([] if control is None else [_single(control)])}
    left = [part for part in parts if _single(part) not in nothing]
    return "+".join(left) or control or ALSO_CONTROL


class Known:
    """Names that are known, in the order of their codes, to find values among.

    Attributes
    ----------
    names : tuple of str
    control : str, optional
        Of conditions: what adds nothing in "a+control".
    """

    def __init__(self, names: Iterable[str], control: str | None = None) -> None:
        self.names, self.control = tuple(names), control
        self._exact = {name: code for code, name in enumerate(self.names)}
        self._equal: dict[Any, list[int]] = {}
        for code, name in enumerate(self.names):
            self._equal.setdefault(value_of(name, control), []).append(code)

    def find(self, text: Any) -> int:
        """The code of the name that is the text, or the only one of the same value; -1 where there is none."""
        text = text_of(text)
        code = self._exact.get(text)
        if code is not None:
            return code
        equal = self._equal.get(value_of(text, self.control), ())
        return equal[0] if len(equal) == 1 else -1

    def name(self, text: Any) -> str | None:
        """The name that `find` finds."""
        code = self.find(text)
        return None if code < 0 else self.names[code]

    def all(self, text: Any) -> list[int]:
        """Codes of all names that mean the text: that of `find`, and of conditions a+b also b+a and a+b+control."""
        code = self.find(text)
        value = value_of(text_of(text), self.control)
        also = [other for other in self._equal.get(value, ()) if other != code and "+" in self.names[other]]
        return ([code] if code >= 0 else []) + also

    def codes(self, texts: Sequence[str]) -> np.ndarray:
        """`find` for each category of another column, int64; two of them of one value need their exact text."""
        values = [value_of(text, self.control) for text in texts]
        count: dict[Any, int] = {}
        for text, value in zip(texts, values, strict=True):
            count[value] = count.get(value, 0) + ("+" not in text)
        found = [
            self._exact.get(text, -1) if count[value] > 1 else self.find(text)
            for text, value in zip(texts, values, strict=True)
        ]
        return np.array(found, dtype=np.int64)

    def alike(self) -> list[list[str]]:
        """Groups of names that are one value, though their text differs."""
        return [[self.names[code] for code in codes] for codes in self._equal.values() if len(codes) > 1]


def combined(parts: Sequence[str], among: Known) -> tuple[str, ...] | None:
    """Known names that joined by + are all the parts, a name with a + of its own among them; None of none."""
    if not 1 < len(parts) <= MOST_PARTS:
        return None
    whole: list[tuple[str, ...] | None] = [()]  # of the first parts, which names they are
    for end in range(1, len(parts) + 1):
        starts = range(end - 1, -1, -1)  # single ones before joined ones
        names = ((whole[i], among.name("+".join(parts[i:end]))) for i in starts)
        whole.append(next(((*left, name) for left, name in names if left is not None and name is not None), None))
    return whole[-1]


def check_combination(text: str, names: Iterable[str], control: str | None, said: str) -> None:
    """Refuse a+control and a+a, which are a; but not what is a name itself, nor a+ctrl, which is how files write a.

    Parameters
    ----------
    text : str
        What is asked for.
    names : iterable of str
        Those of a column, and those a model knows.
    control : str, optional
    said : str
        How it was asked for.

    Raises
    ------
    UsageError
    """
    there = known(tuple(dict.fromkeys(names)))
    bare = joined(text, None)  # without ctrl
    if "+" not in bare or there.find(text) >= 0:
        return
    parts = combined(bare.split("+"), there) or ()
    others = list(dict.fromkeys(part for part in parts if control is None or not same(part, control)))
    if len(set(parts)) > len(others):
        alone = f"; name {others[0]!r} alone" if len(others) == 1 else "; leave it out"
        raise UsageError(f"{said}: {control!r} is the control, which adds nothing{alone}")
    if len(parts) > len(others):
        twice = next(part for part in others if parts.count(part) > 1)
        raise UsageError(f"{said} names {twice!r} twice; name it once, or two different ones")


@lru_cache(maxsize=64)
def known(names: tuple[str, ...], control: str | None = None) -> Known:
    """`Known` of these names, made once."""
    return Known(names, control)


def in_order(names: Iterable[str]) -> list[str]:
    """Names sorted: by value where all are numbers, else as text."""
    listed = list(names)
    numbers = [number_of(name) for name in listed]
    if listed and all(number is not None for number in numbers):
        order = sorted(range(len(listed)), key=lambda i: (numbers[i], listed[i]))
        return [listed[i] for i in order]
    return sorted(listed)


def apart(names: Iterable[str]) -> str:
    """What names are separated by in a sentence: commas, or semicolons where a name holds a comma itself."""
    return "; " if any(", " in name for name in names) else ", "


def best_of(runs: int) -> str:
    """Which of so many runs was kept."""
    return "only run" if runs == 1 else f"best of {runs} runs"


def listed(names: Iterable[str], most: int = 40) -> str:
    """Names one after the other; of very many the first, and how many there are."""
    every = list(map(str, names))
    return apart(every[:most]).join([*every[:most], *([f"... ({len(every)})"] if len(every) > most else [])])
