"""A graph from perturbations to latents (as `targets` returns it) in the text formats other programs read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cellalign.records import Provenance

OF_LATENTS = ("program", "gene_sets")  # what of var goes with every edge, and with every latent
TABLES = ("enrichment", "interactions", "interactions_latents")


def edges(graph: AnnData) -> pd.DataFrame:
    """The edge list: perturbation, latent, probability, effect, and the latent's program and gene sets where known."""
    rows, columns = np.nonzero(np.asarray(graph.layers["edge"]))
    table = pd.DataFrame(
        {
            "perturbation": graph.obs_names[rows],
            "latent": graph.var_names[columns],
            "probability": np.asarray(graph.layers["probability"])[rows, columns],
            "effect": np.asarray(graph.X)[rows, columns],
        }
    )
    for name in OF_LATENTS:
        if name in graph.var:
            table[name] = graph.var[name].to_numpy()[columns]
    return table


def as_json(graph: AnnData) -> dict[str, Any]:
    """Perturbations with their targets, and latents with their programs."""
    found = edges(graph)
    by_perturbation = dict(iter(found.groupby("perturbation")))
    columns = ["latent", "probability", "effect"]
    empty = found.iloc[:0]
    return {
        "model": Provenance.of(graph.uns).plain().get("targets", {}),
        "perturbations": [
            {
                "name": name,
                "group": int(graph.obs.loc[name, "group"]),
                "transferred": bool(graph.obs.loc[name, "transferred"]),
                "targets": by_perturbation.get(name, empty)[columns].to_dict("records"),
            }
            for name in graph.obs_names
        ],
        "latents": [
            {
                "name": name,
                "n_perturbations": int(graph.var.loc[name, "n_perturbations"]),
                "program": graph.var.loc[name, "program"].split() if "program" in graph.var else [],
            }
            for name in graph.var_names
        ],
    } | {name: _records(graph.uns[name]) for name in TABLES if name in graph.uns}


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows; what is no number, such as an infinite odds ratio, is null, which JSON has."""
    return [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
        for row in table.to_dict("records")
    ]


def _write_graphml(graph: AnnData, path: Path) -> None:
    import networkx as nx

    network = nx.DiGraph()
    for name in graph.obs_names:
        network.add_node(_in_xml(name), kind="perturbation", group=int(graph.obs.loc[name, "group"]))
    for name in graph.var_names:
        known = {key: _in_xml(graph.var.loc[name, key]) for key in OF_LATENTS if key in graph.var}
        network.add_node(_in_xml(name), kind="latent", **known)
    for edge in edges(graph).itertuples():
        ends = _in_xml(edge.perturbation), _in_xml(edge.latent)
        network.add_edge(*ends, probability=float(edge.probability), effect=float(edge.effect))
    nx.write_graphml(network, path)


def _in_xml(name: object) -> str:
    r"""A name with the control characters that XML has no way to hold written out, as \x1b."""
    unfit = r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
    return re.sub(unfit, lambda found: found[0].encode("unicode_escape").decode("ascii"), str(name))


TEXT: dict[str, Callable[[AnnData, Path], Any]] = {
    ".csv": lambda graph, path: edges(graph).to_csv(path, index=False),
    ".json": lambda graph, path: path.write_text(json.dumps(as_json(graph), indent=1) + "\n", encoding="utf-8"),
    ".graphml": _write_graphml,
}
