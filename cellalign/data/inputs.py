"""From an AnnData to the cells a method reads: the matrix checked, the genes matched, the roles encoded."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from scipy import sparse

from cellalign.data.batches import Cells, as_matrix
from cellalign.data.checks import check_log, check_matrix, check_names, is_counts
from cellalign.data.roles import Roles
from cellalign.errors import InputError, option, spoken

log = logging.getLogger("cellalign")


# where an expression of each scale is looked for, in this order
MATRICES = {"log": ("X",), "counts": ("counts", "X")}


def default_matrix(adata: AnnData, scale: str) -> str:
    """Name of the matrix that a method reading "log" or "counts" takes where the user names none."""
    return next((key for key in MATRICES[scale] if key in adata.layers), "X")


def matrix_of(adata: AnnData, key: str, where: str = "the input") -> Any:
    """The matrix named `key`: "X", or a layer.

    Raises
    ------
    InputError
        There is none of that name; those there are listed.
    """
    if key == "X":
        if adata.X is None:
            raise InputError(f"{where} has no X")
        return adata.X
    if key not in adata.layers:
        there = ", ".join(["X", *adata.layers]) or "none"
        raise InputError(f"{where} has no layer {key!r}; matrices: {there}")
    return adata.layers[key]


def check_expression(x: Any, scale: str, where: str, command_hint: str | None = None) -> None:
    """Check a matrix once, at the door: finite, not negative, and on the scale the method reads.

    Raises
    ------
    InputError
        Empty, NaN, infinite or negative values, raw counts to a method that reads log expression, or no counts
        to one that reads counts.
    """
    check_matrix(x, where)
    command_hint = command_hint or spoken(python="cellalign.preprocess(adata)", command="cellalign preprocess")
    if scale == "log":
        check_log(x, where, command_hint)
    elif not is_counts(x):
        raise InputError(f"{where} holds no raw counts, which this method reads; run: {command_hint}")


def align_genes(x: Any, have: list[str], need: list[str], *, missing: str = "error", where: str = "the input") -> Any:
    """Columns of x in the order of the genes the model was trained on.

    Parameters
    ----------
    x : matrix [n, len(have)]
    missing : {"error", "zero"}
        What to do about genes the model needs and the file lacks.

    Raises
    ------
    InputError
        Genes are missing and `missing` is "error", or none at all is there.
    """
    if have == need:
        return x
    position = {gene: i for i, gene in enumerate(have)}
    absent = [gene for gene in need if gene not in position]
    if len(absent) == len(need):
        raise InputError(f"{where} has none of the model's {len(need)} genes; are these the same gene names?")
    if absent and missing != "zero":
        named = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
        raise InputError(
            f"{where} lacks {len(absent)} of the model's {len(need)} genes: {named}; "
            f"use a file that has them, or {option('missing_genes', 'zero')}"
        )
    if not absent:
        return x[:, [position[gene] for gene in need]]
    log.warning("%s lacks %d of the model's %d genes; they are taken as zero", where, len(absent), len(need))
    present = [i for i, gene in enumerate(need) if gene in position]
    columns = sparse.csr_matrix(
        (np.ones(len(present), dtype=np.float32), ([position[need[i]] for i in present], present)),
        shape=(len(have), len(need)),
    )
    return sparse.csr_matrix(x) @ columns


def make_cells(
    adata: AnnData,
    x: Any,
    roles: Roles,
    *,
    with_condition: bool = True,
    ignore: np.ndarray | None = None,
    unseen: bool = False,
) -> Cells:
    """Codes and matrix of all cells.

    Parameters
    ----------
    adata : AnnData
        Its obs is read.
    x : matrix [n, G]
        Already checked and aligned.
    with_condition : bool
        Whether the method sees it: where not, the column need not be there and the code is zero.
    ignore : bool array [n], optional
        Cells that are never looked at, and may hold values never trained on.
    unseen : bool
        Categories never trained on, and absent columns, are unknown: their code is -1.

    Raises
    ------
    InputError
        A column is missing or holds a value never trained on.
    """
    obs, n = adata.obs, adata.n_obs
    condition, value = torch.zeros(n, dtype=torch.int64), torch.zeros(n)
    if with_condition:
        condition = torch.from_numpy(roles.condition_codes(obs, ignore, unseen=unseen))
        value = torch.from_numpy(roles.condition_values(obs, unseen=unseen))
    return Cells(
        as_matrix(x),
        condition,
        torch.from_numpy(roles.codes(obs, "batch", ignore, unseen=unseen)),
        torch.from_numpy(roles.codes(obs, "covariate", ignore, unseen=unseen)),
        torch.from_numpy(roles.label_codes(obs)),
        value,
        torch.from_numpy(roles.values(obs, unseen=unseen)),
    )


def checked_names(adata: AnnData, where: str) -> list[str]:
    """Gene names as a list, after checking that no cell or gene name stands twice."""
    check_names(adata, where)
    return [str(gene) for gene in adata.var_names]
