"""uns["cellalign"]: a record for each step and key, none of which erases another, in any file and from any version."""

import json
import re
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest

import cellalign
from cellalign.methods.registry import names
from cellalign.records import (
    Annotation,
    Counterfactual,
    Embedding,
    Preprocessing,
    Provenance,
    Target,
    Targets,
    find_obsm_key,
    obsm_key,
)

OLD = Path(__file__).parent.parent / "fixtures" / "format1"
VALID = re.compile(r"^[a-zA-Z][a-zA-Z0-9_.-]*$")
PREPARED = Preprocessing(counts_from="X", n_top_genes=50, target_sum=1e4, batch="donor", version="0.2.0")


def embedding(method="comp", **changes):
    return Embedding(
        **dict(method=method, key=obsm_key(method), condition="stim", version="0.2.0", weights="w") | changes
    )


def change(**changes):
    asked = dict(method="comp", condition="stim", from_="control", to="stimulated", changes={"stim": "stimulated"})
    return Counterfactual(**asked | dict(written="residual transfer", version="0.2.0", weights="w") | changes)


def through_h5ad(adata, path):
    adata.write_h5ad(path)
    return ad.read_h5ad(path)


def test_steps_are_numbered_in_the_order_they_were_taken():
    done = Provenance().with_steps(PREPARED).with_steps(embedding()).with_steps(embedding("vae"), change())
    assert done.preprocess.step == 1 and done.embedding["X_comp"].step == 2
    assert done.embedding["X_vae"].step == 3 and done.counterfactual.step == 4
    assert sorted(step.step for step in done.steps()) == [1, 2, 3, 4]


def test_no_step_erases_another_kind_or_key():
    done = Provenance().with_steps(PREPARED, embedding(), embedding("svae+"), change())
    done = done.with_steps(
        Annotation(method="comp", label="cell_type"), Targets(method="svae", condition="g", threshold=0.5)
    )
    assert done.preprocess.counts_from == "X" and set(done.embedding) == {"X_comp", "X_svae_plus"}
    assert (
        done.counterfactual.to == "stimulated"
        and done.annotation["cell_type"].k == 15
        and done.targets.threshold == 0.5
    )
    more = done.with_steps(Annotation(method="comp", label="donor"))
    assert set(more.annotation) == {"cell_type", "donor"} and set(more.embedding) == set(done.embedding)


def test_the_same_kind_and_key_is_replaced_and_becomes_the_latest():
    done = Provenance().with_steps(embedding(weights="first"), embedding("vae"), embedding(weights="second"))
    assert set(done.embedding) == {"X_comp", "X_vae"}
    assert (done.embedding["X_comp"].weights, done.embedding["X_comp"].step) == ("second", 3)
    assert done.latest_embedding.method == "comp"


def test_the_latest_is_what_was_written_last():
    assert Provenance().latest is None and Provenance().latest_embedding is None
    assert Provenance().with_steps(embedding(), change()).latest == change(step=2)
    assert Provenance().with_steps(change(), embedding()).latest == embedding(step=2)
    assert Provenance().with_steps(embedding("vae"), embedding("comp")).latest_embedding.method == "comp"
    assert Provenance().with_steps(PREPARED, Annotation(method="comp", label="t")).latest is None


def test_with_steps_leaves_the_one_it_was_asked_of_alone():
    before = Provenance().with_steps(embedding())
    before.with_steps(embedding("vae"), PREPARED)
    assert set(before.embedding) == {"X_comp"} and before.preprocess is None


def test_embed_keeps_what_preprocess_and_another_method_wrote(tmp_path, tiny_counts):
    cells = cellalign.preprocess(tiny_counts, n_top_genes=30)
    small = {"hidden": [8], "latent_dim": 2, "epochs": 1}
    for method, told in (("vae", {}), ("cvae", {"condition": "stim"})):
        model = cellalign.train(cells, method=method, settings=small, **told)
        model.save(tmp_path / method)
        cellalign.embed(cells, model)
        assert Provenance.of(cells.uns).latest_embedding.weights == model.record.weights_checksum != ""
    done = Provenance.of(through_h5ad(cells, tmp_path / "cells.h5ad").uns)
    assert done.preprocess.n_top_genes == 30 and done.preprocess.step == 1
    assert {key: e.step for key, e in done.embedding.items()} == {"X_vae": 2, "X_cvae": 3}
    assert done.embedding["X_cvae"].condition == "stim" and done.embedding["X_vae"].condition is None


def test_a_counterfactual_keeps_how_its_cells_were_prepared(tiny_counts):
    cells = cellalign.preprocess(tiny_counts, n_top_genes=30)
    model = cellalign.train(cells, method="cvae", condition="stim", settings={"hidden": [8], "latent_dim": 2}, epochs=1)
    cellalign.embed(cells, model)
    predicted = model.counterfactual(cells, to="stimulated")
    done = Provenance.of(predicted.uns)
    assert done.preprocess.n_top_genes == 30 and not done.embedding  # its cells have no such obsm
    assert (done.counterfactual.from_, done.counterfactual.to) == ("control", "stimulated")
    assert done.latest == done.counterfactual and done.counterfactual.step > done.preprocess.step
    assert Provenance.of(cells.uns).counterfactual is None


