"""Two ranks, each on a GPU of its own, train as one with the double batch: the numbers that gloo is asked for, of nccl.

Skipped with fewer than two GPUs. CELLALIGN_TEST_DEVICE=cpu runs it with gloo, which shows that the test is right, and
nothing of nccl.
"""

import os

import numpy as np
import pytest
import torch

from tests.engine.test_ranks import QUICK, REST, compared, in_float64, losses, predicts_as_one

ON_CPU = os.environ.get("CELLALIGN_TEST_DEVICE", "cuda") == "cpu"
BACKEND = "gloo" if ON_CPU else "nccl"
pytestmark = pytest.mark.skipif(
    not ON_CPU and not (torch.cuda.device_count() > 1 and torch.distributed.is_nccl_available()),
    reason="needs two CUDA devices and nccl",
)


def test_two_train_as_one_and_predict_as_one(tmp_path):
    one, several = in_float64(tmp_path, QUICK, backend=BACKEND)
    predicts_as_one(one["comp"], [rank["comp"] for rank in several])


@pytest.mark.slow
def test_so_does_every_method_that_several_can_train(tmp_path):
    in_float64(tmp_path, REST, backend=BACKEND)


@pytest.mark.slow
def test_in_float32_losses_are_as_near_as_rounding_lets_them(tmp_path):
    one, several = compared(tmp_path, "float32", QUICK, backend=BACKEND)
    for name in QUICK:
        for part in ("train_", "validation_"):
            before, after = (losses(found[name]["history"], part) for found in (one, several[0]))
            np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5, err_msg=name)
