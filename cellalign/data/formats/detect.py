"""What a file is, by its content and not by its ending."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import h5py

READ = ("h5ad", "zarr", "zarr.zip", "h5mu", "10x", "mtx", "parse", "loom", "table")
HEAD = 4096
PACKED: dict[bytes, tuple[str, Callable[[Path], IO[bytes]]]] = {
    b"\x1f\x8b": ("gzip", gzip.open),  # type: ignore[dict-item]
    b"BZh": ("bzip2", bz2.open),  # type: ignore[dict-item]
    b"\xfd7zXZ": ("xz", lzma.open),  # type: ignore[dict-item]
}
HDF5 = b"\x89HDF\r\n\x1a\n"
# what a file of another kind begins with; the kinds are described in `others`
MAGIC = {
    b"RDX": "rdata",
    b"RDA": "rdata",
    b"X\n": "rds",
    b"A\n": "rds",
    b"B\n": "rds",
    b"\x0b\x0e\x0a\x0c": "qs",
    b"\x0b\x0e\x0a\xc1": "qs",
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"FEA1": "arrow",
    b"\xd0\xcf\x11\xe0": "excel",
    b"\x93NUMPY": "numpy",
    b"SQLite format 3": "sqlite",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
    b"%PDF": "pdf",
    b"version https://git-lfs": "git-lfs",
}


def kind_of(path: Path) -> str:
    """The kind of a file or folder: one of `READ`, "hdf5" or "packed" (to be looked into), or one of `others`."""
    if path.is_dir():
        return _kind_of_folder(path)
    if path.stat().st_size == 0:
        return "empty"
    if h5py.is_hdf5(path):
        return "hdf5"
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if HDF5 in head[:520]:  # the start of one is there, and the rest is not
        return "hdf5"
    if packing_of(head) is not None:
        return _kind_of_packed(path, head)
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    return _kind_of_bytes(head, path)


def packing_of(head: bytes) -> str | None:
    """How a file is compressed, by its first bytes; None where it is not, or in a way that Python does not read."""
    return next((name for magic, (name, _) in PACKED.items() if head.startswith(magic)), None)


def opened(path: Path) -> IO[bytes]:
    """The bytes of a file, unpacked where it is compressed."""
    with open(path, "rb") as file:
        head = file.read(8)
    opener = next((opener for magic, (_, opener) in PACKED.items() if head.startswith(magic)), None)
    return open(path, "rb") if opener is None else opener(path)


def _kind_of_packed(path: Path, head: bytes) -> str:
    try:
        with opened(path) as file:
            inner = file.read(HEAD)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        return "damaged archive"
    if inner.startswith(HDF5) or HDF5 in inner[:520]:
        return "packed"
    if not inner:
        return "empty"
    return _kind_of_bytes(inner, path)


def _kind_of_bytes(head: bytes, path: Path) -> str:
    found = next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), None)
    if found is not None:
        return found
    if head[257:262] == b"ustar" or (path.suffix == ".tar" and tarfile.is_tarfile(path)):
        return "tar"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    if head.startswith(b"%%MatrixMarket"):
        return "mtx"
    return _kind_of_text(head)


def _kind_of_text(head: bytes) -> str:
    """A table, where it is text at all."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if b"\0" in head:
        return "unknown"
    text = head.decode("utf-8", "replace").lstrip("\ufeff \r\n\t").lower()
    if text.startswith(("<!doctype", "<html", "<?xml", "<head")):
        return "web page"
    if text.startswith(("{", "[")):
        return "json"
    control = sum(byte < 9 or 13 < byte < 32 for byte in head)
    return "unknown" if control > len(head) / 100 else "table"


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return "damaged archive"
    if any(name in (".zgroup", "zarr.json", ".zattrs") for name in names):
        return "zarr.zip"
    if any(name.startswith("xl/") for name in names) or "content.xml" in names:
        return "excel"
    return "numpy" if names and all(name.endswith(".npy") for name in names) else "zip"


def _kind_of_folder(path: Path) -> str:
    names = {entry.name for entry in path.iterdir()}
    if names & {".zgroup", "zarr.json", ".zattrs", ".zmetadata"}:
        return "zarr"
    if "model.yaml" in names:
        return "model"
    if {"all_genes.csv", "cell_metadata.csv"} <= names:
        return "parse"
    if any(name.endswith(("matrix.mtx", "matrix.mtx.gz")) for name in names):
        return "mtx"
    if any(name.startswith("__tiledb") or name == "__group" for name in names):
        return "tiledb"
    if names & {"filtered_feature_bc_matrix", "filtered_feature_bc_matrix.h5", "raw_feature_bc_matrix.h5"}:
        return "10x run"
    return "folder"


def kind_of_hdf5(handle: h5py.File) -> str:
    """What an HDF5 file holds."""
    root = handle.attrs.get("encoding-type", "")
    root = root.decode() if isinstance(root, bytes) else str(root)
    if root == "MuData" or ("mod" in handle and "obs" not in handle.get("mod", ())):
        return "h5mu"
    if "obs" in handle and "var" in handle:
        return "h5ad"
    if any("barcodes" in group and "indptr" in group for group in _groups(handle)):
        return "10x"
    if "matrix" in handle and "row_attrs" in handle and "col_attrs" in handle:
        return "loom"
    if "assays" in handle and ("cell.names" in handle or "meta.data" in handle):
        return "h5seurat"
    if "barcode_idx" in handle and "umi" in handle:
        return "molecule_info"
    if any("pandas_type" in group.attrs for group in _groups(handle)):
        return "hdfstore"
    return "other hdf5"


def _groups(handle: h5py.File) -> list[Any]:
    return [inner for inner in handle.values() if isinstance(inner, h5py.Group)]
