"""The comparison with peers: what a runner is given, how what it writes is scored, what is kept. No peer is run here."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import cellalign
from tests.support import kang_raw

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks" / "peers"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the source archive has no benchmarks")


@pytest.fixture
def peers(monkeypatch):
    """benchmarks/peers/compare.py, whose folder does not stay on the path."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("compare_peers", FOLDER / "compare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
