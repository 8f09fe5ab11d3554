"""The operations as torch sees them: checked by torch itself, traced, and with compiled loops turned off."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from cellalign.nn.counts import negative_binomial_nll, zero_inflated_nll
from cellalign.nn.kernels import ops
from cellalign.nn.networks import SPARSE_BELOW, ContextLinear
from cellalign.nn.sparse import SparseRows


@pytest.fixture(params=["compiled", "tensors"])
def form(request, monkeypatch):
    if request.param == "tensors":
        monkeypatch.setattr(ops, "unavailable", lambda: "of this test")


@pytest.fixture
def cells():
    torch.manual_seed(0)
    x = torch.poisson(torch.rand(6, 9) / 3)
    logits, log_theta, dropout = (torch.randn(*shape).requires_grad_() for shape in ((6, 9), (9,), (6, 9)))
    return SparseRows.of(x), logits, x.sum(1, keepdim=True) + 1, log_theta, dropout


def stored(x):
    return x.start, x.column, x.value


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("inflated", [False, True])
@pytest.mark.parametrize(("gradient", "summed"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torch_accepts_the_likelihood(cells, inflated, gradient, summed, dtype):
    counts, logits, library, log_theta, dropout = cells
    logits, dropout = (values.detach().to(dtype).requires_grad_() for values in (logits, dropout))
    given = [logits, library, log_theta, dropout if inflated else None]
    if summed or not gradient:
        given = [None if values is None else values.detach() for values in given]
    rest = ops.share(6), gradient, summed
    torch.library.opcheck(torch.ops.cellalign.count_nll.default, (*stored(counts), *given, *rest))


@pytest.mark.usefixtures("form")
def test_torch_accepts_the_product(cells):
    grad = torch.randn(6, 4, requires_grad=True)
    torch.library.opcheck(torch.ops.cellalign.transposed_product.default, (*stored(cells[0]), grad, 9))
    assert torch.autograd.gradcheck(
        lambda g: ops.transposed_product(cells[0].map(torch.Tensor.double), g), grad.double()
    )


def test_fake_tensors_have_the_shapes_of_real_ones(cells):
    real = [zero_inflated_nll(*cells), negative_binomial_nll(*cells[:-1])]
    counts, *others = cells
    mode = FakeTensorMode()
    fake = [mode.from_tensor(values.detach()).requires_grad_(values.requires_grad) for values in others]
    counts = SparseRows(*(mode.from_tensor(values) for values in stored(counts)), 9)
    with mode:
        traced = [zero_inflated_nll(counts, *fake), negative_binomial_nll(counts, *fake[:-1])]
        gradients = torch.autograd.grad((traced[0] + traced[1]).sum(), [fake[0], fake[2], fake[3]])
        product = ops.transposed_product(counts, torch.empty(6, 4))
    assert [(one.shape, one.dtype) for one in real] == [(one.shape, one.dtype) for one in traced]
    assert [g.shape for g in gradients] == [(6, 9), (9,), (6, 9)]
    assert product.shape == (9, 4)


class Model(torch.nn.Module):
    """What scVI does with them."""

    def __init__(self):
        super().__init__()
        self.first, self.out = ContextLinear(9, 5), torch.nn.Linear(5, 18)
        self.log_theta = torch.nn.Parameter(torch.zeros(9))

    def forward(self, start, column, value):
        counts = SparseRows(start, column, value, 9)
        logits, dropout = self.out(self.first(counts, value.new_empty(len(counts), 0))).chunk(2, 1)
        return zero_inflated_nll(counts, logits, counts.sums()[:, None], self.log_theta, dropout).mean()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_torch_compiles_a_module_that_uses_them(cells, backend):
    model = Model()
    assert cells[0].density < SPARSE_BELOW
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    found = []
    for form in (model, compiled):
        model.zero_grad()
        cost = form(*stored(cells[0]))
        cost.backward()
        found.append([cost.detach(), *(p.grad for p in model.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_shapes_are_looked_at(cells):
    with pytest.raises(ValueError, match="6 rows"):
        ops.transposed_product(cells[0], torch.zeros(5, 4))


@pytest.fixture
def fresh():
    """Nothing is decided yet, nor afterwards."""
    ops.unavailable.cache_clear()
    ops._log_once.cache_clear()
    yield
    ops.unavailable.cache_clear()
    ops._log_once.cache_clear()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("setting", ["0", "false", "No"])
def test_compiled_loops_can_be_turned_off(cells, monkeypatch, caplog, setting):
    caplog.set_level(logging.DEBUG, "cellalign")
    monkeypatch.setenv("CELLALIGN_COMPILED", setting)
    monkeypatch.setattr("cellalign.nn.kernels.likelihood.count_nll", lambda *_: pytest.fail("compiled"))
    zero_inflated_nll(*cells)
    zero_inflated_nll(*cells)
    assert ops.compiled_loops() == f"tensor operations (CELLALIGN_COMPILED={setting})"
    assert [record.getMessage() for record in caplog.records] == [
        f"likelihood and sparse products: tensor operations (CELLALIGN_COMPILED={setting})"
    ]


@pytest.mark.usefixtures("fresh")
def test_the_log_says_once_that_they_are_compiled(cells, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG, "cellalign")
    monkeypatch.delenv("CELLALIGN_COMPILED", raising=False)
    zero_inflated_nll(*cells)
    zero_inflated_nll(*cells)
    said = [record.getMessage() for record in caplog.records if "products:" in record.getMessage()]
    assert said == [f"likelihood and sparse products: {ops.compiled_loops()}"]
    assert "compiled (numba" in said[0]


@pytest.mark.usefixtures("fresh")
def test_a_numba_that_fails_is_done_without(cells, monkeypatch, caplog):
    class Broken:
        @property
        def ready(self):
            raise OSError("no LLVM")

    expected = zero_inflated_nll(*cells)
    ops.unavailable.cache_clear()
    monkeypatch.setattr("cellalign.nn.kernels.likelihood.KERNEL", Broken())
    torch.testing.assert_close(zero_inflated_nll(*cells), expected, rtol=1e-5, atol=1e-5)
    ops.transposed_product(cells[0], torch.ones(6, 4))
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "numba cannot compile here, so training is slower: no LLVM"
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("missing", ["numba", "llvmlite"])
def test_a_missing_numba_is_done_without(cells, missing):
    script = f"""
