"""KEDA's Kafka scaler and the HorizontalPodAutoscaler that it makes, after their documentation and source.

KEDA 2.21: pkg/scalers/kafka_scaler.go, pkg/scaling/executor/scale_scaledobjects.go; Kubernetes 1.34: the HPA of autoscaling/v2.
KEDA's loop starts and ends the first replica, every `pollingInterval`; between one and the maximum the HPA decides every 15 s on
the total lag. Without `spec.behavior` KEDA's HPA takes the highest recommendation of the last 300 s in both directions and
grows to max(2 x current, 4) at most.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forebay_cli.simulate.policies.forebay import phase
from forebay_cli.simulate.world import Arrivals, Look

HPA_SYNC_S = 15.0
"""--horizontal-pod-autoscaler-sync-period"""
HPA_TOLERANCE = 0.1
"""--horizontal-pod-autoscaler-tolerance"""
HPA_WINDOW_S = 300.0
"""--horizontal-pod-autoscaler-downscale-stabilization"""


@dataclass(frozen=True, slots=True, kw_only=True)
class KedaSettings:
    """Of a ScaledObject with a kafka trigger; the defaults are KEDA's."""

    lag_threshold: int = 10
    activation_lag_threshold: int = 0
    polling_interval_s: float = 30.0
    cooldown_s: float = 300.0
    min_replica_count: int = 0
    max_replica_count: int = 100
    even_distribution: bool = False
    """`ensureEvenDistributionOfPartitions`"""
    limit_to_partitions_with_lag: bool = False


def metric(lags: Sequence[int | None], settings: KedaSettings) -> tuple[int, bool]:
    """What the scaler tells the HPA, and whether it is active. A partition that did not answer counts as no lag."""
    known = [lag or 0 for lag in lags]
    total = sum(known)
    is_active = total > settings.activation_lag_threshold
    bound = len(known)
    if settings.even_distribution:
        total = next_factor(total, len(known), settings.lag_threshold) * settings.lag_threshold
    if settings.limit_to_partitions_with_lag:
        bound = sum(lag > 0 for lag in known)
    if total // settings.lag_threshold > bound:
        total = bound * settings.lag_threshold
    return total, is_active


def next_factor(total: int, partitions: int, threshold: int) -> int:
    """The smallest divisor of the partitions that carries the lag."""
    for factor in range(1, partitions + 1):
        if partitions % factor == 0 and factor * threshold >= total:
            return factor
    return partitions


def recommended(replicas: int, total: float, target: float) -> int:
    """The HPA's recommendation for an external metric with an average value."""
    if abs(1 - total / (target * replicas)) <= HPA_TOLERANCE:
        return replicas
    return math.ceil(total / target)


class Keda:
    """A ScaledObject."""

    def __init__(self, load: Arrivals, index: int, settings: KedaSettings | None = None) -> None:
        setting = load.setting
        self._settings = settings or KedaSettings()
        self._low = self._settings.min_replica_count
        self._high = min(self._settings.max_replica_count, setting.max_replicas)
        self._next = {
            "poll": phase(load, index, self._settings.polling_interval_s),
            "hpa": phase(load, index + 7, HPA_SYNC_S),
        }
        self._recommendations: list[tuple[float, int]] = []
        self._active_at = 0.0  # there was load until now, or it would not begin with replicas

    def next_look(self, now: float) -> float:
        """At the next poll of KEDA or sync of the HPA."""
        every: Mapping[str, float] = {"poll": self._settings.polling_interval_s, "hpa": HPA_SYNC_S}
        for name, seconds in every.items():
            while self._next[name] <= now:
                self._next[name] += seconds
        self._due = min(self._next, key=lambda name: self._next[name])
        return self._next[self._due]

    def decide(self, look: Look | None) -> int | None:
        """One turn of whichever loop is due. An error leaves everything as it is."""
        if look is None:
            return None
        lags = [None if end is None else end - done for end, done in zip(look.ends, look.committed, strict=True)]
        total, is_active = metric(lags, self._settings)
        if self._due == "poll":
            return self._poll(look.now, look.replicas, is_active=is_active)
        return self._sync(look.now, look.replicas, total)

    def _poll(self, now: float, replicas: int, *, is_active: bool) -> int:
        if is_active:
            self._active_at = now
            return replicas or max(1, self._low)
        if replicas > 0 and self._low == 0 and now > self._active_at + self._settings.cooldown_s:
            return 0
        return max(replicas, self._low)

    def _sync(self, now: float, replicas: int, total: int) -> int:
        if replicas == 0:
            return 0  # the HPA is off at zero
        wanted = recommended(replicas, total, self._settings.lag_threshold)
        kept = [each for each in self._recommendations if each[0] >= now - HPA_WINDOW_S]
        highest = max([wanted, *(each for _, each in kept)])
        self._recommendations = [*kept, (now, wanted)]
        return max(1, self._low, min(highest, self._high, max(2 * replicas, 4)))
