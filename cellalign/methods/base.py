"""What every method is: a torch module that gives cells an embedding, and states what else it can do.

A method's own file states what its encoder and decoder see, its posterior, prior, likelihood and penalty. Engine,
tasks and evaluation use this class and the capabilities (`methods.capabilities`) it declares, nothing else, so a new
method is one file (in this folder, or in another package under the entry-point group `cellalign.methods`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from cellalign.methods.capabilities import (
    CombinesConditions,
    ContextWeight,
    Extends,
    FitsInClosedForm,
    Graph,
    HasLikelihood,
    HasPlayers,
    InfersCondition,
    Labels,
    LearnsGraph,
    LearnsOn,
    Loss,
    Player,
    Predicts,
    Reconstructs,
    Trains,
)
from cellalign.nn.distributions import Distribution, Normal, Point
from cellalign.nn.minibatch import BATCH, CONDITION, COVARIATE, LABEL, Fields, Layout, Minibatch, Role

if TYPE_CHECKING:
    from cellalign.methods.condition_means import ConditionMeans

__all__ = [
    "BATCH",
    "CONDITION",
    "COVARIATE",
    "LABEL",
    "CombinesConditions",
    "ContextWeight",
    "Distribution",
    "Extends",
    "Fields",
    "FitsInClosedForm",
    "Graph",
    "HasLikelihood",
    "HasPlayers",
    "Hyperparameters",
    "InfersCondition",
    "Labels",
    "Latent",
    "Layout",
    "LearnsGraph",
    "LearnsOn",
    "Loss",
    "Method",
    "Minibatch",
    "Normal",
    "Player",
    "Point",
    "Predicts",
    "Reconstructs",
    "Role",
    "Trains",
]

Expression = Literal["log", "counts"]


@dataclass(frozen=True)
class Latent:
    """Posterior of a batch.

    Attributes
    ----------
    mean : Tensor [B, p]
    sd : Tensor [] or [B, p]
        Standard deviation.
    z : Tensor [B, p]
        A draw.
    hidden : Tensor [B, H], optional
        Units of the encoder's first hidden layer, for penalties.
    """

    mean: Tensor
    sd: Tensor
    z: Tensor
    hidden: Tensor | None = None

    @classmethod
    def point(cls, z: Tensor) -> Latent:
        """Of a method that draws nothing: mean and draw are z."""
        return cls(z, z.new_zeros(()), z)


Width = Annotated[int, Field(ge=1, le=100_000)]  # of a hidden layer


class Hyperparameters(BaseModel):
    """What every autoencoder takes; a method's own class adds to it. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    latent_dim: int = Field(40, ge=1, le=10_000, description="number of latent dimensions")
    hidden: tuple[Width, ...] = Field(
        (512, 512, 512), min_length=1, max_length=100, description="encoder widths; the decoder mirrors them"
    )
    batch_norm: bool | Literal["first"] = Field(
        True, description="batch normalisation after every hidden layer; first: after the encoder's first alone"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="share of hidden units dropped in training")
    negative_slope: float = Field(0.01, ge=0, le=1, description="slope of the leaky ReLU below zero")
    beta: float = Field(1.0, ge=0, description="weight of the KL term")


