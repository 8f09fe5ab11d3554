"""A command imports what it needs: commands run one after the other in a process, which tells after each what is there.

What none of them may import is far more than a user waits for: torch's compiler takes a second, scanpy one and a half.
"""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

WATCHED = ("numpy", "pandas", "scipy.sparse", "h5py", "anndata", "torch", "numba", "sklearn", "scipy.stats")
WATCHED += ("umap", "pynndescent", "matplotlib", "scanpy", "torch._dynamo", "torch.onnx", "sympy", "networkx", "jax")

RUN = """
import json, sys
from cellalign.cli import app
for words in json.loads(sys.argv[1]):
    sys.argv = ["cellalign", *words.split()]
    status = app._run()
    there = [name for name in json.loads(sys.stdin.readline()) if name in sys.modules]
    print("\\n" + json.dumps([words, status, there]))
"""
# each with what it adds to that of those before it
WITHOUT_TORCH = {
    "methods": [],
    "methods --metrics": ["numpy", "pandas", "scipy.sparse"],
    "simulate ifnb --cells 40 --genes 60 -o simulated.h5ad": ["h5py", "anndata"],
    "preprocess simulated.h5ad -o simulated.pp.h5ad": [],
    "preprocess simulated.h5ad --n-top-genes 50 -o fewer.pp.h5ad": ["numba", "sklearn", "scipy.stats", "matplotlib"]
    + ["scanpy"],
}
FAST = "--set hidden=[8] --set latent_dim=3 --epochs 1"
WITH_TORCH = {
    f"train {{cells}} --condition stim {FAST} -m comp": ["numpy", "pandas", "scipy.sparse", "h5py", "anndata", "torch"]
    + ["numba"],
    f"train {{cells}} --condition stim --method scvi {FAST} -m scvi": [],
    f"train {{cells}} --condition stim --method svae+ {FAST} -m svae": [],
    "embed {cells} -m comp -o emb.h5ad": [],
    "counterfactual {cells} -m comp --to stimulated -o predicted.h5ad": [],
    "counterfactual {cells} -m scvi --to stimulated -o counts.h5ad --draw": [],
    "targets -m svae -o targets.csv": [],
    f"tune {{cells}} --condition stim --grid gamma=0.5 --seeds 1 --by loss {FAST} -m tuned": [],
    "evaluate predicted.h5ad --against {cells} --condition stim --label cell_type --panel response": ["scipy.stats"],
    "evaluate emb.h5ad --condition stim --label cell_type --panel mixing,probe": ["sklearn"],
    "annotate {cells} --label cell_type -m comp -o annotated.h5ad": [],
    "embed {cells} -m comp -o umap.h5ad --umap": ["umap", "pynndescent"],
    "embed {cells} -m comp -o umap2.h5ad --plot umap.png": ["matplotlib"],
}


@pytest.mark.parametrize(
    "expected",
    [
        pytest.param(WITHOUT_TORCH, id="without torch"),
        pytest.param(WITH_TORCH, id="with torch", marks=pytest.mark.slow),
    ],
)
def test_a_command_imports_what_it_needs(expected, tiny_path, tmp_path):
    added = {words.format(cells=tiny_path): names for words, names in expected.items()}
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(list(added))],
        input=(json.dumps(WATCHED) + "\n") * len(added),
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["')]
    allowed: set[str] = set()
    for (words, names), (ran, status, there) in zip(added.items(), told, strict=True):
        allowed |= set(names)
        assert (ran, status) == (words, 0), done.stderr
        assert sorted(set(there) - allowed) == [], words
