"""A graph of targets read back from the tables that `graph_files.py` writes, as its AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cellalign.errors import InputError
from cellalign.reporting.parts import EDGES_ALONE

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def graph_of_edges(table: pd.DataFrame) -> AnnData:
    """A graph from its edge list; perturbations and latents without an edge are not in one, which uns says."""
    rows = table[["perturbation", "latent", "probability", "effect"]]
    names = {key: list(dict.fromkeys(rows[key].astype(str))) for key in ("perturbation", "latent")}
    latents = {}
    for column in ("program", "gene_sets"):
        if column in table:
            latents[column] = dict(zip(table["latent"].astype(str), table[column].fillna("").astype(str), strict=True))
    edges = [(str(r.perturbation), str(r.latent), float(r.probability), float(r.effect)) for r in rows.itertuples()]
    graph = _graph(names["perturbation"], names["latent"], edges, latents)
    graph.uns[EDGES_ALONE] = True
    return graph


def graph_of_json(content: dict[str, Any], path: str) -> AnnData:
    """A graph from what `targets -o FILE.json` wrote; InputError where it lacks a part."""
    import pandas as pd

    try:
        perturbations = [str(each["name"]) for each in content["perturbations"]]
        latents = [str(each["name"]) for each in content["latents"]]
        edges = [
            (str(each["name"]), str(edge["latent"]), float(edge["probability"]), float(edge["effect"]))
            for each in content["perturbations"]
            for edge in each["targets"]
        ]
        programs = {str(each["name"]): " ".join(each.get("program") or []) for each in content["latents"]}
        of_latents = {"program": programs} if any(programs.values()) else {}
        graph = _graph(perturbations, latents, edges, of_latents)
        if content.get("enrichment"):
            graph.uns["enrichment"] = pd.DataFrame(content["enrichment"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no graph of targets that can be read: {error!r}") from error
    return graph


def _graph(
    perturbations: list[str],
    latents: list[str],
    edges: list[tuple[str, str, float, float]],
    of_latents: dict[str, dict[str, str]],
) -> AnnData:
    import numpy as np
    import pandas as pd
    from anndata import AnnData

    effect = np.zeros((len(perturbations), len(latents)), dtype=np.float32)
    probability = np.zeros_like(effect)
    row = {name: i for i, name in enumerate(perturbations)}
    column = {name: i for i, name in enumerate(latents)}
    for name, latent, p, size in edges:
        effect[row[name], column[latent]], probability[row[name], column[latent]] = size, p
    edge = probability > 0
    var = pd.DataFrame(
        {key: [known.get(name, "") for name in latents] for key, known in of_latents.items()}, index=latents
    )
    obs = pd.DataFrame(index=pd.Index(perturbations, dtype=str))
    return AnnData(X=effect, obs=obs, var=var, layers={"probability": probability, "edge": edge})
