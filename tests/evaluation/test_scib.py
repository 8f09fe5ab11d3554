"""The scIB panel: scores that are known beforehand, the same numbers as scib-metrics' own pipeline, the picture.

scib-metrics compiles in every process, and again for every new shape: all cells here are of one shape.
"""

import logging
import subprocess
import sys
from importlib.util import find_spec

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from support import counterfactual_record

import cellalign
from cellalign.errors import InputError, UsageError
from cellalign.evaluation import panel, run, scib_scores
from cellalign.evaluation.metrics import scib
from cellalign.evaluation.metrics.metric import Null
from cellalign.evaluation.metrics.mixing import permuted
from cellalign.evaluation.panels import bio
from cellalign.plots.scib import draw
from cellalign.records import Embedding, Provenance

N = 240
BATCH = np.array(["first", "second"])[np.arange(N) // 3 % 2]
LABEL = np.array(["B", "NK", "T"])[np.arange(N) % 3]


def latents(apart=0.0):
    """Three labels far from each other [240, 4]; the second batch lies `apart` from the first."""
    z = np.random.default_rng(0).normal(size=(N, 4))
    z[:, :3] += 10 * np.eye(3)[np.arange(N) % 3]
    z[:, 3] += apart * (BATCH == "second")
    return z.astype(np.float32)


@pytest.mark.slow  # it compiles what it computes with
def test_scores_known_beforehand(capfd):
    """One test, so that of the workers that run tests side by side only one compiles."""
    pca, handlers = latents(apart=5), list(logging.getLogger().handlers)
    mixed, nulls = scib.scib_beside_permuted(latents(), BATCH, LABEL, pca=pca)
    check_permuted_batches_are_what_mixed_ones_score(mixed, nulls)
    separate = scib_scores(latents(apart=40), BATCH, LABEL, pca=pca)
    check_mixed_batches_and_separate_labels_score_high(mixed)
    check_batches_apart_are_seen_by_batch_correction(mixed, separate)
    check_shuffled_labels_are_seen_by_bio_conservation(mixed, pca)
    check_the_aggregates(mixed)
    check_the_aggregates(separate)
    check_without_components_there_is_no_pcr(mixed)
    assert capfd.readouterr() == ("", ""), "JAX and scib-metrics keep quiet"
    assert logging.getLogger().handlers == handlers
    check_the_numbers_are_those_of_scib_metrics_own_pipeline(mixed, separate, pca)


def check_permuted_batches_are_what_mixed_ones_score(mixed, nulls):
    """By the package called on permuted batches, without what is kept of its graphs."""
    import scib_metrics
    from scib_metrics.metrics import _kbet

    assert set(nulls) == {"iLISI", "kBET"} and _kbet.diffusion_nn.__module__.startswith("scib_metrics")
    for name, null in nulls.items():
        assert abs(mixed[name] - null.mean) < 0.1 and 0 <= null.sd < 0.1, name
    rng, plain = np.random.default_rng(0), []
    with scib.exact_neighbours(scib_metrics.nearest_neighbors):
        near = scib_metrics.nearest_neighbors.pynndescent(latents(), n_neighbors=90).subset_neighbors(50)
    for _ in range(scib.PERMUTATIONS):
        rng.permutation(BATCH)
        plain.append(float(scib_metrics.kbet_per_label(near, permuted(BATCH, LABEL, rng), LABEL)))
    assert nulls["kBET"].mean == pytest.approx(np.mean(plain))


def check_mixed_batches_and_separate_labels_score_high(mixed):
    assert min(mixed[metric] for metric in ("KMeans NMI", "KMeans ARI", "cLISI", "graph connectivity")) > 0.99
    assert min(mixed[metric] for metric in ("iLISI", "kBET", "BRAS", "PCR comparison")) > 0.8
    assert mixed["bio conservation"] > 0.9 and mixed["batch correction"] > 0.9 and mixed["total"] > 0.9


def check_batches_apart_are_seen_by_batch_correction(mixed, separate):
    assert separate["iLISI"] < 0.01 and separate["kBET"] < 0.01 and separate["PCR comparison"] == 0
    assert separate["graph connectivity"] == pytest.approx(0.5), "each label falls into its two batches"
    assert separate["batch correction"] < 0.4 < 0.9 < mixed["batch correction"]


def check_shuffled_labels_are_seen_by_bio_conservation(mixed, pca):
    shuffled = scib_scores(latents(), BATCH, np.random.default_rng(1).permutation(LABEL), pca=pca)
    assert shuffled["KMeans NMI"] < 0.05 and abs(shuffled["KMeans ARI"]) < 0.05 and shuffled["cLISI"] < 0.2
    assert shuffled["bio conservation"] < 0.3
    nulls = {metric.name: metric.null_value for metric in scib.BIO_METRICS if metric.null_value is not None}
    assert list(nulls) == ["isolated labels", "KMeans NMI", "KMeans ARI", "silhouette label"]
    assert {name: shuffled[name] for name in nulls} == pytest.approx(nulls, abs=0.05)
    assert shuffled["iLISI"] == mixed["iLISI"], "which knows no labels"


def check_the_aggregates(found):
    assert list(found) == [metric for group in scib.GROUPS.values() for metric in group]
    assert found["bio conservation"] == pytest.approx(np.mean([found[metric] for metric in scib.BIO]))
    assert found["batch correction"] == pytest.approx(np.mean([found[metric] for metric in scib.BATCH]))
    assert found["total"] == pytest.approx(0.4 * found["batch correction"] + 0.6 * found["bio conservation"])


def check_the_numbers_are_those_of_scib_metrics_own_pipeline(mixed, separate, pca):
    import scib_metrics
    from scib_metrics.benchmark import Benchmarker

    obs = pd.DataFrame({"batch": BATCH, "label": LABEL}, index=[str(i) for i in range(N)])
    obsm = {"mixed": latents(), "separate": latents(apart=40), "pca": pca}
    theirs = Benchmarker(
        ad.AnnData(obs=obs, obsm=obsm), "batch", "label", ["mixed", "separate"],
        pre_integrated_embedding_obsm_key="pca", progress_bar=False,
    )  # fmt: skip
    search = scib_metrics.nearest_neighbors
    with scib.exact_neighbours(search):
        theirs.prepare(neighbor_computer=lambda z, k: search.pynndescent(z, n_neighbors=k))
        theirs.benchmark()
    table = theirs.get_results(min_max_scale=False)
    capitals = {metric: metric[0].upper() + metric[1:] for metric in mixed} | {"cLISI": "cLISI", "iLISI": "iLISI"}
    capitals["kBET"] = "KBET"
    assert set(table.columns) == set(capitals.values())
    for system, ours in (("mixed", mixed), ("separate", separate)):
        for metric, theirs_called in capitals.items():
            assert ours[metric] == pytest.approx(float(table.loc[system, theirs_called]), abs=1e-6), metric


def check_without_components_there_is_no_pcr(mixed):
    found = scib_scores(latents(), BATCH, LABEL)
    assert set(mixed) - set(found) == {"PCR comparison"}
    rest = [metric for metric in scib.BATCH if metric != "PCR comparison"]
    assert found["batch correction"] == pytest.approx(np.mean([mixed[metric] for metric in rest]))


def test_every_cell_is_its_own_nearest_neighbour():
    from scib_metrics import nearest_neighbors

    z, approximate = latents(), nearest_neighbors.pynndescent
    with scib.exact_neighbours(nearest_neighbors):
        near = nearest_neighbors.pynndescent(z, n_neighbors=20, random_state=0)
    assert nearest_neighbors.pynndescent is approximate
    distance = np.linalg.norm(z[:, None] - z[None], axis=2)
    np.testing.assert_array_equal(near.indices, distance.argsort(1)[:, :20])
    np.testing.assert_allclose(near.distances, np.sort(distance, 1)[:, :20], atol=1e-4)


def test_neighbours_and_seed_reach_the_package(monkeypatch):
    monkeypatch.setattr(scib, "EXACT_UP_TO", 100)
    import scib_metrics

    class Reached(Exception):
        pass

    def search(z, *, n_neighbors, random_state):
        raise Reached(n_neighbors, random_state)

    monkeypatch.setattr(scib_metrics.nearest_neighbors, "pynndescent", search)
    with pytest.raises(Reached) as reached:
        scib_scores(latents(), BATCH, LABEL, neighbours=30, seed=7)
    assert reached.value.args == (30, 7)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n": 90}, "90 cells are too few for 90 neighbours"),
        ({"batch": np.full(N, "one")}, "one batch only"),
        ({"label": np.full(N, "one")}, "one label only"),
        ({"batch": LABEL}, "no label is found in two batches"),
        ({"batch": np.arange(N), "label": np.where(np.arange(N) == 0, "a", "b")}, None),
        ({"label": np.arange(N)}, "no label is found in two batches"),
        ({"z": np.ones((N, 4))}, "the same for all cells"),
        ({"z": np.full((N, 4), np.nan)}, "NaN"),
        ({"batch": BATCH[1:]}, "240 cells have 239 batches and 240 labels"),
    ],
)
def test_cells_that_have_no_scores(options, says):
    n = options.get("n", N)
    z, batch, label = options.get("z", latents()), options.get("batch", BATCH), options.get("label", LABEL)
    if says is None:  # every cell a batch of its own: as unfit
        says = "no label is found in two batches"
    with pytest.raises(InputError, match=says):
        scib_scores(z[:n], batch[:n], label[:n])


