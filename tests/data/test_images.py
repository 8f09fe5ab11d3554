"""uns["image_shape"]: what is a shape, what is refused in one line, and that no scale is asked of pixels."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import cellalign
from cellalign.data.images import image_shape, said
from cellalign.data.recipe import to_train_on
from cellalign.errors import InputError, UsageError

FAST = {"condition": "stroke", "control": "a", "epochs": 1, "settings": {"hidden": [8], "latent_dim": 2}}


def of(shape, x=None, n=24, pixels=12):
    x = np.random.default_rng(0).random((n, pixels)).astype(np.float32) if x is None else x
    obs = pd.DataFrame({"stroke": ["a", "b"] * (n // 2)}, index=[f"i{k}" for k in range(n)])
    var = pd.DataFrame(index=[f"p{k}" for k in range(x.shape[1])])
    return AnnData(x, obs=obs, var=var, uns={} if shape is None else {"image_shape": shape})


@pytest.mark.parametrize("shape", [(4, 3), [4, 3], np.array([4, 3]), np.array([4.0, 3.0]), (4, 3, 1)])
def test_a_shape_is_a_height_a_width_and_channels(shape):
    assert image_shape(of(shape)) == (4, 3, 1)


def test_channels_and_words():
    assert image_shape(of((2, 2, 3))) == (2, 2, 3)
    assert image_shape(of(None)) is None
    assert said((2, 2, 3)) == "2 x 2 x 3" and said((4, 3, 1)) == "4 x 3"


@pytest.mark.parametrize(
    "shape", ["4x3", (12,), (4, 3, 1, 1), (4, 0), (4.5, 3), (np.nan, 3), (np.inf, 3), (-4, -3), {"height": 4}, []]
)
def test_what_is_no_shape_is_refused_in_one_line(shape):
    with pytest.raises(InputError, match=r"image_shape.*correct or delete it") as raised:
        image_shape(of(shape))
    assert "\n" not in str(raised.value)


def test_a_shape_of_another_number_of_pixels_is_refused():
    with pytest.raises(InputError, match=r"4 x 4 \(16 pixels\).*has 12 genes"):
        image_shape(of((4, 4)))


@pytest.mark.parametrize("largest", [1, 255, 1e6])
def test_pixels_are_asked_for_no_scale(largest):
    rng = np.random.default_rng(0)
    brightness = rng.integers(0, 256, (24, 12)) / 255 * largest
    for x in (brightness, sparse.csr_matrix(brightness), np.round(brightness)):
        found = to_train_on(of((4, 3), x), "log")
        assert found.x is not None and found.recipe.target_sum is None and found.matrix == "X"
        np.testing.assert_array_equal(np.asarray(found.x.todense() if sparse.issparse(x) else found.x).shape, (24, 12))


def test_what_is_no_brightness_is_refused():
    for value in (np.nan, np.inf, -1):
        adata = of((4, 3))
        adata.X[3, 2] = value
        with pytest.raises(InputError, match=r"X holds 1 .* values"):
            to_train_on(adata, "log")


def test_pixels_are_not_selected():
    with pytest.raises(UsageError, match="pixels all count"):
        to_train_on(of((4, 3)), "log", n_top_genes=5)


@pytest.mark.parametrize("method", ["trvae", "comp", "pca", "scgen"])
def test_every_method_takes_images_and_checks_their_shape(method):
    images = of((4, 3), np.random.default_rng(0).integers(0, 256, (24, 12)).astype(np.float32))
    more = {"settings": {"latent_dim": 2}} if method == "pca" else {}
    if method == "scgen":
        images.obs["kind"], more["label"] = ["u", "u", "v", "v"] * 6, "kind"
    model = cellalign.train(images, method=method, **(FAST | more))
    assert model.record.image_shape == (4, 3, 1)
    assert model.embed(images).shape == (24, 2)
    with pytest.raises(InputError, match="images of 3 x 4, and the model reads 4 x 3") as raised:
        model.embed(of((3, 4)))
    assert "\n" not in str(raised.value)
    nameless = of(None)  # whose pixels have the names
    assert model.embed(nameless).shape == (24, 2)


def test_a_model_of_images_is_read_again_and_predicts_images(tmp_path):
    images = of((4, 3))
    model = cellalign.train(images, method="trvae", model_path=tmp_path / "m", **FAST)
    again = cellalign.load(tmp_path / "m")
    predicted = again.counterfactual(images, to="b")
    assert tuple(predicted.uns["image_shape"]) == (4, 3, 1)
    assert predicted.uns["cellalign"]["counterfactual"]["written"] == "decoded"
    np.testing.assert_array_equal(predicted.X, model.counterfactual(images, to="b").X)
    assert "image_shape" not in (tmp_path / "m" / "model.yaml").read_text().replace("image_shape:\n- 4\n- 3\n- 1", "")
