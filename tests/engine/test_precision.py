"""Which precision is used, that it is kept, and that float32 gives what the version before bfloat16 gave."""

import logging
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
from support import StopAfter

import cellalign
from cellalign.engine import fit, precision
from cellalign.engine.precision import DTYPES, settle
from cellalign.errors import ModelError
from cellalign.methods.registry import get

CPU = torch.device("cpu")
EXAMPLE = Path(__file__).parents[2] / "example_data" / "ifnb.h5ad"
# defaults of that version where they have changed since
DEFAULTS_THEN = {
    "scgen": {"beta": 0.01},
    "comp": {"gamma": 10, "include_self": False, "floor": 5, "lr": 1e-3},
    "beta-vae": {"warmup_epochs": 0},
    "ivae": {"rotate_at": []},
    "svae": {"rotate_at": [], "alpha": None},
    "svae+": {"lr": 4e-3},
    "invae": {"correlation_estimate": "within-domain"},
}
# last training and validation loss of `trained`, of the version before products had a precision
GAVE = {
    "vae": (235.372, 215.0493),
    "cvae": (241.7747, 231.0084),
    "scgen": (42.49729, 44.60487),
    "vfae": (242.309, 230.9657),
    "trvae": (256.1487, 274.025),
    "mmd-ae": (43.22601, 47.62545),
    "stgan": (175.3607, 0.0),
    "comp": (238.3174, 222.7879),
    "beta-vae": (248.0075, 288.854),
    "ivae": (246.879, 253.8776),
    "svae": (247.5195, 254.311),
    "svae+": (246.4968, 251.3803),
    "scvi": (209.5998, 245.6519),
    "scanvi": (302.2105, 345.9809),
    "nf-ivae": (203.7557, 0.0),
    "invae": (221.1901, 0.0),
}


@pytest.fixture(scope="module")
def cells():
    made = cellalign.preprocess(anndata.read_h5ad(EXAMPLE), n_top_genes=200)
    made = made[np.random.default_rng(0).permutation(made.n_obs)[:400]].copy()
    rng = np.random.default_rng(1)
    made.obs["site"] = rng.choice(["a", "b"], made.n_obs)
    made.obs["sex"] = rng.choice(["f", "m"], made.n_obs)
    return made


def trained(cells, method, **options):
    cls, columns = get(method), {}
    if cls.needs_condition:
        columns["condition"] = "stim"
    if cls.needs_label:
        columns["label"] = "cell_type"
    if method in ("invae", "nf-ivae", "scvi", "scanvi"):
        columns["batch"] = ["site"]
    if method in ("invae", "nf-ivae"):
        columns["covariate"] = ["sex"]
    plan = dict(epochs=3, batch_size=64, seed=0, device="cpu", threads=1)
    settings = {"hidden": [32, 16]} | DEFAULTS_THEN.get(method, {})
    return cellalign.train(cells, method=method, settings=settings, **plan | columns | options)


@pytest.fixture
def without_bfloat16(monkeypatch):
    """A processor that has no instructions for it."""
    monkeypatch.setattr(precision, "processor_has_bfloat16", lambda: False)


@pytest.fixture
def with_bfloat16(monkeypatch):
    """A processor that has, and on which small products are worth it too."""
    monkeypatch.setattr(precision, "processor_has_bfloat16", lambda: True)
    monkeypatch.setattr("cellalign.nn.products.WORTH_ROUNDING", 0)


@pytest.mark.usefixtures("without_bfloat16")
@pytest.mark.parametrize("method", GAVE)
def test_without_bfloat16_auto_gives_what_float32_always_gave(cells, method):
    model = trained(cells, method)
    last = model.history[-1]
    assert model.record.training["precision"] == "float32"
    training, validation = GAVE[method]
    masks = method in ("svae", "svae+")  # of single edges are drawn: there a rounding may decide
    assert last["train_loss"] == pytest.approx(training, rel=1e-3 if masks else 5e-4)
    assert last.get("validation_loss", 0.0) == pytest.approx(validation, rel=1e-2 if masks else 2e-3)


@pytest.mark.usefixtures("with_bfloat16")
@pytest.mark.parametrize("method", ["comp", "scvi", "scgen", "svae+", "stgan"])
def test_bfloat16_is_used_kept_and_near(cells, method):
    auto, exact = trained(cells, method), trained(cells, method, precision="float32")
    assert auto.record.training["precision"] == "bfloat16"
    assert exact.record.training["precision"] == "float32"
    near = pytest.approx(GAVE[method], rel=0.05)
    assert (auto.history[-1]["train_loss"], auto.history[-1].get("validation_loss", 0.0)) == near
    weights, others = auto.method.state_dict(), exact.method.state_dict()
    assert all(values.dtype != torch.bfloat16 for values in weights.values())
    assert any(not torch.equal(values, others[name]) for name, values in weights.items())


