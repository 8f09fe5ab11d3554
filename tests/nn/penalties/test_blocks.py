"""Row blocks: every row once, whole groups as columns, never all pairs at once; and values with their gradients."""

import pytest
import torch

from cellalign.nn.penalties import blocks
from cellalign.nn.penalties.blocks import NOTHING, Groups, exponentials, in_one_pass


@pytest.mark.parametrize("groups", [1, 2, 7, 60, 900])
@pytest.mark.parametrize("n", [1, 2, 100, 517])
def test_blocks_cover_every_row_once_and_hold_whole_groups(n, groups, block_size):
    torch.manual_seed(n + groups)
    code = torch.randint(groups, (n,)) * 3 - 5
    found = Groups(code)
    assert torch.equal(found.code, code[found.order]) and torch.equal(found.code[found.place], code)
    assert torch.equal(found.size, (found.code[:, None] == found.code).sum(1))
    following = 0
    for block in found.blocks():
        assert block.rows.start == following < block.rows.stop
        following = block.rows.stop
        own = torch.isin(found.code, found.code[block.rows])
        assert torch.equal(own.nonzero()[:, 0], torch.arange(block.columns.start, block.columns.stop))
        assert block.one_group == (len(found.code[block.columns].unique()) == 1)
        strange = found.strangers(block, torch.ones(1))
        assert torch.equal(strange, (found.code[block.rows, None] != found.code[own]).float())
        assert block.one_group == (not strange.any())
    assert following == n


@pytest.mark.parametrize("groups", [1, 2, 30, 2000])
def test_a_block_is_a_small_part_of_a_large_batch(groups):
    n = 4000
    most = max(block.size for block in Groups(torch.arange(n) % groups).blocks())
    assert most <= max(1.5 * blocks.LEAST_ROWS, 1.5 * blocks.PAIRS / n)


def test_exponentials_are_of_the_rows_greatest_and_finite_of_nothing():
    scores = torch.tensor([[1000.0, 998.0], [-5000.0, NOTHING], [NOTHING, 2 * NOTHING], [torch.nan, 0.0]])
    most, total = exponentials(scores)
    assert torch.equal(scores[:3], torch.tensor([[1.0, 0.25], [1.0, 0.0], [0.0, 0.0]]))
    assert most[:2, 0].tolist() == [1000.0, -5000.0] and bool(most[2].isfinite())
    assert total[:3, 0].tolist() == [1.25, 1.0, 1.0]
    assert bool(scores[3].isnan().all() & most[3].isnan() & total[3].isnan())
    most, total = exponentials(torch.empty(2, 0))
    assert most.shape == total.shape == (2, 1) and bool(most.isfinite().all())


def test_a_gradient_is_computed_where_it_can_be_asked_for_and_only_there():
    asked = []

    def square(wanted, x, y):
        asked.append(wanted)
        return (x * x * y).sum(), (2 * x * y, None) if any(wanted) else ()

    x, y = torch.randn(3, requires_grad=True), torch.randn(3)
    value = in_one_pass(square, x, y)
    (3 * value).backward()
    torch.testing.assert_close(x.grad, 6 * x.detach() * y)
    with torch.no_grad():
        assert torch.equal(in_one_pass(square, x, y), value)
    assert not in_one_pass(square, x.detach(), y).requires_grad
    assert asked == [(True, False), (False, False), (False, False)]


def test_a_second_derivative_is_refused():
    x, weight = torch.randn(3, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    value = weight * in_one_pass(lambda wanted, x: ((x**3).sum(), (3 * x * x,)), x)
    (first,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
