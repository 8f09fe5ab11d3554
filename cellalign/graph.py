"""The graph from perturbations to latents of a trained model, as AnnData, and the genes behind each latent."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from cellalign.engine import attribution
from cellalign.engine.device import computing
from cellalign.errors import UsageError, option
from cellalign.methods.base import LearnsGraph
from cellalign.model import Model
from cellalign.records import Provenance, Targets
from cellalign.records.provenance import KEY


def targets(model: Model, *, threshold: float = 0.5) -> AnnData:
    """Which latents each perturbation targets.

    Parameters
    ----------
    model : Model
    threshold : float
        Probability from which a target counts as one.

    Returns
    -------
    AnnData [perturbations, latents]
        X: effect on the latent in prior standard deviations, 0 where there is no edge. layers["probability"],
        layers["edge"]. obs: `targets` (their names), `n_targets`, `group` (perturbations with the same targets
        share one; 1 is the largest, 0 holds those without a target), `transferred`. var: `n_perturbations`.

    Raises
    ------
    ModelError
        The model's method learns no graph.
    UsageError
        The threshold is not between 0 and 1.
    """
    method = model.needs(LearnsGraph)
    if not 0 <= threshold < 1:
        raise UsageError(f"{option('threshold', threshold)} is not between 0 and 1")
    known = model.conditions
    rows = [i for i, name in enumerate(known) if name != model.control]
    graph = method.graph()
    probability, effect = graph.probability.numpy()[rows], graph.effect.numpy()[rows]
    edge = probability > threshold
    latents = [f"z{i}" for i in range(edge.shape[1])]
    obs = pd.DataFrame(
        {
            "targets": [" ".join(latents[i] for i in np.flatnonzero(row)) for row in edge],
            "n_targets": edge.sum(1),
            "group": _groups(edge),
            "transferred": np.isin([known[i] for i in rows], model.transferred),
        },
        index=[known[i] for i in rows],
    )
    result = AnnData(
        X=np.where(edge, effect, 0).astype(np.float32),
        obs=obs,
        var=pd.DataFrame({"n_perturbations": edge.sum(0)}, index=latents),
        layers={"probability": probability, "edge": edge},
    )
    record = Targets(
        method=model.name,
        condition=str(model.condition),
        threshold=threshold,
        version=model.record.cellalign,
        weights=model.weights_checksum,
    )
    result.uns[KEY] = Provenance().with_steps(record).plain()
    return result


def _groups(edge: np.ndarray) -> np.ndarray:
    """Numbers of the groups of equal rows, by size; rows without an edge are group 0."""
    _, inverse, size = np.unique(edge, axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)  # numpy 2.0 gave it a second axis
    some = np.asarray(np.any(edge, axis=1))
    order = [g for g in np.argsort(-size, kind="stable") if some[inverse == g].any()]
    number = {g: i + 1 for i, g in enumerate(order)}
    return np.array([number.get(g, 0) for g in inverse])


def add_programs(
    graph: AnnData,
    model: Model,
    adata: AnnData,
    n: int,
    *,
    missing_genes: str = "error",
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
) -> AnnData:
    """Name each latent's n most important genes, so that it reads as a gene program.

    Importance is the mean absolute integrated gradient (Sundararajan et al. 2017) of the encoder's mean over at
    most 1,000 cells, along the straight line in log expression from the average control cell (without a control:
    the average cell) to the cell; the sign is that of the mean of gene and latent moving together.

    Parameters
    ----------
    graph : AnnData
        As `targets` returns it; changed in place: var["program"], uns["programs"] (latent, rank, gene, weight).
    adata : AnnData
        Cells on the scale the model reads.
    n : int
        Genes per latent.
    missing_genes, seed, device, threads
        As `embed` takes them; the seed is of the cells that are drawn.

    Raises
    ------
    UsageError
        n is not positive.
    """
    if n < 1:
        raise UsageError(f"{option('programs', n)} is not positive")
    cells = model.cells(adata, missing_genes=missing_genes, with_condition=False)
    reference = model.reference_rows(adata)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(cells))[:1000])
    with computing(device, threads) as torch_device:
        weight, sign = attribution.integrated_gradients(model.method, cells, chosen, reference, device=torch_device)
    genes = np.array(model.genes)
    table = []
    for latent, name in enumerate(graph.var_names):
        for rank, gene in enumerate(np.argsort(-weight[latent], kind="stable")[:n], start=1):
            table.append((name, rank, genes[gene], float(weight[latent, gene] * sign[latent, gene])))
    programs = pd.DataFrame(table, columns=["latent", "rank", "gene", "weight"])
    graph.uns["programs"] = programs
    graph.var["program"] = [" ".join(programs.gene[programs.latent == name]) for name in graph.var_names]
    return graph
