"""Completion offers what fits, of the file named on the line, and never a file's name where something else is asked."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from cellalign.cli import completions, peek
from cellalign.cli.complete import FILES, FOLDERS, candidates
from cellalign.cli.pages import PAGES

ROOT = Path(__file__).parents[2]


def offered(line: str) -> list[str] | str:
    """What may stand in the place of the last word."""
    *words, current = line.split(" ")
    found = candidates(words, current)
    return found if isinstance(found, str) else [value for value, _ in found]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of an h5ad, the same as zarr of both formats, a table of metadata and a model's model.yaml."""
    monkeypatch.chdir(tmp_path)
    obs = pd.DataFrame({"stim": ["ctrl", "IFN b"] * 3, "kind": ["NK", "B", "B"] * 2, "lane": [1, 2, 2] * 2})
    obs = obs.astype({"stim": "category", "kind": "category"})
    obs.index = [f"c{i}" for i in range(6)]
    adata = ad.AnnData(np.ones((6, 3), np.float32), obs)
    adata.layers["counts"] = adata.X
    adata.write_h5ad("cells.h5ad")
    for version in (2, 3):
        ad.settings.zarr_write_format = version
        adata.write_zarr(f"cells{version}.zarr")
    obs.to_csv("cells.csv")
    os.mkdir("model")
    fields = [{"role": "condition", "name": "stim", "categories": ["ctrl", "IFN b"]}]
    source = {"path": str(tmp_path / "cells.h5ad")}
    Path("model/model.yaml").write_text(json.dumps({"fields": fields, "source": source}))
    return tmp_path


def test_commands_options_and_files():
    assert offered("") == list(PAGES)
    assert offered("tra") == ["train", "transfer"]
    assert offered("simulate ") == ["ifnb", "sparse-shift", "fairness", "digits"]
    assert {"--method", "--condition", "--quiet"} <= set(offered("train x.h5ad --"))
    assert offered("train x.h5ad --cond") == ["--condition"]
    assert "--condition" not in offered("train x.h5ad --condition stim --")
    assert "--batch" in offered("train x.h5ad --batch lane --")
    assert offered("train ") == offered("embed --plot ") == offered("train x --obs ") == FILES
    assert offered("train x --model ") == FOLDERS
    assert offered("nothing ") == offered("train x --lr ") == []


def test_methods_and_what_belongs_to_one():
    methods = offered("train x --method ")
    assert {"comp", "local", "svae+"} <= set(methods) and offered("train x --method=loc") == ["--method=local"]
    assert offered("train x --method zzz") == [] == offered("methods zzz")
    assert offered("methods svae") == ["svae", "svae+"]
    assert offered("train x --method trvae --preset ") and all(
        name.startswith("trvae") for name in offered("train x --method trvae --preset ")
    )
    assert {"alpha=", "threshold="} <= set(offered("train x --method svae+ --set "))
    assert "alpha=" not in offered("train x --set ") and "gamma=" in offered("train x --set ")
    assert offered("train x --set likelihood=n") == ["likelihood=nb"]
    assert offered("benchmark x --set svae+.al") == ["svae+.alpha="]
    assert "local,comp" in offered("benchmark x --methods local,co") and "local,local" not in offered(
        "benchmark x --methods local,"
    )


def test_choices_devices_panels_metrics():
    assert offered("train x --device c") == ["cpu", "cuda"]
    assert offered("train x --precision ") == ["auto", "float32", "bfloat16"]
    assert "mixing,probe" in offered("evaluate x --panel mixing,pr")
    assert "r_change_de" in offered("benchmark x --metric r_change")


@pytest.mark.parametrize("file", ["cells.h5ad", "cells2.zarr", "cells3.zarr"])
def test_columns_and_values_of_the_input(here, file):
    assert offered(f"train {file} --condition ") == ["stim", "kind", "lane"]
    assert offered(f"train {file} --condition stim --control ") == ["IFN b", "ctrl"]
    assert offered(f"train {file} --holdout kind=N") == ["kind=NK"]
    assert offered(f"train {file} --holdout kind=NK,st") == ["kind=NK,stim="]
    assert offered(f"train {file} --holdout kind=NK,stim=I") == ["kind=NK,stim=IFN b"]
    assert offered(f"train {file} --layer ") == ["X", "counts"]
    if file.endswith("h5ad"):
        assert peek.values(file, "lane") == ["1", "2"]


def test_columns_of_a_table_and_of_the_files_names(here):
    assert offered("train a.h5 b.h5 --file-key condition --obs cells.csv --condition ") == [
        "stim", "kind", "lane", "condition",
    ]  # fmt: skip
    assert offered("train a.h5 --obs cells.csv --holdout kind=") == ["kind=NK", "kind=B"]
    assert offered("train a.h5 --obs cells.csv --obs-key st") == ["stim"]


def test_a_model_knows_its_conditions_and_its_training_file(here):
    assert offered("counterfactual -m model --to ") == ["ctrl", "IFN b"]
    assert offered("counterfactual -m model --where ki") == ["kind="]
    assert offered("counterfactual -m nowhere --to ") == []