def embedded(tiny):
    """The 240 tiny cells with an embedding, and components that are of something else."""
    tiny.obsm["X_any"] = latents()
    tiny.obsm["X_pca"] = np.zeros((N, 2))
    tiny.obs["batch"], tiny.obs["label"] = BATCH, LABEL
    return tiny


@pytest.fixture
def scored(monkeypatch):
    """What the panel hands to scib_beside_permuted, which computes nothing."""
    calls = []

    def record(z, batch, label, *, seed, pca):
        calls.append({"z": z, "batch": batch, "label": label, "seed": seed, "pca": pca})
        return {"iLISI": 0.5, "kBET": np.nan, "total": 0.5}, {"iLISI": Null(0.9, 0.01)}

    monkeypatch.setattr(bio, "scib_beside_permuted", record)
    return calls


def test_the_default_leaves_it_out_unless_something_asks_for_it(tiny, scored, monkeypatch):
    monkeypatch.setattr(
        run, "PANELS", {name: run.PANELS[name] for name in ("mixing", "bio", "response", "de", "screen", "likelihood")}
    )
    cells, options = embedded(tiny), {"condition": "stim", "label": "cell_type", "k": 15}
    left = cellalign.evaluate(cells, **options).left_out["bio"]
    assert "panels bio" in left and not scored
    for asking in ({"extra_panels": ["bio"]}, {"batch": "batch"}):
        found = cellalign.evaluate(cells, **options, **asking)
        assert {row.panel for row in found.rows} == {"mixing", "bio"}
    np.testing.assert_array_equal(scored[0]["batch"], cells.obs["stim"])  # the condition, where no batch is named
    np.testing.assert_array_equal(scored[-1]["batch"], BATCH)
    assert any("averages without kBET" in note for note in found.notes)
    with pytest.raises(InputError, match="bio cannot run: it needs label"):
        cellalign.evaluate(cells, condition="stim", panels=["bio"])
    with pytest.raises(UsageError, match="unknown panel 'boi'"):
        cellalign.evaluate(cells, **options, extra_panels=["boi"])


