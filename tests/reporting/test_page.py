"""The page itself, parsed: what is shown is what was given, names are text, and nothing is fetched."""

import base64
import hashlib
import json
from dataclasses import replace
from html.parser import HTMLParser

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import reported

from cellalign.data.folders import without_folders
from cellalign.reporting import Parts, build
from cellalign.reporting.build import TITLES
from cellalign.reporting.packed import as_json, in_steps, packed
from cellalign.tasks.report_parts import ROOM

MEGABYTE = 1e6
KINDS = {"f4": "<f4", "u1": "u1", "u2": "<u2", "u4": "<u4"}


class Parsed(HTMLParser):
    """Tags with their attributes, text outside scripts and styles, and the scripts."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.scripts, self._in = [], [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in = tag if tag in ("script", "style") else ""
        if tag == "script":
            self.scripts.append([dict(attrs), ""])

    def handle_endtag(self, tag):
        self._in = ""

    def handle_data(self, data):
        if self._in == "script":
            self.scripts[-1][1] += data
        elif not self._in:
            self.text.append(data.strip())

    @property
    def data(self):
        return next(json.loads(text) for attrs, text in self.scripts if attrs.get("type") == "application/json")

    def said(self):
        return " ".join(self.text)


def unpacked(array):
    return np.frombuffer(base64.b64decode(array["bdata"]), KINDS[array["dtype"]])


@pytest.fixture(scope="module")
def page():
    return build(reported.everything())


@pytest.fixture(scope="module")
def parsed(page):
    return Parsed(page.html())


def test_every_section_is_there(page, parsed):
    there = [section.name for section in page.sections]
    assert set(there) == {*TITLES, "further", "glossary", "made"} and not page.absent
    linked = [attrs["href"] for tag, attrs in parsed.tags if tag == "a"]
    ids = {attrs["id"] for _, attrs in parsed.tags if "id" in attrs}
    assert all(link[1:] in ids for link in linked) and len(linked) > len(TITLES)


def test_names_are_text(parsed):
    kinds = {tag for tag, _ in parsed.tags}
    assert "img" not in kinds and "b" not in kinds
    assert len(parsed.scripts) == 3, "the data, plotly and our own"
    assert reported.EVIL in parsed.said(), "as it is, for people"
    assert not any(key.startswith("on") for _, attrs in parsed.tags for key in attrs)


def test_what_plotly_takes_for_markup_is_escaped(parsed):
    charts = [picture for picture in parsed.data["pictures"].values() if picture["kind"] == "chart"]
    labels = json.dumps([[*each["figures"].values(), each["shared"]] for each in charts])  # choices are plain text
    assert "<script" not in labels and "<img" not in labels and "&lt;script&gt;" in labels


def test_nothing_is_fetched_and_only_its_own_scripts_run(page, parsed):
    for tag, attrs in parsed.tags:
        for key in ("src", "href", "action", "srcset", "data"):
            assert not str(attrs.get(key, "")).startswith(("http", "//", "ftp")), (tag, attrs)
    style = page.html().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    policy = next(attrs["content"] for tag, attrs in parsed.tags if attrs.get("http-equiv"))
    assert "default-src 'none'" in policy and "connect-src" not in policy and "unsafe-eval" not in policy
    for attrs, text in parsed.scripts:
        if attrs.get("type") != "application/json":
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy


def test_numbers_are_those_that_were_given(page, parsed):
    said = parsed.said()
    for value in ("0.812", "0.823", "+0.100", "0.970"):
        assert value in said
    assert "0.62" in said, "scIB"
    assert "0.110" in said and "0.100 ± 0.010" in said, "mixing beside its null, of cells not trained on"
    dots = next(iter(parsed.data["pictures"].values()))["figures"]["all"]["data"][0]
    assert sorted(dots["x"]) == pytest.approx([0.8125, 0.8225])


def test_the_scatter_and_the_violins_hold_the_means(parsed):
    pictures = [each for each in parsed.data["pictures"].values() if each["kind"] == "chart"]
    scatter = next(each for each in pictures if each["shared"])
    truth = reported.responses()[0]
    figure = scatter["figures"]["NK, held out"]
    drawn = {}
    for trace in figure["data"]:
        for gene, x, y in zip(unpacked(trace["text"]["at"]), unpacked(trace["x"]), unpacked(trace["y"]), strict=True):
            drawn[int(gene)] = (x, y)
    assert len(drawn) == len(reported.GENES)
    for gene, (x, y) in drawn.items():
        assert (x, y) == pytest.approx((truth.means["predicted"][gene], truth.means["real"][gene]), rel=1e-5)
    violins = next(
        each for each in pictures if each["figures"].keys() == scatter["figures"].keys() and not each["shared"]
    )
    bars = [trace for trace in violins["figures"]["NK, held out"]["data"] if trace["mode"] == "markers"]
    assert bars[2]["y"] == pytest.approx(truth.means["real"][truth.de[:10]])


def test_the_map_holds_every_cell(parsed):
    (cells,) = [each for each in parsed.data["pictures"].values() if each["kind"] == "cells"]
    truth = reported.cells()
    assert cells["n"] == 500 and [each["title"][:5] for each in cells["maps"]] == ["befor", "after"]
    for own, xy in zip(cells["maps"], (truth.before, truth.after), strict=True):
        for axis, key in enumerate("xy"):
            low, high = own[key]["low"], own[key]["high"]
            assert low + unpacked(own[key]) / 65534 * (high - low) == pytest.approx(xy[:, axis], abs=1e-3)
    by_name = {each["name"]: each for each in cells["columns"]}
    assert list(by_name)[0] == "stim"
    kinds = by_name["cell_type"]
    names = np.array(kinds["categories"])[unpacked(kinds["codes"])]
    expected = truth.columns["cell_type"].astype(object)
    assert all(
        name == (value if isinstance(value, str) else "no value") for name, value in zip(names, expected, strict=True)
    )
    assert "barcode (500 values)" in parsed.said()


def test_a_page_of_many_cells_is_small():
    parts = reported.everything(20_000)
    assert len(build(parts).html().encode()) < 2.5 * MEGABYTE


@pytest.mark.slow
def test_a_page_of_much_of_everything_is_small():
    parts = reported.everything(20_000)
    (own,) = parts.predicted
    rng = np.random.default_rng(0)
    genes = np.array([f"ENSG{i:011d}" for i in range(9000)])
    means = {kind: rng.gamma(1.0, 0.5, len(genes)) for kind in reported.KINDS}
    cells = {kind: rng.gamma(1.0, 0.5, (200, 10)) for kind in reported.KINDS}
    many = [replace(own.responses[0], group=f"{i}", genes=genes, means=means, cells=cells) for i in range(100)]
    own = replace(own, responses=many)
    columns = {f"column {i}": rng.normal(size=20_000) for i in range(ROOM // 40_000)}
    cells_of_all = replace(parts.embedded[0], columns=columns)
    page = build(replace(parts, predicted=[own], embedded=[cells_of_all]))
    assert len(page.html().encode()) < 5 * MEGABYTE
    (scatter,) = [each for each in page.sections[0].blocks if each.kind == "chart" and each.shared]
    assert len(scatter.figures) == 24, "held out ones first, and no more"


def test_pictures_of_very_many_rows_have_an_end():
    rng = np.random.default_rng(0)
    n = 1500
    names = [f"p{i}" for i in range(n)]
    edge = rng.random((n, 12)) < 0.1
    obs, var = pd.DataFrame(index=names), pd.DataFrame(index=[f"z{i}" for i in range(12)])
    graph = ad.AnnData(edge * np.float32(1), obs=obs, var=var, layers={"edge": edge, "probability": edge * 0.9})
    rows = [reported.row("mixing", "all", "all", "s", 0.1, null=0.0, null_sd=0.01)]
    rows += [reported.row("mixing", "all", f"stim={name}", "s", 0.1, null=0.0, null_sd=0.01) for name in names]
    rows += [reported.row("mixing", "all", "NK", "s", 0.1, null=0.0, null_sd=0.01)]
    many = replace(reported.benchmark(), groups=names, values=np.ones((2, n)), best=("b", np.ones(n)), ceiling=None)
    parts = Parts(scored=[reported.scores(rows)], benchmarks=[many], graphs=[replace(reported.graph(), graph=graph)])
    page = build(parts)
    charts = [block for section in page.sections for block in section.blocks if block.kind == "chart"]
    assert len(charts) == 3
    for chart in charts:
        assert all(figure["layout"]["height"] < 2600 for figure in chart.figures.values())
    mixing = next(each for each in charts if "s" in each.figures)
    assert {"all cells", "NK"} <= set(mixing.figures["s"]["layout"]["yaxis"]["ticktext"][:2])
    assert len(page.html().encode()) < 5 * MEGABYTE


def test_nothing_is_told_by_colour_alone(page):
    for block in (block for section in page.sections for block in section.blocks if block.kind == "chart"):
        for figure in block.figures.values():
            lines = [trace["line"]["dash"] for trace in figure["data"] if "dash" in trace.get("line", {})]
            dots = [
                trace for trace in figure["data"] if trace.get("mode") == "markers" and trace.get("showlegend", True)
            ]
            marks = [(each["marker"].get("symbol", "circle"), each["marker"].get("size")) for each in dots]
            assert len(set(lines)) == len(lines) and len(set(marks)) == len(marks)


def test_too_few_cells_for_a_picture_are_said_so():
    few = replace(reported.cells(), after=None, before=None, why_no_before="UMAP needs at least 4 cells, not 3")
    page = build(Parts(embedded=[few]))
    assert "cells" not in [section.name for section in page.sections]
    assert next(each.why for each in page.absent if each.title == TITLES["cells"]).startswith("UMAP needs at least 4")


def test_commands_hold_no_folders():
    said = without_folders("cellalign train '/home/ann/a b.h5ad' -m here/model --against=x /data/y.zarr")
    assert said == "cellalign train 'a b.h5ad' -m here/model --against=x y.zarr"
    # also where a path is part of a word
    said = without_folders(
        r"cellalign report 'C:\\me\\m' --against=/home/ann/x.h5ad -o/home/ann/r.html --obs='/a b/c.csv'"
    )
    assert said == "cellalign report m --against=x.h5ad -or.html --obs=c.csv"
    assert without_folders("") == ""


def test_what_is_not_given_is_said_in_one_line_each():
    page = build(Parts(models=[reported.model()], version="0.1.0", when="today"))
    assert [section.name for section in page.sections] == ["training", "made"]
    assert [each.title for each in page.absent] == [TITLES[name] for name in TITLES if name != "training"]
    said = Parsed(page.html()).said()
    for each in page.absent:
        assert each.why in said and "\n" not in each.why


@pytest.mark.parametrize("status", ["fitted", "predicted"])
@pytest.mark.parametrize("verdict", ["", "the response is better than the best baseline"])
def test_fitted_is_never_shown_as_predicted(status, verdict):
    verdict = (
        verdict
        and ("fitted, not predicted (the model was trained on these cells); " if status == "fitted" else "") + verdict
    )
    own = reported.prediction(status, verdict)
    page = build(Parts(predicted=[own], version="0.1.0", when="today"))
    first = page.findings[0]
    if status == "fitted":
        assert first.mark == "fitted, not predicted" and first.tone == "care"
        assert first.parts[0].startswith("fitted, not predicted")
        assert any("trained on the real cells of NK" in each for each in page.cautions)
    else:
        assert first.mark == "predicted: better than any baseline" and first.tone == "good"
        assert "fitted" not in first.text
    if verdict:
        assert first.text == verdict, "the sentence is the evaluation's own"


def test_predicted_groups_come_before_fitted_ones_and_both_say_so():
    rows = reported.response_rows()
    for each in rows:
        if each["system"] == "prediction" and each["group"] == "NK":
            each["status"] = "fitted"
    page = build(Parts(scored=[reported.scores(rows, "the response is better; ...")]))
    dots, table = page.sections[0].blocks[:2]
    assert [line[0] for line in table.rows] == [reported.EVIL, "NK"]
    assert [line[1] for line in table.rows] == ["predicted", "fitted"]
    assert [line[2] for line in table.rows] == ["▲\u00a0better", "▲\u00a0fit\u00a0better"]
    names = dots.figures["all"]["layout"]["yaxis"]["ticktext"]
    assert names[1] == "fitted: NK" and names[0].startswith("predicted:")


@pytest.mark.parametrize(
    ("difference", "mark", "tone"),
    [
        ((-0.1, -0.2, -0.05), "predicted: a baseline is better", "bad"),
        ((0.01, -0.02, 0.05), "predicted: no better", "care"),
    ],
)
def test_a_baseline_that_wins_is_said_to_win(difference, mark, tone):
    rows = reported.scores(reported.response_rows("predicted", difference))
    page = build(Parts(scored=[rows], version="0.1.0", when="today"))
    assert (page.findings[0].mark, page.findings[0].tone) == (mark, tone)
    assert "mean shift" in page.findings[0].text
    said = Parsed(page.html()).said()
    assert ("▼\u00a0worse" in said) == (tone == "bad")


def test_a_benchmark_that_held_nothing_out_is_fitted():
    page = build(Parts(benchmarks=[reported.benchmark(held_out=False)], version="0.1.0", when="today"))
    assert page.findings[0].mark == "fitted, not predicted"
    assert build(Parts(benchmarks=[reported.benchmark()])).findings[0].tone == "bad", "what is worse is said to be"


def test_nothing_measurable_is_said_first():
    rows = [each | {"measurable": False} for each in reported.response_rows()]
    own = reported.scores(rows, "not measurable (...): NK", measurable={"groups": 0, "of": 2})
    page = build(Parts(scored=[own], version="0.1.0", when="today"))
    assert page.findings[0].mark == "not measurable"
    assert any("cannot" in each or "can be judged" in each for each in page.cautions)


def test_what_a_careful_colleague_says(page):
    said = " ".join(page.cautions)
    assert "best epoch, 10, is among the last of 10" in said
    assert "training diverged and went back" in said
    assert "Every value of donor is of one stim only" in said


def test_panels_without_a_section_of_their_own_are_tables():
    rows = [
        reported.row("likelihood", "X", "all", "NLL", 123.25),
        reported.row("cross-condition", "mean", "all", "accuracy", 0.5),
    ]
    page = build(Parts(scored=[reported.scores(rows, name="s.json")]))
    (section,) = [each for each in page.sections if each.name == "further"]
    assert [block.rows for block in section.blocks] == [[["X", "123.250"]], [["mean", "0.500"]]]


def test_a_condition_that_is_a_number_is_told_by_its_r2():
    """Of which no majority's share is the floor."""
    for metric, said in (("linear regression R2", "an R2 of 0"), ("logistic regression", "majority's share")):
        rows = [
            reported.row("probe", "dose", "all", metric, 0.25),
            reported.row("probe", "type", "all", "majority", 0.5),
        ]
        page = build(Parts(scored=[reported.scores(rows)]))
        (section,) = (each for each in page.sections if each.name == "mixing")
        (table,) = section.blocks
        assert said in table.caption and ("R2" in table.caption) == ("R2" in metric)


