"""What a class declares it also implements: checked when it is loaded, and messages name the methods that are able.

Plugins are built here and offered through a false entry point; one comes from a folder with metadata of its own.
"""

import inspect
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pytest
import torch
from support import predicted

import cellalign
from cellalign.errors import InputError, ModelError, UsageError
from cellalign.methods import capabilities, registry
from cellalign.methods.autoencoder import Autoencoder, VariationalAutoencoder
from cellalign.methods.base import (
    CombinesConditions,
    Extends,
    FitsInClosedForm,
    HasLikelihood,
    HasPlayers,
    InfersCondition,
    Labels,
    Latent,
    LearnsGraph,
    Loss,
    Method,
    Predicts,
    Trains,
)
from cellalign.methods.capabilities import Capability, Stacks
from cellalign.methods.cvae import CVAE
from cellalign.methods.vae import VAE
from cellalign.records import Provenance

OLD = Path(__file__).parent.parent / "fixtures" / "format1"
ABLE = {
    CombinesConditions: {"ivae", "svae", "svae+"},
    LearnsGraph: {"ivae", "svae", "svae+"},
    Extends: {"ivae", "svae", "svae+"},
    Labels: {"scanvi"},
    HasPlayers: {"stgan"},
    InfersCondition: {"cvae", "comp", "vfae", "trvae", "mmd-ae"},
    Stacks: {"auto"},
    FitsInClosedForm: {"pca", "linear", "local", "lemur", "celligner", "scgen", "stgan", "ivae", "svae", "svae+"},
}


class Plain(Trains, Method):
    """The least that is a method."""

    name, summary = "plain", "the least"
    needs_condition = False

    def encode(self, batch):
        return Latent.point(batch.x[:, :2])

    def forward(self, batch, warmup=1.0):
        return Loss(batch.x.sum())


def without(name, *bases, **attributes):
    return type("Plugin", bases, {"name": name, "summary": "a plugin", "__module__": "plugin"} | attributes)


class NoSummary(VAE):
    name = "odd"
    summary = ""


class Unsaid(Trains, Method):
    name = "odd"
    encode, forward = Plain.encode, Plain.forward


class NoEncode(Trains, Method):
    name, summary = "odd", "a plugin"
    forward = Plain.forward


class NoShifts(CombinesConditions, VAE):
    name, summary = "odd", "a plugin"


class TrainsLast(Method, Trains):
    name, summary = "odd", "a plugin"
    encode = Plain.encode


class TrainsFirst(Trains, Method):
    name, summary = "odd", "a plugin"
    encode = Plain.encode


class NeitherWay(Method):
    name, summary = "odd", "a plugin"
    encode = Plain.encode


class NoPlayers(HasPlayers, Method):
    name, summary = "odd", "a plugin"
    encode, forward = Plain.encode, Plain.forward


class NoGraph(LearnsGraph, VAE):
    name, summary = "odd", "a plugin"


class NoPredict(Predicts, Plain):
    name, summary = "odd", "a plugin"
    responds_to = frozenset()


class NoFit(FitsInClosedForm, Method):
    name, summary = "odd", "a plugin"
    encode = Plain.encode


class NotAMethod:
    name, summary = "odd", "a plugin"


class OtherName(VAE):
    name, summary = "other", "a plugin"


class OddSettings(VAE):
    name, summary = "odd", "a plugin"
    Hyperparameters = dict


class Unnamed(Trains, Method):
    summary = "a plugin"
    encode, forward = Plain.encode, Plain.forward


FAULTS = [
    (NoSummary, "summary"),
    (Unsaid, "summary"),
    (NoEncode, "encode"),
    (NoShifts, "shifts"),
    (TrainsLast, "forward"),
    (TrainsFirst, "forward"),
    (NeitherWay, "Trains"),
    (NoPlayers, "players"),
    (NoGraph, "graph"),
    (NoPredict, "predict"),
    (NoFit, "fit_closed_form"),
    (NotAMethod, "not a subclass"),
    (VAE(VAE.Hyperparameters(hidden=(2,)), cellalign.methods.base.Layout(3)), "not a subclass"),
    (3, "not a subclass"),
    (OtherName, "'other'"),
    (Unnamed, "None"),
    (OddSettings, "pydantic"),
]


