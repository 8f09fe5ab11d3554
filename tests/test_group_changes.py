"""Changes in closed form against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cellalign.group_changes import likeness, local_shift


def by_loops(control, controls, changes, sharpness, shrink):
    distance = [math.sqrt(sum((a - b) ** 2 for a, b in zip(control, row, strict=True))) for row in controls]
    scale = sum(distance) / len(distance)
    raw = [math.exp(-sharpness * d / scale) for d in distance]
    found = []
    for g in range(len(control)):
        change = sum(w * row[g] for w, row in zip(raw, changes, strict=True)) / sum(raw)
        near = sum(w * row[g] for w, row in zip(raw, controls, strict=True)) / sum(raw)
        found.append(change - shrink * (control[g] - near))
    return found


@pytest.mark.parametrize(("sharpness", "shrink"), [(0.0, 0.0), (4.0, 0.0), (4.0, 0.2), (8.0, 0.4)])
def test_local_shift_is_its_formula(sharpness, shrink):
    rng = np.random.default_rng(0)
    control, controls, changes = rng.normal(size=7), rng.normal(size=(5, 7)), rng.normal(size=(5, 7))
    found = local_shift(control, controls, changes, sharpness=sharpness, shrink=shrink)
    np.testing.assert_allclose(found, by_loops(control, controls, changes, sharpness, shrink), atol=1e-12)
    if sharpness == shrink == 0:
        np.testing.assert_allclose(found, changes.mean(0))


def test_several_groups_at_once_and_one_group_alone():
    rng = np.random.default_rng(1)
    many, controls, changes = rng.normal(size=(3, 4)), rng.normal(size=(2, 4)), rng.normal(size=(2, 4))
    each = [local_shift(row, controls, changes, shrink=0.2) for row in many]
    np.testing.assert_allclose(local_shift(many, controls, changes, shrink=0.2), each)
    np.testing.assert_allclose(likeness(many, controls).sum(-1), 1)
    # the only other group, even at no distance, counts whole
    np.testing.assert_allclose(local_shift(controls[0], controls[:1], changes[:1]), changes[0])