def test_every_score_is_explained(parsed):
    from cellalign.evaluation.catalogue import catalogue

    meanings = {(panel, metric.name): metric.meaning for panel, metric in catalogue()}
    said = parsed.said()
    for name in (("response", "r_change_de"), ("mixing", "kBET"), ("mixing", "own share")):
        assert meanings[name] in said
    assert meanings["bio", "kBET"] not in said, "which is another score of that name"


def test_a_loss_of_nothing_is_drawn():
    history = [{"epoch": e, "train_loss": 0.0, "validation_loss": None} for e in (1, 2)]
    page = build(Parts(models=[replace(reported.model(), history=history)]))
    figure = page.sections[0].blocks[0].figures["loss"]
    assert [trace["y"] for trace in figure["data"]] == [[0.0, 0.0]]


def test_the_same_scores_twice_are_shown_once():
    again = reported.scores(reported.response_rows(), "the same", name="scores.json")
    page = build(Parts(predicted=[reported.prediction()], scored=[again], version="0.1.0", when="today"))
    assert sum(section.name.startswith("response") for section in page.sections) == 1


def test_paths_of_a_user_are_not_sent_on(page):
    html = page.html()
    assert "secret" not in html and "cells.h5ad" in html


def test_json_holds_no_markup_and_no_nan():
    text = as_json({"a": "</script>&", "b": float("nan"), "c": np.float32(1.5), "d": np.arange(2)})
    assert "<" not in text and "&" not in text
    assert json.loads(text) == {"a": "</script>&", "b": None, "c": 1.5, "d": [0, 1]}


def test_arrays_come_back():
    values = np.array([0.5, -2.0, np.nan, 7.25])
    steps = in_steps(values)
    raw = unpacked(steps)
    assert raw[2] == 65535
    there = np.isfinite(values)
    assert steps["low"] + raw[there] / 65534 * (steps["high"] - steps["low"]) == pytest.approx(values[there], abs=1e-3)
    assert packed(np.zeros((2, 3)))["shape"] == "2, 3"
    assert unpacked(packed(np.arange(5, dtype=np.uint16))).tolist() == [0, 1, 2, 3, 4]
