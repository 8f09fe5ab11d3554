"""Drives a file through a command, obeys what an error advises, and says what came of it.

The same is done by the tests and by the table of files and commands (benchmarks/files.py).
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anndata as ad
from corpus.manifest import File
from running import in_this_process

TINY = ("--epochs", 1, "--set", "hidden=[8]", "--latent-dim", 3)
REFUSED = (2, 3, 4)
STEPS = 4  # of advice, at most, before a file is given up


@dataclass(frozen=True)
class Reference:
    """Models of the cells of the corpus, trained from the plainest file, and what they give.

    Attributes
    ----------
    folder : Path
        pp.h5ad (the preprocessed cells), comp and svae (models), e.h5ad, c.h5ad and a.h5ad (embedded,
        counterfactual, annotated).
    """

    folder: Path

    def read(self, name: str) -> ad.AnnData:
        return ad.read_h5ad(self.folder / name)


def make_reference(plain: Path, folder: Path) -> Reference:
    for line in (
        ("preprocess", plain, "-o", "pp.h5ad", "--n-top-genes", 0),
        ("train", "pp.h5ad", "--method", "comp", "--condition", "stim", "-m", "comp", *TINY),
        ("train", "pp.h5ad", "--method", "svae+", "--condition", "stim", "-m", "svae", *TINY),
        ("embed", "pp.h5ad", "-m", "comp", "-o", "e.h5ad"),
        ("counterfactual", "pp.h5ad", "-m", "comp", "--to", "stimulated", "-o", "c.h5ad"),
        ("annotate", "pp.h5ad", "-m", "comp", "--label", "cell_type", "-o", "a.h5ad"),
    ):
        done = in_this_process(line, folder)
        assert done.returncode == 0, (line, done.stderr)
    return Reference(folder)


def command(name: str, file: File, input: str, reference: Reference) -> list[object]:
    """The command line a user would type first for a file."""
    lines: dict[str, list[object]] = {
        "preprocess": [input, "-o", "pp.h5ad", "--n-top-genes", 0],
        "train": [input, "--method", "comp", "--condition", "stim", "-m", "m", *TINY],
        "embed": [input, "-m", reference.folder / "comp", "-o", "e.h5ad"],
        "counterfactual": [input, "-m", reference.folder / "comp", "--to", "stimulated", "-o", "c.h5ad"],
        "annotate": [input, "-m", reference.folder / "comp", "--label", "cell_type", "-o", "a.h5ad"],
        "against": [reference.folder / "c.h5ad", "--against", input, "--condition", "stim", "--label", "cell_type"],
        "targets": [input, "-m", reference.folder / "svae", "--programs", 2, "-o", "t.csv"],
        "benchmark": [input, "--methods", "linear", "--condition", "stim", "--holdout-each", "cell_type"],
        "tune": [input, "--method", "comp", "--condition", "stim", "--grid", "lr=0.001,0.01", "--seeds", 1, "-m", "m"],
    }
    line = lines[name]
    if name == "tune":
        line += ["--epochs", 1, "--set", "hidden=[8]"]
    if name == "benchmark":
        line += ["-o", "b.csv"]
    if name in ("evaluate", "against"):
        line += ["--format", "csv"]
    return ["evaluate" if name == "against" else name, *line]


COMMANDS = ("preprocess", "train", "embed", "counterfactual", "annotate", "against", "targets", "benchmark", "tune")


@dataclass
class Driven:
    """What came of a command.

    Attributes
    ----------
    status : int
        Of the last command.
    output : str
        What it printed.
    line : list
        The command line that was typed last.
    advice : list of str
        What was said before, and obeyed.
    messages : str
        What it said beside its output.
    """

    status: int
    output: str
    line: list[object]
    advice: list[str] = field(default_factory=list)
    messages: str = ""


def drive(name: str, file: File, corpus: Path, folder: Path, reference: Reference) -> Driven:
    """Type the command, and as long as it is refused do what the error says.

    Raises
    ------
    AssertionError
        A status outside the contract, more than one line, advice that cannot be obeyed or does not help.
    """
    for item in (file.name, "obs.csv"):
        _copy(corpus / item, folder / item)
    line = command(name, file, file.name, reference)
    said: list[str] = []
    while True:
        before = digest(folder)
        done = in_this_process(line, folder)
        shown = f"{shlex.join(map(str, line))}\n{done.stderr}"
        if done.returncode == 0:
            assert_unharmed(before, digest(folder), shown)
            return Driven(0, done.stdout, line, said, done.stderr)
        error = one_error(done.returncode, done.stderr, shown)
        assert digest(folder) == before, f"a command that failed changed files: {shown}"
        if name in file.refused and all(word in error for word in file.refused[name]):
            return Driven(done.returncode, done.stdout, line, [*said, error])
        if any(missing(library) and library in error for library in file.needs):
            return Driven(done.returncode, done.stdout, line, [*said, error])
        assert error not in said, f"the advice was obeyed and the same is said again: {shown}"
        said.append(error)
        assert len(said) <= STEPS, f"no end of advice: {said}"
        line = obeyed(error, line, file, folder)


def missing(library: str) -> bool:
    from importlib.util import find_spec

    return find_spec(library) is None


def one_error(status: int, stderr: str, shown: str) -> str:
    """The error's line; warnings and notes may stand above it."""
    assert status in REFUSED, f"status {status}: {shown}"
    assert "Traceback" not in stderr and "unexpected" not in stderr, shown
    lines = stderr.strip().splitlines()
    errors = [text for text in lines if text.startswith(("cellalign: error", "error"))] or lines[-1:]
    assert len(errors) == 1 and errors[0] == lines[-1], shown
    return errors[0]


