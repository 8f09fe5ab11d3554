"""Rows of a benchmark kept in a CSV: what is finished is not run again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd


def rows(
    csv: Path, systems: Sequence[str], seeds: Sequence[int], run: Callable[[str, int], Mapping[str, float]]
) -> pd.DataFrame:
    """Scores of every system and seed, those that the file lacks by `run`; each is kept as soon as it is there."""
    done = pd.read_csv(csv) if csv.is_file() else pd.DataFrame(columns=["system", "seed"])
    for seed in seeds:
        for system in systems:
            if ((done["system"] == system) & (done["seed"] == seed)).any():
                continue
            found = pd.DataFrame([{"system": system, "seed": seed} | dict(run(system, seed))])
            done = pd.concat([done, found], ignore_index=True) if len(done) else found
            done.to_csv(csv, index=False)
            print(found.round(4).to_dict("records")[0], flush=True)
    return done


def mean_and_spread(done: pd.DataFrame) -> str:
    """Mean and standard deviation over seeds, a line per system."""
    table = done.drop(columns="seed").groupby("system", sort=False)
    return (table.mean().map("{:.3f}".format) + table.std().map(" ({:.3f})".format)).to_string()
