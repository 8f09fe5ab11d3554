"""Several files are read as one, and cell metadata from a table beside them: nothing is filled in, and all is said."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from cellalign.data import files
from cellalign.data.reading import Reading, labels
from cellalign.errors import InputError, UsageError
from cellalign.records.provenance import Counterfactual, Preprocessing, Provenance


@pytest.fixture
def parts(tiny, tmp_path):
    """Two files whose cells have the same names; the second lacks a gene and has one of its own, in another order."""
    tiny.obs_names = [f"AAACCC{i}-1" for i in range(tiny.n_obs)]
    first, second = tiny[:40].copy(), tiny[40:70, ::-1].copy()
    second.obs_names = first.obs_names[:30]
    second.var_names = ["OTHER", *second.var_names[1:]]
    first.write_h5ad(tmp_path / "a.h5ad")
    second.write_zarr(tmp_path / "b.zarr")
    return Reading((str(tmp_path / "a.h5ad"), str(tmp_path / "b.zarr")), file_key="batch"), first, second


def test_files_of_two_formats_as_one(parts, caplog):
    caplog.set_level("INFO")
    reading, first, second = parts
    got = files.read(reading)
    assert got.shape == (70, 59) and "OTHER" not in got.var_names
    assert list(got.obs["batch"].astype(str)) == ["a"] * 40 + ["b"] * 30
    assert got.obs_names.is_unique and got.obs_names[0] == "AAACCC0-1-a" and got.obs_names[40] == "AAACCC0-1-b"
    shared = list(got.var_names)
    for key in ("X", "counts"):
        whole = np.vstack(
            [
                (p.X if key == "X" else p.layers[key])[:, p.var_names.get_indexer(shared)].toarray()
                for p in (first, second)
            ]
        )
        np.testing.assert_array_equal((got.X if key == "X" else got.layers[key]).toarray(), whole)
    assert "genes in all files: 59" in caplog.text and "their file's is added" in caplog.text
    part = files.read_matrix(reading, ("counts", "X"))
    assert part.X is None and list(part.layers) == ["counts"] and list(part.obs_names) == list(got.obs_names)
    assert list(files.read(Reading(reading.paths)).obs["file"].unique()) == ["a", "b"]


def test_names_that_differ_stay(parts, tmp_path):
    reading, first, second = parts
    second.obs_names = [f"other{i}" for i in range(30)]
    second.write_zarr(tmp_path / "c.zarr")
    got = files.read(Reading((reading.paths[0], str(tmp_path / "c.zarr"))))
    assert list(got.obs_names) == [*first.obs_names, *second.obs_names]


def test_what_one_file_lacks_is_refused_and_never_filled_in(parts, tmp_path):
    reading, first, second = parts
    del second.layers["counts"]
    second.write_h5ad(tmp_path / "c.h5ad")
    both = Reading((reading.paths[0], str(tmp_path / "c.h5ad")))
    with pytest.raises(InputError, match=r"a.h5ad has layer 'counts', and .*c.h5ad has not"):
        files.read(both)
    with pytest.raises(InputError, match=r"c.h5ad has no matrix 'counts'; matrices: X"):
        files.read_matrix(both, ("counts", "X"))
    logged, second.X = second.X, second.X.ceil()
    second.write_h5ad(tmp_path / "c.h5ad")
    with pytest.raises(InputError, match=r"X of .*c.h5ad holds counts, and X of .*a.h5ad does not"):
        files.read_matrix(both, "X")
    second.var_names = [f"ENSG{i}" for i in range(second.n_vars)]
    second.X = logged
    second.write_h5ad(tmp_path / "c.h5ad")
    with pytest.raises(InputError, match="share no gene names"):
        files.read_matrix(both, "X")


def test_a_column_of_the_user_is_not_replaced(parts):
    with pytest.raises(InputError, match="obs has a column 'donor' already"):
        files.read(Reading(parts[0].paths, file_key="donor"))


def test_short_names_of_files():
    assert labels(("x/a.h5ad", "x/b.csv.gz")) == ["a", "b"]
    assert labels(("s1/filtered_feature_bc_matrix.h5", "s2/filtered_feature_bc_matrix.h5")) == ["s1", "s2"]
    assert labels(("s1/a.h5", "s2/a.h5", "s1/b.h5")) == ["s1_a", "s2_a", "s1_b"]


def test_files_of_cell_ranger_and_of_two_formats_are_told_apart():
    assert labels(tuple(f"{s}/outs/filtered_feature_bc_matrix.h5" for s in ("s1", "s2"))) == ["s1", "s2"]
    assert labels(("x/a.h5ad", "x/a.zarr")) == ["a.h5ad", "a.zarr"]
    deep = labels(("x/p/a.h5", "y/q/a.h5", "x/q/a.h5"))
    assert len(set(deep)) == 3


def test_a_file_named_twice_would_count_twice(parts, tmp_path):
    path = parts[0].paths[0]
    for stream in (False, True):
        with pytest.raises(UsageError, match=r"a\.h5ad is named twice"):
            files.read(Reading((path, f"{tmp_path}/./a.h5ad"), stream=stream))


def test_columns_that_a_file_lacks_are_left_out_with_a_word(parts, caplog):
    reading, first, _ = parts
    first.obs["donor_age"] = 3
    first.write_h5ad(reading.paths[0])
    assert "donor_age" not in files.read(reading).obs
    assert "columns of obs that not all files have are left out: donor_age" in caplog.text


# --- metadata


def table(parts, path, **columns):
    pd.DataFrame(columns).to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return Reading(parts[0].paths[:1], obs=str(path))


def test_metadata_by_cell_name(parts, tmp_path, caplog):
    caplog.set_level("INFO")
    names = list(parts[1].obs_names)[::-1]
    got = files.read(table(parts, tmp_path / "m.csv", cell=names, site=[f"s{i % 2}" for i in range(40)], age=range(40)))
    assert got.obs["age"].iloc[0] == 39 and got.obs["site"].iloc[0] == "s1"
    assert "40 of 40 cells matched, columns site, age" in caplog.text
    # without the suffix of Cell Ranger, of some cells, in another column
    bare = [name.removesuffix("-1") for name in names[:30]]
    reading = table(parts, tmp_path / "m.tsv", site=["x"] * 30, barcode=bare)
    got = files.read(Reading(reading.paths, obs=reading.obs, obs_key="barcode"))
    assert got.obs["site"].isna().sum() == 10 and (got.obs["site"] == "x").sum() == 30
    assert "30 of 40 cells matched" in caplog.text and "10 cells have no row" in caplog.text
    files.write(got, tmp_path / "out.h5ad")


def test_metadata_that_does_not_fit(parts, tmp_path):
    with pytest.raises(InputError, match="names not one of the 40 cells.*obs_key"):
        files.read(table(parts, tmp_path / "m.csv", cell=["x", "y"], site=["a", "b"]))
    with pytest.raises(InputError, match="names 1 cells more than once"):
        files.read(table(parts, tmp_path / "m.csv", cell=["AAACCC0-1"] * 2, site=["a", "b"]))
    reading = Reading(parts[0].paths[:1], obs=str(tmp_path / "m.csv"), obs_key="cel")
    with pytest.raises(InputError, match="no column 'cel'. Did you mean 'cell'"):
        files.read(reading)
    with pytest.raises(InputError, match="no such file"):
        files.read(Reading(parts[0].paths[:1], obs=str(tmp_path / "none.csv")))
    with pytest.raises(InputError, match="obs_key='cell' names a column of obs"):
        files.read(Reading(parts[0].paths[:1], obs_key="cell"))


@pytest.fixture
def raw_parts(tiny, tmp_path):
    """Two files with log expression in X and counts of more genes in raw; the second's genes are in another order."""
    paths = []
    for name, rows in (("a", slice(0, 40)), ("b", slice(40, 70))):
        part = tiny[rows].copy() if name == "a" else tiny[rows, ::-1].copy()
        part.raw = AnnData(part.layers.pop("counts"), obs=part.obs[[]], var=part.var)
        part[:, :50].copy().write_h5ad(tmp_path / f"{name}.h5ad")
        paths.append(str(tmp_path / f"{name}.h5ad"))
    return tuple(paths)


