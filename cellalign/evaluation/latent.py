"""Panels on an embedding: how well conditions mix and cell types stay."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cellalign.data.checks import numbers
from cellalign.evaluation.inputs import Inputs, NotApplicable
from cellalign.evaluation.table import MEAN, Row
from cellalign.metrics import mixing as mix
from cellalign.metrics import probe as probing


def mixing(inputs: Inputs) -> Iterator[Row]:
    """kBET and local silhouette over all cells and within each cell type."""
    z = inputs.latents()
    names = inputs.categories()
    if len(np.unique(names)) < 2:
        raise NotApplicable("the cells are of one condition only")
    if len(z) < 3:
        raise NotApplicable("fewer than 3 cells")
    codes = np.unique(names, return_inverse=True)[1]
    near = mix.neighbours(z, inputs.k)
    s = mix.local_silhouette(near, codes)
    yield Row("mixing", "all", "all", "kBET", mix.kbet(near, codes, inputs.alpha), len(z))
    yield Row("mixing", "all", "all", "s", float(s.mean()), len(z))
    for value in np.unique(names):
        yield Row(
            "mixing",
            "all",
            f"{inputs.condition}={value}",
            "s",
            float(s[names == value].mean()),
            int((names == value).sum()),
        )
    if inputs.label is None:
        inputs.notes.append("m-kBET and m-s need --label")
        return
    scores, skipped = mix.by_label(
        z, codes, inputs.labels(), k=inputs.k, alpha=inputs.alpha, min_cells=inputs.min_cells
    )
    for name, (kbet, silhouette, n) in scores.items():
        yield Row("mixing", "all", name, "kBET", kbet, n)
        yield Row("mixing", "all", name, "s", silhouette, n)
    if scores:
        n = sum(score[2] for score in scores.values())
        yield Row("mixing", "all", "mean within cell types", "kBET", float(np.mean([v[0] for v in scores.values()])), n)
        yield Row("mixing", "all", "mean within cell types", "s", float(np.mean([v[1] for v in scores.values()])), n)
    if skipped:
        named = ", ".join(f"{name} ({n})" for name, n in skipped.items())
        least = 4 * inputs.k if inputs.min_cells is None else inputs.min_cells
        inputs.notes.append(f"m-kBET and m-s skip cell types under {least} cells or of one condition: {named}")


def probe(inputs: Inputs) -> Iterator[Row]:
    """How well the condition (should be the floor) and the label (should be high) follow from the latents."""
    z = inputs.latents()
    if inputs.condition is None and inputs.label is None:
        raise NotApplicable("it needs --condition or --label")
    for key in (inputs.condition, inputs.label):
        if key is None:
            continue
        if inputs.continuous and key == inputs.condition:
            scores = probing.regressions(z, numbers(inputs.adata.obs, key), inputs.seed)
        else:
            scores = probing.probes(z, inputs.column(key), inputs.seed)
        for metric, value in scores.items():
            yield Row("probe", key, "all", metric, value, len(z))


def transfer(inputs: Inputs) -> Iterator[Row]:
    """Cell-type accuracy of a classifier trained under one condition and tested under another."""
    z, label, names = inputs.latents(), inputs.labels(), inputs.categories()
    scores = probing.transfer(z, names, label, inputs.seed)
    if not scores:
        raise NotApplicable("no two conditions share two cell types")
    for pair, value in scores.items():
        yield Row("transfer", "all", pair, "accuracy", value, int((names == pair.split(" -> ")[1]).sum()))
    yield Row("transfer", "all", MEAN, "accuracy", float(np.mean(list(scores.values()))), len(z))
