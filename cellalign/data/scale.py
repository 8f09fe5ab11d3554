"""On which scale a matrix is: counts, normalised, log, scaled, judged by its values and by the sums of its cells.

Whole cells are looked at, a few thousand drawn at random: their sums are exact, and no one gene decides. In this order,
the first that holds:

1. **Negative values**: "scaled" where many are negative and genes are centred, else "other".
2. **Integers**: all of them are "counts". Within 1e-3 of an integer is the noise of arithmetic, "nearly counts".
3. **Equal sums of cells**, as they are or once one logarithm, or two, are undone. That alone proves a logarithm. Sums
   that are equal as they are prove that there is none only beside more evidence (6, values beyond any logarithm, or a
   sum of 1, 100, 1e4, ...): proportional fitting after log1p and quantile normalisation make those of logs equal too.
4. **Integers in some cells** and not in others: files on two scales were joined, "other". **Integers once a logarithm
   is undone** (natural, base 2, base 10): "log" of counts that were not normalised.
5. **Integers times one number** that is the same in all cells: "nearly counts" where it is about 1 (as SoupX leaves
   them), else "normalised". **A quarter or more of the values are integers**: estimated counts (SoupX, RSEM, alevin,
   STARsolo --EM), "nearly counts". Of log or normalised values hardly one is, by chance.
6. **Multiples of one number**: counts of one cell over its depth are 1, 2, 3, ... times the smallest of them, whichever
   genes were kept. So are the values of most cells as they are ("normalised", "fractions") or once a logarithm is
   undone ("log", "double log"). This is how a subset of genes is recognised, whose sums say nothing. Values that were
   rounded to few digits are multiples of 0.01 whatever they are: they say nothing.
7. **Nearly equal sums** once a logarithm is undone, or a few different ones: "log" of which some genes were dropped, or
   of files normalised to different totals.
8. **Genes of one spread**: values that were scaled and cut off below zero, "scaled". Of a gene with mean 0 and variance
   1 the squares of what is left, and of what was cut off taken as one number, add up to at most the number of cells,
   and of most genes nearly to that; of log values it is anything from a hundredth of that to a thousand times as much.
9. "other": whatever is left, as imputed or corrected expression. It is for the caller to take it, or not, by its range.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from scipy import sparse

from cellalign.data.noise import INTEGER, whole
from cellalign.data.sample import Sample, rows_as_csr
from cellalign.data.stored import Stored

Kind = Literal["counts", "nearly counts", "normalised", "log", "double log", "fractions", "scaled", "other"]

EQUAL, NEARLY_EQUAL = 1e-3, 1e-2  # sums of cells, relative to their median
LARGEST_LOG = 50  # log1p of any real count is below this; raw counts of a cell's top gene are above
ESTIMATED = 0.25  # share of integers among estimated counts
TWICE = 3.5  # log1p of log1p is below
# of the last matrices, which are judged at several doors: their values, what would tell that these changed, the scale
_judged: deque[tuple[Any, tuple[Any, ...], Scale]] = deque(maxlen=8)


@dataclass(frozen=True)
class Scale:
    """What a matrix was found to be.

    Attributes
    ----------
    kind : str
        "counts" are integers, "nearly counts" almost (estimated counts, rounding); "normalised" has equal sums of
        cells without a logarithm, "fractions" sums of 1; "log" is log1p of normalised expression, "double log" that of
        it again; "scaled" is centred.
    total : float, optional
        Of "normalised" and "log": what the cells' normalised expression sums up to, where it is the same in all.
    said : str
        The evidence in words, such as "2 % of values are no integers, the first 3.27 in cell 4, gene 17".
    base : float, optional
        Of the logarithm, where it is not the natural one.
    largest : float
        Of the values looked at.
    mixed : bool
        Some cells are on another scale than the others.
    """

    kind: Kind
    total: float | None
    said: str
    base: float | None = None
    largest: float = 0.0
    mixed: bool = False

    @property
    def all_zero(self) -> bool:
        """No value is other than zero."""
        return self.largest == 0.0 and self.kind == "other"


def scale_of(x: Any, *, seed: int = 0) -> Scale:
    """The scale of a matrix, by random cells and genes; nothing is made dense, the matrix is not changed.

    Parameters
    ----------
    x : sparse or dense matrix [n_cells, n_genes]
        Stored zeros and duplicates count as their values.
    seed : int
        Of the cells that are looked at.
    """
    if x.dtype.kind not in "iufb":
        return Scale("other", None, f"it holds {x.dtype}, no numbers", largest=np.nan)
    if isinstance(x, Stored):  # which nobody changes
        x.scale = x.scale or _judge(x, seed)
        return x.scale
    values = x.data if sparse.issparse(x) else np.asarray(x)
    with np.errstate(all="ignore"):
        mark = (x.shape, seed, float(values.sum(dtype=np.float64)))
    for held, seen, scale in _judged:
        if held() is values and seen == mark:
            return scale
    scale = _judge(x, seed)
    _judged.append((weakref.ref(values), mark, scale))
    return scale


def _judge(x: Any, seed: int) -> Scale:
    """The scale of numbers."""
    rng = np.random.default_rng(seed)
    sample = Sample.of(x, rng)
    values = sample.values
    if not values.size:
        return Scale("other", None, "all values are zero")
    if not np.isfinite(values).all():
        return Scale("other", None, f"{_percent(~np.isfinite(values))} of values are NaN or infinite", largest=np.nan)
    largest = float(values.max())
    found = next((scale for test in TESTS if (scale := test(sample))), None)
    if found is None and largest <= LARGEST_LOG:
        found = _clipped(x, rng)
    said = f"values up to {largest:.4g} that are neither integers nor of equal sums, with or without a logarithm"
    found = found or Scale("other", None, said)
    return replace(found, largest=largest)


def _negative(sample: Sample) -> Scale | None:
    """Centred genes, or a few values below zero."""
    below = sample.values < 0
    if not below.any():
        return None
    share = f"{_percent(below)} of values are negative"
    sums = np.bincount(sample.genes, sample.values, sample.n_genes)
    squares = np.bincount(sample.genes, sample.values**2, sample.n_genes)
    held = squares > 0
    off_centre = np.abs(sums[held]) / np.sqrt(sample.n_cells * squares[held])  # mean over root mean square
    if below.mean() > 0.05 and np.median(off_centre) < 0.25:
        return Scale("scaled", None, f"{share} and genes are centred")
    first = int(np.argmax(below))
    return Scale("other", None, f"{share}, the first {sample.values[first]:.4g} in {sample.position(first)}")


def _integers(sample: Sample) -> Scale | None:
    exact = sample.values == np.rint(sample.values)
    if exact.all():
        return Scale("counts", None, "all values are integers")
    if whole(sample.values[~exact]).all() or _noise_about_zero(sample.values):
        return Scale("nearly counts", None, f"integers but for {_off(sample.values):.1g}, as of arithmetic")
    return None


def _two_scales(sample: Sample) -> Scale | None:
    """Integers in some cells and not in others, of cells that hold several different values."""
    exact = sample.values == np.rint(sample.values)
    share = sample.sums(exact.astype(np.float64)) / sample.sums(np.ones_like(sample.values))
    differ = np.maximum.reduceat(sample.values, sample.starts) > np.minimum.reduceat(sample.values, sample.starts)
    many = differ & (np.bincount(sample.cells) >= 5)
    if many.sum() >= 20:
        pure = float((share[many] == 1).mean())
        if 0.02 < pure < 0.98 and np.median(share[many & (share < 1)]) < 0.1:
            first = int(np.argmax(~exact))
            said = f"{100 * pure:.0f} % of cells hold integers, the others not ({_shown(sample, first)}): two scales"
            return Scale("other", None, said, mixed=True)
    return None


def _noise_about_zero(values: np.ndarray) -> bool:
    """Whether all is next to an integer, zero among them, as where noise was added to every entry."""
    tiny = np.abs(values) <= INTEGER
    rest = values[~tiny]
    return bool(len(rest) > 0.01 * len(values) and len(rest) and whole(rest).all() and tiny.any())


def _log_of_counts(sample: Sample) -> Scale | None:
    if sample.values.max() > LARGEST_LOG:
        return None
    odd = sample.values[~whole(sample.values)]  # of base 2 integers are integers, with or without a logarithm
    for base in (None, 2.0, 10.0):
        counts = undone(odd, base)
        telling = counts < 10_000  # larger ones are integers within the error of single precision
        if telling.sum() >= max(10, 0.5 * len(odd)) and whole(counts[telling]).mean() > 0.999:
            return Scale("log", None, f"{_log_name(base)} of counts that were not normalised", base)
    return None


def _times_one_number(sample: Sample) -> Scale | None:
    one = float(np.median(np.minimum.reduceat(sample.values, sample.starts)))
    if abs(one - 1) < 1e-3:
        return None
    times = sample.values / one
    if not (np.abs(times - np.rint(times)) < 0.01).mean() > 0.98 or (times > 1.5).sum() < 10:
        return None
    if 0.8 <= one <= 1.2:
        return Scale("nearly counts", None, f"integers times {one:.4g}")
    rounded = abs(np.log10(one) - np.rint(np.log10(one))) < 1e-6  # to so many digits
    return None if rounded else Scale("normalised", None, f"integers times {one:.4g}")


def _estimated(sample: Sample) -> Scale | None:
    off = ~whole(sample.values)
    if off.mean() > 1 - ESTIMATED or (~off).sum() < 10:
        return None
    said = f"{_percent(off)} of values are no integers, the first {_shown(sample, int(np.argmax(off)))}"
    return Scale("nearly counts", None, said)


def _by_sums(sample: Sample) -> Scale | None:
    """What makes the sums of cells the same, if anything does."""
    sums_of = _ways(sample)
    spread = {way: _spread(sums) for way, (sums, _) in sums_of.items()}
    best = min(spread, key=lambda way: spread[way])
    if len(sample.starts) < 3 or spread[best] > EQUAL:
        return None
    sums, values = sums_of[best]
    total = float(np.median(sums))
    if best != ("linear", None):
        kind, base = best
        name = _log_name(base) if kind == "log" else "log1p taken twice"
        return Scale(kind, total, f"{name}: undone, every cell sums up to {total:.6g}", base)  # type: ignore[arg-type]
    largest = np.maximum.reduceat(values, sample.starts)
    if _spread(largest) < EQUAL:
        return None  # every cell has the same values: quantile normalisation, or one value each
    if abs(total - 1) < 0.01:
        return Scale("fractions", total, "every cell sums up to 1")
    power_of_ten = abs(np.log10(total) - np.rint(np.log10(total))) < 1e-3 and total > 10
    if power_of_ten or sample.values.max() > LARGEST_LOG or _multiples(sample, values)[0] > 0.9:
        return Scale("normalised", total, f"every cell sums up to {total:.6g}")
    return None


def _by_multiples(sample: Sample) -> Scale | None:
    """What makes a cell's values 1, 2, 3, ... times the smallest of them, if anything does."""
    found = {}
    for way, (_, values) in _ways(sample).items():
        share, error = _multiples(sample, values)
        if share > 0.9:
            found[way] = error
    if not found:
        return None
    kind, base = min(found, key=lambda way: found[way])
    if kind == "log":
        totals = _few_totals(sample.sums(undone(sample.values, base)))
        more = f", of totals {totals}" if totals else ""
        return Scale("log", None, f"{_log_name(base)} of counts over the depth of each cell{more}", base)
    if kind == "double log":
        return Scale("double log", None, "log1p taken twice, of counts over the depth of each cell")
    if sample.values.max() <= 1 and sample.sums(sample.values).max() <= 1 + 1e-6:
        return Scale("fractions", None, "counts over the depth of each cell, none above 1")
    return Scale("normalised", None, "counts over the depth of each cell")


