"""Parts of a report, made by hand: of every section something, with names that are markup."""

from __future__ import annotations

import math
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from cellalign.evaluation.table import Response
from cellalign.records import CellNumbers, Counterfactual, FieldRecord, FileRecord, ModelRecord, Outcome, SourceRecord
from cellalign.reporting.parts import Benchmarked, Embedded, File, Parts, Predicted, Targeted, Trained
from cellalign.reporting.scores import Scores

EVIL = "<script>alert('x')</script> & <b>B</b>"
GENES = [f"GENE{i}" for i in range(199)] + ["</script><img src=x onerror=alert(1)>"]
GROUPS = ("NK", EVIL)


def row(panel: str, system: str, group: str, metric: str, value: float, **more: Any) -> dict[str, Any]:
    """A row as an evaluation records it."""
    own = {"panel": panel, "system": system, "group": group, "metric": metric, "value": value, "n_cells": 120}
    return own | {"better": "up", "null": math.nan, "null_sd": math.nan} | more


def response_rows(status: str = "predicted", difference: tuple[float, float, float] = (0.1, 0.05, 0.15)) -> list[dict]:
    """A prediction of two groups beside one baseline."""
    apart = dict(zip(("difference", "difference_low", "difference_high"), difference, strict=True))
    found = []
    for i, group in enumerate((*GROUPS, "mean")):
        value = 0.8125 + i / 100
        worth = {"low": value - 0.05, "high": value + 0.05, "anchored": 0.7, "measurable": True}
        ours = worth | apart | {"status": status, "best_baseline": "mean shift", "p": 0.03}
        found.append(row("response", "prediction", group, "r_change_de", value, **ours))
        found.append(row("response", "mean shift", group, "r_change_de", value - difference[0], **worth))
        found.append(row("response", "split half", group, "r_change_de", 0.97, measurable=True))
    return found


def scores(rows: list[dict], verdict: str = "", name: str = "held.h5ad", **more: Any) -> Scores:
    """Scores as read from JSON."""
    content = {"scores": [{k: None if v != v else v for k, v in each.items()} for each in rows], "verdict": verdict}
    return Scores.of_json(content | more, name)


def mixing_rows() -> list[dict]:
    """Mixing of all cells and of those not trained on, and the scIB panel."""
    found = []
    for system, value in (("validation cells", 0.11), ("all", 0.02)):
        for metric in ("kBET", "s", "own share"):
            found.append(row("mixing", system, "all", metric, value, null=0.1, null_sd=0.01))
    found.append(row("cross-condition", "mean", "all", "accuracy", 0.5))
    return [*found, row("bio", "X_comp", "all", "total", 0.625), row("probe", "stim", "all", "majority", 0.5)]


def screen_rows() -> list[dict]:
    """A screen between its anchors."""
    found = []
    for system, value in (("prediction", 0.7), ("mean response", 0.5), ("split half", 0.9), ("anchored", 0.5)):
        found += [
            row("screen", system, "all", "discrimination", value),
            row("screen", system, "all", "discrimination_se", 0.04),
        ]
    return found


def responses() -> list[Response]:
    """What pictures show of the two groups."""
    rng = np.random.default_rng(0)
    found = []
    for i, group in enumerate(GROUPS):
        means = {
            kind: rng.gamma(1.0, 0.5, len(GENES)) + j * (np.arange(len(GENES)) < 50) for j, kind in enumerate(KINDS)
        }
        de = np.r_[len(GENES) - 1, np.arange(49)]
        cells = {kind: np.maximum(rng.normal(means[kind][de[:10]], 0.5, (60, 10)), 0) for kind in KINDS}
        sizes = {kind: 60 for kind in KINDS}
        names = np.array(GENES)
        found.append(Response(group, "control", "stimulated", i == 0, names, de, means, cells, sizes, 0.9, 0.8))
    return found


KINDS = ("control", "predicted", "real")


