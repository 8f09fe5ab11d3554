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
