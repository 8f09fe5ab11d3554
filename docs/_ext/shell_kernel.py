"""A Jupyter kernel that runs each cell as a script of bash: what a page of the site shows is what was run.

    python shell_kernel.py FOLDER -f CONNECTION_FILE

Cells run in FOLDER, each by a bash of its own that stops at the first command that fails. Standard output and standard
error come as one text, in their order, as a terminal shows them; pictures that a cell writes are shown below it. A cell
that ends with another status than 0 is an error; one whose first line is `# status N` has to end with N.
"""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel

EXPECTED = re.compile(r"\A# status (\d+)\n")


def run(code: str, folder: str) -> tuple[str, str]:
    """What a cell printed, and what is wrong with how it ended: empty where nothing is."""
    said = EXPECTED.match(code)
    expected = int(said.group(1)) if said else 0
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", EXPECTED.sub("", code)],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wrong = "" if done.returncode == expected else f"status {done.returncode}, not {expected}: {done.stdout[-2000:]}"
    return done.stdout, wrong


def pictures(folder: str) -> dict[str, int]:
    """The PNG files of a folder, and when each was written."""
    return {str(path): path.stat().st_mtime_ns for path in sorted(Path(folder).glob("*.png"))}


class Shell(Kernel):
    """The kernel; its protocol is ipykernel's."""

    implementation, implementation_version, banner = "cellalign-docs", "1", ""
    language_info = {"name": "bash", "mimetype": "text/x-sh", "file_extension": ".sh", "pygments_lexer": "bash"}

    async def do_execute(self, code: str, silent: bool, *_: Any, **__: Any) -> dict[str, Any]:
        """Run one cell."""
        before = pictures(FOLDER)
        output, wrong = run(code, FOLDER)
        if not silent and output:
            self.send_response(self.iopub_socket, "stream", {"name": "stdout", "text": output})
        for path in [path for path, when in pictures(FOLDER).items() if before.get(path) != when]:
            data = {"image/png": base64.b64encode(Path(path).read_bytes()).decode()}
            self.send_response(self.iopub_socket, "display_data", {"data": data, "metadata": {}})
        if not wrong:
            return {
                "status": "ok",
                "execution_count": self.execution_count,
                "payload": [],
                "user_expressions": {},
            }
        error = {"ename": "StatusError", "evalue": wrong, "traceback": [wrong]}
        self.send_response(self.iopub_socket, "error", error)
        return {"status": "error", "execution_count": self.execution_count, **error}


if __name__ == "__main__":
    FOLDER = sys.argv.pop(1)
    IPKernelApp.launch_instance(kernel_class=Shell, log_level=40)