def test_a_batch_is_enough(tiny, scored):
    cells = embedded(tiny)
    found = cellalign.evaluate(cells, batch="batch", label="label", seed=3)
    assert {row.panel for row in found.rows} == {"bio", "probe"} and scored[-1]["seed"] == 3
    assert found.left_out["mixing"] == found.left_out["cross-condition"] == "it needs condition"
    assert found.left_out["response"] == "the input is no counterfactual"
    assert {row.system for row in found.rows if row.panel == "probe"} == {"label"}
    for options, error, says in (
        ({"label": "label"}, UsageError, "condition is needed.*batch is enough"),
        ({"batch": "bach", "label": "label"}, InputError, "no batch column 'bach'.*'batch'"),
        ({"batch": "batch", "panels": ["mixing"]}, InputError, "mixing cannot run: it needs condition"),
        ({"batch": "batch", "panels": ["probe"]}, InputError, "probe cannot run: it needs condition or label"),
    ):
        with pytest.raises(error, match=says):
            cellalign.evaluate(cells, **options)


def test_several_embeddings_are_compared(tiny, scored):
    cells = embedded(tiny)
    cells.obsm["X_other"] = latents(apart=40)
    options = {"condition": "stim", "label": "label", "embedding": ["X_any", "X_other"]}
    found = cellalign.evaluate(cells, **options)
    assert list(dict.fromkeys(row.system for row in found.rows)) == ["X_any", "X_other", "unintegrated PCA"]
    assert found.left_out["mixing"] == "it scores one embedding, and 2 were given"
    np.testing.assert_array_equal(scored[1]["z"], latents(apart=40))
    cells.obsm["X_other"] = np.ones((N, 2))
    with pytest.raises(InputError, match="X_other: the embedding is the same for all cells"):
        cellalign.evaluate(cells, **options)


