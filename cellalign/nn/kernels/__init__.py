"""Innermost loops, each compiled by numba for CPUs and beside that as tensor operations for every other device.

`ops` registers them with torch and is all that other modules use. Constants that both forms share are here.
"""

TABLED = 16  # counts below are small: 95 % of those stored of PBMCs; a larger table costs more than it saves
# What no data can tell apart is cut off, lest float32 overflow: chances of a dropout under e^-80, inverse dispersions
# under e^-40 or over e^20 (a Poisson). Gradients ignore the cuts, so that what lies beyond can come back.
LEAST_LOGIT, LEAST_LOG_THETA, MOST_LOG_THETA = -80.0, -40.0, 20.0
SMALL_RATIO = 2**-8  # of mean to inverse dispersion: below, log(1 + r) - r / (1 + r) is a series of three terms
