"""Records as YAML: written with a checksum of what they say, and read without trusting them.

The checksum is of the values, not of the text: comments, white space and the order of keys may be changed by hand. A
value that is another, a line that is gone or twice, is noticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import yaml

from cellalign.records.base import RecordError

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DEPTH = 20  # lists and mappings within each other; of ours there are five
NOTE = "# Of the values below; without its line an edited file is read as it is."


def checked_text(plain: Mapping[str, Any]) -> str:
    """A plain record as YAML, its checksum in the first line."""
    text = yaml.safe_dump(_writable(dict(plain)), sort_keys=False, allow_unicode=True)
    # of what will be read, should YAML ever give anything else than it was given
    return f"{NOTE}\nchecksum: {checksum_of(yaml.load(text, Loader=LOADER))}\n{text}"


def _writable(plain: Any) -> Any:
    """The same with what is no Unicode (a path of another encoding) written out: no YAML could be read again."""
    if isinstance(plain, str):
        return plain.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(plain, Mapping):
        return {_writable(key): _writable(value) for key, value in plain.items()}
    return [_writable(each) for each in plain] if isinstance(plain, (list, tuple)) else plain


def plain_of(text: str) -> Any:
    """What YAML text holds.

    Raises
    ------
    RecordError
        It is no YAML, or holds what is never written: aliases, tags, a key twice, more than `DEPTH` levels.
    """
    try:
        _check_events(text)
        plain = yaml.load(text, Loader=LOADER)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(str(error).splitlines()[0]) from error
    return plain


def verify(plain: Mapping[str, Any]) -> None:
    """RecordError where a plain record has a checksum, and it is not that of its values."""
    if "checksum" in plain and plain["checksum"] != checksum_of(plain):
        how = "restore it, or, where you edited it on purpose, delete its line 'checksum'"
        raise RecordError(f"its values are not those of its checksum; {how}")


def checksum_of(plain: Mapping[str, Any]) -> str:
    """The "sha256:..." of all values but the checksum, whatever their order."""
    rest = {key: value for key, value in plain.items() if key != "checksum"}
    try:
        content = json.dumps(rest, sort_keys=True, default=str)
    except TypeError:  # keys of several kinds, which no record has
        content = repr(rest)
    return "sha256:" + hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def _check_events(text: str) -> None:
    """RecordError of text that grows when it is read, or of which a part would be passed over."""
    open_: list[set[str] | None] = []  # of each mapping the keys so far, None of a list
    awaits: list[bool] = []  # whether the next node is a key
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise RecordError("it holds an alias (& or *), which is never written")
        if isinstance(event, yaml.NodeEvent):
            key = bool(awaits) and awaits[-1]
            if key and isinstance(event, yaml.ScalarEvent):
                keys = open_[-1]
                assert keys is not None
                if event.value in keys:
                    raise RecordError(f"it holds {event.value[:40]!r} twice")
                keys.add(event.value)
            if awaits and open_[-1] is not None:
                awaits[-1] = not awaits[-1]
        if isinstance(event, yaml.CollectionStartEvent):
            if len(open_) == DEPTH:
                raise RecordError(f"it is deeper than {DEPTH} levels")
            mapping = isinstance(event, yaml.MappingStartEvent)
            open_.append(set() if mapping else None)
            awaits.append(mapping)
        elif isinstance(event, yaml.CollectionEndEvent):
            open_.pop()
            awaits.pop()
