"""The pictures of a predicted response: what is drawn is what was scored, and it can be read."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ranksums
from support import at_every_change, counterfactual_record

import cellalign
from cellalign.errors import InputError
from cellalign.evaluation.panels import response as panel
from cellalign.plots.names import place
from cellalign.plots.palette import PALETTE

RESPONDING = {f"GENE{i}" for i in range(24, 34)}  # as conftest.make_counts raises them
OPTIONS = {"condition": "stim", "label": "cell_type", "panels": ["response"]}


def predicted(cells):
    """Control cells with a part of the response added, as a prediction by a model that never saw NK cells."""
    source = cells[cells.obs["stim"] == "control"].copy()
    noise = np.random.default_rng(0).gamma(2, 0.1, source.shape)
    source.X = source.X.toarray() + noise + 0.5 * source.var_names.isin(RESPONDING)
    source.obs["stim"] = "stimulated"
    source.obs["held_out"] = source.obs["cell_type"] == "NK"
    source.uns["cellalign"] = counterfactual_record()
    return source


def expression(cells, kind, stim):
    chosen = cells[(cells.obs["cell_type"] == kind) & (cells.obs["stim"] == stim)].X
    return np.asarray(chosen.todense() if hasattr(chosen, "todense") else chosen, dtype=np.float64)


def most_different(cells, kind):
    """Absolute z-scores of all genes, by scipy."""
    return np.abs(ranksums(expression(cells, kind, "stimulated"), expression(cells, kind, "control")).statistic)


@pytest.fixture
def result(tiny):
    return cellalign.evaluate(predicted(tiny), against=tiny, **OPTIONS)


def boxes(texts):
    return [text.get_window_extent() for text in texts if text.get_text()]


def assert_apart(found):
    for i, box in enumerate(found):
        for other in found[:i]:
            assert min(box.x1, other.x1) <= max(box.x0, other.x0) or min(box.y1, other.y1) <= max(box.y0, other.y0)


def assert_within(figure, found):
    for box in found:
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1


def test_the_scatter_shows_the_means_and_names_the_most_different_genes(tiny, result):
    figure, cells = result.scatter(), predicted(tiny)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["B", "CD14 Mono", "NK (held out)"]
    for axes, kind in zip(figure.axes, ("B", "CD14 Mono", "NK"), strict=True):
        real = expression(tiny, kind, "stimulated").mean(0)
        means = np.column_stack([expression(cells, kind, "stimulated").mean(0), real])
        everything, de, named = (np.asarray(drawn.get_offsets()) for drawn in axes.collections[:3])
        np.testing.assert_allclose(everything, means, rtol=1e-6)
        assert len(de) == 50 and len(named) == 10
        np.testing.assert_array_equal(de[:10], named)
        scores, *names = axes.texts
        order = [int(text.get_text().removeprefix("GENE")) for text in names]
        z = most_different(tiny, kind)
        np.testing.assert_allclose(z[order], np.sort(z)[::-1][:10])
        assert len(RESPONDING & {text.get_text() for text in names}) >= 8
        np.testing.assert_allclose(named, means[order], rtol=1e-6)
        r2 = [np.corrcoef(everything.T)[0, 1] ** 2, np.corrcoef(de.T)[0, 1] ** 2]
        assert scores.get_text() == f"R² {r2[0]:.3f} all genes\nR² {r2[1]:.3f} DE genes"
        assert r2[0] == pytest.approx(result.value("r_all", system="prediction", group=kind) ** 2)
        assert r2[1] == pytest.approx(result.value("r_de", system="prediction", group=kind) ** 2)
        assert axes.get_xlim() == axes.get_ylim(), "or the diagonal misleads"


@pytest.mark.parametrize(("expression", "called"), [(None, "log expression"), ("any", "value")])
def test_axes_say_what_is_drawn(tiny, expression, called):
    """Values of any kind are no log expression."""
    found = predicted(tiny)
    del found.uns["cellalign"]
    result = cellalign.evaluate(found, against=tiny, control="control", expression=expression, **OPTIONS)
    said = [text.get_text() for text in result.scatter().texts]
    assert said == [f"predicted mean {called}, stimulated", f"real mean {called}, stimulated"]
    assert {axes.get_ylabel() for axes in result.violin().axes} == {called}


def test_of_several_conditions_each_picture_says_its_own(result):
    """Not all that of the first."""
    other = [replace(each, to="other") for each in result.responses]
    several = replace(result, responses=[*result.responses, *other])
    kinds = ["B", "CD14 Mono", "NK (held out)"]
    titles = [f"{to}, {kind}" for to in ("stimulated", "other") for kind in kinds]
    for figure in (several.scatter(), several.violin()):
        assert [axes.get_title(loc="left") for axes in figure.axes] == titles
        legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
        assert not any("stimulated" in said for said in [*legends, *(text.get_text() for text in figure.texts)])


def test_the_violins_show_control_predicted_and_real_cells(tiny, result):
    figure = result.violin()
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["B", "CD14 Mono", "NK (held out)"]
    for axes, kind in zip(figure.axes, ("B", "CD14 Mono", "NK"), strict=True):
        kinds = [expression(tiny, kind, "control"), expression(predicted(tiny), kind, "stimulated")]
        kinds.append(expression(tiny, kind, "stimulated"))
        z = most_different(tiny, kind)
        genes = [int(label.get_text().removeprefix("GENE")) for label in axes.get_xticklabels()]
        np.testing.assert_allclose(z[genes], np.sort(z)[::-1][:10])
        bodies = [drawn for drawn in axes.collections if type(drawn).__name__ == "FillBetweenPolyCollection"]
        bodies = bodies or [drawn for drawn in axes.collections if type(drawn).__name__ == "PolyCollection"]
        bars = [drawn for drawn in axes.collections if type(drawn).__name__ == "LineCollection"][1::2]
        assert len(bodies) == 30 and len(bars) == 3
        for i, x in enumerate(kinds):
            np.testing.assert_allclose([bar[0, 1] for bar in bars[i].get_segments()], x.mean(0)[genes], rtol=1e-6)
            for place_, gene in enumerate(genes):
                outline = bodies[10 * i + place_].get_paths()[0].vertices
                assert outline[:, 1].min() == pytest.approx(x[:, gene].min())
                assert outline[:, 1].max() == pytest.approx(x[:, gene].max())
                assert outline[:, 0].mean() == pytest.approx(place_ + 0.28 * (i - 1), abs=0.02)
        assert axes.get_title(loc="right") == "40 control, 40 predicted, 40 stimulated cells"
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == ["control, real", "stimulated, predicted", "stimulated, real", "mean"]
    colours = [patch.get_facecolor() for patch in figure.legends[0].get_patches()]
    from matplotlib.colors import to_rgba

    assert colours == [to_rgba(colour) for colour in PALETTE[:3]]


def test_many_cells_are_thinned_by_the_seed(tiny, result, monkeypatch):
    monkeypatch.setattr(panel, "PICTURED_CELLS", 15)
    first, again, other = (
        cellalign.evaluate(predicted(tiny), against=tiny, seed=seed, **OPTIONS).responses[0] for seed in (0, 0, 1)
    )
    everything = {tuple(row) for row in result.responses[0].cells["real"]}
    assert first.cells["real"].shape == (15, 10) and first.n_cells["real"] == 40
    assert {tuple(row) for row in first.cells["real"]} < everything
    np.testing.assert_array_equal(first.cells["real"], again.cells["real"])
    assert not np.array_equal(first.cells["real"], other.cells["real"])
    np.testing.assert_array_equal(first.means["real"], result.responses[0].means["real"])
    assert panel.PICTURED_GENES == 10


@pytest.mark.parametrize("n", at_every_change([1, 3, 13], [1, 3]))
@pytest.mark.parametrize("kind", ["scatter", "violin"])
def test_everything_written_can_be_read(result, kind, n):
    """Panels of one size, no text on another or cut off: with long names, and of few or many cell types."""
    long = {"group": "CD4-positive, CD25-positive, alpha-beta regulatory T cell " * 3, "to": "100 $ of IFN, $ " * 9}
    result.responses = [replace(result.responses[i % 3], **long) for i in range(n)]
    figure = getattr(result, kind)()
    assert len(figure.axes) == n
    figure.canvas.draw()  # only then does the legend have its place
    sizes = {tuple(np.round(axes.bbox.size / figure.dpi, 3)) for axes in figure.axes}
    assert len(sizes) == 1 and min(sizes)[0] >= 2.5 and min(sizes)[1] >= 1.3
    titles = [text for axes in figure.axes for text in (axes._left_title, axes._right_title)]
    named = [*titles, *figure.texts, *figure.legends[0].get_texts()]
    assert not any(text.get_parse_math() for text in named if "$" in text.get_text()), "two $ in a name are no formula"
    found = boxes(named)
    for axes in figure.axes:
        low, high = axes.get_xlim()  # matplotlib keeps ticks outside, too, and does not draw them
        ticks = [tick.label1 for tick in axes.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        found += boxes([axes.yaxis.label, *axes.texts, *ticks])
    assert_apart(found)
    assert_within(figure, found)
    width, height = figure.get_size_inches()
    assert n < 13 or 0.5 < width / height < 2.5


def test_a_picture_of_very_many_cell_types_gets_coarser(result, monkeypatch):
    from cellalign.plots import response as plots

    monkeypatch.setattr(plots, "LARGEST", 1e6)
    figure = result.violin()
    assert figure.bbox.width * figure.bbox.height <= 1.01e6


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_cells_without_a_label_and_a_flat_prediction(tiny):
    cells = predicted(tiny)[:1].copy()
    found = cellalign.evaluate(cells, against=tiny, condition="stim", panels=["response"])
    assert [axes.get_title(loc="left") for axes in found.scatter().axes] == ["all cells"]
    (axes,) = found.violin().axes
    assert axes.get_title(loc="left") == "all cells"
    flat = [drawn for drawn in axes.collections if type(drawn).__name__ == "LineCollection"][::2]
    assert [len(bars.get_segments()) for bars in flat] == [0, 10, 0], "one cell has no outline to fill"


def test_without_a_response_there_is_no_picture(tiny):
    tiny.obsm["X_any"] = np.random.default_rng(0).normal(size=(tiny.n_obs, 2))
    found = cellalign.evaluate(tiny, condition="stim", k=15)
    with pytest.raises(InputError, match="no predicted response to draw: the input is no counterfactual"):
        found.scatter()


def test_names_make_room_for_each_other():
    """Ten points on one spot, in a corner that holds other text, beside a crowd."""
    points, sizes = np.tile([30.0, 70.0], (10, 1)), np.tile([24.0, 8.0], (10, 1))
    frame, taken = np.array([[0.0, 0.0], [100.0, 100.0]]), np.array([[0.0, 80.0, 50.0, 100.0]])
    crowd = np.random.default_rng(0).uniform([50, 0], [100, 50], (200, 2))
    centres = place(points, sizes, frame, taken, crowd)
    low, high = np.vstack([centres - sizes / 2, taken[:, :2]]), np.vstack([centres + sizes / 2, taken[:, 2:]])
    assert (low >= frame[0]).all() and (high <= frame[1]).all()
    overlap = (low[:, None] < high).all(-1) & (high[:, None] > low).all(-1)
    assert overlap.sum() == 11, "each only with itself"
    held = ((crowd >= low[:, None]) & (crowd <= high[:, None])).all(-1)
    assert held.sum() <= 2
    alone = place(points[:1], sizes[:1], frame, taken, crowd)[0]
    assert np.abs(alone - points[0]).max() < 20, "near its point where nothing is in the way"
