"""All ratios in one command: each pair side by side, in one table, with a mark where a goal is missed.

    python benchmarks/bench.py --list
    python benchmarks/bench.py --before OLDER_CHECKOUT --peer PYTHON_WITH_SCVI_TOOLS --write table.md
    python benchmarks/bench.py --only training-comp --only "step-*" --quick

Both sides of a pair run in turn, in one process or each in one of its own; a figure is the median of the pairs' ratios,
in brackets the least and the most. What cannot be measured here has a row that says what it needs: real cells
(kang_2k.h5ad in the folder CELLALIGN_TEST_DATA, by default ../shared/data beside the checkout), an older version to
stand beside, a Python with scvi-tools, a processor with bfloat16. `--quick` only shows that everything runs.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
# of this checkout, whichever one is installed; the scripts also where a test loads this file
sys.path[:0] = [str(HERE), str(HERE.parent)]

from ratios import machine  # noqa: E402
from ratios.goals import GOALS, Goal  # noqa: E402
from ratios.measured import Measured, Run  # noqa: E402

COLUMNS = "| what | this | beside it | ratio (least - most) | goal | |\n| --- | --- | --- | --- | --- | --- |"
MISSED, FAILED = "**missed**", "**failed**"


def chosen(patterns: Sequence[str]) -> list[Goal]:
    """The goals of these names, in which * stands for anything; all without names."""
    unknown = [pattern for pattern in patterns if not fnmatch.filter([goal.name for goal in GOALS], pattern)]
    if unknown:
        raise SystemExit(f"no goal {unknown[0]!r}; --list names them")
    return [goal for goal in GOALS if not patterns or any(fnmatch.fnmatch(goal.name, p) for p in patterns)]


def data_file() -> Path | None:
    """The real cells, where they are."""
    folder = Path(os.environ.get("CELLALIGN_TEST_DATA") or HERE.parents[1] / "shared" / "data")
    path = (HERE.parent / folder / "kang_2k.h5ad").resolve()
    return path if path.is_file() else None


def listed(goals: Sequence[Goal]) -> Iterator[str]:
    """A line for each goal."""
    yield "| name | what | beside | goal | needs |\n| --- | --- | --- | --- | --- |"
    for goal in goals:
        yield f"| {goal.name} | {goal.what} | {goal.beside} | {goal.said_bound()} | {goal.said_needs()} |"


def row(goal: Goal, found: Measured) -> str:
    """A line of the table."""
    bound = found.bound or goal.bound_here()
    mark = "" if bound is None or bound.holds(found.figure) else MISSED
    beside = f"{found.named or goal.beside}: {found.beside}" if found.beside else found.named or goal.beside
    return f"| {found.what or goal.what} | {found.this} | {beside} | {found} | {bound or '-'} | {mark} |"


def rows(goal: Goal, run: Run) -> Iterator[str]:
    """The lines of a goal: measured, not run, or failed."""
    without = f"| {goal.what} | | {goal.beside} | {{}} | {goal.said_bound()} | {{}} |"
    lacking = goal.lacking(run)
    if lacking:
        yield without.format(f"not run: needs {lacking}", "")
        return
    print(goal.name, file=sys.stderr, flush=True)
    try:
        yield from [row(goal, found) for found in goal.run(run)]
    except (Exception, SystemExit) as error:  # the others are still worth their time
        traceback.print_exc()
        yield without.format(f"{type(error).__name__}, see above", FAILED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; status 1 where something failed (a goal that is missed is marked, no more)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the goals and what each needs, and measure nothing")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="repeatable; * stands for anything")
    parser.add_argument("--before", type=Path, metavar="PATH", help="a checkout of an older version of cellalign")
    parser.add_argument("--peer", metavar="PYTHON", help="a Python with scvi-tools")
    parser.add_argument("--quick", action="store_true", help="two rounds of little: its figures mean nothing")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the table here")
    options = parser.parse_args(arguments)
    goals = chosen(options.only)
    if options.list:
        print("\n".join(listed(goals)))
        return 0
    if options.before is not None and not (options.before / "cellalign" / "__init__.py").is_file():
        parser.error(f"--before: no cellalign in {options.before}")
    load = machine.load()
    from cellalign.engine.device import own_process

    own_process()  # as the command line prepares its process
    before = options.before.resolve() if options.before is not None else None
    lines: list[str] = []

    def say(text: str) -> None:
        lines.append(text)
        print(text, flush=True)
        if options.write is not None:  # row by row: the whole takes a quarter of an hour
            options.write.write_text("\n".join(lines) + "\n", encoding="utf-8")

    say("\n".join(machine.header(load, before)))
    if options.quick:
        say("**A quick run: these figures mean nothing.**")
    say(f"\n{COLUMNS}")
    with tempfile.TemporaryDirectory() as folder:
        run = Run(data_file(), before, options.peer, options.quick, Path(folder))
        for goal in goals:
            for line in rows(goal, run):
                say(line)
    return int(any(FAILED in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