def _nearly_equal(sample: Sample) -> Scale | None:
    """Log expression of which a few genes were dropped, or of several totals."""
    if len(sample.starts) < 10:
        return None
    for (kind, base), (sums, _) in _ways(sample).items():
        if kind != "log":
            continue
        if _spread(sums) < NEARLY_EQUAL:
            total = float(np.quantile(sums, 0.9))
            return Scale("log", None, f"{_log_name(base)}: undone, every cell sums up to about {total:.4g}", base)
        totals = _few_totals(sums)
        if totals:
            return Scale("log", None, f"{_log_name(base)}: undone, cells sum up to {totals}, not all to the same", base)
    return None


def _clipped(x: Any, rng: np.random.Generator) -> Scale | None:
    """Values of genes of mean 0 and variance 1 of which those below zero were made zero."""
    n, n_genes = x.shape
    if n < 20 or n_genes < 20:
        return None
    wanted = min(n_genes, int(np.clip(20_000_000 / n, 20, 300)))
    genes = np.sort(rng.choice(n_genes, wanted, replace=False))
    if isinstance(x, Stored):
        x, genes = x[:, genes].to_memory(), np.arange(len(genes))
    part = rows_as_csr(x.T, genes)  # every cell: the sums hold for all of them together only
    held = np.diff(part.indptr)
    some = held > 0
    if not some.any():
        return None
    starts = part.indptr[:-1][some]
    sums, squares = np.add.reduceat(part.data, starts), np.add.reduceat(part.data**2, starts)
    cut_above = np.maximum.reduceat(part.data, starts) >= part.data.max()  # as scanpy's max_value leaves them
    fit = ~cut_above & (held[some] >= max(5, 0.02 * n))
    ratio = ((squares + sums**2 / np.maximum(n - held[some], 1)) / n)[fit]
    if len(ratio) < 10 or ((ratio > 0.4) & (ratio < 1.005)).mean() < 0.95 or np.median(ratio) < 0.75:
        return None
    return Scale("scaled", None, "genes of mean 0 and variance 1, with what was negative made zero")


