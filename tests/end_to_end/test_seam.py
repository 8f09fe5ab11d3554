"""The seam: a method of another package works with every command, and nothing of cellalign changes for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = '''
"""A twenty-line method: a linear autoencoder whose decoder adds one learned shift per condition."""
from torch import nn
from cellalign.methods.base import CONDITION, Latent, Loss, Method, Point, Predicts, Trains

class Shift(Trains, Predicts, Method):
    name, summary, reference = "shift", "linear autoencoder with a shift per condition", "this test"
    responds_to = frozenset({CONDITION})

    def __init__(self, hyperparameters, layout):
        super().__init__(hyperparameters, layout)
        self.encoder = nn.Linear(layout.n_genes, self.hp.latent_dim)
        self.decoder = nn.Linear(self.hp.latent_dim, layout.n_genes)
        self.shift = nn.Embedding(layout.n_conditions, layout.n_genes)

    def encode(self, batch):
        return Latent.point(self.encoder(batch.x - self.shift(batch.condition)))

    def predict(self, batch, do, *, draw=False):
        return Point(self.decoder(self.encode(batch).z) + self.shift(batch.do(do).condition))

    def forward(self, batch, warmup=1.0):
        return Loss((batch.x - self.predict(batch, {}).mean).square().sum(1).mean())
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory) -> Path:
    """The package laid out as an installation lays it out: a module and its entry points, on the path."""
    site = tmp_path_factory.mktemp("site")
    (site / "cellalign_shift.py").write_text(PLUGIN)
    info = site / "cellalign_shift-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cellalign-shift\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cellalign.methods]\nshift = cellalign_shift:Shift\n")
    return site


def _on_the_path(site: Path) -> dict[str, str]:
    """Before what is there already, such as a source tree under test."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))}


@pytest.mark.slow
def test_every_command_works_with_it(plugin, cellalign, kang_like, tmp_path):
    run = cellalign(cwd=tmp_path, env=_on_the_path(plugin))
    assert "shift" in run("methods").stdout
    train = run(
        "train", kang_like, "--method", "shift", "--condition", "stim", "--epochs", "20", "--set", "latent_dim=8"
    )
    assert train.returncode == 0, train.stderr
    assert run("embed", "-o", "e.h5ad").returncode == 0
    assert run("counterfactual", "--to", "stimulated", "-o", "s.h5ad").returncode == 0
    for name, extra in (("e.h5ad", []), ("s.h5ad", ["--against", kang_like])):
        table = run("evaluate", name, *extra, "--condition", "stim", "--label", "cell_type", "--format", "csv")
        assert table.returncode == 0, table.stderr
        assert ("mixing" if not extra else "response") in table.stdout
    assert "X_shift" in subprocess.run(
        [sys.executable, "-c", "import anndata; print(anndata.read_h5ad('e.h5ad').obsm)"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


@pytest.mark.slow
def test_a_model_of_a_package_that_is_gone_says_so(plugin, cellalign, kang_like, tmp_path):
    run = cellalign(cwd=tmp_path, env=_on_the_path(plugin))
    assert run("train", kang_like, "--method", "shift", "--condition", "stim", "--epochs", "1").returncode == 0
    without = cellalign(cwd=tmp_path)("embed", "-o", "e.h5ad")
    assert without.returncode == 4
    assert "install the package" in without.stderr and len(without.stderr.strip().splitlines()) == 1