@pytest.fixture
def offer(monkeypatch):
    """Offers objects, or functions that fail, as methods of another package."""

    def offered(**plugins):
        points = [
            SimpleNamespace(
                name=name, value=f"other.{name}:Plugin", load=thing if inspect.isfunction(thing) else lambda t=thing: t
            )
            for name, thing in plugins.items()
        ]
        monkeypatch.setattr(
            registry, "entry_points", lambda *, group, name=None: [p for p in points if name in (None, p.name)]
        )
        registry._warn_once.cache_clear()

    return offered


def fail():
    raise RuntimeError("no such library: libodd.so")


def all_capabilities():
    found = [c for c in vars(capabilities).values() if inspect.isclass(c) and issubclass(c, Capability)]
    return [c for c in found if c is not Capability]


@pytest.mark.parametrize("name", list(registry.BUILT_IN))
def test_every_method_keeps_the_contract(name):
    assert list(registry.faults_of(registry.get(name), name)) == []


@pytest.mark.parametrize("capability", all_capabilities(), ids=lambda c: c.__name__)
def test_the_registry_names_the_methods_that_are_able(capability):
    able = registry.able(capability)
    for name in registry.names():
        assert (name in able) == issubclass(registry.get(name), capability)
    assert able and (capability not in ABLE or set(able) == ABLE[capability])
    said = registry.lacks("odd", capability)
    assert said.startswith("method 'odd' does not ") and said.endswith(", ".join(able)) and "\n" not in said


@pytest.mark.parametrize("name", sorted(path.parent.name for path in OLD.glob("*/model.yaml")))
def test_a_model_is_an_instance_of_what_the_registry_says(name):
    model = cellalign.load(OLD / name)
    for capability in all_capabilities():
        assert isinstance(model.method, capability) == (model.name in registry.able(capability)), capability


def test_an_autoencoder_without_a_spread_has_no_likelihood():
    cls = registry.get("mmd-ae")
    assert issubclass(cls, Autoencoder) and not issubclass(cls, (HasLikelihood, VariationalAutoencoder))
    assert not hasattr(cls, "nelbo") and not hasattr(cls, "importance_weighted_nll")
    model = cellalign.load(OLD / "mmd-ae")
    assert not model.has_likelihood
    for score in (model.nelbo, model.nll):
        with pytest.raises(ModelError, match="method 'mmd-ae' does not have a likelihood; methods that do: vae, "):
            score(ad.read_h5ad(OLD / "cells.h5ad"))


def test_nothing_inherited_is_taken_back():
    """What a method inherits from a capability it does: none raises NotImplementedError or is None."""
    for name in registry.names():
        cls = registry.get(name)
        for capability in [c for c in all_capabilities() if issubclass(cls, c)]:
            for member in capability.__abstractmethods__:
                found = inspect.getattr_static(cls, member)
                function = found.fget if isinstance(found, property) else found
                assert "NotImplementedError" not in inspect.getsource(function), (name, member)


@pytest.mark.parametrize(
    "plugin, lacks", FAULTS, ids=lambda x: x if isinstance(x, str) else getattr(x, "__name__", "thing")
)
def test_a_plugin_that_breaks_the_contract_is_one_warning(offer, caplog, plugin, lacks):
    offer(odd=lambda: plugin, good=without("good", VAE))
    with caplog.at_level("WARNING", logger="cellalign"):
        listed = registry.available()
        registry.available()
        registry.able(Predicts)
    assert list(listed) == [*registry.BUILT_IN, "good"]
    assert len(caplog.records) == 1
    said = caplog.records[0].getMessage()
    assert "'odd'" in said and "other.odd:Plugin" in said and lacks in said and "\n" not in said


