"""The sparsest rotation is found, is orthogonal, and leaves latents in their place where they are right."""

import numpy as np

from cellalign.nn.rotation import sparsest_rotation


def sparse_shifts(rng, interventions=60, p=8):
    shifts = np.zeros((interventions, p))
    for row in shifts:
        row[rng.choice(p, rng.integers(1, 4), replace=False)] = rng.choice([-1, 1]) * rng.normal(5, 0.5)
    return shifts


def test_undoes_a_random_rotation_up_to_order_and_sign():
    rng = np.random.default_rng(0)
    true = sparse_shifts(rng)
    hidden = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    noisy = true @ hidden + rng.normal(size=true.shape) * 0.05
    rotation = sparsest_rotation(noisy)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(8), atol=1e-10)
    found = np.abs(hidden @ rotation)
    np.testing.assert_allclose(found[found > 0.5], 1, atol=1e-3)
    assert (found > 0.5).sum() == 8


def test_rounding_of_the_shifts_moves_it_no_further_than_rounding():
    """Ranks sum in another order: z must turn alike in all of them."""
    rng = np.random.default_rng(2)
    for interventions, p in ((6, 4), (12, 5), (60, 8)):
        shifts = sparse_shifts(rng, interventions, p) @ np.linalg.qr(rng.normal(size=(p, p)))[0]
        rotation = sparsest_rotation(shifts)
        for _ in range(5):
            again = sparsest_rotation(shifts * (1 + rng.normal(size=shifts.shape) * 1e-15))
            np.testing.assert_allclose(again, rotation, atol=1e-9)


def test_what_is_sparse_stays_where_it_is():
    shifts = sparse_shifts(np.random.default_rng(1))
    np.testing.assert_allclose(sparsest_rotation(shifts), np.eye(8), atol=1e-6)


def test_no_shift_at_all_gives_some_rotation():
    rotation = sparsest_rotation(np.zeros((5, 4)))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(4), atol=1e-10)
