"""Where the pages' blocks run, in which order, and that none is only shown.

All pages share one folder, in which the quick start has run before the others, so that they go on with its files.
A block of code that is not run (a fence named for a shell or for Python) is a warning, and so fails the build.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

FIRST = "quickstart"
ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "docs-run"
ONLY_SHOWN = re.compile(r"^ *(?:```|:::|~~~)\{?(sh|bash|console|shell|python|ipython3?)\b\}?", re.MULTILINE)
KERNELS = {
    "shell": [str(Path(__file__).with_name("shell_kernel.py")), str(FOLDER)],
    "python3": [
        "-c",
        f"import os, sys; os.chdir({str(FOLDER)!r}); sys.argv[0] = 'ipykernel'; "
        "from ipykernel.kernelapp import launch_new_instance; launch_new_instance(log_level=40)",
    ],
}
log = logging.getLogger(__name__)


def prepare(_app: Sphinx) -> None:
    """A fresh folder with example_data/ and workflows/, and the two kernels that work in it, of this environment."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    for name in ("example_data", "workflows"):
        shutil.copytree(ROOT / name, FOLDER / name)
    jupyter = ROOT / "build" / "docs-jupyter"
    for name, arguments in KERNELS.items():
        home = jupyter / "kernels" / name
        home.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, *arguments, "-f", "{connection_file}"]
        spec = {"argv": words, "display_name": name, "language": "bash" if name == "shell" else "python"}
        (home / "kernel.json").write_text(json.dumps(spec))
    here = str(Path(sys.executable).parent)
    os.environ |= {
        "JUPYTER_PATH": str(jupyter),
        "PATH": os.pathsep.join([here, os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "COLUMNS": "80",
        "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
    }


def quick_start_first(_app: Sphinx, _env: Any, names: list[str]) -> None:
    """The order in which pages are read and thus run: the quick start, then by name."""
    names.sort(key=lambda name: (name != FIRST, name))


def all_is_run(_app: Sphinx, name: str, content: list[str]) -> None:
    """Warn of blocks that look like commands or Python and are not run."""
    for found in ONLY_SHOWN.finditer(content[0]):
        log.warning("a block of %s is only shown; make it a {code-cell} or text", found.group(1), location=name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Join Sphinx."""
    app.connect("builder-inited", prepare)
    app.connect("env-before-read-docs", quick_start_first)
    app.connect("source-read", all_is_run)
    return {"parallel_read_safe": False}
