"""On a GPU the same numbers as on a CPU: penalties, likelihoods, and a training step of every method; skipped without.

CELLALIGN_TEST_DEVICE=cpu runs these tests on a CPU, which shows that they are right, and nothing of a GPU.
"""

import os
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from support import layout, minibatch

from cellalign.data.formats.on_disk import DenseOnDisk
from cellalign.data.loader import Cells
from cellalign.data.source import as_matrix
from cellalign.engine import feeding
from cellalign.engine.fit import fit
from cellalign.engine.plan import Plan
from cellalign.methods.capabilities import Trains
from cellalign.methods.registry import get, loadable
from cellalign.nn.likelihoods import LIKELIHOODS
from cellalign.nn.networks import Dropout
from cellalign.nn.normalisation import BatchNorm1d
from cellalign.nn.penalties import gaussian_total_correlation, misalignment, mmd, total_correlation
from cellalign.nn.share import Share, sharing
from cellalign.nn.sparse import SparseRows

NAME = os.environ.get("CELLALIGN_TEST_DEVICE", "cuda")
pytestmark = pytest.mark.skipif(NAME == "cuda" and not torch.cuda.is_available(), reason="needs CUDA")
DEVICE, CPU = torch.device(NAME), torch.device("cpu")
B, G, P = 200, 30, 5
TRAINED = [name for name, cls in loadable() if issubclass(cls, Trains)]


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def value_and_gradients(compute, *inputs, on):
    inputs = [x.to(on).requires_grad_() if x.is_floating_point() else x.to(on) for x in inputs]
    value = compute(*inputs)
    value.backward()
    return [value.detach().cpu(), *(x.grad.cpu() for x in inputs if x.grad is not None)]


Z, MEAN, SD = drawn(B, P), drawn(B, P, seed=1), drawn(B, P, seed=2).abs() + 0.3
CODE = torch.arange(B) % 3
PENALTIES = {
    "misalignment": lambda z, mean, sd, code: misalignment(z, mean, sd, code),
    "misalignment-floor": lambda z, mean, sd, code: misalignment(z, mean, sd, code, include_self=False, floor=1.0),
    "misalignment-values": lambda z, mean, sd, code: misalignment(z, mean, sd, code.float()),
    "mmd": lambda z, mean, sd, code: mmd(z, code, unbiased=True) + 0 * (mean.sum() + sd.sum()),
    "total-correlation": lambda z, mean, sd, code: total_correlation(z, mean, sd, 2, 1000, code),
    "gaussian": lambda z, mean, sd, code: gaussian_total_correlation(mean, sd, 2, code) + 0 * z.sum(),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties(name):
    here, there = (value_and_gradients(PENALTIES[name], Z, MEAN, SD, CODE, on=on) for on in (CPU, DEVICE))
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)


def test_a_penalty_takes_no_memory_of_pairs_by_latents():
    if DEVICE.type != "cuda":
        pytest.skip("memory is counted on CUDA")
    n, p = 2000, 200
    z, mean, sd = (x.to(DEVICE).requires_grad_() for x in (drawn(n, p), drawn(n, p), drawn(n, p).abs() + 0.5))
    code = (torch.arange(n) % 2).to(DEVICE)
    for penalty in PENALTIES.values():
        torch.cuda.reset_peak_memory_stats(DEVICE)
        before = torch.cuda.memory_allocated(DEVICE)
        penalty(z, mean, sd, code).backward()
        assert torch.cuda.max_memory_allocated(DEVICE) - before < 40 * n * n * 4 < n * n * p * 4


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods(name, sparse):
    torch.manual_seed(0)
    likelihood, x = LIKELIHOODS[name](8, G), torch.poisson(drawn(B, G).exp())
    found = []
    for on in (CPU, DEVICE):
        likelihood = likelihood.to(on)
        likelihood.zero_grad()
        batch = minibatch(SparseRows.of(x.to(on)) if sparse else x.to(on), layout(G, conditions=1))
        nll = likelihood(drawn(B, 8, seed=3).to(on), batch).nll(batch)
        nll.sum().backward()
        found.append([nll.detach().cpu(), *(p.grad.cpu() for p in likelihood.parameters() if p.grad is not None)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-2)


def of_method(name: str):
    cls = get(name)
    sizes = layout(G, 2, (2,), (2,), labels=3, control=0, cells=B)
    fields = cls.Hyperparameters.model_fields
    small = {"hidden": (8, 4, 8)} if name == "stgan" else {"hidden": (16,), "latent_dim": 4}
    # noise of a GPU is another: without it there is one outcome
    quiet = {"dropout": 0.0, "discriminator_dropout": 0.0, "posterior_scale": 1e-6, "covariate_dropout": 0.0}
    known = {key: value for key, value in (small | quiet).items() if key in fields}
    try:
        hp = cls.Hyperparameters(**known)
    except ValueError:
        hp = cls.Hyperparameters(**{k: v for k, v in known.items() if k != "posterior_scale"})
    torch.manual_seed(4)
    x = drawn(B, G).abs() if cls.reads(hp) == "log" else torch.poisson(drawn(B, G).exp())
    batch = minibatch(x, sizes, CODE % 2, [CODE % 2], [(CODE + 1) % 2], CODE % 3)
    return cls(hp, sizes), batch


@pytest.mark.parametrize("name", TRAINED)
def test_the_loss_and_gradient_of_every_method(name):
    method, batch = of_method(name)
    if any(word in name for word in ("svae", "scanvi")):
        method.eval()  # whose masks and u are drawn: the loss of the means is looked at below
    found = []
    for on in (CPU, DEVICE):
        method = method.to(on)
        method.zero_grad()
        torch.manual_seed(5)
        loss = method(batch.to(on), 1.0)
        loss.total.backward()
        gradient = torch.cat([p.grad.flatten().cpu() for p in method.parameters() if p.grad is not None])
        found.append((loss.total.detach().cpu(), gradient))
    if DEVICE.type == "cuda" and any(word in name for word in ("svae", "scanvi")):
        assert found[1][0].isfinite() and found[1][1].isfinite().all()
        torch.testing.assert_close(found[1][0], found[0][0], rtol=0.2, atol=1.0)
        return
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-2, atol=1e-3 * float(found[0][1].abs().max()))