@pytest.mark.usefixtures("with_bfloat16")
def test_embedding_and_predicting_are_in_float32(cells):
    model = trained(cells, "comp")
    seen = {layer.products for layer in model.method.modules() if hasattr(layer, "products")}
    assert seen == {torch.float32}


def test_settings_and_the_option_say_the_same(cells):
    assert trained(cells, "vae", precision="bfloat16").record.training["precision"] == "bfloat16"
    settings = {"hidden": [32, 16], "precision": "bfloat16"}
    model = cellalign.train(cells, method="vae", settings=settings, epochs=1, device="cpu")
    assert model.record.training["precision"] == "bfloat16"


def test_a_method_without_steps_has_no_products_to_round(cells):
    model = cellalign.train(cells, method="pca", device="cpu", precision="bfloat16")
    assert model.record.training["precision"] == "float32"


@pytest.mark.usefixtures("with_bfloat16")
def test_a_stack_of_closed_forms_has_none_either(cells):
    model = cellalign.train(cells, method="auto", condition="stim", label="cell_type", device="cpu")
    assert model.record.training["precision"] == "float32"


@pytest.mark.usefixtures("with_bfloat16")
@pytest.mark.parametrize("asked", [None, "float32", "bfloat16"])
def test_networks_of_a_stack_compute_in_what_is_asked_for(cells, asked, monkeypatch):
    seen, products_in = [], fit.products_in

    def noted(method, dtype):
        seen.append((method.name, dtype))
        return products_in(method, dtype)

    monkeypatch.setattr(fit, "products_in", noted)
    given = {"condition": "stim", "label": "cell_type", "settings": {"members": "local,scgen"}, "epochs": 1}
    model = cellalign.train(cells, method="auto", precision=asked, **given)
    wanted = asked or "bfloat16"  # as alone
    assert model.record.training["precision"] == wanted
    assert {dtype for name, dtype in seen if name == "scgen"} == {DTYPES[wanted]}


def test_what_is_asked_for_is_settled(monkeypatch, caplog):
    monkeypatch.setattr(precision, "processor_has_bfloat16", lambda: True)
    assert settle("auto", CPU) == "bfloat16" and settle("float32", CPU) == "float32"
    assert settle("auto", torch.device("cuda")) == "float32"  # products this small gain nothing there
    assert settle("bfloat16", torch.device("cuda")) == "bfloat16"
    with caplog.at_level(logging.WARNING, "cellalign"):
        assert settle("bfloat16", CPU) == "bfloat16"
        assert not caplog.records
        monkeypatch.setattr(precision, "processor_has_bfloat16", lambda: False)
        assert settle("auto", CPU) == "float32"
        assert settle("bfloat16", CPU) == "bfloat16"
    assert "no instructions for bfloat16" in caplog.text


@pytest.mark.parametrize(
    ("capabilities", "has"),
    [({"avx512_bf16": True, "avx2": True}, True), ({"amx_bf16": True}, True), ({"bf16": True}, True),
     ({"avx512_bf16": False, "amx_bf16": False, "avx2": True}, False)],
)  # fmt: skip
def test_what_the_processor_says(monkeypatch, capabilities, has):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert precision.processor_has_bfloat16() is has
    with torch.backends.mkldnn.flags(enabled=False):  # what the processor has is then not used
        assert precision.processor_has_bfloat16() is False


def test_an_older_torch_is_asked_in_another_way(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert precision.processor_has_bfloat16() is True
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert precision.processor_has_bfloat16() is False


def test_every_precision_has_a_type_and_is_an_option():
    from typing import get_args

    from cellalign.engine import plan
    from cellalign.tasks import options

    assert fit.DTYPES is DTYPES and set(DTYPES) == {"float32", "bfloat16"}
    assert get_args(options.Precision) == get_args(plan.Precision) == ("auto", *DTYPES)


@pytest.mark.parametrize("began_with", [True, False])
def test_a_run_is_resumed_in_the_precision_it_began_with(cells, tmp_path, monkeypatch, began_with):
    """On a processor of the other kind, bit for bit as if it had never stopped."""
    monkeypatch.setattr("cellalign.nn.products.WORTH_ROUNDING", 0)
    monkeypatch.setattr(precision, "processor_has_bfloat16", lambda: began_with)
    whole = trained(cells, "comp")
    with pytest.raises(KeyboardInterrupt):
        trained(cells, "comp", model_path=tmp_path / "m", progress=StopAfter(2))
    monkeypatch.setattr(precision, "processor_has_bfloat16", lambda: not began_with)
    resumed = trained(cells, "comp", model_path=tmp_path / "m", resume=True)
    assert resumed.record.training["precision"] == ("bfloat16" if began_with else "float32")
    for one, other in zip(whole.method.state_dict().values(), resumed.method.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_another_precision_is_named(cells, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(cells, "vae", model_path=tmp_path / "m", progress=StopAfter(1), precision="float32")
    with pytest.raises(ModelError, match=r"another precision \(float32, now bfloat16\)"):
        trained(cells, "vae", model_path=tmp_path / "m", resume=True, precision="bfloat16")
