"""A checkpoint's settings and a benchmark's rows: what is compared, what is migrated, what is refused."""

import io
import json

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from cellalign.engine.checkpoint import Checkpoint
from cellalign.errors import ModelError
from cellalign.records import BenchmarkRow, CheckpointRecord, RecordError

ROW = BenchmarkRow(method="svae+", seed=3, held_out="B", to="stimulated", scores={"r2": 0.5, "mse_de": 1e-3})


def left(path, content):
    """A checkpoint on disk whose header holds `content`."""
    checkpoint = Checkpoint.beside(path / "model", {"seed": 0, "method": "comp"})
    checkpoint.path.mkdir()
    header = {"cellalign": content if isinstance(content, str) else json.dumps(content)}
    save_file({"weights.w": torch.zeros(2)}, checkpoint.path / "state.safetensors", header)
    return checkpoint


def refused(checkpoint):
    with pytest.raises(ModelError) as caught:
        checkpoint.load()
    said = str(caught.value)
    assert caught.value.exit_status == 4 and "\n" not in said and str(checkpoint.path) in said
    return said


def test_a_checkpoint_is_read_as_it_was_left(tmp_path):
    checkpoint = Checkpoint.beside(tmp_path / "model", {"seed": 0, "hyperparameters": {"hidden": (8, 4)}})
    checkpoint.save({"weights.w": torch.arange(3.0)}, {"epoch": 2, "best_loss": float("inf"), "history": [{"a": 1.0}]})
    tensors, state = checkpoint.load()
    assert torch.equal(tensors["weights.w"], torch.arange(3.0))
    assert state == {"epoch": 2, "best_loss": float("inf"), "history": [{"a": 1.0}]}


def test_a_checkpoint_of_format_1_is_refused_in_one_sentence(tmp_path):
    said = refused(left(tmp_path, {"settings": {"seed": 0, "method": "comp"}, "state": {"epoch": 1}}))
    assert "older cellalign" in said and "restart" in said


def test_a_checkpoint_of_format_2_was_of_a_run_in_float32(tmp_path):
    settings = {"seed": 0, "training": {"lr": 0.1}}
    left(tmp_path, {"format_version": 2, "settings": settings, "state": {"epoch": 1}})
    now = settings | {"training": {"lr": 0.1, "precision": "float32"}}
    assert Checkpoint.beside(tmp_path / "model", now).load()[1] == {"epoch": 1}
    with pytest.raises(ModelError, match="another precision"):
        Checkpoint.beside(tmp_path / "model", now | {"training": {"lr": 0.1, "precision": "bfloat16"}}).load()


def test_a_checkpoint_of_a_newer_format_is_refused(tmp_path):
    assert "newer cellalign" in refused(left(tmp_path, {"format_version": 99, "settings": {}, "state": {}}))


