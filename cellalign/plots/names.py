"""Places for the names of points, so that they can be read: beside each other and beside the points."""

from __future__ import annotations

import numpy as np

# what a place costs beside its distance from the point, in heights of a name
ON_A_NAME, ACROSS_A_NAME, ON_A_NAMED_POINT, ACROSS_A_LINE, ON_A_POINT = 50.0, 15.0, 8.0, 4.0, 0.3
MARGIN = 0.3  # around named points, in heights of a name
TRIED = 800  # places for each name, those nearest to its point
STEPS = np.linspace(0.1, 0.95, 6)  # where a line is looked at, along it
PASSES = 3  # in the later ones a name makes room for those that chose after it


def place(points: np.ndarray, sizes: np.ndarray, frame: np.ndarray, taken: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Where the names of points go: each in turn where it covers and crosses least, near its point if it can.

    Parameters
    ----------
    points : array [k, 2]
        What is named, in the order in which names choose.
    sizes : array [k, 2]
        Width and height of each name.
    frame : array [2, 2]
        Lower left and upper right corner that names stay within.
    taken : array [t, 4]
        Boxes (left, bottom, right, top) where other text is.
    crowd : array [m, 2]
        Points that had better not be covered.

    Returns
    -------
    array [k, 2]
        Centres of the names.
    """
    choices = [_choices(point, size, frame, points, crowd) for point, size in zip(points, sizes, strict=True)]
    low = np.full((len(points), 2), np.nan)  # a name without a place: no comparison with NaN is true
    end = low.copy()  # of the lines from points to their names
    for _ in range(PASSES):
        for i, (lows, cost) in enumerate(choices):
            low[i] = end[i] = np.nan
            box_low = np.concatenate([taken[:, :2], low])
            box_high = np.concatenate([taken[:, 2:], low + sizes])
            highs = lows + sizes[i]
            ends = np.clip(points[i], lows, highs)
            covered = ((lows[:, None] < box_high) & (highs[:, None] > box_low)).all(-1).sum(1)
            struck = sum(_inside(points[i] + t * (ends - points[i]), box_low, box_high).any(0) for t in STEPS)
            crossed = _crossed(points[i], ends, points, end)
            best = np.argmin(cost + ON_A_NAME * covered + ACROSS_A_NAME / len(STEPS) * struck + ACROSS_A_LINE * crossed)
            low[i], end[i] = lows[best], ends[best]
    return low + sizes / 2


def _choices(
    point: np.ndarray, size: np.ndarray, frame: np.ndarray, points: np.ndarray, crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lower left corners [c, 2] that a name may have, and what each costs [c] before other names are placed."""
    height = size[1]
    last = np.maximum(frame[1] - size, frame[0])  # a name longer than the frame starts at its edge
    x, y = (np.arange(frame[0, k], last[k] + 1e-9, height / 2) for k in (0, 1))
    lows = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    distance = np.linalg.norm(np.clip(point, lows, lows + size) - point, axis=1) / height
    tried = np.argsort(distance, kind="stable")[:TRIED]
    lows, cost = lows[tried], distance[tried]
    margin = MARGIN * height
    cost += ON_A_POINT * _inside(crowd, lows, lows + size).sum(1)
    cost += ON_A_NAMED_POINT * _inside(points, lows - margin, lows + size + margin).sum(1)
    return lows, cost


def _inside(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Whether each of b boxes holds each of m points [m, 2]: bool [b, m]."""
    x, y = points.T
    left, bottom, right, top = low[:, :1], low[:, 1:], high[:, :1], high[:, 1:]
    return (x >= left) & (x <= right) & (y >= bottom) & (y <= top)


def _crossed(start: np.ndarray, ends: np.ndarray, from_: np.ndarray, to: np.ndarray) -> np.ndarray:
    """How many of the lines from `from_` to `to` [t, 2] each line from `start` to `ends` [c, 2] crosses."""

    def side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        u, v = b - a, c - a
        return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]

    end = ends[:, None]
    apart = side(start, end, from_) * side(start, end, to) < 0
    return (apart & (side(from_, to, start) * side(from_, to, end) < 0)).sum(1)
