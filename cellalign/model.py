"""A trained model: embeds cells, predicts counterfactuals, saves and loads."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cellalign.data.batches import Cells
from cellalign.data.direction import Direction
from cellalign.data.files import checksum
from cellalign.data.inputs import align_genes, check_expression, checked_names, make_cells, matrix_of
from cellalign.data.roles import Roles
from cellalign.data.split import held_out, stratified_split
from cellalign.engine import predict
from cellalign.engine.device import computing
from cellalign.errors import InputError, ModelError, UsageError, option, spoken
from cellalign.methods.base import Dimensions, Method, Target
from cellalign.methods.registry import get
from cellalign.model_directory import read_history, read_spec, read_weights, write_model
from cellalign.model_summary import summary

log = logging.getLogger("cellalign")


class Model:
    """A method with its weights and everything needed to apply it to new cells.

    Attributes
    ----------
    method : Method
        The torch module.
    spec : dict
        What model.yaml holds: method, hyperparameters, training plan, roles, genes, versions, source, seed.
    roles : Roles
    history : list of dict
        One row per epoch.
    """

    def __init__(self, method: Method, spec: dict[str, Any], history: list[dict[str, float]]) -> None:
        self.method, self.spec, self.history = method, spec, history
        self.roles = Roles.from_dict(spec["roles"])

    def __repr__(self) -> str:
        return f"<cellalign.Model {summary(self)}>"

    @property
    def name(self) -> str:
        """The method's name."""
        return self.method.name

    @property
    def embedding_key(self) -> str:
        """Where `embed` puts the latents: obsm["X_<method>"]."""
        return f"X_{self.name}"

    @property
    def condition(self) -> str | None:
        """The obs column whose effect is modelled."""
        return self.roles.condition

    @property
    def genes(self) -> list[str]:
        """Names of the genes the model reads, in its order."""
        return self.spec["genes"]

    @property
    def matrix(self) -> str:
        """The matrix the model reads: "X" or a layer's name."""
        return self.spec["matrix"]

    @property
    def scale(self) -> str:
        """The expression the model reads and predicts: "log" (normalised, log1p) or "counts"."""
        return self.method.reads(self.method.hp)

    @property
    def has_likelihood(self) -> bool:
        """Whether cells have a likelihood under the model that can be compared between models."""
        return type(self.method).nelbo is not Method.nelbo and self.method.normalised

    @property
    def transferred(self) -> list[str]:
        """Interventions the model was transferred to, after its training."""
        return self.spec.get("transferred", [])

    @property
    def source(self) -> str | None:
        """Path of the training file, or None where it came from memory or standard input."""
        return self.spec["source"]["path"]

    def check_source(self) -> Path:
        """Path of the training file, if it is still what the model was trained on.

        Raises
        ------
        InputError
            It is unknown, gone or changed.
        """
        source, other = self.spec["source"], spoken(python="give the cells", command="name an INPUT")
        if source["path"] is None:
            raise InputError(f"the model knows no training file (it was trained on cells in memory or a pipe); {other}")
        path = Path(source["path"])
        if not path.is_file():
            raise InputError(f"the training file {path} is gone; {other}")
        stat = path.stat()
        same = (stat.st_size, stat.st_mtime_ns) == (source["size"], source["modified_ns"])
        if not same and checksum(path) != source["checksum"]:
            raise InputError(f"the training file {path} has changed since training; {other}")
        return path

    def save(self, directory: str | Path, *, force: bool = False) -> None:
        """Write the model directory; see `model_directory.write_model` for what it raises."""
        write_model(directory, self.spec, self.method.state_dict(), self.history, force=force)

    @classmethod
    def load(cls, directory: str | Path) -> Model:
        """Read a model directory.

        Raises
        ------
        ModelError
            Absent, of a newer version, damaged, or of a method that is not installed.
        """
        spec = read_spec(directory)
        try:
            with computing("cpu"):  # fresh weights are drawn before they are filled in
                method = build(spec)
            roles_ok = Roles.from_dict(spec["roles"])
        except UsageError as error:
            raise ModelError(f"{directory}: {error}; install the package that provides it") from error
        except (KeyError, TypeError, ValueError) as error:
            first = str(error).splitlines()[0]
            raise ModelError(f"{directory}/model.yaml is damaged: {type(error).__name__} {first}") from error
        weights = read_weights(directory, spec)
        ours = {key: tuple(value.shape) for key, value in method.state_dict().items()}
        if ours != {key: tuple(value.shape) for key, value in weights.items()} or roles_ok is None:
            raise ModelError(f"{directory}: the weights do not fit the method and hyperparameters in model.yaml")
        method.load_state_dict(weights)
        method.eval()
        return cls(method, spec, read_history(directory))

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
        return {self.embedding_key + suffix: z for suffix, z in found.items()}

    def label_probability(self, z: np.ndarray, *, device: str = "auto") -> np.ndarray | None:
        """Probability of each label by the method's own classifier at embeddings [n_cells, n_latent].

        Returns
        -------
        float32 array [n_cells, n_labels] or None
            Labels in the order of `roles.categories[roles.label]`; None where the method has no classifier.
        """
        if type(self.method).label_probability is Method.label_probability:
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
        if not self.roles.unknown:
            return {}
        key, known = str(self.condition), self.roles.categories[str(self.condition)]
        cells = self.cells(adata, missing_genes=missing_genes, unseen=unseen)
        with computing(device, threads) as torch_device:
            probability = predict.inferred_condition(self.method, cells, device=torch_device)
        names = pd.Categorical.from_codes(probability.argmax(1), known)
        return {f"{key}_inferred": names, f"{key}_probability": probability.max(1)}

    def posterior(self, adata: AnnData, *, device: str = "auto") -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of every cell's posterior, float32 [n_cells, n_latent] each."""
        cells = self._to_encode(adata)
        with computing(device) as torch_device:
            return predict.posterior(self.method, cells, device=torch_device)

    def cells(
        self, adata: AnnData, *, missing_genes: str = "error", with_condition: bool = True, unseen: bool = False
    ) -> Cells:
        """Cells as the method reads them: genes matched by name, codes of the categories trained on.

        Raises
        ------
        InputError
            As `embeddings`.
        """
        x = self._expression(adata, missing_genes)
        return make_cells(adata, x, self.roles, with_condition=with_condition, unseen=unseen)

    def validation_rows(self, adata: AnnData) -> np.ndarray | None:
        """Rows of the training data that were validated on; None where `adata` is not the training data."""
        sizes, key = self.spec["cells"], self.condition
        if adata.n_obs != sizes["all"] or (key is not None and key not in adata.obs):
            return None
        try:
            kept = np.flatnonzero(~held_out(adata.obs, self.spec["holdout"]))
            codes = self.roles.condition_codes(adata.obs.iloc[kept])
        except InputError:
            return None
        train, validation = stratified_split(codes, self.spec["training"]["validation"], self.spec["seed"])
        same = (len(train), len(validation)) == (sizes["trained"], sizes["validation"])
        return kept[validation] if same else None

    def nelbo(self, adata: AnnData, *, seed: int = 0, device: str = "auto", threads: int | None = None) -> np.ndarray:
        """Negative evidence lower bound of every cell, [n_cells], in nats, with one posterior draw."""
        cells = self.cells(adata, with_condition=self.method.sees_condition)
        with computing(device, threads) as torch_device:
            return predict.nelbo(self.method, cells, device=torch_device, seed=seed)

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
        """
        if particles < 1:
            raise UsageError(f"{option('particles', particles)} is not positive")
        cells = self.cells(adata, with_condition=self.method.sees_condition)
        with computing(device, threads) as torch_device:
            return predict.importance_weighted_nll(self.method, cells, particles, device=torch_device, seed=seed)

    def counterfactual(
        self,
        adata: AnnData,
        *,
        to: str | float,
        from_: str | None = None,
        where: Mapping[str, str] | None = None,
        samples: int = 0,
        missing_genes: str = "error",
        seed: int = 0,
        device: str = "auto",
        threads: int | None = None,
    ) -> AnnData:
        """What cells would look like under another condition (CoMP eq. 1).

        Parameters
        ----------
        adata : AnnData
        to : str or float
            The condition to predict; "a+b" of two known ones where the method adds up their shifts; a number where
            the condition is continuous; "key=value" of a batch column: the cells as if measured in that batch.
        from_ : str, optional
            Condition of the source cells; default the control, or every condition but `to`; of a continuous condition
            all cells.
        where : mapping, optional
            obs column to value; further restricts the source cells.
        samples : int
            0 decodes the posterior mean; n averages n posterior draws and adds layers["std"].

        Returns
        -------
        AnnData [n_source_cells, n_genes]
            X predicted expression on the scale of training; layers["source"] the observed; obs of the source
            cells with the condition replaced and the original in "<condition>_source".

        Raises
        ------
        InputError
            Unknown condition, or no source cell is left.
        UsageError
            `to` equals `from_`.
        """
        if samples < 0:
            raise UsageError(f"{option('samples')} must not be negative, got {samples}")
        x = self._expression(adata, missing_genes)
        combines = self.method.combines_conditions
        asked = Direction.of(adata.obs, self.roles, str(to), from_, where, combines=combines)
        if asked.batch is not None and not self.method.sees_batches:
            raise UsageError(f"method {self.name!r} does not see batches, so it has no counterfactual of {asked.key!r}")
        if asked.batch is None and not self.method.sees_condition:
            log.warning("method %s does not see %r: its prediction is the reconstruction", self.name, asked.key)
        source = AnnData(X=x[asked.rows], obs=adata.obs.iloc[asked.rows].copy())
        cells, target = make_cells(source, source.X, self.roles), Target(asked.codes, asked.value or 0.0, asked.batch)
        with computing(device, threads) as torch_device:
            mean, std = predict.counterfactual(
                self.method, cells, target, device=torch_device, n_samples=samples, seed=seed
            )
        return self._as_counterfactual(adata, source, mean, std, asked, samples)

    def _to_encode(self, adata: AnnData, missing_genes: str = "error", unseen: bool = False) -> Cells:
        """Cells whose condition is read only where the encoder sees it."""
        needed = self.method.embedding_needs_condition
        return self.cells(adata, missing_genes=missing_genes, with_condition=needed, unseen=unseen)

    def _expression(self, adata: AnnData, missing_genes: str) -> Any:
        genes = checked_names(adata, "the input")
        x = matrix_of(adata, self.matrix)
        hint = spoken(python="cellalign.preprocess(adata)", command=self._preprocess_command())
        check_expression(x, self.scale, "the input", hint)
        return align_genes(x, genes, self.genes, missing=missing_genes)

    def _preprocess_command(self) -> str:
        """The command that makes a file like the training file; a model trained in Python knows none."""
        stored = str(self.spec["command_hint"])
        return stored if stored.startswith("cellalign preprocess") else "cellalign preprocess"

    def _as_counterfactual(
        self,
        adata: AnnData,
        source: AnnData,
        mean: np.ndarray,
        std: np.ndarray | None,
        asked: Direction,
        samples: int,
    ) -> AnnData:
        obs = asked.applied(source.obs, self.roles)
        if self.spec["holdout"]:
            obs["held_out"] = held_out(obs, self.spec["holdout"], must_exist=False)
        var = adata.var.reindex(self.genes)
        result = AnnData(X=mean, obs=obs, var=var, layers={"source": source.X})
        if std is not None:
            result.layers["std"] = std
        result.uns["cellalign"] = {
            "kind": "counterfactual",
            "method": self.name,
            "condition": asked.key,
            "continuous": asked.continuous,
            "from": asked.origin,
            "to": str(asked.to),
            "samples": samples,
            "scale": self.scale,
            "version": self.spec["cellalign"],
            "weights": self.spec.get("weights_checksum", ""),
        }
        return result


def load(directory: str | os.PathLike[str]) -> Model:
    """Read a model directory; ModelError where it is absent, damaged or of a newer version."""
    return Model.load(Path(directory))


def build(spec: Mapping[str, Any]) -> Method:
    """A method with fresh weights from what model.yaml says of it."""
    cls = get(spec["method"])
    return cls(cls.Hyperparameters(**spec["hyperparameters"]), dimensions_of(spec["dimensions"]))


def dimensions_of(sizes: Mapping[str, Any]) -> Dimensions:
    """What model.yaml keeps of the sizes a method is built for."""
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in sizes.items()}
    return Dimensions(**plain)


def source_record(path: str | os.PathLike[str] | None) -> dict[str, Any]:
    """What model.yaml keeps of the training file."""
    if path is None:
        return {"path": None, "checksum": None, "size": None, "modified_ns": None}
    file = Path(path).resolve()
    stat = file.stat()
    return {
        "path": str(file),
        "checksum": checksum(file),
        "size": stat.st_size,
        "modified_ns": stat.st_mtime_ns,
    }
