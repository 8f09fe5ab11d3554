"""Values of an option that are set off by spaces: how several are written is said, and only there."""

import pytest

from cellalign.cli.spaced import hint

LISTS = {"--methods", "--grid", "--batch", "--holdout", "--where"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("benchmark in.h5ad --methods auto local comp --condition stim", "commas: --methods auto,local,comp"),
        ("benchmark --methods=auto local in.h5ad", "commas: --methods auto,local"),
        ("benchmark --methods auto local /tmp", "commas: --methods auto,local"),
        ("tune in.h5ad --grid gamma=1 lr=0.1,0.2", "before it: --grid gamma=1 --grid lr=0.1,0.2"),
        ("train in.h5ad --holdout a=x y", "before it: --holdout a=x --holdout a=y"),
        ("train in.h5ad --holdout a=x b=y", "before it: --holdout a=x --holdout b=y"),
        ("counterfactual in.h5ad --where a=x y", "commas: --where a=x,y"),
        ("train in.h5ad --batch donor", None),
        ("train --batch donor in.h5ad", None),  # a file that is not there
        ("train --batch donor sub/in", None),
        ("train --condition stim in", None),
        ("train in.h5ad --batch a,b --methods", None),
    ],
)
def test_values_set_off_by_spaces(line, said):
    found = hint(line.split(), LISTS)
    assert found is None if said is None else found is not None and said in found


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        (
            "train in.h5ad --condition stim --batch donor cell_type -m new",
            3,
            "no such file: cell_type; values of --batch",
        ),
        (
            "simulate digits --seen thin thick -o new.h5ad",
            2,
            "values of --seen are separated by commas: --seen thin,thick",
        ),
    ],
)
def test_it_stands_beside_what_failed(tiny_cells, tmp_path, mistaken, line, status, said):
    tiny_cells.write_h5ad(tmp_path / "in.h5ad")
    done = mistaken(tmp_path)(*line.split())
    assert done.returncode == status and said in done.stderr, done.stderr
