"""trVAE: CVAE with MMD on the decoder's first hidden layer (Lotfollahi et al. 2020).

Encoder q(z | x, c) with learned scale, decoder p(x | z, c), standard normal prior, squared error (or Gaussian, or
negative binomial), and MMD between the conditions' units y of the first layer after z meets c (eq. 8 to 10).
Batches hold as many cells of every condition.

Of images, whose shape is in uns["image_shape"], the networks are convolutional (tables 1 and 2; `nn.convolution` says
where a table contradicts itself). The MMD is of the decoder's first layer there too, which is dense. A prediction of an
image is what is decoded: strokes that moved cannot be corrected by what a reconstruction missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from cellalign.methods.autoencoder import Step
from cellalign.methods.base import Role
from cellalign.methods.cvae import CVAE
from cellalign.nn.convolution import ARCHITECTURES, ImageDecoder, ImageEncoder, ImageNetworks, Settings
from cellalign.nn.likelihoods import OF_COUNTS
from cellalign.nn.penalties import mmd, weight_of_mmd

OF_TWO = 35.0  # weight of the penalty per gene, with two conditions


class TrVAE(CVAE):
    """CVAE whose decoder's first layer is aligned across conditions by MMD."""

    name = "trvae"
    summary = "transfer VAE: MMD on the decoder's first hidden layer"
    reference = "Lotfollahi et al. 2020"
    shares_batches = True
    plan_defaults: ClassVar[Mapping[str, Any]] = {"balanced": True}
    condition_kinds = ("categorical",)  # MMD compares groups of cells

    class Hyperparameters(CVAE.Hyperparameters):
        """Adds the penalty."""

        gamma: float | None = Field(
            None,
            ge=0,
            le=1e6,
            description="weight of the MMD penalty, per gene; null is 35 over the number of pairs of conditions",
        )
        image_networks: ImageNetworks = Field(
            "plain", description="of images: convolutional as table 1 (plain) or table 2 (unet), or dense as of genes"
        )
        image_channels: int = Field(
            32,
            ge=1,
            le=1024,
            description="feature maps of the first convolution, 64 in the paper; others in proportion",
        )
        image_condition_rate: float = Field(
            3.0, gt=0, le=1000, description="of images: how fast the decoder's weights of the condition are, times z's"
        )
        unbiased: bool = Field(True, description="MMD without each cell's kernel with itself; false is the published")

    @classmethod
    def defaults_of_images(cls) -> Mapping[str, Any]:
        """Squared errors, and a light penalty: a heavy one turns digits not seen so into those seen (benchmarks)."""
        of_networks = {"hidden": (128,), "negative_slope": 0.2, "image_condition_rate": 2.0}
        of_loss = {"likelihood": "mse", "beta": 0.03, "gamma": 0.003}
        return of_networks | of_loss | {"lr": 0.002, "batch_size": 64, "epochs": 60}

    @property
    def decoded_pixels(self) -> bool:
        """Whether the networks are convolutional: of images, but of counts."""
        is_image = self.layout.image is not None and self.hp.likelihood not in OF_COUNTS
        return is_image and self.hp.image_networks != "dense"

    @property
    def keeps_residual(self) -> bool:
        """Of genes; images are decoded."""
        return not self.decoded_pixels

    def make_encoder(self) -> Any:
        """Dense, or of images convolutional."""
        return ImageEncoder(self.of_images(self.encoder_sees)) if self.decoded_pixels else super().make_encoder()

    def make_decoder(self) -> Any:
        """Dense, or of images convolutional."""
        if not self.decoded_pixels:
            return super().make_decoder()
        return ImageDecoder(self.of_images(self.decoder_sees), self.n_latent)

    def of_images(self, seen: Sequence[Role]) -> Settings:
        """Settings of a convolutional network that is given the fields of the roles in `seen`."""
        hp, image = self.hp, self.layout.image
        assert image is not None
        return Settings(
            ARCHITECTURES[hp.image_networks],
            image,
            hp.hidden,
            self.layout.fields.width(seen),
            channels=hp.image_channels,
            condition_rate=hp.image_condition_rate,
            batch_norm=hp.batch_norm,
            dropout=hp.dropout,
            negative_slope=hp.negative_slope,
        )

    @property
    def weight(self) -> float:
        """Gamma; by default what the penalty weighs on a cell does not grow with the number of conditions."""
        return weight_of_mmd(self.hp.gamma, OF_TWO, self.layout.n_conditions)

    def penalties(self, step: Step) -> dict[str, Tensor]:
        """The weighted MMD of the decoder's first hidden layer over all pairs of conditions (eq. 8)."""
        distance = mmd(step.decoded.hidden, step.batch.condition, unbiased=self.hp.unbiased)
        return {"penalty": self.per_gene(self.weight) * distance}