@pytest.mark.parametrize(
    "plugin, lacks", FAULTS, ids=lambda x: x if isinstance(x, str) else getattr(x, "__name__", "thing")
)
def test_asking_for_it_is_a_usage_error_that_says_the_same(offer, plugin, lacks):
    offer(odd=lambda: plugin)
    with pytest.raises(UsageError, match=lacks) as caught:
        registry.get("odd")
    assert caught.value.exit_status == 2


def test_a_plugin_that_cannot_be_imported_is_one_warning(offer, caplog):
    offer(odd=fail, good=without("good", VAE))
    with caplog.at_level("WARNING", logger="cellalign"):
        assert list(registry.available()) == [*registry.BUILT_IN, "good"]
        registry.able(HasLikelihood)
    assert len(caplog.records) == 1 and "'odd'" in caplog.text and "libodd.so" in caplog.text
    with pytest.raises(UsageError, match="cannot be loaded: no such library"):
        registry.get("odd")


def test_two_bad_plugins_are_a_warning_each(offer, caplog):
    offer(odd=lambda: NoEncode, other=fail)
    with caplog.at_level("WARNING", logger="cellalign"):
        assert list(registry.available()) == list(registry.BUILT_IN)
    assert ["'odd'" in r.getMessage() for r in caplog.records] == [True, False] and len(caplog.records) == 2


def test_no_training_starts_with_a_bad_plugin(offer, tiny):
    offer(odd=lambda: NoEncode)
    with pytest.raises(UsageError, match="lacks encode, which Method asks for"):
        cellalign.train(tiny, method="odd")


def test_a_plugin_of_a_folder_with_metadata_of_its_own(tmp_path, monkeypatch, caplog):
    (tmp_path / "strange.py").write_text("import cellalign.no_such_module\n")
    (tmp_path / "fine.py").write_text(
        "from cellalign.methods.vae import VAE\nclass Fine(VAE):\n    name, summary = 'fine', 'a plugin'\n"
    )
    info = tmp_path / "strange-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cellalign.methods]\nstrange = strange:Strange\nfine = fine:Fine\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry._warn_once.cache_clear()
    with caplog.at_level("WARNING", logger="cellalign"):
        listed = registry.available()
    assert list(listed) == [*registry.BUILT_IN, "fine"] and listed["fine"].package == "fine"
    assert [("'strange'" in r.getMessage(), "no_such_module" in r.getMessage()) for r in caplog.records] == [
        (True, True)
    ]


def test_a_good_plugin_trains_embeds_and_is_saved_and_read(offer, tiny, tmp_path):
    class Means(FitsInClosedForm, Method):
        """Library size and one gene."""

        name, summary, needs_condition = "means", "two numbers of a cell", False

        def __init__(self, hyperparameters, layout):
            super().__init__(hyperparameters, layout)
            self.register_buffer("centre", torch.zeros(layout.n_genes))

        def fit_closed_form(self, batches):
            x = torch.cat([batch.x for batch in batches()])
            self.centre.copy_(x.mean(0))

        def encode(self, batch):
            return Latent.point((batch.x - self.centre)[:, :2])

    offer(means=Means)
    assert "means" in registry.able(FitsInClosedForm) and "means" not in registry.able(Predicts)
    model = cellalign.train(tiny, method="means")
    model.save(tmp_path / "model")
    again = cellalign.load(tmp_path / "model")
    assert (again.embed(tiny) == model.embed(tiny)).all() and abs(model.embed(tiny).mean()) < 0.1
    with pytest.raises(ModelError, match="method 'means' does not predict expression; methods that do: vae, "):
        model.counterfactual(tiny, to="stimulated")


def test_a_method_without_a_graph_has_no_targets():
    with pytest.raises(
        ModelError, match="method 'comp' does not learn a graph .*; methods that do: ivae, svae, svae\\+$"
    ):
        cellalign.targets(cellalign.load(OLD / "comp"))


