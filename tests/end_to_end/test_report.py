"""`cellalign report` as a user types it: one line when it cannot, one page when it can."""

import json

import pytest

import cellalign as api


@pytest.fixture(scope="module")
def folder(kang_like, model, cellalign, tmp_path_factory):
    """Embedded cells and a prediction beside the model."""
    place = tmp_path_factory.mktemp("report")
    run = cellalign(cwd=place)
    adata = api.read(kang_like)
    rows = adata[::4].copy()
    rows.write_h5ad(place / "cells.h5ad")
    assert run("embed", "cells.h5ad", "-m", model, "-o", "emb.h5ad").returncode == 0
    assert run("counterfactual", "cells.h5ad", "-m", model, "--to", "stimulated", "-o", "pred.h5ad").returncode == 0
    return place, run


def test_a_page_of_the_main_job(folder, model):
    place, run = folder
    done = run(
        "report", model, "emb.h5ad", "pred.h5ad", "--against", "cells.h5ad", "-o", "page.html", "--label", "cell_type"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and "page.html: " in done.stderr
    html = (place / "page.html").read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>") or "<!doctype html>" in html[:20]
    for said in (
        "Predicted response",
        "Cells before and after",
        "Mixing of conditions",
        "Fitted, not predicted",
        "sha256:",
    ):
        assert said in html
    assert "$ cellalign report" in html and str(place) not in html.replace(str(model), "")
    again = run("report", model, "-o", "page.html")
    assert again.returncode == 2 and "--force" in again.stderr


def test_mistakes_are_one_line(folder, model, tmp_path):
    place, run = folder
    (place / "other.json").write_text(json.dumps({"a": 1}))
    for words, status, says in (
        (("report", model, "-o", "page.pdf"), 2, "does not end in .html"),
        (("report", "nothing.h5ad", "-o", "new.html"), 3, "no such file: nothing.h5ad"),
        (("report", "other.json", "-o", "new.html"), 3, "neither of evaluate nor of targets"),
        (("report", "cells.h5ad", "-o", "new.html"), 2, "nothing was done to"),
        (("report", "emb.h5ad", "--color", "nothing", "-o", "new.html"), 3, "--color nothing is neither"),
        (("report", "emb.h5ad", "-o", "emb.h5ad"), 2, "does not end in .html"),
        (("report",), 2, "INPUT"),
    ):
        done = run(*words)
        assert done.returncode == status, done.stderr
        assert says in done.stderr and not (place / "new.html").exists()
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.slow
def test_train_and_evaluate_and_benchmark_write_one_too(folder, tmp_path):
    place, run = folder
    short = ("--condition", "stim", "--epochs", 1, "--set", "hidden=[8]", "--batch-size", 32)
    done = run("train", "cells.h5ad", "--method", "comp", *short, "-m", "m", "--report", "train.html")
    assert done.returncode == 0, done.stderr
    html = (place / "train.html").read_text(encoding="utf-8")
    for said in ("Training", "Cells before and after", "Mixing of conditions", "comp learned a model"):
        assert said in html
    against = ("--against", "cells.h5ad", "--label", "cell_type")
    done = run("evaluate", "pred.h5ad", *against, "--report", "eval.html", "-o", "eval.json")
    assert done.returncode == 0, done.stderr
    html = (place / "eval.html").read_text(encoding="utf-8")
    verdict = json.loads((place / "eval.json").read_text())["verdict"]
    first = verdict.split(";")[0].strip()
    assert first[1:] in html and "Predicted response" in html and "fitted, not predicted" in html
    done = run("evaluate", "emb.h5ad", "--condition", "stim", "--report", "emb.html")
    assert done.returncode == 0, done.stderr
    assert "Mixing of conditions" in (place / "emb.html").read_text(encoding="utf-8")
    asked = ("--methods", "linear", "--condition", "stim", "--holdout-each", "cell_type", "--group", "CD4 T")
    done = run("benchmark", "cells.h5ad", *asked, "-o", "b.csv", "--report", "b.html")
    assert done.returncode == 0, done.stderr
    assert "held out in turn" in (place / "b.html").read_text(encoding="utf-8")


def test_a_page_that_cannot_be_written_is_refused_before_any_work(folder):
    place, run = folder
    for words in (
        ("train", "cells.h5ad", "--condition", "stim", "-m", "never"),
        ("evaluate", "emb.h5ad", "--condition", "stim"),
        ("benchmark", "cells.h5ad", "--methods", "linear", "--condition", "stim", "-o", "never.csv"),
    ):
        done = run(*words, "--report", "page.txt")
        assert done.returncode == 2 and "page.txt does not end in .html" in done.stderr
    assert not (place / "never").exists() and not (place / "never.csv").exists()


def test_demo_ends_with_a_page():
    from cellalign.tasks.demo import steps

    assert [step.split()[0] for step in steps(None, 200, 1, 0)][-1] == "evaluate"
    last = steps(None, 200, 1, 0, report="/a place/page.html")[-1]
    assert last.startswith("report cellalign-model ") and last.endswith("-o '/a place/page.html'")


@pytest.mark.slow
def test_the_demo_writes_its_page(tmp_path, cellalign):
    done = cellalign(cwd=tmp_path)("demo", "d", "--cells", 300, "--epochs", 1, "--report", "d/page.html")
    assert done.returncode == 0, done.stderr
    assert "Predicted response" in (tmp_path / "d" / "page.html").read_text(encoding="utf-8")
