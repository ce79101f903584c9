"""How far behind every stage is: one round of questions to each Kafka cluster every few seconds, for all Pipelines.

Offsets are remembered with their times. A record's age is the time since the end of its partition passed the group's
position, so no record is read and no timestamp of one is trusted.
"""

import asyncio
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import structlog

from forebay.errors import ForebayError
from forebay.kafka.admin import Group
from forebay.kafka.group_offsets import Offsets
from forebay.pipeline import names
from forebay.pipeline.spec import Pipeline, Processor, Sink, StartFrom
from forebay.planning import reporting
from forebay.planning.by_lag import SETTLED, Measured
from forebay_operator import metrics
from forebay_operator.connections import Connection, Connections
from forebay_operator.pending import Pending
from forebay_operator.world import Key

log = structlog.get_logger()

_ROWS = 240
"""At one every 5 s, twenty minutes: older records are "at least" that old."""
_RECENT = 12
"""Rounds that make up a minute."""
_RATE_S = 30.0
"""Rates are over the last half minute."""

Ends = Mapping[tuple[str, int], int | None]


@dataclass(slots=True)
class Tracked:
    """A Pipeline whose stages are measured."""

    pipeline: Pipeline
    connection: Connection
    partitions: Mapping[str, int]
    """By topic."""
    measured: dict[str, Measured] = field(default_factory=dict)
    rate: float | None = None
    recent: deque[dict[str, float]] = field(default_factory=lambda: deque(maxlen=_RECENT))
    signature: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class _Answers:
    """What Kafka said about one group; None where it did not."""

    group: Group | None
    committed: Offsets | None
    begins: Ends
    now: float


