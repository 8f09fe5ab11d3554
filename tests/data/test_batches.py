"""Batches equal the matrix's rows, whatever its layout, and share its memory."""

import numpy as np
import pytest
import torch
from scipy import sparse
from support import columns, layout

from cellalign.data import loader
from cellalign.data.loader import Cells, balanced, shuffled
from cellalign.data.source import CSR, as_matrix
from cellalign.data.split import stratified_split
from cellalign.methods.base import BATCH, COVARIATE
from cellalign.nn.sparse import SparseRows


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64, np.uint16])
def test_rows_equal_the_dense_matrix(kind, dtype):
    rng = np.random.default_rng(0)
    dense = (rng.poisson(0.3, (30, 17))).astype(dtype)
    dense[4] = 0  # a cell without any count
    rows = torch.tensor([4, 0, 29, 4, 11])
    got = as_matrix(kind(dense)).rows(rows)
    got = got.dense() if isinstance(got, SparseRows) else got
    assert got.dtype == torch.float32
    np.testing.assert_array_equal(got.numpy(), dense[rows.numpy()].astype(np.float32))


def test_big_endian_and_half_precision_arrays():
    dense = np.arange(12).reshape(4, 3)
    for dtype in (">f4", np.float16):
        np.testing.assert_array_equal(as_matrix(dense.astype(dtype)).rows(torch.tensor([2, 1])).numpy(), dense[[2, 1]])


def test_stored_values_by_row():
    x = sparse.random(20, 9, 0.3, format="csr", dtype=np.float32, random_state=0)
    rows = as_matrix(x).rows(torch.tensor([7, 7, 0]))
    dense = torch.from_numpy(x.toarray()[[7, 7, 0]])
    torch.testing.assert_close(rows.dense(), dense)
    torch.testing.assert_close(rows.sums(), dense.sum(1))
    torch.testing.assert_close(rows.map(torch.log1p).dense(), dense.log1p())
    torch.testing.assert_close(SparseRows.of(dense).dense(), dense)
    assert rows.density == pytest.approx(float((dense > 0).float().mean()))


def test_duplicate_entries_are_summed_and_the_users_matrix_stays():
    x = sparse.csr_matrix((np.ones(3, np.float32), np.array([1, 1, 0]), np.array([0, 2, 3])), shape=(2, 3))
    assert as_matrix(x).rows(torch.tensor([0, 1])).dense().tolist() == [[0, 2, 0], [1, 0, 0]]
    assert x.nnz == 3


def test_stored_zeros_are_dropped_and_the_users_matrix_stays():
    x = sparse.csr_matrix((np.array([1, 0, 2], np.float32), np.array([0, 1, 1]), np.array([0, 2, 3])), shape=(2, 3))
    rows = as_matrix(x).rows(torch.tensor([0, 1]))
    assert rows.value.tolist() == [1, 2]
    assert rows.dense().tolist() == [[1, 0, 0], [0, 2, 0]]
    assert x.nnz == 3


@pytest.mark.parametrize("together", [1, 7, 1024])
@pytest.mark.parametrize("kind", [sparse.csr_matrix, np.asarray])
def test_cells_read_together_are_those_of_each_batch(kind, together, monkeypatch):
    monkeypatch.setattr(loader, "READ_TOGETHER", together)
    x = np.random.default_rng(0).poisson(0.5, (40, 9)).astype(np.float32)
    x[3] = 0
    codes, numbers = torch.arange(40), torch.arange(80.0).view(40, 2)
    sizes = layout(9, 40, (40,), (41,), 42, numeric_batches=1, numeric_covariates=1)
    told = (codes, codes, numbers[:, 0], codes + 1, numbers[:, 1], codes + 2)
    cells = Cells(as_matrix(kind(x)), sizes.fields, told, 40)
    parts = [torch.tensor([3, 39, 3]), torch.tensor([0]), torch.tensor([7, 8, 9, 10]), torch.tensor([3])]
    found = list(cells.batches(parts))
    assert [len(batch) for batch in found] == [3, 1, 4, 1]
    for batch, part in zip(found, parts, strict=True):
        one = cells.batch(part)
        for name in ("x", "condition", "label", "library_size"):
            torch.testing.assert_close(getattr(batch, name), getattr(one, name), rtol=0, atol=0)
        for role in (BATCH, COVARIATE):
            torch.testing.assert_close(columns(batch, role), columns(one, role), rtol=0, atol=0)
        for found_column, column in zip(batch.columns, told, strict=True):
            torch.testing.assert_close(found_column, column[part], rtol=0, atol=0)
        torch.testing.assert_close(batch.nonzeros.start, one.nonzeros.start)
    assert list(cells.batches([])) == []


def test_csr_is_not_copied():
    x = sparse.random(50, 20, 0.2, format="csr", dtype=np.float32, random_state=0)
    matrix = as_matrix(x)
    assert isinstance(matrix, CSR)
    assert matrix.values.data_ptr() == x.data.ctypes.data
    assert matrix.indices.data_ptr() == x.indices.ctypes.data


def test_every_cell_once_an_epoch_in_equal_parts():
    rows = torch.arange(100, 200)
    parts = shuffled(rows, 30, torch.Generator().manual_seed(0))
    assert sorted(len(p) for p in parts) == [25, 25, 25, 25]
    assert sorted(torch.cat(parts).tolist()) == rows.tolist()
    again = shuffled(rows, 30, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))


def test_split_is_stratified_and_disjoint():
    strata = np.repeat([0, 1, 2], [1000, 100, 1])
    train, validation = stratified_split(strata, 0.1, seed=0)
    assert np.bincount(strata[validation], minlength=3).tolist() == [100, 10, 0]
    assert sorted([*train, *validation]) == list(range(1101))


def test_split_of_nothing_to_validate():
    train, validation = stratified_split(np.zeros(5, dtype=int), 0.0, seed=0)
    assert len(validation) == 0 and len(train) == 5


def test_balanced_batches_hold_as_many_of_every_condition():
    rows = torch.arange(100) + 7
    condition = torch.tensor([0] * 88 + [1] * 9 + [2] * 3)
    batches = balanced(rows, condition, 30, torch.Generator().manual_seed(0))
    assert len(batches) == len(shuffled(rows, 30, torch.Generator()))
    for batch in batches:
        assert torch.bincount(condition[batch - 7]).tolist() == [9, 9, 9]
    for code, least in ((1, 9), (2, 3)):  # of a rare condition every cell comes up
        own = torch.cat(batches)
        assert len(own[condition[own - 7] == code].unique()) == least
    frequent = torch.cat(batches)
    frequent = frequent[condition[frequent - 7] == 0]
    assert len(frequent.unique()) == len(frequent)
    again = balanced(rows, condition, 30, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))


def test_more_conditions_than_a_batch_can_balance_are_shuffled():
    batches = balanced(torch.arange(40), torch.arange(40) % 20, 30, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(batches).tolist()) == list(range(40))


@pytest.mark.parametrize("n", range(2, 12))
@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_batch_is_of_one_cell(n, size):
    parts = shuffled(torch.arange(n), size, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(parts).tolist()) == list(range(n))
    assert min(map(len, parts)) > 1 and max(map(len, parts)) <= max(size + 1, 3)