def model() -> Trained:
    """A model of ten epochs."""
    fields = [
        FieldRecord(
            kind="categorical", name="stim", role="condition", categories=["control", "stimulated"], reference="control"
        )
    ]
    record = ModelRecord(
        format_version=ModelRecord.FORMAT,
        cellalign="0.1.0",
        method="comp",
        hyperparameters={"latent_dim": 10, "hidden": [8, 8]},
        training={"epochs": 10},
        matrix="X",
        fields=fields,
        holdout=["cell_type=NK,stim=stimulated"],
        seed=0,
        cells=CellNumbers(all=2000, trained=1700, validation=190),
        source=SourceRecord(path="/home/somebody/secret/cells.h5ad", checksum="sha256:abc", others=[FileRecord()]),
        command=f"cellalign train 'a {EVIL}.h5ad'",
        command_hint="",
        versions={"torch": "2.13.0"},
        outcome=Outcome(epochs=10, steps=40, seconds=3.0, best_epoch=10, setbacks=["epoch 3"]),
        genes=GENES,
    )
    history = [
        {"epoch": e, "train_loss": 10.0 / e, "validation_loss": 11.0 / e, "train_kl": 1.0 * e} for e in range(1, 11)
    ]
    return Trained("cellalign-model", record, history, "comp: mixes posteriors.")


def cells(n: int = 500) -> Embedded:
    """Two pictures of n cells, which can be coloured by categories, numbers and a gene."""
    rng = np.random.default_rng(0)
    codes = rng.integers(3, size=n)
    missing = np.where(rng.random(n) < 0.1, -1, codes)
    columns = {
        "stim": pd.Categorical.from_codes(codes % 2, ["control", "stimulated"]),
        "cell_type": pd.Categorical.from_codes(missing, ["NK", EVIL, "B"]),
        "n_counts": rng.gamma(2.0, 500.0, n),
        "many": pd.Categorical.from_codes(rng.integers(25, size=n), [f"k{i}" for i in range(25)]),
    }
    middle = np.array([[0, 0], [4, 1], [2, 5]])[codes]
    before, after = (rng.normal(middle + shift, 0.7).astype(np.float32) for shift in (0, 1))
    crossed = {"donor": pd.DataFrame({"control": [5, 0], "stimulated": [0, 5]}, index=["d1", "d2"])}
    return Embedded(
        *("kang.emb.h5ad", "comp", "stim", "cell_type", after, before, columns, n),
        left_out=["barcode (500 values)"],
        scores=scores(mixing_rows(), name="kang.emb.h5ad"),
        crossed=crossed,
    )


def prediction(status: str = "predicted", verdict: str = "the response is better than the best baseline") -> Predicted:
    """A prediction of the two groups."""
    record = Counterfactual(method="comp", condition="stim", from_="control", to="stimulated", written="draw", draws=1)
    own = scores(response_rows(status), verdict, measurable={"groups": 2, "of": 2})
    return Predicted("held.h5ad", "kang.pp.h5ad", record, responses(), own, "cell_type")


def graph() -> Targeted:
    """Six perturbations, four latents, gene programs and sets."""
    rng = np.random.default_rng(1)
    edge = rng.random((6, 4)) < 0.4
    edge[0, 0] = True
    var = pd.DataFrame({"program": ["ISG15 IFI6"] * 4}, index=[f"z{i}" for i in range(4)])
    found = ad.AnnData(
        X=(edge * rng.normal(size=(6, 4))).astype(np.float32),
        obs=pd.DataFrame(index=["KO1", EVIL, "KO3", "KO4", "KO5", "KO6"]),
        var=var,
        layers={"probability": np.where(edge, 0.9, 0.1), "edge": edge},
    )
    found.uns["enrichment"] = pd.DataFrame(
        [{"latent": "z0", "gene_set": "interferon", "overlap": 9, "in_model": 20, "q": 1e-6, "genes": "ISG15 IFI6"}]
    )
    return Targeted("targets.h5ad", found)


def benchmark(held_out: bool = True) -> Benchmarked:
    """Two methods on two groups."""
    said = "best baseline by r_change_de: mean shift; worse than it: scgen (2 groups)"
    return Benchmarked(
        *("benchmark.csv", "r_change_de", "higher is better", held_out, ["comp", "scgen"], list(GROUPS)),
        np.array([[0.9, 0.8], [0.5, 0.6]]),
        ("best baseline: mean shift", np.array([0.7, 0.7])),
        ("halves of the real cells", np.array([0.97, 0.97])),
        ["method", "NK"],
        [["comp", "0.900"], ["scgen", "0.500"]],
        ["method", "best baseline"],
        [["comp", "mean shift"]],
        said,
    )


def everything(n: int = 500) -> Parts:
    """A report in which no section is missing."""
    return Parts(
        models=[model()],
        embedded=[cells(n)],
        predicted=[prediction()],
        scored=[scores(screen_rows(), name="screen.json")],
        benchmarks=[benchmark()],
        graphs=[graph()],
        files=[File(f"a {EVIL}.h5ad", "cells", "sha256:0123", 1234)],
        command="cellalign report",
        version="0.1.0",
        when="1 January 2026",
    )
