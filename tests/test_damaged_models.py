"""A model directory that was edited or damaged is refused as one, or works; nothing of it is unexpected."""

import copy
import random
import shutil

import pytest
import yaml
from safetensors.torch import load_file, save_file
from support import rewritten

import cellalign
from cellalign.data.files import checksum
from cellalign.errors import CellalignError, ModelError

GARBAGE = [None, "x", "", -1, 0, 10**30, 1.5, float("nan"), float("inf"), True, [], {}, [None], {"a": 1}, [[1]], "\x1b"]
GONE = object()
TRIED = 40  # of a few thousand edits of each model, drawn with a seed
METHODS = {"vae": {}, "scanvi": {"label": "cell_type", "batch": ["donor"]}, "linear": {}}


@pytest.fixture(scope="module")
def models(tiny_cells, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for method, options in METHODS.items():
        small = {"settings": {"hidden": [8], "latent_dim": 3}} if method != "linear" else {}
        model = cellalign.train(tiny_cells, method=method, condition="stim", epochs=1, **options, **small)
        model.save(folder / method)
    return folder


@pytest.fixture
def damaged(models, tmp_path):
    """A copy of a model to damage, by its method."""

    def copied(method):
        shutil.copytree(models / method, tmp_path / method)
        return tmp_path / method

    return copied


def places(node, at=()):
    """Every key and item of model.yaml, of lists the first two."""
    yield at
    children = node.items() if isinstance(node, dict) else enumerate(node[:2]) if isinstance(node, list) else ()
    for key, value in children:
        yield from places(value, (*at, key))


def edited(plain, at, value):
    if not at:
        return value
    new = copy.deepcopy(plain)
    node = new
    for key in at[:-1]:
        node = node[key]
    if value is GONE:
        del node[at[-1]]
    else:
        node[at[-1]] = value
    return new


@pytest.mark.parametrize("method", METHODS)
def test_model_yaml_with_anything_in_it(damaged, tiny_cells, method):
    folder = damaged(method)
    plain = yaml.safe_load((folder / "model.yaml").read_text())
    del plain["checksum"]  # which would refuse every one
    edits = [(at, value) for at in places(plain) for value in (GONE, *GARBAGE) if at or value is not GONE]
    for at, value in random.Random(0).sample(edits, TRIED):
        (folder / "model.yaml").write_text(yaml.safe_dump(edited(plain, at, value)))
        try:
            model = cellalign.load(folder)
        except ModelError as error:
            assert str(folder) in str(error) and "\n" not in str(error), (at, value)
            continue
        try:
            model.embed(tiny_cells)
        except CellalignError as error:
            assert "\n" not in str(error), (at, value)


@pytest.mark.parametrize("method", METHODS)
def test_every_key_that_is_needed_is_named_when_it_is_gone(damaged, method):
    folder = damaged(method)
    plain = yaml.safe_load((folder / "model.yaml").read_text())
    for key in (
        "genes",
        "matrix",
        "command_hint",
        "method",
        "hyperparameters",
        "training",
        "fields",
        "cells",
        "source",
    ):
        (folder / "model.yaml").write_text(yaml.safe_dump({k: v for k, v in plain.items() if k != key}))
        with pytest.raises(ModelError, match=f"is damaged: it lacks '{key}'"):
            cellalign.load(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\x01\xff\xfe", b"a: [", b"- 1", b"x", b"!!python/object:os.system {}", b"&a [*a]", b"[" * 5000],
)
def test_model_yaml_that_is_none(damaged, content):
    folder = damaged("vae")
    (folder / "model.yaml").write_bytes(content)
    with pytest.raises(ModelError, match="is damaged"):
        cellalign.load(folder)


@pytest.mark.parametrize("cut", [0, 7, 8, 100, -1])
def test_weights_that_were_cut_off(damaged, cut):
    folder = damaged("vae")
    content = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(content[:cut])
    with pytest.raises(ModelError, match="its checksum is not the one"):
        cellalign.load(folder)
    rewritten(folder, lambda plain: plain | {"weights_checksum": checksum(folder / "weights.safetensors")})
    with pytest.raises(ModelError, match="is damaged"):
        cellalign.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: {},
        lambda weights: {name: value.flatten() for name, value in weights.items()},
        lambda weights: {name: value[..., :1].contiguous() for name, value in weights.items() if value.ndim},
        lambda weights: weights | {"more": next(iter(weights.values())).clone()},
        lambda weights: {name: value for name, value in weights.items() if name != max(weights)},
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_weights_of_another_shape(damaged, method, change):
    folder = damaged(method)
    save_file(change(load_file(folder / "weights.safetensors")), folder / "weights.safetensors")
    rewritten(folder, lambda plain: plain | {"weights_checksum": checksum(folder / "weights.safetensors")})
    with pytest.raises(ModelError, match="the weights do not fit"):
        cellalign.load(folder)


@pytest.mark.parametrize("content", [b"epoch,loss\n1,x\n", b"\xff\xfe", b"a,a\n1,2,3,4\n", b"\x00", b"epoch\n\n1\n"])
def test_a_damaged_history_is_no_damage_to_the_model(damaged, tiny_cells, content):
    folder = damaged("vae")
    (folder / "history.csv").write_bytes(content)
    assert cellalign.load(folder).embed(tiny_cells).shape == (240, 3)
