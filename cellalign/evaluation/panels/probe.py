"""Panel probe: what can be read from the latents, which should be nothing of the condition and all of the label."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from cellalign.data.columns import numbers
from cellalign.errors import InputError, ModelError, option
from cellalign.evaluation.inputs import Inputs, NotApplicable
from cellalign.evaluation.metrics import probe as probing
from cellalign.evaluation.metrics.metric import by_name
from cellalign.evaluation.panel import Panel
from cellalign.evaluation.table import Row
from cellalign.records import Provenance, find_obsm_key


@dataclass(frozen=True)
class Probe(Panel):
    """How well the condition (should be the floor) and the label (should be high) follow from the latents."""

    name = "probe"
    summary = "Whether classifiers read the condition (they should not) and the label (they should) from the latents."
    metrics = probing.METRICS
    order = 30

    def run(self, inputs: Inputs) -> Iterator[Row]:
        """One row per probe of the condition, and per probe of the label; NotApplicable where there is neither.

        With a model whose posterior has a spread the same of its draws, or where these are scored of its means: what
        is promised of draws may not hold of means.
        """
        inputs.latents()
        if inputs.condition is None and inputs.label is None:
            raise NotApplicable(f"it needs {option('condition')} or {option('label')}")
        yield from self._scores(inputs, "all")
        for kind, z in other_latents(inputs).items():
            yield from self._scores(replace(inputs, embeddings={kind: z}), kind)

    def _scores(self, inputs: Inputs, group: str) -> Iterator[Row]:
        """The probes of one embedding."""
        if inputs.condition is not None:
            has = inputs.known(inputs.condition)
            z, n = has.latents(), has.adata.n_obs
            if inputs.continuous:
                declared = by_name(probing.OF_NUMBER)
                scores = probing.regressions(z, numbers(has.adata.obs, inputs.condition), inputs.seed)
            else:
                declared = by_name(probing.OF_CONDITION)
                scores = probing.probes(z, has.column(inputs.condition), inputs.seed)
                n = _told_apart(has, inputs.condition)
            for name, value in scores.items():
                yield self.row(inputs.condition, group, declared[name], value, n)
        if inputs.label is not None:
            declared = by_name(probing.OF_LABEL)
            has = inputs.known(inputs.label)
            z, n = has.latents(), _told_apart(has, inputs.label)
            for name, value in probing.probes(z, has.column(inputs.label), inputs.seed).items():
                yield self.row(inputs.label, group, declared[name], value, n)


def _told_apart(inputs: Inputs, key: str) -> int:
    """How many cells the probes of a column are of; those of values too rare for it are noted, once."""
    counts = np.unique(inputs.column(key), return_counts=True)[1]
    few = counts[counts < probing.FOLDS]
    note = f"probe leaves out {few.sum()} cells of {len(few)} values of {key!r} with fewer than {probing.FOLDS} cells"
    if len(few) and note not in inputs.notes:
        inputs.notes.append(note)
    return int(counts.sum() - few.sum())


def other_latents(inputs: Inputs) -> dict[str, np.ndarray]:
    """Of the embedding of a model that is given: "draws" [n, p] beside means, "means" beside draws; else nothing."""
    ((key, scored),) = inputs.embeddings.items()
    model, record = inputs.model, Provenance.of(inputs.adata.uns).embedding.get(key)
    if model is None or key not in (model.embedding_key, model.draw_key):
        return {}
    there = find_obsm_key(key, inputs.adata.obsm)
    of_file = there is not None and np.array_equal(np.asarray(inputs.adata.obsm[there], dtype=scored.dtype), scored)
    if of_file and model.made(record) is False:
        return {}
    drawn = key == model.draw_key
    try:
        z = model.embed(inputs.adata, draw=not drawn, seed=inputs.seed, device=inputs.device)
    except ModelError:
        return {}  # its embedding is exact: there are no draws
    except InputError as reason:
        inputs.notes.append(f"probe has no {'means' if drawn else 'draws'}: {reason}")
        return {}
    return {"means" if drawn else "draws": z}
