"""The panels: what they compute, what they leave out and why; baselines against the shared figures."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from support import counterfactual_record

import cellalign
from cellalign.errors import InputError, UsageError
from cellalign.evaluation.panels.bio import Bio

# no change, mean shift and half against half on the real cells, each cell type in turn: r over the top 50 DE genes,
# and r of the change; measured once with scanpy, independently of this code
BASELINES = {
    "B": (0.846, 0.981, 0.948, 0.994),
    "CD14 Mono": (0.479, 0.777, 0.838, 0.995),
    "CD16 Mono": (0.674, 0.926, 0.900, 0.985),
    "CD4 T": (0.876, 0.929, 0.894, 0.995),
    "CD8 T": (0.889, 0.953, 0.848, 0.997),
    "DC": (0.619, 0.913, 0.917, 0.989),
    "NK": (0.832, 0.946, 0.836, 0.994),
}


def unchanged(cells: ad.AnnData) -> ad.AnnData:
    """The control cells given out as a prediction of stimulated ones."""
    source = cells[cells.obs["stim"] == "control"].copy()
    source.obs["stim"] = "stimulated"
    source.uns["cellalign"] = counterfactual_record()
    return source


def test_baselines_on_real_cells(kang_path):
    cells = cellalign.preprocess(ad.read_h5ad(kang_path))
    result = cellalign.evaluate(unchanged(cells), against=cells, condition="stim", label="cell_type")
    for name, (no_change, shift, shift_change, half) in BASELINES.items():
        for system in ("no change", "prediction"):
            assert result.value("r_de", system=system, group=name) == pytest.approx(no_change, abs=0.002)
        assert result.value("r_de", system="mean shift", group=name) == pytest.approx(shift, abs=0.002)
        assert result.value("r_change_de", system="mean shift", group=name) == pytest.approx(shift_change, abs=0.02)
        assert result.value("r_de", system="split half", group=name) == pytest.approx(half, abs=0.01)
    assert any("Mk" in note for note in result.notes)
    assert set(result.left_out) == {"mixing", "bio", "probe", "cross-condition", "identifiability", "likelihood"}


def embedded(tiny, shift):
    rng = np.random.default_rng(0)
    kind = tiny.obs["cell_type"].cat.codes.to_numpy()
    z = rng.normal(size=(tiny.n_obs, 2)) + 8 * np.eye(3)[kind][:, :2]
    z[:, 1] += shift * (tiny.obs["stim"] == "stimulated")
    tiny.obsm["X_any"] = z
    return tiny


def test_mixed_and_separate_embeddings_are_told_apart(tiny):
    options = dict(condition="stim", label="cell_type", k=15, min_cells=30)
    mixed = cellalign.evaluate(embedded(tiny.copy(), 0), **options)
    apart = cellalign.evaluate(embedded(tiny.copy(), 50), **options)
    assert mixed.value("kBET", panel="mixing") < 0.3 and apart.value("kBET", panel="mixing") == 1
    assert apart.value("s", panel="mixing") == 1 and abs(mixed.value("s", panel="mixing")) < 0.1
    assert mixed.value("random forest", system="stim") < 0.65
    assert apart.value("random forest", system="stim") == 1
    assert mixed.value("accuracy", panel="cross-condition", group="mean") > 0.95
    assert mixed.value("majority", system="stim") == pytest.approx(0.5)


def test_panels_by_name(tiny):
    cells = embedded(tiny, 0)
    only = cellalign.evaluate(cells, condition="stim", panels=["mixing"], k=15)
    assert {row.panel for row in only.rows} == {"mixing"}
    with pytest.raises(UsageError, match="unknown panel 'mixng'. Did you mean 'mixing'"):
        cellalign.evaluate(cells, condition="stim", panels=["mixng"])
    with pytest.raises(UsageError, match="panels names no panel"):
        cellalign.evaluate(cells, condition="stim", panels=[])
    with pytest.raises(InputError, match="cross-condition cannot run: it needs label"):
        cellalign.evaluate(cells, condition="stim", panels=["transfer"])  # its name in earlier versions
    left = cellalign.evaluate(cells, condition="stim", k=15).left_out
    assert left["response"] == "the input is no counterfactual" and "cross-condition" in left


def test_formats_hold_the_same_scores(tiny):
    import io
    import json

    import pandas as pd

    result = cellalign.evaluate(embedded(tiny, 0), condition="stim", k=15)
    table = pd.read_csv(io.StringIO(result.to_csv()))
    assert len(table) == len(result.rows) == len(json.loads(result.to_json())["scores"])
    assert {title for title, _, _ in result.summary()} == {row.panel for row in result.rows}


def test_embedding_that_is_not_there(tiny):
    with pytest.raises(InputError, match="cellalign embed"):
        cellalign.evaluate(tiny, condition="stim")
    with pytest.raises(InputError, match="'X_anny'.*Did you mean 'X_any'"):
        cellalign.evaluate(embedded(tiny, 0), condition="stim", embedding="X_anny")


def test_probes_say_which_cells_are_too_few_to_be_told_apart():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"stim": ["a", "b"] * 20, "kind": ["x"] * 18 + ["y"] * 19 + ["rare", "rare", "once"]})
    cells = ad.AnnData(np.ones((40, 2), dtype=np.float32), obs=obs.set_axis([f"c{i}" for i in range(40)]))
    cells.obsm["X_z"] = rng.normal(size=(40, 3))
    result = cellalign.evaluate(cells, condition="stim", label="kind", embedding="X_z", panels=["probe"])
    assert {(row.system, row.n_cells) for row in result.rows} == {("stim", 40), ("kind", 37)}
    assert result.notes == ["probe leaves out 3 cells of 2 values of 'kind' with fewer than 3 cells"]


def test_an_option_of_a_panel_that_does_not_run_is_said_to_do_nothing(tiny):
    cells, asked = embedded(tiny.copy(), 0), dict(condition="stim", label="cell_type", panels=["probe"])
    found = cellalign.evaluate(cells, k=30, particles=5, global_silhouette=True, batch="cell_type", **asked)
    said = [note for note in found.notes if "did nothing" in note]
    assert said == [
        "k=30 did nothing: it is of panel mixing, which did not run",
        "global_silhouette=True did nothing: it is of panel mixing, which did not run",
        "particles=5 did nothing: it is of panel likelihood, which did not run",
        "batch='cell_type' did nothing: it is of panel bio, which did not run",
    ]
    assert not [note for note in cellalign.evaluate(cells, **asked).notes if "did nothing" in note]


def test_too_few_real_cells_are_the_first_reason_that_no_panel_can_run(tiny, monkeypatch):
    predicted = unchanged(tiny)
    few = tiny[(tiny.obs["stim"] == "control") | (np.arange(tiny.n_obs) == tiny.n_obs - 1)].copy()
    said = r"^no panel can run: response: no cell type has 5 cells under both conditions in against: B \(\d real"
    with pytest.raises(InputError, match=said) as refused:
        cellalign.evaluate(predicted, against=few, condition="stim", label="cell_type")
    assert "mixing, bio, probe, cross-condition: the input is a counterfactual" in str(refused.value)
    monkeypatch.setattr(Bio, "not_installed", classmethod(lambda cls: "it needs a package"))
    with pytest.raises(InputError, match=said + r".*mixing, probe, cross-condition: the.*; bio: it needs a package$"):
        cellalign.evaluate(predicted, against=few, condition="stim", label="cell_type")
    with pytest.raises(
        InputError, match=r"response: there are not 5 cells under both conditions in against: \d real, "
    ):
        cellalign.evaluate(predicted, against=few, condition="stim")


def test_a_type_called_as_a_row_of_another_meaning_is_a_group_of_its_own(tiny):
    kinds = tiny.obs["cell_type"].cat
    named = tiny.copy()
    named.obs["cell_type"] = named.obs["cell_type"].cat.rename_categories(["mean", "all", *kinds.categories[2:]])
    options = {"condition": "stim", "label": "cell_type"}
    plain = cellalign.evaluate(unchanged(tiny), against=tiny, **options)
    found = cellalign.evaluate(unchanged(named), against=named, **options)
    for group, other in zip(kinds.categories, ["'mean'", "'all'", *kinds.categories[2:]], strict=True):
        assert found.value("r_de", system="prediction", group=other) == plain.value(
            "r_de", system="prediction", group=group
        )
    assert found.value("r_de", system="prediction", group="mean") == plain.value(
        "r_de", system="prediction", group="mean"
    )
    assert len(found.to_csv()) > 0 and "'mean'" in found.to_csv() and found.measurable == plain.measurable


def test_a_benchmark_of_a_type_called_mean_keeps_its_column(tiny):
    from cellalign.tasks.benchmark_table import summary

    tiny.obs["cell_type"] = tiny.obs["cell_type"].cat.rename_categories({"B": "mean"})
    asked = {"condition": "stim", "label": "cell_type", "holdout_each": "cell_type", "groups": ["mean", "NK"]}
    table = cellalign.benchmark(tiny, methods=["linear"], **asked)
    wide = summary(table, "r_change_de")
    assert sorted(wide.columns) == ["'mean'", "NK", "mean"]
    assert np.allclose(wide["mean"], wide[["'mean'", "NK"]].mean(axis=1), equal_nan=True)
    assert set(table["held_out"]) == {"mean", "NK"}
