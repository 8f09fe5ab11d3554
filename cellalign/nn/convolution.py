"""Convolutional encoder and decoder of images that are given a condition (trVAE tables 1 and 2).

The encoder is given the condition as one more channel, which two dense layers make of it. The decoder's first layer is
dense and joins z with the condition: its units are what the MMD aligns. Then feature maps grow from a small grid to the
image's size, a nearest-neighbour enlargement at a time. Each table is an `Architecture`; where one contradicts itself:

table 1 (`plain`)
    It names no stride: 2, as the authors' code. Three enlargements cannot lead from 2 x 2 to 28 x 28 by doubling: the
    first one leads to a quarter of the image. Conv_transp_2 reads 128 channels, not 64. There is no FC-7. An image
    (FC-5_resh) cannot be appended to z, nor would its 784 features do: an optimiser that moves each weight by as much
    moves the condition's part hundreds of times as far as that of z, and strokes are not learned across digits. As in
    the authors' code z is joined by the condition itself.
table 2 (`unet`)
    1,024 features are no 64 x 64 image: there are as many as pixels. Five poolings, two of them called Pool_4.
    Conv_11 reads 512 channels, not 256; Conv_transp_7 reads 512, not 256. 4,096 units are no square of 512 channels:
    they are 8 x 8 of 64, from which the three enlargements of the table lead to 64 x 64. No layer skips z, although the
    text calls it like a U-Net: what skipped it would carry the condition past it.

A transposed convolution of stride 1 is a convolution with its kernel turned, and is one here. Enlargements and poolings
are reshapes, so that all is deterministic on GPUs too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cellalign.nn.networks import ContextLinear, Dropout
from cellalign.nn.normalisation import BatchNorm1d
from cellalign.nn.products import Linear
from cellalign.nn.sparse import SparseRows

ImageShape = tuple[int, int, int]  # height, width, channels; pixels lie flat in this order
ImageNetworks = Literal["plain", "unet", "dense"]
CONDITION_UNITS = 128  # FC-1
MAPS = 64  # of the first convolution
AT_ONCE = 512  # images outside training: feature maps of more would take gigabytes


@dataclass(frozen=True)
class Architecture:
    """What a table says, beyond dense layers, dropout and slopes, which are hyperparameters.

    Attributes
    ----------
    down : tuple of tuples of int
        Feature maps of the encoder's convolutions, in blocks.
    stride : int
        Of these convolutions.
    pool : bool
        Whether each block ends in a pooling of 2 x 2.
    up : tuple of tuples of int
        Feature maps of the decoder's convolutions, in blocks; an enlargement stands after each of the first ones.
    enlargements : int
    grid : int, optional
        Height and width at which they begin; None is what doubling leads from.
    grid_channels : int
    kernel, last_kernel : int
        Of all convolutions, and of the one that gives the pixels.
    features_join : bool
        Whether z is joined by features of the condition (FC-5 of table 2), or by the condition itself.
    plane_dropout : bool
        Whether dropout is on the condition's features, or on the last dense layer of the encoder.
    dense_norm : bool
        Whether the encoder's dense layers have batch norm; the decoder's first one always has.
    """

    down: tuple[tuple[int, ...], ...]
    stride: int
    pool: bool
    up: tuple[tuple[int, ...], ...]
    enlargements: int
    grid: int | None
    grid_channels: int
    kernel: int
    last_kernel: int
    features_join: bool
    plane_dropout: bool
    dense_norm: bool


ARCHITECTURES = {
    "plain": Architecture(
        down=((64,), (64,)),
        stride=2,
        pool=False,
        up=((128,), (64, 64), (2,)),
        enlargements=3,
        grid=2,
        grid_channels=64,
        kernel=4,
        last_kernel=4,
        features_join=False,
        plane_dropout=True,
        dense_norm=True,
    ),
    "unet": Architecture(
        down=((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
        stride=1,
        pool=True,
        up=((512, 512, 512), (512, 512, 512), (128, 128), (64, 64)),
        enlargements=3,
        grid=None,
        grid_channels=64,
        kernel=3,
        last_kernel=1,
        features_join=True,
        plane_dropout=False,
        dense_norm=False,
    ),
}


@dataclass(frozen=True)
class Settings:
    """The hyperparameters of such networks.

    Attributes
    ----------
    image : (height, width, channels)
    hidden : sequence of int
        Dense layers of the encoder, after the convolutions; the decoder mirrors them.
    n_context : int
        Width of the condition's context.
    channels : int
        Feature maps of the first convolution, 64 in both tables; others in proportion.
    condition_rate : float
        How many times as far as z's the condition's weights beside z move in a step.
    batch_norm, dropout, negative_slope
        Where the table has them; of leaky ReLUs.
    """

    architecture: Architecture
    image: ImageShape
    hidden: Sequence[int]
    n_context: int
    channels: int = 64
    condition_rate: float = 3.0
    batch_norm: bool = True
    dropout: float = 0.0
    negative_slope: float = 0.01

    def maps(self, widths: Sequence[int]) -> tuple[int, ...]:
        """Feature maps of a block of the architecture."""
        return tuple(max(1, round(width * self.channels / MAPS)) for width in widths)

    def activation(self) -> nn.Module:
        """After every layer but the last."""
        return nn.LeakyReLU(self.negative_slope, inplace=True)

    def norm(self, layer: Linear | ContextLinear, width: int, wanted: bool = True) -> list[nn.Module]:
        """Batch norm behind a layer, where it is wanted."""
        return [BatchNorm1d(width).after(layer)] if wanted and self.batch_norm else []

    def dropped(self, wanted: bool = True) -> list[nn.Module]:
        """Dropout where it is wanted."""
        return [Dropout(self.dropout)] if wanted and self.dropout else []

    def convolutions(self, n_in: int, widths: Sequence[int], stride: int = 1) -> nn.Sequential:
        """A block of convolutions."""
        layers: list[nn.Module] = []
        for width in widths:
            layers += [Convolution(n_in, width, self.architecture.kernel, stride), self.activation()]
            n_in = width
        return nn.Sequential(*layers)


class Convolution(nn.Conv2d):
    """A convolution that gives ceil(size / stride) pixels a side, with zeros around the image."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__(n_in, n_out, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, n_out, ceil(H / stride), ceil(W / stride)]."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads: list[int] = []
        for size in (x.shape[3], x.shape[2]):
            missing = max(0, (math.ceil(size / stride) - 1) * stride + kernel - size)
            pads += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(x, pads) if any(pads) else x)


