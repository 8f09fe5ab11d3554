"""Arrays in, numbers out: no files, no AnnData.

A metric is declared (`metric.Metric`) with its name, what it means, which way is better, and what it is where there
is nothing to find; no table prints a number without that.
"""
