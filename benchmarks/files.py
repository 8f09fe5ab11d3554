"""Which file works with which command: the table of the corpus (tests/corpus), as markdown.

    python benchmarks/files.py > docs/files.md
    python benchmarks/files.py --only plain.h5ad loompy.loom --commands preprocess train

Each file is typed into each command as a user would type it first; what is refused is done again as the error advises
(tests/corpus/drive.py). `yes` is a command that works as typed, a note what had to be added, `NO` what no advice mends.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from corpus.drive import COMMANDS, Driven, command, drive, make_reference  # noqa: E402
from corpus.manifest import FILES, File, unpack  # noqa: E402

SHOWN = {"against": "evaluate --against", **{name: name for name in COMMANDS if name != "against"}}
TEXT = """\
# Files that are read

Every file below lies in `tests/corpus`, 60 cells and 40 genes each, written by the version or after the layout of the
tool it names. The table is made by `python benchmarks/files.py > docs/files.md`; the tests do the same and check what
comes out.

- **yes**: the command works as typed.
- **a number**: the first try is refused in one line; with what that line advises, the command works.
- **no**: it cannot be done with what the file holds, and the number says why.
- **NO**: it should work.

`embed`, `counterfactual`, `annotate`, `evaluate` and `targets` are given a model, or a prediction, of the same cells in
`plain.h5ad`.
"""


def cell(name: str, file: File, corpus: Path, reference: object, notes: list[str]) -> str:
    """One cell of the table; what is new in it is appended to the notes."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            driven = drive(name, file, corpus, Path(folder), reference)  # type: ignore[arg-type]
        except AssertionError as error:
            return noted("NO", str(error).strip().splitlines()[0], notes)
        if driven.status == 0 and not driven.advice:
            return "yes"
        said = re.sub(r"\s+", " ", driven.advice[-1].removeprefix("cellalign: error: "))
        return noted("yes" if driven.status == 0 else "no", f"{said}{added(name, file, driven, reference)}", notes)


def added(name: str, file: File, driven: Driven, reference: object) -> str:
    """What was typed instead."""
    if driven.status:
        return ""
    first = [str(word) for word in command(name, file, file.name, reference)]  # type: ignore[arg-type]
    more = [str(word) for word in driven.line if str(word) not in first]
    return f" *Works with* `{shlex.join(more)}`." if more else ""


def noted(word: str, text: str, notes: list[str]) -> str:
    text = text.replace("|", "\\|").replace("<", "&lt;")
    if text not in notes:
        notes.append(text)
    return f"{word} [{notes.index(text) + 1}]" if word != "yes" else f"[{notes.index(text) + 1}]"


def table(files: Sequence[File], commands: Sequence[str]) -> str:
    """The whole page."""
    notes: list[str] = []
    lines = ["| file | what wrote it | " + " | ".join(SHOWN[name] for name in commands) + " |"]
    lines += ["| --- | --- |" + " --- |" * len(commands)]
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        (Path(folder) / "reference").mkdir()
        unpack(corpus)
        reference = make_reference(corpus / "plain.h5ad", Path(folder) / "reference")
        for file in files:
            cells = [cell(name, file, corpus, reference, notes) for name in commands]
            lines.append(f"| `{file.name}` | {file.origin} | " + " | ".join(cells) + " |")
            print(file.name, file=sys.stderr)
        listed = [f"{number}. {text.replace(folder, '')}" for number, text in enumerate(notes, 1)]
    return "\n".join([TEXT, *lines, "", "## What was said", "", *listed])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="FILE", choices=list(FILES), default=list(FILES))
    parser.add_argument("--commands", nargs="+", metavar="COMMAND", choices=COMMANDS, default=list(COMMANDS))
    asked = parser.parse_args()
    print(table([FILES[name] for name in asked.only], asked.commands))


if __name__ == "__main__":
    main()
