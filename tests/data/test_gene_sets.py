"""GMT files: what is read, and the one line that says what is wrong with one that is none."""

import gzip

import numpy as np
import pytest

from cellalign.data.gene_sets import membership, read_gmt
from cellalign.errors import InputError

GOOD = "INTERFERON\tof MSigDB\tIRF1\tSTAT1\tIRF1\r\n\r\n# a comment\nCYCLE\t\tMKI67\t\t TOP2A \t\n"


def test_reads_sets_of_any_spelling(tmp_path):
    path = tmp_path / "sets.gmt"
    expected = {"INTERFERON": ("IRF1", "STAT1"), "CYCLE": ("MKI67", "TOP2A")}
    for content in (GOOD.encode(), gzip.compress(GOOD.encode()), b"\xef\xbb\xbf" + GOOD.encode()):
        path.write_bytes(content)
        assert read_gmt(path) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no gene set"),
        (b"\n# nothing\n", "holds no gene set"),
        (b"A\tb\tG1\nIRF1 STAT1 JAK2\n", "line 2: 'IRF1 STAT1 JAK2' is no gene set"),
        (b"A\tdescription\n", "line 1: .* is no gene set"),
        (b"A\tdescription\t\t \n", "line 1: .* is no gene set"),
        (b"\tdescription\tG1\n", "line 1: .* is no gene set"),
        (b"A\tb\tG1\nA\tb\tG2\n", "line 2: the gene set 'A' is there twice"),
        (b"\x89HDF\r\n\x1a\n\xff\xfe", "is not text"),
        (gzip.compress(GOOD.encode(), mtime=0)[:-9], "is not text"),
        (gzip.compress(GOOD.encode(), mtime=0)[:10] + b"\xff" * 40, "is not text"),  # its body is damaged
        (b"a,b,c\n1,2,3\n", "line 1: 'a,b,c' is no gene set"),
    ],
)
def test_a_file_that_is_none_is_one_line(tmp_path, content, said):
    path = tmp_path / "sets.gmt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        read_gmt(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_gmt(tmp_path / "sets.gmt")
    with pytest.raises(InputError, match="is a folder"):
        read_gmt(tmp_path)


def test_genes_are_matched_as_those_of_cells_are():
    genes, other = ["IRF1", "STAT1", "MKI67", "JAK2"], ["ENSG0000001", "", "ENSG0000003", ""]
    sets = {"a": ["irf1", "nowhere", "STAT1"], "b": ["ENSG0000003.4", "JAK2"]}
    expected = [[True, True, False, False], [False, False, True, True]]
    np.testing.assert_array_equal(membership(sets, genes, other), expected)
    with pytest.raises(InputError, match="no gene of the 1 sets .* is one of the model's 4 .*same species"):
        membership({"a": ["Trp53"]}, genes)


def test_what_is_found_of_a_set_does_not_depend_on_how_another_names_the_same_genes():
    genes, other = ["ISG15", "MX1", "ACTB"], ["ENSG00000187608", "ENSG00000157601", ""]
    sets = {
        "symbols": ["ISG15", "MX1"],
        "mouse": ["Isg15", "Mx1", "Actb"],
        "ids": ["ENSG00000187608.12", "ENSG00000157601"],
        "older ids": ["ENSG00000187608.3"],
    }
    together = membership(sets, genes, other)
    for row, (name, members) in zip(together, sets.items(), strict=True):
        np.testing.assert_array_equal(row, membership({name: members}, genes, other)[0])
    np.testing.assert_array_equal(together, [[1, 1, 0], [1, 1, 1], [1, 1, 0], [1, 0, 0]])
