"""Strategies of AnnData files: valid, odd, and wrong ones, every choice a draw of its own so that failures shrink.

Numbers come from a drawn seed; what kind of numbers, columns and names, from draws. `marker` in obs and the gene names
say afterwards which cell and gene a row and column of an output is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from hypothesis import strategies as st
from scipy import sparse

GENES = [f"G{i}" for i in range(30)]
ODD = [
    "", " ", "nan", "NA", "0", "0.0", "1e3", "-1", "True", "a,b", "a=b", "k=v,k2=v2", "CD4 [/naive]", "[memory]",
    "[b]x[/b]", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "tab\tbed", "two\nlines", "quote\"s'", "back\\slash", "a/b",
    "../up", "~", "$HOME", "`ls`", "é", "naïve", "β-cell", "😀", "漢字", "\u202ertl", "\u200b", "x" * 300, "%s %d",
    "{0}", "A+B", "A+ctrl", "ctrl+A", "a;b", "#c", "-o", "--help", "null", "None", "X", "*", "?",
]  # fmt: skip
KEYS = ["batch", "dose", "n_counts", "n_genes", "β [x]", "two words", "a=b", "X"]
CONTROLS = ["control", "ctrl", "NT", "DMSO", "0", "WT", "other"]
letters = st.sampled_from(ODD) | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)


def mostly(usual: Any, odd: Any) -> Any:
    """Five times of six the usual."""
    return st.integers(0, 5).flatmap(lambda i: odd if i == 5 else usual)


@dataclass
class Cells:
    """Cells, and what is known of them.

    Attributes
    ----------
    adata : AnnData
    tame : bool
        Whether its matrix is what a command expects, and the file is not to be damaged.
    counts : array or None
        The counts, where these are what X holds.
    mutated : bool
        Whether the file was damaged after it was written: then only the manner of failing is held.
    """

    adata: ad.AnnData
    tame: bool
    counts: np.ndarray | None
    mutated: bool = False


# Matrices


def _counts(random: np.random.Generator, n: int, g: int) -> np.ndarray:
    return random.poisson(random.gamma(1.0, 3.0, g), (n, g)).astype("float32")


def _logged(random: np.random.Generator, n: int, g: int) -> np.ndarray:
    x = _counts(random, n, g)
    sums = x.sum(1, keepdims=True)
    return np.log1p(x / np.where(sums > 0, sums, 1) * 100).astype("float32")


def _with(value: float):
    def make(random: np.random.Generator, n: int, g: int) -> np.ndarray:
        x = _counts(random, n, g)
        if x.size:
            x.flat[random.integers(x.size)] = value
        return x

    return make


MATRICES = {
    "counts": _counts,
    "log": _logged,
    "scaled": lambda random, n, g: random.normal(size=(n, g)).astype("float32"),
    "nearly": lambda random, n, g: _counts(random, n, g) * np.float32(0.97),
    "fractions": lambda random, n, g: random.dirichlet(np.ones(max(g, 1)), n)[:, :g].astype("float32"),
    "zeros": lambda random, n, g: np.zeros((n, g), "float32"),
    "ones": lambda random, n, g: np.ones((n, g), "float32"),
    "huge": lambda random, n, g: _counts(random, n, g) * np.float32(1e30),
    "nan": _with(np.nan),
    "inf": _with(np.inf),
    "negative": _with(-1),
    "some empty": lambda random, n, g: _counts(random, n, g) * (random.random((n, 1)) < 0.5) * (random.random(g) < 0.5),
}
DTYPES = ["float32", "float64", "int32", "int64", "uint8", "float16", ">f4", "<i2", "bool"]


def _stored(x: np.ndarray, form: str, random: np.random.Generator) -> Any:
    """The same values, in another form."""
    if form == "dense":
        return x
    if form == "fortran":
        return np.asfortranarray(x)
    if x.dtype == np.float16 or x.dtype.byteorder == ">":
        x = x.astype("float32")
    if form in ("csr", "csc"):
        return sparse.csr_matrix(x) if form == "csr" else sparse.csc_matrix(x)
    made = sparse.csr_matrix(np.ones(x.shape, "float32"))  # every value stored, zeros too
    made = sparse.csr_matrix((x.ravel().copy(), made.indices, made.indptr), x.shape)
    if form == "duplicates":
        halves = np.repeat(made.data, 2)
        halves[1::2] = 0
        made = sparse.csr_matrix((halves, np.repeat(made.indices, 2), made.indptr * 2), x.shape)
    return made


@st.composite
def matrices(draw: Any, n: int, g: int, kinds: Any, *, tame: bool = False) -> tuple[Any, np.ndarray, str]:
    """A matrix in some form, its values, and their kind."""
    random = np.random.default_rng(draw(st.integers(0, 2**16), label="seed"))
    kind = draw(kinds, label="values")
    x = MATRICES[kind](random, n, g)
    wanted = "float32" if tame else draw(st.sampled_from(DTYPES), label="dtype")
    with np.errstate(all="ignore"):
        cast = x.astype(wanted)
    form = draw(st.sampled_from(["csr", "csr", "dense", "csc", "fortran", "stored zeros", "duplicates"]), label="form")
    return _stored(cast, form, random), cast.astype("float64"), kind


# Columns


@st.composite
def columns(draw: Any, n: int) -> Any:
    """A column of obs of any type."""
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    kind = draw(st.sampled_from(list(KINDS)), label="column")
    levels = draw(st.lists(letters, min_size=1, max_size=4, unique=True), label="levels")
    return KINDS[kind](random, n, levels)


def _text(random: np.random.Generator, n: int, levels: list[str]) -> np.ndarray:
    return np.array(levels, dtype=object)[random.integers(0, len(levels), n)]


def _holes(random: np.random.Generator, values: Any, hole: Any) -> np.ndarray:
    made = np.array(values, dtype=object)
    made[random.random(len(made)) < 0.3] = hole
    return made


KINDS = {
    "categories": lambda r, n, levels: pd.Categorical(_text(r, n, levels), categories=levels),
    "ordered": lambda r, n, levels: pd.Categorical(_text(r, n, levels), categories=levels, ordered=True),
    "unused": lambda r, n, levels: pd.Categorical(_text(r, n, levels[:1]), categories=levels),
    "categories with holes": lambda r, n, levels: pd.Categorical(
        _holes(r, _text(r, n, levels), None), categories=levels
    ),
    "text": lambda r, n, levels: _text(r, n, levels),
    "text with holes": lambda r, n, levels: _holes(r, _text(r, n, levels), None),
    "nullable text": lambda r, n, levels: pd.array(_holes(r, _text(r, n, levels), None), dtype="string"),
    "categories of integers": lambda r, n, _: pd.Categorical(r.integers(0, 3, n)),
    "categories of floats": lambda r, n, _: pd.Categorical(r.integers(0, 3, n) * 0.5),
    "categories of booleans": lambda r, n, _: pd.Categorical(r.integers(0, 2, n).astype(bool)),
    "integers": lambda r, n, _: r.integers(-1, 3, n),
    "small integers": lambda r, n, _: r.integers(0, 3, n).astype("int8"),
    "floats": lambda r, n, _: r.normal(size=n),
    "doses": lambda r, n, _: r.choice([0.0, 10, 100], n),
    "doses with NaN": lambda r, n, _: r.choice([0.0, 10, np.nan], n),
    "doses with inf": lambda r, n, _: r.choice([0.0, 10, np.inf], n),
    "booleans": lambda r, n, _: r.integers(0, 2, n).astype(bool),
    "nullable integers": lambda r, n, _: pd.array(_holes(r, r.integers(0, 3, n), None), dtype="Int64"),
    "nullable booleans": lambda r, n, _: pd.array(_holes(r, r.integers(0, 2, n).astype(bool), None), dtype="boolean"),
    "all missing": lambda r, n, _: np.full(n, np.nan),
    "one value": lambda r, n, levels: _text(r, n, levels[:1]),
    "one each": lambda r, n, _: np.array([f"cell {i}" for i in range(n)], dtype=object),
    "numbers as text": lambda r, n, _: r.choice(["0", "1.0", "1", "1e1"], n).astype(object),
}


def _sensible(random: np.random.Generator, n: int, control: str, other: str) -> pd.Categorical:
    return pd.Categorical(np.where(np.arange(n) % 2 == 0, control, other))


# What else a file holds

GARBAGE = [
    "text", 5, 1.5, True, np.arange(3), {}, {"format_version": "x"}, {"format_version": 99}, {"preprocess": 5},
    {"preprocess": {"step": "x"}}, {"embed": {}}, {"counterfactual": {"method": 3}},
    {"format_version": 2, "evaluate": "no"},
    np.array(["a", "b"], dtype=object), {"format_version": 2, "preprocess": {"step": 1, "target_sum": "many"}},
]  # fmt: skip


def _places(random: np.random.Generator, n: int) -> dict[str, Any]:
    """Candidates for obsm."""
    latents = random.normal(size=(n, 3))
    bad = latents.copy()
    if n:
        bad[0, 0] = np.nan
    return {
        "X_comp": latents,
        "X_pca": latents.astype("float32"),
        "X_nan": bad,
        "X_none": np.zeros((n, 0)),
        "X_sparse": sparse.csr_matrix(latents),
        "X_frame": pd.DataFrame({"a": np.arange(n, dtype=float), "b": 1.0}),
        "X_words": np.full((n, 2), "word", dtype=object),
        "X_deep": np.zeros((n, 2, 2)),
        "X_one": np.ones((n, 1), dtype="int64"),
        "spatial": latents[:, :2],
    }


@st.composite
def cells(draw: Any, kinds: tuple[str, ...] = ("counts", "log"), *, embedded: bool = False) -> Cells:
    """An AnnData of 1 to 40 cells and 1 to 30 genes; the kinds of X given are drawn more often than others.

    With `embedded` there is always obsm["X_latent"].
    """
    tame = draw(st.booleans(), label="tame")
    n = draw(st.sampled_from([24, 32, 40] if tame else [40, 12, 8, 3, 2, 1]), label="cells")
    g = 30 if tame else draw(st.sampled_from([30, 30, 12, 5, 2, 1]), label="genes")
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    usual = st.sampled_from(kinds)
    values_of = usual if tame else mostly(usual, st.sampled_from(list(MATRICES)))
    x, values, kind = draw(matrices(n, g, values_of, tame=tame))
    genes = list(GENES[:g])
    if draw(st.booleans(), label="shuffled"):
        order = random.permutation(g)
        genes, x, values = [genes[i] for i in order], x[:, order], values[:, order]
    names = [f"cell{i}" for i in range(n)]
    obs = pd.DataFrame({"marker": np.arange(n)}, index=names)
    control = draw(mostly(st.just("control"), st.sampled_from(CONTROLS)), label="control")
    other = draw(mostly(st.just("stim"), letters), label="other")
    if draw(st.integers(0, 9), label="no stim") > 0 and control != other:
        obs["stim"] = _sensible(random, n, control, other)
    else:
        obs["stim"] = draw(columns(n), label="stim")
    obs["cell_type"] = draw(mostly(st.just(pd.Categorical(np.where(np.arange(n) % 3 == 0, "B", "NK"))), columns(n)))
    for key in draw(st.lists(st.sampled_from(KEYS), max_size=2, unique=True), label="keys"):
        obs[key] = draw(columns(n), label=key)
    adata = ad.AnnData(x, obs=obs, var=pd.DataFrame(index=genes))
    if embedded:
        adata.obsm["X_latent"] = random.normal(size=(n, 3))
    trouble = draw(st.sets(st.sampled_from(list(TROUBLES)), max_size=2 if tame else 3), label="and")
    for name in sorted(trouble):
        TROUBLES[name](draw, adata, random)
    return Cells(adata, tame, values if kind == "counts" and adata.X is not None else None)


def _uns(draw: Any, adata: ad.AnnData, random: np.random.Generator) -> None:
    adata.uns["cellalign"] = draw(st.sampled_from(GARBAGE), label="uns[cellalign]")


def _other_uns(draw: Any, adata: ad.AnnData, random: np.random.Generator) -> None:
    adata.uns["log1p"] = draw(st.sampled_from([{"base": None}, {"base": 2.0}, {}, "yes", 3]))
    adata.uns["stim_colors"] = np.array(["#ff0000"], dtype=object)


def _obsm(draw: Any, adata: ad.AnnData, random: np.random.Generator) -> None:
    there = _places(random, adata.n_obs)
    for key in draw(st.lists(st.sampled_from(list(there)), min_size=1, max_size=2, unique=True), label="obsm"):
        value = there[key]
        adata.obsm[key] = value.set_index(adata.obs_names) if isinstance(value, pd.DataFrame) else value


def _layers(draw: Any, adata: ad.AnnData, random: np.random.Generator) -> None:
    name = draw(st.sampled_from(["counts", "counts", "spliced", "raw_counts", "data", "β [x]"]), label="layer")
    adata.layers[name] = draw(matrices(*adata.shape, st.sampled_from(list(MATRICES))), label="its")[0]


def _raw(draw: Any, adata: ad.AnnData, random: np.random.Generator) -> None:
    x = draw(matrices(adata.n_obs, 30, st.sampled_from(["counts", "log", "scaled"])), label="raw")[0]
    adata.raw = ad.AnnData(x, obs=adata.obs[[]], var=pd.DataFrame({"_note": 1}, index=GENES))


def _no_x(draw: Any, adata: ad.AnnData, random: np.random.Generator) -> None:
    if draw(st.booleans()):
        adata.layers["counts"] = adata.X
    adata.X = None


def _cell_names(draw: Any, adata: ad.AnnData, random: np.random.Generator) -> None:
    names = draw(st.lists(letters, min_size=adata.n_obs, max_size=adata.n_obs), label="cell names")
    adata.obs_names = names


def _gene_names(draw: Any, adata: ad.AnnData, random: np.random.Generator) -> None:
    how = draw(st.sampled_from(["odd", "numbers", "duplicates", "versions", "case"]), label="gene names")
    old = list(adata.var_names)
    adata.var_names = {
        "odd": [f"{ODD[i % len(ODD)]}{i}" for i in range(len(old))],
        "numbers": [str(i) for i in range(len(old))],
        "duplicates": [old[0]] * len(old),
        "versions": [f"{name}.1" for name in old],
        "case": [name.lower() for name in old],
    }[how]


TROUBLES = {
    "uns": _uns,
    "other uns": _other_uns,
    "obsm": _obsm,
    "layers": _layers,
    "raw": _raw,
    "no X": _no_x,
    "cell names": _cell_names,
    "gene names": _gene_names,
}


# Files


def write(cells: Cells, path: Path) -> None:
    """As anndata writes it; what it does not write is no input.

    Raises
    ------
    Exception
        Whatever anndata raises.
    """
    before = ad.settings.allow_write_nullable_strings
    ad.settings.allow_write_nullable_strings = True
    try:
        (cells.adata.write_zarr if path.suffix == ".zarr" else cells.adata.write_h5ad)(path)
    finally:
        ad.settings.allow_write_nullable_strings = before
