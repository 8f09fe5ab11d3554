"""Unit tests and README's job under a Python and the newest libraries that it admits: python .ci/newest.py python3.13

Makes an environment (or takes one: --venv), installs this checkout with the newest of everything, or with --torch a
version of torch of which a small build is at hand, runs, and with --write puts what came out into the page that says
under which versions cellalign is known to work. Ends with 1 where something failed; the page says so then, too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "python-versions.md"
LIBRARIES = ("anndata", "scanpy", "zarr", "pandas", "numpy", "torch", "numba", "scikit-learn")
HEAD = """# Python versions

Under which versions of Python and of the libraries the unit tests and the job of README have run. Each row was
written by

```text
python .ci/newest.py PYTHON --write
```

which installs the newest of everything that fits, unless a row says otherwise. Python 3.11 with the versions of
`constraints.txt` is what every change is tested with; 3.14 is admitted by the metadata and was not tried.

"""
COLUMNS = ["Python", "on", *LIBRARIES, "unit tests", "README"]
ASK = """
import importlib.metadata as m, json, platform, sys
print(json.dumps({"Python": platform.python_version()} | {name: m.version(name) for name in sys.argv[1:]}))
"""


def environment(python: str, venv: Path | None, torch: str) -> Path:
    """The Python of an environment with the newest libraries."""
    if venv is not None:
        return venv / "bin" / "python"
    made = ROOT / "build" / f"newest-{Path(python).name}"
    own = made / "bin" / "python"
    if not own.exists():
        subprocess.run([python, "-m", "venv", made], check=True)
    words = [
        own,
        "-m",
        "pip",
        "install",
        "-q",
        "--upgrade",
        "--upgrade-strategy",
        "eager",
        "-e",
        f"{ROOT}[test]",
        torch,
    ]
    subprocess.run(list(filter(None, words)), check=True)
    return own


def unit_tests(python: Path, selection: str) -> tuple[str, bool]:
    """How many passed and failed, and whether all did."""
    words = [python, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", "-m", selection]
    done = subprocess.run(words, cwd=ROOT, env=with_this_checkout(python), stdout=subprocess.PIPE, text=True)
    sys.stdout.write(done.stdout)
    counts = dict(
        (what, int(n)) for n, what in re.findall(r"(\d+) (passed|failed|skipped|errors?)", done.stdout[-400:])
    )
    return ", ".join(f"{n} {what}" for what, n in counts.items()) or "none ran", done.returncode == 0


def readme(python: Path) -> tuple[str, bool]:
    """How many commands ran, and whether all did."""
    words = [python, ROOT / ".ci" / "readme.py", ROOT / "README.md"]
    done = subprocess.run(words, env=with_this_checkout(python), stdout=subprocess.PIPE, text=True)
    sys.stdout.write(done.stdout)
    ran = done.stdout.count("\n$ ") + done.stdout.startswith("$ ")
    return (f"{ran} commands" if done.returncode == 0 else f"failed at command {ran}"), done.returncode == 0


def with_this_checkout(python: Path) -> dict[str, str]:
    """The environment variables under which that Python and its commands take the package from here."""
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", "")])
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}


def written(text: str, row: dict[str, str]) -> str:
    """The page with this row in place of the one of the same minor version of Python."""
    lines = [line for line in text.splitlines() if re.match(r"\| \d", line)]
    minor = row["Python"].rsplit(".", 1)[0]
    kept = [line for line in lines if not line.startswith(f"| {minor}.")]
    rows = sorted([*kept, "| " + " | ".join(row[name] for name in COLUMNS) + " |"])
    table = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS), *rows]
    return HEAD + "\n".join(table) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="python3.12, python3.13, ... from which the environment is made")
    parser.add_argument("--venv", type=Path, help="an environment that is there already, in which nothing is installed")
    parser.add_argument("--torch", default="", help="such as torch==2.13.0, of which a small build is at hand")
    parser.add_argument("--tests", default="unit and not slow", help="pytest's -m")
    parser.add_argument("--no-readme", action="store_true")
    parser.add_argument("--write", action="store_true", help=f"what came out into {PAGE.relative_to(ROOT)}")
    asked = parser.parse_args()
    python, start = environment(asked.python, asked.venv, asked.torch), time.monotonic()
    found = subprocess.run([python, "-c", ASK, *LIBRARIES], check=True, stdout=subprocess.PIPE, text=True).stdout
    row = json.loads(found) | {"on": date.today().isoformat()}
    row["unit tests"], passed = unit_tests(python, asked.tests)
    ran = True
    row["README"] = "not run"
    if not asked.no_readme:
        row["README"], ran = readme(python)
    print(json.dumps(row | {"minutes": round((time.monotonic() - start) / 60, 1)}))
    if asked.write:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8") if PAGE.exists() else "", row), encoding="utf-8")
    return 0 if passed and ran else 1


if __name__ == "__main__":
    sys.exit(main())
