"""Tables on standard output: no column is cut in a pipe, and arrows survive an output that cannot hold them."""

import csv
import io
import json
import re
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from cellalign.cli import tables
from cellalign.cli.app import app
from cellalign.evaluation.catalogue import catalogue


def test_no_column_is_cut_in_a_pipe(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    columns = ["", *(f"metric{i} ↑" for i in range(30))]
    tables.print_table("wide", columns, [["row", *("0.125" for _ in columns[1:])]])
    said = capsys.readouterr().out
    assert all(name in said for name in columns) and "…" not in said and said.count("0.125") == 30


def test_on_a_narrow_terminal_columns_follow_one_another(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    columns = ["", *(f"metric{i} ↑" for i in range(30))]
    tables.print_table("wide", columns, [["prediction / CD14 Mono", *(f"{i}.125" for i in range(30))]])
    lines = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80 and not any("…" in line for line in lines)
    headings = [line.split("   ") for line in lines if "metric" in line]
    assert [name.strip() for line in headings for name in line if name.strip()] == columns[1:]
    values = [line.split()[4:] for line in lines if "CD14 Mono" in line]
    assert [value for line in values for value in line] == [f"{i}.125" for i in range(30)]


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("length", [1, 9, 30])
def test_what_just_fits_is_one_table(capsys, monkeypatch, n, length):
    """Exactly as wide as needed, and one column less."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    columns = ["", *("x" * length for _ in range(n))]
    needed = 4 + n * (length + 3) + 2
    for width, n_tables in ((needed, 1), (needed - 1, 1 if n == 1 else 2)):
        monkeypatch.setenv("COLUMNS", str(width))
        tables.print_table("t", columns, [["name", *("1" for _ in range(n))]])
        said = capsys.readouterr().out
        assert said.count("name") == n_tables
        assert "…" not in said or (n, width) == (1, needed - 1)


def test_a_title_is_one_line_and_names_are_no_markup(capsys):
    tables.print_table("mse_de ↓ (lower is better), cell_type held out", ["", "n"], [["[CD4] :star: T", "1"]])
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == "mse_de ↓ (lower is better), cell_type held out"
    assert any("[CD4] :star: T" in line for line in rest)


def test_arrows_where_the_output_is_ascii(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    tables.print_table("mse ↓", ["", "r ↑", "s →0"], [["stim →majority", "1", "2"]])
    sys.stdout.flush()
    said = raw.getvalue().decode("ascii")
    assert all(text in said for text in ("mse v", "r ^", "s ->0", "stim ->majority"))


def test_people_may_see_other_headings_than_programs(capsys):
    rows, options = [["a", "1"]], {"headings": ["name", "udr ↑"]}
    tables.print_rows("t", ["name", "udr"], rows, "table", **options)
    assert "udr ↑" in capsys.readouterr().out
    tables.print_rows("t", ["name", "udr"], rows, "json", **options)
    assert json.loads(capsys.readouterr().out) == [{"name": "a", "udr": "1"}]
    tables.print_rows("t", ["name", "udr"], rows, "csv", **options)
    assert capsys.readouterr().out == "name,udr\na,1\n"


def test_every_metric_is_listed(mistaken, tmp_path):
    def listing(*words: str) -> str:
        done = CliRunner(env={"COLUMNS": "2000"}).invoke(app, ["methods", "--metrics", *words])
        assert done.exit_code == 0, done.output
        return done.output

    listed = json.loads(listing("--format", "json"))
    assert [set(row) for row in listed] == [{"metric", "panel", "better", "null", "meaning"}] * len(catalogue())
    found = {(row["panel"], row["metric"]): row["better"] for row in listed}
    assert found["response", "mse_de"] == "down" and found["mixing", "s"] == "towards permuted"
    assert found["mixing", "kBET"] == "towards permuted" and found["bio", "kBET"] == "up"
    assert found["annotate", "macro F1"] == "up" and found["tune", "udr"] == "up"
    assert list(csv.DictReader(io.StringIO(listing("--format", "csv")))) == listed
    said = listing()
    assert "cross-condition: Whether a classifier" in said and "tune: printed by `cellalign tune`." in said
    for where, metric in catalogue():
        assert where in said and metric.heading in said and metric.meaning in said and metric.null in said
    done = mistaken(cwd=tmp_path)("methods", "comp", "--metrics")
    assert done.returncode == 2 and "comp and --metrics ask for two lists" in done.stderr


def test_programs_get_numbers_and_what_is_missing_as_missing(capsys):
    columns, rows = ["name", "mean", "difference", "groups"], [["a", np.float32(0.5), float("nan"), np.int64(3)]]
    rows.append(["b", 1 / 3, None, True])
    tables.print_rows("t", columns, rows, "json")
    assert [list(row.values()) for row in json.loads(capsys.readouterr().out)] == [
        ["a", 0.5, None, 3],
        ["b", 1 / 3, None, True],
    ]
    tables.print_rows("t", columns, rows, "csv")
    assert capsys.readouterr().out.splitlines()[1:] == ["a,0.5,,3", f"b,{1 / 3!r},,True"]
