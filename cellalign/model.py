"""A trained model: embeds cells, predicts them under another condition, gives likelihoods, saves and loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cellalign.calibration import Groups
from cellalign.data.columns import having
from cellalign.data.interventions import To, asks_for_several
from cellalign.data.split import held_out, stratified_split
from cellalign.engine import predict
from cellalign.engine.checkpoint import tensors_checksum
from cellalign.engine.device import computing
from cellalign.engine.ranks import current
from cellalign.engine.room import TooLarge, room_for
from cellalign.errors import InputError, ModelError, UsageError, check_known, kwonly, option
from cellalign.methods.base import CONDITION, HasLikelihood, InfersCondition, Labels, Method
from cellalign.methods.capabilities import Capability
from cellalign.methods.registry import lacks
from cellalign.model_cells import ReadsCells
from cellalign.model_description import DRAW
from cellalign.model_directory import (
    build,
    read_calibration,
    read_history,
    read_record,
    read_trained,
    read_weights,
    write_model,
)
from cellalign.prediction import Prediction
from cellalign.prediction import predict as predict_expression
from cellalign.predictions import OF_SEVERAL, Predictions, predict_several
from cellalign.records import Embedding, ModelRecord, Umap, obsm_key
from cellalign.records.provenance import ModelStep

SPLIT = ("trained", "validation", "held out")  # what cells of the training data were used for


class Model(ReadsCells):
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
    trained : int64 array, optional
        Fingerprints of the cells it has seen (`data.fingerprints`); models of before do not know them.
    calibration : Groups, optional
        Groups that were predicted by refits without them, which calibrate intervals.
    waiting : float, optional
        Of a model that was just trained, the share of the time in which it waited for rows of cells.
    """

    waiting: float | None = None

    def __init__(
        self,
        method: Method,
        record: ModelRecord,
        history: list[dict[str, float]],
        trained: np.ndarray | None = None,
        calibration: Groups | None = None,
    ) -> None:
        super().__init__(method, record)
        self.history, self.trained, self.calibration = history, trained, calibration

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

    def save(self, directory: str | Path, *, force: bool = False) -> None:
        """Write the model directory; see `model_directory.write_model` for what it raises."""
        self.record = write_model(
            directory,
            self.record,
            self.method.state_dict(),
            self.history,
            self.calibration,
            trained=self.trained,
            force=force,
        )

    @classmethod
    def load(cls, directory: str | Path) -> Model:
        """Read a model directory.

        Raises
        ------
        ModelError
            Absent, of a newer version, damaged, or of a method that is not installed.
        """
        record = read_record(directory)
        weights = read_weights(directory, record)
        unfit = f"{directory}: the weights do not fit the method, genes and hyperparameters in model.yaml"
        try:
            with computing("cpu"):  # fresh weights are drawn before they are filled in
                method = build(record, room_for(weights))
        except TooLarge as error:
            raise ModelError(f"{unfit}, which would be {error}; restore it or train again") from error
        except UsageError as error:
            raise ModelError(f"{directory}: {error}; install the package that provides it") from error
        except Exception as error:  # whatever a network says of sizes and settings that nobody would train with
            first = (str(error).splitlines() or [""])[0]
            raise ModelError(f"{directory}/model.yaml is damaged: {type(error).__name__} {first}") from error
        kinds = {name: values.dtype for name, values in method.state_dict().items()}
        other = [name for name, values in weights.items() if kinds.get(name, values.dtype) != values.dtype]
        if other:
            held = f"{other[0]} is of {weights[other[0]].dtype} and not of {kinds[other[0]]}"
            raise ModelError(f"{unfit}: {held}; restore it or train again")
        try:
            method.load_state_dict(weights)
        except Exception as error:
            raise ModelError(f"{unfit}; restore it or train again") from error
        method.eval()
        settings = method.hp.model_dump(mode="json")  # under the names of this version
        record = record.model_copy(update={"hyperparameters": settings})
        known = read_trained(directory), read_calibration(directory, record)
        return cls(method, record, read_history(directory), *known)

    def embed(self, adata: AnnData, **options: Any) -> np.ndarray:
        """Latent representation of cells, float32 [n_cells, n_latent]: posterior means; options as `embeddings`."""
        check_known("embed", options, kwonly(Model.embeddings))
        found = self.embeddings(adata, **options)
        return found[self.draw_key if options.get("draw") else self.embedding_key]

    def embeddings(
        self,
        adata: AnnData,
        *,
        missing_genes: str = "error",
        unseen: bool = False,
        draw: bool = False,
        seed: int = 0,
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
        draw : bool
            One draw of every cell's posterior in place of its mean, under a key that ends in _draw.
        seed : int
            Of the draw.
        batch_size : int
            Cells that are computed at once.

        Returns
        -------
        dict of float32 arrays [n_cells, p]

        Raises
        ------
        InputError
            Genes are missing, a condition or batch was never trained on, or the matrix is not fit.
        ModelError
            A draw of a method whose posterior has no spread.
        """
        cells, drawn = self._to_encode(adata, missing_genes, unseen), seed if draw else None
        with computing(device, threads) as torch_device:
            found = predict.embeddings(self.method, cells, device=torch_device, draw_seed=drawn, batch_size=batch_size)
        return {obsm_key(self.name, suffix + (DRAW if draw else "")): z for suffix, z in found.items()}

    @property
    def weights_checksum(self) -> str:
        """Of the weights: as in model.yaml, or of a model that is not saved as it would be there."""
        if self.record.weights_checksum is not None:
            return self.record.weights_checksum
        return tensors_checksum(self.method.state_dict())

    def made(self, step: ModelStep | None) -> bool | None:
        """Whether this model, or the one it was transferred from, wrote something; None where that was not recorded."""
        if step is None or not step.weights:
            return None
        return step.weights in (self.weights_checksum, self.record.transferred_from)

    def embedding_record(self, split: str | None = None, draw_seed: int | None = None) -> Embedding:
        """Provenance of an embedding by posterior means, or with a seed by draws.

        Parameters
        ----------
        split : str, optional
            The obs column that tells the cells trained on from those validated on.
        draw_seed : int, optional
        """
        drawn = {"key": self.embedding_key} if draw_seed is None else {"key": self.draw_key, "written": "draw"}
        taken = {"expression": "any", "matrix": self.matrix} if self.expression == "any" else {}
        return Embedding(
            **drawn,
            **taken,
            seed=draw_seed,
            method=self.name,
            condition=self.condition,
            continuous=self.continuous,
            version=self.record.cellalign,
            weights=self.weights_checksum,
            split=split,
        )

    def umap_record(self, draw_seed: int | None = None) -> Umap:
        """Provenance of the UMAP of an embedding."""
        embedding = self.embedding_record(draw_seed=draw_seed)
        return Umap(method=self.name, key=embedding.key, version=embedding.version, weights=embedding.weights)

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

    def validation_rows(self, adata: AnnData) -> np.ndarray | None:
        """Rows of the training data that were validated on; None where `adata` is not the training data."""
        rows = self._split(adata)
        return None if rows is None else rows[1]

    def split(self, adata: AnnData) -> pd.Categorical | None:
        """Of every cell of the training data "trained", "validation" or "held out".

        None of other cells, and where all were trained on.
        """
        rows = self._split(adata)
        if rows is None or not len(rows[1]):
            return None
        codes = np.full(adata.n_obs, SPLIT.index("held out"))
        for name, part in zip(SPLIT, rows, strict=False):
            codes[part] = SPLIT.index(name)
        return pd.Categorical.from_codes(codes, SPLIT)

    def _split(self, adata: AnnData) -> tuple[np.ndarray, np.ndarray] | None:
        """Rows that were trained on and validated on; None where `adata` is not the training data.

        Of several ranks, which all call this, one looks: it takes a pass over all cells.
        """
        return current().told(lambda: self._found_split(adata))

    def _found_split(self, adata: AnnData) -> tuple[np.ndarray, np.ndarray] | None:
        sizes, key = self.record.cells, self.condition
        if adata.n_obs != sizes.all or (key is not None and key not in adata.obs):
            return None
        try:
            left_out = held_out(adata.obs, self.record.holdout, control=self.control, quiet=True)
            kept = np.flatnonzero(~left_out)
            codes = strata(self.fields, adata, left_out)[kept]
            if self.is_of(adata, left_out) is False:
                return None
        except InputError:
            return None
        train, validation = stratified_split(codes, self.record.training.get("validation", 0.0), self.record.seed)
        same = (len(train), len(validation)) == (sizes.trained, sizes.validation)
        return (kept[train], kept[validation]) if same else None

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

    def reference_rows(self, adata: AnnData) -> np.ndarray:
        """Rows of the cells that others are compared with: those under the control, all where there are none."""
        if self.control is not None and self.condition is not None and self.condition in adata.obs:
            control = np.flatnonzero(having(adata.obs, self.condition, self.control, control=self.control))
            if len(control):
                return control
        return np.arange(adata.n_obs)

    def predict(self, adata: AnnData, *, to: To | Sequence[To], **options: Any) -> Prediction | Predictions:
        """What cells would look like under another condition, computed when it is read; see `prediction.predict`.

        Under several of them (a sequence, or "all"), and with `per_condition`, `within` or `with_control`, see
        `predictions.predict_several`.
        """
        return self._predict("predict", adata, to, options)

    def _predict(self, called: str, adata: AnnData, to: Any, options: Mapping[str, Any]) -> Prediction | Predictions:
        check_known(called, options, [*kwonly(predict_expression), *OF_SEVERAL])
        more = {name: options[name] for name in OF_SEVERAL if options.get(name)}
        options = {name: value for name, value in options.items() if name not in OF_SEVERAL}
        if more or asks_for_several(self.fields, to):
            return predict_several(self, adata, to=to, **more, **options)
        return predict_expression(self, adata, to=to, **options)

    def counterfactual(self, adata: AnnData, *, to: To | Sequence[To], **options: Any) -> AnnData:
        """The same in memory; options as `prediction.predict`, and of several conditions `predictions.predict_several`.

        Returns
        -------
        AnnData [n_source_cells, n_genes]
            X predicted expression on the scale of training, not negative; layers["source"] the observed; obs of the
            source cells with the condition replaced and the original in "<condition>_source". With `draws` or `samples`
            layers["sd"], the standard deviation of a cell's expression under the prediction; with `samples`
            layers["sd_of_mean"], the part of it that comes from not knowing the cell's latents. Beside the mean of
            counts layers["drawn"], one draw of each cell (CSR). Of several conditions a row per source cell and
            condition, with the source cell's name in obs["source_cell"].
        """
        return self._predict("counterfactual", adata, to, options).to_adata()


def load(directory: str | Path) -> Model:
    """Read a model directory; ModelError where it is absent, damaged or of a newer version."""
    return Model.load(Path(directory))


def strata(fields: Any, adata: AnnData, ignore: np.ndarray | None = None) -> np.ndarray:
    """Codes [n] by which cells are split: the condition's, zeros where there is none or it is a number."""
    field = fields.one(CONDITION)
    if field is None or not field.categories:
        return np.zeros(adata.n_obs, dtype=np.int64)
    return field.encode(adata, ignore=ignore)
