"""Genes matched by name: those of a file brought into the order of the model's.

A gene is found by the name it has in the file, else by another that the file or the model knows (symbols and
identifiers), else without the version of an Ensembl identifier, else in another case of letters. What fits two genes
fits none.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from cellalign.data.said import tell
from cellalign.data.stored import Stored, all_in_order, placed
from cellalign.errors import InputError, nearest, option

if TYPE_CHECKING:
    from anndata import AnnData


# columns of var that hold a second name of each gene, as the tools of the field write them, in lower case
SECOND_NAMES: tuple[str, ...] = (
    "gene_ids",
    "gene_id",
    "gene_symbols",
    "gene_symbol",
    "gene_names",
    "gene_name",
    "feature_name",
)
SECOND_NAMES += ("feature_id", "gene_short_name", "symbol", "symbols", "ensembl_id", "ensembl_ids", "ensembl", "gene")
VERSION = re.compile(r"^(ENS[A-Z]*\d{6,})\.\d+$")
MANY_BY_CASE = 0.1  # a share of genes matched in another case that may mean another species


@dataclass(frozen=True)
class Matching:
    """Which column of a file each gene of a model is.

    Attributes
    ----------
    columns : int array [n_need]
        -1 where the file lacks the gene.
    how : dict of str to int
        How many genes were matched by what, the usual way (their name) left out.
    """

    columns: np.ndarray
    how: dict[str, int] = field(default_factory=dict)


def with_genes_named(adata: AnnData, key: str, where: str) -> AnnData:
    """The cells with their genes under the names in a column of var, of raw too where it has that column.

    A gene without such a name keeps its own, and of one name several are told apart by a number, as scanpy does. The
    names before are kept in a column of `SECOND_NAMES`, unless var has all of these.

    Raises
    ------
    InputError
        There is no such column; the nearest is named.
    """
    adata.var = _renamed(adata.var, key, where)
    if isinstance(getattr(adata.raw, "X", None), Stored):
        if key in adata.raw.var:
            adata.raw.var = _renamed(adata.raw.var, key, f"{where}'s raw")
    elif adata.raw is not None and key in adata.raw.var:
        from anndata import AnnData

        adata.raw = AnnData(adata.raw.X, obs=adata.obs[[]], var=_renamed(adata.raw.var, key, f"{where}'s raw"))
    return adata


def _renamed(var: pd.DataFrame, key: str, where: str) -> pd.DataFrame:
    from anndata.utils import make_index_unique

    if key not in var:
        there = ", ".join(map(str, var.columns)) or "none"
        raise InputError(
            f"{where} has no {option('gene_key', key)} in var.{nearest(key, map(str, var))} Columns: {there}"
        )
    own, values = pd.Index(var.index.astype(str)), var[key].astype(object)
    unnamed = values.isna() | (values.astype(str).str.strip() == "")
    names = pd.Index(np.where(unnamed, own, values.astype(str)))
    first = ("gene_ids", "gene_id", "feature_id", "gene")
    free = (name for name in (*first, *SECOND_NAMES) if name not in var)
    kept = {name: own for name in [next(free, None)] if name is not None}  # of so many names one more adds nothing
    twice = int(names.duplicated().sum())
    if unnamed.any() or twice:
        tell(logging.INFO, "%s: %d genes have no %r, %d share one", where, int(unnamed.sum()), key, twice)
    return var.assign(**kept).set_axis(make_index_unique(names) if twice else names)


def second_names(var: pd.DataFrame) -> dict[str, list[str]]:
    """Columns of var that hold another name of each gene; "" where one has none."""
    found = {}
    for key in var.columns:
        if str(key).lower() in SECOND_NAMES:
            values = var[key].astype(object)
            found[str(key)] = values.where(values.notna(), "").astype(str).tolist()
    return found


def second_name(var: pd.DataFrame) -> list[str]:
    """The first of `second_names`; empty where there is none."""
    return next(iter(second_names(var).values()), [])


def match(var: pd.DataFrame, need: Sequence[str], also: Sequence[str] = ()) -> Matching:
    """Find the genes that a model needs among those of a file.

    Parameters
    ----------
    var : DataFrame [n_have, ...]
        Index: the genes' names in the file.
    need : sequence of str [n_need]
    also : sequence of str [n_need] or empty
        The second name of each needed gene, as `second_names` gave it of the training file.
    """
    have = [str(name) for name in var.index]
    if have == list(need):
        return Matching(np.arange(len(have)))
    columns = np.full(len(need), -1, dtype=np.int64)
    how: dict[str, int] = {}
    there = {"": have, **{f"var column {key!r}": names for key, names in second_names(var).items()}}
    wanted = {"": list(need), **({"the model's second name": list(also)} if also else {})}
    for said, form in FORMS.items():
        for column, names in there.items():
            for name, needed in wanted.items():
                if (columns >= 0).all():
                    return Matching(columns, how)
                found = _fill(columns, names, needed, form)
                by = ", ".join(part for part in (column, name, said) if part)
                if found and by:
                    how[by] = found
    return Matching(columns, how)


def _fill(columns: np.ndarray, have: list[str], need: list[str], form: Callable[[str], str]) -> int:
    """Put the columns of genes that are not found yet and fit in this form; their number."""
    taken = set(columns[columns >= 0].tolist())
    place: dict[str, int] = {}
    for i, name in enumerate(have):
        key = form(name)
        place[key] = -1 if key in place or not key else i  # what fits two genes fits none
    sought = np.flatnonzero(columns < 0).tolist()
    asked = pd.Series([form(need[i]) for i in sought], dtype=object)
    found = 0
    for i, key, twice in zip(sought, asked, asked.duplicated(keep=False), strict=True):
        position = place.get(key, -1)
        if position >= 0 and not twice and position not in taken:
            columns[i] = position
            found += 1
    return found


def without_version(name: str) -> str:
    """An Ensembl identifier without its version; any other name as it is (RP11-34P13.7 is no version)."""
    found = VERSION.match(name)
    return found[1] if found else name


FORMS: dict[str, Callable[[str], str]] = {
    "": str,
    "without the version": without_version,
    "in another case": lambda name: without_version(name.upper()),
}


def say_how(matching: Matching, where: str) -> None:
    """Tell what was matched by anything but the gene's name."""
    if not matching.how:
        return
    total = len(matching.columns)
    by_name = int((matching.columns >= 0).sum()) - sum(matching.how.values())
    parts = [f"{by_name:,} by name"] + [f"{n:,} by {said}" for said, n in matching.how.items()]
    tell(logging.INFO, "%s: genes matched: %s", where, ", ".join(part.replace("by in ", "in ") for part in parts))
    by_case = sum(n for said, n in matching.how.items() if "case" in said)
    if by_case > MANY_BY_CASE * total:
        asked = "are the cells of one species?"
        tell(logging.WARNING, "%s: %d of %d genes match in another case only; %s", where, by_case, total, asked)