def trained(precision="float32", seed=0, **plan):
    torch.manual_seed(seed)
    method, batch = of_method("comp")
    data = Cells(as_matrix(batch.x.numpy()), batch.fields, batch.columns, B)
    rows = torch.arange(B)
    plan = Plan(epochs=4, batch_size=40, precision=precision, **plan)
    state = fit(method, data, rows[:160], rows[160:], plan, device=DEVICE, seed=seed)
    return method, state


def test_cells_that_stay_in_the_cpus_memory_train_the_same_model(monkeypatch):
    whole, _ = trained()
    place = feeding.placed
    monkeypatch.setattr("cellalign.engine.fit.placed", lambda cells, device: place(cells, device, 0))
    brought, _ = trained()
    for a, b in zip(whole.state_dict().values(), brought.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_products_in_bfloat16_lose_little(monkeypatch):
    monkeypatch.setattr("cellalign.nn.products.WORTH_ROUNDING", 0)
    losses = [trained(precision)[1].history[-1]["train_loss"] for precision in ("float32", "bfloat16")]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_a_step_is_not_of_tf32():
    a, b = drawn(512, 512).to(DEVICE), drawn(512, 512, seed=1).to(DEVICE)
    exact = (a.double() @ b.double()).float()
    assert float((a @ b - exact).abs().max()) < 1e-3 and not torch.backends.cuda.matmul.allow_tf32


def test_out_of_memory_halves_the_batch(monkeypatch, caplog):
    forward, seen = get("comp").forward, []

    def within(self, batch, warmup=1.0):
        seen.append(len(batch))
        if len(batch) > 25:
            if DEVICE.type == "cuda":
                torch.empty(1 << 50, dtype=torch.uint8, device=DEVICE)  # of the allocator's own making
            raise torch.OutOfMemoryError
        return forward(self, batch, warmup)

    monkeypatch.setattr(get("comp"), "forward", within)
    _, state = trained()
    assert state.halvings == 1 and max(seen[1:]) <= 20 and "training begins anew" in caplog.text


def shares(sizes):
    """As the processes of a batch see it one after another: what all have is known beforehand."""
    return [Share(tuple(sizes), place, lambda values: values[None]) for place in range(len(sizes))]


def test_noise_of_a_share_is_that_of_the_batch():
    for layer in (Dropout(0.3).train(),):
        x = torch.ones(B, G, device=DEVICE)
        torch.manual_seed(7)
        whole = layer(x)
        parts = []
        for share in shares((70, 130)):
            torch.manual_seed(7)
            with sharing(share):
                parts.append(layer(x[share.rows]))
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=0)


def test_batch_normalisation_of_a_share_that_is_all():
    x, (share,) = drawn(B, G).to(DEVICE), shares((B,))
    own, torchs = BatchNorm1d(G).to(DEVICE).train(), torch.nn.BatchNorm1d(G).to(DEVICE).train()
    with sharing(share):
        found = own(x)
    torch.testing.assert_close(found, torchs(x), rtol=1e-4, atol=1e-5)
    for a, b in zip(own.buffers(), torchs.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_sparse_batches_are_what_dense_ones_are():
    x = torch.poisson(drawn(B, G).exp())
    there = SparseRows.of(x).to(DEVICE)
    np.testing.assert_array_equal(there.dense().cpu(), x)
    assert replace(there).sums().cpu().allclose(x.sum(1))


def test_rows_from_disk_are_those_that_are_read_there(tmp_path):
    """Moved from pinned memory by the thread that reads, while this one computes."""
    x = torch.poisson(drawn(B, G).exp()).numpy()
    with h5py.File(tmp_path / "x.h5", "w") as handle:
        handle["x"] = x
        cells = Cells(as_matrix(DenseOnDisk(handle["x"], "x")), [], (), B).to(DEVICE)
        parts = [torch.randperm(B, generator=torch.Generator().manual_seed(i))[:50] for i in range(20)]
        for rows, batch in zip(parts, cells.batches(parts), strict=True):
            assert batch.device.type == DEVICE.type
            np.testing.assert_array_equal(batch.x.cpu(), x[rows])
