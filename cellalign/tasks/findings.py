"""What `check` looks at, one function each: the cells' names, matrix, columns, groups, effect, depth and quality.

Nothing is refused here: what `train` would refuse is found by asking the same functions, and told as a finding.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cellalign.data import quality
from cellalign.data.columns import of_few_values
from cellalign.data.counts import NoCounts, Place, find_counts, find_log, places
from cellalign.data.matrices import check_expression, check_names
from cellalign.data.said import untold
from cellalign.data.values import listed, means_missing, text_of
from cellalign.errors import InputError, option
from cellalign.nn.minibatch import BATCH, CONDITION, LABEL, Fields

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

Level = Literal["error", "warning", "note", "ok"]
AGREE = 0.2  # halves of a condition's cells whose changes agree by less: nothing that can be measured
DEEPER = 2.0  # times the depth of another group
MITOCHONDRIAL, MANY_CELLS = 0.2, 0.05  # share of a cell's counts, and of the cells that have more
MANY_DOUBLETS = 0.1  # share of cells
SHALLOW, WHOLE = 200, 5000  # genes of a cell that tells little; of a file that is no selection of them
SMALL_GROUP, FEW_GENES, SHOWN, VALUES = 10, 50, 5, 50
FLAGS = ("doublet", "multiplet")  # within the name of a column
MEND = '; put them into layers["counts"], X or raw, or name the layer'  # `NoCounts` says
SINGLE = ("singlet", "false", "0", "0.0", "no", "single")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    level : {"error", "warning", "note", "ok"}
        An error keeps a method from being trained; a warning misleads.
    what : str
        What was looked at.
    found : str
        What there is, with numbers.
    advice : str
        What to do, empty where nothing is to be done.
    """

    level: Level
    what: str
    found: str
    advice: str = ""


def of_error(what: str, error: Exception) -> Finding:
    """What a task refuses: its message says what was found, and behind the last semicolon what to do."""
    found, _, advice = str(error).rpartition("; ")
    return Finding("error", what, found or advice, advice if found else "")


def of_names(adata: AnnData) -> Iterator[Finding]:
    """Cells and genes by number and name."""
    try:
        check_names(adata, "the file")
    except InputError as error:
        yield of_error("names", error)
    size = f"{adata.n_obs:,} cells, {adata.n_vars:,} genes"
    if adata.n_obs < SMALL_GROUP or adata.n_vars < 2:
        yield Finding("error", "size", size, "too few to learn anything of")
    elif adata.n_vars < FEW_GENES:
        advice = "with so few genes predictions are rough; do not choose highly variable ones"
        yield Finding("warning", "size", size, advice)
    else:
        yield Finding("ok", "size", size)


def of_matrix(adata: AnnData, layer: str | None, rounded: bool) -> tuple[Place | None, bool, list[Finding]]:
    """The matrix to look at, whether it holds counts, and what there is to say of it."""
    try:
        every = places(adata, layer=layer)
        if every and all(place.scale.all_zero for place in every):
            advice = "read it again from the tool that counted; nothing can be learned of zeros"
            return None, False, [Finding("error", "matrix", f"all values of {every[0].said} are zero", advice)]
        lost = [
            Finding("warning", "matrix", f"all values of {each.said} are zero", "leave it out, or read it again")
            for each in every
            if each.where in ("X", "counts") and each.scale.all_zero  # which methods read; others are not looked at
        ]
        with untold():
            place = find_counts(adata, layer=layer, rounded=rounded)
    except NoCounts as error:
        return _without_counts(adata, layer, error)
    except InputError as error:
        return None, False, [of_error("matrix", error)]
    return place, True, [Finding("ok", "matrix", f"counts in {place.said}"), *lost, *_of_zeros(place)]


def of_values(adata: AnnData, layer: str | None) -> tuple[Place | None, bool, list[Finding]]:
    """The matrix of values that are taken as they are."""
    place = places(adata, layer=layer or "X")[0]
    try:
        check_expression(place.matrix, "any", place.said, names=place.names)
    except InputError as error:
        return None, False, [of_error("matrix", error)]
    return place, False, [Finding("ok", "matrix", f"finite values in {place.said}, taken as they are")]


