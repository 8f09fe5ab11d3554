"""What a model reads of cells: their matrix on its scale, its genes in its order, the columns it was given."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cellalign.data.any_values import any_values
from cellalign.data.counts import find_counts, has_counts
from cellalign.data.files import read_matrix
from cellalign.data.genes import align_genes, match, say_how
from cellalign.data.given import given_cells
from cellalign.data.images import check_shape, pixels_of
from cellalign.data.loader import Cells, make_cells
from cellalign.data.matrices import check_names
from cellalign.data.reading import Reading, in_memory
from cellalign.data.recipe import Expression, counts_like, log_like
from cellalign.data.source import content_of
from cellalign.data.stored import Stored
from cellalign.data.streamed import cells_with
from cellalign.errors import InputError, UsageError, option
from cellalign.model_description import ModelDescription, sees_condition
from cellalign.model_directory import training_files
from cellalign.records import Preprocessing, Provenance
from cellalign.records.provenance import KEY


class ReadsCells(ModelDescription):
    """A model's side towards cells, old and new."""

    def check_source(self) -> Reading:
        """The training files as they were read, if they are still what the model was trained on.

        Raises
        ------
        InputError
            One is unknown, gone or changed.
        """
        return training_files(self.record.source)

    def cells(
        self, adata: AnnData, *, missing_genes: str = "error", with_condition: bool = True, unseen: bool = False
    ) -> Cells:
        """Cells as the method reads them: genes matched by name, columns as the fields encode them.

        Raises
        ------
        InputError
            As `embeddings`.
        """
        x = self.expression_of(adata, missing_genes)
        return make_cells(adata, x, self.fields, with_condition=with_condition, unseen=unseen)

    def is_of(self, adata: AnnData, left_out: np.ndarray) -> bool | None:
        """Whether these are the cells it was trained on, in their order; None of a model that does not know them.

        Parameters
        ----------
        left_out : bool array [n]
            The cells that were held out.

        Raises
        ------
        InputError
            The model cannot read them.
        """
        recipe, made_of = self.record.recipe, None
        if self.record.content is None:
            return None
        if self.expression == "log" and recipe.n_top_genes is not None:  # made of raw counts in training
            if not has_counts(adata, rounded=recipe.rounded):
                return False
            made_of = content_of(find_counts(adata, rounded=recipe.rounded).matrix)
        cells = make_cells(adata, self.expression_of(adata), self.fields, ignore=left_out)
        return cells.content(made_of) == self.record.content

    @cached_property
    def target_sum(self) -> float | None:
        """What the counts of a cell of the training file were scaled to; None where that is not known.

        Models of earlier versions do not hold it: their training file does, if `preprocess` wrote it.
        """
        if self.record.recipe.target_sum is not None or self.expression == "any":
            return self.record.recipe.target_sum
        try:
            written = Provenance.of(read_matrix(self.check_source(), None).uns).preprocess
        except InputError:
            return None
        return None if written is None else written.target_sum

    def expression_of(self, adata: AnnData, missing_genes: str = "error") -> Any:
        """The matrix that the model reads [n, G], on its scale, its genes in the model's order; see `aligned`."""
        return self.aligned(adata, missing_genes).x

    def aligned(self, adata: AnnData, missing_genes: str = "error") -> Expression:
        """What the model reads of cells: raw counts and other totals brought to its scale, genes to its order.

        Raises
        ------
        InputError
            As `recipe.log_like` and `recipe.counts_like`; genes are missing, or names occur twice.
        """
        adata = given_cells(adata)
        check_names(adata, "the input")
        rounded, base = self.record.recipe.rounded, self.record.recipe.base
        check_shape(adata, self.record.image_shape)
        if self.record.image_shape is not None and self.expression == "log":
            found = Expression(pixels_of(adata, self.matrix), adata.var)
        elif self.expression == "counts":
            found = counts_like(adata, self.matrix, rounded=rounded)
        elif self.expression == "any":
            found = Expression(any_values(adata, self.matrix), adata.var)
        else:
            found = log_like(adata, self.matrix, self.target_sum, base=base, rounded=rounded)
        written = Provenance.of(adata.uns).preprocess
        return self._in_order(found, missing_genes, preprocessed=written is not None and written.n_top_genes > 0)

    def _in_order(self, found: Expression, missing_genes: str, preprocessed: bool = False) -> Expression:
        """Expression with the model's genes in its order."""
        matching = match(found.var, self.genes, self.record.other_names)
        say_how(matching, "the input")
        x = align_genes(found.x, matching, self.genes, missing=missing_genes, preprocessed=preprocessed)
        var = found.var.reset_index(drop=True).reindex(matching.columns)
        return Expression(x, var.set_axis(pd.Index(self.genes)))

    def as_read(self, adata: AnnData, missing_genes: str = "error") -> AnnData:
        """The cells with their obs and nothing but what the model reads of them, as `aligned` gives it.

        Returns
        -------
        AnnData [n, G]
            The matrix lies where the training file had it, vectors of columns in obsm.
        """
        found = self.aligned(adata, missing_genes)
        vectors = {name: adata.obsm[name] for name in self.obsm if name in adata.obsm}
        uns = self.preprocessed(adata.uns, self.target_sum)
        return cells_with({self.matrix: found.x}, obs=adata.obs, var=found.var, obsm=vectors, uns=uns)

    def preprocess(
        self,
        adata: AnnData,
        missing_genes: str = "error",
        *,
        layer: str | None = None,
        raw: bool = False,
        rounded: bool = False,
    ) -> AnnData:
        """New cells as `cellalign.preprocess` made the training data: all of them, the model's genes, its total.

        Parameters
        ----------
        missing_genes : {"error", "zero"}
        layer, raw, rounded
            Where the counts are, and whether to round estimated ones; by default as `aligned`.

        Returns
        -------
        AnnData [n, G]
            X log expression, layers["counts"] the raw counts where there are any; obs, obsm and uns are kept.

        Raises
        ------
        InputError
            As `aligned`.
        UsageError
            The model reads values as they are.
        """
        if self.expression == "any":
            as_they_are = option("expression", "any")
            raise UsageError(f"the model was trained with {as_they_are}: it reads values as they are, give it the file")
        adata = in_memory(adata)
        check_names(adata, "the input")
        rounded = rounded or self.record.recipe.rounded
        if layer is not None or raw:
            place = find_counts(adata, layer=layer, raw=raw, rounded=rounded)
            kept = {"obsm": dict(adata.obsm), "uns": dict(adata.uns)}
            adata = cells_with({"X": place.matrix}, obs=adata.obs, var=place.var, **kept)
        counts = None
        if self.expression == "counts" or has_counts(adata, rounded=rounded):
            counts = counts_like(adata, self.matrix, rounded=rounded)
        total = self.target_sum
        if total is None and counts is not None and self.expression == "counts":
            sums = counts.x.facts.sums if isinstance(counts.x, Stored) else np.asarray(counts.x.sum(1))
            total = float(np.median(sums))
        found = self._in_order(
            log_like(adata, "X", total, base=self.record.recipe.base, rounded=rounded), missing_genes
        )
        matrices = {"X": found.x}
        if counts is not None:
            matrices["counts"] = self._in_order(counts, missing_genes).x
        kept = {"obsm": dict(adata.obsm), "uns": self.preprocessed(adata.uns, total)}
        return cells_with(matrices, obs=adata.obs, var=found.var, **kept)

    def preprocessed(self, uns: Mapping[str, Any], total: float | None) -> dict[str, Any]:
        """`uns` with the provenance of cells brought to a total."""
        written = Provenance.of(uns)
        if total is not None:
            step = written.preprocess or Preprocessing(counts_from="", n_top_genes=0, target_sum=total)
            written = written.with_steps(step.model_copy(update={"target_sum": total}))
        return {**uns, KEY: written.plain()}

    def _to_encode(self, adata: AnnData, missing_genes: str = "error", unseen: bool = False) -> Cells:
        """Cells whose condition is read only where the encoder sees it."""
        needed = self.method.embedding_needs_condition
        return self.cells(adata, missing_genes=missing_genes, with_condition=needed, unseen=unseen)

    def _to_score(self, adata: AnnData) -> Cells:
        """Cells whose condition is read only where the likelihood depends on it."""
        return self.cells(adata, with_condition=sees_condition(self.method))
