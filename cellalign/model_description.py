"""What a trained model is: its method, what it reads and was given, and how it was trained, in words and by name."""

from __future__ import annotations

from typing import Any

from cellalign.errors import counted
from cellalign.methods.base import BATCH, CONDITION, COVARIATE, LABEL, HasLikelihood, Method, Predicts
from cellalign.records import ModelRecord, obsm_key

DRAW = "_draw"  # what the obsm key of a draw of the latents ends in


class ModelDescription:
    """The facts of a model that others ask for.

    Attributes
    ----------
    method : Method
    record : ModelRecord
    fields : Fields
        The columns it was given.
    """

    def __init__(self, method: Method, record: ModelRecord) -> None:
        self.method, self.record = method, record
        self.fields: Any = method.layout.fields

    @property
    def name(self) -> str:
        """The method's name."""
        return self.method.name

    @property
    def embedding_key(self) -> str:
        """Where `embed` puts the latents: obsm["X_<method>"]."""
        return obsm_key(self.name)

    @property
    def draw_key(self) -> str:
        """Where `embed` puts draws of the latents: obsm["X_<method>_draw"]."""
        return obsm_key(self.name, DRAW)

    @property
    def condition(self) -> str | None:
        """The obs column whose effect is modelled."""
        field = self.fields.one(CONDITION)
        return None if field is None else field.name

    @property
    def conditions(self) -> list[str]:
        """The conditions trained on, in the order of their codes; none where it is a number."""
        field = self.fields.one(CONDITION)
        return [] if field is None else list(field.categories)

    @property
    def control(self) -> str | None:
        """The reference condition."""
        field = self.fields.one(CONDITION)
        return None if field is None else field.reference

    @property
    def label(self) -> str | None:
        """The obs column of cell types."""
        field = self.fields.one(LABEL)
        return None if field is None else field.name

    @property
    def labels(self) -> list[str]:
        """The labels trained on, in the order of their codes."""
        field = self.fields.one(LABEL)
        return [] if field is None else list(field.categories)

    @property
    def missing_label(self) -> str | None:
        """The label's value that means there is none."""
        return getattr(self.fields.one(LABEL), "missing_value", None)

    @property
    def continuous(self) -> bool:
        """Whether the condition is a number."""
        return self.method.layout.continuous

    @property
    def condition_may_be_missing(self) -> bool:
        """Whether the condition of some cells may be missing."""
        field = self.fields.one(CONDITION)
        return field is not None and field.may_be_missing

    @property
    def genes(self) -> list[str]:
        """Names of the genes the model reads, in its order."""
        return self.record.genes

    @property
    def matrix(self) -> str:
        """The matrix the model reads: "X" or a layer's name."""
        return self.record.matrix

    @property
    def obsm(self) -> list[str]:
        """obsm keys that the model reads besides: of fields that are vectors."""
        return [field.name for field in self.fields if field.in_obsm]

    @property
    def expression(self) -> str:
        """What the model reads and predicts: "log" (normalised, log1p), "counts", or "any" real values."""
        return self.record.recipe.expression or self.method.reads(self.method.hp)

    @property
    def has_likelihood(self) -> bool:
        """Whether cells have a likelihood under the model that can be compared between models."""
        return isinstance(self.method, HasLikelihood) and self.method.comparable

    @property
    def transferred(self) -> list[str]:
        """Interventions the model was transferred to, after its training."""
        return self.record.transferred

    @property
    def source(self) -> str | None:
        """Path of the training file, or None where it came from memory or standard input."""
        return self.record.source.path

    def __repr__(self) -> str:
        layout, record = self.method.layout, self.record
        n_latent = getattr(self.method.hp, "latent_dim", None)
        sizes = f"{layout.n_genes:,} genes" + (f", {n_latent} latents" if n_latent else "")
        given = [_said_of(field) for field in self.fields]
        trained = f"trained on {record.cells.trained:,} cells"
        if record.outcome is not None and record.outcome.epochs:
            trained += f", {counted(record.outcome.epochs, 'epoch')}"
        return f"<cellalign.Model {self.name}: {'; '.join([sizes, *given, f'{trained}, seed {record.seed}'])}>"


def sees_condition(method: Method) -> bool:
    """Whether the condition changes what a method predicts."""
    return isinstance(method, Predicts) and CONDITION in method.responds_to


def _said_of(field: Any) -> str:
    """A field in a few words."""
    role = "" if field.role == CONDITION else f"{field.role} "
    if not field.categories:
        return f"{role}{field.name}: a {field.kind}"
    if field.role in (BATCH, COVARIATE, LABEL) or len(field.categories) > 6:
        return f"{role}{field.name}: {len(field.categories)} values"
    named = [f"{name} (reference)" if name == field.reference else name for name in field.categories]
    return f"{role}{field.name}: {', '.join(named)}"
