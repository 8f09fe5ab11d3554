"""The training loop: reproducible, resumable, stops on divergence, keeps the best weights."""

import logging
import os

import numpy as np
import pytest
import torch
from support import StopAfter, layout

from cellalign.data.loader import Cells, as_matrix
from cellalign.engine import device
from cellalign.engine.checkpoint import Checkpoint
from cellalign.engine.device import pick_device
from cellalign.engine.feeding import bytes_of, placed
from cellalign.engine.fit import fit
from cellalign.engine.plan import Plan
from cellalign.errors import ModelError, TrainingError, UsageError
from cellalign.methods.registry import get
from cellalign.nn.minibatch import Minibatch
from cellalign.nn.sparse import SparseRows

CPU = torch.device("cpu")
SIZES = layout(20)


def cells(n=120, genes=20, order=None):
    rng = np.random.default_rng(0)
    condition = (np.arange(n) if order is None else order) % 2
    x = rng.normal(size=(n, 3)) @ rng.normal(size=(3, genes)) + condition[:, None] + 0.1 * rng.normal(size=(n, genes))
    return Cells(as_matrix(x.astype(np.float32)), SIZES.fields, (torch.from_numpy(condition),), n)


def run(plan=None, *, seed=0, method="comp", checkpoint=None, progress=None, data=None):
    torch.manual_seed(seed)
    cls = get(method)
    module = cls(cls.Hyperparameters(hidden=(16,), latent_dim=2), SIZES)
    rows = torch.arange(120)
    plan = plan or Plan(epochs=6, batch_size=32)
    state = fit(
        module, data or cells(), rows[:100], rows[100:], plan,
        device=CPU, seed=seed, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return module, state


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_loss_falls_and_history_is_complete():
    _, state = run(Plan(epochs=40, batch_size=32))
    assert state.history[-1]["train_loss"] < state.history[0]["train_loss"] - 5
    assert [row["epoch"] for row in state.history] == list(range(1, 41))
    expected = {"epoch", "step", "lr", "seconds"}
    for part in ("loss", "reconstruction", "kl", "penalty"):
        expected |= {f"train_{part}", f"validation_{part}"}
    assert set(state.history[0]) == expected


def test_what_finishes_a_method_meets_shuffled_training_cells_in_equal_parts(monkeypatch):
    """In a file sorted by condition no batch is of one condition alone."""
    met = []

    def remember(self, batches):
        met.extend([*batches()] for _ in range(2))

    monkeypatch.setattr(get("scgen"), "fit_closed_form", remember)
    data = cells(order=np.argsort(np.arange(120) % 2, kind="stable"))
    run(Plan(epochs=1, batch_size=30), method="scgen", data=data)
    assert [len(batch) for batch in met[0]] == [25] * 4
    assert all(0.2 < batch.condition.float().mean() < 0.8 for batch in met[0])
    assert all(torch.equal(a.x, b.x) for a, b in zip(*met, strict=True))


def test_same_seed_same_weights_and_other_seed_others():
    first, again, other = run()[0], run()[0], run(seed=1)[0]
    assert same(first, again)
    assert not same(first, other)


def test_an_interrupted_run_resumed_ends_in_the_same_weights(tmp_path):
    whole, state = run()
    checkpoint = Checkpoint.beside(tmp_path / "model", {"seed": 0})
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=checkpoint, progress=StopAfter(3))
    assert checkpoint.exists()
    resumed, again = run(checkpoint=checkpoint)
    assert same(whole, resumed)
    assert [r["train_loss"] for r in again.history] == [r["train_loss"] for r in state.history]


