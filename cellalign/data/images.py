"""Images as cells: every image is a row, its pixels are the genes, and uns["image_shape"] says how they lie.

The shape is (height, width) or (height, width, channels), and pixels are flattened in this order, as numpy does it. A
pixel is a brightness, on no scale of counts: nothing is asked of the matrix but that it is finite and not negative.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cellalign.data.matrices import check_matrix, matrix_of
from cellalign.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

KEY = "image_shape"  # of uns
Shape = tuple[int, int, int]


def image_shape(adata: AnnData, where: str = "the input") -> Shape | None:
    """Height, width and channels of the images that the cells are; None where they are none.

    Raises
    ------
    InputError
        uns["image_shape"] is no shape, or not of as many pixels as there are genes.
    """
    shape = said_shape(adata.uns, where)
    if shape is not None and int(np.prod(shape)) != adata.n_vars:
        raise InputError(
            f'{where} is of images of {said(shape)} ({int(np.prod(shape))} pixels) by uns["{KEY}"], but has '
            f"{adata.n_vars} genes; correct the one or the other, in Python"
        )
    return shape


def said_shape(uns: Mapping[str, Any], where: str = "the input") -> Shape | None:
    """What `uns` says of the shape; None where it says nothing, InputError where it is none."""
    given = uns.get(KEY)
    if given is None:
        return None
    try:
        numbers = np.asarray(given, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        numbers = np.empty(0)
    sides = [int(n) for n in numbers if np.isfinite(n) and n >= 1 and n == int(n)]
    if len(sides) != len(numbers) or len(sides) not in (2, 3):
        raise InputError(
            f'{where} has uns["{KEY}"] {str(given)[:60]!r}, which is not (height, width) or (height, width, channels) '
            "of images; correct or delete it, in Python"
        )
    return (sides[0], sides[1], sides[2] if len(sides) > 2 else 1)


def check_shape(adata: AnnData, shape: Shape | None, where: str = "the input") -> None:
    """Refuse images of another shape than a model's; cells that are said to be none are matched by name.

    Raises
    ------
    InputError
    """
    given = said_shape(adata.uns, where)
    if shape is None or given is None or given == shape:
        return
    raise InputError(
        f"{where} is of images of {said(given)}, and the model reads {said(shape)}; bring them to its shape"
    )


def pixels_of(adata: AnnData, key: str, where: str = "the input") -> Any:
    """The matrix of pixels, checked.

    Raises
    ------
    InputError
        It is not there, or holds something that is no brightness.
    """
    x = matrix_of(adata, key, where)
    unscaled = "take images from before they were standardised"
    check_matrix(x, f"{where}'s {key}", (adata.obs_names, adata.var_names), unscaled)
    return x


def said(shape: Shape) -> str:
    """A shape in words: "28 x 28", "64 x 64 x 3"."""
    return " x ".join(map(str, shape[: 2 if shape[2] == 1 else 3]))
