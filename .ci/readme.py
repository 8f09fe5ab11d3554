"""Run every command of README.md and fail at the first that fails: python .ci/readme.py [README.md]

Blocks fenced as ```console hold a session: lines that start with "$ " are commands, the others are output.
Blocks fenced as ```sh or ```bash hold commands only. Blocks fenced as ```python are run as scripts. All run in
order, in one temporary directory that holds a copy of example_data/. Commands that install or clone something,
enter the clone or run make are left out: .ci/run makes its environments and runs make itself.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```(console|sh|bash|python)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LEFT_OUT = re.compile(r"^(make|git|cd|(python\S* -m )?(pip|venv)|source|\.)\s")


def commands(kind: str, block: str) -> list[str]:
    """Commands of a block; a backslash at the end of a line joins it with the next, "> " continues a command."""
    found: list[str] = []
    unfinished = False
    for line in block.splitlines():
        if unfinished:
            found[-1] += "\n" + (line.removeprefix("> ") if kind == "console" else line)
        elif kind == "console" and line.startswith("$ "):
            found.append(line[2:])
        elif kind != "console" and line.strip() and not line.lstrip().startswith("#"):
            found.append(line)
        else:
            continue
        unfinished = found[-1].endswith("\\")
    return found


def scripts(text: str) -> list[list[str]]:
    """Argument vectors to run, in the order of the page."""
    found = []
    for kind, block in FENCE.findall(text):
        if kind == "python":
            found.append([sys.executable, "-c", block])
        else:
            lines = [line for line in commands(kind, block) if not LEFT_OUT.match(line)]
            found += [["bash", "-euo", "pipefail", "-c", line] for line in lines]
    return found


def main(arguments: list[str]) -> int:
    page = Path(arguments[0]) if arguments else ROOT / "README.md"
    todo = scripts(page.read_text(encoding="utf-8"))
    if not todo:
        print(f"{page}: no commands found", file=sys.stderr)
        return 1
    # The commands of this environment come first; MPLBACKEND keeps figures off a display.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = os.environ | {"PATH": path, "MPLBACKEND": "Agg"}
    with tempfile.TemporaryDirectory(prefix="cellalign-readme-") as folder:
        if (ROOT / "example_data").is_dir():
            shutil.copytree(ROOT / "example_data", Path(folder) / "example_data")
        for script in todo:
            start = time.monotonic()
            print(f"$ {script[-1].rstrip()}", flush=True)
            done = subprocess.run(script, cwd=folder, env=environment, stdin=subprocess.DEVNULL)
            if done.returncode:
                print(f"{page}: the command above ended with status {done.returncode}", file=sys.stderr)
                return 1
            print(f"  ({time.monotonic() - start:.1f} s)", flush=True)
    print(f"{page}: {len(todo)} commands ran")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
