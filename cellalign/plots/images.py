"""Pictures of images: before, predicted and real, a row each (after figure 3 of the trVAE paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from cellalign.evaluation.table import Pictures

SIDE, LEFT, TITLE = 0.42, 1.35, 0.3  # inches: of an image, of the names of rows, of a title
LARGEST = 30  # labels that are drawn


def draw(pictures: Sequence[Pictures]) -> Figure:
    """A block per label, held-out ones first: images before, as predicted, and real ones under the condition.

    Parameters
    ----------
    pictures : sequence of Pictures
        As `evaluate` returns them; at least one.
    """
    shown = sorted(pictures, key=lambda own: not own.held_out)[:LARGEST]
    blocks = {}
    several = len({own.to for own in pictures}) > 1
    for own in shown:
        title = (f"{own.to}, " if several else "") + own.group + (" (held out)" if own.held_out else "")
        names = {own.origin: own.origin, "predicted": f"{own.to}, predicted", own.to: f"{own.to}, real"}
        blocks[title] = {names[kind]: own.images[kind] for kind in (own.origin, "predicted", own.to)}
    return rows(blocks)


def rows(blocks: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Blocks of rows of images, by title and by the row's name; ink is black.

    Parameters
    ----------
    blocks : mapping of str to mapping of str to array [n, H, W]
    """
    all_rows = [images for block in blocks.values() for images in block.values()]
    n = max(len(images) for images in all_rows)
    height, width = all_rows[0].shape[1:]
    side = (SIDE * width / max(height, width), SIDE * height / max(height, width))
    size = (LEFT + n * side[0] + 0.1, sum(TITLE + len(block) * side[1] for block in blocks.values()) + 0.1)
    figure = Figure(figsize=size, dpi=min(150.0, 20_000 / max(size)))
    top = max(float(images.max(initial=0)) for images in all_rows if len(images)) or 1.0
    y = size[1]
    for title, block in blocks.items():
        y -= TITLE
        text = {"fontsize": 9, "va": "bottom", "parse_math": False}
        figure.text(0.05 / size[0], (y + 0.04) / size[1], title, fontweight="bold", **text)  # type: ignore[arg-type]
        for name, images in block.items():
            y -= side[1]
            axes = figure.add_axes((LEFT / size[0], y / size[1], len(images) * side[0] / size[0], side[1] / size[1]))
            strip = np.concatenate(list(images), axis=1) if len(images) else np.zeros((height, width))
            axes.imshow(strip, cmap="gray_r", vmin=0, vmax=top, aspect="auto", interpolation="nearest")
            axes.set_axis_off()
            at = ((LEFT - 0.08) / size[0], (y + side[1] / 2) / size[1])
            figure.text(*at, name, ha="right", va="center", fontsize=8, parse_math=False)
    return figure
