"""The colours that all pictures share."""

from __future__ import annotations

# Okabe and Ito's palette, told apart by colour-blind readers
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D31", "#F0E442", "#555555", "#000000")
HUES = PALETTE[:-2]  # without grey and black, whose shades are alike, and like that of no value
PALEST = 0.4  # share of its own colour that is left of the lightest shade; the rest is white


def colours(n: int) -> list[str]:
    """A colour for each of n categories, as #rrggbb: no two alike, those beyond the palette in lighter shades of it."""
    more = max(0, n - len(PALETTE))
    rounds = -(-more // len(HUES))
    shades = [
        _lighter(HUES[i % len(HUES)], 1 - (1 - PALEST) * (1 + i // len(HUES)) / max(2, rounds)) for i in range(more)
    ]
    return [*PALETTE[: max(1, n)], *shades]


def _lighter(colour: str, share: float) -> str:
    """A colour mixed with white, of which a share is its own."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 - share * (255 - part)):02x}" for part in parts)
