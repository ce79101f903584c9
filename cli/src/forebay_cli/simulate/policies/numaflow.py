"""Numaflow's autoscaler for a source vertex, after its documentation and source.

Numaflow 1.6: docs/specifications/autoscaling.md, docs/user-guide/reference/autoscaling.md and
pkg/reconciler/vertex/scaling/scaling.go. Every 30 s: desired = pending / rate / targetProcessingSeconds x ready replicas, at
most two replicas a step, 90 s apart. Rate and pending are means over the lookback of samples taken every 10 s. The source's
replicas share a Kafka group as ours do.
"""

import math
from collections import deque
from dataclasses import dataclass

from forebay_cli.simulate.policies.forebay import phase
from forebay_cli.simulate.world import Arrivals, Look

TASK_INTERVAL_S = 30.0
SAMPLE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NumaflowSettings:
    """`scale` of a vertex; the defaults are Numaflow's."""

    minimum: int = 0
    maximum: int = 50
    lookback_s: float = 120.0
    scale_up_cooldown_s: float = 90.0
    scale_down_cooldown_s: float = 90.0
    zero_replica_sleep_s: float = 120.0
    target_processing_s: float = 20.0
    replicas_per_scale_up: int = 2
    replicas_per_scale_down: int = 2


def desired(pending: float, rate: float, ready: int, target_processing_s: float) -> int:
    """The replicas that a source vertex should have."""
    if pending == 0 and rate == 0:
        return 0
    if pending == 0 or rate == 0:
        return 1  # a stalled vertex too
    wanted = math.floor(pending / rate / target_processing_s * ready + 0.5)
    return int(min(max(wanted, 1), max(1, math.ceil(pending))))


class Numaflow:
    """A source vertex that reads Kafka."""

    def __init__(self, load: Arrivals, index: int, settings: NumaflowSettings | None = None) -> None:
        self._settings = settings or NumaflowSettings()
        self._low = self._settings.minimum
        self._high = min(self._settings.maximum, load.setting.max_replicas)
        self._samples: deque[tuple[float, float, float]] = deque()
        self._phase = phase(load, index, SAMPLE_S)
        self._looks = index % 3
        self._scaled_at = -math.inf

    def next_look(self, now: float) -> float:
        """Every ten seconds, of which every third decides."""
        return now + (SAMPLE_S if now else self._phase)

    def decide(self, look: Look | None) -> int | None:
        """Take a sample, and decide when it is time."""
        self._looks += 1
        if look is None or any(end is None for end in look.ends):
            return None
        pending = sum(end - done for end, done in zip(look.ends, look.committed, strict=True) if end is not None)
        self._samples.append((look.now, look.done, pending))
        while self._samples and self._samples[0][0] < look.now - self._settings.lookback_s:
            self._samples.popleft()
        if self._looks % round(TASK_INTERVAL_S / SAMPLE_S):
            return None
        return self._turn(look)

    def _turn(self, look: Look) -> int:
        settings, now, replicas = self._settings, look.now, look.replicas
        since = now - self._scaled_at
        if since < settings.scale_up_cooldown_s and since < settings.scale_down_cooldown_s:
            return replicas
        if replicas == 0:
            return self._scaled(now, 0, 1) if since >= settings.zero_replica_sleep_s else 0  # to peek
        if look.ready == 0 or len(self._samples) < 3:  # noqa: PLR2004 - the newest is not used, and a rate takes two
            return replicas
        first, last = self._samples[0], self._samples[-2]
        rate = max(0.0, last[1] - first[1]) / (last[0] - first[0])
        pending = sum(sample[2] for sample in self._samples) / len(self._samples)
        wanted = desired(pending, rate, look.ready, settings.target_processing_s)
        return self.stepped(now, replicas, max(self._low, min(self._high, wanted)))

    def stepped(self, now: float, replicas: int, wanted: int) -> int:
        """The wanted number, as far as one step goes and cooldowns allow."""
        settings, since = self._settings, now - self._scaled_at
        if wanted < replicas and since >= settings.scale_down_cooldown_s:
            return self._scaled(now, replicas, replicas - min(replicas - wanted, settings.replicas_per_scale_down))
        if wanted > replicas and since >= settings.scale_up_cooldown_s:
            return self._scaled(now, replicas, replicas + min(wanted - replicas, settings.replicas_per_scale_up))
        return replicas

    def _scaled(self, now: float, before: int, after: int) -> int:
        if after != before:
            self._scaled_at = now
        return after
