"""A trained model: embeds cells, predicts them under another condition, gives likelihoods, saves and loads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cellalign.data.files import checksum
from cellalign.data.loader import Cells, make_cells
from cellalign.data.source import align_genes, check_expression, checked_names, matrix_of
from cellalign.data.split import held_out, stratified_split
from cellalign.engine import predict
from cellalign.engine.device import computing
from cellalign.errors import InputError, ModelError, UsageError, option, spoken
from cellalign.methods.base import (
    BATCH,
    CONDITION,
    COVARIATE,
    LABEL,
    HasLikelihood,
    InfersCondition,
    Labels,
    Method,
    Predicts,
)
from cellalign.methods.capabilities import Capability
from cellalign.methods.registry import lacks
from cellalign.model_directory import build, read_history, read_record, read_weights, write_model
from cellalign.prediction import Prediction
from cellalign.prediction import predict as predict_expression
from cellalign.records import Embedding, ModelRecord, obsm_key


class Model:
    """A method with its weights and everything needed to apply it to new cells.

    Attributes
    ----------
    method : Method
        The torch module.
    record : ModelRecord
        What model.yaml holds.
    fields : Fields
        The columns it was told.
    history : list of dict
        One row per epoch.
    """

    def __init__(self, method: Method, record: ModelRecord, history: list[dict[str, float]]) -> None:
        self.method, self.record, self.history = method, record, history
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
        return [field.name for field in self.fields if field.kind == "vector"]

    @property
    def expression(self) -> str:
        """The expression the model reads and predicts: "log" (normalised, log1p) or "counts"."""
        return self.method.reads(self.method.hp)

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
        told = [_said_of(field) for field in self.fields]
        trained = f"trained on {record.cells.trained:,} cells"
        if record.outcome is not None and record.outcome.epochs:
            trained += f", {record.outcome.epochs} epochs"
        return f"<cellalign.Model {self.name}: {'; '.join([sizes, *told, f'{trained}, seed {record.seed}'])}>"

    def needs(self, capability: type[Capability]) -> Any:
        """The method, if it has a capability.

        Raises
        ------
        ModelError
            It has not; the methods that have it are named.
        """
        if not isinstance(self.method, capability):
            raise ModelError(lacks(self.name, capability))
        return self.method

    def check_source(self) -> Path:
        """Path of the training file, if it is still what the model was trained on.

        Raises
        ------
        InputError
            It is unknown, gone or changed.
        """
        source, other = self.record.source, spoken(python="give the cells", command="name an INPUT")
        if source.path is None:
            raise InputError(f"the model knows no training file (it was trained on cells in memory or a pipe); {other}")
        path = Path(source.path)
        if not path.is_file():
            raise InputError(f"the training file {path} is gone; {other}")
        stat = path.stat()
        same = (stat.st_size, stat.st_mtime_ns) == (source.size, source.modified_ns)
        if not same and checksum(path) != source.checksum:
            raise InputError(f"the training file {path} has changed since training; {other}")
        return path

    def save(self, directory: str | Path, *, force: bool = False) -> None:
        """Write the model directory; see `model_directory.write_model` for what it raises."""
        self.record = write_model(directory, self.record, self.method.state_dict(), self.history, force=force)

    @classmethod
    def load(cls, directory: str | Path) -> Model:
        """Read a model directory.

        Raises
        ------
        ModelError
            Absent, of a newer version, damaged, or of a method that is not installed.
        """
        record = read_record(directory)
        try:
            with computing("cpu"):  # fresh weights are drawn before they are filled in
                method = build(record)
        except UsageError as error:
            raise ModelError(f"{directory}: {error}; install the package that provides it") from error
        except (KeyError, TypeError, ValueError) as error:
            first = str(error).splitlines()[0]
            raise ModelError(f"{directory}/model.yaml is damaged: {type(error).__name__} {first}") from error
        weights = read_weights(directory, record)
        try:
            method.load_state_dict(weights)
        except RuntimeError as error:
            said = "the weights do not fit the method, genes and hyperparameters in model.yaml"
            raise ModelError(f"{directory}: {said}; restore it or train again") from error
        method.eval()
        settings = method.hp.model_dump(mode="json")  # under the names of this version
        record = record.model_copy(update={"hyperparameters": settings})
        return cls(method, record, read_history(directory))

    def embed(self, adata: AnnData, **options: Any) -> np.ndarray:
        """Latent representation (posterior means) of cells, float32 [n_cells, n_latent]; options as `embeddings`."""
        return self.embeddings(adata, **options)[self.embedding_key]

    def embeddings(
        self,
        adata: AnnData,
        *,
        missing_genes: str = "error",
        unseen: bool = False,
        device: str = "auto",
        threads: int | None = None,
        batch_size: int = 4096,
    ) -> dict[str, np.ndarray]:
        """All latent representations of cells by obsm key: that of `embedding_key`, and what else the method has.

        Parameters
        ----------
        adata : AnnData
            Cells on the scale the model was trained on; genes are matched by name.
        missing_genes : {"error", "zero"}
        unseen : bool
            Conditions, batches and covariates never trained on, and absent columns, are unknown to the encoder.

        Returns
        -------
        dict of float32 arrays [n_cells, p]

        Raises
        ------
        InputError
            Genes are missing, a condition or batch was never trained on, or the matrix is not fit.
        """
        cells = self._to_encode(adata, missing_genes, unseen)
        with computing(device, threads) as torch_device:
            found = predict.embeddings(self.method, cells, device=torch_device, batch_size=batch_size)
        return {obsm_key(self.name, suffix): z for suffix, z in found.items()}

    def embedding_record(self) -> Embedding:
        """Provenance of an embedding."""
        return Embedding(
            method=self.name,
            key=self.embedding_key,
            condition=self.condition,
            continuous=self.continuous,
            version=self.record.cellalign,
            weights=self.record.weights_checksum,
        )

    def label_probability(self, z: np.ndarray, *, device: str = "auto") -> np.ndarray | None:
        """Probability of each label by the method's own classifier at embeddings [n_cells, n_latent].

        Returns
        -------
        float32 array [n_cells, n_labels] or None
            Labels in the order of `labels`; None where the method has no classifier.
        """
        if not isinstance(self.method, Labels):
            return None
        with computing(device) as torch_device:
            return predict.label_probability(self.method, z, device=torch_device)

    def inferred_condition(
        self,
        adata: AnnData,
        *,
        missing_genes: str = "error",
        unseen: bool = False,
        device: str = "auto",
        threads: int | None = None,
    ) -> dict[str, Any]:
        """The condition of every cell and its probability, as columns of obs; none where all have to be known.

        Of a cell whose condition is given it is that one, with probability 1. Options and errors as `embeddings`.
        """
        if not self.condition_may_be_missing:
            return {}
        cells = self.cells(adata, missing_genes=missing_genes, unseen=unseen)
        method = self.needs(InfersCondition)
        with computing(device, threads) as torch_device:
            probability = predict.inferred_condition(method, cells, device=torch_device)
        names = pd.Categorical.from_codes(probability.argmax(1), self.conditions)
        return {f"{self.condition}_inferred": names, f"{self.condition}_probability": probability.max(1)}

    def posterior(self, adata: AnnData, *, device: str = "auto") -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of every cell's posterior, float32 [n_cells, n_latent] each."""
        cells = self._to_encode(adata)
        with computing(device) as torch_device:
            return predict.posterior(self.method, cells, device=torch_device)

    def cells(
        self, adata: AnnData, *, missing_genes: str = "error", with_condition: bool = True, unseen: bool = False
    ) -> Cells:
        """Cells as the method reads them: genes matched by name, columns as the fields encode them.

        Raises
        ------
        InputError
            As `embeddings`.
        """
        x = self.expression_of(adata, missing_genes)
        return make_cells(adata, x, self.fields, with_condition=with_condition, unseen=unseen)

    def validation_rows(self, adata: AnnData) -> np.ndarray | None:
        """Rows of the training data that were validated on; None where `adata` is not the training data."""
        sizes, key = self.record.cells, self.condition
        if adata.n_obs != sizes.all or (key is not None and key not in adata.obs):
            return None
        try:
            kept = np.flatnonzero(~held_out(adata.obs, self.record.holdout))
            codes = strata(self.fields, adata)[kept]
        except InputError:
            return None
        train, validation = stratified_split(codes, self.record.training.get("validation", 0.0), self.record.seed)
        same = (len(train), len(validation)) == (sizes.trained, sizes.validation)
        return kept[validation] if same else None

    def nelbo(self, adata: AnnData, *, seed: int = 0, device: str = "auto", threads: int | None = None) -> np.ndarray:
        """Negative evidence lower bound of every cell, [n_cells], in nats, with one posterior draw.

        Raises
        ------
        ModelError
            The method has no likelihood.
        """
        method, cells = self.needs(HasLikelihood), self._to_score(adata)
        with computing(device, threads) as torch_device:
            return predict.nelbo(method, cells, device=torch_device, seed=seed)

    def nll(
        self,
        adata: AnnData,
        *,
        particles: int = 100,
        seed: int = 0,
        device: str = "auto",
        threads: int | None = None,
    ) -> np.ndarray:
        """Negative log-likelihood of every cell by the importance-weighted ELBO (sVAE+ eq. 18), [n_cells], in nats.

        Parameters
        ----------
        particles : int
            Posterior draws per cell; the bound tightens with their number.

        Raises
        ------
        UsageError
            particles is not positive.
        ModelError
            The method has no likelihood.
        """
        if particles < 1:
            raise UsageError(f"{option('particles', particles)} is not positive")
        method = self.needs(HasLikelihood)
        if not method.comparable:
            raise ModelError(
                f"the likelihood of method {self.name!r} cannot be estimated: its prior's normaliser is not known"
            )
        cells = self._to_score(adata)
        with computing(device, threads) as torch_device:
            return predict.importance_weighted_nll(method, cells, particles, device=torch_device, seed=seed)

    def predict(self, adata: AnnData, *, to: str | float | Mapping[str, Any], **options: Any) -> Prediction:
        """What cells would look like under another condition, computed when it is read; see `prediction.predict`."""
        return predict_expression(self, adata, to=to, **options)

    def counterfactual(self, adata: AnnData, *, to: str | float | Mapping[str, Any], **options: Any) -> AnnData:
        """The same in memory; options as `prediction.predict`.

        Returns
        -------
        AnnData [n_source_cells, n_genes]
            X predicted expression on the scale of training, not negative; layers["source"] the observed; obs of the
            source cells with the condition replaced and the original in "<condition>_source". With `draws` or `samples`
            layers["sd"], the standard deviation of a cell's expression under the prediction; with `samples`
            layers["sd_of_mean"], the part of it that comes from not knowing the cell's latents.
        """
        return self.predict(adata, to=to, **options).to_adata()

    def expression_of(self, adata: AnnData, missing_genes: str = "error") -> Any:
        """The matrix that the model reads [n, G], checked, its genes in the model's order."""
        genes = checked_names(adata, "the input")
        x = matrix_of(adata, self.matrix)
        check_expression(x, self.expression, "the input", self._preprocess_advice())
        return align_genes(x, genes, self.genes, missing=missing_genes)

    def _to_encode(self, adata: AnnData, missing_genes: str = "error", unseen: bool = False) -> Cells:
        """Cells whose condition is read only where the encoder sees it."""
        needed = self.method.embedding_needs_condition
        return self.cells(adata, missing_genes=missing_genes, with_condition=needed, unseen=unseen)

    def _preprocess_advice(self) -> str:
        """How to make cells like those trained on; a model trained in Python knows no command."""
        stored = str(self.record.command_hint)
        command = stored if stored.startswith("cellalign preprocess") else "cellalign preprocess"
        return spoken(python="cellalign.preprocess(adata)", command=command)

    def _to_score(self, adata: AnnData) -> Cells:
        """Cells whose condition is read only where the likelihood depends on it."""
        return self.cells(adata, with_condition=sees_condition(self.method))


def load(directory: str | Path) -> Model:
    """Read a model directory; ModelError where it is absent, damaged or of a newer version."""
    return Model.load(Path(directory))


def sees_condition(method: Method) -> bool:
    """Whether the condition changes what a method predicts."""
    return isinstance(method, Predicts) and CONDITION in method.responds_to


def strata(fields: Any, adata: AnnData, ignore: np.ndarray | None = None) -> np.ndarray:
    """Codes [n] by which cells are split: the condition's, zeros where there is none or it is a number."""
    field = fields.one(CONDITION)
    if field is None or not field.categories:
        return np.zeros(adata.n_obs, dtype=np.int64)
    return field.encode(adata, ignore=ignore)


def _said_of(field: Any) -> str:
    """A field in a few words."""
    role = "" if field.role == CONDITION else f"{field.role} "
    if not field.categories:
        return f"{role}{field.name}: a {field.kind}"
    if field.role in (BATCH, COVARIATE, LABEL) or len(field.categories) > 6:
        return f"{role}{field.name}: {len(field.categories)} values"
    named = [f"{name} (reference)" if name == field.reference else name for name in field.categories]
    return f"{role}{field.name}: {', '.join(named)}"