def test_what_cannot_be_read_offers_nothing(here):
    Path("broken.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n" + b"x" * 100)
    for file in ("broken.h5ad", "absent.h5ad", "model"):
        assert offered(f"train {file} --condition ") == []


def test_words_and_scripts_are_current(tmp_path):
    assert completions.WORDS.read_text() == completions.words_text()
    for shell, name in completions.FILES.items():
        assert (ROOT / "completions" / name).read_text() == completions.completion_script(shell)


BASH = """
source {script}
cellalign() {{ {python} -m cellalign "$@"; }}
COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}; COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
_cellalign_completion cellalign {last!r} x
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cellalign train cells.h5ad --condition s", ["stim"]),
        ("cellalign train cells.h5ad --holdout kind=N", ["NK"]),
        ("cellalign train cells.h5ad --condition stim --control IF", ["IFN\\ b"]),
        ("cellalign train cells.h5ad --method ce", ["celligner"]),
        ("cellalign train cells.h5ad --method cells", [""]),
    ],
)
def test_bash(here, line, expected):
    script = BASH.format(script=ROOT / "completions/cellalign.bash", python=sys.executable, line=line, last="")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == expected, done.stderr


ZSH = """
_describe() {{ [[ $1 == -V ]] && shift; print -l -- ${{(P)2}}; }}
_files() {{ print files "$@"; }}
compdef() {{ : }}
cellalign() {{ {python} -m cellalign "$@" }}
source {script}
words=({words}); CURRENT=$#words
_cellalign
"""


@pytest.mark.process
@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("cellalign train cells.h5ad --condition s", ["stim"]),
        ("cellalign train cells.h5ad --condition stim --control IF", ["IFN b"]),
        ("cellalign train cells.h5ad --holdout 'kind=NK,st'", ["kind=NK,stim="]),
        ("cellalign train ''", ["files"]),
        ("cellalign train x --model ''", ["files -/"]),
    ],
)
def test_zsh(here, words, expected):
    script = ZSH.format(script=ROOT / "completions/_cellalign", python=sys.executable, words=words)
    done = subprocess.run(["zsh", "-f", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == expected, done.stderr


@pytest.mark.process
@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish(here):
    command = Path("cellalign")
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m cellalign "$@"\n')
    command.chmod(0o755)
    script = f"source {ROOT}/completions/cellalign.fish; complete -C './cellalign train cells.h5ad --condition s'"
    path = os.pathsep.join([str(here), os.environ["PATH"]])
    script = script.replace("./cellalign", "cellalign")
    environment = os.environ | {"PATH": path}
    done = subprocess.run(["fish", "-c", script], capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout.split() == ["stim"], done.stderr


@pytest.mark.process
def test_completion_imports_nothing_heavy(here):
    environment = os.environ | {"_CELLALIGN_COMPLETE": "fish", "_CELLALIGN_WORDS": "cellalign\ntrain\n--method\nc"}
    words = [sys.executable, "-X", "importtime", "-m", "cellalign"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    assert "comp\t" in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert not imported & {"torch", "anndata", "scanpy", "pandas", "numpy", "typer", "rich", "pydantic"}


@pytest.mark.parametrize(
    ("typed", "replaced"),
    [
        ('"it', r"""it's \"a\" \$b"""),
        ("'it", """it'\\''s "a" $b"""),
        ("it", r"it\'s\ \"a\"\ \$b"),
    ],
)
def test_what_has_a_meaning_within_the_open_quotation_is_escaped(tmp_path, monkeypatch, capsys, typed, replaced):
    from cellalign.cli import complete

    obs = pd.DataFrame({'it\'s "a" $b': ["x", "y"]}, index=["c0", "c1"])
    ad.AnnData(np.ones((2, 2), np.float32), obs).write_h5ad(tmp_path / "x.h5ad")
    line = f"cellalign train {tmp_path}/x.h5ad --condition {typed}"
    for name, value in (("LINE", line), ("POINT", str(len(line))), ("WORDBREAKS", " \t\n\"'><=;|&(:")):
        monkeypatch.setenv(f"COMP_{name}", value)
    monkeypatch.setenv(complete.VARIABLE, "bash")
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    complete.main()
    assert capsys.readouterr().out.strip() == replaced


def test_whole_numbers_and_truth_values_of_zarr_are_offered_as_those_of_h5ad(here):
    cells = ad.read_h5ad("cells.h5ad")
    cells.obs["flag"] = cells.obs["lane"] == 1
    cells.write_h5ad("flags.h5ad")
    for version in (2, 3):
        ad.settings.zarr_write_format = version
        cells.write_zarr(f"flags{version}.zarr")
    for column, there in (("flag", ["True", "False"]), ("lane", ["1", "2"])):
        for name in ("flags.h5ad", "flags2.zarr", "flags3.zarr"):
            assert offered(f"train {name} --holdout {column}=") == [f"{column}={value}" for value in there]
