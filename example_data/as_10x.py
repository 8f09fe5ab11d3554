"""Write ifnb.h5ad as a stranger would have it: two 10x .h5 files and a table of cell types.

python example_data/as_10x.py          # writes control.h5, stimulated.h5 and cells.csv beside this file
"""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

HERE = Path(__file__).parent
CELLS = 1200
PACKED = {"compression": "gzip", "compression_opts": 9, "shuffle": True}


def write_10x(adata: ad.AnnData, path: Path) -> None:
    """Counts [n_cells, n_genes] as Cell Ranger 3 and later write them: genes by cells, compressed by columns."""
    x = sparse.csr_matrix(adata.X).astype(np.int32)
    names = np.array([str(name) for name in adata.var_names], dtype="S")
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        matrix.create_dataset("barcodes", data=np.array([str(name) for name in adata.obs_names], dtype="S"), **PACKED)
        for name, values in (("data", x.data), ("indices", x.indices), ("indptr", x.indptr)):
            matrix.create_dataset(name, data=values if name == "data" else values.astype(np.int64), **PACKED)
        matrix.create_dataset("shape", data=np.array(x.shape[::-1], dtype=np.int32))
        features = matrix.create_group("features")
        features.create_dataset("id", data=names, **PACKED)
        features.create_dataset("name", data=names, **PACKED)
        for name, value in (("feature_type", b"Gene Expression"), ("genome", b"GRCh38")):
            features.create_dataset(name, data=np.array([value] * len(names)), **PACKED)
        features.create_dataset("_all_tag_keys", data=np.array([b"genome"]))


def main() -> None:
    """Write the three files."""
    adata = ad.read_h5ad(HERE / "ifnb.h5ad")
    adata = adata[np.sort(np.random.default_rng(0).permutation(adata.n_obs)[:CELLS])]
    tables = []
    for condition in adata.obs["stim"].cat.categories:
        part = adata[adata.obs["stim"] == condition]
        write_10x(part, HERE / f"{condition}.h5")
        tables.append(
            pd.DataFrame({"barcode": part.obs_names, "cell_type": part.obs["cell_type"].astype(str).to_numpy()})
        )
    pd.concat(tables).to_csv(HERE / "cells.csv", index=False)


if __name__ == "__main__":
    main()
