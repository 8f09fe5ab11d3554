"""The cells by which a screen is scored: of every condition the predicted, real and control cells, on a linear scale.

As `compared` does for one condition, changes start from halves of the control cells, the predicted one from one half
and the real one from the other: a control that both share would make them alike by its noise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from cellalign.data.columns import column
from cellalign.data.stored import rows_in
from cellalign.data.values import joined, known, listed
from cellalign.errors import counted, option
from cellalign.evaluation.inputs import Inputs, NotApplicable, OfAnotherKind
from cellalign.evaluation.metrics import screen as scr
from cellalign.evaluation.predictions import check_finite, check_library_sizes
from cellalign.evaluation.scales import note, real_matrix, shared_genes, sources

if TYPE_CHECKING:
    from anndata import AnnData

FEWEST = 3  # conditions
MIN_CELLS = 10  # real and control cells of each: five in a half
AT_MOST = 2000  # cells of a group that are tested for DE
USUAL_TOTAL = 1e4  # counts per cell of log expression whose total is not known
EXPRESSED = 5  # counts per million, in control cells
GUIDE = re.compile(r"([_\-.]?(sg|g|guide)?[_\-.]?\d+)$", re.IGNORECASE)  # of a construct: STAT1g2, ADNP-1
A, B = 0, 1  # halves


@dataclass(frozen=True)
class Group:
    """One condition, or one cell type under one condition.

    Attributes
    ----------
    name : str
    predicted : int array
        Rows of the prediction.
    real, control : int arrays
        Rows of the real cells.
    own : int array
        Columns of the genes that the condition targets.
    of_control : str
        Groups of the same name have the same control cells.
    """

    name: str
    predicted: np.ndarray
    real: np.ndarray
    control: np.ndarray
    own: np.ndarray
    of_control: str


@dataclass(frozen=True)
class Screened:
    """All groups, and how their cells are read.

    Attributes
    ----------
    groups : list of Group
    n_genes : int
    predicted, drawn, real : callables
        Counts, or normalised expression without its logarithm, of rows [n, G]; drawn cells are what is tested for DE.
    started : callable or None
        The same of the cells that rows were predicted from, where these are not among the real ones.
    source : int array
        Which real cell each predicted one is of; -1 where that is not known.
    strata : int array
        Of the real cells: the donor, plate, ... within which controls are taken; zeros where that is not asked for.
    places : int array
        The same of the predicted cells; -1 where that is not known.
    weighted : bool
        Whether control cells count as real cells of the group are in each stratum.
    per_million : callable
        What `predicted`, ... give, as counts per million.
    total : float, optional
        What a cell's expression sums up to over all genes that were measured; None of counts.
    expressed : float
        Counts per million that a gene has in control cells to be tested for DE.
    """

    groups: list[Group]
    n_genes: int
    predicted: Callable[[np.ndarray], Any]
    drawn: Callable[[np.ndarray], Any]
    real: Callable[[np.ndarray], Any]
    started: Callable[[np.ndarray], Any] | None
    source: np.ndarray
    strata: np.ndarray
    places: np.ndarray
    weighted: bool
    per_million: Callable[[Any], Any]
    total: float | None
    expressed: float

    @property
    def off_target(self) -> np.ndarray:
        """Mask [G] of the genes that no condition targets."""
        kept = np.ones(self.n_genes, dtype=bool)
        for group in self.groups:
            kept[group.own] = False
        return kept

    def halves(self, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
        """A random half (`A` or `B`) of each control cell, by row of the real cells, and of each group's real cells.

        Cells that were predicted from are halved by themselves, and each stratum by itself.
        """
        control = np.unique(np.concatenate([group.control for group in self.groups]))
        used = np.isin(control, self.source)
        names = np.full(len(self.strata), -1)
        for i, name in enumerate(dict.fromkeys(group.of_control for group in self.groups)):
            for group in self.groups:
                if group.of_control == name:
                    names[group.control] = i
        half = np.full(len(self.strata), -1)
        half[control] = _alternating(rng, np.stack([self.strata[control], names[control], used]))
        return half, [_alternating(rng, self.strata[group.real][None]) for group in self.groups]

    def weights(self, group: Group, control: np.ndarray, of: np.ndarray | None = None) -> np.ndarray | None:
        """How much each control cell counts, so that strata are as in `of`; None for equally.

        Parameters
        ----------
        control : int array
            Rows of the real cells.
        of : int array, optional
            Strata of the cells that they are compared with; default those of the group's real cells.
        """
        if not self.weighted:
            return None
        return proportions(self.strata[control], self.strata[group.real] if of is None else of)

    def level(
        self, x: Any, weights: np.ndarray | None = None, strata: np.ndarray | None = None
    ) -> tuple[np.ndarray, float]:
        """Profile [G] of some cells, and its sampling noise; with weights, within strata."""
        sizes = np.full(x.shape[0], self.total) if self.total is not None else self._sizes(x)
        if weights is None:
            return self._profile(x.sum(0), sizes.sum()), scr.noise(x, sizes)
        assert strata is not None
        return self._profile(weights @ x, weights @ sizes), scr.weighted_noise(x, weights, strata, sizes)

    def profile(self, x: Any) -> np.ndarray:
        """Profile [G] of some cells."""
        return self._profile(x.sum(0), self._sizes(x).sum() if self.total is None else x.shape[0] * self.total)

    @staticmethod
    def _sizes(x: Any) -> np.ndarray:
        return np.asarray(x.sum(1), dtype=np.float64).ravel()

    @staticmethod
    def _profile(summed: Any, size: float) -> np.ndarray:
        return scr.profiles(np.asarray(summed, dtype=np.float64).reshape(1, -1), np.array([size]))[0]


def proportions(control: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Weights [m] of control cells, by their strata [m], with which these are as those of other cells, [n]."""
    n = int(max(control.max(initial=0), of.max(initial=0))) + 1
    there, wanted = np.bincount(control, minlength=n), np.bincount(of, minlength=n)
    return wanted[control] / there[control]


