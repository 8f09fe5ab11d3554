"""One table of several: rows of every INPUT, with the method each is of. Run by Snakemake, which brings `snakemake`."""

import csv

rows, head = [], ["method"]
for path, method in zip(snakemake.input, snakemake.params.methods, strict=True):  # noqa: F821
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.append({"method": method} | row)
            head += [key for key in row if key not in head]
with open(snakemake.output[0], "w", newline="", encoding="utf-8") as file:  # noqa: F821
    writer = csv.DictWriter(file, head)
    writer.writeheader()
    writer.writerows(rows)
