"""Looks at the stages of all Pipelines every few seconds: asks Kafka, has it decided (`planning/following.py`), remembers.

Pipelines with the same login are asked for together, in one batch of requests. A Kafka that does not answer holds up
nobody but them.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from forebay.errors import ForebayError
from forebay.pipeline import names
from forebay.pipeline.spec import Pipeline
from forebay.planning import following, objects, reconciling, reporting, scaling, topics
from forebay.planning.following import Answers
from forebay.planning.groups import Partition
from forebay.planning.reporting import Figure
from forebay.planning.scaling import Decision, History, Lasting, Situation
from forebay.planning.scaling.decisions import LOOK_SOON_S
from forebay.planning.scaling.observation import LOOK_S
from forebay_operator import metrics
from forebay_operator.connections import Connection, Connections
from forebay_operator.pending import Pending
from forebay_operator.world import Key, World

log = structlog.get_logger()

_RECENT = 12
"""Looks that make up a minute."""
_RATE_S = 30.0
"""Rates are over the last half minute."""
_TICK_S = 0.5


@dataclass(slots=True, kw_only=True)
class Tracked:
    """A Pipeline whose stages are looked at."""

    pipeline: Pipeline
    connection: Connection | None
    """None: Kafka cannot be reached. What was measured before is kept, and nothing said about now."""
    known_topics: topics.Observed
    is_paused: bool
    histories: dict[str, History]
    """By stage."""
    ends: deque[tuple[float, int]] = field(default_factory=deque)
    """(time, sum of the first topics' end offsets) of the last half minute."""
    recent: deque[dict[Figure, float]] = field(default_factory=lambda: deque(maxlen=_RECENT))
    due_s: float = 0.0
    """When to look next, on the event loop's clock."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A Pipeline to look at."""

    pipeline: Pipeline
    connection: Connection
    known_topics: topics.Observed
    is_paused: bool
    kept: Mapping[str, Mapping[str, Any]]
    """By stage, what its status holds of former measurements."""


class Measuring:
    """Looks, remembers, and wakes those Pipelines about which something else is to be said or done."""

    def __init__(self, connections: Connections, world: World, pending: Pending[Key], interval_s: float) -> None:
        self._connections = connections
        self._world = world
        self._pending = pending
        self._interval_s = interval_s
        self._tracked: dict[Key, Tracked] = {}
        self._asking: set[int] = set()
        """Logins of which answers are awaited."""
        self._started_at = time.time()
        self._started_s = time.monotonic()

    def track(self, key: Key, subject: Subject) -> None:
        """Look at this Pipeline from now on, as it is now; at once when it is new or has changed."""
        known = self._tracked.get(key)
        if known is None:
            now = self._now()
            histories = {
                stage.name: History(memory=scaling.recalled(subject.kept.get(stage.name), now))
                for stage in subject.pipeline.spec.consuming_stages
            }
            self._tracked[key] = Tracked(
                pipeline=subject.pipeline,
                connection=subject.connection,
                known_topics=subject.known_topics,
                is_paused=subject.is_paused,
                histories=histories,
            )
            return
        if known.pipeline is not subject.pipeline or known.is_paused != subject.is_paused or known.connection is None:
            known.due_s = 0.0
        known.pipeline, known.connection = subject.pipeline, subject.connection
        known.known_topics, known.is_paused = subject.known_topics, subject.is_paused

    def lose(self, key: Key) -> None:
        """Its Kafka cannot be asked: nothing is known of it now, and nothing forgotten."""
        if (known := self._tracked.get(key)) is not None:
            known.connection = None
            known.ends.clear()
            known.recent.clear()
            for stage in known.histories:
                metrics.forget_lag(key, stage)

    def forget(self, key: Key) -> None:
        """The Pipeline is gone."""
        if self._tracked.pop(key, None) is not None:
            metrics.forget(key)

    def decided(self, key: Key) -> dict[str, Decision]:
        """The last decision on each stage that reads, as far as Kafka can be asked."""
        known = self._tracked.get(key)
        if known is None or known.connection is None:
            return {}
        return {stage: history.last for stage, history in known.histories.items() if history.last is not None}

    def lasting(self, key: Key) -> dict[str, Lasting]:
        """What was measured of each stage for good."""
        known = self._tracked.get(key)
        return {stage: history.memory.lasting for stage, history in known.histories.items()} if known else {}

    def figures(self, key: Key) -> dict[Figure, float]:
        """The middle of the last minute's figures; one that is unknown now is unknown."""
        return reporting.middle(self._tracked[key].recent) if key in self._tracked else {}

    async def run(self) -> None:
        """For ever: look at what is due."""
        async with asyncio.TaskGroup() as looks:
            while True:
                for login, keys in self._due().items():
                    self._asking.add(login)
                    looks.create_task(self._look(login, keys))
                await asyncio.sleep(_TICK_S)

    def _due(self) -> dict[int, list[Key]]:
        """Pipelines to look at now, by login; none of a login whose answers are still awaited."""
        soon = asyncio.get_running_loop().time() + _TICK_S
        found: dict[int, list[Key]] = {}
        for key, known in self._tracked.items():
            if known.connection is not None and known.due_s <= soon and id(known.connection) not in self._asking:
                found.setdefault(id(known.connection), []).append(key)
        return found

    async def _look(self, login: int, keys: list[Key]) -> None:
        asked = {key: self._tracked[key] for key in keys}
        pipelines = {key: known.pipeline for key, known in asked.items()}
        connection = asked[keys[0]].connection
        assert connection is not None  # noqa: S101 - those alone are due
        began = asyncio.get_running_loop().time()
        try:
            answers = await self._ask(connection, asked.values())
        except ForebayError as error:
            log.warning("lag is unknown", cluster=connection.cluster, error=str(error))
            answers = Answers(now=self._now())
        finally:
            self._asking.discard(login)
        for key, known in asked.items():
            is_same = self._tracked.get(key) is known and known.pipeline is pipelines[key]
            if is_same and known.connection is not None:  # else it was answered for what is no more
                known.due_s = began + self._decide(key, known, answers)
            await asyncio.sleep(0)  # hundreds of Pipelines must not hold up everything else

    async def _ask(self, connection: Connection, asked: Iterable[Tracked]) -> Answers:
        """Ends are read last: none is older than an offset that was committed on the way to it."""
        ask = self._connections.run
        groups: set[str] = set()
        read: set[Partition] = set()
        inflow: set[Partition] = set()
        for known in asked:
            stages = known.pipeline.spec.consuming_stages
            groups |= {names.group_id(known.pipeline, stage) for stage in stages}
            read |= following.partitions_of({stage.from_ for stage in stages}, known.known_topics)
            inflow |= following.partitions_of(following.inflow_topics(known.pipeline), known.known_topics)
        observed, begins = await asyncio.gather(
            ask(self._connections.groups.observe, connection.properties, sorted(groups)),
            ask(connection.admin.begins, sorted(read)),
        )
        ends = await ask(connection.admin.ends, sorted(read | inflow))
        answered = {name: group for name, group in observed.items() if group is not None}
        return Answers(now=self._now(), groups=answered, begins=begins, ends=ends)

    def _decide(self, key: Key, known: Tracked, answers: Answers) -> float:
        """What follows from the answers for one Pipeline; the seconds until the next look at it."""
        bodies = self._world.members(key, objects.WORKLOADS)
        before = known.histories
        known.histories = following.follow(
            known.pipeline,
            before,
            answers,
            known_topics=known.known_topics,
            workloads=reconciling.live_workloads(known.pipeline, bodies),
            is_paused=known.is_paused,
        )
        for gone in before.keys() - known.histories.keys():
            metrics.forget(key, gone)
        known.recent.append(reporting.figures_of(known.pipeline, self.decided(key), _rate(known, answers)))
        is_news = False
        for stage in known.pipeline.spec.consuming_stages:
            was, now = before.get(stage.name, History()).last, known.histories[stage.name].last
            if now is None or now is was:
                continue  # it is not deployed
            _show(key, stage.name, now.verdict.inputs)
            if not stage.autoscaling.is_pinned:
                metrics.DECISIONS.labels(*key, stage.name, now.verdict.reason).inc()
                is_news |= self._tell(key, stage.name, was, now)
        if is_news:
            self._pending.add(key)
        return self._until_next_look(known)

    @staticmethod
    def _tell(key: Key, stage: str, was: Decision | None, now: Decision) -> bool:
        """The log, where something else is said than before: whether the Pipeline needs a round."""
        is_new = now.times == 1
        if is_new:
            decision = msgspec.to_builtins(now)
            log.info("decision", namespace=key[0], pipeline=key[1], stage=stage, decision=decision)
        return is_new or was is None or scaling.condition(was).is_true != scaling.condition(now).is_true

    def _until_next_look(self, known: Tracked) -> float:
        """As soon as one of its stages asks for it; a pinned one has nothing to ask for."""
        scaled = [stage.name for stage in known.pipeline.spec.consuming_stages if not stage.autoscaling.is_pinned]
        decided = [last for stage in scaled if (last := known.histories[stage].last) is not None]
        soonest = min((scaling.look_again_s(each.verdict) for each in decided), default=LOOK_S)
        return min(self._interval_s, LOOK_SOON_S) if soonest < LOOK_S else self._interval_s

    def _now(self) -> float:
        """Seconds since the epoch, by a clock that nobody sets while this process runs."""
        return self._started_at + time.monotonic() - self._started_s


def _show(key: Key, stage: str, seen: Situation) -> None:
    """What was measured, as metrics."""
    if seen.missing is None:
        metrics.LAG.labels(*key, stage).set(seen.lag)
        metrics.BEHIND.labels(*key, stage).set(seen.behind_s)
    else:
        metrics.forget_lag(key, stage)
    if seen.capacity_is_measured:
        metrics.CAPACITY.labels(*key, stage).set(seen.capacity)


def _rate(known: Tracked, answers: Answers) -> float | None:
    """Growth of the topics that no stage of the Pipeline but producers write, over the last half minute."""
    ends = list(_inflow_ends(known, answers))
    if not ends or None in ends:
        known.ends.clear()
        return None
    total = sum(end for end in ends if end is not None)
    if known.ends and total < known.ends[-1][1]:
        known.ends.clear()  # a topic was made anew
    known.ends.append((answers.now, total))
    while known.ends[0][0] < answers.now - _RATE_S:
        known.ends.popleft()
    (since, first), (until, last) = known.ends[0], known.ends[-1]
    return (last - first) / (until - since) if until > since else None


def _inflow_ends(known: Tracked, answers: Answers) -> Iterator[int | None]:
    for place in following.partitions_of(following.inflow_topics(known.pipeline), known.known_topics):
        yield answers.ends.get(place)
