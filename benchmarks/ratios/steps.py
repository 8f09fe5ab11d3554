"""Comparisons within one process: steps, layers, likelihoods and penalties, by the scripts that measure each."""

from __future__ import annotations

import layers
import likelihood
import step

from ratios.measured import Bound, Measured, Run, compared, in_blocks

AT_ONCE = 5  # pairs of a few milliseconds whose median counts as one


def _milliseconds(value: float) -> str:
    return f"{value:.1f} ms" if value >= 10 else f"{value:.2f} ms"


def _seconds(value: float) -> str:
    return _milliseconds(1e3 * value)


def penalty(run: Run, method: str, precision: str = "float32", conditions: int = 2) -> Measured:
    """A training step of a method beside one of cvae."""
    found = step.measure((method, "cvae"), conditions=conditions, precision=precision, rounds=AT_ONCE * run.rounds(8))
    pairs = list(zip(found[method], found["cvae"], strict=True))
    return compared(in_blocks(pairs, AT_ONCE), _seconds)


def blocks(run: Run, name: str, n: int, absolute: bool) -> Measured:
    """CPU milliseconds of a penalty with its gradient, in row blocks and in tensor form."""
    import penalties

    rounds = 1 if run.quick else 5
    pairs = [penalties.measure(name, n, rounds)[::-1] for _ in range(run.rounds(5))]
    found = compared(pairs, lambda value: f"{value:.1f} ms CPU")
    return Measured([a for a, _ in pairs], found.this, found.beside, "ms CPU") if absolute else found


def start_up(run: Run) -> list[Measured]:
    """A row for each command: its words, CPU seconds by which it is above, and the most they may be."""
    import start_up as script

    return [
        Measured([above], "", "", "s CPU", f"start-up of `cellalign {words}`", bound=Bound("<=", most, "s CPU"))
        for words, above, most in script.measure()
    ]


def likelihoods(run: Run) -> list[Measured]:
    """From stored values beside the dense formula, in time; the script prints other densities too."""
    found = []
    for size in (128, 512):
        for name in ("nb", "zinb"):
            density, pairs = likelihood.measure(size, 0.07, name, AT_ONCE * run.rounds(6))
            what = f"`{name}` with its gradient, {size} x 2,000, {density:.1%} nonzero"
            found.append(compared(in_blocks(pairs, AT_ONCE), _seconds, what=what))
    return found


def first_layers(run: Run) -> list[Measured]:
    """The compiled gradient of sparse cells beside a dense one, in time."""
    found = []
    for size, genes, width in ((128, 2000, 128), (512, 2000, 512), (128, 10_000, 512)):
        pairs = layers.measure(size, genes, width, 0.06, AT_ONCE * run.rounds(12))
        what = f"first layer with its gradient, {size} x {genes:,} x {width}, 6% nonzero"
        found.append(compared(in_blocks(pairs, AT_ONCE), _milliseconds, what=what))
    return found
