"""Commands whose compiled functions were damaged on the disk end as ever, and mend them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

DAMAGE = {
    "empty": lambda content, _: b"",
    "cut": lambda content, where: content[: where.randrange(len(content))],
    "a zeroed page": lambda content, where: _zeroed(content, where.randrange(len(content))),
    "a flipped bit": lambda content, where: _flipped(content, where.randrange(len(content))),
}


def _zeroed(content: bytes, start: int) -> bytes:
    return content[:start] + bytes(min(4096, len(content) - start)) + content[start + 4096 :]


def _flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]


@pytest.mark.slow
def test_commands_see_any_damage_to_the_compiled_cache_through(cellalign, tmp_path, kang_raw):
    folder = tmp_path / "cache"
    run = cellalign(cwd=tmp_path, env={"NUMBA_CACHE_DIR": str(folder)})
    preprocess = ["preprocess", kang_raw, "--n-top-genes", 100, "-o", "pp.h5ad", "--force"]
    train = ["train", kang_raw, "--method", "scvi", "--batch", "stim", "--epochs", 1, "--set", "hidden=[8]", "--force"]

    def all_well() -> dict[Path, int]:
        for words in (preprocess, train):
            done = run(*words)
            assert done.returncode == 0, done.stderr
        return {path: path.stat().st_size for path in folder.rglob("*.nb[ic]")}

    kept = all_well()
    assert len(kept) > 4
    where = random.Random(0)
    for turn in range(2):
        for number, path in enumerate(sorted(kept)):
            damage = list(DAMAGE.values())[(number + turn) % len(DAMAGE)]
            path.write_bytes(damage(path.read_bytes(), where))
        assert all_well().keys() == kept.keys()
