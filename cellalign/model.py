"""A trained model: embeds cells, predicts them under another condition, gives likelihoods, saves and loads."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cellalign.data.files import read_matrix
from cellalign.data.genes import align_genes, match, say_how
from cellalign.data.loader import Cells, make_cells
from cellalign.data.matrices import check_names, has_counts
from cellalign.data.reading import Reading, in_memory
from cellalign.data.recipe import Expression, counts_like, log_like
from cellalign.data.split import held_out, stratified_split
from cellalign.engine import predict
from cellalign.engine.device import computing
from cellalign.errors import InputError, ModelError, UsageError, option
from cellalign.methods.base import (
    CONDITION,
    HasLikelihood,
    InfersCondition,
    Labels,
    Method,
)
from cellalign.methods.capabilities import Capability
from cellalign.methods.registry import lacks
from cellalign.model_description import ModelDescription, sees_condition
from cellalign.model_directory import build, read_history, read_record, read_weights, training_files, write_model
from cellalign.prediction import Prediction
from cellalign.prediction import predict as predict_expression
from cellalign.records import Embedding, ModelRecord, Preprocessing, Provenance, obsm_key
from cellalign.records.provenance import KEY


class Model(ModelDescription):
    """A method with its weights and everything needed to apply it to new cells.

    Attributes
    ----------
    method : Method
        The torch module.
    record : ModelRecord
        What model.yaml holds.
    fields : Fields
        The columns it was given.
    history : list of dict
        One row per epoch.
    """

    def __init__(self, method: Method, record: ModelRecord, history: list[dict[str, float]]) -> None:
        super().__init__(method, record)
        self.history = history

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

    def check_source(self) -> Reading:
        """The training files as they were read, if they are still what the model was trained on.

        Raises
        ------
        InputError
            One is unknown, gone or changed.
        """
        return training_files(self.record.source)

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
        except Exception as error:  # whatever a network says of sizes and settings that nobody would train with
            first = (str(error).splitlines() or [""])[0]
            raise ModelError(f"{directory}/model.yaml is damaged: {type(error).__name__} {first}") from error
        weights = read_weights(directory, record)
        try:
            method.load_state_dict(weights)
        except Exception as error:
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
            left_out = held_out(adata.obs, self.record.holdout, control=self.control, quiet=True)
            kept = np.flatnonzero(~left_out)
            codes = strata(self.fields, adata, left_out)[kept]
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

    @cached_property
    def target_sum(self) -> float | None:
        """What the counts of a cell of the training file were scaled to; None where that is not known.

        Models of earlier versions do not hold it: their training file does, if `preprocess` wrote it.
        """
        if self.record.recipe.target_sum is not None:
            return self.record.recipe.target_sum
        try:
            written = Provenance.of(read_matrix(self.check_source(), None).uns).preprocess
        except InputError:
            return None
        return None if written is None else written.target_sum

    def expression_of(self, adata: AnnData, missing_genes: str = "error") -> Any:
        """The matrix that the model reads [n, G], on its scale, its genes in the model's order; see `aligned`."""
        return self.aligned(adata, missing_genes).x

    def aligned(self, adata: AnnData, missing_genes: str = "error") -> Expression:
        """What the model reads of cells: raw counts and other totals brought to its scale, genes to its order.

        Raises
        ------
        InputError
            As `recipe.log_like` and `recipe.counts_like`; genes are missing, or names occur twice.
        """
        adata = in_memory(adata)
        check_names(adata, "the input")
        rounded = self.record.recipe.rounded
        if self.expression == "counts":
            return self._in_order(counts_like(adata, self.matrix, rounded=rounded), missing_genes)
        return self._in_order(log_like(adata, self.matrix, self.target_sum, rounded=rounded), missing_genes)

    def _in_order(self, found: Expression, missing_genes: str) -> Expression:
        """Expression with the model's genes in its order."""
        matching = match(found.var, self.genes, self.record.other_names)
        say_how(matching, "the input")
        x = align_genes(found.x, matching, self.genes, missing=missing_genes)
        var = found.var.reset_index(drop=True).reindex(matching.columns)
        return Expression(x, var.set_axis(pd.Index(self.genes)))

    def as_read(self, adata: AnnData, missing_genes: str = "error") -> AnnData:
        """The cells with their obs and nothing but what the model reads of them, as `aligned` gives it.

        Returns
        -------
        AnnData [n, G]
            The matrix lies where the training file had it, vectors of columns in obsm.
        """
        found = self.aligned(adata, missing_genes)
        vectors = {name: adata.obsm[name] for name in self.obsm if name in adata.obsm}
        result = AnnData(obs=adata.obs, var=found.var, obsm=vectors, uns=self.preprocessed(adata.uns, self.target_sum))
        if self.matrix == "X":
            result.X = found.x
        else:
            result.layers[self.matrix] = found.x
        return result

    def preprocess(self, adata: AnnData, missing_genes: str = "error") -> AnnData:
        """New cells as `cellalign.preprocess` made the training data: all of them, the model's genes, its total.

        Returns
        -------
        AnnData [n, G]
            X log expression, layers["counts"] the raw counts where there are any; obs, obsm and uns are kept.

        Raises
        ------
        InputError
            As `aligned`.
        """
        adata = in_memory(adata)
        check_names(adata, "the input")
        counts = counts_like(adata, self.matrix) if self.expression == "counts" or has_counts(adata) else None
        total = self.target_sum
        if total is None and counts is not None and self.expression == "counts":
            total = float(np.median(np.asarray(counts.x.sum(1))))
        found = self._in_order(log_like(adata, "X", total), missing_genes)
        result = AnnData(found.x, adata.obs, found.var, obsm=dict(adata.obsm), uns=self.preprocessed(adata.uns, total))
        if counts is not None:
            result.layers["counts"] = self._in_order(counts, missing_genes).x
        return result

    def preprocessed(self, uns: Mapping[str, Any], total: float | None) -> dict[str, Any]:
        """`uns` with the provenance of cells brought to a total."""
        written = Provenance.of(uns)
        if total is not None:
            step = written.preprocess or Preprocessing(counts_from="", n_top_genes=0, target_sum=total)
            written = written.with_steps(step.model_copy(update={"target_sum": total}))
        return {**uns, KEY: written.plain()}

    def _to_encode(self, adata: AnnData, missing_genes: str = "error", unseen: bool = False) -> Cells:
        """Cells whose condition is read only where the encoder sees it."""
        needed = self.method.embedding_needs_condition
        return self.cells(adata, missing_genes=missing_genes, with_condition=needed, unseen=unseen)

    def _to_score(self, adata: AnnData) -> Cells:
        """Cells whose condition is read only where the likelihood depends on it."""
        return self.cells(adata, with_condition=sees_condition(self.method))


def load(directory: str | Path) -> Model:
    """Read a model directory; ModelError where it is absent, damaged or of a newer version."""
    return Model.load(Path(directory))


def strata(fields: Any, adata: AnnData, ignore: np.ndarray | None = None) -> np.ndarray:
    """Codes [n] by which cells are split: the condition's, zeros where there is none or it is a number."""
    field = fields.one(CONDITION)
    if field is None or not field.categories:
        return np.zeros(adata.n_obs, dtype=np.int64)
    return field.encode(adata, ignore=ignore)
