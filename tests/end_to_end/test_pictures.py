"""`evaluate --scatter --violin` writes both pictures, or says in one line why not and writes nothing."""

import matplotlib.image
import pytest


@pytest.fixture(scope="module")
def prediction(kang_like, model, cellalign, tmp_path_factory):
    """A folder with a counterfactual, and a function that evaluates it there against the real cells."""
    folder = tmp_path_factory.mktemp("pictures")
    run = cellalign(cwd=folder)
    done = run("counterfactual", kang_like, "-m", model, "--to", "stimulated", "-o", "stim.h5ad")
    assert done.returncode == 0, done.stderr
    options = ("--condition", "stim", "--label", "cell_type")
    return folder, lambda *more, cells="stim.h5ad": run("evaluate", cells, *options, *more)


@pytest.mark.slow
def test_both_pictures_are_written(prediction, kang_like):
    folder, evaluate = prediction
    done = evaluate("--against", kang_like, "--scatter", "scatter.png", "--violin", "violin.PNG")
    assert done.returncode == 0, done.stderr
    assert "prediction" in done.stdout and "CD4 T" in done.stdout
    for name in ("scatter.png", "violin.PNG"):
        with open(folder / name, "rb") as file:
            pixels = matplotlib.image.imread(file, format="png")
        height, width, _ = pixels.shape
        assert 600 < height < 4000 and 600 < width < 4000
        assert (pixels[..., :3] != 1).any(-1).mean() > 0.01, "not blank"
    assert not list(folder.glob(".*")), "nothing temporary is left"


@pytest.mark.slow
def test_the_ending_gives_the_format_and_force_replaces(prediction, kang_like):
    folder, evaluate = prediction
    (folder / "there.svg").write_text("mine")
    pictures = ("--scatter", "there.svg", "--violin", "v.pdf")
    done = evaluate("--against", kang_like, *pictures, "--panel", "response", "--force")
    assert done.returncode == 0, done.stderr
    assert (folder / "there.svg").read_bytes().startswith(b"<?xml")
    assert (folder / "v.pdf").read_bytes().startswith(b"%PDF")


def test_pictures_that_cannot_be_drawn(prediction, kang_like):
    folder, evaluate = prediction
    (folder / "there.png").write_text("mine")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}

    def mistake(*arguments, says, **options):
        done = evaluate(*arguments, **options)
        assert done.returncode == 2 and done.stdout == ""
        assert says in done.stderr and len(done.stderr.strip().splitlines()) == 1
        assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before

    against = ("--against", kang_like)
    unread = {"cells": "nothing.h5ad"}  # a file that is not there: these are found out before any is read
    mistake(*against, "--scatter", "a.jpg", says="--scatter a.jpg ends in none of .png, .pdf, .svg", **unread)
    mistake(*against, "--violin", "a", says="--violin a ends in none of .png, .pdf, .svg", **unread)
    mistake(*against, "--scatter", "there.png", says="there.png exists; pass --force")
    mistake(*against, "--violin", "there.png", says="there.png exists; pass --force")
    mistake("--violin", "a.png", says="--violin needs --against", **unread)
    mistake(*against, "--scatter", "a.png", "--panel", "mixing", says="--panel leaves out", **unread)
    mistake(*against, "--scatter", "a.png", "--violin", "./a.png", says="the same file", **unread)
    mistake(*against, "--violin", "a.png", says="is the input itself", cells=kang_like)
    (folder / "there.png").unlink()
