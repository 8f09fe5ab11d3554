"""Handwritten digits with normal, thin and thick strokes, like Morpho-MNIST (Castro et al. 2018), for trVAE's figure 3.

scikit-learn's 1,797 digits of 8 x 8 pixels are enlarged to 24 x 24 in an image of 32 x 32, on a grid four times as fine
where ink is what is above half. A digit's stroke width w is estimated as four times the mean distance of its ink to the
paper (in a straight stroke distances are uniform from 0 to w / 2). A thin stroke has lost a quarter of w on each side,
but keeps the middle of a stroke, so that none breaks; a thick one has gained three tenths of w on each side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from cellalign.errors import UsageError, option

SIZE, MARGIN = 32, 4  # pixels
FINE = 4  # grid points in a pixel, along each side
THIN, THICK = 0.25, 0.3  # of the stroke's width, on each side
MIDDLE, RIDGE = (
    0.1,
    0.6,
)  # what a thin stroke keeps around the middle, of its width; slope of the distance below which it is
STROKES = ("normal", "thin", "thick")
SEEN = (1, 3, 6, 7)


def digits(n_images: int = 1797, *, seen: Sequence[int] = SEEN, seed: int = 0) -> AnnData:
    """Every digit three times: with normal, thin and thick strokes.

    Parameters
    ----------
    n_images
        Digits, at most 1,797; of fewer as many of each kind, nearly, drawn at random.
    seen
        Digits whose thin and thick images are to be trained on: obs["seen"] is "yes" (`train --holdout
        seen=no,stroke=thin --holdout seen=no,stroke=thick`). The paper's text keeps 1, 3, 6 and 7; its code holds these
        out and keeps all others.
    seed

    Returns
    -------
    AnnData [3 n_images, 1024]
        X: brightness of ink from 0 to 1, float32. obs: digit, stroke (normal, thin, thick), seen, and image: the same
        name for the three images of one digit. uns["image_shape"]: 32, 32.

    Raises
    ------
    UsageError
        A number out of range.
    """
    from sklearn.datasets import load_digits

    loaded = load_digits()
    if not len(STROKES) <= n_images <= len(loaded.images):
        raise UsageError(f"{option('n_images', n_images)} is not between {len(STROKES)} and {len(loaded.images)}")
    unknown = sorted(set(seen) - set(range(10)))
    if unknown:
        raise UsageError(f"{option('seen', ','.join(map(str, seen)))} holds {unknown[0]}, which is no digit")
    rows = _rows(loaded.target, n_images, seed)
    images = np.stack([_strokes(loaded.images[row] / loaded.images.max()) for row in rows])  # [n, 3, 32, 32]
    digit = np.repeat(loaded.target[rows], len(STROKES))
    stroke = np.tile(STROKES, len(rows))
    names = np.repeat([f"digit{row:04d}" for row in rows], len(STROKES))
    obs = pd.DataFrame(
        {
            "digit": pd.Categorical(digit.astype(str)),
            "stroke": pd.Categorical(stroke, categories=list(STROKES)),
            "seen": pd.Categorical(np.where(np.isin(digit, list(seen)), "yes", "no"), categories=["no", "yes"]),
            "image": names,
        },
        index=[f"{name}-{kind}" for name, kind in zip(names, stroke, strict=True)],
    )
    pixels = [f"pixel{row:02d}_{column:02d}" for row in range(SIZE) for column in range(SIZE)]
    x = images.reshape(len(obs), -1).astype(np.float32)
    return AnnData(x, obs=obs, var=pd.DataFrame(index=pixels), uns={"image_shape": np.array([SIZE, SIZE])})


def _rows(target: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Rows of n images, of each digit nearly as many."""
    if n == len(target):
        return np.arange(n)
    order = np.random.default_rng(seed).permutation(len(target))
    # the first of every digit, then the second of every digit, ...
    place = pd.Series(target[order]).groupby(target[order]).cumcount().to_numpy()
    return np.sort(order[np.argsort(place, kind="stable")[:n]])


def _strokes(image: np.ndarray) -> np.ndarray:
    """The image [8, 8] with normal, thin and thick strokes, [3, 32, 32]."""
    from scipy import ndimage

    factor = (SIZE - 2 * MARGIN) * FINE // len(image)
    fine = ndimage.zoom(image, factor, order=3, grid_mode=True, mode="grid-constant")
    ink = ndimage.gaussian_filter(np.pad(fine, MARGIN * FINE), FINE / 2) > 0.5
    inside, outside = ndimage.distance_transform_edt(ink), ndimage.distance_transform_edt(~ink)
    width = 4 * (inside[ink].mean() - 0.5)  # a pixel's distance is to the centre of another
    slope = np.hypot(*np.gradient(ndimage.gaussian_filter(inside, 1)))
    middle = ndimage.distance_transform_edt(~((inside > 1) & (slope < RIDGE))) < MIDDLE * width
    found = np.stack([ink, (inside > THIN * width) | (middle & ink), outside < THICK * width])
    return found.reshape(len(found), SIZE, FINE, SIZE, FINE).mean((2, 4))
