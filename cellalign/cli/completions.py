"""Write the completion scripts of the command line: python -m cellalign.cli.completions DIR.

Each script asks the installed `cellalign` for the commands, options and values that fit what was typed so far, so
that a script stays right when an option is added. The files are named as each shell looks for them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from typer.completion import get_completion_script

PROGRAM = "cellalign"
COMPLETE_VARIABLE = "_CELLALIGN_COMPLETE"
FILES = {"bash": "cellalign.bash", "zsh": "_cellalign", "fish": "cellalign.fish"}


def completion_script(shell: str) -> str:
    """Text of the completion script for `shell`, one of bash, zsh and fish."""
    return get_completion_script(prog_name=PROGRAM, complete_var=COMPLETE_VARIABLE, shell=shell) + "\n"


def main(arguments: list[str]) -> int:
    """Write the scripts of all shells into the directory named by the only argument."""
    if len(arguments) != 1:
        print("usage: python -m cellalign.cli.completions DIR", file=sys.stderr)
        return 2
    directory = Path(arguments[0])
    directory.mkdir(parents=True, exist_ok=True)
    for shell, name in FILES.items():
        (directory / name).write_text(completion_script(shell), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
