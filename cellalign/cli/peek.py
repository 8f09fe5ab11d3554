"""What completion offers of an input: columns of obs and their values, layers, a model's conditions.

A file is opened once and no library is imported that takes time: of an h5ad by h5py, of zarr its JSON and one chunk, of
a table its first lines, of a model its YAML. Whatever is damaged, far away or of another kind gives nothing.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

ROWS = 20_000  # of a column without categories, or of a table, that are looked at
VALUES = 1000  # different ones that are offered at most


def columns(path: str) -> list[str]:
    """Columns of obs, or of a table of cell metadata."""
    return _trying(lambda: _columns(Path(path)))


def values(path: str, column: str) -> list[str]:
    """Values of a column of obs."""
    return _trying(lambda: list(dict.fromkeys(map(str, _values(Path(path), column))))[:VALUES])


def layers(path: str) -> list[str]:
    """Matrices of a file: X and layers."""
    return _trying(lambda: _layers(Path(path)))


def is_of_several(path: str) -> bool:
    """Whether a file holds several modalities, each with columns of its own."""

    def look() -> list[bool]:
        if Path(path).is_dir():
            return [(Path(path) / name).is_dir() for name in ("mod", "tables")]
        import h5py

        with h5py.File(path) as file:
            return ["mod" in file]

    return any(_trying(look))


def model(directory: str) -> dict[str, Any]:
    """What model.yaml holds; nothing where there is none."""
    found = _trying(lambda: [_yaml(Path(directory) / "model.yaml")])
    return found[0] if found else {}


def _trying(look: Any) -> list[Any]:
    try:
        return look()
    except Exception:  # whatever is wrong with a file is told when it is used
        return []


def _yaml(path: Path) -> dict[str, Any]:
    import yaml

    loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded if isinstance(loaded, dict) else {}


def _columns(path: Path) -> list[str]:
    if path.is_dir():
        return [str(name) for name in _attributes(path / "obs").get("column-order", [])]
    if _is_table(path):
        return _rows(path)[0][1:]
    import h5py

    with h5py.File(path) as file:
        if "column-order" in file["obs"].attrs:
            return [_text(name) for name in file["obs"].attrs["column-order"]]
        return [name for name in file["obs"] if name not in ("_index", "__categories")]


def _values(path: Path, column: str) -> Iterable[Any]:
    if path.is_dir():
        stored = path / "obs" / column
        inner = stored / "categories"
        return _chunk(inner if inner.is_dir() else stored)
    if _is_table(path):
        header, *rows = _rows(path)
        at = header.index(column)
        return [row[at] for row in rows if len(row) > at]
    import h5py

    with h5py.File(path) as file:
        obs = file["obs"]
        if isinstance(obs[column], h5py.Group):
            return [_text(value) for value in obs[column]["categories"][:]]
        if "__categories" in obs and column in obs["__categories"]:
            return [_text(value) for value in obs["__categories"][column][:]]
        read = obs[column][:ROWS]
        return [_text(value) for value in read] if read.dtype.kind in "OSUb" or read.dtype.kind in "iu" else []


def _layers(path: Path) -> list[str]:
    if path.is_dir():
        there = path / "layers"
        found = sorted(inner.name for inner in there.iterdir() if inner.is_dir()) if there.is_dir() else []
        return ["X", *found]
    import h5py

    with h5py.File(path) as file:
        return ["X", *file.get("layers", {})]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _is_table(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith((".csv", ".tsv", ".txt"))


def _rows(path: Path) -> list[list[str]]:
    """The first rows of a table."""
    import gzip

    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="", encoding="utf-8-sig") as file:
        lines = list(islice(file, ROWS))
    return list(csv.reader(lines, delimiter="\t" if lines[0].count("\t") > lines[0].count(",") else ","))


def _attributes(folder: Path) -> dict[str, Any]:
    """Attributes of a zarr group, of format 2 or 3."""
    if (folder / ".zattrs").is_file():
        return json.loads((folder / ".zattrs").read_text())
    return json.loads((folder / "zarr.json").read_text()).get("attributes", {})


def _chunk(folder: Path) -> Sequence[Any]:
    """The first chunk of a one-dimensional zarr array of text, whole numbers or truth values."""
    import numcodecs
    import numpy as np
    from numcodecs.vlen import VLenUTF8

    if (folder / ".zarray").is_file():
        told = json.loads((folder / ".zarray").read_text())
        data = (folder / "0").read_bytes()
        codecs = [told["compressor"]] if told.get("compressor") else []
        text = any(each["id"] == "vlen-utf8" for each in told.get("filters") or ())
        kind = told["dtype"]
    else:
        told = json.loads((folder / "zarr.json").read_text())
        data = (folder / "c" / "0").read_bytes()
        names = [each["name"] for each in told["codecs"]]
        if "sharding_indexed" in names:
            import zarr

            stored: Any = zarr.open_array(str(folder), mode="r")
            return list(stored[:ROWS])
        codecs = [{"id": name} for name in reversed(names) if name in ("zstd", "blosc", "gzip")]
        text, kind = "vlen-utf8" in names, told["data_type"]
    for codec in codecs:
        data = numcodecs.get_codec(codec).decode(data)
    if text:
        return list(VLenUTF8().decode(data))
    plain = isinstance(kind, str) and np.dtype(kind).kind in "iub"
    return np.frombuffer(data, dtype=kind)[: min(told["shape"][0], ROWS)].tolist() if plain else []