def test_a_checkpoint_of_other_settings_or_damaged_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=Checkpoint.beside(tmp_path / "m", {"seed": 0}), progress=StopAfter(1))
    with pytest.raises(ModelError, match="another seed"):
        run(checkpoint=Checkpoint.beside(tmp_path / "m", {"seed": 1}))
    (tmp_path / "m.partial" / "state.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ModelError, match="is damaged"):
        run(checkpoint=Checkpoint.beside(tmp_path / "m", {"seed": 0}))


def test_divergence_names_the_step_and_the_part():
    data = cells()
    data.matrix.values[:] = float("inf")
    said = r"rate 0.001: the loss \(reconstruction.*\) is not finite at step 1 \(a batch of 25 cells"
    with pytest.raises(TrainingError, match=said + r".*which holds inf of gene"):
        run(data=data)


def test_best_weights_are_kept():
    module, state = run(Plan(epochs=30, batch_size=32, lr=0.05, schedule="constant", precision="float32"))
    losses = [row["validation_loss"] for row in state.history]
    assert state.best_loss == min(losses) and state.best_epoch == int(np.argmin(losses)) + 1
    module.eval()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        again = float(module(cells().batch(torch.arange(100, 120)), 1.0).total)
    assert again == pytest.approx(state.best_loss, rel=1e-5)


def test_early_stopping_stops_and_can_be_turned_off():
    plan = Plan(epochs=60, batch_size=32, lr=0.1, schedule="constant", patience=0.05)
    assert run(plan, method="cvae")[1].epoch < 60
    assert run(plan.model_copy(update={"early_stopping": False}), method="cvae")[1].epoch == 60


def test_schedules():
    plan = Plan(lr=1.0)
    rates = [plan.learning_rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 25) and max(rates) == pytest.approx(1, abs=0.01) and rates[-1] < 1e-4
    assert {Plan(lr=0.3, schedule="constant").learning_rate(step, 10) for step in range(10)} == {0.3}
    cosine = [Plan(lr=1.0, schedule="cosine").learning_rate(step, 10) for step in range(10)]
    assert cosine == sorted(cosine, reverse=True) and cosine[0] == 1


def test_epochs_grow_with_the_data():
    plan = Plan(batch_size=512)
    steps = {n: plan.resolve_epochs(n) * -(-n // 512) for n in (500, 2_000, 20_000, 100_000)}
    assert 1000 <= steps[2_000] < 1100 and steps[500] >= 1000
    assert 3100 < steps[20_000] < 3300 and 7000 < steps[100_000] < 7400
    fewer = Plan(batch_size=512, epoch_rule="fewer-steps")
    left_out = {n: steps[n] - fewer.resolve_epochs(n) * -(-n // 512) for n in steps}
    assert all(340 <= left_out[n] <= 380 or n == 100_000 and 196 <= left_out[n] <= 392 for n in steps)  # whole epochs
    half = Plan(batch_size=512, epoch_rule="half-steps")
    assert all(half.resolve_epochs(n) == -(-plan.resolve_epochs(n) // 2) for n in (500, 2_000, 20_000, 100_000))


def test_warm_up_goes_by_a_share_of_the_epochs_where_no_number_is_given():
    assert Plan().resolve_warmup(30) == 0 and Plan(warmup_share=0.33).resolve_warmup(30) == 9
    assert (
        Plan(warmup_share=0.33, warmup_epochs=0).resolve_warmup(30) == 0
        and Plan(warmup_epochs=4).resolve_warmup(2) == 4
    )


def test_devices():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in {"cpu", "cuda", "mps"}
    with pytest.raises(UsageError, match="unknown device 'tpu'"):
        pick_device("tpu")
    with pytest.raises(UsageError, match="at least 1"):
        pick_device("cpu", threads=0)


@pytest.mark.parametrize("variable", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_what_the_user_set_of_malloc_stays(monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(device.ctypes, "CDLL", lambda _: pytest.fail("mallopt was called"))
    device.keep_freed_memory.__wrapped__()


def test_machines_without_glibc_train_all_the_same(monkeypatch):
    def missing(name):
        raise OSError(name)

    for variable in [name for name in os.environ if name.startswith("MALLOC_")] + ["GLIBC_TUNABLES"]:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(device.ctypes, "CDLL", missing)
    device.keep_freed_memory.__wrapped__()


# where batches do not fit into a GPU's memory


@pytest.fixture
def small(monkeypatch):
    """Memory for batches of so many cells, and no more."""

    def of(most: int, after: int = 0):
        forward, seen = get("comp").forward, []

        def within(self, batch, warmup=1.0):
            seen.append(len(batch))
            if len(batch) > most and len(seen) > after:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(self, batch, warmup)

        monkeypatch.setattr(get("comp"), "forward", within)
        return seen

    return of


def test_batches_are_halved_until_they_fit_as_if_they_had_been_asked_for(small, caplog):
    asked, state = run(Plan(epochs=3, batch_size=16))
    small(20)
    with caplog.at_level(logging.WARNING, "cellalign"):
        found, halved = run(Plan(epochs=3, batch_size=64))
    assert same(asked, found) and halved.halvings == 2 and halved.step == state.step
    assert [row["train_loss"] for row in halved.history] == [row["train_loss"] for row in state.history]
    assert [r.message for r in caplog.records] == [
        f"out of memory on cpu: training begins anew with batch_size={size}" for size in (32, 16)
    ]


def test_a_run_that_was_halved_is_taken_up_so(small, tmp_path):
    whole, _ = run(Plan(epochs=5, batch_size=16))
    small(20)
    checkpoint = Checkpoint.beside(tmp_path / "model", {"seed": 0})
    with pytest.raises(KeyboardInterrupt):
        run(Plan(epochs=5, batch_size=32), checkpoint=checkpoint, progress=StopAfter(2))
    assert checkpoint.kept().state["halvings"] == 1
    resumed, state = run(Plan(epochs=5, batch_size=32), checkpoint=checkpoint)
    assert same(whole, resumed) and state.halvings == 1 and state.epoch == 5


def test_tiny_batches_and_later_epochs_are_not_begun_anew(small):
    small(3)
    with pytest.raises(TrainingError, match="out of memory on cpu; try batch_size=16"):
        run(Plan(epochs=3, batch_size=32), data=cells())
    small(3, after=40)
    with pytest.raises(TrainingError, match="out of memory"):
        run(Plan(epochs=30, batch_size=32))


def test_a_matrix_that_does_not_fit_on_the_device_stays_and_batches_are_brought(monkeypatch, caplog):
    """On a CPU nothing is brought; the path is the same."""
    data, moved = cells(), []
    assert bytes_of(data.matrix) == 120 * 20 * 4 == bytes_of(data.part(torch.arange(5)).matrix)
    assert placed(data, CPU).matrix is not data.matrix and placed(data, CPU, 120 * 20 * 4).device == CPU
    with caplog.at_level(logging.INFO, "cellalign"):
        assert placed(data, CPU, 9_599) is data
    assert caplog.messages == ["the cells take 9.6 kB, more than there is on cpu: batches are brought there"]
    whole, _ = run(data=data)
    monkeypatch.setattr("cellalign.engine.fit.placed", lambda given, device: given)
    monkeypatch.setattr(Minibatch, "device", property(lambda self: torch.device("meta")))  # anywhere but here
    monkeypatch.setattr(Minibatch, "to", lambda self, device, non_blocking: moved.append(len(self)) or self)
    found, _ = run(data=data)
    assert same(whole, found) and sum(moved) == 6 * 120


def test_batches_are_moved_with_all_that_is_of_them():
    batch = cells().batch(torch.arange(4))
    sparse = SparseRows.of(batch.x)
    for there in (
        batch.to(torch.device("meta")),
        Minibatch(sparse, SIZES.fields, batch.columns).to(torch.device("meta")),
    ):
        assert there.device.type == "meta" and len(there) == 4 and there.condition.device.type == "meta"
