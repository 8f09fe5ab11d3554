"""Gene sets from a GMT file (of MSigDB, Enrichr, Reactome, ...): a set a line, name, description and genes by tabs.

Genes are matched to a model's as those of a file of cells are (`data.genes`).
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cellalign.data.values import listed
from cellalign.errors import InputError, option

GeneSets = Mapping[str, Sequence[str]]
LONGEST_SHOWN = 60  # characters of a line that is wrong


def read_gmt(path: str | os.PathLike[str]) -> dict[str, tuple[str, ...]]:
    """Sets of a GMT file by name; .gmt.gz is read too.

    Raises
    ------
    InputError
        No such file, no text, a line that is no set, a name given twice, or no set at all; the line is named.
    """
    found: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(_lines(Path(path)), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, *rest = (part.strip() for part in line.rstrip("\r\n").split("\t"))
        genes = tuple(dict.fromkeys(gene for gene in rest[1:] if gene))
        if not name or not genes:
            shown = line.strip()[:LONGEST_SHOWN]
            raise InputError(
                f"{path}, line {number}: {shown!r} is no gene set; GMT has a name, a description and genes there, "
                "separated by tabs"
            )
        if name in found:
            raise InputError(f"{path}, line {number}: the gene set {name!r} is there twice; give each its own name")
        found[name] = genes
    if not found:
        raise InputError(f"{path} holds no gene set; GMT has one a line: name, description, genes, separated by tabs")
    return found


def _lines(path: Path) -> list[str]:
    """Lines of a text file, as it is or compressed by gzip."""
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        text = content.decode("utf-8-sig")
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder; give a GMT file") from error
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; give a GMT file of gene sets") from error
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not text: {error}; give a GMT file of gene sets") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    # not splitlines, which also splits at characters that a description may hold
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def membership(sets: GeneSets, genes: Sequence[str], other_names: Sequence[str] = ()) -> np.ndarray:
    """Which of a model's genes are in each set, bool [sets, genes].

    Parameters
    ----------
    sets : mapping of name to genes
    genes, other_names : sequences of str [genes]
        The model's; the second name of each, or empty.

    Raises
    ------
    InputError
        Not a single gene of the sets is one of the model's.
    """
    named = list(dict.fromkeys(gene for members in sets.values() for gene in members))
    place = _places(named, genes, other_names)
    if not place:
        ours, theirs = (listed(list(names)[:5]) for names in (genes, named))
        raise InputError(
            f"{option('gene_sets')}: no gene of the {len(sets)} sets ({theirs}, ...) is one of the model's "
            f"{len(genes)} ({ours}, ...); take sets of the same species and kind of name"
        )
    member = np.zeros((len(sets), len(genes)), dtype=bool)
    for row, members in enumerate(sets.values()):
        member[row, [place[gene] for gene in members if gene in place]] = True
    return member


def _places(named: Sequence[str], genes: Sequence[str], other_names: Sequence[str]) -> dict[str, int]:
    """Which of a model's genes each name is, tried as `genes.match` does; a name that fits two of them is none.

    Several names may be one gene: a set may call it otherwise than another does.
    """
    from cellalign.data.genes import FORMS, Matching, say_how

    place: dict[str, int] = {}
    how: dict[str, int] = {}
    for said, form in FORMS.items():
        for name, known in (("", genes), ("the model's second name", other_names)):
            there: dict[str, int] = {}
            for i, own in enumerate(known):
                there[form(own)] = -1 if form(own) in there or not own else i
            found = {gene: there.get(form(gene), -1) for gene in named if gene not in place}
            found = {gene: i for gene, i in found.items() if i >= 0}
            place |= found
            by = ", ".join(part for part in (name, said) if part)
            if found and by:
                how[by] = len(found)
    say_how(Matching(np.array([*place.values()], dtype=np.int64), how), "the gene sets")
    return place
