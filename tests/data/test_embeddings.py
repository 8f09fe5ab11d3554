"""What counts as an embedding: latents by any method, and what cellalign recorded, but no picture's coordinates."""

import numpy as np
import pytest
from anndata import AnnData

from cellalign.data.embeddings import embedding_keys, has_embedding


@pytest.mark.parametrize(
    ("keys", "latents"),
    [
        ((), []),
        (("X_pca", "X_umap", "X_tsne"), []),
        (("spatial",), []),
        (("X_umap", "X_scVI", "spatial", "X_comp"), ["X_scVI", "X_comp"]),
    ],
)
def test_latents_are_told_from_coordinates_of_pictures(keys, latents):
    cells = AnnData(np.ones((3, 2), dtype=np.float32), obsm={key: np.zeros((3, 2)) for key in keys})
    assert embedding_keys(cells) == latents and has_embedding(cells) == bool(latents)
