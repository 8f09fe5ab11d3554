"""Which method answers which question: what each needs, what it gives, what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CLOSED, STEPS, LONG = "seconds", "minutes", "minutes to an hour"


@dataclass(frozen=True)
class Choice:
    """What to know of a method before it is chosen.

    Attributes
    ----------
    needs : str
        Of the cells: raw counts where it reads such, columns that have to be named, and of those it makes use of.
    gives : str
        What it is good for.
    cost : str
        Of a few thousand cells on two cores.
    """

    needs: str
    gives: str
    cost: str


PREDICT = "How would these cells be under a condition they were not measured in?"
INTEGRATE = "How do cells compare without the effect of condition or batch?"
TARGETS = "Which processes does each perturbation target?"
LABELS = "Which cell types are these?"
COMPARE = "What has every answer to beat?"
OTHERS = "Methods of other packages"

CHOICES: Mapping[str, Mapping[str, Choice]] = {
    PREDICT: {
        "local": Choice(
            "condition; label, batch, covariate help",
            "the safest prediction of a type, donor, site or dose held out, with intervals; begin here",
            CLOSED,
        ),
        "auto": Choice(
            "condition; label, batch, covariate help",
            "local, lemur and, if named, networks, each as far as it proves right on groups left out",
            f"{CLOSED}; {STEPS} with networks",
        ),
        "lemur": Choice("condition", "changes that vary smoothly with the state of a cell; no types needed", CLOSED),
        "scgen": Choice("condition; label helps", "one shift of latents for all types", STEPS),
        "trvae": Choice("condition", "several conditions at once, by MMD in the decoder", STEPS),
        "stgan": Choice("condition", "style transfer between two conditions, cell by cell", LONG),
    },
    INTEGRATE: {
        "comp": Choice(
            "condition", "latents that are independent of the condition, and counterfactuals; begin here", STEPS
        ),
        "scvi": Choice("raw counts; batch", "batches taken out, as scvi-tools does", STEPS),
        "invae": Choice("raw counts; batch, covariate", "biology and technology in latents apart", STEPS),
        "nf-ivae": Choice("raw counts; batch, covariate", "identifiable latents, given what varies", STEPS),
        "celligner": Choice("condition", "one condition laid onto another, as tumours onto cell lines", CLOSED),
        "vfae": Choice("condition", "latents without the condition, by MMD; fair representations", STEPS),
        "mmd-ae": Choice("condition", "the same without noise, as SAUCIE does", STEPS),
    },
    TARGETS: {
        "svae+": Choice(
            "raw counts; condition of many perturbations",
            "a graph from perturbations to latents with probabilities; begin here",
            STEPS,
        ),
        "svae": Choice("raw counts; condition", "the same by an L1 penalty", STEPS),
        "ivae": Choice("raw counts; condition", "every perturbation shifts every latent", STEPS),
    },
    LABELS: {
        "scanvi": Choice("raw counts; label of some cells; batch", "types of the others, and an embedding", STEPS),
    },
    COMPARE: {
        "linear": Choice("condition; label helps", "the mean shift, or a ridge regression", CLOSED),
        "pca": Choice("nothing", "principal components", CLOSED),
        "vae": Choice("nothing", "an embedding that knows no condition", STEPS),
        "cvae": Choice("condition", "a network without a penalty", STEPS),
        "beta-vae": Choice("raw counts", "latents of counts that know no perturbation", STEPS),
    },
}


def question_of(method: str) -> str:
    """What a method is chosen for."""
    return next((question for question, among in CHOICES.items() if method in among), OTHERS)


def choice_of(method: str, summary: str) -> Choice:
    """What to know of a method; of another package's what it says of itself."""
    return CHOICES.get(question_of(method), {}).get(method, Choice("", summary, ""))
