"""Finding methods and presets, and saying which is nearest."""

import pytest
import yaml

from cellalign.api import resolve_settings
from cellalign.errors import UsageError
from cellalign.methods.registry import available, get, preset_settings, presets


def test_every_method_states_itself():
    for name, info in available().items():
        assert info.summary and info.reference and get(name).name == name


def test_unknown_method_names_the_nearest():
    with pytest.raises(UsageError, match="unknown method 'cmop'. Did you mean 'comp'"):
        get("cmop")


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_is_valid_for_its_method(name):
    method = presets()[name]["method"]
    hyperparameters, plan = resolve_settings(get(method), [preset_settings(name, method)])
    assert hyperparameters is not None and plan.epochs


def test_presets_are_the_published_ones(published):
    """Tables 13, 16 and 19 of the CoMP appendix, as shared with the project."""
    tables = yaml.safe_load((published / "hyperparameters.yaml").read_text())["comp"]
    names = {"comp-tumour-cell-line": "tumour_cell_line", "comp-pbmc": "pbmc", "comp-adult-income": "adult_income"}
    for preset, table in names.items():
        ours, theirs = preset_settings(preset, "comp"), tables[table]
        for key in ("hidden", "batch_norm", "beta", "gamma", "lr", "batch_size", "epochs"):
            assert ours[key] == pytest.approx(theirs[key]), (preset, key)
        assert (ours["latent_dim"], ours["posterior_scale"]) == (theirs["latent"], theirs["sigma"])


def test_preset_of_another_method_is_refused():
    with pytest.raises(UsageError, match="belongs to method 'comp'"):
        preset_settings("comp-pbmc", "vae")
    with pytest.raises(UsageError, match="unknown preset 'comp-pbcm'. Did you mean 'comp-pbmc'"):
        preset_settings("comp-pbcm", "comp")


def test_settings_name_the_nearest_key_and_the_range():
    with pytest.raises(UsageError, match="unknown setting 'gama'. Did you mean 'gamma'"):
        resolve_settings(get("comp"), [{"gama": 1}])
    with pytest.raises(UsageError, match="gamma=-1 is out of range: .*greater than or equal to 0"):
        resolve_settings(get("comp"), [{"gamma": -1}])


def test_later_settings_win():
    hyperparameters, plan = resolve_settings(get("comp"), [{"gamma": 1, "lr": 0.1}, {"gamma": 2}, {"gamma": 3}])
    assert (hyperparameters.gamma, plan.lr) == (3, 0.1)
