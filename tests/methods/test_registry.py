"""Finding methods and presets, and saying which is nearest."""

import pytest

from cellalign.engine.settings import merge_settings
from cellalign.errors import UsageError
from cellalign.methods.registry import available, get, preset_settings, presets


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


PUBLISHED = {  # CoMP appendix, tables 13, 16 and 19
    "comp-tumour-cell-line": dict(hidden=[512] * 3, latent_dim=16, beta=1e-7, gamma=0.5, lr=1e-4, batch_size=5500),
    "comp-pbmc": dict(hidden=[512] * 3, latent_dim=40, beta=1e-7, gamma=1.0, lr=1e-6, batch_size=512),
    "comp-adult-income": dict(hidden=[64] * 2, latent_dim=16, beta=1.0, gamma=0.5, lr=1e-4, batch_size=4096),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_are_the_published_ones(name):
    settings = preset_settings(name, "comp")
    assert {key: settings[key] for key in PUBLISHED[name]} == PUBLISHED[name]
    assert settings["posterior_scale"] == 0.1 and settings["batch_norm"] and settings["negative_slope"] == 0.01
    assert settings["epochs"] == (4000 if name == "comp-tumour-cell-line" else 10000)


def test_scgens_weight_is_of_sums_as_in_its_code():
    settings = preset_settings("scgen-original", "scgen")
    assert not settings.get("averaged") and settings["beta"] == get("scgen").Hyperparameters().beta == 0.0005


def test_preset_of_another_method_is_refused():
    with pytest.raises(UsageError, match="belongs to method 'comp'"):
        preset_settings("comp-pbmc", "vae")
    with pytest.raises(UsageError, match="unknown preset 'comp-pbcm'. Did you mean 'comp-pbmc'"):
        preset_settings("comp-pbcm", "comp")


def test_settings_name_the_nearest_key_and_the_range():
    with pytest.raises(UsageError, match="unknown setting 'gama'. Did you mean 'gamma'"):
        merge_settings(get("comp"), [{"gama": 1}])
    with pytest.raises(UsageError, match="gamma=-1 is out of range: .*greater than or equal to 0"):
        merge_settings(get("comp"), [{"gamma": -1}])


def test_settings_of_earlier_versions_are_still_understood():
    assert merge_settings(get("stgan"), [{"judge": [32]}])[0].discriminator_hidden == (32,)
    assert merge_settings(get("invae"), [{"hide": 0.25}])[0].covariate_dropout == 0.25


def test_later_settings_win():
    hyperparameters, plan = merge_settings(get("comp"), [{"gamma": 1, "lr": 0.1}, {"gamma": 2}, {"gamma": 3}])
    assert (hyperparameters.gamma, plan.lr) == (3, 0.1)
