"""At 80 columns no table loses a name or a number: every table of every command, in a pipe where COLUMNS says so."""

import pytest
from running import in_this_process

from cellalign.cli import tables

WIDTH = 80


@pytest.fixture
def narrow(monkeypatch):
    """Runs a command at 80 columns, and gives what it printed and each table that it was to print."""

    def run(cwd, *words, width=WIDTH):
        printed = []

        def print_table(title, columns, rows, *, prose=False):
            printed.append((title, list(columns), [list(row) for row in rows]))
            whole(title, columns, rows, prose=prose)

        whole = tables.print_table
        with monkeypatch.context() as patch:
            patch.setattr(tables, "print_table", print_table)
            done = in_this_process(words, cwd, {"COLUMNS": str(width)})
        assert done.returncode == 0, done.stderr
        assert printed, "no table"
        return done.stdout, printed

    return run


def check(said, printed):
    lines = [line.rstrip() for line in said.splitlines()]
    assert max(map(len, lines)) <= WIDTH, max(lines, key=len)
    assert "…" not in said
    together = " ".join(" ".join(lines).split())
    for _, columns, rows in printed:
        for name in columns[1:]:
            assert all(word in together for word in name.split()), name
        for row in rows:
            assert any(line.strip().startswith(row[0]) for line in lines), row[0]
            for cell in row[1:]:
                # a number, or a name, is on one line; words may go on in the next
                assert all(word in together for word in cell.split()), (row[0], cell)


COMMANDS = {
    "methods": ["methods"],
    "one method": ["methods", "comp"],
    "metrics": ["methods", "--metrics"],
    "a training that would be": "train {cells} --condition stim --label cell_type --dry-run -m none".split(),
    "a prediction that would be": "counterfactual --to stimulated -o none.h5ad --dry-run".split(),
    "a file that would be": "preprocess {cells} -o none.h5ad --dry-run".split(),
    "a benchmark that would be": "benchmark {cells} --condition stim --methods linear,local --holdout-each cell_type "
    "--group B --dry-run".split(),
    "a grid that would be": "tune {cells} --condition stim --method vae --grid latent_dim=3,4 --seeds 1 --by loss "
    "--set hidden=[8] -m none --dry-run".split(),
    "check": "check {cells} --condition stim --label cell_type".split(),
    "info of a file": "info predicted.h5ad".split(),
    "info of a model": "info cellalign-model".split(),
    "mixing": "evaluate emb.h5ad --condition stim --label cell_type".split(),
    "response": "evaluate predicted.h5ad --against {cells} --label cell_type".split(),
    "tune": "tune {cells} --condition stim --method vae --grid latent_dim=3,4 --seeds 1 --epochs 1 --by loss "
    "--set hidden=[8] -m tuned --force".split(),
    "benchmark": "benchmark {cells} --condition stim --methods linear,local --holdout-each cell_type --group B".split(),
    "reproduce": "reproduce cellalign-model".split(),
}


@pytest.fixture(scope="module")
def place(model, cellalign, kang_like):
    run = cellalign(cwd=model.parent)
    for words in ("embed -o emb.h5ad", "counterfactual --to stimulated -o predicted.h5ad"):
        done = run(*words.split())
        assert done.returncode == 0, done.stderr
    return model.parent


@pytest.mark.parametrize("name", COMMANDS)
def test_no_table_loses_a_name_or_a_number(narrow, place, kang_like, name):
    words = [word.format(cells=kang_like) for word in COMMANDS[name]]
    check(*narrow(place, *words))


def test_a_dry_run_writes_nothing(place, kang_like, cellalign):
    before = sorted(path.name for path in place.iterdir())
    run = cellalign(cwd=place)
    for words in (COMMANDS["a training that would be"], COMMANDS["a prediction that would be"]):
        done = run(*(word.format(cells=kang_like) for word in words))
        assert done.returncode == 0 and "nothing was written" in done.stdout, done.stderr
    assert sorted(path.name for path in place.iterdir()) == before
    done = run("train", kang_like, *"--condition stim --label cell_type --dry-run --method comp -m none".split())
    said = " ".join(done.stdout.split())
    assert "control (200, the control)" in said or "the control)" in said
    for what in ("trained on", "computed on", "about", "weights", "writes none"):
        assert what in said, what
