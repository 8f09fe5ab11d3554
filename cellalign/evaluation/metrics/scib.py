"""Integration scored as Luecken et al. (2022, scIB) do, by the scib-metrics package.

What is called, with which neighbours, and how scores are averaged is what `scib_metrics.benchmark.Benchmarker` of
scib-metrics 0.5.10 does, so that numbers compare with those published, but for neighbours, which of up to 50,000 cells
are the exact ones; its silhouette of batches is BRAS (Rautenstrauch and Ohler 2025), no longer the classic one. The
package runs on JAX, which compiles in every process: nothing of it is imported before it is needed.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from cellalign.errors import InputError, UsageError
from cellalign.evaluation.metrics import mixing
from cellalign.evaluation.metrics.metric import UP, Metric, Null, by_name
from cellalign.threads import workers

BIO_METRICS = (
    Metric(
        "isolated labels",
        "Mean silhouette, scaled to 0 to 1, of the labels that are found in the fewest batches.",
        UP,
        "about 0.5 where labels are independent of the embedding",
        0.5,
    ),
    Metric(
        "KMeans NMI",
        "Normalised mutual information of the labels and as many k-means clusters.",
        UP,
        "a little above 0, the more so the more labels and the fewer cells",
        0,
    ),
    Metric(
        "KMeans ARI",
        "Adjusted Rand index of the labels and as many k-means clusters.",
        UP,
        "0 where labels are independent of the embedding",
        0,
    ),
    Metric(
        "silhouette label",
        "Mean silhouette of the labels, scaled to 0 to 1.",
        UP,
        "about 0.5 where labels are independent of the embedding",
        0.5,
    ),
    Metric(
        "cLISI",
        "Scaled so that 1 is one label, and 0 all labels evenly, in effect among a cell's neighbours.",
        UP,
        "about 0 where labels are equally frequent and independent of the embedding, above it where they are not",
    ),
)
BATCH_METRICS = (
    Metric(
        "BRAS",
        "Batch-removal adapted silhouette: how well each label's cells of one batch lie among those of the others.",
        UP,
        "near 1 where batches are independent of the embedding: mixing is what would be there without batch effect",
    ),
    Metric(
        "iLISI",
        "Scaled so that 1 is all batches evenly, and 0 one batch, in effect among a cell's neighbours.",
        UP,
        "that of batches permuted over all cells: near 1 where they are equally large, below it where sizes differ",
    ),
    Metric(
        "kBET",
        "Acceptance rate, scib-metrics' convention (panel mixing has the rejection rate): share of cells, mean over "
        "labels, whose neighbours' batches pass for a random draw.",
        UP,
        "that of batches permuted within each label, near 0.95 or above",
    ),
    Metric(
        "graph connectivity",
        "Share of a label's cells in the largest connected part of its neighbour graph, mean over labels.",
        UP,
        "no constant: lower where labels are independent of the embedding, the rarer the label the more so",
    ),
    Metric(
        "PCR comparison",
        "Share of the batches' part of the variance that integration removed.",
        UP,
        "0 where nothing was removed, as for unintegrated components",
        0,
    ),
)
AGGREGATES = (
    Metric(
        "bio conservation",
        "Mean of the scores of labels: isolated labels, KMeans NMI and ARI, silhouette label, cLISI.",
        UP,
        "the mean of theirs; read it beside unintegrated PCA",
    ),
    Metric(
        "batch correction",
        "Mean of the scores of batches: BRAS, iLISI, kBET, graph connectivity, PCR comparison.",
        UP,
        "the mean of theirs; read it beside unintegrated PCA",
    ),
    Metric(
        "total",
        "0.4 batch correction + 0.6 bio conservation (Luecken et al. 2022).",
        UP,
        "the mean of theirs; read it beside unintegrated PCA",
    ),
)
METRICS = (*BIO_METRICS, *BATCH_METRICS, *AGGREGATES)
BIO, BATCH = tuple(by_name(BIO_METRICS)), tuple(by_name(BATCH_METRICS))
SHARES = {"bio conservation": 0.6, "batch correction": 0.4}  # of the total
GROUPS = {"bio conservation": BIO, "batch correction": BATCH, "aggregate": (*SHARES, "total")}
NEIGHBOURS = 90  # of LISI
EXACT_UP_TO = 50_000  # cells; above, an exact search takes longer than compiling another and searching with it
KBET_NEIGHBOURS, GRAPH_NEIGHBOURS = 50, 15
PERMUTATIONS = 5  # of batches: LISI of many cells takes a second


def scib_scores(
    z: np.ndarray,
    batch: np.ndarray,
    label: np.ndarray,
    *,
    neighbours: int = NEIGHBOURS,
    seed: int = 0,
    pca: np.ndarray | None = None,
) -> dict[str, float]:
    """scIB's scores of one embedding (Luecken et al. 2022, figure 3 and Methods), by scib-metrics.

    Parameters
    ----------
    z : array [n, p]
        The embedding.
    batch, label : arrays [n]
        Of any type; compared as strings.
    neighbours : int
        Of LISI, the cell itself among them; kBET takes at most 50 and the graph at most 15 of them. Other values
        than 90 do not compare with published scores.
    seed : int
        Of the neighbour search.
    pca : array [n, q], optional
        Principal components before integration; without them there is no PCR comparison.

    Returns
    -------
    dict of str to float
        `BIO`, `BATCH`, and their means "bio conservation" and "batch correction" with "total" = 0.4 batch
        correction + 0.6 bio conservation. Each is at best 1 and, but for noise, at worst 0; a score that is not
        defined is NaN, and the means leave it out.

    Raises
    ------
    InputError
        Too few cells, one batch or label only, or batch and label that cannot be told apart.
    UsageError
        scib-metrics is not installed (extra `scib`).
    """
    return scib_beside_permuted(z, batch, label, neighbours=neighbours, seed=seed, pca=pca, permutations=0)[0]


def scib_beside_permuted(
    z: np.ndarray,
    batch: np.ndarray,
    label: np.ndarray,
    *,
    neighbours: int = NEIGHBOURS,
    seed: int = 0,
    pca: np.ndarray | None = None,
    permutations: int = PERMUTATIONS,
) -> tuple[dict[str, float], dict[str, Null]]:
    """`scib_scores`, and of iLISI and kBET the value under permuted batches: over all cells, and within labels.

    Neighbours are those of the scores; the other scores of batches take too long to be computed again.
    """
    z = np.asarray(z, dtype=np.float32)
    batch, label = np.asarray(batch).astype(str), np.asarray(label).astype(str)
    reason = unfit(z, batch, label, neighbours)
    if reason is not None:
        raise InputError(f"scIB scores cannot be computed: {reason}")
    with _as_many_threads(), _quiet() as scib, exact_neighbours(scib.nearest_neighbors):
        near = scib.nearest_neighbors.pynndescent(z, n_neighbors=neighbours, random_state=seed)
        with _diffused_once(scib) as again:
            scores = _scores(scib, near, z, batch, label, pca)
            nulls = _nulls(scib, near, batch, label, seed, permutations, again)
    means = {"bio conservation": _mean(scores, BIO), "batch correction": _mean(scores, BATCH)}
    return scores | means | {"total": sum(share * means[name] for name, share in SHARES.items())}, nulls


def unfit(z: np.ndarray, batch: np.ndarray, label: np.ndarray, neighbours: int = NEIGHBOURS) -> str | None:
    """Why scores of z [n, p] have no meaning or cannot be computed, None where they can."""
    if not len(z) == len(batch) == len(label):
        return f"{len(z)} cells have {len(batch)} batches and {len(label)} labels"
    if len(z) <= neighbours:
        return f"{len(z)} cells are too few for {neighbours} neighbours"
    if not np.isfinite(z).all():
        return "the embedding holds NaN or infinite values"
    if not np.ptp(z, axis=0).any():
        return "the embedding is the same for all cells"
    for what, values in (("batch", batch), ("label", label)):
        if len(np.unique(values)) < 2:
            return f"the cells are of one {what} only"
    if not any(1 < len(np.unique(batch[label == name])) < (label == name).sum() for name in np.unique(label)):
        return "no label is found in two batches, so batches and labels cannot be told apart"
    return None


def _scores(
    scib: Any, near: Any, z: np.ndarray, batch: np.ndarray, label: np.ndarray, pca: np.ndarray | None
) -> dict[str, float]:
    """The single scores, in the order of BIO and BATCH."""
    fewer = {n: _first(near, n) for n in (KBET_NEIGHBOURS, GRAPH_NEIGHBOURS)}
    clusters = scib.nmi_ari_cluster_labels_kmeans(z, label)
    found = {
        "isolated labels": scib.isolated_labels(z, label, batch),
        "KMeans NMI": clusters["nmi"],
        "KMeans ARI": clusters["ari"],
        "silhouette label": scib.silhouette_label(z, label),
        "cLISI": scib.clisi_knn(near, label),
        "BRAS": scib.bras(z, label, batch),
        "iLISI": scib.ilisi_knn(near, batch),
        "kBET": scib.kbet_per_label(fewer[KBET_NEIGHBOURS], batch, label),
        "graph connectivity": scib.graph_connectivity(fewer[GRAPH_NEIGHBOURS], label),
    }
    if pca is not None:
        found["PCR comparison"] = _pcr(scib.pcr_comparison, pca, z, batch)
    return {metric: float(value) for metric, value in found.items()}


def _first(near: Any, n: int) -> Any:
    return near.subset_neighbors(min(n, near.indices.shape[1]))


def _nulls(
    scib: Any,
    near: Any,
    batch: np.ndarray,
    label: np.ndarray,
    seed: int,
    permutations: int,
    again: Callable[[], None],
) -> dict[str, Null]:
    """iLISI and kBET under permuted batches; `again` is called before kBET looks at the same graphs once more."""
    if not permutations:
        return {}
    rng, first = np.random.default_rng(seed), _first(near, KBET_NEIGHBOURS)
    found: dict[str, list[float]] = {"iLISI": [], "kBET": []}
    for _ in range(permutations):
        again()
        found["iLISI"].append(float(scib.ilisi_knn(near, rng.permutation(batch))))
        found["kBET"].append(float(scib.kbet_per_label(first, mixing.permuted(batch, label, rng), label)))
    return {name: Null.of(np.array(values)) for name, values in found.items()}


@contextmanager
def _diffused_once(scib: Any) -> Iterator[Callable[[], None]]:
    """Keep the neighbours that kBET finds within each label by diffusion, which is nearly all of its time.

    They depend on the graph and on batches' sizes alone, so that under batches permuted within labels it asks for the
    same ones in the same order; what is given says that it begins again.
    """
    module: Any = sys.modules[scib.kbet_per_label.__module__]
    diffuse: Any = getattr(module, "diffusion_nn", None)
    kept: list[Any] = []
    place = 0

    def remembered(graph: Any, **options: Any) -> Any:
        nonlocal place
        if place == len(kept):
            try:
                kept.append(diffuse(graph, **options))
            except ValueError as error:  # kBET counts such a label as rejected
                kept.append(error)
        place += 1
        if isinstance(kept[place - 1], ValueError):
            raise kept[place - 1]
        return kept[place - 1]

    def again() -> None:
        nonlocal place
        place = 0

    if diffuse is None:  # of another version of the package: computed every time
        yield again
        return
    module.diffusion_nn = remembered
    try:
        yield again
    finally:
        module.diffusion_nn = diffuse


@contextmanager
def exact_neighbours(search: Any) -> Iterator[None]:
    """Have scib-metrics find neighbours exactly where cells are few; kBET looks for its own, within each label.

    Its approximate search compiles for a minute in every process.
    """
    approximate = search.pynndescent

    def find(z: np.ndarray, n_neighbors: int, **options: Any) -> Any:
        if len(z) > EXACT_UP_TO:
            return approximate(z, n_neighbors=n_neighbors, **options)
        others = mixing.neighbours(z, n_neighbors - 1)
        itself = np.arange(len(z))[:, None]
        return search.NeighborsResults(
            indices=np.hstack([itself, others.index]),
            distances=np.hstack([np.zeros(itself.shape), others.distance]).astype(np.float32),
        )

    search.pynndescent = find
    try:
        yield
    finally:
        search.pynndescent = approximate


def _pcr(compare: Callable[..., float], pca: np.ndarray, z: np.ndarray, batch: np.ndarray) -> float:
    """The share of the batches' variance that integration removed; NaN where there was none."""
    try:
        return compare(np.asarray(pca, dtype=np.float32), z, batch, categorical=True)
    except ZeroDivisionError:
        return float("nan")