class Plane(nn.Module):
    """The condition as features of an image: FC-1 and FC-2."""

    def __init__(self, settings: Settings, n_out: int) -> None:
        super().__init__()
        dropped = settings.architecture.plane_dropout
        self.first = features(settings)
        linear = Linear(CONDITION_UNITS, n_out)
        layers = [linear, *settings.norm(linear, n_out), settings.activation()]
        self.second = nn.Sequential(*layers, *settings.dropped(dropped))

    def forward(self, context: Tensor) -> Tensor:
        """context [B, n_context] -> [B, n_out]."""
        return self.second(self.first(context))


class ImageEncoder(nn.Module):
    """Convolutions of an image and its condition, then dense layers; `n_out` units."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        kind, (height, width, channels) = settings.architecture, settings.image
        self.image, self.pool = settings.image, kind.pool
        self.plane = Plane(settings, height * width) if settings.n_context else None
        blocks, n_in = [], channels + (self.plane is not None)
        for widths in map(settings.maps, kind.down):
            blocks.append(settings.convolutions(n_in, widths, kind.stride))
            n_in = widths[-1]
            shrinks = kind.stride ** len(widths) * (2 if kind.pool else 1)
            height, width = math.ceil(height / shrinks), math.ceil(width / shrinks)
        self.blocks = nn.ModuleList(blocks)
        dense, n_in = [], n_in * height * width
        for i, n in enumerate(settings.hidden):
            last = i == len(settings.hidden) - 1
            linear = Linear(n_in, n)
            layers = [linear, *settings.norm(linear, n, kind.dense_norm), settings.activation()]
            dense += [*layers, *settings.dropped(last and not kind.plane_dropout)]
            n_in = n
        self.dense = nn.Sequential(*dense)
        self.n_out = n_in
        _initialise(self, settings.negative_slope)

    def layers(self, x: Tensor | SparseRows, context: Tensor) -> tuple[Tensor, Tensor]:
        """The flat feature maps [B, F] and the last dense units [B, n_out], of pixels x [B, H W C]."""
        x = x.dense() if isinstance(x, SparseRows) else x
        plane = self.plane(context) if self.plane is not None else context
        maps = _in_parts(self.maps, x, plane)
        return maps, self.dense(maps)

    def maps(self, x: Tensor, plane: Tensor) -> Tensor:
        """Feature maps, flat."""
        height, width, channels = self.image
        h = x.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2)
        if self.plane is not None:
            h = torch.cat([plane.view(-1, 1, height, width), h], 1)
        for block in self.blocks:
            h = block(h)
            h = pooled(h) if self.pool else h
        return h.flatten(1)

    def forward(self, x: Tensor | SparseRows, context: Tensor) -> Tensor:
        """Units of the last layer."""
        return self.layers(x, context)[1]


class ImageDecoder(nn.Module):
    """A dense layer of z and the condition, more of them, and convolutions that grow to the image; `n_out` pixels."""

    def __init__(self, settings: Settings, n_in: int) -> None:
        super().__init__()
        kind, (height, width, channels) = settings.architecture, settings.image
        self.features: nn.Module | None = None
        self.rate = settings.condition_rate
        joins = settings.n_context
        if joins and kind.features_join:
            joins, self.features = CONDITION_UNITS, features(settings)
        widths = settings.hidden[::-1]
        self.first = ContextLinear(n_in, widths[0], joins)
        self.after_first = nn.Sequential(*settings.norm(self.first, widths[0]), settings.activation())
        doubled = 2**kind.enlargements
        self.grid = (kind.grid or math.ceil(height / doubled), kind.grid or math.ceil(width / doubled))
        (grid_maps,) = settings.maps([kind.grid_channels])
        units = [*widths, grid_maps * self.grid[0] * self.grid[1]]
        dense: list[nn.Module] = []
        for before, n in zip(units, units[1:], strict=False):
            dense += [Linear(before, n), settings.activation()]
        self.dense = nn.Sequential(*dense)
        self.sizes = [(math.ceil(height / 2**i), math.ceil(width / 2**i)) for i in reversed(range(kind.enlargements))]
        up = [settings.maps(block) for block in kind.up]
        ins = [grid_maps, *(block[-1] for block in up)]
        self.blocks = nn.ModuleList(settings.convolutions(n, block) for n, block in zip(ins, up, strict=False))
        self.out = Convolution(ins[-1], channels, kind.last_kernel)
        self.n_out = height * width * channels
        _initialise(self, settings.negative_slope)

    def layers(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Units of the first dense layer [B, H], and pixels [B, n_out] before what the likelihood makes of them."""
        context = self.rate * context if self.features is None else self.features(context)
        first = self.after_first(self.first(z, context))
        return first, _in_parts(self.pixels, self.dense(first))

    def pixels(self, units: Tensor) -> Tensor:
        """Flat pixels of the units of the grid."""
        h = units.unflatten(1, (-1, *self.grid))
        for i, block in enumerate(self.blocks):
            h = block(h)
            h = enlarged(h, self.sizes[i]) if i < len(self.sizes) else h
        return self.out(h).permute(0, 2, 3, 1).flatten(1)

    def forward(self, z: Tensor, context: Tensor) -> Tensor:
        """The pixels."""
        return self.layers(z, context)[1]


