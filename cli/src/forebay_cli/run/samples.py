"""What a replica says of itself on /metrics, and what that adds up to.

A process's counters start at 0 with every life. `Tally` keeps the sum over all lives, so that totals never go backwards.
The last word of a life comes from the file that the service leaves (FOREBAY_LAST_METRICS), which makes totals exact for
every process that ended in order. A process killed with -9 leaves none: what it committed after the last scrape, at most a
second before, is then missing from the totals, though never from the topics and tables.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf

from prometheus_client.parser import text_string_to_metric_families

RATE_WINDOW_S = 5.0


@dataclass(frozen=True, slots=True)
class Histogram:
    """Observations per bucket: upper bounds in seconds, ascending, the last infinite; counts cumulated as Prometheus does."""

    bounds: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()

    def __add__(self, other: "Histogram") -> "Histogram":
        if not self.bounds or not other.bounds:
            return self if self.bounds else other
        if self.bounds != other.bounds:
            raise ValueError("histograms with different buckets cannot be added")
        counts = (mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True))
        return Histogram(self.bounds, tuple(counts))

    def quantile(self, share: float) -> float | None:
        """The value that `share` (0..1) of the observations do not exceed, interpolated; None without observations."""
        if not self.counts or self.counts[-1] == 0:
            return None
        rank = share * self.counts[-1]
        buckets = zip(pairwise((0.0, *self.bounds)), pairwise((0.0, *self.counts)), strict=True)
        for (lower, upper), (before, until) in buckets:
            if until >= rank and until > before:
                return lower if upper == inf else lower + (upper - lower) * (rank - before) / (until - before)
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """The counters of one process, of a replica, or of a stage."""

    records_in: int = 0
    records_out: int = 0
    dead_letters: int = 0
    errors: int = 0
    latency: Histogram = field(default_factory=Histogram)

    def __add__(self, other: "Sample") -> "Sample":
        return Sample(
            records_in=self.records_in + other.records_in,
            records_out=self.records_out + other.records_out,
            dead_letters=self.dead_letters + other.dead_letters,
            errors=self.errors + other.errors,
            latency=self.latency + other.latency,
        )

    @property
    def moved(self) -> int:
        """Records taken in; for a producer, which has no input topic, those written count."""
        return max(self.records_in, self.records_out)


_COUNTERS = {
    "forebay_records_in_total": "records_in",
    "forebay_records_out_total": "records_out",
    "forebay_dead_letters_total": "dead_letters",
    "forebay_errors_total": "errors",
}
_LATENCY_BUCKET = "forebay_end_to_end_latency_seconds_bucket"


def parse(exposition: str) -> Sample:
    """A Sample from the text of /metrics; ValueError when it is no such text."""
    counters = dict.fromkeys(_COUNTERS.values(), 0.0)
    latency: dict[float, float] = {}
    for family in text_string_to_metric_families(exposition):
        for name, labels, value, *_ in family.samples:
            if name in _COUNTERS:
                counters[_COUNTERS[name]] += value
            elif name == _LATENCY_BUCKET:
                latency[float(labels["le"])] = latency.get(float(labels["le"]), 0.0) + value
    bounds = tuple(sorted(latency))
    histogram = Histogram(bounds, tuple(latency[bound] for bound in bounds))
    return Sample(**{name: int(count) for name, count in counters.items()}, latency=histogram)


class Tally:
    """The counters of one replica over all of its lives."""

    def __init__(self) -> None:
        self._past = Sample()
        self.life = Sample()
        """The counters of the process that runs now, or ran last until `ended`."""

    @property
    def total(self) -> Sample:
        """Everything counted so far."""
        return self._past + self.life

    def observe(self, sample: Sample) -> None:
        """The running process was scraped."""
        self.life = sample

    def ended(self) -> None:
        """The process is gone: the next one counts from 0 again."""
        self._past, self.life = self.total, Sample()


def total(samples: Iterable[Sample]) -> Sample:
    """The sum; 0 of everything for none."""
    return sum(samples, start=Sample())


class Activity:
    """When and how fast a counter grew, from observations of it."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, int]] = deque()
        self._before: tuple[float, int] | None = None
        self._first: tuple[float, int] | None = None
        self._penultimate: tuple[float, int] | None = None
        self._last: tuple[float, int] | None = None

    def observe(self, at: float, count: int) -> None:
        """The counter stood at `count` at the time `at` (seconds on any clock that does not go back)."""
        previous = self._recent[-1] if self._recent else (at, 0)
        if count > previous[1]:
            if self._first is None:
                self._before, self._first = previous, (at, count)
            self._penultimate, self._last = previous, (at, count)
        self._recent.append((at, count))
        while len(self._recent) > 2 and at - self._recent[1][0] >= RATE_WINDOW_S:  # noqa: PLR2004 - a rate takes two
            self._recent.popleft()

    @property
    def rate(self) -> float:
        """Records per second over the last few seconds."""
        if not self._recent:
            return 0.0
        (since, least), (until, most) = self._recent[0], self._recent[-1]
        return (most - least) / (until - since) if until > since else 0.0

    @property
    def average(self) -> float:
        """Records per second from the first record to the last.

        Both lie somewhere between two observations. How long the edges were is judged by the rate between them; an activity
        too short for that is taken to fill its edges, which understates the rate.
        """
        if not (self._before and self._first and self._penultimate and self._last):
            return 0.0
        edges = (self._first[0] - self._before[0]) + (self._last[0] - self._penultimate[0])
        inner = self._penultimate[0] - self._first[0]
        inner_count = self._penultimate[1] - self._first[1]
        if inner <= 0 or inner_count <= 0:
            seconds = self._last[0] - self._before[0]
        else:
            seconds = inner + min(edges, (self._last[1] - inner_count) * inner / inner_count)
        return self._last[1] / seconds if seconds > 0 else 0.0
