"""Panel de: its table is of the whole control, what predicted and real genes agree in of halves of it."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import cellalign
from cellalign.evaluation.compared import CellType
from cellalign.evaluation.metrics import de
from cellalign.evaluation.panels import de as panel

ASKED = {"condition": "stim", "control": "ctrl", "panels": ["de"]}
GENES, N = 300, 200


def design(seed, size=0.1, related=False):
    """Predicted cells, 60 control and 200 real cells, all of six donors; weak changes, unrelated but where said."""
    rng = np.random.default_rng(seed)
    base, donor = rng.gamma(2, 1.5, GENES) + 0.5, np.exp(rng.normal(0, 0.05, (6, GENES)))
    real, guess = np.exp(rng.normal(0, size, (2, GENES)))

    def cells(name, prefix, n, fold):
        of = np.arange(n) % 6
        obs = pd.DataFrame(
            {"stim": [name] * n, "donor": [f"d{i}" for i in of]}, index=[f"{prefix}{i}" for i in range(n)]
        )
        x = np.log1p(rng.poisson(base * fold * donor[of])).astype(np.float32)
        return ad.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(GENES)]))

    observed = ad.concat([cells("ctrl", "c", 60, 1.0), cells("x", "r", N, real)])
    return cells("x", "p", N, real if related else guess), observed, cells("ctrl", "f", 60, 1.0)


@pytest.mark.parametrize("replicate", [None, "donor"])
def test_unrelated_changes_agree_in_nothing(replicate):
    """Tested against the same control cells they seem to: both lie alike beside these."""
    found = []
    for seed in range(6):
        predicted, real, fresh = design(seed)
        result = cellalign.evaluate(predicted, against=real, replicate=replicate, **ASKED)
        other = ad.concat([fresh, real[real.obs["stim"] == "x"]])
        [mine], [apart] = (
            cellalign.evaluate(predicted, against=cells, replicate=replicate, **ASKED).tested for cells in (real, other)
        )
        found.append(
            [result.value("de_jaccard", system="prediction")]
            + [de.jaccard(test.predicted, mine.real) for test in (mine, apart)]
        )
    halves, shared, with_fresh = np.nanmean(found, axis=0)
    assert shared > 2 * with_fresh  # what the control's noise alone brought
    assert halves <= with_fresh + 0.01 and halves < shared / 4


@pytest.mark.parametrize("replicate", [None, "donor"])
def test_the_same_changes_still_agree_and_the_table_is_of_the_whole_control(replicate):
    predicted, real, _ = design(0, size=0.4, related=True)
    result = cellalign.evaluate(predicted, against=real, replicate=replicate, **ASKED)
    assert result.value("de_jaccard", system="prediction") > 0.6
    [tested] = result.tested
    assert tested.cells == {"predicted": N, "real": N, "control": 60}
    for kind, test in (("de_predicted", tested.predicted), ("de_real", tested.real)):
        assert result.value(kind, system="prediction") == (test.direction != 0).sum() > 50
    if replicate is None:
        control = real[real.obs["stim"] == "ctrl"].X
        whole = de.wilcoxon(real[real.obs["stim"] == "x"].X, control)
        np.testing.assert_allclose(tested.real.p, whole.p, rtol=1e-4)
    again = cellalign.evaluate(predicted, against=real, replicate=replicate, **ASKED)
    assert [row.value for row in again.rows] == [row.value for row in result.rows]


def test_groups_are_the_same_in_another_spelling():
    """As numbers in one file, and in another as text: replicates of a group are looked for by either."""
    predicted, real, _ = design(0, size=0.4, related=True)
    predicted.obs["cluster"], real.obs["cluster"] = "1", 1.0
    asked = {"label": "cluster", "replicate": "donor"} | ASKED
    ours = cellalign.evaluate(predicted, against=real, **asked)
    real.obs["cluster"] = "1"
    same = cellalign.evaluate(predicted, against=real, **asked)
    assert [(row.group, row.metric, row.value) for row in ours.rows] == [
        (row.group, row.metric, row.value) for row in same.rows
    ]


def test_halves_are_of_the_cells_that_were_predicted_from_and_of_as_many_real_ones(monkeypatch):
    rng = np.random.default_rng(0)
    control, real = rng.normal(size=(20, 3)), rng.normal(size=(50, 3)) + 5
    source = np.repeat(np.arange(16), 2)  # four control cells were not predicted from
    cells = CellType("all", control[source] + 100, real, control, source)
    given = []
    monkeypatch.setattr(panel.de, "wilcoxon", lambda x, start, is_log: given.append((x, start)))
    assert len(list(panel._halves(cells, False, seed=0))) == 5
    for (guess, start), (truth, other) in zip(given[::2], given[1::2], strict=True):
        rows = {tuple(row) for row in start}
        assert len(guess) == len(truth) == 16
        assert all(np.isclose(row - 100, start).all(1).any() for row in guess)
        assert len(start) == len(other) == 10 and not rows & {tuple(row) for row in other}


def test_an_overlap_is_of_the_halvings_in_which_any_gene_differs():
    none, one = de.Test.of(np.ones(2), np.ones(2)), de.Test.of(np.ones(2), np.zeros(2))
    assert panel._overlap([(one, one), (none, none), (one, None), (none, one)]) == 0.5
    assert np.isnan(panel._overlap([(none, none)])) and np.isnan(panel._overlap([]))
