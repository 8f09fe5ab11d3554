"""KEY=VALUE,KEY=VALUE as users type it, with names that hold commas and equals signs themselves.

What is known of columns and values decides where a term ends: the longest text that is a known value wins, so that
`cell_type=CD4-positive, alpha-beta T cell` is one term. Double quotes keep together what cannot be known:
`cell_type="a,cond=b",cond=c`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from cellalign.errors import UsageError, option

Term = tuple[str | None, str]
IsKnown = Callable[[str | None, str], bool]


def split_terms(
    text: str,
    keys: Collection[str],
    is_known: IsKnown,
    *,
    bare: bool = False,
    several: bool = False,
    of: str = "where",
) -> list[Term]:
    """The terms of an item: keys and values, not yet looked up; the key of a value without one is None.

    Parameters
    ----------
    keys : collection of str
        The columns there are.
    is_known : callable
        Whether a column (None: that of a bare value) has a value.
    bare : bool
        Whether a term may be a value alone.
    several : bool
        Whether a value alone may be a further one of the column before it, as in KEY=VALUE,VALUE.
    of : str
        The parameter that it was given to.

    Raises
    ------
    UsageError
        A term is not KEY=VALUE.
    """
    found = _parsed(text, keys, is_known, bare, several)
    if found is None:
        found = []
        for piece in _pieces(text, keys, bare):
            plain = _plain(piece, text, keys, bare, of)
            found += _apart(piece, plain, is_known) if several else [plain]
    return found


def term(key: str, value: str) -> str:
    """KEY=VALUE of a column and its value, quoted where it has to be."""
    return f"{key}={quoted(value)}"


def quoted(value: str) -> str:
    """A value as one piece of an item."""
    if not any(sign in value for sign in ',="') and value == value.strip():
        return value
    return '"' + value.replace('"', '""') + '"'


def unquoted(value: str) -> str:
    """The inverse of `quoted`; other text is as it is."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        return value[1:-1].replace('""', '"')
    return value


def _parsed(
    text: str, keys: Collection[str], is_known: IsKnown, bare: bool, several: bool, before: str | None = None
) -> list[Term] | None:
    """All terms, every one of a known column and value, the longest values first; None where there is no such way."""
    for end in (len(text), *reversed(list(_commas(text)))):
        first = _known(text[:end], keys, is_known, bare, before)
        if first is None:
            continue
        if end == len(text):
            return [first]
        rest = _parsed(text[end + 1 :], keys, is_known, bare, several, first[0] if several else None)
        if rest is not None:
            return [first, *rest]
    return None


def _known(text: str, keys: Collection[str], is_known: IsKnown, bare: bool, before: str | None) -> Term | None:
    """The one term that a text is, of a known column and value; or a further value of the column before it."""
    ways: list[Term] = [(None, text.strip())] if bare else []
    stripped = text.strip()
    ways += [
        (key, stripped[len(key) + 1 :].strip()) for key in keys if key and stripped.startswith(f"{key}=")
    ]  # a key may hold an equals sign
    ways += [] if before is None else [(before, stripped)]
    for key, value in ways:
        for meant in dict.fromkeys((value, unquoted(value))):
            if value and is_known(key, meant):
                return key, meant
    return None


def _commas(text: str) -> Iterator[int]:
    """Places of the commas outside double quotes."""
    within = False
    for place, sign in enumerate(text):
        if sign == '"':
            within = not within
        elif sign == "," and not within:
            yield place


def _cut(text: str) -> list[str]:
    """The text cut at every comma."""
    places = list(_commas(text))
    return [text[start:end] for start, end in zip([0, *(p + 1 for p in places)], [*places, len(text)], strict=True)]


def _pieces(text: str, keys: Collection[str], bare: bool) -> list[str]:
    """The text cut at commas: at those before KEY=, of a column that is there or where no value may stand alone."""
    parts = _cut(text)
    pieces = parts[:1]
    for part in parts[1:]:
        key, equals, _ = part.partition("=")
        names_column = any(part.strip().startswith(f"{name}=") for name in keys if name)
        if names_column or (not bare and equals and " " not in key.strip()):
            pieces.append(part)
        else:
            pieces[-1] += f",{part}"
    return pieces


def _apart(piece: str, plain: Term, is_known: IsKnown) -> list[Term]:
    """A term of a value that nobody knows as several, where one of them is known: the others are then what is wrong."""
    key = plain[0]
    if key is None:
        return [plain]
    text = piece.strip()[len(key) :].lstrip()[1:]
    values = [unquoted(part.strip()) for part in _cut(text) if part.strip()]
    return [(key, value) for value in values] if any(is_known(key, value) for value in values) else [plain]


def _plain(piece: str, item: str, keys: Collection[str], bare: bool, of: str) -> Term:
    """A term whose value nobody knows, so that whoever looks it up can say so."""
    piece = piece.strip()
    named = [name for name in keys if name and piece.startswith(f"{name}=")]
    if named:
        key = max(named, key=len)
        value = piece[len(key) + 1 :].strip()
    else:
        key, equals, value = (part.strip() for part in piece.partition("="))
        if bare:
            return None, unquoted(piece)
        if not equals or not key:
            value = ""
    if not value:
        raise UsageError(f"{option(of, [item])} is not KEY=VALUE")
    return key, unquoted(value)
