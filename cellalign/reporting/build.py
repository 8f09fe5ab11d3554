"""From the parts of a report to its page: which sections there are, and why others are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cellalign.data.folders import name_of, without_folders
from cellalign.reporting import embedding, further, others, response
from cellalign.reporting.blocks import Absent, Block, Command, Finding, Section, Table
from cellalign.reporting.cautions import cautions
from cellalign.reporting.parts import Parts, Predicted
from cellalign.reporting.render import Page
from cellalign.reporting.scores import Scores, listed

WHY = {
    "response": "no prediction was given with real cells (cellalign counterfactual, then --against CELLS)",
    "cells": "no embedded cells were given (cellalign embed --umap)",
    "mixing": "no embedded cells and no evaluation of them were given",
    "scib": "panel bio was not run (cellalign evaluate CELLS --panel bio --label KEY -o scores.json)",
    "screen": "it needs predictions of three conditions or more (cellalign counterfactual --to all)",
    "targets": "no graph was given (cellalign targets, of a method that learns one)",
    "benchmark": "no table of cellalign benchmark was given",
    "training": "no model directory was given",
}
TITLES = {
    "response": "Predicted response",
    "cells": "Cells before and after",
    "mixing": "Mixing of conditions",
    "scib": "scIB panel",
    "screen": "Screen",
    "targets": "Targets",
    "benchmark": "Benchmark",
    "training": "Training",
}

ORDER = ("response", "cells", "mixing", "scib", "screen", "further", "targets", "benchmark", "training")


def build(parts: Parts) -> Page:
    """The page of these parts."""
    sections: dict[str, list[Section]] = {name: [] for name in (*TITLES, "further")}
    scores = parts.all_scores()
    predicted = {id(each.scores): each for each in parts.predicted}
    ofs = _ofs(scores)
    for own, of in zip(scores, ofs, strict=True):
        kinds: dict[str, Callable[[str], Section | None]] = {
            "response": lambda name, own=own, of=of: response.section(own, predicted.get(id(own)), name, of),  # type: ignore[misc]
            "mixing": lambda name, own=own, of=of: embedding.mixing_section(own, name, of),  # type: ignore[misc]
            "scib": lambda name, own=own, of=of: embedding.scib_section(own, name, of),  # type: ignore[misc]
            "further": lambda name, own=own, of=of: further.further_section(own, name, of),  # type: ignore[misc]
            "screen": lambda name, own=own, of=of: others.screen_section(own, name, of),  # type: ignore[misc]
        }
        for kind, make in kinds.items():
            made = make(_name(kind, sections[kind]))
            if made is not None:
                sections[kind].append(made)
    _each(sections, "cells", parts.embedded, embedding.map_section)
    _each(sections, "targets", parts.graphs, others.graph_section)
    _each(sections, "benchmark", parts.benchmarks, others.benchmark_section)
    _each(sections, "training", parts.models, others.training_section)
    shown = [each for kind in ORDER for each in sections[kind]]
    shown += [each for each in (further.glossary(scores), _made(parts)) if each is not None]
    few = next(({"cells": each.why_no_before} for each in parts.embedded if each.after is None), {})
    why = WHY | few | _left_out(scores) | parts.without
    absent = [Absent(TITLES[kind], why[kind]) for kind in TITLES if not sections[kind]]
    by = f"Made by cellalign {parts.version}, {parts.when}."
    return Page(_title(parts), _done(parts), _findings(parts, scores), cautions(parts), shown, absent, by)


def _each(
    sections: dict[str, list[Section]], kind: str, parts: Sequence[Any], make: Callable[..., Section | None]
) -> None:
    """A section of each part; of several the heading says which."""
    for own in parts:
        made = make(own, _name(kind, sections[kind]), f": {own.name}" if len(parts) > 1 else "")
        if made is not None:
            sections[kind].append(made)


def _name(kind: str, there: Sequence[Section]) -> str:
    return kind if not there else f"{kind}-{len(there) + 1}"


def _ofs(scores: Sequence[Scores]) -> list[str]:
    """What a heading adds where several scores have the same panel."""
    panels = [panel for each in scores for panel in each.panels()]
    return [f": {each.name}" if any(panels.count(panel) > 1 for panel in each.panels()) else "" for each in scores]


def _left_out(scores: Sequence[Scores]) -> dict[str, str]:
    """Why panels that were tried did not run."""
    found = {}
    for kind, panel in (("scib", "bio"), ("mixing", "mixing"), ("response", "response"), ("screen", "screen")):
        reasons = [each.left_out[panel] for each in scores if panel in each.left_out]
        if reasons and len(reasons) == len(scores) and panel != "bio":
            found[kind] = reasons[0]
    return found


def _findings(parts: Parts, scores: Sequence[Scores]) -> list[Finding]:
    """Predictions first, then benchmarks, then integration."""
    several = len(scores) + len(parts.benchmarks) > 1
    found = [response.finding(each, each.name if several else "") for each in scores]
    found.sort(key=lambda each: each is not None and not each.mark.startswith(response.PREDICTED))
    found += [others.benchmark_finding(each, each.name if several else "") for each in parts.benchmarks]
    found += [embedding.finding(each, each.name if several else "") for each in scores]
    found += [
        others.graph_finding(each, each.name if several or len(parts.graphs) > 1 else "") for each in parts.graphs
    ]
    there = [each for each in found if each is not None]
    explained: set[str] = set()
    once = []
    for each in there:  # what is explained once need not be again
        once.append(
            Finding(each.text, each.mark, each.tone, each.of, "" if each.explained in explained else each.explained)
        )
        explained.add(each.explained)
    return once


def _title(parts: Parts) -> str:
    """What was run, in a line."""
    if parts.title:
        return parts.title
    if parts.predicted:
        own = parts.predicted[0]
        if own.record is not None:
            to = listed([each.to for each in own.record.each()], 2)
            return f"Cells under {own.record.condition}\u00a0=\u00a0{to}, predicted by {own.record.method}"
        return f"Predicted cells of {own.name}"
    if parts.benchmarks:
        return f"Benchmark of {listed(list(parts.benchmarks[0].methods), 4)}"
    if parts.embedded:
        own_cells = parts.embedded[0]
        across = f" across {own_cells.condition}" if own_cells.condition else ""
        return f"Cells integrated{across} by {own_cells.method}"
    if parts.graphs:
        return f"Targets of {len(parts.graphs[0].graph.obs_names)} perturbations"
    if parts.models:
        return f"A model of {parts.models[0].name}, trained by {parts.models[0].record.method}"
    return "Scores of an evaluation"


def _done(parts: Parts) -> list[str]:
    """What was run, in words."""
    said = []
    for model in parts.models:
        record = model.record
        condition = next((each.name for each in record.fields if each.role == "condition"), None)
        across = f" of the effect of {condition}" if condition else ""
        held = f", holding out {listed(record.holdout, 3)}" if record.holdout else ", with nothing held out"
        said.append(
            f"{record.method} learned a model{across} from {record.cells.trained:,} cells and "
            f"{len(record.genes):,} genes{held}."
        )
    said += [f"{_predicted(each)}" for each in parts.predicted]
    for cells in parts.embedded:
        said.append(f"{cells.n_cells:,} cells of {cells.name} were embedded by {cells.method}.")
    for own in parts.benchmarks:
        how = "groups held out in turn" if own.held_out else "nothing held out"
        said.append(f"{len(own.methods)} methods were compared by {own.metric} on {len(own.groups)} groups, {how}.")
    for graph in parts.graphs:
        said.append(f"{graph.name} holds the targets of {len(graph.graph.obs_names)} perturbations.")
    said += [f"Scores were read from {each.name}." for each in parts.scored]
    return said


def _predicted(own: Predicted) -> str:
    record = own.record
    if record is None:
        return (
            f"The predicted cells of {own.name}, of another tool, were compared with the real cells of {own.against}."
        )
    start = f" {record.from_}" if record.from_ else ""
    to = listed([each.to for each in record.each()], 3)
    return (
        f"{record.method} predicted{start} cells as if {record.condition} were {to} ({own.name}), which is compared "
        f"with the real cells of {own.against}."
    )


def _made(parts: Parts) -> Section:
    """Commands, files and versions: what somebody needs to do it again."""
    blocks: list[Block] = []
    commands = [each.record.command for each in parts.models if each.record.command]
    blocks += [Command(f"$ {each}") for each in map(without_folders, [*commands, parts.command]) if each]
    if parts.files:
        lines = [[each.name, each.kind, f"{each.size:,}", each.checksum] for each in parts.files]
        blocks.append(Table(["file", "what it is", "bytes", "checksum"], lines, "What was read", words=(0, 1, 3)))
    for model in parts.models:
        record, lines = model.record, []
        for file in record.source.files():
            if file.path:  # its folder says more of a user than of the cells
                lines.append([name_of(file.path), file.checksum or ""])
        versions = {"cellalign": record.cellalign, **record.versions}
        if lines:
            blocks.append(Table(["training file", "checksum"], lines, f"{model.name} was trained on", words=(0, 1)))
        machine = record.machine
        more = [["device", f"{machine.device}, {machine.processor}, {machine.threads} threads"]] if machine else []
        rows = [*([name, version] for name, version in versions.items()), *more]
        blocks.append(Table(["", "version"], rows, "", words=(0, 1), folded=f"Versions that trained {model.name}"))
    lead = "Everything needed to do it again."
    return Section("made", "How it was made", lead, blocks)
