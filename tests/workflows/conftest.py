"""Tools that have an environment of their own: `make workflows` makes it, CELLALIGN_WORKFLOW_TOOLS names another."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tool() -> Callable[[str], str]:
    """`tool(name)` is where it lies; without it the test is skipped, or fails if CELLALIGN_REQUIRE_TOOLS is set."""

    def find(name: str) -> str:
        folders = [os.environ.get("CELLALIGN_WORKFLOW_TOOLS", ""), str(ROOT / ".venv-workflows" / "bin")]
        found = shutil.which(name, path=os.pathsep.join(filter(None, folders))) or shutil.which(name)
        if found is None:
            assert not os.environ.get("CELLALIGN_REQUIRE_TOOLS"), f"{name} is not installed: make workflows"
            pytest.skip(f"{name} is not installed: make workflows")
        return found

    return find
