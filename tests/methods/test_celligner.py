"""celligner: contrastive directions, mutual nearest neighbours, and what follows from them."""

import numpy as np
import pytest
import torch
from support import layout, minibatch, predicted, to

import cellalign
from cellalign.errors import UsageError
from cellalign.methods import celligner
from cellalign.methods.pca import PCA

GENES, TYPES, NOISE = 40, 3, 0.3


def draw(n, seed, shift=0.0, shares=(1, 1, 1), direction=None, spread=3.0):
    """n cells of three types around centres that are the same for every seed, [n, GENES], and their types."""
    rng = np.random.default_rng(seed)
    kind = np.repeat(np.arange(TYPES), np.array(shares) * n // sum(shares))
    x = np.random.default_rng(99).normal(0, 1, (TYPES, GENES))[kind] + rng.normal(0, NOISE, (len(kind), GENES)) + shift
    if direction is not None:
        x += rng.normal(0, spread, (len(kind), 1)) * direction
    return x, kind


def unit(seed):
    vector = np.random.default_rng(seed).normal(size=GENES)
    return vector / np.linalg.norm(vector)


SHIFT = 4 * unit(3)
SIZES = layout(GENES, 3)
NEAR = 0.25  # centres of 100 cells in 10 dimensions are 0.13 apart by noise alone


def batch_of(x, condition):
    codes = torch.as_tensor(condition).expand(len(x)).clone()
    return minibatch(torch.as_tensor(x, dtype=torch.float32), SIZES, codes)


def fitted(*conditions, control=0, seed=0, **settings):
    """The method, finished on one array of cells per condition, which come mixed and in batches of 64."""
    torch.manual_seed(seed)
    settings = {"latent_dim": 10, "contrastive": 0} | settings
    x = np.concatenate(conditions)
    order = np.random.default_rng(0).permutation(len(x))
    code = np.repeat(np.arange(len(conditions)), [len(c) for c in conditions])
    sizes = layout(GENES, len(conditions), control=control, cells=len(x))
    method = celligner.Celligner(celligner.Celligner.Hyperparameters(**settings), sizes).eval()
    parts = [batch_of(x[rows], code[rows]) for rows in np.array_split(order, len(x) // 64 + 1)]
    with torch.no_grad():
        method.fit_closed_form(lambda: iter(parts))
    return method


def scores(method, x, condition):
    return PCA.encode(method, method.residual(batch_of(x, condition))).mean


def centres(z, kind):
    return np.stack([np.asarray(z)[kind == t].mean(0) if (kind == t).any() else z[0] * 0 for t in range(TYPES)])


def apart(a, kind, b, other, shift=0.0):
    """How far the centres of the cell types in b are from those in a, for those that b has."""
    gaps = centres(b, other) - centres(a, kind) - shift
    return np.linalg.norm(gaps[np.unique(other)], axis=1)


@pytest.mark.slow
def test_directions_of_extra_variance_are_found_and_removed_whichever_condition_has_them():
    ours, theirs = unit(1), unit(2)
    x, _ = draw(300, 0, direction=theirs, spread=2.0)
    y, _ = draw(300, 1, direction=ours, spread=3.0)
    method = fitted(x, y, contrastive=2, clusters=3)
    found = method.directions.numpy()
    np.testing.assert_allclose(found.T @ found, np.eye(2), atol=1e-5)
    for direction in (ours, theirs):
        assert np.linalg.norm(found.T @ direction) > 0.99
        assert np.linalg.norm(method.components.numpy().T @ direction) < 0.1
    assert abs(fitted(x, y, contrastive=1, clusters=3).directions.numpy()[:, 0] @ ours) > 0.99
    assert np.linalg.norm(fitted(x, y).components.numpy().T @ ours) > 0.99  # a component, where nothing is removed


def test_directions_are_the_eigenvectors_of_the_difference_of_covariances():
    (x, kind), (y, other) = draw(300, 0, direction=unit(2), spread=2.0), draw(150, 1, direction=unit(1))
    # three clusters are the three types
    covariance = [sum(np.cov(c[k == t].T, ddof=0) * (k == t).sum() for t in range(TYPES)) / (len(c) - 3)
                  for c, k in ((x, kind), (y, other))]  # fmt: skip
    values, vectors = np.linalg.eigh(covariance[1] - covariance[0])
    expected = vectors[:, np.abs(values).argsort()[::-1][:2]]
    found = fitted(x, y, contrastive=2, clusters=3).directions.numpy()
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-3)


@pytest.mark.slow
def test_a_direction_that_two_conditions_share_is_removed_once():
    x, _ = draw(300, 0)
    y, _ = draw(300, 1, direction=unit(1))
    method = fitted(x, y, y, contrastive=1, clusters=3)
    assert method.directions.shape == (GENES, 2)
    np.testing.assert_allclose(method.directions.norm(dim=0), [1, 0], atol=1e-5)
    z, _ = draw(300, 2, direction=unit(2))
    found = fitted(x, y, z, contrastive=1, clusters=3).directions.numpy()
    assert min(np.linalg.norm(found.T @ unit(1)), np.linalg.norm(found.T @ unit(2))) > 0.99


@pytest.mark.parametrize("shares", [(1, 1, 1), (3, 1, 1), (1, 1, 0)])
@pytest.mark.parametrize("contrastive", [0, 1])
def test_a_constant_shift_is_removed_and_cell_types_stay_apart(shares, contrastive):
    (x, kind), (y, other) = draw(300, 0), draw(300, 1, SHIFT, shares)
    method = fitted(x, y, contrastive=contrastive)
    z, moved = method.embedding(batch_of(x, 0)).numpy(), method.embedding(batch_of(y, 1)).numpy()
    assert apart(z, kind, moved, other).max() < NEAR
    every, labels = np.concatenate([z, moved]), np.concatenate([kind, other])
    nearest = np.linalg.norm(every[:, None] - every[None], axis=2).argsort(1)[:, 1:16]
    assert (labels[nearest] == labels[:, None]).all()
    if len(set(shares)) == 1:
        mixed = (nearest >= len(z)).mean(1)  # share of neighbours of condition 1, of a cell of either condition
        assert 0.3 < mixed[: len(z)].mean() < 0.7 and 0.3 < mixed[len(z) :].mean() < 0.7


def test_without_anchors_the_shift_stays_and_one_round_falls_short():
    (x, kind), (y, other) = draw(300, 0), draw(300, 1, SHIFT)
    gaps = []
    for rounds in (1, 2, 5):
        method = fitted(x, y, rounds=rounds)
        z = method.embedding(batch_of(x, 0))
        gaps.append(apart(z, kind, method.embedding(batch_of(y, 1)), other).mean())
    assert gaps[0] > 1.5 * gaps[1] > 1.5**2 * gaps[2]
    method.limits.zero_()
    assert apart(z, kind, method.embedding(batch_of(y, 1)), other).min() > 0.9 * 4


def test_new_cells_are_moved_as_the_trained_ones():
    (x, kind), (y, _) = draw(300, 0), draw(300, 1, SHIFT)
    method = fitted(x, y)
    new, other = draw(300, 2, SHIFT)
    z = method.embedding(batch_of(new, 1)).numpy()
    assert apart(method.embedding(batch_of(x, 0)), kind, z, other).max() < NEAR
    far = method.embedding(batch_of(1e4 * new, 1))
    assert torch.isfinite(far).all()
    one_by_one = torch.cat([method.embedding(batch_of(new[[i]], 1)) for i in range(10)])
    np.testing.assert_allclose(one_by_one, z[:10], atol=1e-3)


def test_the_reference_stays_where_it_is():
    (x, _), (y, _) = draw(150, 0), draw(150, 1, 1.0)
    method = fitted(x, y, control=1)
    assert method.limits.tolist() == [0, 150, 150]
    assert torch.equal(method.embedding(batch_of(y, 1)), scores(method, y, 1))
    assert not torch.equal(method.embedding(batch_of(x, 0)), scores(method, x, 0))


def test_there_and_back_is_the_same_cell():
    (x, _), (y, _) = draw(300, 0), draw(300, 1, SHIFT, direction=unit(1))
    method = fitted(x, y, contrastive=1)
    for cells, code in ((x, 0), (y, 1)):
        batch = batch_of(cells, code)
        there = method.predict(batch, to(1 - code)).mean
        assert set(predicted(method, batch, to(1 - code))) == {"X"} and torch.isfinite(there).all()
        # moved to the other condition, a cell keeps its place in the embedding
        np.testing.assert_allclose(method.embedding(batch_of(there, 1 - code)), method.embedding(batch), atol=1e-2)
        found = predicted(method, batch_of(there, 1 - code), to(code), samples=3)
        back, spread = found["X"], found["sd_of_mean"]
        assert float((there - batch.x).norm(dim=1).min()) > 3
        assert float((back - batch.x).abs().max()) < 1e-2 and not spread.any()


@pytest.mark.parametrize("contrastive", [0, 1])
@pytest.mark.parametrize("shift", [SHIFT, 4 * unit(1)], ids=["elsewhere", "along the contrastive direction"])
def test_counterfactual_is_the_other_conditions_cells(contrastive, shift):
    (x, kind), (y, _) = draw(300, 0), draw(300, 1, shift, direction=unit(1), spread=1.5)
    method = fitted(x, y, contrastive=contrastive)
    predicted = method.predict(batch_of(x, 0), to(1)).mean.numpy()
    assert apart(x, kind, predicted, kind, shift).max() < 2 * NEAR


def test_response_along_a_contrastive_direction_is_that_of_the_cell_type_whatever_the_shares():
    response = np.array([4.0, 1.0, 0.0])[:, None] * unit(1)
    (x, kind), (y, other) = draw(300, 0), draw(300, 1, shares=(1, 1, 0), direction=unit(1), spread=1.5)
    y += response[other]
    method = fitted(x, y, contrastive=1, clusters=3)
    assert abs(method.directions.numpy()[:, 0] @ unit(1)) > 0.99
    predicted = method.predict(batch_of(x, 0), to(1)).mean.numpy()
    assert apart(x, kind, predicted, kind, response)[:2].max() < 2 * NEAR


def rebuilt(method, z, batch):
    """Cells from their embedding, under the batch's conditions; nothing is known of the contrastive directions."""
    y = torch.cat([z, z.new_zeros(len(z), method.directions.shape[1])], 1)
    return method.moved_back(y, batch.condition) @ method.basis.T + method.mean + method.centre


def test_a_cell_can_be_rebuilt_from_its_embedding():
    (x, _), (y, _) = draw(300, 0), draw(300, 1, SHIFT)
    method = fitted(x, y, latent_dim=GENES)
    for cells, code in ((x, 0), (y, 1)):
        batch = batch_of(cells, code)
        np.testing.assert_allclose(rebuilt(method, method.embedding(batch), batch), cells, atol=1e-2)
    batch = batch_of(x, 0)
    expected = method.predict(batch, to(1)).mean
    np.testing.assert_allclose(rebuilt(method, method.embedding(batch), batch.do(to(1))), expected, atol=1e-2)


def test_a_rebuilt_cell_has_its_conditions_mean_along_the_contrastive_direction():
    (x, _), (y, _) = draw(300, 0), draw(300, 1, 4 * unit(1), direction=unit(1), spread=1.5)
    method = fitted(x, y, contrastive=1, clusters=3)
    for cells, code, near in ((x, 0, 0.05), (y, 1, NEAR)):
        batch = batch_of(cells, code)
        found = rebuilt(method, method.embedding(batch), batch).numpy()
        assert abs(((found - cells) @ unit(1)).mean()) < near


def test_three_conditions_go_through_the_reference():
    shifts = (0 * SHIFT, SHIFT, 4 * unit(4))
    drawn = [draw(210, seed, shift) for seed, shift in enumerate(shifts)]
    method = fitted(*(x for x, _ in drawn), control=2)
    z = [method.embedding(batch_of(x, code)) for code, (x, _) in enumerate(drawn)]
    kind = drawn[0][1]
    assert max(apart(z[2], kind, z[0], kind).max(), apart(z[2], kind, z[1], kind).max()) < NEAR
    mixed = batch_of(np.concatenate([x for x, _ in drawn]), np.repeat([0, 1, 2], 210))
    predicted = method.predict(mixed, to(1)).mean.numpy()
    for code, (x, _) in enumerate(drawn):
        own = predicted[code * 210 : (code + 1) * 210]
        assert apart(x, kind, own, kind, shifts[1] - shifts[code]).max() < 2 * NEAR
    np.testing.assert_allclose(predicted[210:420], drawn[1][0], atol=1e-2)


def test_conditions_of_few_cells():
    (x, _), (y, _), (z, _) = draw(150, 0), draw(150, 1, 1.0), draw(3, 2, 2.0)
    method = fitted(x, y, z[:1], contrastive=2, k_reference=500, k_condition=500)
    assert method.limits.tolist() == [0, 0, 150, 151]
    for code in (0, 1, 2):
        assert torch.isfinite(method.predict(batch_of(x, 0), to(code)).mean).all()
    np.testing.assert_allclose(method.directions.norm(dim=0), [1, 1, 0, 0], atol=1e-5)
    assert torch.isfinite(fitted(x, contrastive=4).embedding(batch_of(x, 0))).all()  # no condition but the reference


@pytest.mark.parametrize("k", [(1, 1), (5, 20), (100, 3)])
def test_mutual_neighbours_are_those_of_a_loop(k):
    rng = np.random.default_rng(0)
    own, target = rng.normal(size=(40, 4)), rng.normal(size=(25, 4))
    expected = np.zeros((40, 25))
    for i, a in enumerate(own):
        for j, b in enumerate(target):
            to_targets, to_own = np.linalg.norm(target - a, axis=1), np.linalg.norm(own - b, axis=1)
            closer_targets = (to_targets < to_targets[j]).sum()
            closer_own = (to_own < to_own[i]).sum()
            expected[i, j] = closer_targets < k[0] and closer_own < k[1]
    assert expected.sum() > 5
    np.testing.assert_array_equal(celligner.mutual_neighbours(own, target, *k).toarray(), expected)


def test_vectors_lead_to_the_mean_of_the_mutual_neighbours():
    (x, _), (y, _) = draw(90, 0), draw(60, 1, 0.5)
    method = fitted(x, y, k_condition=4, k_reference=6, rounds=1)
    target, own = scores(method, x, 0).numpy(), scores(method, y, 1).numpy()
    pairs = celligner.mutual_neighbours(own, target, 4, 6).toarray()
    n = int(method.limits[-1])
    assert n == (pairs.sum(1) > 0).sum() < 60
    for at, vector in zip(method.anchors[:n].numpy(), method.vectors[:n].numpy(), strict=True):
        cell = np.linalg.norm(own - at, axis=1).argmin()
        np.testing.assert_allclose(vector, target[pairs[cell] > 0].mean(0) - own[cell], atol=1e-4)


def test_kernel_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    z, at, vectors = (rng.normal(size=(n, 3)).astype(np.float32) for n in (5, 12, 12))
    found = celligner.smoothed(*map(torch.from_numpy, (z, at, vectors)), 0.7)
    for cell, mean in zip(z, found, strict=True):
        gap = np.linalg.norm(at - cell, axis=1)
        weight = np.exp(-0.5 * (gap / (0.7 * np.median(np.sort(gap)[: celligner.NEAREST]))) ** 2)
        np.testing.assert_allclose(mean, weight @ vectors / weight.sum(), rtol=1e-4, atol=1e-5)


def test_anchors_are_bounded_and_drawn_from_the_seed():
    (x, _), (y, _) = draw(150, 0), draw(150, 1, SHIFT)
    runs = [fitted(x, y, max_anchors=20, contrastive=2, seed=seed) for seed in (0, 0, 1)]
    assert runs[0].anchors.shape == (20, 10) and runs[0].limits.tolist() == [0, 0, 20]
    for name, buffer in runs[0].named_buffers():
        assert torch.equal(buffer, dict(runs[1].named_buffers())[name]), name
    assert not torch.equal(runs[0].anchors, runs[2].anchors)


def test_more_directions_than_genes_are_refused(tiny):
    with pytest.raises(UsageError, match="leaves nothing of 60 genes; lower it, to 59 at most"):
        cellalign.train(tiny, method="celligner", condition="stim", settings={"contrastive": 60})


def test_a_held_out_group_is_predicted(tiny):
    model = cellalign.train(
        tiny, method="celligner", condition="stim", control="control", holdout=["cell_type=NK,stim=stimulated"]
    )
    predicted = cellalign.counterfactual(tiny, model, to="stimulated", where={"cell_type": "NK"})
    assert predicted.n_obs == 40 and np.isfinite(predicted.X).all()
    nk = tiny[tiny.obs["cell_type"] == "NK"]
    before, after = (np.asarray(nk[nk.obs["stim"] == c].X.mean(0)).ravel() for c in ("control", "stimulated"))
    assert np.square(predicted.X.mean(0) - after).sum() < 0.3 * np.square(before - after).sum()


def test_saved_and_loaded(tiny, tmp_path):
    model = cellalign.train(tiny, method="celligner", condition="stim", settings={"max_anchors": 50})
    model.save(tmp_path / "celligner")
    again = cellalign.load(tmp_path / "celligner")
    before, after = (cellalign.counterfactual(tiny, m, to="stimulated").X for m in (model, again))
    np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(model.embed(tiny), again.embed(tiny))