@pytest.fixture(scope="module")
def guides():
    """The old cells with the guide as their condition."""
    return ad.read_h5ad(OLD / "cells.h5ad")


@pytest.mark.parametrize(
    "method", ["comp", "cvae", "vfae", "trvae", "scgen", "linear", "local", "lemur", "celligner", "stgan", "mmd-ae"]
)
def test_several_conditions_at_once_are_added_up_in_expression(guides, method):
    fast = {"latent_dim": 2, "hidden": [4], "epochs": 1} if method != "stgan" else {"hidden": [4], "epochs": 1}
    fast = {"latent_dim": 2} if method in ("linear", "local", "lemur", "celligner") else fast
    model = cellalign.train(guides, method=method, condition="guide", control="ctrl", settings=fast)
    with torch.no_grad():
        batch = next(model.cells(guides[guides.obs["guide"] == "ctrl"]).in_order(1000))
        each = {g: model.method.predict(batch, {"guide": g}).mean for g in ("ctrl", "g1", "g2")}
        own = model.method.predict(batch, {}).mean
    both = each["ctrl"] + (each["g1"] - each["ctrl"]) + (each["g2"] - each["ctrl"])
    for to in ("g1+g2", "g2+g1", {"guide": "g1+g2"}):
        found = model.counterfactual(guides, to=to, decoded=True, combine="expression")
        torch.testing.assert_close(torch.from_numpy(found.X), both.clamp(min=0), atol=1e-4, rtol=1e-4)
        assert Provenance.of(found.uns).counterfactual.combined == "expression"
    residual = model.counterfactual(guides, to="g1+g2", combine="expression").X
    torch.testing.assert_close(torch.from_numpy(residual), (batch.x + both - own).clamp(min=0), atol=1e-4, rtol=1e-4)
    single = model.counterfactual(guides, to="g1")
    assert set(single.obs["guide"]) == {"g1"} and Provenance.of(single.uns).counterfactual.combined == ""


@pytest.mark.parametrize("method", ["comp", "cvae", "vfae", "trvae", "mmd-ae", "scvi"])
def test_a_decoder_that_sees_the_condition_may_be_given_several(guides, method):
    small = {"latent_dim": 2, "hidden": [4], "epochs": 1}
    model = cellalign.train(guides, method=method, condition="guide", control="ctrl", settings=small)
    predicted = model.counterfactual(guides, to="g1+g2", combine="latent", decoded=True)
    assert Provenance.of(predicted.uns).counterfactual.combined == "latent"
    batch = next(model.cells(guides[guides.obs["guide"] == "ctrl"]).in_order(1000))
    one_hot = torch.eye(len(model.conditions))[[model.conditions.index(g) for g in ("g1", "g2", "ctrl")]]
    context = one_hot[0] + one_hot[1] - one_hot[2]
    with torch.no_grad():
        moved = batch.with_condition(context.expand(len(batch), -1))
        expected = model.method.decode(model.method.encode(batch).mean, moved).distribution.mean
    torch.testing.assert_close(torch.from_numpy(predicted.X), expected.clamp(min=0), atol=1e-4, rtol=1e-4)


def test_scgen_may_add_up_its_differences_of_latents(guides):
    small = {"latent_dim": 2, "hidden": [4], "epochs": 1}
    model = cellalign.train(guides, method="scgen", condition="guide", control="ctrl", settings=small)
    source = guides[guides.obs["guide"] == "g3"]
    predicted = model.counterfactual(source, to="g1+g2", from_="g3", combine="latent", decoded=True)
    code = model.conditions.index
    mean = {g: model.method.latents.pair(code(g), code(g))[0].mean(0) for g in ("ctrl", "g1", "g2", "g3")}
    batch = next(model.cells(source).in_order(1000))
    with torch.no_grad():
        z = model.method.encode(batch).mean + mean["g1"] + mean["g2"] - mean["ctrl"] - mean["g3"]
        expected = model.method.decode(z, batch).distribution.mean
    torch.testing.assert_close(torch.from_numpy(predicted.X), expected, atol=1e-4, rtol=1e-4)


