"""The corpus unpacked, and models of the same cells in the plainest of files."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpus.drive import Reference, make_reference
from corpus.manifest import unpack


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "corpus" in item.path.parts:
            item.add_marker("process")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """The folder that holds every file of the corpus; not to be changed."""
    folder = tmp_path_factory.mktemp("corpus")
    unpack(folder)
    return folder


@pytest.fixture(scope="session")
def reference(corpus, tmp_path_factory) -> Reference:
    """Models of these cells, and what they say of them."""
    return make_reference(corpus / "plain.h5ad", tmp_path_factory.mktemp("reference"))