def _without_counts(adata: AnnData, layer: str | None, error: NoCounts) -> tuple[Place | None, bool, list[Finding]]:
    with untold():
        place = find_log(adata, layer=layer)
    if place is None:
        fits = of_values(adata, layer)[0] is not None
        as_they_are = f"find the raw counts, or train on values as they are: {option('expression', 'any')}"
        advice = as_they_are if fits else "remove or correct these values: no method takes them"
        return None, False, [Finding("error", "matrix", str(error).removesuffix(MEND), advice)]
    advice = "methods of log expression take it as it is; scvi, scanvi, svae+ and others need raw counts"
    said = f"no raw counts; {place.scale.kind} expression in {place.said}"
    return place, False, [Finding("warning", "matrix", said, advice), *_of_zeros(place)]


def _of_zeros(place: Place) -> Iterator[Finding]:
    """Cells and genes of which nothing was seen."""
    sizes = quality.sizes(place.matrix)
    empty, unseen = int((sizes.genes == 0).sum()), place.matrix.shape[1] - quality.seen(place.matrix)
    if empty:
        yield Finding("warning", "empty cells", f"{empty:,} cells have no counts", "drop them: they are no cells")
    if unseen:
        yield Finding("note", "unseen genes", f"{unseen:,} genes are seen in no cell", "preprocess drops them")


def of_notes(notes: Sequence[tuple[int, str]]) -> Iterator[Finding]:
    """What `train` says of the columns, split into what was found and what to do."""
    for level, message in notes:
        found, _, advice = message.partition(": ")
        short = len(found) > 20
        kind: Level = "warning" if level >= logging.WARNING else "note"
        yield Finding(kind, "columns", found if short else message, advice if short else "")


def of_missing_condition(obs: pd.DataFrame) -> Iterator[Finding]:
    """No condition was named: which columns could be one."""
    found = "no condition was named, so the design was not looked at"
    advice = f"{option('condition', hint='KEY')} names it; {of_few_values(obs)}"
    yield Finding("note", "condition", found, advice)


def of_groups(fields: Fields, codes: dict[Any, np.ndarray]) -> Iterator[Finding]:
    """Cell types with too few cells under a condition to be measured."""
    condition, label = fields.one(CONDITION), fields.one(LABEL)
    if condition is None or label is None or condition not in codes or label not in codes:
        return
    table = np.zeros((len(label.categories), len(condition.categories)), dtype=np.int64)
    known = (codes[label] >= 0) & (codes[condition] >= 0)
    np.add.at(table, (codes[label][known], codes[condition][known]), 1)
    small = [
        f"{name}/{to} {table[i, j]}"
        for i, name in enumerate(label.categories)
        for j, to in enumerate(condition.categories)
        if 0 < table[i, j] < SMALL_GROUP
    ]
    n, absent = table.size, int((table == 0).sum())
    if absent:
        found = f"{absent} of {n} groups of {label.name} and {condition.name} have no cell"
        yield Finding("note", "groups", found, "they can be predicted, and the prediction cannot be scored")
    if small:
        found = f"{len(small)} of {n} groups of {label.name} and {condition.name} have under {SMALL_GROUP} cells: "
        advice = "merge them with a similar type, or read nothing into their scores"
        yield Finding("warning", "groups", found + listed(small, SHOWN), advice)
    elif not absent:
        found = f"all {n} groups of {label.name} and {condition.name} have {table.min()} cells or more"
        yield Finding("ok", "groups", found)


def of_effect(x: Any, counts: bool, fields: Fields, codes: dict[Any, np.ndarray], seed: int) -> Iterator[Finding]:
    """Whether conditions of a matrix [n, G] differ more than halves of one do."""
    field = fields.one(CONDITION)
    if field is None or field not in codes:
        return
    names = list(field.categories)
    control = names.index(field.reference) if field.reference in names else None
    agree = quality.halves(x, codes[field], len(names), control, counts=counts, seed=seed)
    known = [(name, r) for name, r in zip(names, agree, strict=True) if np.isfinite(r)]
    if not known:
        return
    least = max(AGREE, 2 / np.sqrt(x.shape[1]))
    weak = [f"{name} ({r:.2f})" for name, r in sorted(known, key=lambda pair: pair[1]) if r < least]
    if weak:
        found = f"{len(weak)} of {len(known)} conditions have no measurable effect (halves agree by r over all genes): "
        advice = "more cells, or leave them out: what a method predicts of them cannot be scored"
        yield Finding("warning", "effect", found + listed(weak, SHOWN), advice)
    else:
        low, high = min(r for _, r in known), max(r for _, r in known)
        between = f"{low:.2f}" if len(known) == 1 else f"{low:.2f} to {high:.2f}"
        yield Finding("ok", "effect", f"measurable: two halves of the cells agree on the change by r = {between}")