def digest(folder: Path) -> dict[str, str]:
    """What every file of a folder holds, hidden ones and those of a model in the making too."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def assert_unharmed(before: dict[str, str], after: dict[str, str], shown: str) -> None:
    for path, value in before.items():
        assert after.get(path) == value, f"{path} was changed: {shown}"
    assert not [path for path in after if ".partial" in path], shown


def _copy(source: Path, target: Path) -> None:
    if not target.exists():
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)


# Advice

OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z-]+|-o)(?:[ =]('[^']*'|\"[^\"]*\"|[^\s,;)(]+))?")
COMMAND = re.compile(r"cellalign (?:preprocess|train|embed|annotate|counterfactual|evaluate) .*?(?=[;`\n]|, |$)")
PYTHON = re.compile(r"in Python: ([^;]+)")
MARKUP = re.compile(r"^[A-Z][A-Z.,=/_]*$")  # KEY, FILE.csv: a place for the user's own


def obeyed(error: str, line: Sequence[object], file: File, folder: Path) -> list[object]:
    """The next command line for one that was refused: what the error says was done.

    Raises
    ------
    AssertionError
        The error advises nothing that can be typed, or what it advises fails.
    """
    for way in (_run_commands, _add_options, _run_python):
        line_now = way(error, list(line), file, folder)
        if line_now is not None:
            return line_now
    raise AssertionError(f"no advice that can be obeyed: {error}")


def _run_commands(error: str, line: list[object], file: File, folder: Path) -> list[object] | None:
    """Commands in the error are run; what the last one writes takes the input's place."""
    found = [text.rstrip(" .)'") for text in COMMAND.findall(error)]
    if not found:
        return None
    made = None
    for text in found:
        words: list[object] = [_own(word, file) for word in shlex.split(text)[1:]]
        if words[0] == line[0] and words[0] != "preprocess":
            return [*words, *_left_out(line, words)]
        done = in_this_process(words, folder)
        assert done.returncode == 0, f"the advice {text!r} of {error!r} fails: {done.stderr}"
        made = words[words.index("-o") + 1]
    return [made if str(word) == file.name else word for word in line]


def _left_out(line: Sequence[object], words: Sequence[object]) -> list[object]:
    """Of the first command line what the advised one does not repeat: options with their values, not the input."""
    kept: list[object] = []
    options = list(line[2:])
    while options:
        name = options.pop(0)
        values = [options.pop(0)] if options and not str(options[0]).startswith("-") else []
        if name not in words:
            kept += [name, *values]
    return kept


def _own(word: str, file: File) -> str:
    """A word of advised commands, with the user's own in the place of INPUT or FILE.csv."""
    return {"INPUT": file.name, "FILE": file.name, "FILE.h5ad": file.name, "FILE.csv": "obs.csv"}.get(word, word)


def _add_options(error: str, line: list[object], file: File, folder: Path) -> list[object] | None:
    """Options in the error are given: those with a value of their own, and those with a place for the user's."""
    added: list[object] = []
    for name, value in OPTION.findall(error):
        if name in line:
            continue
        value = value.strip("'\"").rstrip(".:")
        own = next(iter(_values(name, value, error, file)), None)
        if own is not None:
            added += [name, own]
            break
        if not value and name in ("--raw", "--round"):
            added += [name]
            break
    return [*line, *added] if added else None


def _values(name: str, value: str, error: str, file: File) -> Iterator[str]:
    """What a user with this file gives for an option: the error names it, or it is known of the file."""
    if name == "--obs":
        yield "obs.csv"
    elif name == "--modality":
        assert "rna" in error and "prot" in error, f"the modalities are not named: {error}"
        yield "rna"
    elif name == "--gene-key":
        columns = [key for key in ("feature_name", "gene_name", "gene_ids") if re.search(rf"\b{key}\b", error)]
        assert columns, f"the column of gene names is not named: {error}"
        yield columns[0]
    elif name == "--layer":
        yield value if value and not MARKUP.match(value) else "counts"
    elif name in ("--to", "--from", "--control") and value and not MARKUP.match(value):
        yield value
    elif name in ("--missing-genes",):
        yield value or "zero"


def _run_python(error: str, line: list[object], file: File, folder: Path) -> list[object] | None:
    """A Python expression on adata is run on the file."""
    found = PYTHON.search(error)
    if found is None:
        return None
    adata = ad.read_h5ad(folder / file.name)
    exec(found.group(1), {"adata": adata, "ad": ad})  # noqa: S102
    adata.write_h5ad(folder / "mended.h5ad")
    return ["mended.h5ad" if str(word) == file.name else word for word in line]