def test_of_counts_fold_changes_multiply(guides):
    small = {"latent_dim": 2, "hidden": [4], "epochs": 2, "likelihood": "nb"}
    model = cellalign.train(guides, method="cvae", condition="guide", control="ctrl", settings=small)
    batch = next(model.cells(guides[guides.obs["guide"] == "ctrl"]).in_order(1000))
    with torch.no_grad():
        each = {g: model.method.predict(batch, {"guide": g}).mean for g in ("ctrl", "g1", "g2")}
    both = each["g1"] * each["g2"] / each["ctrl"]
    both = both / both.sum(1, keepdim=True) * batch.library_size
    predicted = model.counterfactual(guides, to="g1+g2")
    torch.testing.assert_close(torch.from_numpy(predicted.X), both, atol=1e-4, rtol=1e-4)
    drawn = model.counterfactual(guides, to="g1+g2", draws=2)
    assert drawn.n_obs == 2 * len(batch) and (drawn.X == np.round(drawn.X)).all()


def test_several_without_a_control_start_from_each_cells_own_condition(guides):
    small = {"latent_dim": 2, "hidden": [4], "epochs": 1}
    cells = guides[guides.obs["guide"] != "ctrl"].copy()
    model = cellalign.train(cells, method="cvae", condition="guide", settings=small)
    assert model.control is None
    batch = next(model.cells(cells[cells.obs["guide"] == "g3"]).in_order(1000))
    with torch.no_grad():
        own, g1, g2 = (model.method.predict(batch, do).mean for do in ({}, {"guide": "g1"}, {"guide": "g2"}))
    predicted = model.counterfactual(cells, to="g1+g2", from_="g3", decoded=True, combine="expression").X
    torch.testing.assert_close(torch.from_numpy(predicted), (g1 + g2 - own).clamp(min=0), atol=1e-4, rtol=1e-4)


def test_with_a_posterior_draw_all_parts_are_of_the_same(guides):
    small = {"latent_dim": 2, "hidden": [4], "epochs": 1}
    model = cellalign.train(guides, method="cvae", condition="guide", control="ctrl", settings=small)
    batch, do = next(model.cells(guides).in_order(1000)), {"guide": "g1"}
    one = predicted(model.method, batch, do, samples=1, seed=3)["X"]
    several = predicted(model.method, batch, do, samples=1, seed=3, together=[do, do])["X"]
    torch.testing.assert_close(several, one)
    assert not torch.equal(one, predicted(model.method, batch, do, samples=1, seed=4)["X"])


def test_an_old_flag_changes_nothing(offer, guides):
    offer(flagged=without("flagged", CVAE, combines_conditions=True))
    small = {"latent_dim": 2, "hidden": [4], "epochs": 1}
    model = cellalign.train(guides, method="flagged", condition="guide", control="ctrl", settings=small)
    assert Provenance.of(model.counterfactual(guides, to="g1+g2").uns).counterfactual.combined == "observed"


def test_what_adds_up_nothing_is_refused(guides):
    vae = cellalign.train(guides, method="vae", condition="guide", settings={"hidden": [4], "epochs": 1})
    with pytest.raises(ModelError, match="'vae' does not see 'guide': it has no effects of g1 and g2 to add up"):
        vae.counterfactual(guides, to="g1+g2")
    linear = cellalign.train(guides, method="linear", condition="guide", control="ctrl")
    with pytest.raises(UsageError, match="'linear' adds up conditions in expression alone, not in latent"):
        linear.counterfactual(guides, to="g1+g2", combine="latent")
    with pytest.raises(UsageError, match="combine='sum' is none of auto, observed, expression, latent"):
        linear.counterfactual(guides, to="g1+g2", combine="sum")