def _mean(scores: dict[str, float], metrics: tuple[str, ...]) -> float:
    """Mean of the scores that are there and defined, as scib-metrics averages."""
    values = [scores[metric] for metric in metrics if np.isfinite(scores.get(metric, np.nan))]
    return float(np.mean(values)) if values else float("nan")


@contextmanager
def _as_many_threads() -> Iterator[None]:
    """As many threads of JAX as of all else, where it is not imported yet: it reads their number at its start."""
    names = ("PJRT_NPROC", "NPROC")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: str(workers()) for name in names})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _quiet() -> Iterator[Any]:
    """The package scib_metrics, kept from speaking to the user and from changing the program's logging.

    It writes notices to standard output; its logging.info gives the root logger a handler; JAX warns where it
    finds a GPU that it cannot use.
    """
    root = logging.getLogger()
    handlers = list(root.handlers)
    root.addHandler(logging.NullHandler())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                import scib_metrics
            except ModuleNotFoundError as error:
                if error.name != "scib_metrics":
                    raise
                raise UsageError("scIB scores need scib-metrics; run: pip install 'cellalign[scib]'") from error

            jax_log, level = logging.getLogger("jax"), logging.getLogger("jax").level
            settings, verbosity = scib_metrics.settings, scib_metrics.settings.verbosity
            jax_log.setLevel(logging.ERROR)
            settings.verbosity = logging.ERROR
            try:
                yield scib_metrics
            finally:
                jax_log.setLevel(level)
                settings.verbosity = verbosity
    finally:
        root.handlers[:] = handlers