@pytest.mark.parametrize("genes", ["inner", "union"])
def test_raw_of_all_files_is_kept_wherever_it_lies(raw_parts, genes, tiny):
    whole = files.read(Reading(raw_parts, genes=genes, stream=False))
    on_disk = files.read(Reading(raw_parts, genes=genes, stream=True), streaming=True)
    assert list(on_disk.raw.var_names) == list(whole.raw.var_names)
    np.testing.assert_array_equal(on_disk.raw.X.to_memory().toarray(), whole.raw.X.toarray())
    counts = tiny[:70, whole.raw.var_names].layers["counts"].toarray()
    np.testing.assert_array_equal(whole.raw.X.toarray(), counts)
    assert on_disk.to_memory().raw.shape == whole.raw.shape


def test_counts_in_the_raw_of_one_file_are_not_lost_without_a_word(raw_parts, tiny, tmp_path, caplog):
    tiny.write_h5ad(tmp_path / "c.h5ad")
    del tiny.layers["counts"]
    tiny.write_h5ad(tmp_path / "b.h5ad")
    for stream in (False, True):
        with pytest.raises(InputError, match=r"a.h5ad has its counts in raw, and .*b.h5ad has no raw"):
            files.read(Reading(raw_parts, stream=stream), streaming=True)
    both = files.read(tmp_path / "c.h5ad")
    both.raw = both
    both.obs_names = [f"other{i}" for i in range(both.n_obs)]
    both.write_h5ad(tmp_path / "d.h5ad")
    assert files.read(Reading((str(tmp_path / "d.h5ad"), str(tmp_path / "c.h5ad")))).raw is None
    assert "raw is left out: " in caplog.text and "c.h5ad has no raw" in caplog.text


