"""Printed tables mark which way is better; what programs read says it in words."""

import io
import json

import pandas as pd
import pytest

from cellalign.evaluation import Evaluation, Metric, Row
from cellalign.evaluation.metrics.metric import DOWN, NEITHER, NULL, UP, Null, towards

ERROR = Metric("error", "An error.", DOWN, "1")
SHARE = Metric("share", "A share.", UP, "0")
FLOOR = Metric("floor", "A floor.", NEITHER, "itself")
LEFT = Metric("share", "A share that should be the floor.", towards("floor"), "the floor")


def test_arrows_stand_above_the_columns():
    rows = [
        Row("response", "prediction", "B", SHARE, 0.5, 10),
        Row("response", "prediction", "B", ERROR, 0.25, 10),
        Row("response", "no change", "B", ERROR, 1.0, 12),
    ]
    (table,) = Evaluation(rows).summary()
    expected = [["prediction / B", "10", "0.500", "0.250"], ["no change / B", "12", "", "1.000"]]
    assert table == ("response", ["", "cells", "share ↑", "error ↓"], expected)


def test_an_arrow_stands_beside_the_row_where_the_column_has_several():
    rows = [
        Row("probe", "stim", "all", LEFT, 0.5, 10),
        Row("probe", "stim", "all", FLOOR, 0.5, 10),
        Row("probe", "cell_type", "all", SHARE, 0.9, 10),
        Row("probe", "cell_type", "all", FLOOR, 0.4, 10),
    ]
    (table,) = Evaluation(rows).summary()
    assert table[1] == ["", "cells", "share", "floor"]
    assert table[2] == [["stim →floor", "10", "0.500", "0.500"], ["cell_type ↑", "10", "0.900", "0.400"]]
    ((_, columns, _),) = Evaluation(rows[:2]).summary()
    assert columns == ["", "cells", "share →floor", "floor"]


def test_a_score_stands_beside_its_null():
    mixed = Metric("mixed", "How mixed.", towards(NULL), "that of permuted labels")
    rows = [
        Row("mixing", "all", "all", mixed, 0.5, 10, Null(0.1, 0.01)),
        Row("mixing", "all", "all", SHARE, 0.25, 10),
        Row("mixing", "all", "B", mixed, 0.75, 4),
    ]
    (table,) = Evaluation(rows).summary()
    assert table[1] == ["", "cells", "mixed →permuted", "permuted", "share ↑"]
    assert table[2] == [["all cells", "10", "0.500", "0.100 ± 0.010", "0.250"], ["B", "4", "0.750", "", ""]]
    ((_, columns, turned),) = Evaluation(rows, metrics_as_rows={"mixing"}).summary()
    assert [line[0] for line in turned] == ["cells", "mixed →permuted", "permuted", "share ↑"]
    scores = json.loads(Evaluation(rows).to_json())["scores"]
    assert [(row["null"], row["null_sd"]) for row in scores] == [(0.1, 0.01), (None, None), (None, None)]


def test_of_a_tall_panel_metrics_are_rows():
    rows = [Row("bio", system, "all", metric, 0.5, 10) for system in ("X_a", "X_b") for metric in (SHARE, ERROR)]
    ((_, columns, table),) = Evaluation(rows, metrics_as_rows={"bio"}).summary()
    assert columns == ["", "X_a", "X_b"]
    assert table == [["cells", "10", "10"], ["share ↑", "0.500", "0.500"], ["error ↓", "0.500", "0.500"]]


def test_programs_read_it_in_words():
    found = Evaluation([Row("a", "all", "all", LEFT, 0.5, 10), Row("a", "all", "B", ERROR, float("nan"), 3)])
    scores = json.loads(found.to_json())["scores"]
    first = {"panel": "a", "system": "all", "group": "all", "metric": "share", "value": 0.5, "n_cells": 10}
    assert scores[0] == first | {"better": "towards floor", "null": None, "null_sd": None}
    assert scores[1]["value"] is None and scores[1]["better"] == "down"
    table = pd.read_csv(io.StringIO(found.to_csv()))
    assert list(table) == ["panel", "system", "group", "metric", "value", "n_cells", "better", "null", "null_sd"]
    assert table["better"].tolist() == ["towards floor", "down"]
    assert found.frame()["value"].tolist()[0] == pytest.approx(0.5)


def test_json_is_json_where_a_score_is_infinite():
    def refused(constant):
        raise AssertionError(constant)

    found = Evaluation(
        [Row("likelihood", "all", "all", ERROR, value, 3) for value in (float("inf"), float("nan"), 1.5)]
    )
    scores = json.loads(found.to_json(), parse_constant=refused)["scores"]
    assert [row["value"] for row in scores] == [None, None, 1.5]
