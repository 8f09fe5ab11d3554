"""What is written can be read by R, where R is there."""

import shutil
import subprocess

import pandas as pd
import pytest

from cellalign.data import files

READ = """
library(rhdf5)
for (i in which((x <- h5ls("x.h5ad"))$otype == "H5I_DATASET")) {
  value <- h5read("x.h5ad", paste0(sub("/$", "", x$group[i]), "/", x$name[i]), read.attributes = TRUE)
}
obs <- h5read("x.h5ad", "obs")
cat(obs$`_index`[2], obs$text$categories, obs$stim$categories, sum(h5read("x.h5ad", "X/data")))
"""


@pytest.mark.slow
def test_every_element_is_read_by_rhdf5(tiny, tmp_path):
    found = shutil.which("Rscript")
    there = found and subprocess.run([found, "-e", "library(rhdf5)"], capture_output=True).returncode == 0
    if not there:
        pytest.skip("R with the package rhdf5 is not installed (Debian: r-bioc-rhdf5)")
    tiny.obs["text"] = pd.array(["u", "v", None] * 80, dtype="string")
    tiny.obs["n"] = pd.array([1, None, 3] * 80, dtype="Int64")
    files.write(tiny, tmp_path / "x.h5ad")
    done = subprocess.run([found, "-e", READ], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:5] == ["cell1", "u", "v", "control", "stimulated"]
    assert float(done.stdout.split()[5]) == pytest.approx(float(tiny.X.sum()), rel=1e-4)