def test_raw_whose_genes_cannot_be_matched_by_name(raw_parts, tmp_path):
    first = files.read(raw_parts[0])
    raw = first.raw.to_adata()
    raw.var_names = [raw.var_names[1], *raw.var_names[1:]]
    first.raw = raw
    first.write_h5ad(tmp_path / "a.h5ad")
    for stream in (False, True):
        with pytest.raises(InputError, match="raw of .*a.h5ad has the gene '.*' twice; make its names unique"):
            files.read(Reading(raw_parts, stream=stream), streaming=True)


def test_records_are_kept_whole_or_not_at_all(tiny, tmp_path):
    made = dict(method="comp", condition="stim", to="x", changes={"stim": "x"}, step=2)

    def records_of(*each):
        paths = []
        for i, (preprocessing, prediction) in enumerate(each):
            done = Provenance(preprocess=Preprocessing(**preprocessing), counterfactual=Counterfactual(**prediction))
            tiny.uns["cellalign"] = done.plain()
            tiny.obs_names = [f"{i}-{j}" for j in range(tiny.n_obs)]
            tiny.write_h5ad(tmp_path / f"{i}.h5ad")
            paths.append(str(tmp_path / f"{i}.h5ad"))
        return Provenance.of(files.read(Reading(tuple(paths))).uns)

    genes, others = {"n_top_genes": 50, "target_sum": 100.0}, {"n_top_genes": 50, "target_sum": 200.0}
    same = records_of((genes, made), (genes, made))
    assert same.preprocess.target_sum == 100 and same.counterfactual == Counterfactual(**made)
    # a total of each file's own is none of both; neither is what a file's cells gave rise to say
    found = records_of((genes, made | {"written": "draw"}), (others, made | {"written": "draw", "notes": "few"}))
    assert found.preprocess.n_top_genes == 50 and found.preprocess.target_sum is None
    assert found.counterfactual.written == "draw" and found.counterfactual.notes == ""
    assert records_of((genes, made), (genes | {"n_top_genes": 60}, made)).preprocess is None
    for other in ({"to": "y"}, {"written": "draw"}, {"weights": "00"}):
        with pytest.raises(InputError, match="1.h5ad hold predictions that were made differently"):
            records_of((genes, made), (genes, made | other))
