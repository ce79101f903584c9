"""The Flink Kubernetes Operator's autoscaler for a source vertex, after its documentation and source.

Flink Kubernetes Operator 1.13: docs/custom-resource/autoscaler.md, JobVertexScaler.java and ScalingMetricEvaluator.java.
It keeps the busy share of the subtasks at a target, over a window of minutes, and provides for the backlog of a restart. A job
restarts when it is rescaled; here a rescale costs no more than the rebalance of a consumer group, as for the other policies.
"""

import math
from dataclasses import dataclass

from forebay_cli.simulate.policies.forebay import phase
from forebay_cli.simulate.world import Arrivals, Look

INTERVAL_S = 60.0
"""`kubernetes.operator.reconcile.interval`, at its default: a sample and a decision each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlinkSettings:
    """`job.autoscaler.*`; the defaults are the operator's."""

    metrics_window_s: float = 900.0
    stabilization_s: float = 300.0
    utilization_target: float = 0.7
    utilization_boundary: float = 0.3
    catch_up_s: float = 1800.0
    restart_s: float = 300.0
    backlog_lag_threshold_s: float = 300.0
    scale_down_interval_s: float = 3600.0
    max_scale_down_factor: float = 0.6
    max_scale_up_factor: float = 100_000.0
    vertex_min_parallelism: int = 1
    vertex_max_parallelism: int = 200
    observed_lag_threshold_s: float = 30.0
    observed_min_observations: int = 2
    observed_switch_threshold: float = 0.15


def required(target_rate: float, lag: float, utilization: float, settings: FlinkSettings, *, restarts: bool) -> float:
    """The processing capacity that a vertex needs at that utilization (records/s)."""
    utilization = min(1.0, max(0.0, utilization))
    if utilization == 0:
        return math.inf
    catch_up = settings.catch_up_s
    extra = lag / catch_up + (target_rate * settings.restart_s / catch_up if restarts else 0.0) if catch_up else 0.0
    return round(extra + target_rate / utilization)


def parallelism(current: int, needed: float, true_rate: float, partitions: int, settings: FlinkSettings) -> int:
    """The new parallelism for a capacity, before it is aligned with the partitions."""
    factor = needed / true_rate
    factor = max(1 - settings.max_scale_down_factor, min(1 + settings.max_scale_up_factor, factor))
    high = min(partitions, max(current, settings.vertex_max_parallelism))
    return min(max(min(current, settings.vertex_min_parallelism), math.ceil(factor * current)), high)


def aligned(current: int, target: int, partitions: int, high: int) -> int:
    """The next parallelism that spreads the partitions evenly, or at least more evenly: mode BALANCED."""
    end = high if target > current else min(current, high)
    for count in range(target, end + 1):
        if partitions % count == 0 or partitions // count < partitions // target:
            return count
    return target


@dataclass(frozen=True, slots=True)
class _Sample:
    time: float
    done: float
    lag: float
    rate: float
    busy: float
    observed: float | None


class Flink:
    """A vertex that reads Kafka."""

    def __init__(self, load: Arrivals, index: int, settings: FlinkSettings | None = None) -> None:
        self._settings = settings or FlinkSettings()
        self._partitions = load.setting.partitions
        self._high = min(self._partitions, load.setting.max_replicas, self._settings.vertex_max_parallelism)
        self._phase = phase(load, index, INTERVAL_S)
        self._samples: list[_Sample] = []
        self._since = 0.0
        self._downs: list[tuple[float, int, bool]] = []

    def next_look(self, now: float) -> float:
        """Every minute."""
        return now + (INTERVAL_S if now else self._phase)

    def decide(self, look: Look | None) -> int | None:
        """Take a sample and evaluate the window."""
        if look is None or any(end is None for end in look.ends):
            return None
        settings, now = self._settings, look.now
        lag = float(sum(end - done for end, done in zip(look.ends, look.committed, strict=True) if end is not None))
        observed = None
        if look.rate == 0:
            observed = math.inf
        elif lag >= settings.observed_lag_threshold_s * look.rate:
            observed = look.rate
        if now >= self._since + settings.stabilization_s:
            self._samples.append(_Sample(now, look.done, lag, look.rate, look.busy, observed))
        if not self._samples or now < self._samples[0].time + settings.metrics_window_s:
            return None
        self._samples = [each for each in self._samples if each.time >= now - settings.metrics_window_s]
        wanted = self._evaluated(now, look.replicas) if len(self._samples) > 1 else look.replicas
        if wanted != look.replicas:
            self._samples, self._since, self._downs = [], now, []
        return wanted

    def _evaluated(self, now: float, current: int) -> int:
        settings, window = self._settings, self._samples
        seconds = window[-1].time - window[0].time
        rate_in = (window[-1].done - window[0].done) / seconds
        target = max(0.0, rate_in + (window[-1].lag - window[0].lag) / seconds)
        lag = window[-1].lag
        true_rate = self._true_rate()
        high, low = (
            settings.utilization_target + settings.utilization_boundary,
            (settings.utilization_target - settings.utilization_boundary),
        )
        if rate_in > 0 and lag / rate_in > settings.backlog_lag_threshold_s:
            high, low = 1.0, 0.0
        is_outside = true_rate < required(target, lag, high, settings, restarts=False) or true_rate > required(
            target, lag, low, settings, restarts=True
        )
        needed = required(target, lag, settings.utilization_target, settings, restarts=True)
        wanted = parallelism(current, needed, true_rate, self._high, settings)
        if wanted != current:
            wanted = aligned(current, wanted, self._partitions, self._high)
        if wanted >= current:
            self._downs = []
            return wanted if is_outside else current
        self._downs.append((now, wanted, is_outside))
        if now - self._downs[0][0] < settings.scale_down_interval_s:
            return current
        recent = [each for each in self._downs if each[0] >= now - settings.scale_down_interval_s]
        largest = max(recent, key=lambda each: each[1])
        return largest[1] if largest[2] else current

    def _true_rate(self) -> float:
        settings, window = self._settings, self._samples
        rate = sum(each.rate for each in window) / len(window)
        busy = sum(each.busy for each in window) / len(window)
        true_rate = rate / busy if rate and busy else math.inf
        observed = [each.observed for each in window if each.observed is not None and math.isfinite(each.observed)]
        if len(observed) >= settings.observed_min_observations:
            mean = sum(observed) / len(observed)
            if math.isinf(true_rate) or true_rate > mean * (1 + settings.observed_switch_threshold):
                return mean
        return true_rate
