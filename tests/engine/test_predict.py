"""Draws: where they take what a model does not explain of a cell."""

import weakref

import numpy as np
import pytest
import torch

from cellalign.data.loader import Cells, as_matrix
from cellalign.engine.predict import _joined, check_finite, predictions
from cellalign.errors import ModelError
from cellalign.methods.base import Latent, Layout, Method, Point, Predicts, Trains
from cellalign.nn.minibatch import Fields

CPU = torch.device("cpu")


class KeepsFirst(Trains, Predicts, Method):
    """Embeds cells by their first gene, and explains nothing but that."""

    name, summary, responds_to = "first", "the first gene", frozenset()

    def __init__(self):
        super().__init__(None, Layout(2))

    def forward(self, batch, warmup=1.0):
        raise AssertionError("never trained")

    def encode(self, batch):
        return Latent.point(batch.x[:, :1])

    def predict(self, batch, do, *, draw=False):
        return Point(batch.x * torch.tensor([1.0, 0.0]))


def test_draws_take_from_all_cells_whatever_the_batches():
    """Cells of two kinds, far apart: of a batch with one cell of a kind too, a draw has the noise of its own kind."""
    kind = np.repeat([0.0, 100.0], 40)
    noise = np.where(kind == 0, 1.0, 7.0)
    x = torch.tensor(np.column_stack([kind, noise]), dtype=torch.float32)
    order = torch.arange(80).view(2, 40).T.reshape(-1)  # alternating, so that each batch of 3 holds both kinds
    mixed = Cells(as_matrix(x[order].numpy()), Fields(), (), 80)
    for size in (9, 300):
        drawn = list(predictions(KeepsFirst(), mixed, {}, device=CPU, residual=True, draws=3, batch_size=size))
        for each in np.concatenate([part["X"] for part in drawn], axis=1):
            np.testing.assert_allclose(each[:, 1], noise[order.numpy()], rtol=1e-6)


def test_what_is_not_finite_is_refused():
    drawn = np.zeros((2, 4, 3))
    check_finite(drawn, "predicts")
    drawn[1, 2, 0] = np.nan
    with pytest.raises(ModelError, match="predicts NaN or infinite values for 1 of 4 cells, the first cell 103;"):
        check_finite(drawn, "predicts", 100)


def test_what_batches_give_is_joined_as_it_comes_and_not_kept():
    """Small arrays that are kept until the end hold apart the memory between the large ones of a step."""
    alive = []

    def parts():
        for number in range(4):
            n = 3 if number < 3 else 1
            part = {"": np.full((n, 2), number, np.float32), "s": np.ones((n, 5))}
            alive.append(weakref.ref(part[""]))
            yield part
            del part
            assert sum(each() is not None for each in alive) <= 1

    found = _joined(parts(), 10)
    np.testing.assert_array_equal(found[""][:, 0], [0] * 3 + [1] * 3 + [2] * 3 + [3])
    assert found[""].dtype == np.float32 and found["s"].shape == (10, 5)
