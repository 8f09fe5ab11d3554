"""A digest of what training reads of cells: the same for the same cells however they are kept, another for others."""

import numpy as np
import pytest
from scipy import sparse

from cellalign.data.fields import fit_fields
from cellalign.data.loader import make_cells
from cellalign.data.source import content_of

N, G = 700, 30  # more rows than are digested together


@pytest.fixture(scope="module")
def dense():
    rng = np.random.default_rng(0)
    return (rng.poisson(0.4, (N, G)) * rng.choice([0.5, 1.25], (N, G))).astype(np.float32)


def unsorted(x):
    """The same rows, the columns of each in descending order."""
    made = sparse.csr_matrix(x)
    for first, last in zip(made.indptr, made.indptr[1:], strict=False):
        made.indices[first:last] = made.indices[first:last][::-1].copy()
        made.data[first:last] = made.data[first:last][::-1].copy()
    made.has_sorted_indices = made.has_canonical_format = False
    return made


def with_stored_zeros(x):
    rows, columns = np.indices(x.shape)
    return sparse.csr_matrix((x.ravel(), (rows.ravel(), columns.ravel())), shape=x.shape)


def in_halves(x):
    """Each value stored as two, to be added."""
    made = sparse.coo_matrix(x)
    twice = [np.concatenate([part, part]) for part in (made.row, made.col)]
    return sparse.coo_matrix((np.concatenate([made.data, made.data]) / 2, twice), shape=x.shape)


def wide_indices(x):
    made = sparse.csr_matrix(x)
    made.indices, made.indptr = made.indices.astype(np.int64), made.indptr.astype(np.int64)
    return made


def with_small_values(x):
    """Too small for float32, in which training reads them."""
    return sparse.csr_matrix(np.where(x == 0, 1e-60, x.astype(np.float64)))


KEPT = {
    "csc": sparse.csc_matrix,
    "csr array": sparse.csr_array,
    "unsorted": unsorted,
    "stored zeros": with_stored_zeros,
    "duplicates": in_halves,
    "int64 indices": wide_indices,
    "float64": lambda x: sparse.csr_matrix(x.astype(np.float64)),
    "too small": with_small_values,
    "dense": lambda x: x,
    "dense float64": lambda x: x.astype(np.float64),
    "Fortran order": np.asfortranarray,
    "negative zeros": lambda x: np.where(x == 0, np.float32(-0.0), x),
    "big-endian": lambda x: x.astype(">f4"),
    "read-only": lambda x: np.frombuffer(x.tobytes(), dtype=x.dtype).reshape(x.shape),
}


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
def test_the_same_values_have_one_digest_however_they_are_kept(dense, kept):
    assert content_of(kept(dense)) == content_of(sparse.csr_matrix(dense))


def test_integers_are_the_floats_they_stand_for(dense):
    counts = np.round(dense * 4)
    assert (
        content_of(sparse.csr_matrix(counts.astype(np.int32))) == content_of(counts) == content_of(counts.astype("u2"))
    )


def test_other_values_places_and_shapes_have_other_digests(dense):
    digests = [content_of(dense), content_of(dense[::-1]), content_of(dense[:, ::-1]), content_of(dense[:-1])]
    value, place = dense.copy(), dense.copy()
    row, column = np.argwhere(dense != 0)[-1]
    value[row, column] = np.nextafter(value[row, column], 10)
    free = np.flatnonzero(dense[row] == 0)[0]
    place[row, free], place[row, column] = place[row, column], 0
    empty = np.hstack([dense, np.zeros((N, 1), dense.dtype)])
    digests += [
        content_of(made) for made in (value, place, empty, np.zeros((3, 4)), np.zeros((4, 3)), np.zeros((0, 3)))
    ]
    assert len(set(digests)) == len(digests) and all(digest.startswith("sha256:") for digest in digests)


def cells_of(adata, **roles):
    return make_cells(adata, adata.X, fit_fields(adata, condition="stim", **roles))


def test_columns_count_and_those_that_are_not_read_do_not(tiny):
    tiny.obs["depth"] = np.arange(tiny.n_obs, dtype=float)
    content = cells_of(tiny).content()
    other = tiny.copy()
    other.obs["depth"] += 1
    other.obs["stim"] = other.obs["stim"].astype(str)  # the same values in another type
    assert cells_of(other).content() == content
    roles = {"covariates": ["depth"], "kinds": {"depth": "number"}}
    with_depth = cells_of(tiny, **roles).content()
    other.obs["depth"] = tiny.obs["depth"].to_numpy()[::-1]
    assert len({content, with_depth, cells_of(other, **roles).content()}) == 3
    swapped = tiny.copy()
    swapped.obs["stim"] = swapped.obs["stim"].to_numpy()[::-1]
    assert cells_of(swapped).content() != content


def test_files_of_other_formats_hold_the_same_cells(tiny, tmp_path):
    from cellalign.data import files

    tiny.write_h5ad(tmp_path / "a.h5ad", compression="gzip")
    tiny.write_zarr(tmp_path / "a.zarr")
    dense = tiny.copy()
    dense.X = dense.X.toarray()
    dense.write_h5ad(tmp_path / "dense.h5ad")
    found = {cells_of(files.read(tmp_path / name)).content() for name in ("a.h5ad", "a.zarr", "dense.h5ad")}
    assert found == {cells_of(tiny).content()}


def test_what_the_matrix_was_made_of_counts_in_its_stead(tiny):
    cells = cells_of(tiny)
    other = tiny.copy()
    other.X = other.X * np.float32(1.0000001)
    assert cells.content("sha256:1") == cells_of(other).content("sha256:1") != cells.content("sha256:2")
