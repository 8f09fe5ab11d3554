"""What the help says beside the options: commands in groups, each in one line, and when to use which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Page:
    """One command: its line in the list of all, and when it is the one to use."""

    line: str
    when: str = ""


GROUPS: Mapping[str, Mapping[str, Page]] = {
    "Before training": {
        "check": Page(
            "Is this file fit, and this design? What to do about what is not.",
            "Use it first, on a file of your own: with --condition it says whether the effect can be told at all.",
        ),
        "info": Page(
            "What a file or a model holds, in words.",
            "Use it on a file that somebody sent, or a model of last year.",
        ),
        "methods": Page(
            "Which method for which question; its settings, presets; metrics.",
            "Use it to choose: by what you ask, what it needs and what it costs. With a name it tells all.",
        ),
        "preprocess": Page(
            "Normalise and choose genes once, for many commands.",
            "Use it where several commands read the same cells, or you want the file. train takes raw counts too.",
        ),
        "convert": Page(
            "Cells of any format, or several files, as one file by rows.",
            "Use it where a file is larger than memory and kept by columns, or of a format that is read as a whole.",
        ),
    },
    "Train": {
        "train": Page(
            "Train a method on cells and write the model directory.",
            "To predict a cell type or donor held out: --method local, in seconds, or auto. To integrate: comp, scvi "
            "on counts with --batch. Which perturbation targets what: svae+. `cellalign methods` lists all.",
        ),
        "tune": Page(
            "Train every combination of settings, rank them, keep the best.",
            "Use it after a first training that works; for most methods the defaults are near the best.",
        ),
        "transfer": Page(
            "Add perturbations that a trained model has never seen.",
            "Use it with svae+ and its kin; for new batches or conditions of other methods: train --from MODEL.",
        ),
        "reproduce": Page(
            "Train a model again from its model.yaml, and compare.",
            "Use it to show that a published model is what its settings give.",
        ),
    },
    "Use a model": {
        "embed": Page(
            "The cells' latents: obsm X_<method>, UMAP, pictures.",
            "Use it to cluster, draw or join cells without the effect of condition or batch.",
        ),
        "counterfactual": Page(
            "The cells as if under another condition.",
            "Use it to predict: what a group of cells would be that was not measured under --to. Hold the group out in "
            "training (--holdout), or what it gives is a fit.",
        ),
        "annotate": Page(
            "Cell types of unlabelled cells, with probabilities.",
            "Use it where some cells, or another data set, are labelled.",
        ),
        "targets": Page(
            "Which latent processes each perturbation targets.",
            "Use it after training svae+, svae or ivae on a screen.",
        ),
    },
    "How good is it": {
        "evaluate": Page(
            "Scores beside their null and baselines, and a verdict.",
            "Use it on an embedding (mixing, cell types kept), or on a counterfactual with --against the real cells.",
        ),
        "benchmark": Page(
            "Hold each group out in turn, predict it by several methods.",
            "Use it to choose a method for your own data, and to know what to expect of it.",
        ),
        "report": Page(
            "One page of a run: what was found and how far to believe it.",
            "Use it at the end, to read, print and send on: give it whatever the other commands wrote.",
        ),
        "plot": Page("Draw what other commands wrote: UMAP, curves, scatter, violin, graph, heat map."),
    },
    "Try it": {
        "demo": Page("The whole job on simulated cells, in a minute or two."),
        "simulate": Page("Simulate data with the truth inside."),
    },
}
PAGES: Mapping[str, Page] = {verb: page for group in GROUPS.values() for verb, page in group.items()}
