"""When events may be sent: a token bucket for a rate, a schedule for times that the data shows. Pure: `now` is given."""

from dataclasses import dataclass

_BURST_S = 1.0
"""Lateness beyond this is not made up: a replica that stood still does not flood the topic afterwards."""
_GRAIN_S = 0.02
"""Events of a rate are sent in groups this far apart: 50 rounds a second instead of one per event."""


class TokenBucket:
    """At most `per_second` events in the long run, and never more than a second's worth at once."""

    def __init__(self, per_second: float, now: float) -> None:
        self._per_second = per_second
        self._capacity = max(1.0, per_second * _BURST_S)
        self._grain = max(1.0, min(per_second * _GRAIN_S, self._capacity))
        self._tokens = 1.0
        self._at = now

    def available(self, now: float) -> int:
        """How many events may be sent now: 0 until a group has come together."""
        self._tokens = min(self._capacity, self._tokens + max(0.0, now - self._at) * self._per_second)
        self._at = now
        return int(self._tokens) if self._tokens >= self._grain else 0

    def wait_s(self) -> float:
        """Seconds from the last look until a group has come together."""
        return max(0.0, self._grain - self._tokens) / self._per_second

    def spend(self, events: int) -> None:
        """Take the tokens of events that are sent."""
        self._tokens -= events


@dataclass(frozen=True, slots=True)
class Schedule:
    """The data's time laid over the clock: an absolute schedule, so that small delays do not add up."""

    origin_ms: float
    """The time of the first record after the start."""
    started: float
    """When that one was sent, in seconds of the clock."""
    speedup: float

    def wait_s(self, due_ms: float, now: float) -> float:
        """Seconds until a record of that time may be sent; 0 when it is late."""
        return max(0.0, self.started + (due_ms - self.origin_ms) / 1000 / self.speedup - now)
