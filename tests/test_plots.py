"""Pictures are written in the format their name asks for, and UMAP is reproducible."""

import numpy as np
import pandas as pd
import pytest

from cellalign.plots.umap import before_after, umap


@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")])
def test_picture(tmp_path, name, magic):
    xy = np.random.default_rng(0).normal(size=(40, 2))
    kinds = pd.Categorical([f"kind {i % 12}" for i in range(40)])
    before_after(xy, xy, {"kind": kinds}).savefig(tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_umap_separates_clusters_and_repeats():
    z = np.random.default_rng(0).normal(size=(60, 5)) + 20 * (np.arange(60) % 2)[:, None]
    first, again = umap(z, 3), umap(z, 3)
    np.testing.assert_array_equal(first, again)
    centres = first[::2].mean(0), first[1::2].mean(0)
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * first[::2].std()