def of_depth(sizes: quality.Sizes, fields: Fields, codes: dict[Any, np.ndarray], n_genes: int) -> Iterator[Finding]:
    """Counts of a cell, and whether groups differ by them."""
    median = np.median(sizes.totals)
    said = f"median {median:,.0f} counts and {np.median(sizes.genes):,.0f} genes a cell"
    shallow = int((sizes.genes < SHALLOW).sum())
    if n_genes >= WHOLE and shallow > MANY_CELLS * len(sizes.genes):
        advice = "these may be empty droplets or debris: filter by genes of a cell before anything else"
        yield Finding("warning", "depth", f"{said}; {shallow:,} cells have under {SHALLOW} genes", advice)
    else:
        yield Finding("ok", "depth", said)
    for field in (*fields.of(CONDITION), *fields.of(BATCH)):
        if field not in codes:
            continue
        depths = quality.medians(sizes.totals, codes[field], len(field.categories))
        if not np.isfinite(depths).any() or np.nanmin(depths) <= 0:
            continue
        ratio = np.nanmax(depths) / np.nanmin(depths)
        most, least = (field.categories[int(f(depths))] for f in (np.nanargmax, np.nanargmin))
        found = f"by {field.name}: {most} {np.nanmax(depths):,.0f} counts a cell, {least} {np.nanmin(depths):,.0f}"
        if ratio > DEEPER:
            advice = (
                "genes of few counts will seem to change; raw counts with scvi or invae model the depth, or "
                "downsample the deeper cells"
            )
            yield Finding("warning", f"{field.role} depth", f"{found}, {ratio:.1f} times", advice)
        else:
            yield Finding("ok", f"{field.role} depth", found)


def of_mitochondria(place: Place, sizes: quality.Sizes) -> Iterator[Finding]:
    """Shares of mitochondrial counts, by the names of genes."""
    share = quality.mitochondrial(place.matrix, [str(name) for name in place.var.index], sizes.totals)
    if share is None:
        yield Finding(
            "note", "mitochondria", "no gene is called MT-...", "without these genes, dying cells do not show"
        )
        return
    if place.matrix.shape[1] < WHOLE:
        yield Finding("note", "mitochondria", "not judged: the file holds a part of the genes")
        return
    many = float((share > MITOCHONDRIAL).mean())
    found = f"median {100 * np.median(share):.1f} % of counts; {100 * many:.1f} % of cells are above 20 %"
    if many > MANY_CELLS:
        advice = "these cells are dying: filter them, each tissue at its own level"
        yield Finding("warning", "mitochondria", found, advice)
    else:
        yield Finding("ok", "mitochondria", found)


def of_doublets(place: Place, obs: pd.DataFrame, seed: int) -> Iterator[Finding]:
    """Cells that another tool flagged and that are still here, and those that look like two."""
    for key in obs.columns:
        named = any(word in str(key).lower() for word in FLAGS)
        if not named or obs[key].dtype.kind == "f" or obs[key].nunique() > VALUES:
            continue
        sizes = [(text_of(value), int(n)) for value, n in obs[key].value_counts().items()]  # without missing ones
        flagged = sum(n for text, n in sizes if not means_missing(text) and text.lower() not in SINGLE)
        if flagged:
            found = f"{flagged:,} cells are flagged in obs {str(key)!r} and still here"
            yield Finding("warning", "doublets", found, "drop them, or leave them out by a filter of your own")
    share = quality.doublets(place.matrix, seed=seed)
    if share is None:
        yield Finding("note", "doublets", "cannot be told: too few cells, or all of one kind")
    elif share > MANY_DOUBLETS:
        advice = "run a doublet finder (Scrublet, scDblFinder) for each lane, and drop what it flags"
        yield Finding("warning", "doublets", f"about {100 * share:.0f} % of cells look like two cells at once", advice)
    else:
        yield Finding("ok", "doublets", f"about {100 * share:.0f} % of cells look like two cells at once")
