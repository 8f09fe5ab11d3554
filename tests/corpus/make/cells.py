"""The cells that every file of the corpus holds: 60 cells, 40 genes, counts, and three columns.

Nothing but numpy is needed, so that environments as old as Python 3.6 make the same numbers.
"""

import numpy as np

SYMBOLS = (
    "ISG15 IFI6 IFIT1 IFIT3 MX1 OAS1 CXCL10 LY6E MS4A1 CD79A CD74 HLA-DRA HLA-DPB1 CD37 TCL1A IGHM NKG7 GNLY GZMB "
    "PRF1 FCER1G KLRD1 CST7 CTSW MT-ND1 MT-CO1 RPL13 RPS27 RPLP1 ACTB B2M TMSB4X MALAT1 FTL FTH1 EEF1A1 TPT1 UBC "
    "RP11-34P13.7 HSPA8"
).split()
ENSEMBL = [f"ENSG{150000 + 37 * i:011d}" for i in range(len(SYMBOLS))]
CONDITIONS = ("control", "stimulated")
CELL_TYPES = ("B", "NK")
N_CELLS = 60


def _barcode(number):
    letters = "".join("ACGT"[(7 * number + 3 * place + number // 4**place) % 4] for place in range(13))
    return letters + "ACGT"[number // 16 % 4] + "ACGT"[number // 4 % 4] + "ACGT"[number % 4] + "-1"


BARCODES = [_barcode(i) for i in range(N_CELLS)]
_index = np.arange(N_CELLS)
CELL_TYPE = [CELL_TYPES[i % 2] for i in _index]
STIM = [CONDITIONS[i // 2 % 2] for i in _index]
BATCH = [f"b{1 + i // 4 % 2}" for i in _index]


def counts():
    """Counts [60, 40], int64: 8 genes answer to stimulation, 8 mark B cells, 8 mark NK cells."""
    random = np.random.RandomState(17)
    mean = np.full((N_CELLS, len(SYMBOLS)), 1.5)
    mean[:, :8] *= np.where(np.array(STIM) == CONDITIONS[1], 6.0, 1.0)[:, None]
    for code, kind in enumerate(CELL_TYPES):
        mean[np.array(CELL_TYPE) == kind, 8 + 8 * code : 16 + 8 * code] *= 5.0
    return random.poisson(mean * random.uniform(0.7, 1.4, (N_CELLS, 1)))


def logged(x):
    """Counts normalised to their median sum, then log1p; float32."""
    sums = x.sum(axis=1, keepdims=True)
    return np.log1p(x / sums * np.median(sums)).astype("float32")


def scaled(x):
    """Every gene with mean 0 and standard deviation 1; float32."""
    return ((x - x.mean(axis=0)) / x.std(axis=0)).astype("float32")
