"""The extensions of the site, which lie beside its pages."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def extension(monkeypatch) -> Callable[[str], ModuleType]:
    """`extension(name)` is a module of docs/_ext; skipped where what it needs is of the extra docs and not there."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))

    def load(name: str) -> ModuleType:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            pytest.skip(f"{error.name} is not installed: make docs")

    yield load
    for name in [name for name in sys.modules if name.startswith("site_") or name == "shell_kernel"]:
        del sys.modules[name]