def test_every_step_survives_a_file(tmp_path, tiny):
    done = Provenance().with_steps(
        PREPARED,
        embedding(),
        embedding("svae+", condition=None, continuous=True, weights=None),
        change(changes={"stim": "stimulated", "donor": "d1"}, samples=3, draws=2, continuous=True),
        Annotation(method="scanvi", label="cell type", reference="reference.h5ad", k=7, unknown=0.05),
        Targets(method="svae+", condition="guide", threshold=0.25),
    )
    tiny.uns["cellalign"] = done.plain()
    assert Provenance.of(tiny.uns) == done
    assert Provenance.of(through_h5ad(tiny, tmp_path / "cells.h5ad").uns) == done
    tiny.write_zarr(tmp_path / "cells.zarr")
    assert Provenance.of(ad.read_zarr(tmp_path / "cells.zarr").uns) == done


def test_a_slash_in_a_columns_name_costs_no_record(tmp_path, tiny):
    """HDF5 makes a group of what stands before it."""
    done = Provenance().with_steps(
        embedding(condition="drug/dose"),
        change(condition="drug/dose", changes={"drug/dose": "high/low"}),
        Annotation(method="comp", label="T/NK"),
    )
    tiny.uns["cellalign"] = done.plain()
    assert Provenance.of(through_h5ad(tiny, tmp_path / "cells.h5ad").uns) == done


def test_what_is_written_is_plain_and_without_what_is_not_set():
    plain = Provenance().with_steps(embedding(condition=None)).plain()
    assert plain["format_version"] == 3 and set(plain) == {"format_version", "embedding"}
    assert "condition" not in plain["embedding"]["X_comp"]
    assert Provenance().with_steps(change()).plain()["counterfactual"]["from"] == "control"
    assert Provenance().plain() == {"format_version": 3}


@pytest.mark.parametrize("method, key", [("comp", "X_comp"), ("svae+", "X_svae+")])
def test_embeddings_of_format_1_are_read(method, key):
    adata = ad.read_h5ad(OLD / f"{method}.embedded.h5ad")
    done = Provenance.of(adata.uns)
    (found,) = done.embedding.values()
    assert (found.method, found.version, found.step, found.weights) == (method, "0.1.0", 1, None)
    assert find_obsm_key(obsm_key(method), adata.obsm) == key and find_obsm_key(found.key, adata.obsm) == key
    assert done.latest == done.latest_embedding == found and found.condition in ("stim", "guide")


def test_a_counterfactual_of_format_1_is_read():
    done = Provenance.of(ad.read_h5ad(OLD / "comp.counterfactual.h5ad").uns)
    found = done.counterfactual
    assert (found.condition, found.from_, found.to, found.expression) == ("stim", "control", "stimulated", "log")
    assert (found.written, found.samples, found.draws, found.weights) == ("decoded", 0, 0, None)
    assert not done.embedding and done.preprocess is None


def test_other_records_of_format_1_are_read():
    old = {"kind": "preprocess", "counts_from": "X", "n_top_genes": np.int64(50), "target_sum": np.float64(1e4)}
    done = Provenance.of({"cellalign": old | {"batch": "", "version": "0.1.0"}})
    assert done.preprocess == Preprocessing(counts_from="X", n_top_genes=50, target_sum=1e4, version="0.1.0", step=1)
    old = {"kind": "targets", "method": "svae", "condition": "guide", "threshold": np.float64(0.5), "weights": "w"}
    assert Provenance.of({"cellalign": old}).targets.threshold == 0.5
    old = {"kind": "counterfactual", "method": "ivae", "condition": "g", "from": "", "to": "a", "scale": "counts"}
    assert Provenance.of({"cellalign": old}).counterfactual.expression == "counts"


def test_an_annotation_of_format_1_stands_beside_the_embedding():
    note = {"method": "comp", "label": "cell_type", "reference": "r.h5ad", "classifier": "auto", "k": np.int64(15)}
    old = {"kind": "embedding", "method": "comp", "key": "X_comp", "condition": "stim", "annotation": note}
    done = Provenance.of({"cellalign": old})
    assert done.annotation["cell_type"].reference == "r.h5ad" and done.embedding["X_comp"].method == "comp"
    assert Provenance.of({"cellalign": {"annotation": note}}).annotation["cell_type"].k == 15


