"""Probes tell what follows from the latents, and what does not."""

import numpy as np
import pytest

from cellalign.evaluation.metrics.probe import (
    CLASSIFIERS,
    OF_CONDITION,
    OF_LABEL,
    OF_NUMBER,
    REGRESSIONS,
    probes,
    regressions,
)


@pytest.fixture
def latents():
    """600 cells: z's first column gives a class, its second a number, a third is noise."""
    rng = np.random.default_rng(0)
    kind, dose = rng.integers(0, 2, 600), rng.uniform(size=600)
    return np.stack([3 * kind + rng.normal(size=600), dose + 0.1 * rng.normal(size=600), rng.normal(size=600)], 1), (
        kind,
        dose,
    )


def test_classes(latents):
    z, (kind, _) = latents
    scores = probes(z, kind)
    assert scores.pop("majority") == pytest.approx(max(kind.mean(), 1 - kind.mean()))
    assert min(scores.values()) > 0.85
    assert max(v for k, v in probes(z[:, 2:], kind).items() if k != "majority") < 0.6


def test_numbers(latents):
    z, (_, dose) = latents
    scores = regressions(z[:, 1:2], dose)
    # the signal's share of the variance: (1/12) / (1/12 + 0.01)
    assert scores["linear regression R2"] == pytest.approx(0.89, abs=0.02)
    assert min(scores.values()) > 0.8
    assert max(regressions(z[:, 2:], dose).values()) < 0.05


def test_what_is_computed_is_what_is_declared(latents):
    z, (kind, dose) = latents
    assert list(probes(z, kind)) == [*CLASSIFIERS, "majority"] == [metric.name for metric in OF_CONDITION]
    assert [metric.name for metric in OF_LABEL] == list(probes(z, kind))
    assert list(regressions(z, dose)) == list(REGRESSIONS) == [metric.name for metric in OF_NUMBER]
    # the same classifier is read the other way round where it is asked for the condition
    assert {str(metric.better) for metric in OF_CONDITION} == {"towards majority", "none"}
    assert {str(metric.better) for metric in OF_LABEL} == {"up", "none"}
    assert {str(metric.better) for metric in OF_NUMBER} == {"towards 0"}
