"""The Snakemake pipeline, by Snakemake itself, which has an environment of its own (`make workflows`)."""

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "workflows" / "snakemake"
COMMAND = Path(sys.executable).with_name("cellalign")
CONFIG = """
input: raw.h5ad
holdout: ["cell_type=NK,stim=stimulated"]
n_top_genes: 100
threads: 1
methods:
  local:
  comp: {epochs: 2, hidden: "[16]", options: "--batch-size 128"}
"""


@pytest.mark.slow  # thirteen commands, each in a process of its own
def test_the_whole_pipeline_and_again_with_nothing_to_do(tool, tmp_path):
    (tmp_path / "mine.yaml").write_text(CONFIG)
    path = os.pathsep.join([str(COMMAND.parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    simulated = [COMMAND, "simulate", "ifnb", "--cells", "300", "--genes", "120", "-o", "raw.h5ad"]
    subprocess.run(simulated, cwd=tmp_path, env=environment, check=True, timeout=300)

    def run(*words):
        line = [
            tool("snakemake"),
            "--snakefile",
            FOLDER / "Snakefile",
            "--configfile",
            "mine.yaml",
            "--cores",
            "1",
            *words,
        ]
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1500)

    lint = run("--lint")
    assert lint.returncode == 0, lint.stdout + lint.stderr
    first = run()
    assert first.returncode == 0, first.stdout + first.stderr
    results = tmp_path / "results"
    with open(results / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"local", "comp"}
    assert {"mixing", "probe", "response"} <= {row["panel"] for row in rows}
    fitted = {row["status"] for row in rows if row["system"] == "prediction" and row["group"] == "NK"}
    assert fitted == {"predicted"}, "what is held out is not trained on"
    assert {path.name for path in (results / "logs").iterdir()} >= {"preprocess.log", "comp.train.log"}
    again = run()
    assert again.returncode == 0 and "Nothing to be done" in again.stdout + again.stderr
    pages = {path.parent.name for path in results.glob("*/report.html")}
    asked = subprocess.run([COMMAND, "report", "--help"], env=environment, capture_output=True)
    assert pages == ({"local", "comp"} if asked.returncode == 0 else set())


def test_the_settings_that_the_pipeline_reads_are_those_of_its_config():
    known = yaml.safe_load((FOLDER / "config.yaml").read_text())
    text = (FOLDER / "Snakefile").read_text()
    read = set(re.findall(r"config\[\"(\w+)\"\]", text))
    for named in re.findall(r"=columns\((.*?)\)", text):
        read |= set(re.findall(r"\"(\w+)\"", named))
    assert read == set(known)


def test_what_is_held_out_chooses_no_genes_in_any_pipeline():
    text = (FOLDER / "Snakefile").read_text()
    config = (FOLDER.parent / "nextflow" / "nextflow.config").read_text()
    for name in ("preprocess", "train"):
        rule = re.search(rf"^rule {name}:\n.*?\n\n", text, re.DOTALL | re.MULTILINE)[0]
        assert 'repeated("--holdout", config["holdout"])' in rule and "{params.holdout}" in rule
        process = re.search(rf"withName: CELLALIGN_{name.upper()} {{.*?\n    }}", config, re.DOTALL)[0]
        assert "--holdout '${params.holdout}'" in process


def test_a_role_without_a_column_is_no_option():
    text = (FOLDER / "Snakefile").read_text()
    functions = {"shlex": shlex, "config": {"condition": "stim", "label": ""}}
    for name in ("repeated", "columns"):
        exec(re.search(rf"^def {name}\(.*?\n\n\n", text, re.DOTALL | re.MULTILINE)[0], functions)
    assert functions["columns"]("condition", "label") == "--condition stim" and functions["columns"]("label") == ""
    assert text.count("--label") == 0, "only by these"
