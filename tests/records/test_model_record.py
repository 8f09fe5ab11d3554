"""model.yaml: checked when read, brought up to date from format 1, refused in one sentence where it is damaged."""

import shutil
from pathlib import Path

import pytest
import yaml
from support import rewritten

import cellalign
from cellalign.data.fields import field_records, read_fields
from cellalign.errors import ModelError
from cellalign.model_directory import read_record
from cellalign.records import ModelRecord, RecordError

OLD = Path(__file__).parent.parent / "fixtures" / "format1"
NAMES = sorted(path.parent.name for path in OLD.glob("*/model.yaml"))
REQUIRED = sorted(name for name, field in ModelRecord.model_fields.items() if field.is_required())
PLAIN = {
    "format_version": 2,
    "weights_checksum": "sha256:0",
    "cellalign": "0.2.0",
    "method": "vae",
    "hyperparameters": {"latent_dim": 2},
    "training": {"epochs": 1, "validation": 0.1},
    "matrix": "X",
    "fields": [{"kind": "categorical", "name": "site", "role": "batch", "categories": ["a", "b"]}],
    "holdout": ["site=a"],
    "seed": 3,
    "cells": {"all": 10, "trained": 9, "validation": 1},
    "source": {"path": "cells.h5ad", "checksum": "sha256:1", "size": 5, "modified_ns": 7},
    "command_hint": "cellalign preprocess cells.h5ad -o cells.pp.h5ad",
    "genes": ["A", "B"],
}


def roles_of_format_1(**changes):
    roles = dict(condition=None, control=None, batches=[], covariates=[], label=None, categories={}, continuous=None)
    return roles | dict(unknown=False, numeric={}, unlabelled=None) | changes


def migrated(**changes):
    old = {key: value for key, value in PLAIN.items() if key != "fields"} | {"format_version": 1}
    return ModelRecord.read(old | {"roles": roles_of_format_1(**changes), "dimensions": {}})


@pytest.fixture
def directory(tmp_path):
    """A copy of a model of format 1 whose model.yaml a test may damage."""
    return Path(shutil.copytree(OLD / "vae", tmp_path / "vae"))


@pytest.fixture
def saved(tmp_path):
    """A model that was saved in the format of today."""
    cellalign.load(OLD / "comp").save(tmp_path / "comp")
    return tmp_path / "comp"


def refused(directory):
    with pytest.raises(ModelError) as caught:
        cellalign.load(directory)
    said = str(caught.value)
    assert caught.value.exit_status == 4 and "\n" not in said and str(directory) in said
    return said


def test_the_required_keys_are_those_without_which_a_model_cannot_be_applied():
    needed = {"format_version", "cellalign", "method", "hyperparameters", "training", "matrix", "fields", "holdout"}
    assert set(REQUIRED) == needed | {"seed", "cells", "source", "command_hint", "genes"}


@pytest.mark.parametrize("key", REQUIRED)
def test_a_model_without_a_required_key_is_refused_in_one_sentence_that_names_it(saved, key):
    rewritten(saved, lambda plain: {k: v for k, v in plain.items() if k != key})
    assert key in refused(saved)


@pytest.mark.parametrize("key", ["matrix", "source", "command_hint", "cellalign", "holdout", "roles", "genes"])
def test_so_is_one_of_format_1(directory, key):
    rewritten(directory, lambda plain: {k: v for k, v in plain.items() if k != key})
    assert repr(key) in refused(directory)


@pytest.mark.parametrize("key", ["condition", "categories", "batches", "covariates", "label"])
def test_so_is_one_of_format_1_whose_roles_lack_a_key(directory, key):
    rewritten(directory, lambda plain: plain | {"roles": {k: v for k, v in plain["roles"].items() if k != key}})
    assert repr(key) in refused(directory)


