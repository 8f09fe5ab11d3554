"""What `simulate.ifnb` draws: gene parameters and cells like those of Kang et al. 2018.

The numbers below and the profiles in `_ifnb_genes.txt` were read off 2,000 of the real cells (GEO GSE96583).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from cellalign.errors import UsageError

CELL_TYPES = ("CD4 T", "CD14 Mono", "CD8 T", "B", "NK", "CD16 Mono", "DC", "Mk")
# Of the real cells: share, median library size, standard deviation of the log library size.
PROPORTIONS = np.array([0.3685, 0.2205, 0.125, 0.1125, 0.0975, 0.0455, 0.0225, 0.008])
LIBRARY_SIZE = np.array([1090, 1960, 1000, 1050, 845, 2500, 3400, 1130])
LIBRARY_SD = np.array([0.28, 0.45, 0.27, 0.38, 0.30, 0.42, 0.30, 0.38])
MYELOID = np.array([0, 1, 0, 0, 0, 1, 1, 0], dtype=bool)
RARE_BELOW = 0.05

# Log counts per 10,000 of the genes without a known profile, by relative abundance rank in control cells.
RANKS = (0.0, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 1.0)
LOG_MEANS = (2.5, 1.68, 1.36, 0.86, 0.44, 0.06, -0.46, -0.92, -1.32, -1.67, -2.0, -2.33, -2.66, -3.07, -3.75, -4.3)

# The first programs run from one type to its neighbour, so that types blur as they do in the real cells.
AXES = ((0, 2), (2, 4), (1, 5))
AXIS_SD = 0.5
PROGRAMS = 8

# Of the site effect: the part that differs between cell types, and the standard deviation of the log library size.
SITE_SPECIFIC = 0.3
SITE_LIBRARY = 0.6
# Share of genes a disease changes, and of its effect the part that differs between cell types.
DISEASE_GENES = 0.2
DISEASE_SPECIFIC = 0.5


@dataclass(frozen=True)
class Genes:
    """The genes that can be simulated, most abundant first.

    `log_profile` and `response` have shape [genes, 8]: log counts per 10,000 in control cells of each type and the
    log ratio stimulated over control; rows that are not `known` are NaN.
    """

    symbols: np.ndarray
    known: np.ndarray
    log_profile: np.ndarray
    response: np.ndarray


@dataclass(frozen=True)
class Parameters:
    """What is drawn once per gene; arrays of shape [genes, types | programs | batches | donors]."""

    baseline: np.ndarray
    response: np.ndarray
    programs: np.ndarray
    batch: np.ndarray
    donor: np.ndarray
    dispersion: np.ndarray

    def subset(self, rows: np.ndarray) -> Parameters:
        return Parameters(**{name: values[rows].astype(np.float32) for name, values in vars(self).items()})


@dataclass(frozen=True)
class Cells:
    """What is drawn once per cell, each of length cells; `programs` [cells, programs], `size` the library size."""

    cell_type: np.ndarray
    stimulated: np.ndarray
    batch: np.ndarray
    donor: np.ndarray
    size: np.ndarray
    strength: np.ndarray
    programs: np.ndarray
    dose: np.ndarray | None


@dataclass(frozen=True)
class Sites:
    """Technical effects: `effect` [genes, sites, 8] on log expression, `log_library` [sites] on the log library size.

    `of_cell` [cells] is each cell's site.
    """

    effect: np.ndarray
    log_library: np.ndarray
    of_cell: np.ndarray


@dataclass(frozen=True)
class Disease:
    """A biological effect: `effect` [genes, 8] on log expression; `of_donor` [donors] is true for diseased donors."""

    effect: np.ndarray
    of_donor: np.ndarray


@cache
def genes() -> Genes:
    """Read the list of genes `ifnb` draws from."""
    text = (files("cellalign.simulate") / "_ifnb_genes.txt").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    known = np.array([len(row) == 3 for row in rows])
    values = np.full((2, len(rows), len(CELL_TYPES)), np.nan)
    for i in np.flatnonzero(known):
        values[:, i] = [np.array(column.split(","), dtype=float) for column in rows[i][1:]]
    log2_control, log2_ratio = values
    control = 2.0**log2_control
    # The ratios carry a pseudo-count of 0.5, which hides how far a silent gene rises; undo it.
    stimulated = np.maximum((control + 0.5) * 2.0**log2_ratio - 0.5, control / 16)
    symbols = np.array([row[0] for row in rows])
    return Genes(symbols, known, np.log(control), np.log(stimulated / control))


def check(
    n_cells: int,
    n_genes: int,
    types: Sequence[str],
    names: Sequence[str],
    rare: float | None,
    batches: int,
    donors: int,
    stimulated: float = 0.5,
) -> None:
    if not types:
        raise UsageError(f"the number of cell types must be between 1 and {len(CELL_TYPES)}")
    if not 0 <= stimulated < 1:
        raise UsageError(f"the share of stimulated cells must be at least 0 and below 1, not {stimulated:g}")
    if n_cells < least_cells(stimulated) * len(types):
        where = "2 conditions" if stimulated else "1 condition"
        raise UsageError(f"{n_cells} cells are too few for {len(types)} cell types in {where}; ask for more cells")
    most = len(genes().symbols)
    if not 20 <= n_genes <= most:
        raise UsageError(f"the number of genes must be between 20 and {most}, not {n_genes}")
    if len(names) != 2 or names[0] == names[1] or not all(names):
        raise UsageError(f"two different condition names are needed, not {', '.join(names) or 'none'}")
    if rare is not None and not 0 <= rare < 0.3:
        raise UsageError(f"the share of a rare cell type must be at least 0 and below 0.3, not {rare:g}")
    if batches < 0 or donors < 0:
        raise UsageError("the numbers of batches and donors must not be negative")


def check_sites_and_disease(sites: int, donors: int, diseased: float, doses: bool, stimulated: float) -> None:
    """Refuse sites, diseased donors and stimulated cells that the other arguments of `ifnb` leave no room for."""
    if sites < 0 or sites == 1:
        raise UsageError(f"the number of sites must be 0 or at least 2, not {sites}; one site differs from no other")
    if not 0 <= diseased < 1:
        raise UsageError(f"the share of diseased donors must be at least 0 and below 1, not {diseased:g}")
    if diseased and donors < 2:
        raise UsageError(f"a disease needs at least 2 donors, one of them healthy, not {donors}; ask for more donors")
    if doses and stimulated != 0.5:
        raise UsageError("a share of stimulated cells has no meaning with doses; give only one of them")


def least_cells(stimulated: float) -> int:
    """Cells every type has at least: one per condition that occurs."""
    return 2 if stimulated else 1


def check_scales(library_size: float, **scales: float) -> None:
    """Refuse a library size factor or, named as the arguments of `ifnb`, an effect out of range."""
    for name, value in scales.items():
        if not 0 <= value <= 3:
            raise UsageError(f"the {name.replace('_', ' ')} must be between 0 and 3, not {value:g}")
    if not 0 < library_size <= 1000:
        raise UsageError(f"the library size factor must be above 0 and at most 1000, not {library_size:g}")


def shares_of(types: Sequence[str], proportions: Mapping[str, float] | None, rare: float | None) -> np.ndarray:
    """Share of cells of each type, in the order of `types`."""
    given = dict(proportions or {})
    if rare is not None:
        small = [name for name, share in zip(types, PROPORTIONS, strict=False) if share < RARE_BELOW]
        given = dict.fromkeys(small, rare) | given
    unknown = sorted(set(given) - set(types))
    if unknown:
        raise UsageError(f"no cell type {unknown[0]!r} is simulated; choose from {', '.join(types)}")
    total = sum(given.values())
    if any(not share >= 0 for share in given.values()) or total > 1 + 1e-9:
        raise UsageError(f"cell type proportions must not be negative nor exceed 1 together; they sum to {total:g}")
    rest = np.array([0 if name in given else PROPORTIONS[i] for i, name in enumerate(types)])
    if not rest.any() and total == 0:
        raise UsageError("all cell type proportions are 0; give one type a share")
    fill = rest * (1 - total) / rest.sum() if rest.any() else rest
    shares = fill + np.array([given.get(name, 0.0) for name in types])
    return shares / shares.sum()


def choose_genes(n_genes: int) -> np.ndarray:
    """Rows of `genes()`: the most telling known genes first, then others evenly over abundance ranks."""
    table = genes()
    known = np.flatnonzero(table.known)
    if n_genes <= len(known):
        spread = np.std(np.log(np.exp(table.log_profile[known]) + 0.7), axis=1)
        control, stimulated = table.log_profile[known], table.log_profile[known] + table.response[known]
        size = np.abs(np.logaddexp(stimulated, 0) - np.logaddexp(control, 0))
        telling = np.maximum(spread, size.max(1))
        rows = known[np.argsort(-telling, kind="stable")[:n_genes]]
    else:
        others = np.flatnonzero(~table.known)
        take = np.linspace(0, len(others) - 1, n_genes - len(known)).round().astype(int)
        rows = np.concatenate([known, others[take]])
    return rows[np.argsort(table.symbols[rows])]


def draw_genes(
    rng: np.random.Generator,
    batches: int,
    donors: int,
    batch_effect: float,
    donor_effect: float,
    response_scale: float,
) -> Parameters:
    """Draw the parameters of all genes, so that a gene stays the same whichever others are asked for."""
    table, n = genes(), len(genes().symbols)
    log_mean = np.interp(np.arange(n) / (n - 1), RANKS, LOG_MEANS)
    lineage = np.where(MYELOID, 0.5, -0.5) * rng.laplace(0, 0.55, (n, 1))
    deviation = lineage + rng.laplace(0, 0.2, (n, len(CELL_TYPES)))
    # The deviations must not change a gene's mean over all cells, which its rank sets.
    deviation -= np.log(np.exp(deviation) @ PROPORTIONS)[:, None]
    baseline = np.where(table.known[:, None], table.log_profile, log_mean[:, None] + deviation)
    shared = rng.laplace(0, 1, (n, 1))
    response = np.where(MYELOID, 0.32, 0.09) * shared + rng.laplace(0, 0.06, (n, len(CELL_TYPES)))
    response = np.where(table.known[:, None], table.response, response) * response_scale
    abundance = np.exp(log_mean)[:, None]
    # Heavy tails: few genes carry a program; the most abundant ones, mostly ribosomal, vary least.
    programs = rng.laplace(0, 0.04 + 0.12 / (1 + abundance / 10), (n, PROGRAMS))
    for k, (one, other) in enumerate(AXES):
        programs[:, k] = np.clip(baseline[:, other] - baseline[:, one], -1.5, 1.5)
    batch = batch_effect * rng.standard_normal((n, batches))
    donor = donor_effect * rng.standard_normal((n, donors))
    dispersion = (0.03 + 1.7 / (1 + 3 * abundance[:, 0])) * rng.lognormal(0, 0.5, n)
    return Parameters(baseline, response, programs, batch, donor, dispersion)


def draw_cells(
    rng: np.random.Generator,
    n_cells: int,
    shares: np.ndarray,
    batches: int,
    donors: int,
    donor_effect: float,
    doses: bool = False,
    stimulated: float = 0.5,
) -> Cells:
    """Draw each cell's type, condition, batch, donor, library size, strength of response and programs."""
    counts = allocate(n_cells, shares, least_cells(stimulated))
    cell_type = np.repeat(np.arange(len(shares)), counts)
    is_stimulated = np.concatenate([_spread(count, i, stimulated) for i, count in enumerate(counts)])
    order = rng.permutation(n_cells)
    cell_type, is_stimulated = cell_type[order], is_stimulated[order]
    batch = rng.integers(0, max(batches, 1), n_cells)
    donor = rng.integers(0, max(donors, 1), n_cells)
    log_size = np.log(LIBRARY_SIZE)[cell_type] + LIBRARY_SD[cell_type] * rng.standard_normal(n_cells)
    donor_strength = np.exp(donor_effect * rng.standard_normal(max(donors, 1))) if donors else np.ones(1)
    strength = rng.lognormal(-0.5 * 0.15**2, 0.15, n_cells) * donor_strength[donor]
    # Every type uses the programs to another degree, so its cells spread along directions of their own.
    activity = rng.uniform(0.2, 1.2, (len(shares), PROGRAMS))
    for k, axis in enumerate(AXES):
        activity[:, k] = np.where(np.isin(np.arange(len(shares)), axis), AXIS_SD, 0)
    programs = rng.standard_normal((n_cells, PROGRAMS)) * activity[cell_type]
    # drawn last: the other draws are the same with and without doses
    dose = np.where(rng.random(n_cells) < 0.1, 0.0, 1 - rng.random(n_cells)) if doses else None
    return Cells(cell_type, is_stimulated, batch, donor, np.exp(log_size), strength, programs, dose)