def align_genes(
    x: Any,
    matching: Matching,
    need: Sequence[str],
    *,
    missing: str = "error",
    where: str = "the input",
    preprocessed: bool = False,
) -> Any:
    """Columns of x in the order of the genes the model was trained on.

    Parameters
    ----------
    x : matrix [n, n_have]
    matching : Matching
    need : sequence of str
        Names of the genes, for messages.
    missing : {"error", "zero"}
        What to do about genes the model needs and the file lacks.
    preprocessed : bool
        The file is known to hold a choice of genes only.

    Raises
    ------
    InputError
        Genes are missing and `missing` is "error", or none at all is there.
    """
    columns = matching.columns
    if all_in_order(columns, x.shape[1]):
        return x
    absent = np.flatnonzero(columns < 0)
    if len(absent) == len(columns):
        raise InputError(
            f"{where} has none of the model's {len(columns)} genes ({need[0]}, ...): if a column of var names them, "
            f"say which with {option('gene_key', hint='COLUMN')}"
        )
    if len(absent) and missing != "zero":
        own = "its genes were chosen by a preprocess of its own: name the raw file"
        advice = own if preprocessed else "use a file that has them"
        named = ", ".join(need[i] for i in absent[:10]) + (", ..." if len(absent) > 10 else "")
        raise InputError(
            f"{where} lacks {len(absent)} of the model's {len(columns)} genes: {named}; "
            f"{advice}, or {option('missing_genes', 'zero')}"
        )
    if not len(absent):
        return x[:, columns]
    tell(
        logging.WARNING, "%s lacks %d of the model's %d genes; they are taken as zero", where, len(absent), len(columns)
    )
    present = np.flatnonzero(columns >= 0)
    if isinstance(x, Stored):
        return x.mapped(lambda block: placed(block, columns), len(columns))
    chosen = sparse.csr_matrix(
        (np.ones(len(present), dtype=np.float32), (columns[present], present)), shape=(x.shape[1], len(columns))
    )
    return sparse.csr_matrix(x) @ chosen
