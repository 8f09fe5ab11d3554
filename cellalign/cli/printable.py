r"""Text for a terminal: names come from files, and whatever they hold is shown, never obeyed.

Escape sequences, control characters, marks that reverse the direction of text and line breaks are written out, as
Python writes them in a string (\x1b, \u202e, \n). Tables, messages and headings all go through `printable`.
"""

from __future__ import annotations

import unicodedata

# control and format characters, surrogates (bytes of a file name that are no text), line and paragraph separators
WRITTEN_OUT = {"Cc", "Cf", "Cs", "Zl", "Zp"}
JOINERS = "\u200c\u200d"  # format characters that scripts and emoji are spelled with


def printable(text: str, keep: str = "") -> str:
    """The text with everything that a terminal would obey written out.

    Parameters
    ----------
    text : str
    keep : str
        Characters that stay, such as the line breaks of a table.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or _is_shown(c) else c.encode("unicode_escape").decode("ascii") for c in text)


def _is_shown(character: str) -> bool:
    return character in JOINERS or unicodedata.category(character) not in WRITTEN_OUT