class Method(nn.Module, ABC):
    """Base class of all methods.

    A subclass states `name`, `summary`, `reference` and its `Hyperparameters`, implements `encode`, and inherits and
    implements `Trains` or `FitsInClosedForm` and whatever else it is able to (`methods.capabilities`).

    Attributes
    ----------
    expression : {"log", "counts"}
        What it reads: normalised log1p expression, or raw counts.
    condition_kinds : tuple of str
        Kinds of field that its condition may be.
    also_uses : tuple of roles
        Of the columns whose change changes what is learned, those that no network is given: a prior, a penalty or a fit
        in closed form is.
    column_kinds : tuple of str, optional
        Kinds of field that batches and covariates have to be for it to make use of them; None: any.
    removes : tuple of roles
        Of columns of whose effect the embedding should be free.
    disentangles : bool
        Each latent should mean one thing: `tune` ranks by UDR.
    shares_batches : bool
        Whether several processes may compute a batch together: whatever its loss says of a batch, it says by functions
        of `nn.share`, or of `nn` that do. Each class says so of itself, since what it adds may not.
    plan_defaults : mapping
        The method's own defaults of the training plan (learning rate, epochs, ...).
    renamed_settings : mapping of old to new name
        Settings that models and command lines of earlier versions spell otherwise.
    settings_before : mapping of setting to value
        What models do that were trained before there was the setting, where that is not its default.
    version : int
        Raised where the same cells and settings now give other predictions, so that scores of before are not taken for
        its own.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    reference: ClassVar[str] = ""
    expression: ClassVar[Expression] = "log"
    needs_condition: ClassVar[bool] = True
    needs_label: ClassVar[bool] = False
    condition_kinds: ClassVar[tuple[str, ...]] = ("categorical",)
    also_uses: ClassVar[tuple[Role, ...]] = (CONDITION, BATCH, COVARIATE, LABEL)
    column_kinds: ClassVar[tuple[str, ...] | None] = None
    removes: ClassVar[tuple[Role, ...]] = ()
    disentangles: ClassVar[bool] = False
    shares_batches: ClassVar[bool] = False
    plan_defaults: ClassVar[Mapping[str, Any]] = {}
    renamed_settings: ClassVar[Mapping[str, str]] = {}
    settings_before: ClassVar[Mapping[str, Any]] = {}
    version: ClassVar[int] = 1
    Hyperparameters: ClassVar[type[BaseModel]] = Hyperparameters

    def __init__(self, hyperparameters: Any, layout: Layout) -> None:
        super().__init__()
        self.hp = hyperparameters
        self.layout = layout
        self.observed: ConditionMeans | None = None  # of a trained model that keeps them (`methods.observed`)

    @classmethod
    def reads(cls, hyperparameters: Any) -> Expression:
        """The expression it reads under these hyperparameters."""
        return cls.expression

    @classmethod
    def defaults_of_any(cls, n_features: int | None, n_cells: int | None = None) -> Mapping[str, Any]:
        """Its own defaults for so many features, of so many cells, that are no expression but any real values: none."""
        return {}

    @classmethod
    def version_of(cls, hyperparameters: Any) -> int:
        """Its version, with those of the methods that it is made of."""
        return cls.version

    @classmethod
    def defaults_of_number(cls, n_features: int | None) -> Mapping[str, Any]:
        """Its own defaults for so many features where the condition is a number: none."""
        return {}

    @classmethod
    def defaults_of_images(cls) -> Mapping[str, Any]:
        """Its own defaults for images: none."""
        return {}

    @classmethod
    def uses(cls) -> frozenset[Role]:
        """Roles of the columns whose change changes what is learned; a column of another role is refused or said."""
        return frozenset(cls.also_uses)

    @classmethod
    def uses_kind(cls, kind: str, hyperparameters: Any) -> bool:
        """Whether it makes use of batches and covariates of this kind, if of any."""
        return cls.column_kinds is None or kind in cls.column_kinds

    @abstractmethod
    def encode(self, batch: Minibatch) -> Latent:
        """Posterior of the batch's cells and one reparameterised draw."""

    @property
    def embedding_needs_condition(self) -> bool:
        """Whether cells without a known condition cannot be embedded."""
        return self.needs_condition

    @property
    def embeds_without_covariates(self) -> bool:
        """Whether the encoder learned to embed cells of which neither batches nor covariates are known."""
        return False

    def embeddings(self, batch: Minibatch) -> dict[str, Tensor]:
        """All that `embed` writes, [B, p] each, by what the obsm key X_<method> is followed by; "" is the embedding."""
        return self.parts(self.encode(batch).mean)

    def parts(self, z: Tensor) -> dict[str, Tensor]:
        """Latents [B, p] as `embeddings` names them: posterior means, or draws."""
        return {"": z}

    def embedding(self, batch: Minibatch) -> Tensor:
        """What `embed` writes as X_<method>, [B, p]."""
        return self.embeddings(batch)[""]

    def findings(self) -> list[str]:
        """What was chosen in fitting, and by which evidence: a sentence each, which is told and kept; or none."""
        return []

    def on_epoch_start(self, progress: float, epoch_share: float) -> None:
        """Called by the engine before every epoch, for what changes over a run.

        It may depend on these two numbers alone, so that a resumed run does the same.

        Parameters
        ----------
        progress : float
            Part of the planned epochs that is over, in [0, 1).
        epoch_share : float
            Part that one epoch is.
        """


def old_names(renamed: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, str]:
    """Those of the settings given under a name of an earlier version, with their present one."""
    return {old: new for old, new in renamed.items() if old in settings}