def test_how_several_are_added_up_is_said(guides, caplog):
    model = cellalign.load(OLD / "svae+")
    for combine in ("auto", "latent", "expression"):
        caplog.clear()
        with caplog.at_level("INFO", logger="cellalign"):
            predicted = model.counterfactual(guides, to="g1+g2", combine=combine)
        rule = "latent" if combine == "auto" else combine
        assert any("guide=g1+g2 by an additive rule" in m and rule in m for m in caplog.messages)
        assert Provenance.of(predicted.uns).counterfactual.combined == rule


def test_a_category_with_a_plus_of_its_own_stays_one(guides):
    cells = guides.copy()
    cells.obs["guide"] = cells.obs["guide"].astype(str).replace({"g2": "g1+x", "g3": "CD4+"})
    model = cellalign.train(cells, method="linear", condition="guide", control="ctrl")
    own = model.counterfactual(cells, to="g1+x")
    assert Provenance.of(own.uns).counterfactual.combined == "" and set(own.obs["guide"]) == {"g1+x"}
    field = model.fields.one("condition")
    assert field.parsed("g1+g1+x") == ("g1", "g1+x") and field.parsed("CD4++g1") == ("CD4+", "g1")
    assert field.parsed("g1+x+ctrl") == "g1+x"
    for text in ("x+g1+x", "CD4+g1", "g1+", "+".join(["g1"] * 100)):
        with pytest.raises(InputError):
            field.parsed(text)


def test_two_shifts_add_up_where_they_do(guides):
    model = cellalign.load(OLD / "svae+")
    with torch.no_grad():  # an old model of three epochs has no edge yet
        model.method.mask_logits.set(torch.tensor(5.0))
        model.method.shift.set(torch.randn(4, 3))
    both = {to: model.counterfactual(guides, to=to) for to in ("g1", "g2", "g1+g2", "g2+g1")}
    assert set(both["g1+g2"].obs["guide"]) == {"g1+g2"}
    assert (both["g1+g2"].X == both["g2+g1"].X).all()
    assert abs(both["g1+g2"].X - both["g1"].X).max() > 0.1 and abs(both["g1+g2"].X - both["g2"].X).max() > 0.1


def test_a_condition_that_may_be_missing_is_refused_where_none_infers_it(tiny):
    with pytest.raises(
        UsageError, match="take cells whose condition is missing; methods that do: cvae, .*comp"
    ) as caught:
        cellalign.train(tiny, method="scgen", condition="stim", allow_missing_condition=True)
    assert all(name in str(caught.value) for name in ABLE[InfersCondition])


@pytest.mark.parametrize("kind", ["number", "vector", "multi-label"])
def test_a_condition_of_a_kind_the_method_has_no_answer_to_is_refused(guides, kind):
    cells = guides.copy()
    cells.obsm["drug"] = torch.rand(cells.n_obs, 3).numpy()
    name = {"number": "dose", "vector": "drug", "multi-label": "guide"}[kind]
    with pytest.raises(UsageError, match="scgen"):
        cellalign.train(
            cells, method="scgen", condition=name, kinds={name: kind}, settings={"hidden": [4], "epochs": 1}
        )


def test_a_plugin_that_says_what_conditions_add_has_them_added_up(offer, guides):
    """The base class applies the shifts: nothing but `shifts` has to be written."""
    shift = torch.arange(8.0).view(4, 2)
    offer(half=without("half", CombinesConditions, VAE, shifts=lambda self: shift))
    small = {"latent_dim": 2, "hidden": [4], "epochs": 1}
    model = cellalign.train(guides, method="half", condition="guide", control="ctrl", settings=small)
    both = model.counterfactual(guides, to="g1+g2", decoded=True, combine="latent").X
    known = model.conditions
    batch = next(model.cells(guides[guides.obs["guide"] == "ctrl"]).in_order(1000))
    added = shift[known.index("g1")] + shift[known.index("g2")] - shift[known.index("ctrl")]
    with torch.no_grad():
        expected = model.method.decode(model.method.encode(batch).mean + added, batch).distribution.mean
    torch.testing.assert_close(torch.from_numpy(both), expected.clamp(min=0), rtol=1e-5, atol=1e-5)