def draw_sites(rng: np.random.Generator, n_cells: int, sites: int, site_effect: float) -> Sites:
    """Draw the effects of all sites on all genes, then the site of each cell."""
    n = len(genes().symbols)
    effect = rng.standard_normal((n, sites, 1)) + SITE_SPECIFIC * rng.standard_normal((n, sites, len(CELL_TYPES)))
    log_library = SITE_LIBRARY * rng.standard_normal(sites)
    return Sites(site_effect * effect, site_effect * log_library, rng.integers(0, max(sites, 1), n_cells))


def draw_disease(rng: np.random.Generator, donors: int, diseased: float, disease_effect: float) -> Disease:
    """Draw a disease's effect on all genes and who of the donors has it: at least one does and one does not."""
    n = len(genes().symbols)
    affected = rng.random((n, 1)) < DISEASE_GENES
    effect = rng.standard_normal((n, 1)) + DISEASE_SPECIFIC * rng.standard_normal((n, len(CELL_TYPES)))
    count = min(max(round(diseased * donors), 1), donors - 1)
    return Disease(disease_effect * np.where(affected, effect, 0), rng.permutation(donors) < count)


def _spread(count: int, offset: int, share: float) -> np.ndarray:
    """Mark a share of `count` cells evenly, but neither none nor all of them unless the share is 0; bool [count]."""
    position = np.arange(offset, offset + count)
    marked = np.floor((position + 1) * share) > np.floor(position * share)
    if share:
        marked[-1] |= not marked.any()
        marked[0] &= not marked.all()
    return marked


def allocate(n_cells: int, shares: np.ndarray, least: int = 2) -> np.ndarray:
    """Cells per type by largest remainder, at least `least` each."""
    counts = np.maximum(np.floor(shares * n_cells).astype(int), least)
    while counts.sum() != n_cells:
        gap = shares * n_cells - counts
        if counts.sum() < n_cells:
            counts[np.argmax(gap)] += 1
        else:
            counts[np.argmin(np.where(counts > least, gap, np.inf))] -= 1
    return counts