import sys
sys.modules[{missing!r}] = None
import torch
from cellalign.nn.sparse import SparseRows
from cellalign.nn.counts import negative_binomial_nll
from cellalign.nn.kernels import ops
cost = negative_binomial_nll(SparseRows.of(torch.ones(2, 3)), torch.zeros(2, 3), torch.ones(2, 1), torch.zeros(3))
assert cost.isfinite().all() and ops.compiled_loops().startswith("tensor operations (numba cannot compile here")
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


TRAINING = """
import json, anndata, numpy as np, cellalign
rng = np.random.default_rng(0)
adata = anndata.AnnData(rng.poisson(0.5, (200, 60)).astype("float32"))
adata.layers["counts"] = adata.X.copy()
adata.obs["batch"] = np.where(np.arange(200) % 2, "a", "b")
options = {"method": "scvi", "batch": ["batch"], "layer": "counts", "device": "cpu", "threads": 2}
model = cellalign.train(adata, epochs=3, seed=0, **options)
print(json.dumps([row["train_loss"] for row in model.history]))
"""


@pytest.mark.slow
def test_training_without_compiled_loops_is_the_same():
    losses = []
    for setting in ("1", "0"):
        environment = os.environ | {"CELLALIGN_COMPILED": setting}
        done = subprocess.run(
            [sys.executable, "-c", TRAINING], capture_output=True, text=True, check=True, timeout=300, env=environment
        )
        losses.append(json.loads(done.stdout.splitlines()[-1]))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
