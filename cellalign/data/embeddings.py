"""Which embeddings cells hold: by their record, or, of another tool's, by the name in obsm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellalign.records import Provenance

if TYPE_CHECKING:
    from anndata import AnnData

NO_LATENTS = ("X_umap", "X_pca", "X_tsne")  # of no method


def embedding_keys(adata: AnnData) -> list[str]:
    """obsm keys that may be a method's latents."""
    return [key for key in adata.obsm if key.startswith("X_") and key not in NO_LATENTS]


def has_embedding(adata: AnnData) -> bool:
    """Whether there is one to score or to draw."""
    return bool(Provenance.of(adata.uns).embedding or embedding_keys(adata))
