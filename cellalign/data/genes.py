"""Genes matched by name: those of a file brought into the order of the model's."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from scipy import sparse

from cellalign.errors import InputError, option

log = logging.getLogger("cellalign")


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
