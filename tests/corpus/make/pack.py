"""Packs every file and folder of a folder into a .zip of its own: python pack.py FOLDER ../files.

A small HDF5 file is mostly empty space. The same content gives the same bytes.
"""

import sys
import zipfile
from pathlib import Path


def pack(made: Path, into: Path) -> None:
    inside = sorted(path for path in made.rglob("*") if path.is_file()) if made.is_dir() else [made]
    with zipfile.ZipFile(into / f"{made.name}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for path in inside:
            entry = zipfile.ZipInfo(path.relative_to(made.parent).as_posix())
            file.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, 9)


if __name__ == "__main__":
    for made in sorted(Path(sys.argv[1]).iterdir()):
        pack(made, Path(sys.argv[2]))