def test_the_components_are_of_log_expression(tiny, scored):
    cells = embedded(tiny)
    options = {"batch": "batch", "label": "label", "panels": ["bio"]}
    cellalign.evaluate(cells, **options)
    cells.X = cells.layers["counts"]
    cellalign.evaluate(cells, **options)
    np.testing.assert_allclose(scored[0]["pca"], scored[2]["pca"], atol=0.01)  # made from the counts
    np.testing.assert_array_equal(scored[1]["z"], scored[1]["pca"])
    del cells.layers["counts"]
    cells.X = None
    found = cellalign.evaluate(cells, **options)
    assert scored[-1]["pca"] is None and {row.system for row in found.rows} == {"X_any"}
    assert any(
        "no unintegrated PCA beside it and no PCR comparison: the input has no X" in note for note in found.notes
    )
    with pytest.raises(InputError, match="no scIB scores to draw: panel bio was not asked for"):
        cellalign.evaluate(cells, batch="batch", label="label", panels=["probe"]).scib_table()


def test_a_counterfactual_and_a_number_for_a_condition(tiny, scored):
    cells = embedded(tiny)
    real = cells.copy()
    cells.obs["dose"] = np.linspace(0, 1, N)
    record = Embedding(method="vae", key="X_any", condition="dose", continuous=True)
    cells.uns["cellalign"] = Provenance().with_steps(record).plain()
    found = cellalign.evaluate(cells, label="label", extra_panels=["bio"])
    assert found.left_out["bio"] == "it needs batch, for the condition is a number"
    numbered = cellalign.evaluate(cells, label="label", batch="batch", panels=["bio"])
    assert {row.panel for row in numbered.rows} == {"bio"}
    cells.uns["cellalign"] = counterfactual_record()
    found = cellalign.evaluate(cells, against=real, label="label")
    assert found.left_out["bio"] == "the input is a counterfactual, which has no embedding"


def test_nothing_of_it_is_imported_before_it_runs():
    code = "import sys, cellalign.evaluation; print({'jax', 'scib_metrics', 'plottable'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "set()", done.stderr


SCORES = {"isolated labels": 0.9, "BRAS": 0.25, "iLISI": -1e-9, "kBET": np.nan, "total": 0.1}


