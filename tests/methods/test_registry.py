"""Finding methods and presets, and saying which is nearest."""

from pathlib import Path

import pytest
import yaml

from cellalign.engine.allowed import allowed
from cellalign.engine.plan import Plan
from cellalign.engine.settings import merge_settings
from cellalign.errors import UsageError
from cellalign.methods.registry import available, get, loadable, preset_grid, preset_settings, presets


def test_every_method_states_itself():
    for name, info in available().items():
        method = get(name)
        assert info.summary and info.reference and method.name == name
        assert (info.summary, info.reference) == (method.summary, method.reference)


def test_methods_without_sources_are_imported(monkeypatch):
    def absent(path):
        raise FileNotFoundError(path)

    expected = available()
    monkeypatch.setattr("pathlib.Path.read_bytes", absent)
    assert available() == expected


def test_unknown_method_names_the_nearest():
    with pytest.raises(UsageError, match="unknown method 'cmop'. Did you mean 'comp'"):
        get("cmop")


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_is_valid_for_its_method(name):
    method = presets()[name]["method"]
    hyperparameters, plan = merge_settings(get(method), [preset_settings(name, method)])
    assert hyperparameters is not None and plan.lr == preset_settings(name, method)["lr"]


FIXTURE = Path(__file__).parents[1] / "fixtures" / "published_presets.yaml"
PUBLISHED = yaml.safe_load(FIXTURE.read_text(encoding="utf-8"))


def test_every_preset_has_its_published_table():
    assert set(presets()) == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_number_of_a_preset_is_the_published_one(name):
    """And there is none beside these."""
    published = PUBLISHED[name]
    values = {key: value for numbers in published["values"].values() for key, value in numbers.items()}
    assert sum(map(len, published["values"].values())) == len(values)  # each has one source
    assert preset_settings(name, published["method"]) == values
    assert preset_grid(name, published["method"]) == published.get("grid", {})


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_leaves_nothing_that_a_table_says_to_defaults(name):
    """A default may change; what was published does not."""
    said = preset_settings(name, PUBLISHED[name]["method"])
    assert {"lr", "epochs", "schedule", "weight_decay"} - said.keys() <= ({"epochs"} if "scanvi" in name else set())
    assert {"hidden", "batch_norm", "negative_slope"} <= said.keys()


def test_preset_of_another_method_is_refused():
    with pytest.raises(UsageError, match="belongs to method 'comp'"):
        preset_settings("comp-pbmc", "vae")
    with pytest.raises(UsageError, match="unknown preset 'comp-pbcm'. Did you mean 'comp-pbmc'"):
        preset_settings("comp-pbcm", "comp")


def test_settings_name_the_nearest_key_and_the_range():
    with pytest.raises(UsageError, match="unknown setting 'gama'. Did you mean 'gamma'"):
        merge_settings(get("comp"), [{"gama": 1}])
    with pytest.raises(UsageError, match="gamma=-1 is out of range: it takes a number from 0 to 10000 or null"):
        merge_settings(get("comp"), [{"gamma": -1}])


@pytest.mark.parametrize(
    ("settings", "takes"),
    [
        ({"hidden": -1}, r"hidden=-1 .* a list of at most 100, each a whole number from 1 to 100000"),
        ({"hidden": [8, 0]}, r"hidden=\[8, 0\] .* each a whole number from 1 to 100000"),
        ({"lr": 0}, "lr=0 .* a number above 0, at most 1"),
        ({"dropout": 1}, "dropout=1 .* a number from 0, below 1"),
        ({"epochs": "many"}, "epochs='many' .* a whole number from 1 to 1000000 or null"),
        ({"likelihood": "x"}, "likelihood='x' .* one of gaussian, mse, nb, zinb"),
    ],
)
def test_a_value_out_of_range_is_told_the_range(settings, takes):
    with pytest.raises(UsageError, match=takes):
        merge_settings(get("comp"), [settings])


def test_the_range_of_every_setting_of_every_method_can_be_said():
    for _, cls in loadable():
        for model in (cls.Hyperparameters, Plan):
            for key, field in model.model_fields.items():
                said = allowed(field)
                assert "kind" not in said, (cls.name, key)
                numbers = [m for m in field.metadata if any(hasattr(m, sign) for sign in ("ge", "gt", "le", "lt"))]
                for limit in (getattr(m, s) for m in numbers for s in ("ge", "gt", "le", "lt") if hasattr(m, s)):
                    assert f"{limit:.10g}" in said, (cls.name, key)


def test_settings_of_earlier_versions_are_still_understood():
    assert merge_settings(get("stgan"), [{"judge": [32]}])[0].discriminator_hidden == (32,)
    assert merge_settings(get("invae"), [{"hide": 0.25}])[0].covariate_dropout == 0.25
    for within, estimate in ((True, "within-domain"), (False, "whole-batch")):
        assert merge_settings(get("invae"), [{"within_domain": within}])[0].correlation_estimate == estimate


def test_later_settings_win():
    hyperparameters, plan = merge_settings(get("comp"), [{"gamma": 1, "lr": 0.1}, {"gamma": 2}, {"gamma": 3}])
    assert (hyperparameters.gamma, plan.lr) == (3, 0.1)