def test_a_step_after_a_record_of_format_1_keeps_it():
    adata = ad.read_h5ad(OLD / "comp.embedded.h5ad")
    cellalign.embed(adata, cellalign.load(OLD / "vae"))
    done = Provenance.of(adata.uns)
    assert {key: e.step for key, e in done.embedding.items()} == {"X_comp": 1, "X_vae": 2}
    assert done.plain()["format_version"] == 3


@pytest.mark.parametrize(
    "foreign",
    [
        "a word",
        3,
        np.arange(3),
        ["a"],
        {"format_version": "two"},
        {"format_version": 3, "embedding": "X_comp"},
        {"format_version": 3, "embedding": {"X_comp": {"method": "comp"}}},
        {"format_version": 3, "counterfactual": {"to": "x"}},
        {"format_version": 4, "cellalign": "9.0"},
        {"kind": "embedding", "method": "comp"},
        {"kind": "counterfactual"},
        {"annotation": {"k": 3}},
        {"annotation": "cell_type"},
    ],
)
def test_what_cannot_be_read_is_one_warning_and_no_provenance(caplog, foreign):
    with caplog.at_level("WARNING", logger="cellalign"):
        assert Provenance.of({"cellalign": foreign}) == Provenance()
    assert len(caplog.records) == 1 and 'uns["cellalign"] is not read' in caplog.text


def test_a_file_with_foreign_uns_can_be_embedded(tiny, caplog):
    tiny.uns["cellalign"] = "mine"
    model = cellalign.train(tiny, method="pca", settings={"latent_dim": 2})
    cellalign.embed(tiny, model)
    assert set(Provenance.of(tiny.uns).embedding) == {"X_pca"} and "not read" in caplog.text


def test_no_record_is_no_warning(caplog):
    assert Provenance.of({}) == Provenance() and not caplog.records


def test_keys_of_a_record_that_a_later_version_added_are_left_alone():
    plain = Provenance().with_steps(embedding()).plain()
    plain["embedding"]["X_comp"]["hue"] = "green"
    plain["audit"] = {"by": "me"}
    assert Provenance.of({"cellalign": plain}) == Provenance().with_steps(embedding())


@pytest.mark.parametrize("suffix", ["", "_spurious"])
def test_obsm_keys_of_all_methods_can_be_read_by_cellxgene(suffix):
    keys = [obsm_key(name, suffix) for name in names()]
    assert all(VALID.match(key) for key in keys) and len(set(keys)) == len(keys)
    assert obsm_key("svae+") == "X_svae_plus" and obsm_key("mmd-ae") == "X_mmd-ae" and obsm_key("a b/c") == "X_a_b_c"


def test_a_key_is_found_as_this_and_the_version_before_spell_it():
    assert find_obsm_key("X_svae_plus", ["X_pca", "X_svae+"]) == "X_svae+"
    assert find_obsm_key("X_svae+", ["X_svae_plus"]) == "X_svae_plus"
    assert find_obsm_key("X_svae+", ["X_svae_plus", "X_svae+"]) == "X_svae+"
    assert find_obsm_key("X_svae_plus", ["X_svae", "X_pca"]) is None and find_obsm_key("X_a", []) is None


def test_a_model_of_format_1_embeds_under_the_new_key(tmp_path):
    adata = ad.read_h5ad(OLD / "svae+.embedded.h5ad")
    before = adata.obsm["X_svae+"].copy()
    cellalign.embed(adata, cellalign.load(OLD / "svae+"))
    np.testing.assert_allclose(adata.obsm["X_svae_plus"], before, atol=1e-5)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with h5py.File(tmp_path / "cells.h5ad") as file:
        assert "X_svae_plus" in file["obsm"] and "X_svae_plus" in file["uns/cellalign/embedding"]


def test_version_2_is_read_and_predicts_one_condition():
    old = json.loads((Path(__file__).parent.parent / "fixtures" / "provenance2.json").read_text())
    done = Provenance.of({"cellalign": old})
    assert done.counterfactual.each() == [done.counterfactual] and done.counterfactual.to == "stimulated"
    assert done.counterfactual.targets == () and done.preprocess.target_sum == 1e4
    assert done.plain()["format_version"] == Provenance.FORMAT


def test_several_conditions_survive_a_file_and_are_one_record_each(tmp_path, tiny):
    targets = (
        Target(to="a/b", from_="ctrl", changes={"g/h": "a/b"}),
        Target(to="c", from_="ctrl", changes={"g/h": "c"}),
    )
    written = change(to="all", changes={}, targets=targets, source="source_cell", with_control="ctrl", within="donor")
    tiny.uns["cellalign"] = Provenance().with_steps(written).plain()
    read = Provenance.of(through_h5ad(tiny, tmp_path / "cells.h5ad").uns).counterfactual
    assert read == written.model_copy(update={"step": 1})
    assert [(one.to, one.from_, one.changes, one.targets) for one in read.each()] == [
        ("a/b", "ctrl", {"g/h": "a/b"}, ()),
        ("c", "ctrl", {"g/h": "c"}, ()),
    ]
