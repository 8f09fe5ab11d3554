"""Cells whose matrices stay on disk: an AnnData with obs, var, obsm and uns in memory, and `Stored` matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cellalign.data.stored import Stored


class _Raw:
    """Stands for `raw`, with its matrix on disk."""

    def __init__(self, x: Stored, var: pd.DataFrame) -> None:
        self.X, self.var = x, var
        self.varm: dict[str, Any] = {}

    @property
    def var_names(self) -> pd.Index:
        """Names of its genes."""
        return self.var.index

    @property
    def shape(self) -> tuple[int, int]:
        """Cells, genes."""
        return self.X.shape


class StreamedCells(AnnData):
    """Cells of which `X`, the layers and `raw.X` are `Stored` matrices; all else is in memory.

    Parameters
    ----------
    matrices : mapping of "X" or a layer's name to Stored
    raw : pair of Stored and DataFrame, optional
        Its matrix and its genes.
    **parts
        obs, var, obsm and uns of an `AnnData`.
    """

    def __init__(self, matrices: Mapping[str, Stored], raw: tuple[Stored, pd.DataFrame] | None = None, **parts: Any):
        self._on_disk: dict[str, Stored] = {}
        super().__init__(**parts)
        self._on_disk = dict(matrices)
        self._stored_raw = None if raw is None else _Raw(*raw)

    @property
    def X(self) -> Any:
        """Stored [n, G], or None."""
        return self._on_disk.get("X")

    @X.setter
    def X(self, value: Any) -> None:
        if isinstance(value, Stored):
            self._on_disk["X"] = value
        elif value is None:
            self._on_disk.pop("X", None)
        else:
            raise TypeError("of cells on disk X is on disk as well; to_memory() gives cells in memory")

    @property
    def layers(self) -> Any:
        """The others, by name."""
        return {name: matrix for name, matrix in self._on_disk.items() if name != "X"}

    @layers.setter
    def layers(self, value: Any) -> None:
        for name, matrix in (value or {}).items():
            self._on_disk[name] = matrix

    @property
    def raw(self) -> Any:
        """With X and var, or None."""
        return getattr(self, "_stored_raw", None)

    @raw.setter
    def raw(self, value: Any) -> None:
        assert value is None

    @property
    def isbacked(self) -> bool:
        """False: a file that anndata itself keeps open is another thing."""
        return False

    @property
    def matrices(self) -> dict[str, Stored]:
        """X and the layers."""
        return dict(self._on_disk)

    def __getitem__(self, index: Any) -> AnnData:
        """Some cells, and some genes, still on disk: by a mask, numbers, names or a slice."""
        rows, genes = index if isinstance(index, tuple) else (index, slice(None))
        chosen = None if isinstance(genes, slice) and genes == slice(None) else _places(genes, self.var_names)
        return self.part(_places(rows, self.obs_names), chosen)

    def part(self, cells: np.ndarray, genes: np.ndarray | None = None) -> StreamedCells:
        """Some cells, and some genes, still on disk; `raw` and varm are left out."""
        rest = slice(None) if genes is None else genes
        var = self.var if genes is None else self.var.iloc[genes]
        obsm = {key: self.obsm[key][cells] for key in self.obsm}
        matrices = {name: matrix[cells, rest] for name, matrix in self._on_disk.items()}
        return StreamedCells(matrices, obs=self.obs.iloc[cells].copy(), var=var.copy(), obsm=obsm, uns=dict(self.uns))

    def with_matrix(self, name: str, matrix: Stored) -> StreamedCells:
        """The same cells with another X or layer."""
        raw = None if self.raw is None else (self.raw.X, self.raw.var)
        rest = {part: dict(getattr(self, part)) for part in ("obsm", "varm", "uns")}
        return StreamedCells(self._on_disk | {name: matrix}, raw, obs=self.obs, var=self.var, **rest)

    def to_memory(self, copy: bool = False) -> AnnData:
        """The same cells with all matrices in memory."""
        found = AnnData(obs=self.obs, var=self.var, obsm=dict(self.obsm), varm=dict(self.varm), uns=dict(self.uns))
        for name, matrix in self._on_disk.items():
            if name == "X":
                found.X = matrix.to_memory()
            else:
                found.layers[name] = matrix.to_memory()
        if self.raw is not None:
            found.raw = AnnData(self.raw.X.to_memory(), obs=self.obs[[]], var=self.raw.var)
        return found

    def copy(self, filename: Any = None) -> AnnData:
        """Cells in memory: what is on disk is not copied there."""
        return self.to_memory()


def _places(asked: Any, names: pd.Index) -> np.ndarray:
    """The numbers of what is asked for."""
    if isinstance(asked, slice):
        return np.arange(len(names))[asked]
    found = np.atleast_1d(np.asarray(asked))
    if found.dtype.kind in "OUS":
        places = names.get_indexer(pd.Index(found.astype(str)))
        if (places < 0).any():
            raise KeyError(f"not there: {found[places < 0][0]}")
        return places
    return np.arange(len(names))[found]


def cells_with(matrices: Mapping[str, Any], **parts: Any) -> AnnData:
    """Cells with X and layers, which are all in memory or all on disk.

    Parameters
    ----------
    matrices : mapping of "X" or a layer's name to matrix
    **parts
        As of `AnnData`.
    """
    if any(isinstance(x, Stored) for x in matrices.values()):
        return StreamedCells(matrices, **parts)
    layers = {name: x for name, x in matrices.items() if name != "X"}
    return AnnData(matrices.get("X"), layers=layers, **parts)
