"""The table of the inputs that failed once, and the cells they are made of.

Each was a symptom that users reported of tools of this kind, tried on cellalign. 01 (`train --force` on a folder that
is no model) and 32 (two jobs, one default model) are left out: they are another issue's.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from running import in_this_process
from scipy import sparse


@dataclass(frozen=True)
class Case:
    """An input that failed.

    Attributes
    ----------
    was : str
        What happened.
    wanted : str
        What has to happen; where there are two ways, either does.
    happens : str
        What does.
    """

    was: str
    wanted: str
    happens: str


CASES = {
    2: Case(
        "evaluate compared a log prediction with raw counts, or with another normalisation total",
        "brought to one scale, so that the scores are the same, or refused: which scale each has",
        "raw counts and other totals are brought to the prediction's scale, said; the scores are the same",
    ),
    3: Case(
        "new cells normalised to another total than the model's: other labels, nothing said",
        "said or refused, naming the total; labels as those of the same cells on the model's total",
        "said with both totals and brought to the model's; the labels are the same",
    ),
    4: Case(
        "--batch and --covariate taken by methods that do not use them",
        "refused (2) or said, naming the option",
        "batch and covariate refused (2) with the methods that use them; a condition or label that is not seen is said",
    ),
    5: Case(
        "an outer concat's layer of zeros: half of the cells dropped",
        "all cells kept, their counts from X, or refused naming the layer",
        "all cells kept, counts from X; said why the layer does not serve",
    ),
    6: Case(
        "zeros stored in a sparse matrix count as expressed genes",
        "the same result as without them",
        "the same result",
    ),
    8: Case(
        "--to nan or inf writes NaN for every cell",
        "refused, nothing written",
        "refused (2)",
    ),
    9: Case(
        "batches 0, 1, 2 and 0.0, 1.0, 2.0 are strangers",
        "the same latents",
        "the same latents",
    ),
    11: Case(
        "controls called NT, DMSO_TF, mock, ... are not found and nothing is said",
        "taken as the control, or named with --control, which then works",
        "taken and said; of look-alikes a warning names --control",
    ),
    12: Case(
        "doses as categories: --to 1000 is told to mean 100.0; 0 is not 0.0",
        "values compared as numbers; no suggestion ten times off",
        "1000 and 0 find 1000.0 and 0.0, Quis_1000 finds Quis_1000.0",
    ),
    13: Case(
        "preprocess --batch of integers, booleans, floats fails",
        "works; one value per cell is named for it",
        "integers, booleans and floats work; one value per cell is refused (3)",
    ),
    14: Case(
        "a column named _index: exit 1",
        "read",
        "read, the column under another name, said",
    ),
    16: Case(
        "a MuData file is damaged, or no .h5ad",
        "its modalities named; --modality reads one",
        "refused (3) with the modalities; --modality reads one; the only one is read without",
    ),
    17: Case(
        "the layout before anndata 0.7 is read by preprocess only",
        "read by every command",
        "read by every command",
    ),
    18: Case(
        "10x .h5 and loom are damaged",
        "read, or named for what they are",
        "10x and loom read; a 10x file without genes is named as that (3)",
    ),
    20: Case(
        "names with commas cannot be named, benchmark fails by itself",
        "named, quoted or not",
        "works as typed, and quoted",
    ),
    21: Case(
        "X scaled beside counts in a layer or raw: refused for X's negative values",
        "the counts are taken",
        "the counts are taken, said from where",
    ),
    22: Case(
        "NaN in a layer nobody asked for",
        "of no account",
        "of no account",
    ),
    23: Case(
        "counts that are nearly integers: no raw counts",
        "noise is rounded; fractions are shown with the first of them, and --round takes them",
        "noise is rounded, said; fractions are refused (3) with cell and gene of the first; --round takes them",
    ),
    24: Case(
        "counts in layers['raw_counts']: not found, not listed",
        "found, or listed; --layer reads them",
        "found by its name, said; --layer reads any",
    ),
    25: Case(
        "only log expression, or scaled beside it: preprocess refuses without good advice",
        "log expression is taken; advice works when obeyed",
        "log expression is taken, said; scaled is refused (3) with a command that works where there is something else",
    ),
    26: Case(
        "embed of new raw cells advises to preprocess the training file",
        "embeds them by one command",
        "embedded by one command",
    ),
    27: Case(
        "singles named A+ctrl and ctrl+B: no pair can be predicted",
        "A+ctrl is A",
        "A+ctrl is A, said",
    ),
    28: Case(
        "three cells without a label: all of evaluation refuses",
        "left out, and said how many",
        "left out with their number",
    ),
    30: Case(
        "a file that may not be read: truncated or damaged",
        "says that it may not be read",
        "refused (3): permission denied",
    ),
    31: Case(
        "no home and a read-only package: numba cannot cache",
        "works",
        "works, in a temporary folder",
    ),
    34: Case(
        "evaluate --embedding of a sparse obsm fails",
        "as of the same dense",
        "as of the same dense",
    ),
    36: Case(
        "another tool's prediction is not evaluated",
        "evaluated against real cells",
        "evaluated, said as what it is taken",
    ),
    37: Case(
        "scanpy warns of log-transformed data that is none, with -q too",
        "silent",
        "silent",
    ),
    38: Case(
        "condition and batch that say the same, or are the same column; a condition of one cell: nothing said",
        "said or refused, naming them",
        "the same column refused (2); what says the same and conditions of few cells warned of",
    ),
    39: Case(
        "normalised but not logged, fractions, clipped z-scores taken for log expression",
        "refused or said",
        "refused (3), said what it is",
    ),
    40: Case(
        "keys missing from model.yaml: exit 1",
        "4, one line",
        "4, one line",
    ),
    41: Case(
        "an AnnData opened backed: exit 1's error in Python",
        "works, or says to_memory()",
        "works",
    ),
    43: Case(
        "obs n_counts and n_genes of the user replaced",
        "kept",
        "kept, said",
    ),
    44: Case(
        "the product's own predictions refused for negative expression",
        "read by embed, annotate, train",
        "read; what an earlier version wrote below zero is cut there, said",
    ),
    45: Case(
        "a count model looks for counts in one place only",
        "finds them where they are",
        "found, said where",
    ),
    47: Case(
        "root attribute AnnData: exit 1",
        "read",
        "read",
    ),
    49: Case(
        "conditions missing as nan, NA and '' (text) are conditions",
        "missing: refused or left out, and said",
        "missing: refused (3) with their number",
    ),
}
LEFT_OUT = (1, 32)


# The cells


def counts(n: int = 120, g: int = 60, seed: int = 0, types: tuple[str, ...] = ("T0", "T1")) -> ad.AnnData:
    """Counts of two conditions, two types and two batches; the first eight genes answer to the condition."""
    random = np.random.default_rng(seed)
    stim = np.arange(n) % 2 == 1
    kind = np.arange(n) // 2 % len(types)
    mean = np.tile(np.random.default_rng(100).gamma(1.0, 3.0, (len(types), g)), (1, 1))[kind]
    mean[:, :8] = 1 + mean[:, :8] * np.where(stim, 4.0, 1.0)[:, None]
    x = random.poisson(mean * random.gamma(5, 0.2, (n, 1))).astype("float32")
    x[:, 8:10] += 1  # so that no cell and no gene is empty
    obs = {
        "cond": pd.Categorical(np.where(stim, "stim", "ctrl")),
        "cell_type": pd.Categorical(np.array(types)[kind], categories=sorted(types)),
        "batch": pd.Categorical(np.array(["b1", "b2"])[np.arange(n) // 4 % 2]),
    }
    frame = pd.DataFrame(obs, index=[f"c{i}" for i in range(n)])
    return ad.AnnData(sparse.csr_matrix(x), obs=frame, var=pd.DataFrame(index=[f"G{i}" for i in range(g)]))


def logged(adata: ad.AnnData, total: float | None = None) -> ad.AnnData:
    """The same cells, X normalised log1p (by default to the median), the counts in layers["counts"]."""
    made = adata.copy()
    x = made.X.toarray()
    sums = x.sum(1, keepdims=True)
    made.layers["counts"] = made.X.copy()
    made.X = sparse.csr_matrix(np.log1p(x / sums * (total or np.median(sums))).astype("float32"))
    return made


def scaled(x) -> np.ndarray:
    x = x.toarray() if sparse.issparse(x) else x
    sd = x.std(0)
    return ((x - x.mean(0)) / np.where(sd > 0, sd, 1)).astype("float32")


def dense(x) -> np.ndarray:
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


def as_compound(adata: ad.AnnData, path: Path) -> None:
    """The layout of anndata before 0.7: frames as compound datasets, levels in uns."""
    with h5py.File(path, "w") as handle:
        group = handle.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", np.array(adata.shape)
        group["data"], group["indices"], group["indptr"] = adata.X.data, adata.X.indices, adata.X.indptr
        levels = handle.create_group("uns")
        for name, frame in (("obs", adata.obs), ("var", adata.var)):
            own = [("index", np.array(frame.index, dtype="S"))]
            for key in frame:
                own.append((key, frame[key].cat.codes.to_numpy()))
                levels[f"{key}_categories"] = np.array(frame[key].cat.categories, dtype="S")
            handle[name] = np.rec.fromarrays([values for _, values in own], names=[key for key, _ in own])


# The commands

# a command in an error, to where its clause ends
ADVISED = re.compile(r"cellalign (?:preprocess|train|embed|annotate|counterfactual|evaluate) .*?(?=[;`\n]|, |$)")


class Shell:
    """Types commands in a folder; a status that is not asked for fails the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, line: str, status: int | tuple[int, ...] = 0) -> subprocess.CompletedProcess:
        done = in_this_process(shlex.split(line.removeprefix("cellalign ")), self.folder)
        allowed = (status,) if isinstance(status, int) else status
        assert done.returncode in allowed, f"{line}: status {done.returncode}\n{done.stderr}"
        assert "Traceback" not in done.stderr and "unexpected" not in done.stderr, done.stderr
        if done.returncode:
            assert done.stderr.strip().splitlines()[-1].startswith("cellalign: error: "), done.stderr
        return done

    def read(self, name: str) -> ad.AnnData:
        return ad.read_h5ad(self.folder / name)

    def write(self, name: str, adata: ad.AnnData) -> ad.AnnData:
        adata.write_h5ad(self.folder / name)
        return adata

    def obey(self, done: subprocess.CompletedProcess) -> list[str]:
        """Run the commands that an error advises; each has to work."""
        advised = [line.rstrip(" .)'") for line in ADVISED.findall(done.stderr)]
        for line in advised:
            self(line)
        return advised


def train(method: str, more: str = "", file: str = "in.h5ad", model: str = "m") -> str:
    """A short training's command line."""
    small = "" if method == "linear" else " --epochs 1 --set hidden=[8] --latent-dim 3"
    return f"train {file} --method {method} {more} -m {model} --force{small}"


def mentions(text: str, *words: str) -> bool:
    """Whether a line holds all of these, in any case."""
    return any(all(word.lower() in line.lower() for word in words) for line in text.splitlines())
