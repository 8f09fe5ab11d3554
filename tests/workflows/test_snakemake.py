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


LARGE = """
input: raw.h5ad
ending: zarr
stream: true
devices: 2
threads: 4
gpus: 2
cluster: local
"""


def planned(tool, folder, config):
    """The commands that Snakemake would run of this configuration."""
    (folder / "raw.h5ad").touch()
    (folder / "mine.yaml").write_text(config)
    path = os.pathsep.join([str(COMMAND.parent), os.environ["PATH"]])
    words = ["--configfile", "mine.yaml", "--cores", "4", "--dry-run", "--printshellcmds"]
    line = [tool("snakemake"), "--snakefile", FOLDER / "Snakefile", *words]
    options = {"cwd": folder, "env": os.environ | {"PATH": path}, "capture_output": True, "text": True}
    done = subprocess.run(line, **options, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return re.findall(r"cellalign (\w+) (.*)", done.stdout + done.stderr)


def test_a_large_file_is_streamed_and_shared_by_several_processes(tool, tmp_path):
    runs = planned(tool, tmp_path, LARGE)
    assert {name for name, _ in runs} >= {"preprocess", "train", "embed", "counterfactual", "evaluate"}
    for name, words in runs:
        assert ("--stream" in words) == (name != "report"), "the page is of all cells"
        assert ".h5ad" not in words.replace("raw.h5ad", "")
        several = name in ("embed", "counterfactual") or (name == "train" and "--method comp" in words)
        assert ("--devices 2 --threads 2" in words) == several, "a closed form is fitted by one process"
        assert ("--cluster local" in words) == (name == "preprocess")
        assert ("--threads 4" in words) == (name in ("preprocess", "train") and not several)


def test_what_is_said_of_no_large_file_is_no_option(tool, tmp_path):
    runs = planned(tool, tmp_path, "input: raw.h5ad\n")
    assert not [words for _, words in runs if re.search("--stream|--in-memory|--devices|--cluster|zarr", words)]
    in_memory = planned(tool, tmp_path, "input: raw.h5ad\nstream: false\n")
    assert {name for name, words in in_memory if "--in-memory" not in words} <= {"report"}


def test_what_a_large_file_needs_is_given_to_the_commands_that_have_it():
    """By the text of both pipelines, with neither Snakemake nor Nextflow."""
    from cellalign.cli import app  # noqa: F401  declares the commands
    from cellalign.tasks.declaration import DECLARATIONS

    text, config = (FOLDER / "Snakefile").read_text(), (FOLDER.parent / "nextflow" / "nextflow.config").read_text()
    flags = {"stream": "--stream/--in-memory", "ranks": "--devices", "cluster": "--cluster"}
    for rule in re.findall(r"^rule \w+:\n.*?\n\n\n", text, re.DOTALL | re.MULTILINE):
        if called := re.search(r'"cellalign (\w+) ', rule):
            declared = DECLARATIONS[called[1]]
            known = {flag for each in [*declared.own(), *declared.options()] for flag in each.flags}
            for name, flag in flags.items():
                assert (f"{{params.{name}}}" in rule) == (flag in known), (called[1], flag)
    for name in ("PREPROCESS", "TRAIN", "CELLALIGN_COUNTERFACTUAL'", "EVALUATE"):
        process = re.search(rf"withName: \S*{name} {{.*?\n    }}", config, re.DOTALL)[0]
        assert "'--stream'" in process and ("--cluster" in process) == (name == "PREPROCESS")


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
