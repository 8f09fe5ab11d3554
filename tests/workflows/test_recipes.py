"""Nextflow modules, containers and recipes, as far as they can be looked at without Nextflow, a daemon or conda."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "workflows"
MODULES = sorted((HERE / "nextflow" / "modules" / "cellalign").iterdir())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_a_module_is_as_those_of_nf_core(module):
    text, meta = (module / "main.nf").read_text(), yaml.safe_load((module / "meta.yml").read_text())
    assert f"process CELLALIGN_{module.name.upper()} {{" in text
    sections = ["tag ", "label ", "conda ", "container ", "input:", "output:", "when:", "script:", "stub:"]
    places = [re.search(rf"^    {re.escape(each)}", text, re.MULTILINE) for each in sections]
    assert all(places) and [p.start() for p in places] == sorted(p.start() for p in places)
    assert "task.ext.args ?: ''" in text and 'task.ext.prefix ?: "${meta.id}"' in text
    assert "def prefix" not in text, "a variable that is declared by def is not there for the output block"
    assert text.count("END_VERSIONS") == 4 and 'path "versions.yml", emit: versions' in text, "script and stub alike"
    emitted = re.findall(r"emit: (\w+)", text)
    assert [next(iter(channel)) for channel in meta["output"]] == emitted
    taken = re.findall(r"path\((\w+)\)", text[text.index("input:") : text.index("output:")])
    assert taken == [name for each in meta["input"][0] for name in each if name != "meta"]
    assert meta["name"] == f"cellalign_{module.name}" and meta["tools"][0]["cellalign"]["licence"] == ["BSD-3-Clause"]
    wanted = yaml.safe_load((module / "environment.yml").read_text())["dependencies"]
    assert wanted == [f"bioconda::cellalign={PROJECT['version']}"]
    for section in ("input:", "script:", "stub:"):
        assert text.count(section) == 1


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_a_module_calls_the_command_with_options_that_it_has(module):
    from cellalign.cli import app  # noqa: F401  declares the commands
    from cellalign.cli.messages import start
    from cellalign.tasks.declaration import DECLARATIONS, parameters

    line = re.search(r"cellalign (\w+) (\$.*)", (module / "main.nf").read_text())
    declared = DECLARATIONS[line.group(1)]
    known = {flag for each in [*declared.own(), *declared.options(), *parameters(start)] for flag in each.flags}
    assert set(re.findall(r"(?<!\S)(--?[a-z][\w-]*)", line.group(2))) <= known


def test_nextflow_parses(tool):
    found = subprocess.run(
        [Path(tool("reftrace")).with_name("python"), "-c", PARSED, HERE / "nextflow"], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    names = [f"CELLALIGN_{module.name.upper()}" for module in MODULES]
    assert found.stdout.split() == sorted(names)


PARSED = """
import sys
import reftrace
read = reftrace.parse_modules(sys.argv[1])
assert not read.errors and not read.unresolved_includes, (read.errors, read.unresolved_includes)
print(*sorted(process.name for each in read.results for process in each.processes))
"""


def test_the_dockerfile_has_nothing_that_hadolint_names(tool):
    done = subprocess.run([tool("hadolint"), HERE / "container" / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout, done.stdout


@pytest.mark.parametrize("script", sorted(path.name for path in (HERE / "slurm").glob("*.s[bh]*")))
def test_the_script_has_nothing_that_shellcheck_names(tool, script):
    done = subprocess.run([tool("shellcheck"), HERE / "slurm" / script], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout, done.stdout


def test_containers_copy_what_the_build_needs():
    """What pyproject.toml makes the wheel of: without it the build within the container fails."""
    licences = {name for name in PROJECT["license-files"] if not name.startswith("cellalign/")}
    needed = {"pyproject.toml", PROJECT["readme"], *licences, "cellalign", "completions"}
    docker = (HERE / "container" / "Dockerfile").read_text()
    copied = {word for line in re.findall(r"^COPY (?!--)(.*) \S+$", docker, re.MULTILINE) for word in line.split()}
    apptainer = (HERE / "container" / "cellalign.def").read_text()
    files = apptainer[apptainer.index("%files") : apptainer.index("%post")]
    assert needed <= copied and needed <= set(re.findall(r"^    (\S+) /source", files, re.MULTILINE))
    for name in needed:
        assert (ROOT / name).exists()
    sections = re.findall(r"^%(\w+)", apptainer, re.MULTILINE)
    assert sections == ["files", "post", "environment", "runscript", "test", "labels", "help"]
    post = apptainer[apptainer.index("%post") : apptainer.index("%environment")].partition("\n")[2]
    assert subprocess.run(["bash", "-n"], input=post, text=True).returncode == 0


def test_the_recipe_asks_for_what_the_package_needs():
    jinja2 = pytest.importorskip("jinja2")
    names = {"PYTHON": "python", "environ": {}, "pin_subpackage": lambda name, **_: name}
    text = (HERE / "bioconda" / "meta.yaml").read_text()
    recipe = yaml.safe_load(jinja2.Template(text).render(names))
    assert recipe["package"] == {"name": "cellalign", "version": PROJECT["version"]}
    wanted = {
        re.sub(r"^torch\b", "pytorch", re.sub(r"([\w-]+)(.*)", r"\1 \2", each)) for each in PROJECT["dependencies"]
    }
    assert set(recipe["requirements"]["run"]) == wanted | {f"python {PROJECT['requires-python']}"}
    assert recipe["build"]["entry_points"] == [f"{k} = {v}" for k, v in PROJECT["scripts"].items()]
    assert recipe["about"]["license"] == PROJECT["license"] and recipe["test"]["imports"] == ["cellalign"]


def test_the_environment_holds_the_package():
    environment = yaml.safe_load((HERE / "environment.yml").read_text())
    assert environment["dependencies"][-1] == {"pip": ["cellalign >=0.1"]}
    assert sys.version_info >= (3, 11) and environment["dependencies"][0].startswith("python >=3.11")
