"""Images from the simulator to the picture by commands; other shapes are refused; a run is the same every time."""

import anndata
import matplotlib.image
import numpy as np
import pytest

import cellalign as package
from cellalign.evaluation.panels.images import ImagesOfCondition
from tests.support import StopAfter

HELD = ("--holdout", "seen=no,stroke=thin", "--holdout", "seen=no,stroke=thick")
SMALL = {"hidden": [16], "latent_dim": 4, "image_channels": 4}
TRAINED = {"method": "trvae", "condition": "stroke", "control": "normal", "settings": SMALL, "epochs": 2}


@pytest.fixture(scope="module")
def run(cellalign, tmp_path_factory):
    """A folder with digits and a model of them, and the command in it."""
    folder = tmp_path_factory.mktemp("digits")
    command = cellalign(cwd=folder)
    made = command("simulate", "digits", "--images", 40, "-o", "digits.h5ad")
    assert made.returncode == 0 and "120 images of 32 x 32" in made.stderr, made.stderr
    settings = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    options = ("--method", "trvae", "--condition", "stroke", "--control", "normal", *HELD, *settings, "--epochs", 2)
    done = command("train", "digits.h5ad", *options, "-m", "m")
    assert done.returncode == 0, done.stderr
    return folder, command


@pytest.mark.slow
def test_a_counterfactual_is_scored_and_drawn(run):
    folder, command = run
    done = command("counterfactual", "-m", "m", "--to", "thick", "-o", "thick.h5ad")
    assert done.returncode == 0 and "40 cells as if thick (decoded)" in done.stderr, done.stderr
    predicted = anndata.read_h5ad(folder / "thick.h5ad")
    assert tuple(predicted.uns["image_shape"]) == (32, 32, 1)
    assert predicted.obs.loc[predicted.obs["held_out"], "digit"].isin(list("024589")).all()
    options = ("--against", "digits.h5ad", "--condition", "stroke", "--label", "digit")
    done = command("evaluate", "thick.h5ad", *options, "--images", "thick.png", "--panel", "images")
    assert done.returncode == 0, done.stderr
    assert "prediction / held out" in done.stdout and "width_error" in done.stdout
    pixels = matplotlib.image.imread(folder / "thick.png")
    assert (pixels[..., :3] != 1).any(-1).mean() > 0.01, "not blank"


@pytest.mark.slow
def test_embedding_and_an_evaluation_of_it_work_on_images(run):
    folder, command = run
    assert command("embed", "digits.h5ad", "-m", "m", "-o", "emb.h5ad").returncode == 0
    done = command("evaluate", "emb.h5ad", "--condition", "stroke", "--label", "digit", "--panel", "probe")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_unseen_thick_digits_are_read_and_as_wide_as_real_ones():
    """trVAE's figure 3 in numbers, with its defaults of images: four minutes of one core."""
    digits = package.simulate.digits()
    holdout = ["seen=no,stroke=thin", "seen=no,stroke=thick"]
    model = package.train(digits, method="trvae", condition="stroke", control="normal", holdout=holdout, device="cpu")
    predicted = model.counterfactual(digits, to="thick", device="cpu")
    images = ImagesOfCondition()
    result = package.evaluate(predicted, against=digits, condition="stroke", label="digit", panels=[images])
    unseen = {(row.system, row.metric): row.value for row in result.rows if row.group == "held out"}
    assert unseen["prediction", "read_of_real"] >= 0.9 and unseen["prediction", "width_error"] <= 0.1
    assert unseen["no change", "width_error"] > 0.3  # what it takes


@pytest.mark.parametrize("verb", [("embed",), ("counterfactual", "--to", "thin")])
def test_images_of_another_shape_are_refused_in_one_line(run, verb):
    folder, command = run
    images = anndata.read_h5ad(folder / "digits.h5ad")
    images.uns["image_shape"] = np.array([16, 64])
    images.write_h5ad(folder / "wide.h5ad")
    done = command(verb[0], "wide.h5ad", "-m", "m", *verb[1:], "-o", "refused.h5ad")
    assert done.returncode == 3 and len(done.stderr.strip().splitlines()) == 1
    assert "images of 16 x 64, and the model reads 32 x 32" in done.stderr
    assert not (folder / "refused.h5ad").exists()


def test_a_wrong_shape_is_refused_before_training(run):
    folder, command = run
    images = anndata.read_h5ad(folder / "digits.h5ad")
    images.uns["image_shape"] = np.array([30, 30])
    images.write_h5ad(folder / "wrong.h5ad")
    done = command("train", "wrong.h5ad", "--method", "trvae", "--condition", "stroke", "-m", "none")
    assert done.returncode == 3 and "30 x 30 (900 pixels)" in done.stderr and "Traceback" not in done.stderr


def test_a_picture_of_images_needs_the_real_ones(run):
    _, command = run
    done = command("evaluate", "thick.h5ad", "--condition", "stroke", "--images", "none.png")
    assert done.returncode == 2 and "--against" in done.stderr


def test_a_resumed_run_ends_in_the_same_weights_and_so_does_another(tmp_path):
    images = package.simulate.digits(20)
    whole = package.train(images, **TRAINED, deterministic=True)
    again = package.train(images, **TRAINED, deterministic=True)
    with pytest.raises(KeyboardInterrupt):
        package.train(images, **TRAINED, deterministic=True, model_path=tmp_path / "m", progress=StopAfter(1))
    resumed = package.train(images, **TRAINED, deterministic=True, model_path=tmp_path / "m", resume=True)
    for name, values in whole.method.state_dict().items():
        assert values.equal(again.method.state_dict()[name]), name
        assert values.equal(resumed.method.state_dict()[name]), name