class Measuring:
    """Asks, remembers, and wakes those Pipelines about which something was learnt."""

    def __init__(self, connections: Connections, pending: Pending[Key], interval_s: float) -> None:
        self._connections = connections
        self._pending = pending
        self._interval_s = interval_s
        self._tracked: dict[Key, Tracked] = {}
        self._ends: dict[tuple[str, str, int], deque[tuple[float, int]]] = {}
        """By cluster, topic and partition: (time, end offset)."""

    def track(self, key: Key, pipeline: Pipeline, connection: Connection, partitions: Mapping[str, int]) -> None:
        """Measure this Pipeline from now on, as it is now."""
        known = self._tracked.get(key)
        fresh = Tracked(pipeline, connection, partitions)
        if known is not None:
            fresh.measured, fresh.rate, fresh.signature = known.measured, known.rate, known.signature
            fresh.recent = known.recent
        self._tracked[key] = fresh

    def lose(self, key: Key) -> None:
        """Nothing is known of its stages any more."""
        if (known := self._tracked.pop(key, None)) is not None:
            for stage in known.measured:
                for gauge in (metrics.LAG, metrics.BEHIND):
                    gauge.remove(*key, stage)

    def measured(self, key: Key) -> dict[str, Measured]:
        """The last measurement of each stage that reads."""
        return dict(self._tracked[key].measured) if key in self._tracked else {}

    def numbers(self, key: Key) -> dict[str, float]:
        """The middle of the last minute's lag, behind and rate; a number that is unknown now is unknown."""
        recent = self._tracked[key].recent if key in self._tracked else ()
        return {name: median(one[name] for one in recent if name in one) for name in (recent[-1] if recent else ())}

    async def run(self) -> None:
        """For ever: a round, and a pause."""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            clusters: dict[str, list[Key]] = {}
            for key, tracked in self._tracked.items():
                clusters.setdefault(tracked.connection.cluster, []).append(key)
            await asyncio.gather(*(self._round(keys) for keys in clusters.values()))
            self._forget({tracked.connection.cluster for tracked in self._tracked.values()})
            await asyncio.sleep(max(0.5, self._interval_s - (loop.time() - started)))

    async def _round(self, keys: list[Key]) -> None:
        """One cluster. Pipelines with the same login are asked for together."""
        logins: dict[int, list[Tracked]] = {}
        for key in keys:
            tracked = self._tracked.get(key)
            if tracked is not None:
                logins.setdefault(id(tracked.connection), []).append(tracked)
        await asyncio.gather(*(self._ask(tracked) for tracked in logins.values()))
        for key in keys:
            if (known := self._tracked.get(key)) is not None:
                self._tell(key, known)

    async def _ask(self, tracked: list[Tracked]) -> None:
        connection = tracked[0].connection
        partitions = sorted({partition for one in tracked for partition in _partitions(one)})
        groups = sorted(
            {names.group_id(one.pipeline, stage) for one in tracked for stage in one.pipeline.spec.consuming_stages}
        )
        try:
            ends, described, committed = await asyncio.gather(
                self._connections.run(connection.admin.ends, partitions),
                self._connections.run(connection.admin.groups, groups),
                self._connections.run(self._connections.offsets.committed, connection.properties, groups),
            )
        except ForebayError as error:
            log.warning("lag is unknown", cluster=connection.cluster, error=str(error))
            for one in tracked:
                one.measured = {stage.name: Measured() for stage in one.pipeline.spec.consuming_stages}
                one.rate = None
                one.recent.clear()
            return
        now = time.time()
        for (topic, number), end in ends.items():
            if end is not None:
                row = self._ends.setdefault((connection.cluster, topic, number), deque(maxlen=_ROWS))
                if row and end < row[-1][1]:
                    row.clear()  # the topic was made anew
                row.append((now, end))
        begins = await self._begins(connection, tracked, committed)
        for one in tracked:
            for stage in one.pipeline.spec.consuming_stages:
                group = names.group_id(one.pipeline, stage)
                before = one.measured.get(stage.name, Measured())
                answers = _Answers(described.get(group), committed.get(group), begins, now)
                one.measured[stage.name] = self._measure(one, stage, answers, before)
            one.rate = self._rate(one, now)
            one.recent.append(reporting.numbers_of(one.measured.values(), one.rate))

    async def _begins(
        self, connection: Connection, tracked: list[Tracked], committed: Mapping[str, Offsets | None]
    ) -> Ends:
        """Where topics begin matters only to groups that have not committed yet."""
        wanted = {
            (stage.from_, number)
            for one in tracked
            for stage in one.pipeline.spec.consuming_stages
            if (offsets := committed.get(names.group_id(one.pipeline, stage))) is not None
            for number in range(one.partitions.get(stage.from_, 0))
            if (stage.from_, number) not in offsets
        }
        try:
            return await self._connections.run(connection.admin.begins, sorted(wanted))
        except ForebayError:
            return {}

    def _measure(
        self,
        one: Tracked,
        stage: Processor | Sink,
        answers: _Answers,
        before: Measured,
    ) -> Measured:
        committed, now = answers.committed, answers.now
        state = answers.group.state if answers.group is not None else "UNKNOWN"
        count = one.partitions.get(stage.from_, 0)
        if committed is None or not count:
            return Measured(group=state)
        lag, oldest, is_at_least = 0, 0.0, False
        for number in range(count):
            row = self._ends.get((one.connection.cluster, stage.from_, number))
            if not row:
                return Measured(group=state)
            end = row[-1][1]
            position = committed.get((stage.from_, number))
            if position is None:
                begin = end if stage.start_from is StartFrom.LATEST else answers.begins.get((stage.from_, number))
                if begin is None:
                    return Measured(group=state)
                position = begin
            lag += max(0, end - position)
            age, is_least = behind(row, position, now)
            if age > oldest:
                oldest, is_at_least = age, is_least
        is_calm = oldest <= stage.autoscaling.freshness_seconds / 2
        calm_since = (before.calm_since or now) if is_calm else None
        return Measured(lag, oldest, is_at_least, state, calm_since)

    def _rate(self, one: Tracked, now: float) -> float | None:
        """Growth of the topics that no stage of the Pipeline but producers write."""
        inner = {processor.to for processor in one.pipeline.spec.processors}
        first = [topic.name for topic in one.pipeline.spec.topics if topic.name not in inner]
        total = 0.0
        for topic in first:
            for number in range(one.partitions.get(topic, 0)):
                row = self._ends.get((one.connection.cluster, topic, number))
                then = next(((at, end) for at, end in row or () if at >= now - _RATE_S), None)
                if not row or then is None or row[-1][0] <= then[0]:
                    return None
                total += (row[-1][1] - then[1]) / (row[-1][0] - then[0])
        return total

    def _tell(self, key: Key, known: Tracked) -> None:
        """Metrics; and a look at the Pipeline when a verdict might change."""
        urgent = False
        signature = []
        for stage in known.pipeline.spec.consuming_stages:
            one = known.measured.get(stage.name, Measured())
            if one.lag is not None and one.behind_s is not None:
                metrics.LAG.labels(*key, stage.name).set(one.lag)
                metrics.BEHIND.labels(*key, stage.name).set(one.behind_s)
            bounds = stage.autoscaling
            is_scaled = bounds.min_replicas != bounds.max_replicas or bounds.scale_to_zero
            is_late = (one.behind_s or 0) > bounds.freshness_seconds
            urgent |= is_scaled and is_late
            signature += [one.lag is None, one.group in SETTLED, is_late, is_scaled and bool(one.lag)]
        if urgent or tuple(signature) != known.signature:
            known.signature = tuple(signature)
            self._pending.add(key)

    def _forget(self, clusters: set[str]) -> None:
        for known in [known for known in self._ends if known[0] not in clusters]:
            del self._ends[known]


def behind(row: Iterable[tuple[float, int]], position: int, now: float) -> tuple[float, bool]:
    """Seconds since the end of a partition passed the position, and whether that is only the least it can be.

    Args:
        row: (time, end offset), ascending.
        position: the group's next offset to read.
        now: seconds since the epoch.
    """
    known = list(row)
    if not known or position >= known[-1][1]:
        return 0.0, False
    after = bisect_right(known, position, key=lambda entry: entry[1])
    if after == 0:
        return now - known[0][0], True
    (earlier, low), (later, high) = known[after - 1], known[after]
    return now - (earlier + (later - earlier) * (position - low) / (high - low)), False


def _partitions(one: Tracked) -> Iterator[tuple[str, int]]:
    for topic in {topic.name for topic in one.pipeline.spec.topics}:
        yield from ((topic, number) for number in range(one.partitions.get(topic, 0)))