def features(settings: Settings) -> nn.Sequential:
    """128 features of the condition: FC-1 of both tables, FC-5 of table 2."""
    return nn.Sequential(Linear(settings.n_context, CONDITION_UNITS), settings.activation())


def _initialise(network: nn.Module, slope: float) -> None:
    """Weights that keep the spread of units under leaky ReLUs (He et al. 2015), which ten layers of torch's lose."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, slope)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


def pooled(x: Tensor) -> Tensor:
    """The largest of every 2 x 2 pixels, [B, C, H, W] -> [B, C, ceil(H / 2), ceil(W / 2)]."""
    height, width = x.shape[2:]
    x = F.pad(x, (0, width % 2, 0, height % 2), value=-math.inf)
    return x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))


def enlarged(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Every pixel repeated, [B, C, h, w] -> [B, C, *size]; what is beyond the size is cut off."""
    (height, width), (h, w) = size, x.shape[2:]
    a, b = math.ceil(height / h), math.ceil(width / w)
    x = x[:, :, :, None, :, None].expand(-1, -1, -1, a, -1, b).flatten(4, 5).flatten(2, 3)
    return x[:, :, :height, :width]


def _in_parts(layers: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """What layers make of images, where nothing is learned some at a time."""
    if torch.is_grad_enabled() or len(inputs[0]) <= AT_ONCE:
        return layers(*inputs)
    return torch.cat([layers(*parts) for parts in zip(*(each.split(AT_ONCE) for each in inputs), strict=True)])
