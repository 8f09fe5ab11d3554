"""GitHub's files: of the form that GitHub reads, and what they run is there."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / ".github"
WORKFLOWS = sorted((HERE / "workflows").glob("*.yml"))
FORMS = [HERE / "ISSUE_TEMPLATE" / name for name in ("bug.yml", "idea.yml")]


@pytest.mark.parametrize(
    "schema, paths",
    [("vendor.github-workflows", WORKFLOWS), ("vendor.github-issue-forms", FORMS)],
    ids=["jobs", "forms"],
)
def test_files_are_of_the_form_that_github_reads(tool, schema, paths):
    done = subprocess.run(
        [tool("check-jsonschema"), "--builtin-schema", schema, *paths], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def commands() -> list[str]:
    found = []
    for path in WORKFLOWS:
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            found += [step["run"] for step in job["steps"] if "run" in step]
    return found


def test_what_jobs_run_is_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = [word for line in commands() if line.startswith("make ") for word in line.split()[1:] if "=" not in word]
    assert {"dev", "test", "docs", "package"} <= set(asked) <= targets
    for script in re.findall(r"(?:^|\s)(\.ci/[\w.]+)", "\n".join(commands())):
        assert (ROOT / script).is_file(), script


def test_a_release_is_of_a_version_that_the_changelog_has():
    """The two lines by which the release workflow checks a tag say yes to a version that is there."""
    [check] = [line for line in commands() if "GITHUB_REF_NAME" in line]
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE).group(1)
    for tag, passes in ((f"v{version}", True), ("v99.0.0", False)):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", check], cwd=ROOT, env={"GITHUB_REF_NAME": tag, "PATH": "/usr/bin:/bin"}
        )
        assert (done.returncode == 0) is passes
