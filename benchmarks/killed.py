"""A training of a large file that is killed amid an epoch and gone on with: which work is lost, and the same weights.

    python benchmarks/killed.py pp.h5ad --method comp --kills 3 --folder killed

Trains once without being touched, then again: SIGKILL comes at a random moment after a checkpoint amid an epoch, and
`--resume` goes on. Rows are read from disk. Lost are the seconds between the last checkpoint and the kill.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from safetensors import safe_open


def place_of(checkpoint: Path) -> tuple[int, int]:
    """Epochs and batches of the next one that a checkpoint holds; (-1, -1) where there is none."""
    if not checkpoint.exists():
        return -1, -1
    with safe_open(checkpoint, "pt") as file:
        state = json.loads(file.metadata()["cellalign"])["state"]
    return int(state["epoch"]), int(state["batch"])


def weights(model: Path) -> str:
    """A digest of a model's weights."""
    return hashlib.sha256((model / "weights.safetensors").read_bytes()).hexdigest()


def finish(words: list[str]) -> float:
    """Run to the end; the seconds it took."""
    began = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.monotonic() - began


def killed(words: list[str], checkpoint: Path, after: float) -> tuple[float, int, int] | None:
    """Kill a training some seconds after a checkpoint amid an epoch: seconds lost, and where it goes on from."""
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        time.sleep(0.05)
        if checkpoint.exists() and checkpoint.stat().st_mtime_ns > before and place_of(checkpoint)[1] > 0:
            break
    time.sleep(after)
    if process.poll() is not None:
        return None
    process.send_signal(signal.SIGKILL)
    lost = time.time() - checkpoint.stat().st_mtime
    process.wait()
    return lost, *place_of(checkpoint)


def main() -> None:
    """Kill, go on, compare; status 1 where weights differ or more than a minute was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--method", default="comp")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--every", type=float, default=60, help="seconds between two checkpoints")
    parser.add_argument("--within", type=float, default=10, help="seconds after a checkpoint in which a kill comes")
    parser.add_argument("--folder", type=Path, default=Path("killed"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    words = [sys.executable, "-m", "cellalign", "train", given.file, "--method", given.method, "--condition", "stim"]
    words += ["--epochs", str(given.epochs), "--stream", "--no-early-stopping", "--force", "-m"]
    print(f"never stopped: {finish([*words, str(given.folder / 'whole'), '--restart']):.0f} s", flush=True)
    model, every = given.folder / "m", ["--checkpoint-every", str(given.every)]
    checkpoint, worst, begin = model.with_name("m.partial") / "state.safetensors", 0.0, "--restart"
    for _ in range(given.kills):
        found = killed([*words, str(model), *every, begin], checkpoint, draw.uniform(0, given.within))
        if found is None:
            print("ended before it was killed")
            break
        lost, epoch, batch = found
        worst, begin = max(worst, lost), "--resume"
        print(f"killed; goes on from epoch {epoch}, batch {batch}: {lost:.1f} s lost", flush=True)
    if begin == "--resume" and found is not None:
        finish([*words, str(model), *every, "--resume"])
    same = weights(model) == weights(given.folder / "whole")
    print(f"weights {'the same' if same else 'NOT the same'}, {worst:.1f} s lost at most")
    sys.exit(0 if same and worst <= 60 else 1)


if __name__ == "__main__":
    main()
