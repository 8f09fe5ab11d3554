"""The list of speed goals: complete, callable, and honest about what is not measured. No goal is measured here."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
pytestmark = pytest.mark.skipif(not (FOLDER / "bench.py").is_file(), reason="the source archive has no benchmarks")


@pytest.fixture
def bench(monkeypatch):
    """benchmarks/bench.py, whose folder does not stay on the path."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("bench", FOLDER / "bench.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parameters(where: str) -> list[str]:
    """Names of the parameters of "module:function", which is not imported."""
    module, _, name = where.partition(":")
    tree = ast.parse((FOLDER / (module.replace(".", "/") + ".py")).read_text())
    (found,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    return [argument.arg for argument in found.args.args]


def test_every_goal_is_listed_with_its_bound_and_needs(bench, capsys):
    assert bench.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split(" | ")[0].strip("| ") for line in lines] == [goal.name for goal in bench.GOALS]
    for goal, line in zip(bench.GOALS, lines, strict=True):
        assert goal.said_bound() in line and goal.said_needs() in line
    assert len({goal.name for goal in bench.GOALS}) == len(bench.GOALS)


def test_every_goal_is_measured_by_a_function_that_takes_its_options(bench):
    for goal in bench.GOALS:
        first, *taken = parameters(goal.measure)
        assert first == "run" and set(goal.options) <= set(taken), goal.name


def test_without_data_peer_and_older_version_rows_say_what_they_need(bench):
    needy = [goal for goal in bench.GOALS if set(goal.needs) & {"data", "before", "peer"}]
    assert len(needy) >= 10
    for goal in needy:
        (line,) = bench.rows(goal, bench.Run())
        assert "not run: needs" in line and goal.what in line
        assert "--peer" in line or "peer" not in goal.needs


@pytest.mark.parametrize(("sense", "values", "missed"), [("<=", [1.2, 1.0, 0.9], False), (">=", [0.9, 1.0, 0.8], True)])
def test_the_median_of_the_pairs_decides_and_what_misses_its_goal_is_marked(bench, sense, values, missed):
    from ratios.measured import Bound, Measured

    goal = bench.Goal("name", "this", "that", "", Bound(sense, 1.0))
    line = bench.row(goal, Measured(values, "2 s", "2 s"))
    assert (bench.MISSED in line) == missed
    assert f"({min(values):.3f} - {max(values):.3f})" in line


def test_a_goal_that_is_not_there_is_named(bench):
    with pytest.raises(SystemExit, match="no goal 'nonsense'"):
        bench.chosen(["nonsense"])
