"""The convolutional networks of images: their layers against the paper's tables, their parts against plain loops."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cellalign.nn.convolution import (
    ARCHITECTURES,
    AT_ONCE,
    Convolution,
    ImageDecoder,
    ImageEncoder,
    Settings,
    enlarged,
    pooled,
)


def networks(kind, image, hidden, n_latent, n_context=2, **more):
    settings = Settings(ARCHITECTURES[kind], image, hidden, n_context, **more)
    return ImageEncoder(settings), ImageDecoder(settings, n_latent)


def kernels(network):
    """(height, width, out, in) of every convolution, as the tables write them."""
    found = [m.weight.shape for m in network.modules() if isinstance(m, nn.Conv2d)]
    return [(h, w, out, n_in) for out, n_in, h, w in found]


def dense(network):
    """(in, out) of every dense layer that torch would call Linear, in order."""
    return [(m.in_features, m.out_features) for m in network.modules() if isinstance(m, nn.Linear)]


def test_table_1():
    encoder, decoder = networks("plain", (28, 28, 1), (128,), 50, dropout=0.2, negative_slope=0.2)
    assert dense(encoder) == [(2, 128), (128, 784), (7 * 7 * 64, 128)]  # FC-1, FC-2, FC-3
    assert kernels(encoder) == [(4, 4, 64, 2), (4, 4, 64, 64)]
    assert dense(decoder) == [(128, 256)]  # FC-6
    # MMD; of [z, FC-5_resh] in the table, a vector and an image: of [z, conditions] in the authors' code
    assert tuple(decoder.first.weight.shape) == (50, 128) and tuple(decoder.first.context.shape) == (2, 128)
    # the second is (4, 4, 64, 64) in the table, and its input has 128 channels
    wanted = [(4, 4, 128, 64), (4, 4, 64, 128), (4, 4, 64, 64), (4, 4, 2, 64), (4, 4, 1, 2)]
    assert kernels(decoder) == wanted
    assert decoder.grid == (2, 2) and decoder.sizes == [(7, 7), (14, 14), (28, 28)]
    norms = [m.num_features for m in (*encoder.modules(), *decoder.modules()) if isinstance(m, nn.BatchNorm1d)]
    assert norms == [784, 128, 128]  # FC-2, FC-3, MMD
    slopes = {m.negative_slope for m in encoder.modules() if isinstance(m, nn.LeakyReLU)}
    assert slopes == {0.2}
    drops = [m.p for m in (*encoder.modules(), *decoder.modules()) if isinstance(m, nn.Dropout)]
    assert drops == [0.2]  # FC-2
    x, context = torch.rand(5, 784), torch.eye(2)[[0, 1, 0, 1, 0]]
    first, last = decoder.layers(torch.randn(5, 50), context)
    assert first.shape == (5, 128) and last.shape == (5, 784)
    assert encoder.layers(x, context)[1].shape == (5, 128)


def test_table_2():
    with torch.device("meta"):
        encoder, decoder = networks("unet", (64, 64, 3), (1024, 256), 60, dropout=0.2, negative_slope=0.0)
    blocks = [(64, 4), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (256, 256)]
    blocks += [
        (512, 256),
        (512, 512),
        (512, 512),
        (512, 512),
        (512, 512),
        (512, 512),
    ]  # (512, 256) in the table once more
    assert kernels(encoder) == [(3, 3, *pair) for pair in blocks]
    assert dense(encoder) == [(2, 128), (128, 4096), (2 * 2 * 512, 1024), (1024, 256)]
    assert dense(decoder) == [(2, 128), (256, 1024), (1024, 4096)]  # FC-5, FC-6, FC-7
    assert tuple(decoder.first.weight.shape) == (60, 256) and tuple(decoder.first.context.shape) == (128, 256)
    up = [(512, 64), *[(512, 512)] * 5, (128, 512), (128, 128), (64, 128), (64, 64)]
    assert kernels(decoder) == [*((3, 3, *pair) for pair in up), (1, 1, 3, 64)]
    assert decoder.grid == (8, 8) and decoder.sizes == [(16, 16), (32, 32), (64, 64)]
    norms = [m.num_features for m in (*encoder.modules(), *decoder.modules()) if isinstance(m, nn.BatchNorm1d)]
    assert norms == [4096, 256]  # FC-2 and MMD
    drops = [i for i, m in enumerate(encoder.dense) if isinstance(m, nn.Dropout)]
    assert drops == [len(encoder.dense) - 1]  # FC-4


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("image", [(1, 1, 1), (7, 5, 2), (9, 16, 3)])
def test_any_shape_comes_back(kind, image):
    encoder, decoder = networks(kind, image, (6, 5), 4, n_context=3, channels=2)
    pixels, context = int(np.prod(image)), torch.eye(3)
    x = torch.rand(3, pixels, requires_grad=True)
    found = decoder(torch.randn(3, 4), context)
    assert found.shape == (3, pixels) and decoder.n_out == pixels
    (encoder(x, context).sum() + found.sum()).backward()
    assert torch.isfinite(x.grad).all()
    for network in (encoder, decoder):
        assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_without_a_condition_there_is_no_plane():
    encoder, decoder = networks("plain", (8, 8, 1), (6,), 4, n_context=0, channels=2)
    assert kernels(encoder)[0] == (4, 4, 2, 1) and decoder.first.context is None
    none = torch.empty(2, 0)
    assert decoder(encoder(torch.rand(2, 64), none)[:, :4], none).shape == (2, 64)


@pytest.mark.parametrize(("size", "kernel", "stride"), [((6, 5), 4, 2), ((5, 4), 3, 1), ((3, 7), 4, 1), ((4, 4), 1, 1)])
def test_a_convolution_is_that_of_a_loop(size, kernel, stride):
    layer = Convolution(2, 3, kernel, stride).double()
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    n = [-(-side // stride) for side in size]
    before = [max(0, (k - 1) * stride + kernel - side) // 2 for k, side in zip(n, size, strict=True)]
    wanted = np.zeros((2, 3, *n))
    weight, values = layer.weight.detach().numpy(), x.numpy()
    for b, o, i, j in np.ndindex(*wanted.shape):
        total = layer.bias[o].item()
        for c, u, v in np.ndindex(2, kernel, kernel):
            row, column = i * stride + u - before[0], j * stride + v - before[1]
            if 0 <= row < size[0] and 0 <= column < size[1]:
                total += weight[o, c, u, v] * values[b, c, row, column]
        wanted[b, o, i, j] = total
    np.testing.assert_allclose(layer(x).detach().numpy(), wanted, atol=1e-12)


def test_a_transposed_convolution_of_stride_1_is_a_convolution_with_its_kernel_turned():
    layer, x = Convolution(2, 3, 4), torch.randn(1, 2, 6, 6)
    turned = layer.weight.flip(2, 3).transpose(0, 1)
    wide = F.conv_transpose2d(x, turned, layer.bias)
    torch.testing.assert_close(layer(x), wide[:, :, 2:8, 2:8])


def test_pooling_and_enlarging_are_those_of_a_loop():
    x = torch.randn(2, 3, 5, 4)
    wanted = torch.stack(
        [x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].amax((2, 3)) for i in range(3) for j in range(2)], -1
    )
    torch.testing.assert_close(pooled(x), wanted.unflatten(-1, (3, 2)))
    large = enlarged(x, (9, 8))
    assert all(torch.equal(large[:, :, i, j], x[:, :, i // 2, j // 2]) for i in range(9) for j in range(8))


def test_images_of_several_channels_keep_their_order():
    encoder, _ = networks("plain", (4, 6, 3), (5,), 4, channels=2)
    seen = []
    encoder.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.rand(2, 4, 6, 3)
    encoder(x.flatten(1), torch.eye(2))
    torch.testing.assert_close(seen[0][:, 1:], x.permute(0, 3, 1, 2))


def test_many_images_are_computed_some_at_a_time():
    encoder, decoder = (network.eval() for network in networks("plain", (4, 4, 1), (5,), 3, channels=2))
    n = AT_ONCE + 3
    x, z, context = torch.rand(n, 16), torch.randn(n, 3), torch.eye(2)[torch.arange(n) % 2]
    with torch.no_grad():
        parts = encoder(x, context), decoder(z, context)
    for found, network, given in zip(parts, (encoder, decoder), (x, z), strict=True):
        torch.testing.assert_close(found, network(given, context).detach(), rtol=1e-4, atol=1e-5)
