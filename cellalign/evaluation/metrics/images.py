"""What an image shows: how wide its strokes are, and whether a classifier of real images reads what it is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cellalign.evaluation.metrics.metric import DOWN, NEITHER, UP, Metric, metric

FINE = 4  # points in a pixel, along each side, at which an edge is looked for
FOLDS = 5
PENALTY = 5.0  # of the support vector machine


@metric(
    "stroke_width",
    "Mean width of the strokes in pixels: four times the mean distance of ink to paper.",
    better=NEITHER,
    null="is that of `no change`",
)
def stroke_width(images: np.ndarray, level: float) -> float:
    """Mean of `stroke_widths`; NaN where no image has ink."""
    widths = stroke_widths(images, level)
    return float(np.nanmean(widths)) if np.isfinite(widths).any() else float("nan")


WIDTH_ERROR = Metric(
    "width_error",
    "How far the mean stroke width is from that of real images under the condition, as a part of it.",
    DOWN,
    "that of `no change`: of the images before",
)
READ = Metric(
    "read",
    "Share of images that a classifier (support vector machine) trained on other real images under the condition reads "
    "as what they are.",
    UP,
    "the share of the largest label, where an image shows nothing of it",
)
READ_RATIO = Metric(
    "read_of_real",
    "That share over the one of real images under the condition, which it was not trained on.",
    UP,
    "as for read, over its share of real images",
)
METRICS = (stroke_width, WIDTH_ERROR, READ, READ_RATIO)


def stroke_widths(images: np.ndarray, level: float) -> np.ndarray:
    """Width of the strokes of every image, in pixels.

    Within a straight stroke of width w the distance to its edge is spread evenly from 0 to w / 2: w is four times its
    mean. Edges are where brightness, interpolated between pixels, crosses `level`.

    Parameters
    ----------
    images : array [n, H, W]
        Brightness; ink is bright.
    level : float
        Brightness from which it is ink.

    Returns
    -------
    float64 array [n]
        NaN where there is no ink.
    """
    from scipy import ndimage

    found = np.full(len(images), np.nan)
    for i, image in enumerate(images):
        fine = ndimage.zoom(image, FINE, order=1, grid_mode=True, mode="nearest")
        ink = np.pad(fine > level, 1)
        if ink.any():
            # from the centre of a point to that of the first one of paper: half a point beyond the edge
            found[i] = 4 * (ndimage.distance_transform_edt(ink)[ink].mean() - 0.5) / FINE
    return found


def brightness(x: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Images [n, H, W] of pixels [n, H W C], channels averaged."""
    return x.reshape(len(x), *shape).mean(3)


def reads(
    real: np.ndarray,
    labels: np.ndarray,
    originals: np.ndarray,
    others: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Whether a classifier trained on real images, but of this one's original, reads each image right.

    Parameters
    ----------
    real : array [n, G]
    labels, originals : arrays [n]
        What the images show, and which images are of one original: these are in one fold.
    others : mapping of str to (array [m, G], labels [m], originals [m])
        Further images that are read, by the classifiers whose folds their originals are in.

    Returns
    -------
    dict of bool arrays
        "real" [n], and each of the others [m]. Empty with one label.
    """
    from sklearn.svm import SVC

    if len(np.unique(labels)) < 2:
        return {}
    names = np.unique(np.concatenate([originals, *(own for _, _, own in others.values())]))
    fold_of = np.random.default_rng(seed).permutation(len(names)) % FOLDS
    asked = {"real": (real, labels, originals), **others}
    folds = {name: fold_of[np.searchsorted(names, own)] for name, (_, _, own) in asked.items()}
    right = {name: np.zeros(len(x), dtype=bool) for name, (x, _, _) in asked.items()}
    for fold in range(FOLDS):
        trained = folds["real"] != fold
        if len(np.unique(labels[trained])) < 2:
            continue
        classifier = SVC(C=PENALTY).fit(real[trained], labels[trained])
        for name, (x, own, _) in asked.items():
            rows = np.flatnonzero(folds[name] == fold)
            if len(rows):
                right[name][rows] = classifier.predict(x[rows]) == own[rows]
    return right
