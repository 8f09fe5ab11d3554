"""A folder of Parse Biosciences' pipeline is read as cells, whichever of its matrices' names and packings it has."""

import gzip

import numpy as np
import pandas as pd
import pytest
from scipy import io, sparse

import cellalign
from cellalign.errors import InputError


@pytest.fixture
def folder(tmp_path):
    x = np.random.default_rng(0).poisson(1.0, (7, 5))
    io.mmwrite(tmp_path / "DGE.mtx", sparse.coo_matrix(x))
    genes = {"gene_id": [f"ENSG{i}" for i in range(5)], "gene_name": ["A", "B", "B", "C", "D"], "genome": ["hg38"] * 5}
    pd.DataFrame(genes).to_csv(tmp_path / "all_genes.csv", index=False)
    cells = {
        "bc_wells": [f"01_02_{i:02d}" for i in range(7)],
        "sample": ["s1"] * 3 + ["s2"] * 4,
        "tscp_count": x.sum(1),
    }
    pd.DataFrame(cells).to_csv(tmp_path / "cell_metadata.csv", index=False)
    return tmp_path, x


@pytest.mark.parametrize("kind", ["folder", "file", "packed", "trailmaker", "genes in rows"])
def test_a_folder_is_read(folder, kind):
    path, x = folder
    if kind == "packed":
        (path / "DGE.mtx.gz").write_bytes(gzip.compress((path / "DGE.mtx").read_bytes()))
        (path / "DGE.mtx").unlink()
    elif kind == "trailmaker":
        (path / "DGE.mtx").rename(path / "count_matrix.mtx")
    elif kind == "genes in rows":
        io.mmwrite(path / "DGE.mtx", sparse.coo_matrix(x.T))
    adata = cellalign.read(path / "DGE.mtx" if kind == "file" else path)
    np.testing.assert_array_equal(adata.X.toarray(), x)
    assert (
        list(adata.obs_names[:2]) == ["01_02_00", "01_02_01"] and list(adata.obs["sample"]) == ["s1"] * 3 + ["s2"] * 4
    )
    assert adata.var_names.is_unique and list(adata.var_names[:2]) == ["A", "B"]
    assert list(adata.var["gene_ids"]) == [f"ENSG{i}" for i in range(5)]


def test_what_is_missing_is_named(folder):
    path, _ = folder
    table = pd.read_csv(path / "cell_metadata.csv")
    table.iloc[:-1].to_csv(path / "cell_metadata.csv", index=False)
    with pytest.raises(InputError, match="7 x 5 values, but 6 cells and 5 genes are named"):
        cellalign.read(path)
    table.drop(columns="bc_wells").to_csv(path / "cell_metadata.csv", index=False)
    with pytest.raises(InputError, match=r"cell_metadata.csv has none of the columns bc_wells"):
        cellalign.read(path)
    (path / "DGE.mtx").unlink()
    with pytest.raises(InputError, match="holds no DGE.mtx or count_matrix.mtx beside"):
        cellalign.read(path)