@pytest.mark.parametrize(
    "key, value",
    [
        ("seed", "three"),
        ("genes", "A B"),
        ("genes", [["A"]]),
        ("holdout", {"a": 1}),
        ("cells", {"all": 10}),
        ("cells", 10),
        ("source", "cells.h5ad"),
        ("hyperparameters", [1]),
        ("training", None),
        ("matrix", 3),
        ("fields", {"stim": 1}),
        ("fields", [{"name": "stim", "role": "condition"}]),
        ("versions", [1]),
        ("outcome", {"epochs": "many"}),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_and_named(saved, key, value):
    rewritten(saved, lambda plain: plain | {key: value})
    assert key in refused(saved)


@pytest.mark.parametrize(
    "fields",
    [
        [{"kind": "spline", "name": "stim", "role": "condition"}],
        [{"kind": "number", "name": "stim", "role": "condition"}],
        [{"kind": "categorical", "name": "stim", "role": "conditional", "categories": ["a"]}],
    ],
)
def test_a_field_that_no_class_can_read_is_refused_and_named(saved, fields):
    rewritten(saved, lambda plain: plain | {"fields": fields})
    assert "'stim'" in refused(saved)


@pytest.mark.parametrize(
    "settings", [{"latent_dim": "many"}, {"latent_dim": 0}, {"no_such_setting": 1}, {"hidden": []}]
)
def test_hyperparameters_that_the_method_does_not_take_are_refused(saved, settings):
    rewritten(saved, lambda plain: plain | {"hyperparameters": plain["hyperparameters"] | settings})
    assert "damaged" in refused(saved)


@pytest.mark.parametrize("content", ["", "[]", "- a\n- b\n", "just words\n", "3\n", "a: [\n"])
def test_what_is_no_mapping_is_refused(saved, content):
    (saved / "model.yaml").write_text(content)
    assert "damaged" in refused(saved)


@pytest.mark.parametrize("version", [None, "2", True, 1.5, 0, -1])
def test_a_version_that_never_was_is_refused(saved, version):
    rewritten(saved, lambda plain: plain | {"format_version": version})
    said = refused(saved)
    assert "version" in said or "format" in said


def test_a_newer_format_is_refused_with_its_version_and_what_to_do(saved):
    rewritten(saved, lambda plain: plain | {"format_version": 3, "cellalign": "9.1"})
    said = refused(saved)
    assert "9.1" in said and "format 3" in said and "upgrade cellalign" in said and "damaged" not in said


def test_a_newer_format_is_refused_whatever_else_it_lacks():
    with pytest.raises(RecordError, match="newer cellalign"):
        ModelRecord.read({"format_version": 99})


@pytest.mark.parametrize("name", ["comp", "svae+", "pca", "linear", "celligner", "stgan"])
def test_a_gene_removed_from_the_list_is_noticed(tmp_path, name):
    directory = Path(shutil.copytree(OLD / name, tmp_path / name))
    rewritten(directory, lambda plain: plain | {"genes": plain["genes"][1:]})
    assert "do not fit" in refused(directory)


@pytest.mark.parametrize("method", ["no-such-method", "", "VAE"])
def test_a_method_that_is_not_installed_is_named(saved, method):
    rewritten(saved, lambda plain: plain | {"method": method})
    said = refused(saved)
    assert repr(method) in said and "install the package" in said


def test_keys_of_later_versions_of_the_same_format_are_left_alone():
    assert ModelRecord.read(PLAIN | {"licence": "MIT"}) == ModelRecord.read(PLAIN)


@pytest.mark.parametrize("name", NAMES)
def test_every_model_of_format_1_becomes_one_of_format_2(name):
    record = read_record(OLD / name)
    assert record.format_version == ModelRecord.FORMAT == 2
    old = yaml.safe_load((OLD / name / "model.yaml").read_text())
    for key in ("cellalign", "method", "hyperparameters", "matrix", "holdout", "seed", "genes", "weights_checksum"):
        assert getattr(record, key) == old[key]
    assert record.source.path == old["source"]["path"] and record.outcome.epochs == old["outcome"]["epochs"]
    roles, fields = old["roles"], {field.name: field for field in read_fields(record.fields)}
    assert {name for name, field in fields.items() if field.role == "batch"} == set(roles["batches"])
    assert {name for name, field in fields.items() if field.role == "covariate"} == set(roles["covariates"])
    for column, known in roles["categories"].items():
        assert list(fields[column].categories) == known


def test_fields_of_format_1_keep_the_order_of_their_weights():
    """Condition, batches, covariates, label; among batches and among covariates categories come before numbers."""
    record = migrated(
        condition="stim",
        control="ctrl",
        batches=["age", "site"],
        covariates=["depth", "type", "donor"],
        label="cell",
        categories={"stim": ["ctrl", "x"], "site": ["a"], "type": ["t"], "donor": ["d"], "cell": ["B", "none"]},
        numeric={"age": {"mean": 50.0, "sd": 2.0}, "depth": {"mean": 0.0, "sd": 1.0}},
    )
    assert [(f.role, f.name, f.kind) for f in record.fields] == [
        ("condition", "stim", "categorical"),
        ("batch", "site", "categorical"),
        ("batch", "age", "number"),
        ("covariate", "type", "categorical"),
        ("covariate", "donor", "categorical"),
        ("covariate", "depth", "number"),
        ("label", "cell", "categorical"),
    ]
    fields = {field.name: field for field in read_fields(record.fields)}
    assert fields["stim"].reference == "ctrl" and not fields["stim"].may_be_missing
    assert (fields["age"].mean, fields["age"].sd) == (50.0, 2.0)
    assert [name for name, f in fields.items() if f.may_be_missing] == ["type", "donor", "depth", "cell"]


def test_a_continuous_a_missing_and_an_unlabelled_value_of_format_1_are_kept():
    dose = migrated(condition="dose", continuous={"mean": 1.0, "sd": 2.0, "low": 0.0, "high": 5.0}).fields
    (field,) = read_fields(dose)
    assert (field.kind, field.mean, field.sd, field.low, field.high) == ("number", 1.0, 2.0, 0.0, 5.0)
    missing = migrated(condition="stim", control="a", unknown=True, categories={"stim": ["a", "b"]}).fields
    assert read_fields(missing)[0].may_be_missing
    label = migrated(label="cell", unlabelled="Unknown", categories={"cell": ["B"]}).fields
    assert read_fields(label)[0].missing_value == "Unknown"


def test_a_record_survives_yaml(tmp_path):
    record = ModelRecord.read(PLAIN)
    written = yaml.safe_dump(record.plain(), sort_keys=False, allow_unicode=True)
    assert ModelRecord.read(yaml.safe_load(written)) == record
    assert list(yaml.safe_load(written))[-1] == "genes"
    assert "outcome" not in record.plain() and "transferred" not in record.plain()


@pytest.mark.parametrize("name", NAMES)
def test_every_model_survives_being_saved_and_read(tmp_path, name):
    model = cellalign.load(OLD / name)
    model.save(tmp_path / name)
    again = cellalign.load(tmp_path / name)
    assert again.record == model.record and again.fields == model.fields
    assert yaml.safe_load((tmp_path / name / "model.yaml").read_text())["format_version"] == 2
    assert read_fields(field_records(model.fields)) == model.fields


def test_a_path_that_is_no_unicode_is_written_out():
    """YAML that holds half a character could not be read again, and a finished training would be lost."""
    from cellalign.records import checked_text, plain_of

    text = checked_text({"command": "cellalign train in\udcff.h5ad", "holdout": ["\udcfe=1"], "genes": ["ü", "🦠"]})
    text.encode()
    plain = plain_of(text)
    assert plain["command"] == "cellalign train in\\xff.h5ad" and plain["genes"] == ["ü", "🦠"]
