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
from cellalign.errors import CellalignError, ModelError, UsageError

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


@pytest.mark.parametrize("change", [
    lambda text: text.rpartition("- ")[0],  # its last gene
    lambda text: text[: text.rindex("- ", 0, -9)],
    lambda text: text.replace("- GENE4\n- GENE5\n", "- GENE5\n- GENE4\n"),
    lambda text: text.replace("seed: 0", "seed: 1"),
    lambda text: text.replace("trained: ", "trained: 1"),
    lambda text: text.replace("matrix: X", "matrix: counts"),
    lambda text: text.replace("checksum: sha256:", "checksum: sha256:0"),
])  # fmt: skip
def test_model_yaml_of_which_a_value_is_another_is_damaged(damaged, change):
    folder = damaged("vae")
    text = (folder / "model.yaml").read_text()
    assert change(text) != text
    (folder / "model.yaml").write_text(change(text))
    with pytest.raises(
        ModelError, match=r"model\.yaml is damaged: its values are not those of its checksum; restore it"
    ):
        cellalign.load(folder)


def test_model_yaml_may_be_laid_out_otherwise_and_edited_on_purpose(damaged, tiny_cells):
    folder = damaged("vae")
    path = folder / "model.yaml"
    before = cellalign.load(folder)
    text = path.read_text()
    plain = yaml.safe_load(text)
    path.write_text("# a note\n" + yaml.safe_dump(plain, sort_keys=True, default_flow_style=True, width=40) + "\n\n")
    assert cellalign.load(folder).record == before.record
    rewritten(folder, lambda plain: plain | {"command_hint": "mine"})
    assert cellalign.load(folder).record.command_hint == "mine"


def bomb(levels):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (bomb(12), "it holds an alias"),
        ("a: &a 1\n", "it holds an alias"),
        ("seed: 1\nseed: 2\n", "it holds 'seed' twice"),
        ("cells: {all: 1, all: 2}\n", "it holds 'all' twice"),
        ("[" * 100_000, "it is deeper than 20 levels"),
        ("- " * 100_000, "it is deeper than 20 levels"),
        ("{a: " * 100_000, "it is deeper than 20 levels"),
        ("a: !!python/object/apply:os.system [true]\n", "could not determine a constructor"),
        ("a: " + "9" * 100_000 + "\n", "Exceeds the limit"),
        ("genes: [" + "x, " * 4_000_000 + "]", "it is 12 MB, and the weights are"),
    ],
)
def test_yaml_that_grows_or_hides_is_refused_at_once(damaged, content, says):
    folder = damaged("vae")
    (folder / "model.yaml").write_text(content)
    with pytest.raises(ModelError, match=f"is damaged: {says}"):
        cellalign.load(folder)


@pytest.mark.parametrize("settings", [{"hidden": [100_000] * 100}, {"latent_dim": 10_000, "hidden": [99_999]}])
def test_networks_far_larger_than_the_weights_are_refused_before_they_are_made(damaged, settings):
    folder = damaged("vae")
    rewritten(folder, lambda plain: plain | {"hyperparameters": plain["hyperparameters"] | settings})
    with pytest.raises(ModelError, match=r"the weights do not fit the method, .*, which would be .* GB or more"):
        cellalign.load(folder)


@pytest.mark.parametrize("settings", [{"hidden": [6_000_000]}, {"latent_dim": 10**9}, {"hidden": [2] * 101}])
def test_sizes_beyond_any_use_are_refused(damaged, tiny_cells, settings):
    with pytest.raises(CellalignError, match="is out of range"):
        cellalign.train(tiny_cells, method="vae", settings=settings)
    folder = damaged("vae")
    rewritten(folder, lambda plain: plain | {"hyperparameters": plain["hyperparameters"] | settings})
    with pytest.raises(ModelError, match="is damaged"):
        cellalign.load(folder)


def test_training_of_more_than_there_is_memory_for_is_refused_before_it_is_taken(tiny_cells):
    with pytest.raises(
        UsageError, match=r"hidden=\[100000, .*would take .* GB or more, four times that in training, of"
    ):
        cellalign.train(tiny_cells, method="vae", settings={"hidden": [100_000] * 20})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("method", METHODS)
def test_weights_that_are_not_finite_are_damage(damaged, method, value):
    folder = damaged(method)
    weights = load_file(folder / "weights.safetensors")
    name = next(name for name, values in weights.items() if values.is_floating_point())
    weights[name].view(-1)[-1] = value
    save_file(weights, folder / "weights.safetensors")
    rewritten(folder, lambda plain: plain | {"weights_checksum": checksum(folder / "weights.safetensors")})
    with pytest.raises(ModelError, match=f"holds 1 values of {name} that are NaN or infinite"):
        cellalign.load(folder)


def test_weights_of_another_type_are_damage(damaged):
    folder = damaged("vae")
    weights = {name: values.double() for name, values in load_file(folder / "weights.safetensors").items()}
    save_file(weights, folder / "weights.safetensors")
    rewritten(folder, lambda plain: plain | {"weights_checksum": checksum(folder / "weights.safetensors")})
    with pytest.raises(ModelError, match=r"the weights do not fit .* is of torch\.float64 and not of"):
        cellalign.load(folder)


def test_a_history_that_is_a_folder_or_gone_is_no_damage_to_the_model(damaged, caplog):
    folder = damaged("vae")
    (folder / "history.csv").unlink()
    assert cellalign.load(folder).history == [] and not caplog.records
    (folder / "history.csv").mkdir()
    assert cellalign.load(folder).history == [] and len(caplog.records) == 1
