"""Of screens, graphs of targets, benchmarks and training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cellalign.errors import counted
from cellalign.reporting.blocks import Block, Chart, Finding, Section, Table, Tone
from cellalign.reporting.figures import BLUE, GREEN, MOST_ROWS, PALETTE, SYMBOLS, curves, heat_map, rows_of_dots
from cellalign.reporting.parts import EDGES_ALONE, Benchmarked, Targeted, Trained
from cellalign.reporting.scores import Scores, listed, number

SCREEN, ANCHORED = "screen", "anchored"
LATENTS, SETS, PROGRAM = 60, 3, 8  # rows of the table of latents; gene sets and genes in one


def screen_section(scores: Scores, name: str, of: str) -> Section | None:
    """Every metric of a screen between its anchors; None where it was not scored."""
    rows = [row for row in scores.panel(SCREEN) if row["group"] == "all"]
    if not rows:
        return None
    own = {(row["system"], row["metric"]): row["value"] for row in rows}
    systems = list(dict.fromkeys(row["system"] for row in rows))
    metrics = [m for m in dict.fromkeys(row["metric"] for row in rows) if not m.endswith("_se")]
    anchored = [m for m in metrics if math.isfinite(own.get((ANCHORED, m), math.nan))]
    blocks: list[Block] = []
    if anchored:
        values = np.array([own[ANCHORED, m] for m in anchored])
        errors = np.array([own.get((ANCHORED, f"{m}_se"), math.nan) for m in anchored])
        series = {
            "name": "prediction",
            "values": values,
            "colour": BLUE,
            "low": values - errors,
            "high": values + errors,
        }
        figure = rows_of_dots(anchored, [series], title="0: mean response, 1: half of the real cells", line=0)
        caption = (
            "Each score between what the mean response reaches (0) and what one half of the real cells reaches of the "
            "other (1), ± one standard error over conditions. Left of the dashed line the mean response is better."
        )
        blocks.append(Chart({"all": figure}, caption))
    lines = []
    for metric in metrics:
        line = [metric]
        for system in systems:
            value, error = own.get((system, metric)), own.get((system, f"{metric}_se"))
            line.append(number(value) + (f" ± {number(error)}" if number(error) else ""))
        lines.append(line)
    blocks.append(Table(["", *systems], lines, "Scores of the screen, ± standard error over conditions"))
    note = next((each for each in scores.notes if each.startswith("screen:")), "")
    lead = "Whether many predicted conditions are told apart, and their genes and sizes right."
    return Section(name, f"Screen{of}", f"{lead} {note[:1].upper()}{note[1:]}{'.' if note else ''}".strip(), blocks)


def graph_section(own: Targeted, name: str, of: str) -> Section:
    """Which latents each perturbation targets, and the genes and gene sets of these."""
    from cellalign.plots.targets import row_order

    graph = own.graph
    effect = np.asarray(graph.X, dtype=float)
    edge: Any = np.asarray(graph.layers["edge"]).astype(bool)
    probability = np.asarray(graph.layers["probability"], dtype=float)
    rows = row_order(edge, effect)
    columns = np.argsort(-edge.sum(0), kind="stable")
    columns = columns[edge.any(0)[columns]] if edge.any() else columns
    names, latents = graph.obs_names[rows].astype(str), graph.var_names[columns].astype(str)
    shown = np.ix_(rows, columns)
    blocks: list[Block] = []
    if edge.any():
        caption = (
            "Effect of each perturbation (row) on each latent process (column) in standard deviations of the prior: "
            "blue down, red up, white no target. Perturbations with like targets stand together."
        )
        blocks.append(Chart({"all": heat_map(effect[shown], probability[shown], list(names), list(latents))}, caption))
    blocks += [_latents(own, edge, columns), *_sets(own)]
    unused = int((~edge.any(0)).sum())
    lead = f"{own.counted}; {counted(int(edge.sum()), 'edge')} to {counted(len(columns), 'latent')}"
    lead += f", {unused} more are targeted by none." if unused else "."
    return Section(name, f"Targets{of}", lead, blocks)


def graph_finding(own: Targeted, of: str) -> Finding:
    """How many perturbations have a target; nothing on the page tests whether it is the true one."""
    edge: Any = np.asarray(own.graph.layers["edge"]).astype(bool)
    used = int(edge.any(0).sum())
    text = f"{own.counted} among {used} latent processes"
    if EDGES_ALONE in own.graph.uns:
        text += "; how many have none, a table of edges does not say"
    if used:
        most = int(edge.sum(0).argmax())
        text += f"; {own.graph.var_names[most]} is targeted by most of them, {edge[:, most].sum()}"
    explained = (
        "A target is an edge that the model finds probable. What a process is say its genes; whether it is one in the "
        "cells, an experiment."
    )
    return Finding(text, "targets", "plain", of, explained)


def _latents(own: Targeted, edge: np.ndarray, columns: np.ndarray) -> Table:
    """A row per latent: who targets it, its genes, its gene sets."""
    graph, lines = own.graph, []
    has_genes, has_sets = "program" in graph.var, "gene_sets" in graph.var
    for j in columns[:LATENTS]:
        who = [str(name) for name in graph.obs_names[edge[:, j]]]
        line = [str(graph.var_names[j]), str(len(who)), listed(who, 6)]
        if has_genes:
            line.append(listed(str(graph.var["program"].iloc[j]).split(), PROGRAM))
        if has_sets:
            found = [each for each in str(graph.var["gene_sets"].iloc[j]).split("; ") if each]
            line.append(listed(found, SETS) or "none at q ≤ 0.05")
        lines.append(line)
    heads = [
        "latent",
        "perturbations",
        "which",
        *(["gene program"] if has_genes else []),
        *(["gene sets"] if has_sets else []),
    ]
    return Table(heads, lines, "Latent processes", words=(0, *range(2, len(heads))))


def _sets(own: Targeted) -> list[Table]:
    """The gene sets that are enriched, the most certain first."""
    if "enrichment" not in own.graph.uns:
        return []
    table = own.graph.uns["enrichment"]
    found = table[table["q"].astype(float) <= 0.05].sort_values("q").head(30)
    lines = [
        [
            str(r.latent),
            str(r.gene_set),
            f"{int(r.overlap)} of {int(r.in_model)}",
            f"{float(r.q):.2g}",
            listed(str(r.genes).split(), 8),
        ]
        for r in found.itertuples()
    ]
    if not lines:
        return []
    heads = ["latent", "gene set", "genes moved", "q", "which"]
    return [Table(heads, lines, "Enriched gene sets (Fisher's exact test, Benjamini and Hochberg)", words=(0, 1, 4))]


def benchmark_finding(own: Benchmarked, of: str) -> Finding | None:
    """Which methods are better than the best baseline."""
    if not own.sentence:
        return None
    better, worse = "; better than it" in own.sentence, "; worse than it" in own.sentence
    tone: Tone = "care" if not own.held_out else "good" if better else "bad" if worse else "care"
    mark = "benchmark" if own.held_out else "fitted, not predicted"
    return Finding(own.sentence, mark, tone, of, "")


def benchmark_section(own: Benchmarked, name: str, of: str) -> Section:
    """Methods by groups, and beside the best baseline."""
    series: list[dict[str, Any]] = [
        {"name": method, "values": values, "colour": PALETTE[i % len(PALETTE)], "symbol": SYMBOLS[i % len(SYMBOLS)]}
        for i, (method, values) in enumerate(zip(own.methods, own.values, strict=True))
    ]
    for line, colour, symbol in ((own.best, "#57606a", "bowtie-open"), (own.ceiling, GREEN, "line-ns-open")):
        if line is not None:
            series.append({"name": line[0], "values": line[1], "colour": colour, "symbol": symbol, "size": 14})
    blocks: list[Block] = []
    if len(own.groups) and len(own.methods):
        for each in series:
            each["values"] = each["values"][:MOST_ROWS]
        figure = rows_of_dots(own.groups[:MOST_ROWS], series, title=own.metric)
        figure["layout"]["height"] += 10 * len(own.groups[:MOST_ROWS]) * max(0, len(series) - 3)
        blocks.append(
            Chart(
                {"all": figure},
                f"{own.metric} of each group ({own.better}); marks are the best baseline and halves of the real cells.",
            )
        )
    if own.beside:
        blocks.append(Table(own.beside_columns, own.beside, f"{own.metric} beside the best baseline", words=(0, 1)))
    blocks.append(Table(own.columns, own.rows, f"{own.metric} of every method and baseline"))
    how = (
        "Each group was held out in turn, and predicted."
        if own.held_out
        else "Nothing was held out: what is scored was fitted."
    )
    return Section(name, f"Benchmark{of}", how, blocks)


def training_section(own: Trained, name: str, of: str) -> Section:
    """The losses, epoch by epoch, and what was trained."""
    record, outcome = own.record, own.record.outcome
    rows, blocks = own.history, []  # type: Sequence[Mapping[str, float]], list[Block]
    epochs = [float(row["epoch"]) for row in rows if "epoch" in row]
    if len(epochs) == len(rows) and rows:
        figures = _curves(rows, epochs, None if outcome is None else outcome.best_epoch)
        if figures:
            caption = (
                "Losses on the cells that were trained on and on validation cells: a gap that grows is overfitting. "
                "Spikes may reach beyond the frame."
            )
            blocks.append(Chart(figures, caption, choose="Curve"))
    blocks.append(Table(["", ""], _facts(own), "The model", words=(0, 1)))
    settings = [[key, _said(value)] for key, value in {**record.hyperparameters, **record.training}.items()]
    blocks.append(Table(["setting", "value"], settings, "", words=(0, 1), folded="All settings"))
    lead = own.about or f"Method {record.method}."
    if not rows:
        lead += " It is computed in closed form: there are no epochs to draw."
    return Section(name, f"Training{of}", lead, blocks)


def _curves(rows: Sequence[Mapping[str, float]], epochs: Sequence[float], best: int | None) -> dict[str, Any]:
    """One picture per kind of loss, of trained and validation cells."""
    kinds = dict.fromkeys(key.removeprefix("train_") for key in rows[0] if key.startswith("train_"))
    found = {}
    for kind in kinds:
        lines = {
            called: [_float(row.get(f"{prefix}_{kind}")) for row in rows]
            for prefix, called in (("train", "trained on"), ("validation", "validation"))
            if any(row.get(f"{prefix}_{kind}") is not None for row in rows)
        }
        lines = {called: values for called, values in lines.items() if not all(map(math.isnan, values))}
        if lines:
            found[kind] = curves(epochs, lines, best=best)
            found[kind]["layout"]["yaxis"]["title"] = {"text": kind}
    return found


def _float(value: Any) -> float:
    return math.nan if value is None or value == "" else float(value)


def _facts(own: Trained) -> list[list[str]]:
    """What a reader asks of a model first."""
    record, outcome = own.record, own.record.outcome
    facts = [["method", record.method + (f", preset {record.preset}" if record.preset else "")]]
    facts.append(
        [
            "cells",
            f"{record.cells.trained:,} trained on, {record.cells.validation:,} validation, of {record.cells.all:,}",
        ]
    )
    facts.append(["genes", f"{len(record.genes):,}, read from {record.matrix}"])
    for each in record.fields:
        known = list(getattr(each, "categories", None) or [])
        reference = getattr(each, "reference", None)
        said = f"{each.name}: {listed([str(k) for k in known], 6)}" if known else each.name
        facts.append([each.role, said + (f" (control: {reference})" if reference else "")])
    facts.append(["held out", "; ".join(record.holdout) or "nothing: every cell it predicts from this file is fitted"])
    if record.tuned is not None and record.tuned.holdout:
        facts.append(["settings chosen", f"by how well these are predicted: {'; '.join(record.tuned.groups)}"])
    if outcome is not None:
        epochs = f"{counted(outcome.epochs, 'epoch')}, " if outcome.epochs else ""
        facts.append(
            [
                "training",
                f"{epochs}{outcome.took}" + (f", best epoch {outcome.best_epoch}" if outcome.best_epoch else ""),
            ]
        )
        facts += [["found", each] for each in outcome.findings]
    facts.append(["seed", str(record.seed)])
    return facts


def _said(value: Any) -> str:
    if value is None:
        return "default"
    return listed([str(each) for each in value], 12) if isinstance(value, (list, tuple)) else str(value)
