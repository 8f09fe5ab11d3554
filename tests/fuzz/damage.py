"""Ways to damage an .h5ad file after it was written: elements gone, of another kind, cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hypothesis import strategies as st


def _elements(handle: h5py.File) -> list[str]:
    found: list[str] = []
    handle.visit(found.append)
    return sorted(found)


def _gone(draw: Any, handle: h5py.File) -> None:
    del handle[draw(st.sampled_from(_elements(handle)), label="gone")]


def _attribute(draw: Any, handle: h5py.File) -> None:
    element = handle[draw(st.sampled_from(["/", *_elements(handle)]), label="of")]
    if len(element.attrs):
        name = draw(st.sampled_from(sorted(element.attrs)), label="attribute")
        value = draw(st.sampled_from([None, "nonsense", 5, "csc_matrix", "dataframe", b"bytes"]), label="value")
        del element.attrs[name]
        if value is not None:
            element.attrs[name] = value


def _other_kind(draw: Any, handle: h5py.File) -> None:
    name = draw(st.sampled_from(_elements(handle)), label="replaced")
    attributes = dict(handle[name].attrs)
    del handle[name]
    value = draw(st.sampled_from([5, "text", [1.0, 2.0], [], "group", [[1, 2], [3, 4]]]), label="by")
    element = handle.create_group(name) if value == "group" else handle.create_dataset(name, data=value)
    element.attrs.update({key: value for key, value in attributes.items() if isinstance(value, str | bytes)})


def _numbers(draw: Any, handle: h5py.File) -> None:
    """Values of an array set to ones that do not fit: codes, indices, pointers beyond the end."""
    arrays = [n for n in _elements(handle) if isinstance(handle[n], h5py.Dataset) and handle[n].dtype.kind in "iuf"]
    arrays = [n for n in arrays if handle[n].size and handle[n].ndim]
    if arrays:
        place = handle[draw(st.sampled_from(arrays), label="array")]
        values = place[()]
        values.flat[draw(st.integers(0, values.size - 1))] = draw(st.sampled_from([-1, 127, 5]), label="number")
        place[...] = values


HURTS = {"gone": _gone, "attribute": _attribute, "other kind": _other_kind, "numbers": _numbers}


def damage(draw: Any, path: Path) -> None:
    """Damage a file in one way."""
    how = draw(st.sampled_from([*HURTS, "cut", "bytes"]), label="damage")
    if how in HURTS:
        with h5py.File(path, "r+") as handle:
            HURTS[how](draw, handle)
        return
    whole = bytearray(path.read_bytes())
    share = draw(st.floats(0, 0.99), label="share")
    if how == "cut":
        whole = whole[: int(share * len(whole))]
    else:
        start = int(share * len(whole))
        junk = np.random.default_rng(start).integers(0, 256, min(16, len(whole) - start), dtype="uint8")
        whole[start : start + len(junk)] = junk.tobytes()
    path.write_bytes(whole)