Way = tuple[str, float | None]


TESTS: tuple[Callable[[Sample], Scale | None], ...] = (
    _negative,
    _integers,
    _by_sums,
    _two_scales,
    _log_of_counts,
    _times_one_number,
    _estimated,
    _by_multiples,
    _nearly_equal,
)


def undone(values: np.ndarray, base: float | None) -> np.ndarray:
    """The inverse of log1p of a base, by default the natural one."""
    return np.expm1(values if base is None else values * np.log(base))


def _ways(sample: Sample) -> dict[Way, tuple[np.ndarray, np.ndarray]]:
    """Sums of cells, and values, by what could have been done to them."""
    ways: dict[Way, Callable[[np.ndarray], np.ndarray]] = {("linear", None): lambda values: values}
    largest = sample.values.max()
    if largest <= LARGEST_LOG:
        ways |= {("log", base): partial(undone, base=base) for base in (None, 2.0, 10.0)}
    if largest <= TWICE:
        ways["double log", None] = lambda values: np.expm1(np.expm1(values))
    found = {way: undo(sample.values) for way, undo in ways.items()}
    return {way: (sample.sums(values), values) for way, values in found.items()}


def _spread(sums: np.ndarray) -> float:
    """How far the sums of 95 % of cells are from their median, relative to it."""
    middle = np.median(sums)
    return float(np.quantile(np.abs(sums - middle), 0.95) / middle)


