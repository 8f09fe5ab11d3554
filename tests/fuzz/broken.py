"""Ways in which the bytes of a file go wrong: cut off, bits flipped, pages lost, doubled or in another order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Random = np.random.Generator
PAGES = (16, 512, 4096)


def _page(content: bytes, random: Random) -> tuple[int, int]:
    """Where a page of the file begins, and its size."""
    size = min(int(random.choice(PAGES)), max(1, len(content) // 2))
    return size * int(random.integers(max(1, len(content) // size))), size


def cut(content: bytes, random: Random) -> bytes:
    """An end that is missing: anywhere, at a page, near the start, within the last bytes."""
    where = [int(random.integers(len(content))), _page(content, random)[0], int(random.integers(2048))]
    where += [len(content) - int(random.integers(1, 9))]
    return content[: max(0, int(random.choice(where)))]


def flipped(content: bytes, random: Random) -> bytes:
    """Bits, one to eight, as of bad memory."""
    made = bytearray(content)
    for place in random.integers(len(made), size=int(random.choice([1, 1, 2, 8]))):
        made[place] ^= 1 << int(random.integers(8))
    return bytes(made)


def junk(content: bytes, random: Random) -> bytes:
    """A few bytes are others."""
    start = int(random.integers(len(content)))
    n = min(int(random.choice([1, 4, 16])), len(content) - start)
    return content[:start] + random.bytes(n) + content[start + n :]


def zeroed(content: bytes, random: Random) -> bytes:
    """A page of zeros, as of a file system after a crash."""
    start, size = _page(content, random)
    return content[:start] + bytes(min(size, len(content) - start)) + content[start + size :]


def doubled(content: bytes, random: Random) -> bytes:
    """A page in the place of another one."""
    (start, size), (from_, _) = _page(content, random), _page(content, random)
    return content[:start] + content[from_ : from_ + size] + content[start + size :]


def reordered(content: bytes, random: Random) -> bytes:
    """Two neighbouring pages in the other order."""
    start, size = _page(content, random)
    first, second = content[start : start + size], content[start + size : start + 2 * size]
    return content[:start] + second + first + content[start + 2 * size :]


def dropped(content: bytes, random: Random) -> bytes:
    """A page that is left out."""
    start, size = _page(content, random)
    return content[:start] + content[start + size :]


def appended(content: bytes, random: Random) -> bytes:
    """More than there was: of anything, zeros, or the file once more."""
    n = int(random.choice([1, 100, 5000]))
    return content + [random.bytes(n), bytes(n), content[:n]][int(random.integers(3))]


WAYS: dict[str, Callable[[bytes, Random], bytes]] = {
    way.__name__: way for way in (cut, flipped, junk, zeroed, doubled, reordered, dropped, appended)
}


def broken(content: bytes, random: Random) -> tuple[str, bytes]:
    """The content damaged in a drawn way, and that way's name; it is never as it was."""
    while True:
        way = str(random.choice(sorted(WAYS)))
        made = WAYS[way](content, random)
        if made != content:
            return way, made