def in_proportion(control: np.ndarray, of: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many control cells as there are in the proportions of other cells, drawn without replacement.

    Parameters
    ----------
    control, of : int arrays [m] and [n]
        Strata of control cells and of the others; those without a control cell do not count.

    Returns
    -------
    int array
        Increasing places in `control`; none where no stratum has both.
    """
    shared, wanted = np.unique(of[np.isin(of, control)], return_counts=True)
    there = np.array([(control == stratum).sum() for stratum in shared], dtype=np.int64)
    taken = np.rint(wanted * np.min(there / wanted, initial=np.inf)) if len(shared) else wanted
    chosen = [
        rng.permutation(np.flatnonzero(control == stratum))[: int(n)] for stratum, n in zip(shared, taken, strict=True)
    ]
    return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *chosen]))


def _alternating(rng: np.random.Generator, keys: np.ndarray) -> np.ndarray:
    """A or B for each cell, as many of one as of the other within cells of the same keys [k, n], and over all."""
    order = rng.permutation(keys.shape[1])
    order = order[np.lexsort(keys[:, order])]  # one stratum after the other, each in random order
    half = np.empty(keys.shape[1], dtype=np.int64)
    half[order] = (np.arange(len(order)) + rng.integers(2)) % 2
    return half


def screened(inputs: Inputs) -> Screened:
    """The cells of all conditions that can be scored; which cannot is noted.

    Raises
    ------
    NotApplicable
        Fewer than three conditions, and no label of three groups; or values that are no expression.
    InputError
        The real cells lack genes or a condition, or the two are not on one scale.
    """
    against, adata = inputs.against, inputs.adata
    if not inputs.predictions:
        raise OfAnotherKind("the input is no counterfactual")
    if against is None:
        raise NotApplicable(f"it needs {option('against', hint='FILE')}, the real cells")
    if inputs.predictions[0].expression == "any" or inputs.continuous:
        raise NotApplicable("a screen is of expression under conditions, not of any values or numbers")
    columns = shared_genes(adata, against)
    at, weighted = sources(adata, against), inputs.within is not None
    strata, places = np.zeros(against.n_obs, dtype=np.int64), np.zeros(adata.n_obs, dtype=np.int64)
    if inputs.within is not None:
        strata, places = _strata(inputs, against, inputs.within, at)
    groups = _enough(
        inputs, _conditions(inputs, strata) if len(inputs.predictions) >= FEWEST else _labels(inputs, strata)
    )
    if any((places[group.predicted] < 0).any() for group in groups):
        inputs.notes.append(
            f"screen: of predicted cells without a {inputs.within!r} of the real ones, as many are taken to be of each "
            "as real cells of the condition are"
        )
    readers = _readers(inputs, against, columns)
    return Screened(groups, adata.n_vars, source=at, strata=strata, places=places, weighted=weighted, **readers)


def _strata(inputs: Inputs, against: AnnData, key: str, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes of a column of the real cells; of the predicted cells by their own, or by the cells they are of."""
    real = column(against.obs, key, purpose=option("within"), missing=True)
    strata = real.codes.astype(np.int64)
    places = np.where(source >= 0, strata[source], -1)
    if key in inputs.adata.obs:
        said = column(inputs.adata.obs, key, purpose=option("within"), missing=True)
        codes = np.array([*known(tuple(map(str, real.categories))).codes(list(said.categories)), -1], dtype=np.int64)
        own = codes[said.codes]
        places = np.where(own >= 0, own, places)
    return strata, places


def _conditions(inputs: Inputs, strata: np.ndarray) -> list[Group]:
    """A group for each predicted condition."""
    against = inputs.against
    assert against is not None
    genes = [str(name) for name in inputs.adata.var_names]
    groups = []
    for record in inputs.predictions:
        origin = record.from_ or inputs.control or ""
        real = inputs.under(against.obs, record.to)
        control = (inputs.under(against.obs, origin) if origin else ~real) & (strata >= 0)
        real &= strata >= 0
        shared = np.intersect1d(strata[real], strata[control])  # of other strata there is nothing to compare with
        real, control = real & np.isin(strata, shared), control & np.isin(strata, shared)
        groups.append(
            Group(
                record.to,
                np.flatnonzero(inputs.under(inputs.adata.obs, record.to)),
                np.flatnonzero(real),
                np.flatnonzero(control),
                targeted(record.to, genes, origin or None),
                f"{origin or record.to} {shared.tolist()}",
            )
        )
    if not any(len(group.own) for group in groups):
        inputs.notes.append("screen: no condition is called after a gene, so none is left out as targeted")
    return groups


def targeted(name: str, genes: Sequence[str], control: str | None) -> np.ndarray:
    """Columns of the genes that a condition targets, by its name: of "A+B" both, of a guide its gene."""
    exact = {gene: i for i, gene in enumerate(genes)}
    folded = {gene.casefold(): i for i, gene in enumerate(genes)}
    found = []
    for part in (part.strip() for part in joined(name, control).split("+")):
        place = exact.get(part, folded.get(part.casefold(), folded.get(GUIDE.sub("", part).casefold())))
        if place is not None:
            found.append(place)
    return np.array(sorted(set(found)), dtype=np.int64)


def _labels(inputs: Inputs, strata: np.ndarray) -> list[Group]:
    """A group for each cell type, donor, ... of one predicted condition, each with control cells of its own."""
    against = inputs.against
    assert against is not None
    if inputs.label is None or len(inputs.predictions) != 1:
        raise NotApplicable(
            f"it scores {FEWEST} predicted conditions or more, or {FEWEST} groups of {option('label', hint='KEY')}"
        )
    [record] = inputs.predictions
    origin = record.from_ or inputs.control or ""
    real, predicted = inputs.under(against.obs, record.to), inputs.under(inputs.adata.obs, record.to)
    if not predicted.any():  # they kept the name of what they were predicted from
        predicted = np.ones(len(predicted), dtype=bool)
    control = inputs.under(against.obs, origin) if origin else ~real
    of_real = np.asarray(column(against.obs, inputs.label, purpose="label", missing=True).astype(object))
    of_predicted = np.asarray(column(inputs.adata.obs, inputs.label, purpose="label", missing=True).astype(object))
    groups = []
    for name in dict.fromkeys(value for value in of_predicted if isinstance(value, str)):
        own = (of_real == name) & (strata >= 0)
        shared = np.intersect1d(strata[own & real], strata[own & control])
        own &= np.isin(strata, shared)
        masks = (predicted & (of_predicted == name), own & real, own & control)
        guess, truth, start = (np.flatnonzero(mask) for mask in masks)
        groups.append(Group(name, guess, truth, start, np.empty(0, dtype=np.int64), name))
    return groups


def _enough(inputs: Inputs, groups: list[Group]) -> list[Group]:
    """Groups with cells enough; the others are noted."""
    kept = [g for g in groups if min(len(g.real), len(g.control)) >= MIN_CELLS and len(g.predicted)]
    left = [f"{g.name} ({len(g.real)} real, {len(g.control)} control)" for g in groups if g not in kept]
    if left:
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        inputs.notes.append(f"screen skips groups with fewer than {MIN_CELLS} cells: {', '.join(left[:5])}{more}")
    if not any(len(g.real) for g in groups):
        named = listed([g.name for g in groups], 5)
        raise NotApplicable(f"{option('against')} has not one cell of what is predicted: {named}")
    if len(kept) < FEWEST:
        raise NotApplicable(f"{counted(len(kept), 'group')} with {MIN_CELLS} real and control cells; it takes {FEWEST}")
    return kept


def _readers(inputs: Inputs, real: AnnData, columns: np.ndarray) -> dict[str, Any]:
    """How predicted, drawn, real and source cells are read, and what `Screened` keeps of their scale."""
    record, adata = inputs.predictions[0], inputs.adata
    check_finite(adata.X, "the prediction's X")
    source = adata.layers.get("source") if record.method else None
    x = real_matrix(record.expression, real)
    if record.expression == "counts":
        drawn = adata.layers.get("drawn", adata.X)
        check_finite(drawn, "the prediction's layer 'drawn'")
        scale: dict[str, Any] = {"per_million": cpm, "total": None, "expressed": EXPRESSED}
    else:
        drawn = adata.X
        note(inputs, None if record.method else check_library_sizes(adata.X, x[:, columns], option("against")))
        scale = _scale_of_log(inputs, real)
    unlog: Callable[[np.ndarray], np.ndarray] = np.asarray if record.expression == "counts" else np.expm1
    return scale | {
        "predicted": _reader(adata.X, None, unlog),
        "drawn": _reader(drawn, None, unlog),
        "real": _reader(x, columns, unlog),
        "started": None if source is None else _reader(source, None, unlog),
    }


def _scale_of_log(inputs: Inputs, real: AnnData) -> dict[str, Any]:
    """Of log expression: what a cell's sums up to over all genes that were measured, of which these may be some."""
    from cellalign.data.recipe import total_of

    known = total_of(real)
    total = known or USUAL_TOTAL
    said = "screen: profiles are of the inverse of log expression, for counts are not there"
    if known is None:
        said += f"; taken as {USUAL_TOTAL:g} a cell over all genes, and all genes are tested for DE"
    inputs.notes.append(said)
    return {
        "per_million": lambda x: x * (1e6 / total),
        "total": total,
        "expressed": -1.0 if known is None else EXPRESSED,
    }


def _reader(
    x: Any, columns: np.ndarray | None, unlog: Callable[[np.ndarray], np.ndarray]
) -> Callable[[np.ndarray], Any]:
    """Rows of a matrix, some of its columns, on a linear scale in float64; sparse ones stay so."""

    def read(rows: np.ndarray) -> Any:
        part = rows_in(x, rows)
        part = part if columns is None else part[:, columns]
        if sparse.issparse(part):
            part = sparse.csr_matrix(part, dtype=np.float64)
            part.data = unlog(part.data)
            return part
        return unlog(np.asarray(part, dtype=np.float64))

    return read


def cpm(x: Any) -> Any:
    """Counts [n, G] per million of a cell."""
    size = np.asarray(x.sum(1), dtype=np.float64).ravel() / 1e6
    size[size == 0] = 1
    if sparse.issparse(x):
        return sparse.csr_matrix((x.data / np.repeat(size, np.diff(x.indptr)), x.indices, x.indptr), shape=x.shape)
    return x / size[:, None]
