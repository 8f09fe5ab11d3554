"""Kills, ends and starves trainings of the installed command at random moments: gone on with, the weights are the same.

    python tests/end_to_end/kill.py --methods comp,scvi --kills 20

`test_kill.py` runs it for six methods, with epochs shorter and longer than the time between two checkpoints.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import safe_open

COMMAND = str(Path(sys.executable).with_name("cellalign"))
METHODS = ("comp", "cvae", "svae+", "scvi", "stgan", "trvae")
EVERY = 0.3  # seconds between two checkpoints
LATE = 2.0  # seconds by which a loaded machine may be late with one
STREAMED = 10_000  # cells: an epoch reads rows of them in two parts, from 8,192 on
# epochs of a few hundredths of a second, and of one or two
LENGTHS = {
    "short": ("--epochs", "60", "--batch-size", "128"),
    "long": ("--epochs", "6", "--batch-size", "4"),
    "streamed": ("--epochs", "2", "--batch-size", "64", "--stream"),
}
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


class Training:
    """One training of a method on some cells, begun, ended and gone on with in a folder."""

    def __init__(self, folder: Path, cells: Path, method: str, length: str, seed: int = 0) -> None:
        self.folder, self.random = folder, random.Random(f"{method} {length} {seed}")
        self.words = ["train", str(cells), "--method", method, "--condition", "stim", "--threads", "1"]
        self.words += [*LENGTHS[length], "--set", "hidden=[32]", "--no-early-stopping"]
        self.words += ["--checkpoint-every", str(EVERY)]

    @property
    def state(self) -> Path:
        """The checkpoint."""
        return self.folder / "m.partial" / "state.safetensors"

    def start(self, *more: str, name: str = "m", limit: Callable[[], None] | None = None) -> subprocess.Popen:
        """The command, in a process group that heeds signals as that of a shell does."""

        def heed() -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if limit is not None:
                limit()

        words = [COMMAND, *self.words, "-m", name, *more]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            words, cwd=self.folder, env=env, stderr=subprocess.PIPE, text=True, preexec_fn=heed, start_new_session=True
        )

    def finish(self, *more: str, name: str = "m") -> str:
        """Run to the end; what it says."""
        process = self.start(*more, name=name)
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        return said

    def whole(self) -> tuple[bytes, float]:
        """The weights of a run that nobody touches, and the seconds it trains."""
        process = self.start(name="whole")
        began = self.begun(process, "whole")
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        return self.weights("whole"), time.monotonic() - began

    def weights(self, name: str = "m") -> bytes:
        """Of a complete model."""
        return (self.folder / name / "weights.safetensors").read_bytes()

    def begun(self, process: subprocess.Popen, name: str = "m") -> float:
        """When the name is claimed: training begins soon after."""
        owner = self.folder / f"{name}.partial" / "owner.json"
        old = owner.stat().st_mtime_ns if owner.exists() else 0
        while process.poll() is None and not (owner.exists() and owner.stat().st_mtime_ns > old):
            time.sleep(0.01)
        return time.monotonic()

    def end(self, process: subprocess.Popen, number: int, within: float) -> tuple[bool, str]:
        """Send a signal at a random moment: whether it came before the end, and what was said."""
        self.begun(process)
        start = time.time()
        try:
            _, said = process.communicate(timeout=self.random.uniform(0, within))
            return False, said
        except subprocess.TimeoutExpired:
            pass
        process.send_signal(number)
        now = time.time()
        _, said = process.communicate(timeout=120)
        if process.returncode and self.state.exists():
            left = self.state.stat().st_mtime
            assert left < start or now - left < EVERY + LATE, f"{now - left:.1f} s were lost"
        return process.returncode != 0, said


def killed(training: Training, kills: int) -> int:
    """Kill and go on until so many kills are done; every run that reaches its end has the weights of `whole`."""
    expected, seconds = training.whole()
    done = finished = 0
    while done < kills or not finished:
        before = training.state.stat().st_mtime_ns if training.state.exists() else 0
        process = training.start("--auto-resume", "--force")
        within = seconds if done < kills else 600.0
        ended, said = training.end(process, signal.SIGKILL, within)
        done += ended
        if not ended:
            assert process.returncode == 0, said
            assert training.weights() == expected, "the weights are others"
            assert not training.state.parent.exists(), "a checkpoint stayed behind"
            _remove_model(training.folder / "m")
            finished += 1
        elif training.state.exists():
            assert training.state.stat().st_mtime_ns >= before, "a checkpoint was lost"
    return finished


def killed_amid_an_epoch(training: Training, kills: int) -> list[int]:
    """Kill after a checkpoint amid an epoch and go on, so often, to the weights of `whole`: batches it went on from."""
    expected, _ = training.whole()
    batches: list[int] = []
    for number in range(kills + 1):
        before = training.state.stat().st_mtime_ns if training.state.exists() else 0
        process = training.start(*(["--resume"] if number else []))
        if number == kills:
            break
        while not (training.state.exists() and training.state.stat().st_mtime_ns > before and batch_of(training.state)):
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.005)
        time.sleep(training.random.uniform(0, EVERY))
        assert process.poll() is None, "it ended before it was killed"
        process.send_signal(signal.SIGKILL)
        lost = time.time() - training.state.stat().st_mtime
        assert lost < EVERY + LATE, f"{lost:.1f} s were lost"
        process.communicate(timeout=120)
        batches.append(batch_of(training.state))
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert training.weights() == expected, "the weights are others"
    return batches


def ended_by_signals(training: Training, numbers: Sequence[int]) -> None:
    """Each signal leaves a checkpoint, ends with its status and names the command that goes on; that one does."""
    expected, _ = training.whole()
    waiting = list(numbers)
    while waiting:
        number = waiting[0]
        process = training.start()
        while not training.state.exists() and process.poll() is None:  # training has begun
            time.sleep(0.01)
        time.sleep(training.random.uniform(0, 0.4))
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
        if process.returncode == 0:  # it came too late
            _remove_model(training.folder / "m")
            continue
        waiting.pop(0)
        assert process.returncode == STATUS[number], said
        last = said.strip().splitlines()[-1]
        assert " kept; go on with: cellalign train" in last and "Traceback" not in said, said
        words = shlex.split(last.split("go on with: cellalign ")[1])
        again = subprocess.run([COMMAND, *words], cwd=training.folder, capture_output=True, text=True, timeout=300)
        assert again.returncode == 0, again.stderr
        assert training.weights() == expected, "the weights are others"
        _remove_model(training.folder / "m")


def kept_by_a_signal(training: Training) -> None:
    """SIGUSR1 leaves a checkpoint, and the run goes on to its end."""
    expected, _ = training.whole()
    process = training.start("--checkpoint-every", "3600")
    training.begun(process)
    while process.poll() is None and not training.state.exists():
        time.sleep(0.2)
        if any("SigCgt" in line and int(line.split()[1], 16) & 1 << (signal.SIGUSR1 - 1) for line in _status(process)):
            process.send_signal(signal.SIGUSR1)
    assert training.state.exists() or process.poll() is None, "no checkpoint was left"
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0 and training.weights() == expected, said
    _remove_model(training.folder / "m")


def starved(training: Training) -> None:
    """No checkpoint can be written, and at the end no model: one line, nothing half written; with room it goes on."""
    expected, _ = training.whole()

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = training.start(limit=small)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 3, said
    assert "cannot write the checkpoint" in said and "Traceback" not in said, said
    assert sum("error:" in line for line in said.splitlines()) == 1, said
    assert not (training.folder / "m").exists() and not training.state.exists()
    training.finish("--auto-resume")
    assert training.weights() == expected
    left = {path.name for path in training.folder.iterdir()}
    assert left == {"m", "whole"}, left
    _remove_model(training.folder / "m")


def two_jobs(training: Training) -> None:
    """The second of two jobs is refused at once, or waits and finds the model complete."""
    more = ("--epochs", "30")
    first = training.start(*more)
    training.begun(first)
    waiting = training.start(*more, "--auto-resume", "--wait")
    refused = training.start(*more)
    _, said = refused.communicate(timeout=120)
    assert refused.returncode == 2 and f"another job (process {first.pid} on " in said, said
    _, said = first.communicate(timeout=300)
    assert first.returncode == 0, said
    expected = training.weights()
    _, said = waiting.communicate(timeout=300)
    assert waiting.returncode == 0, said
    assert "waiting for its end" in said and "is complete" in said, said
    assert training.weights() == expected and not training.state.parent.exists()
    _remove_model(training.folder / "m")


def batch_of(checkpoint: Path) -> int:
    """How many batches are done of the epoch amid which a checkpoint was left."""
    with safe_open(checkpoint, "pt") as file:
        return int(json.loads(file.metadata()["cellalign"])["state"]["batch"])


def make_cells(folder: Path, n: int = 400) -> Path:
    """Simulated counts of cells and 100 genes, preprocessed."""
    for words in (
        ["simulate", "ifnb", "--cells", str(n), "--genes", "100", "--seed", "1", "-o", "raw.h5ad"],
        ["preprocess", "raw.h5ad", "-o", "cells.h5ad", "--n-top-genes", "100"],
    ):
        subprocess.run([COMMAND, *words], cwd=folder, check=True, capture_output=True)
    return folder / "cells.h5ad"


def _remove_model(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def _status(process: subprocess.Popen) -> list[str]:
    try:
        return Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return []


def main() -> None:
    """Kill trainings of the methods that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS), help="NAME,NAME")
    parser.add_argument("--kills", type=int, default=20, help="kills of each method, half of them with long epochs")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        cells = make_cells(Path(place))
        for method in asked.methods.split(","):
            for length in ("short", "long"):
                folder = Path(place) / f"{method}-{length}"
                folder.mkdir()
                training = Training(folder, cells, method, length, asked.seed)
                finished = killed(training, asked.kills // 2)
                print(f"{method}, {length} epochs: {asked.kills // 2} kills, {finished} runs to the end, same weights")


if __name__ == "__main__":
    main()
