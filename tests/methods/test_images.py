"""trVAE takes convolutional networks of images, and the ones it always had of everything else."""

from dataclasses import replace

import pytest
import torch

from cellalign.methods.base import Minibatch
from cellalign.methods.registry import get, preset_settings
from cellalign.nn.convolution import ImageDecoder, ImageEncoder
from cellalign.nn.networks import MLP
from cellalign.nn.products import products_in
from cellalign.nn.sparse import SparseRows
from tests.support import layout, minibatch, predicted, to

IMAGE = (6, 5, 1)


def made(image=IMAGE, name="trvae", **settings):
    torch.manual_seed(0)
    cls = get(name)
    hp = {"latent_dim": 3, "hidden": (8,), **({"image_channels": 4} if name == "trvae" else {})} | settings
    return cls(cls.Hyperparameters(**hp), replace(layout(30, conditions=3, control=0), image=image))


def images(method, n=12):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 30, generator=generator)
    return minibatch(x, method.layout, torch.arange(n) % 3)


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("trvae-morpho-mnist", dict(image_networks="plain", hidden=[128], latent_dim=50, negative_slope=0.2)),
        ("trvae-celeba", dict(image_networks="unet", hidden=[1024, 256], latent_dim=60, negative_slope=0)),
    ],
)
def test_presets_are_the_published_tables(name, of):
    settings = preset_settings(name, "trvae")
    both = dict(lr=0.001, batch_size=1024, epochs=5000, beta=0.001, gamma=1000, dropout=0.2, image_channels=64)
    both |= dict(likelihood="mse", averaged=True, batch_norm=True)
    assert {key: settings[key] for key in of | both} == of | both


@pytest.mark.parametrize("kind", ["plain", "unet"])
@pytest.mark.parametrize("likelihood", ["gaussian", "mse"])
def test_of_images_the_networks_are_convolutional(kind, likelihood):
    method = made(image_networks=kind, likelihood=likelihood)
    assert isinstance(method.encoder, ImageEncoder) and isinstance(method.decoder, ImageDecoder)
    batch = images(method)
    latent = method.encode(batch)
    decoded = method.decode(latent.z, batch)
    assert decoded.hidden.shape == (12, 8), "the MMD is of the first, dense layer"
    assert decoded.distribution.mean.shape == (12, 30)
    loss = method(batch)
    assert float(loss.parts["penalty"]) != 0
    loss.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
    method.eval()
    assert torch.isfinite(method.importance_weighted_nll(batch, 3)).all()


def test_others_are_as_they_were():
    for method in (made(None), made(image_networks="dense"), made(likelihood="nb"), made(name="cvae")):
        assert isinstance(method.encoder, MLP) and isinstance(method.decoder, MLP)
        assert method.keeps_residual
    assert set(made(None).state_dict()) == set(made(image_networks="dense").state_dict())


def test_a_prediction_of_an_image_is_what_is_decoded():
    method = made().eval()
    batch = images(method)
    assert not method.keeps_residual
    found = predicted(method, batch, to(2))["X"]
    own = predicted(method, batch, {})["X"]
    assert found.shape == (12, 30) and not torch.equal(found, own)


@pytest.mark.slow
def test_sparse_images_are_the_same_images():
    method = made().eval()
    batch = images(method)
    sparse = Minibatch(SparseRows.of(batch.x), batch.fields, batch.columns)
    torch.testing.assert_close(method.encode(sparse).mean, method.encode(batch).mean)


def test_bfloat16_changes_little():
    method = made(hidden=(400, 400), image_channels=8)
    batch = images(method, 64)
    exact = method.encode(batch).mean.detach()
    with products_in(method, torch.bfloat16):
        rounded = method.encode(batch).mean
        method(batch).total.backward()
    torch.testing.assert_close(rounded.detach(), exact, atol=0.1, rtol=0.1)


def test_images_have_defaults_of_their_own_unless_a_preset_or_a_setting_says_otherwise():
    from cellalign.engine.settings import resolve_settings

    cls = get("trvae")
    of_images, plan = resolve_settings(cls, images=True)
    assert (of_images.likelihood, of_images.gamma, plan.batch_size) == ("mse", 0.003, 64)
    assert resolve_settings(cls, images=True, settings={"gamma": 1})[0].gamma == 1
    assert resolve_settings(cls, preset="trvae-morpho-mnist", images=True)[1].batch_size == 1024
    assert resolve_settings(cls)[0].gamma is None and resolve_settings(get("cvae"), images=True)[0].beta == 1