def _few_totals(sums: np.ndarray) -> str:
    """The sums of cells in words where there are two to five different ones, each of many cells; else nothing."""
    bins, number = np.unique(np.rint(np.log(sums) * 500), return_counts=True)
    many = number >= max(3, 0.05 * len(sums))
    if not 2 <= many.sum() <= 5 or number[many].sum() < 0.95 * len(sums) or np.diff(bins[many]).min() < 5:
        return ""
    found = zip(np.exp(bins[many] / 500), number[many] / len(sums), strict=True)
    return " or ".join(f"{total:.3g} ({100 * share:.0f} % of cells)" for total, share in found)


def _multiples(sample: Sample, values: np.ndarray) -> tuple[float, float]:
    """Share of cells whose values are multiples of one number, and how far the values are from that.

    That number is a cell's smallest value, or that over 2, 3 or 4. Values that equal the smallest one, and such as are
    so large that any number would do, say nothing.
    """
    if _few_digits(sample):
        return 0.0, 1.0
    times = values / np.minimum.reduceat(values, sample.starts)[sample.cells]
    telling = (times > 1.2) & (times < 50)
    cells, times = sample.cells[telling], times[telling]
    number = np.bincount(cells, minlength=len(sample.starts))
    asked = number >= 3 if (number >= 3).sum() >= 3 else number >= 2
    if number[asked].sum() < 6:
        return 0.0, 1.0
    so, error = np.zeros(len(number), dtype=bool), np.ones(len(times))
    for k in (1, 2, 3, 4):
        off = np.abs(times * k - np.rint(times * k))
        so |= np.bincount(cells, off < 0.02, len(number)) >= 0.95 * number
        error = np.minimum(error, off)
    return float(so[asked].mean()), float(error.mean())


def _few_digits(sample: Sample) -> bool:
    """Whether values were rounded to so few digits that the smallest of a cell has one or two."""
    least = np.median(np.minimum.reduceat(sample.values, sample.starts))
    for digits in (1, 2, 3, 4):
        if np.abs(sample.values * 10**digits - np.rint(sample.values * 10**digits)).max() < 1e-3:
            return bool(least * 10**digits < 20)
    return False


def _log_name(base: float | None) -> str:
    return "log1p" if base is None else f"log{base:g} of 1 plus expression"


def _shown(sample: Sample, first: int) -> str:
    return f"{sample.values[first]:.4g} in {sample.position(first)}"


def _off(values: np.ndarray) -> float:
    return float(np.abs(values - np.rint(values)).max())


def _percent(mask: np.ndarray) -> str:
    """A share in words, never 0 %."""
    share = 100 * float(np.mean(mask))
    return f"{share:.2g} %" if share >= 0.01 else "under 0.01 %"