@pytest.mark.parametrize(
    "content",
    [
        {"format_version": 3, "state": {}},
        {"format_version": 3, "settings": {}},
        {"format_version": 3, "settings": 1, "state": {}},
        "[1]",
        "3",
        "null",
        "not json",
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    refused(left(tmp_path, content))


def test_no_changed_bit_of_a_checkpoint_goes_unnoticed(tmp_path):
    checkpoint = Checkpoint.beside(tmp_path / "model", {"seed": 0})
    checkpoint.save({"weights.w": torch.arange(3.0), "rng": torch.zeros(5, dtype=torch.uint8)}, {"epoch": 2})
    whole = checkpoint.file.read_bytes()
    for place in range(len(whole)):
        checkpoint.file.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        refused(checkpoint)
    for length in range(0, len(whole), 7):
        checkpoint.file.write_bytes(whole[:length])
        refused(checkpoint)
    checkpoint.file.write_bytes(whole)
    assert checkpoint.load()[1] == {"epoch": 2}


def test_a_file_without_our_header_is_refused(tmp_path):
    checkpoint = Checkpoint.beside(tmp_path / "model", {})
    checkpoint.path.mkdir()
    save_file({"w": torch.zeros(1)}, checkpoint.path / "state.safetensors")
    assert "damaged" in refused(checkpoint)


def test_the_first_setting_that_differs_is_named():
    record = CheckpointRecord(format_version=3, settings={"seed": 0, "method": "comp"}, state={})
    assert record.differing({"seed": 0, "method": "comp"}) is None
    assert record.differing({"seed": 0, "method": "vae"}) == "method"
    assert record.differing({"method": "vae", "seed": 1}) == "method"  # in the order of COMPARED


def test_what_a_checkpoint_did_not_keep_is_not_compared():
    record = CheckpointRecord(format_version=3, settings={"seed": 0, "content": None}, state={})
    assert record.differing({"seed": 0, "content": "sha256:1", "matrix": "X"}) is None


@pytest.mark.parametrize(
    ("key", "kept", "now", "said"),
    [
        ("content", "sha256:1", "sha256:2", "input (the cells have changed: values of the matrix, or of a column)"),
        ("matrix", "X", "counts", "matrix (X, now counts)"),
        ("recipe", {"rounded": False}, {"rounded": True}, "rounded (False, now True)"),
        ("cells", {"all": 240, "trained": 216}, {"all": 230, "trained": 207}, "number of cells (240, now 230)"),
        ("genes", ["a"], ["b"], "list of genes"),
    ],
)
def test_what_differs_is_said_in_words(key, kept, now, said):
    record = CheckpointRecord(format_version=3, settings={key: kept}, state={})
    assert record.differing({key: kept}) is None and record.differing({key: now}) == said


def test_what_is_measured_on_the_cells_may_differ_in_a_last_bit():
    recipe = {"target_sum": 174.00000028, "base": None, "rounded": False}
    record = CheckpointRecord(format_version=3, settings={"recipe": recipe}, state={})
    assert record.differing({"recipe": recipe | {"target_sum": 174.00000030}}) is None


def test_what_a_resumed_run_must_share():
    compared = {"method", "hyperparameters", "training", "fields", "holdout", "seed", "cells", "genes"}
    assert set(CheckpointRecord.COMPARED) == compared | {"content", "matrix", "recipe", "learned_from"}


def test_a_benchmark_row_survives_a_table():
    assert BenchmarkRow.of_flat(ROW.flat()) == ROW
    table = pd.DataFrame([ROW.flat()]).to_csv(index=False)
    (row,) = pd.read_csv(io.StringIO(table)).to_dict("records")
    assert BenchmarkRow.of_flat(row) == ROW and BenchmarkRow.of_flat(row).key == ("svae+", 3, "B", "stimulated")


def test_the_columns_of_a_table_begin_with_what_tells_rows_apart():
    assert list(ROW.flat()) == ["format_version", "method", "seed", "held_out", "to", "r2", "mse_de"]


def test_rows_without_a_version_are_of_format_1():
    flat = {key: value for key, value in ROW.flat().items() if key != "format_version"}
    assert BenchmarkRow.of_flat(flat) == ROW.model_copy(update={"of_decoded_means": True})


def test_old_and_new_rows_of_one_table_are_read():
    """A table of an older version that was gone on with: its first rows have no version."""
    old = {key: value for key, value in ROW.flat().items() if key != "format_version"} | {"seed": 4}
    table = pd.DataFrame([old, ROW.flat()]).to_csv(index=False)
    rows = [BenchmarkRow.of_flat(row) for row in pd.read_csv(io.StringIO(table)).to_dict("records")]
    assert [row.seed for row in rows] == [4, 3] and rows[1] == ROW


def test_scores_that_are_missing_are_left_out():
    flat = ROW.flat() | {"energy": float("nan"), "other": None}
    assert BenchmarkRow.of_flat(flat).scores == ROW.scores


def test_names_that_look_like_numbers_stay_names():
    table = pd.DataFrame([ROW.flat() | {"held_out": "7", "to": "2"}]).to_csv(index=False)
    (row,) = pd.read_csv(io.StringIO(table)).to_dict("records")
    assert BenchmarkRow.of_flat(row).key == ("svae+", 3, "7", "2")


@pytest.mark.parametrize("key", BenchmarkRow.KEYS)
def test_a_row_without_a_key_is_refused_and_the_key_named(key):
    with pytest.raises(RecordError, match=key):
        BenchmarkRow.of_flat({k: v for k, v in ROW.flat().items() if k != key})


@pytest.mark.parametrize("change", [{"seed": "first"}, {"r2": "good"}, {"format_version": 9}, {"format_version": "x"}])
def test_a_row_of_the_wrong_kind_is_refused(change):
    with pytest.raises(RecordError):
        BenchmarkRow.of_flat(ROW.flat() | change)
