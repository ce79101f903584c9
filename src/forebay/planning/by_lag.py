"""How many replicas a stage should have, by how far behind it is: the first, plain answer.

Every verdict has a reason and a sentence, "no change" too, and a missing measurement is never taken for zero.
"""

import math
from dataclasses import dataclass

from forebay.pipeline.spec import Autoscaling

COOL_DOWN_S = 60.0
"""Between two changes: the numbers must describe the new replicas before they are judged."""
CALM_S = 300.0
"""A stage that keeps up this long may lose a replica."""

SETTLED = frozenset({"STABLE", "EMPTY", "DEAD"})
"""States of a group, as `admin.GroupState` spells them, in which its lag says something."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A stage's input as Kafka shows it."""

    lag: int | None = None
    """Records not yet read, up to the last stable offset; None: unknown."""
    behind_s: float | None = None
    """Age of the oldest unread record."""
    is_at_least: bool = False
    """The record is older than what is remembered."""
    group: str = "UNKNOWN"
    """State of the consumer group, as `admin.GroupState` spells it."""
    calm_since: float | None = None
    """Since when the stage has been less than half of its freshness behind; None: it is not."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many replicas there should be, and why."""

    replicas: int
    reason: str
    sentence: str


def decide(bounds: Autoscaling, measured: Measured, replicas: int, changed_at: float | None, now: float) -> Verdict:
    """The verdict on a stage that has `replicas` and was changed last at `changed_at` (seconds since the epoch)."""
    least = 0 if bounds.scale_to_zero else bounds.min_replicas
    if not least <= replicas <= bounds.max_replicas:
        wanted = min(max(replicas, least), bounds.max_replicas)
        return Verdict(wanted, "Bounded", f"{replicas} replicas lie outside of {least} to {bounds.max_replicas}")
    if measured.lag is None or measured.behind_s is None:
        return Verdict(replicas, "LagUnknown", "the lag is unknown: the number of replicas stays as it is")
    if replicas == 0:
        return _asleep(bounds, measured.lag)
    if (verdict := _unripe(measured, replicas, now - changed_at if changed_at is not None else None)) is not None:
        return verdict
    if measured.behind_s > bounds.freshness_seconds:
        return _behind(bounds, measured.behind_s, replicas)
    is_calm = measured.calm_since is not None and now - measured.calm_since > CALM_S
    return _calm(bounds, measured.lag, replicas) if is_calm else _keeping_up(bounds, replicas)


def _unripe(measured: Measured, replicas: int, unchanged_s: float | None) -> Verdict | None:
    """The numbers do not yet describe the replicas that there are."""
    if measured.group not in SETTLED:
        return Verdict(replicas, "Rebalancing", "the consumer group is rebalancing: its lag says nothing yet")
    if unchanged_s is not None and unchanged_s < COOL_DOWN_S:
        return Verdict(replicas, "CoolingDown", f"the number of replicas changed less than {COOL_DOWN_S:.0f} s ago")
    return None


def _asleep(bounds: Autoscaling, lag: int) -> Verdict:
    if lag > 0:
        return Verdict(bounds.min_replicas, "Woken", f"{lag} records wait, and there was no replica")
    return Verdict(0, "Idle", "there is nothing to read")


def _behind(bounds: Autoscaling, behind_s: float, replicas: int) -> Verdict:
    fresh, high = bounds.freshness_seconds, bounds.max_replicas
    behind = f"{behind_s:.0f} s behind"
    if replicas == high:
        return Verdict(replicas, "AtMaximum", f"{behind}, and maxReplicas is {high}: raise it, if there is capacity")
    wanted = min(high, max(replicas + 1, math.ceil(replicas * min(2.0, behind_s / fresh))))
    return Verdict(wanted, "Behind", f"{behind}, more than freshnessSeconds {fresh}: {replicas} to {wanted} replicas")


def _calm(bounds: Autoscaling, lag: int, replicas: int) -> Verdict:
    if lag == 0 and bounds.scale_to_zero and replicas <= bounds.min_replicas:
        return Verdict(0, "Idle", f"nothing was left to read for {CALM_S:.0f} s")
    if replicas > bounds.min_replicas:
        return Verdict(replicas - 1, "Calm", f"it kept up for {CALM_S:.0f} s: {replicas} to {replicas - 1} replicas")
    return _keeping_up(bounds, replicas)


def _keeping_up(bounds: Autoscaling, replicas: int) -> Verdict:
    return Verdict(replicas, "KeepingUp", f"at most {bounds.freshness_seconds} s behind, as asked")
