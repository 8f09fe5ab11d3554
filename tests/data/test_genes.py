"""Genes matched by name, by a second name, without versions and in another case; what fits two fits none."""

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from cellalign.data import files
from cellalign.data.genes import SECOND_NAMES, align_genes, match, say_how, with_genes_named, without_version
from cellalign.errors import InputError


def var(names, **columns):
    return pd.DataFrame(columns, index=list(names))


def aligned(x, have, need, **options):
    return align_genes(x, match(var(have), need), need, **options)


@pytest.mark.parametrize("layout", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_columns_are_brought_into_the_models_order(layout):
    x = layout(np.arange(12.0).reshape(3, 4))
    dense = np.arange(12.0).reshape(3, 4)
    found = sparse.csr_matrix(aligned(x, "abcd", "dab")).toarray()
    np.testing.assert_array_equal(found, dense[:, [3, 0, 1]])
    assert aligned(x, "abcd", "abcd") is x
    with pytest.raises(InputError, match="lacks 1 of the model's 2 genes: e"):
        aligned(x, "abcd", "ae")
    filled = aligned(x, "abcd", "eca", missing="zero")
    np.testing.assert_array_equal(filled.toarray(), np.c_[np.zeros(3), dense[:, [2, 0]]])
    with pytest.raises(InputError, match="none of the model's"):
        aligned(x, "abcd", "yz", missing="zero")


IDS = [f"ENSG0000000000{i}" for i in range(4)]


@pytest.mark.parametrize(
    ("have", "need", "also", "by"),
    [
        (var("abcd", gene_ids=IDS), IDS, [], "var column 'gene_ids'"),
        (var(IDS), list("abcd"), IDS, "the model's second name"),
        (var([f"{name}.{i}" for i, name in enumerate(IDS)]), IDS, [], "without the version"),
        (var(IDS), [f"{name}.1" for name in IDS], [], "without the version"),
        (var(["Actb", "Gapdh", "CD8a", "x"]), ["ACTB", "GAPDH", "CD8A", "X"], [], "in another case"),
        (var("abcd", feature_name=pd.Categorical(["P", "Q", "R", "S"])), list("PQRS"), [], "var column 'feature_name'"),
    ],
)
def test_genes_of_other_names_are_found_and_counted(have, need, also, by):
    found = match(have, need, also)
    assert found.columns.tolist() == [0, 1, 2, 3] and found.how == {by: 4}


def test_the_name_itself_comes_first_and_a_column_serves_one_gene():
    have = var(["ACTB", "actb", "Gapdh", "gapdh"], gene_ids=["ACTB", "", np.nan, "x"])
    assert match(have, ["actb", "ACTB"]).columns.tolist() == [1, 0]
    assert match(have, ["GAPDH"]).columns.tolist() == [-1]  # Gapdh or gapdh
    assert match(var(["ACTB"]), ["Actb", "actb"]).columns.tolist() == [-1] * 2
    assert match(var(["a", "a", "b"]), ["a", "b"]).columns.tolist() == [-1, 2]


def test_what_looks_like_a_version_is_one_of_an_identifier_only():
    assert without_version("ENSMUSG00000064370.2") == "ENSMUSG00000064370"
    assert without_version("RP11-34P13.7") == "RP11-34P13.7"


def test_how_genes_were_matched_is_said(caplog):
    caplog.set_level(logging.INFO, "cellalign")
    logging.getLogger("cellalign").propagate = True
    say_how(match(var(["a", "Actb", "Gapdh"]), ["a", "ACTB", "GAPDH"]), "new.h5ad")
    assert "new.h5ad: genes matched: 1 by name, 2 in another case" in caplog.text
    assert "of one species" in caplog.text


def test_genes_are_named_by_a_column_of_var(tmp_path, caplog):
    caplog.set_level(logging.INFO, "cellalign")
    logging.getLogger("cellalign").propagate = True
    cells = ad.AnnData(np.ones((2, 4)), var=var(IDS, symbol=["A", "B", "B", None]))
    cells.raw = cells.copy()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    found = files.read(files.Reading((str(tmp_path / "cells.h5ad"),), gene_key="symbol"))
    assert list(found.var_names) == ["A", "B", "B-1", IDS[3]] == list(found.raw.var_names)
    assert list(found.var["gene_ids"]) == IDS
    assert "1 genes have no 'symbol', 1 share one" in caplog.text
    for there in (["gene_ids", "gene_id", "feature_id", "gene"], SECOND_NAMES):  # columns that are not free
        cells = ad.AnnData(np.ones((2, 4)), var=var(IDS, **dict.fromkeys(there, "x") | {"symbol": list("ABCD")}))
        found = with_genes_named(cells, "symbol", "cells").var
        assert list(found.index) == list("ABCD") and set(there) <= set(found)
        assert [name for name in found if list(found[name]) == IDS] == (["gene_symbols"] if len(there) == 4 else [])
    with pytest.raises(InputError, match="gene_key='symbl' in var. Did you mean 'symbol'"):
        files.read(files.Reading((str(tmp_path / "cells.h5ad"),), gene_key="symbl"))
