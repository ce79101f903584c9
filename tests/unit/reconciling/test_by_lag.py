"""Replicas by lag: the verdicts and their words."""

import pytest

from forebay.pipeline.spec import Autoscaling
from forebay.planning.by_lag import CALM_S, COOL_DOWN_S, Measured, decide

NOW = 10_000.0
BOUNDS = Autoscaling(min_replicas=1, max_replicas=4, freshness_seconds=10)
LATE = Measured(lag=500, behind_s=15.0, group="STABLE")
CALM = Measured(lag=3, behind_s=1.0, group="STABLE", calm_since=NOW - CALM_S - 1)


@pytest.mark.parametrize(
    ("measured", "replicas", "changed_at", "verdict"),
    [
        (Measured(), 2, None, (2, "LagUnknown")),
        (Measured(lag=5, group="STABLE"), 2, None, (2, "LagUnknown")),
        (Measured(500, 15.0, group="PREPARING_REBALANCING"), 2, None, (2, "Rebalancing")),
        (LATE, 2, NOW - COOL_DOWN_S + 1, (2, "CoolingDown")),
        (LATE, 2, NOW - COOL_DOWN_S - 1, (3, "Behind")),
        (LATE, 4, None, (4, "AtMaximum")),
        (Measured(500, 900.0, group="STABLE"), 2, None, (4, "Behind")),
        (Measured(3, 1.0, group="STABLE", calm_since=NOW - 5), 2, None, (2, "KeepingUp")),
        (CALM, 2, None, (1, "Calm")),
        (CALM, 1, None, (1, "KeepingUp")),
        (LATE, 9, None, (4, "Bounded")),
        (LATE, 0, None, (1, "Bounded")),
    ],
)
def test_verdicts(measured, replicas, changed_at, verdict):
    found = decide(BOUNDS, measured, replicas, changed_at, NOW)

    assert (found.replicas, found.reason) == verdict
    assert found.sentence


ZERO = Autoscaling(min_replicas=1, max_replicas=4, scale_to_zero=True)


@pytest.mark.parametrize(
    ("measured", "replicas", "verdict"),
    [
        (Measured(0, 0.0, group="STABLE", calm_since=NOW - CALM_S - 1), 1, (0, "Idle")),
        (Measured(0, 0.0, group="STABLE", calm_since=NOW - CALM_S - 1), 2, (1, "Calm")),
        (Measured(0, 0.0, group="STABLE", calm_since=NOW - 5), 1, (1, "KeepingUp")),
        (Measured(0, 0.0, group="EMPTY"), 0, (0, "Idle")),
        (Measured(1, 0.0, group="EMPTY"), 0, (1, "Woken")),
        (Measured(), 0, (0, "LagUnknown")),
    ],
)
def test_to_zero_and_back(measured, replicas, verdict):
    found = decide(ZERO, measured, replicas, None, NOW)

    assert (found.replicas, found.reason) == verdict
