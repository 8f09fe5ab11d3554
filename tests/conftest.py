"""Fixtures that all tests share: the real cells, a seed, and a tiny data set with a known response.

The real cells are looked for in the folder named by CELLALIGN_TEST_DATA, by default ../shared/data beside the
repository. Where they are absent a test that needs them is skipped, or fails if CELLALIGN_REQUIRE_DATA or CI is
set.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

# Workers of pytest-xdist share the cores; this has to be said before numpy and torch are imported. numba's parallel
# loops, scanpy's, set the number of threads of the OpenMP library that torch uses too.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if "numba" not in sys.modules:  # a plugin of pytest may have imported it, and then it takes no other number
        os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from running import in_this_process
from scipy import sparse

# A job in the background of a script is started with Ctrl-C ignored, one under nohup with SIGHUP ignored as well, and
# so would be what its tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parent.parent
CELL_TYPES = ("B", "CD14 Mono", "NK")


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() not in ("", "0", "false", "no")


def _data_file(name: str) -> Path:
    folder = Path(os.environ.get("CELLALIGN_TEST_DATA") or ROOT.parent / "shared" / "data")
    path = (ROOT / folder / name).resolve()
    if not path.is_file():
        message = f"{name} is not in {folder}; set CELLALIGN_TEST_DATA to the folder that holds it"
        if _is_set("CELLALIGN_REQUIRE_DATA") or _is_set("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What drives the command is marked so by its folder, and what bears no mark is a unit test."""
    for item in items:
        if "end_to_end" in item.path.parts:
            item.add_marker("process")
        elif not any(item.get_closest_marker(name) for name in ("process", "learns", "slow")):
            item.add_marker("unit")


@pytest.fixture(scope="session")
def kang_path() -> Path:
    """2,000 real cells x 9,015 genes, raw counts in X, obs stim and cell_type."""
    return _data_file("kang_2k.h5ad")


@pytest.fixture(autouse=True)
def messages():
    """A command run within a test leaves its handlers and level on the logger; the next test has none of it."""
    logger = logging.getLogger("cellalign")
    before = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers, logger.propagate = list(before[0]), before[2]
    logger.setLevel(before[1])


@pytest.fixture(scope="session")
def mistaken() -> Callable:
    """`mistaken(cwd=..., env=...)` runs the command's entry in this process: for the many command lines that fail.

    `test_a_mistake_in_a_process_of_its_own` shows that a process of its own says the same.
    """

    def at(cwd: Path, env: dict[str, str] | None = None) -> Callable:
        return lambda *arguments: in_this_process(arguments, cwd, env)

    return at


@pytest.fixture
def seed() -> int:
    """The seed of every test that draws something."""
    return 0


def make_counts(n_cells: int = 240, n_genes: int = 60, seed: int = 0) -> ad.AnnData:
    """Poisson counts of three cell types under two conditions.

    Each cell type has eight marker genes of its own; stimulation raises the next ten genes by a factor that
    differs by cell type. X holds counts (CSR, float32); obs has stim, cell_type and donor.
    """
    rng = np.random.default_rng(seed)
    kind = np.arange(n_cells) % len(CELL_TYPES)
    stimulated = np.arange(n_cells) // len(CELL_TYPES) % 2 == 1
    log_mean = np.tile(rng.normal(0.3, 0.5, n_genes), (n_cells, 1))
    for code in range(len(CELL_TYPES)):
        log_mean[np.ix_(kind == code, np.arange(8 * code, 8 * code + 8))] += 2.0
    responding = slice(8 * len(CELL_TYPES), 8 * len(CELL_TYPES) + 10)
    log_mean[:, responding] += np.where(stimulated, 1.0 + 0.3 * kind, 0.0)[:, None]
    depth = rng.lognormal(0.0, 0.2, (n_cells, 1))
    counts = rng.poisson(np.exp(log_mean) * depth).astype(np.float32)
    obs = pd.DataFrame(
        {
            "stim": pd.Categorical(np.where(stimulated, "stimulated", "control")),
            "cell_type": pd.Categorical.from_codes(kind, list(CELL_TYPES)),
            "donor": pd.Categorical(rng.choice(["d1", "d2"], n_cells)),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)])
    return ad.AnnData(X=sparse.csr_matrix(counts), obs=obs, var=var)


def preprocessed(adata: ad.AnnData) -> ad.AnnData:
    """The same cells as `cellalign preprocess` leaves them: counts in a layer, X normalised log1p (CSR float32)."""
    result = adata.copy()
    result.layers["counts"] = adata.X.copy()
    library = np.asarray(adata.X.sum(axis=1)).ravel()
    scaled = sparse.diags(np.median(library) / library) @ adata.X
    result.X = sparse.csr_matrix(scaled).astype(np.float32).log1p()
    return result


@pytest.fixture
def tiny_counts() -> ad.AnnData:
    """240 cells x 60 genes, raw counts in X; a fresh copy for every test."""
    return make_counts()


@pytest.fixture
def tiny() -> ad.AnnData:
    """240 cells x 60 genes, X normalised log1p, counts in layers["counts"]; a fresh copy for every test."""
    return preprocessed(make_counts())


@pytest.fixture(scope="session")
def tiny_cells() -> ad.AnnData:
    """As `tiny`, but one for all tests: not to be changed."""
    return preprocessed(make_counts())


@pytest.fixture
def tiny_path(tiny: ad.AnnData, tmp_path: Path) -> Path:
    """The preprocessed tiny data as a file."""
    path = tmp_path / "tiny.pp.h5ad"
    tiny.write_h5ad(path)
    return path


@pytest.fixture
def tiny_counts_path(tiny_counts: ad.AnnData, tmp_path: Path) -> Path:
    """The raw counts of the tiny data as a file."""
    path = tmp_path / "tiny.h5ad"
    tiny_counts.write_h5ad(path)
    return path


@pytest.fixture(scope="session")
def shifts() -> ad.AnnData:
    """36 interventions of 60 cells and 100 control cells, 4 latents, 40 genes; the last 6 interventions held out."""
    from cellalign import simulate

    return simulate.sparse_shift(36, 60, n_latent=4, n_genes=40, n_heldout=6, n_controls=100, targets=(1, 2), seed=0)


@pytest.fixture(scope="session")
def svae_model(shifts):
    """svae+ trained on the 30 interventions that are not held out."""
    import cellalign

    train = shifts[shifts.obs["split"] == "train"].copy()
    settings = {"latent_dim": 4, "hidden": [64, 64], "batch_size": 128, "epochs": 60}
    return cellalign.train(train, method="svae+", condition="perturbation", settings=settings)
