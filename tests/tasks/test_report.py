"""`report` on what other commands leave: what each input is says its content, and pages say what was computed."""

import json
import re

import numpy as np
import pandas as pd
import pytest

import cellalign
from cellalign.errors import InputError, UsageError
from cellalign.tasks.plot import _graph_of
from cellalign.tasks.report import _each_once
from cellalign.tasks.report_inputs import Given
from cellalign.tasks.report_parts import _crossed


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Cells, a model with a type held out, its embedding and its prediction, scores, in memory and as files."""
    from conftest import make_counts, preprocessed

    folder = tmp_path_factory.mktemp("job")
    cells = preprocessed(make_counts())
    held = ["cell_type=B,stim=stimulated"]
    model = cellalign.train(cells, method="linear", condition="stim", label="cell_type", holdout=held)
    model.save(folder / "model")
    embedded = cellalign.embed(cells.copy(), model)
    rng = np.random.default_rng(0)
    embedded.obsm["X_umap"] = rng.normal(size=(cells.n_obs, 2)).astype(np.float32)
    predicted = cellalign.counterfactual(cells, model, to="stimulated", where={"cell_type": "B"})
    scores = cellalign.evaluate(predicted, against=cells, condition="stim", label="cell_type")
    for name, adata in (("pp", cells), ("emb", embedded), ("pred", predicted)):
        adata.write_h5ad(folder / f"{name}.h5ad")
    (folder / "scores.json").write_text(scores.to_json())
    (folder / "scores.csv").write_text(scores.to_csv())
    return folder, {"cells": cells, "model": model, "embedded": embedded, "predicted": predicted, "scores": scores}


@pytest.fixture(scope="module")
def page(job):
    folder, _ = job
    inputs = [folder / name for name in ("scores.json", "pp.h5ad", "pred.h5ad", "model", "emb.h5ad")]
    return cellalign.report(*inputs)


@pytest.mark.slow
def test_inputs_in_any_order_are_known_by_their_content(job, page):
    folder, _ = job
    given = Given()
    for name in ("model", "emb.h5ad", "pred.h5ad", "pp.h5ad", "scores.json", "scores.csv"):
        given.add(folder / name)
    assert [len(each) for each in (given.models, given.embedded, given.predicted, given.real, given.scores)] == [
        1,
        1,
        1,
        1,
        2,
    ]
    names = [section.name for section in page.sections]
    assert names == ["response", "cells", "mixing", "further", "training", "glossary", "made"]
    assert [each.title for each in page.absent] == ["scIB panel", "Screen", "Targets", "Benchmark"]


def test_what_is_given_twice_is_shown_once_and_that_is_said(job, caplog):
    folder, objects = job
    twice = [folder / "scores.json", f"{folder}/./scores.json", objects["scores"], objects["scores"]]
    assert len(list(_each_once(twice, None))) == 2
    assert caplog.text.count("is given twice, and shown once") == 2
    inputs = [folder / "pred.h5ad", folder / "pp.h5ad"]
    assert list(_each_once(inputs, str(folder / "pp.h5ad"))) == [folder / "pred.h5ad"]


def test_standard_input_and_what_is_no_graph_are_told_for_what_reads_them(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UsageError, match="- is standard input, which is not read for a report; name a file"):
        Given().add("-")
    with pytest.raises(InputError, match="a report takes a model directory, cells"):
        Given().add(tmp_path / "x.json")
    with pytest.raises(InputError, match="this picture takes what cellalign targets wrote"):
        _graph_of(str(tmp_path / "x.json"))


def test_the_verdict_is_the_evaluations_own(job, page):
    _, objects = job
    first = page.findings[0]
    assert first.text == objects["scores"].verdict and first.mark.startswith("predicted: ")
    assert "fitted" not in first.text


def test_objects_and_files_give_the_same_scores(job, page):
    _, objects = job
    own = cellalign.report(objects["model"], objects["predicted"], against=objects["cells"])
    tables = [block for section in (page, own) for block in section.sections[0].blocks if block.kind == "table"]
    assert tables[0].rows == tables[2].rows and tables[0].rows[0][0] == "B"
    value = objects["scores"].value("r_change_de", system="prediction", group="B")
    assert tables[0].rows[0][2] == f"{value:.3f}"


@pytest.mark.slow
def test_cells_can_be_coloured_by_all_that_fits_and_by_genes(job):
    _, objects = job
    adata = objects["embedded"].copy()
    adata.obs["barcode"] = adata.obs_names
    adata.obs["depth"] = np.linspace(0, 1, adata.n_obs)
    adata.obs["constant"] = "one"
    page = cellalign.report(adata, color=["donor", "GENE3"], max_cells=50)
    (cells,) = [block for section in page.sections for block in section.blocks if block.kind == "cells"]
    assert list(cells.columns)[:3] == ["stim", "cell_type", "donor"]
    assert "gene GENE3" in cells.columns and "depth" in cells.columns
    assert "barcode (50 values)" not in cells.columns and "constant" not in cells.columns
    assert len(cells.maps["after: linear"]) == 50 and "50 of 240 cells" in cells.caption
    html = page.html()
    assert "<iframe" in page._repr_html_() and len(html) < 3e6


def test_a_unknown_colour_is_refused_by_name(job):
    _, objects = job
    with pytest.raises(InputError, match="cell_tpe.* neither an obs column nor a gene.*cell_type"):
        cellalign.report(objects["embedded"], color=["cell_tpe"])


def test_a_prediction_without_real_cells_says_so(job):
    folder, _ = job
    page = cellalign.report(folder / "pred.h5ad", folder / "model")
    why = next(each.why for each in page.absent if each.title == "Predicted response")
    assert "against" in why


def test_tables_of_other_commands(job, tmp_path):
    row = {"method": "linear", "seed": 0, "held_out": "B", "to": "stimulated", "made_of": "x", "format_version": 3}
    rows = [row | {"r_change_de": 0.9}, row | {"held_out": "NK", "r_change_de": 0.8}]
    rows += [
        row | {"method": "mean shift", "r_change_de": 0.7},
        row | {"method": "mean shift", "held_out": "NK", "r_change_de": 0.6},
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "benchmark.csv", index=False)
    pd.DataFrame({"perturbation": ["a"], "latent": ["z1"], "probability": [0.9], "effect": [-1.5]}).to_csv(
        tmp_path / "edges.csv"
    )
    page = cellalign.report(tmp_path / "benchmark.csv", tmp_path / "edges.csv")
    assert [section.name for section in page.sections] == ["targets", "benchmark", "made"]
    assert "best baseline by r_change_de: mean shift" in page.findings[0].text
    figure = page.sections[1].blocks[0].figures["all"]
    assert {trace["name"] for trace in figure["data"]} == {"linear", "best baseline: mean shift"}


@pytest.mark.parametrize("dtype", [object, "category", "string"])
def test_cells_without_a_value_are_no_batch(dtype):
    """They lie under both conditions, and hid that every batch lies under one."""
    obs = pd.DataFrame({"stim": list("aabbab"), "batch": ["1", "1", "2", "2", None, None]}).astype(dtype)
    (table,) = _crossed(obs, "stim", None).values()
    assert table.to_dict() == {"a": {"1": 2, "2": 0}, "b": {"1": 0, "2": 2}}
    obs.loc[0, "stim"] = None
    (table,) = _crossed(obs, "stim", None).values()
    assert table.to_dict() == {"a": {"1": 1, "2": 0}, "b": {"1": 0, "2": 2}}


def test_names_of_tables_are_text(tmp_path):
    """Not what pandas takes for a number, or for nothing."""
    names = ["NA", "None", "007"]
    scored = {"panel": "mixing", "system": "all", "metric": "kBET", "value": 0.5, "n_cells": 9}
    pd.DataFrame([scored | {"group": name} for name in names]).to_csv(tmp_path / "scores.csv", index=False)
    edge = {"latent": "z1", "probability": 0.9, "effect": -1.5}
    pd.DataFrame([edge | {"perturbation": name} for name in names]).to_csv(tmp_path / "edges.csv", index=False)
    inputs = Given()
    for name in ("scores.csv", "edges.csv"):
        inputs.add(tmp_path / name)
    assert [row["group"] for row in inputs.scores[0].rows] == names
    assert list(inputs.graphs[0][1].obs_names) == names


def test_a_graph_in_all_its_formats_is_the_same(svae_model, tmp_path):
    graph = cellalign.targets(svae_model)
    pages = []
    for ending in ("h5ad", "json", "csv"):
        cellalign.write_targets(graph, str(tmp_path / f"graph.{ending}"))
        pages.append(cellalign.report(tmp_path / f"graph.{ending}"))
    edges = int(np.asarray(graph.layers["edge"]).sum())
    assert all(f"{edges} edges" in page.sections[0].lead for page in pages)


def test_a_table_of_edges_does_not_tell_how_many_have_none(svae_model, tmp_path):
    graph = cellalign.targets(svae_model)
    graph.layers["edge"] = np.zeros_like(graph.layers["edge"])
    graph.layers["edge"][:2, 0] = True
    said = {}
    for ending in ("json", "csv"):
        cellalign.write_targets(graph, str(tmp_path / f"graph.{ending}"))
        said[ending] = cellalign.report(tmp_path / f"graph.{ending}").findings[0].text
    assert said["json"].startswith(f"2 of {graph.n_obs} perturbations have a target among 1 latent")
    assert said["csv"].startswith("2 perturbations have a target among 1 latent") and "does not say" in said["csv"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"a": 1}', "neither of evaluate nor of targets"),
        ('{"scores": [{"panel": "x"}]}', "no table of evaluate"),
        ("{", "not whole JSON"),
        ('{"perturbations": [{"x": 1}], "latents": []}', "no graph of targets"),
    ],
)
def test_json_of_another_kind_is_refused_in_one_line(tmp_path, content, says):
    (tmp_path / "some.json").write_text(content)
    with pytest.raises(InputError, match=says) as error:
        cellalign.report(tmp_path / "some.json")
    assert "\n" not in str(error.value)


def test_another_tools_prediction_is_compared_where_the_real_cells_are_named(job, tmp_path):
    _, objects = job
    other = objects["predicted"].copy()
    other.uns, other.layers = {}, {}
    other.obs = other.obs[["stim", "cell_type"]].copy()
    page = cellalign.report(other, against=objects["cells"], condition="stim", label="cell_type", control="control")
    assert page.sections[0].name == "response" and "of another tool" in page.done[0]
    assert not page.findings[0].mark.startswith("predicted"), "nobody knows whether it was fitted"


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("epoch,step,train_loss", "give the model directory"),
        ("group,condition,gene,predicted_p", "tested genes"),
        ("beta,seed,validation_loss,udr,score,rank", "a ranking of tune"),
    ],
)
def test_tables_that_are_not_shown_are_named(tmp_path, header, says):
    (tmp_path / "t.csv").write_text(f"{header}\n1,2,3,4\n")
    with pytest.raises(InputError, match=says):
        cellalign.report(tmp_path / "t.csv")


def test_mistakes(job, tmp_path):
    folder, _ = job
    with pytest.raises(UsageError, match="a report is of something"):
        cellalign.report()
    with pytest.raises(InputError, match="no such file"):
        cellalign.report(tmp_path / "none.h5ad")
    with pytest.raises(UsageError, match="nothing was done to"):
        cellalign.report(folder / "pp.h5ad")
    few = job[1]["cells"][:, :20].copy()
    with pytest.raises(InputError, match=r"^pred.h5ad: against lacks \d+ of the predicted genes"):
        cellalign.report(folder / "scores.csv", folder / "pred.h5ad", against=few)


def test_options_that_no_cells_fit_are_refused(job, caplog):
    folder, _ = job
    for asked, says in (
        ({"condition": "stimm"}, "no condition column 'stimm' in obs.*stim"),
        ({"label": "nix"}, "no label column 'nix' in obs"),
        ({"control": "nix"}, "control 'nix' is no value of any column of obs"),
        ({"condition": "stim", "control": "B"}, "control 'B' is no value of 'stim'"),
    ):
        with pytest.raises(InputError, match=says):
            cellalign.report(folder / "emb.h5ad", **asked)
    cellalign.report(folder / "model", against=folder / "pp.h5ad")
    assert "against is not used: there is no prediction" in caplog.text


def test_a_table_without_verdict_still_says_what_wins(job):
    folder, objects = job
    page = cellalign.report(folder / "scores.csv")
    first = page.findings[0]
    best = objects["scores"].row("r_change_de", system="prediction", group="mean").evidence.best
    assert best in first.text and re.search(r"(better|worse|no better) than", first.text)
    assert json.dumps(first.text)


def test_counts_are_drawn_on_a_logarithmic_scale(job):
    from cellalign.tasks.report_parts import _log_expression

    _, objects = job
    counts = objects["cells"].copy()
    counts.X = counts.layers["counts"]
    x = _log_expression(counts)
    total = np.asarray(counts.X.sum(1)).ravel()
    expected = np.log1p(counts.X.toarray() * (np.median(total) / total)[:, None])
    assert np.allclose(x.toarray(), expected, atol=1e-5)
    assert (_log_expression(objects["cells"]) != objects["cells"].X).nnz == 0


@pytest.mark.slow
def test_cells_that_stay_on_disk_give_the_same_page(job):
    from cellalign.data.files import read
    from cellalign.data.reading import Reading
    from cellalign.data.streamed import StreamedCells

    folder, _ = job
    on_disk = read(Reading((str(folder / "emb.h5ad"),), stream=True), streaming=True)
    assert isinstance(on_disk, StreamedCells)
    streamed, whole = (cellalign.report(each, color=["GENE3"]) for each in (on_disk, folder / "emb.h5ad"))

    def shown(page):
        (cells,) = [block for section in page.sections for block in section.blocks if block.kind == "cells"]
        tables = [block.rows for section in page.sections for block in section.blocks if block.kind == "table"]
        return cells, tables[:-1]  # but for the files

    one, other = shown(streamed), shown(whole)
    for title, xy in one[0].maps.items():
        np.testing.assert_allclose(xy, other[0].maps[title], atol=1e-4)
    np.testing.assert_array_equal(one[0].columns["gene GENE3"], other[0].columns["gene GENE3"])
    assert one[1][0] == other[1][0], "scores of mixing"


def test_columns_without_cells_to_look_them_up_in_are_said_to_be_unused(job, caplog):
    _, made = job
    cellalign.report(made["model"], color=["NOPE"], label="nothing")
    assert "color='NOPE', label='nothing' are not used: there are no embedded cells" in caplog.text
    caplog.clear()
    cellalign.report(made["predicted"], against=made["cells"], color=["NOPE"])
    assert "color='NOPE' is not used: there are no embedded cells" in caplog.text