def test_the_table_says_every_score_and_has_the_best_on_top():
    better = {metric: 1.0 for metric in SCORES}
    figure = draw({"X_$one_$": SCORES, "X_two " + 20 * "long ": better}, scib.GROUPS)
    figure.canvas.draw()
    (axes,) = figure.axes
    said = {text.get_text(): text for text in axes.texts}
    numbers = sorted(text for text in said if text[0] in "01–")
    assert numbers == ["0.00", "0.10", "0.25", "0.90", "1.00", "–"]
    assert sum(text.get_text() == "1.00" for text in axes.texts) == 5
    assert {"bio conservation", "batch correction", "aggregate", "isolated\nlabels", "kBET", "X_$one_$"} <= set(said)
    assert not any("KMeans" in text for text in said), "which no system has"
    top, bottom = (next(t for name, t in said.items() if name.startswith(start)) for start in ("X_two", "X_$one"))
    assert top.get_window_extent().y0 > bottom.get_window_extent().y1 and not bottom.get_parse_math()
    assert top.get_text().endswith("…")
    bars = [patch.get_width() for patch in axes.patches if type(patch).__name__ == "Rectangle"]
    assert bars[0] == pytest.approx(10 * bars[1]), "as long as the total"
    circles = [patch for patch in axes.patches if type(patch).__name__ == "Circle"]
    assert len(circles) == 7, "none for NaN"
    assert_readable(figure, axes)


def test_a_table_of_all_metrics_can_be_read():
    names = [metric for group in scib.GROUPS.values() for metric in group]
    figure = draw({f"X_method{i}": dict.fromkeys(names, i / 9) for i in range(10)}, scib.GROUPS)
    figure.canvas.draw()
    assert_readable(figure, figure.axes[0])


def assert_readable(figure, axes):
    """No text lies on another or outside."""
    found = [text.get_window_extent() for text in axes.texts]
    for i, box in enumerate(found):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1
        for other in found[:i]:
            assert min(box.x1, other.x1) <= max(box.x0, other.x0) or min(box.y1, other.y1) <= max(box.y0, other.y0)


@pytest.fixture
def without_the_extra(monkeypatch):
    """As where `scib` was not installed: nothing finds or imports scib_metrics."""
    monkeypatch.setitem(sys.modules, "scib_metrics", None)  # an import of it raises ModuleNotFoundError
    monkeypatch.setattr(panel, "find_spec", lambda name: None if name == "scib_metrics" else find_spec(name))


CURE = "run: pip install 'cellalign[scib]'"


def test_without_the_extra_what_asks_for_it_is_one_line(without_the_extra, mistaken, tmp_path):
    for asked in (("--panel", "mixing,bio"), ("--scib-table", "scib.png", "--label", "cell_type")):
        # the file is not there: the line comes before anything is read
        done = mistaken(cwd=tmp_path)("evaluate", "none.h5ad", "--condition", "stim", *asked)
        assert done.returncode == 2 and done.stdout == "" and len(done.stderr.strip().splitlines()) == 1
        assert f"panel bio cannot run: it needs scib-metrics; {CURE}" in done.stderr
    with pytest.raises(UsageError, match=r"scIB scores need scib-metrics; run: .*\[scib\]"):
        scib_scores(latents(), BATCH, LABEL)


@pytest.mark.slow
def test_without_the_extra_the_other_panels_run(without_the_extra, tiny):
    tiny.obsm["X_mine"] = np.random.default_rng(0).normal(size=(tiny.n_obs, 3))
    options = dict(condition="stim", label="cell_type", k=15, min_cells=30)
    for batch in (None, "stim"):  # batches ask for panel bio, but not by name
        result = cellalign.evaluate(tiny, batch=batch, **options)
        assert result.left_out["bio"] == f"it needs scib-metrics; {CURE}"
        assert {"mixing", "probe"} <= {row.panel for row in result.rows}
