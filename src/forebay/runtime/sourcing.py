"""The loop of a producer: a source's events, and the source's position, in one transaction.

A source is a function of its position, so a position is all that a restart needs, and all that an aborted transaction
must take back. It lies in a compacted topic, written in the transaction of the events that lead to it: a kill at any
moment neither replays an event nor skips one.

Which record Kafka refused, a refused transaction does not tell. Bisection finds it: the same events go again in halves,
and an event that is refused alone is counted and logged as undeliverable.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import msgspec
import structlog
from prometheus_client import Counter

from forebay.errors import ForebayError, Refused, TryLater, Undeliverable
from forebay.kafka import changelog, settings
from forebay.kafka.admin import Admin
from forebay.kafka.errors import TransactionAborted, Uncertain
from forebay.kafka.producer import Message, Rejected, TransactionalProducer
from forebay.messages.headers import INGEST_TIME, SAMPLE_EVERY
from forebay.pipeline import names
from forebay.pipeline.spec import Producer
from forebay.runtime import service
from forebay.runtime.pacing import Schedule, TokenBucket
from forebay.runtime.service import Replica
from forebay.runtime.watching import missing

log = structlog.get_logger()

Position = Any
"""A small JSON value that only its source understands; None is the beginning."""

IDLE_S = 0.5
"""How long a round waits for an event that is not due yet."""

_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 0.1, 5.0
_LOGGED_SINGLY = 10
"""So many undeliverable events are logged one by one; after them one in `_LOG_PAUSE_S`, with a count of the others."""
_LOG_PAUSE_S = 10.0

_UNDELIVERABLE = Counter(
    "forebay_undeliverable",
    "Events that could not become records, or that Kafka refused",
    ("pipeline", "stage", "reason"),
)


class Flaw(NamedTuple):
    """An event that could not become a record."""

    event: int
    """Which event of its batch: 0 is the first."""
    reason: str
    """A short constant word."""
    detail: str
    """Where it stands and what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Consecutive events of a source."""

    messages: list[Message]
    events: int
    """How many were taken: messages and flaws."""
    position: Position
    """Behind the last of them."""
    flaws: Sequence[Flaw] = ()
    due_ms: float | None = None
    """The time that the data shows for it, in epoch milliseconds, where the source is paced."""
    is_last: bool = False
    """Nothing follows."""

    def event_of(self, index: int) -> int:
        """Which event of the batch the message is."""
        event = index
        for flaw in self.flaws:
            event += flaw.event <= event
        return event


class Source(Protocol):
    """Where events come from."""

    @property
    def per_second(self) -> float | None:
        """The events per second that the source wants of this replica; None: no limit."""

    @property
    def speedup(self) -> float | None:
        """How much faster than recorded to send; None: without regard to the data's time."""

    def take(self, position: Position, at_most: int) -> Batch:
        """The events behind the position; the same position gives the same events, however often it is asked.

        A batch without events is the last one. Raises Refused when the position does not fit the source.
        """

    def close(self) -> None:
        """Let go of what the source holds."""


class Progress(msgspec.Struct, frozen=True):
    """What the positions topic holds for a replica."""

    events: int = 0
    """Taken from the source in this replica's whole life."""
    source: Any = None
    """The source's position."""

    def after(self, batch: Batch) -> "Progress":
        """The progress once the batch is committed."""
        return Progress(self.events + batch.events, batch.position)


class Room(NamedTuple):
    """What one transaction may hold at most.

    It is half of the client's queue: a batch that overflows the queue is queued again in parts, and a part could end up
    behind later records of its keys.
    """

    records: int
    size_bytes: int

    @classmethod
    def within(cls, properties: settings.Properties) -> "Room":
        """The room that a client with these properties has."""
        return cls(
            int(properties["queue.buffering.max.messages"]) // 2,
            int(properties["queue.buffering.max.kbytes"]) * 1024 // 2,
        )


def run(replica: Replica[Producer], source: Source) -> None:
    """Send the source's events until it is done or the process is asked to stop; then commit and return.

    Raises Fenced and Fatal: a fresh process continues where this one was.
    """
    positions = names.positions_topic(replica.pipeline, replica.stage)
    admin = Admin(replica.connection)
    if not service.wait_until(lambda: missing(admin.describe((replica.stage.to, positions))), replica):
        return
    properties = settings.transactional_producer(
        replica.connection,
        transactional_id=names.transactional_id(replica.pipeline, replica.stage, replica.ordinal),
        delivery=replica.stage.delivery,
        overrides=replica.stage.kafka_properties,
        max_message_bytes=_max_message_bytes(replica),
    )
    producer = TransactionalProducer(properties)
    try:
        SourceLoop(replica, source, producer, positions=positions, room=Room.within(properties)).run()
    finally:
        producer.close()


def recorded(replica: Replica[Producer], positions: str) -> Progress:
    """The replica's progress in the positions topic. Raises TryLater, and Refused for a value that is none."""
    key, value = _position_key(replica), None
    for changes in changelog.read(settings.assigned_consumer(replica.connection), positions, 0):
        for change in changes:
            if change.key == key:
                value = change.value
    if value is None:
        return Progress()
    try:
        return msgspec.json.decode(value, type=Progress)
    except msgspec.DecodeError as error:
        raise Refused(
            f"topic {positions} holds no position for replica {replica.name} that this version can read: "
            "give the stage another name, and it starts from the beginning"
        ) from error


def sampled(first_event: int, count: int) -> range:
    """Which of `count` records carry the ingest time: the first of all, then every `SAMPLE_EVERY`-th."""
    return range(-first_event % SAMPLE_EVERY, count, SAMPLE_EVERY)


class _Complaint(NamedTuple):
    event: int
    """Counted from the start of the replica's life."""
    reason: str
    detail: str


@dataclass(slots=True)
class _Transaction:
    """What one transaction holds so far."""

    started: float
    waited_s: float = 0.0
    events: int = 0
    records: int = 0
    size_bytes: int = 0
    complaints: list[_Complaint] = field(default_factory=list)


class SourceLoop:
    """One replica's loop."""

    def __init__(
        self,
        replica: Replica[Producer],
        source: Source,
        producer: TransactionalProducer,
        *,
        positions: str,
        room: Room,
    ) -> None:
        self._replica = replica
        self._source = source
        self._producer = producer
        self._positions = positions
        self._room = room
        rates = [rate for rate in (replica.stage.rate_limit, source.per_second) if rate is not None]
        self._bucket = TokenBucket(min(rates), time.monotonic()) if rates else None
        self._schedule: Schedule | None = None
        self._complaints = _ComplaintLog(replica)
        self._committed = Progress()
        self._is_doubtful = True
        """Nobody here knows what was committed last: at the start, and after an uncertain commit."""
        self._open = _Transaction(0.0)
        self._suspect_until = 0
        """Before this event stands one that Kafka refused."""
        self._is_skipping = False
        """The next event was refused alone: pass over it."""
        self._is_done = False
        self._backoff_s = _FIRST_BACKOFF_S

    def run(self) -> None:
        """Send until done or asked to stop."""
        while not self._replica.stopping and not self._is_done:
            self._replica.health.beat()
            try:
                if self._recover():
                    self._transact()
            except TransactionAborted as error:
                self._count_failure(error)
                if error.by_record and not self._is_skipping:
                    self._narrow(error)
                else:
                    self._back_off(error)
            except (Uncertain, TryLater) as error:
                self._is_doubtful = True
                self._count_failure(error)
                self._back_off(error)
        if self._is_done:
            self._complete()

    # --- one transaction -------------------------------------------------------------------------------------------

    def _transact(self) -> None:
        """Take, send and commit for `batch.maxWaitMs`, counted from the first event."""
        batch = self._next(self._committed, self._most(), IDLE_S)
        if batch is None:
            return
        if batch.events:
            progress = self._fill(batch)
            self._commit(progress)
            return
        self._is_done = True

    def _fill(self, batch: Batch | None) -> Progress:
        opened = time.monotonic()
        deadline = opened + settings.commit_interval_s(self._replica.stage.batch)
        self._open = transaction = _Transaction(opened)
        self._producer.begin()
        progress = self._committed
        while batch is not None and batch.events:
            self._send(batch, progress)
            progress = progress.after(batch)
            is_full = transaction.events >= self._most() or transaction.size_bytes >= self._room.size_bytes
            if batch.is_last or is_full:
                break
            batch = self._next(progress, self._most() - transaction.events, deadline - time.monotonic())
        return progress

    def _most(self) -> int:
        """How many events the transaction may hold: half of those that are suspect, if any are."""
        suspects = self._suspect_until - self._committed.events
        return self._room.records if suspects <= 0 else max(1, suspects // 2)

    def _next(self, progress: Progress, at_most: int, patience_s: float) -> Batch | None:
        """The next events as soon as they may be sent; None when that is later than the patience or a stop allows."""
        at_most = min(at_most, self._replica.stage.batch.max_records)
        if self._replica.settings.records is not None:
            at_most = min(at_most, self._replica.settings.records - progress.events)
            if at_most <= 0:
                return Batch(messages=[], events=0, position=progress.source, is_last=True)
        deadline = time.monotonic() + patience_s
        while self._replica.go_on() and (now := time.monotonic()) < deadline:
            allowed = at_most if self._bucket is None else min(at_most, self._bucket.available(now))
            batch = self._source.take(progress.source, allowed) if allowed else None
            wait_s = self._due_in(batch, now)
            if batch is not None and wait_s <= 0:
                if self._bucket is not None:
                    self._bucket.spend(batch.events)
                return batch
            wait_s = min(wait_s, deadline - now)
            self._open.waited_s += wait_s
            if self._replica.stopping.wait(wait_s):
                return None
        return None

    def _due_in(self, batch: Batch | None, now: float) -> float:
        """Seconds until the batch, or any batch at all, may be sent."""
        if batch is None:
            return self._bucket.wait_s() if self._bucket is not None else 0.0
        if batch.due_ms is None or self._source.speedup is None:
            return 0.0
        if self._schedule is None:
            self._schedule = Schedule(batch.due_ms, now, self._source.speedup)
        return self._schedule.wait_s(batch.due_ms, now)

    def _send(self, batch: Batch, progress: Progress) -> None:
        transaction = self._open
        transaction.events += batch.events
        if self._is_skipping:
            self._complain(progress.events, "rejected-by-kafka", f"refused alone, at {progress.source}")
            return
        for flaw in batch.flaws:
            self._complain(progress.events + flaw.event, flaw.reason, flaw.detail)
        transaction.records += len(batch.messages)
        transaction.size_bytes += sum(len(message["value"]) for message in batch.messages)
        start = 0
        for index in sampled(progress.events, len(batch.messages)):
            self._produce(batch, slice(start, index), progress)
            self._produce_sample(batch, index, progress)
            start = index + 1
        self._produce(batch, slice(start, None), progress)

    def _produce(self, batch: Batch, part: slice, progress: Progress) -> None:
        messages = batch.messages[part]
        try:
            self._producer.produce_batch(self._replica.stage.to, messages)
        except Rejected as error:
            for place in error.places:
                self._drop(batch, part.start + place, progress)

    def _produce_sample(self, batch: Batch, index: int, progress: Progress) -> None:
        message = batch.messages[index]
        headers = [(INGEST_TIME, str(time.time_ns() // 1_000_000).encode())]
        try:
            self._producer.produce(self._replica.stage.to, key=message["key"], value=message["value"], headers=headers)
        except Rejected:
            self._drop(batch, index, progress)

    def _drop(self, batch: Batch, index: int, progress: Progress) -> None:
        """The client refused this record, for its size; all others are queued."""
        self._open.records -= 1
        size = len(batch.messages[index]["value"])
        self._complain(
            progress.events + batch.event_of(index),
            "too-large",
            f"{size} bytes are more than the client's message.max.bytes, behind {progress.source}",
        )

    def _complain(self, event: int, reason: str, detail: str) -> None:
        self._open.complaints.append(_Complaint(event, reason, detail))

    def _commit(self, progress: Progress) -> None:
        transaction, metrics = self._open, self._replica.metrics
        position = msgspec.json.encode(progress)
        self._producer.produce(self._positions, key=_position_key(self._replica), value=position, partition=0)
        self._complaints.log(transaction.complaints)
        committing = time.monotonic()
        self._producer.commit()
        committed = time.monotonic()
        self._committed = progress
        self._is_skipping = False
        self._backoff_s = _FIRST_BACKOFF_S
        metrics.committed()
        metrics.records_in.inc(transaction.events)
        metrics.records_out.inc(transaction.records)
        metrics.batch_records.observe(transaction.records)
        metrics.processing_seconds.observe(committing - transaction.started - transaction.waited_s)
        metrics.commit_seconds.observe(committed - committing)
        self._complaints.count(transaction.complaints)

    # --- what goes wrong -------------------------------------------------------------------------------------------

    def _recover(self) -> bool:
        """Bring producer and position to where the last commit left them; False when asked to stop meanwhile.

        First fence, then read: a predecessor that still lives could commit in between otherwise. A producer that is replaced for
        its login fences too, perhaps a successor that has come further.
        """
        if self._is_doubtful or self._producer.is_outdated:
            if not self._producer.replace(self._replica.go_on, self._replica.health.still_not_ready):
                return False
            self._committed = recorded(self._replica, self._positions)
            self._is_doubtful = self._is_skipping = False
            self._replica.health.ready()
            log.info("running", events=self._committed.events, position=self._committed.source)
        elif self._producer.open:
            self._producer.abort()
        return True

    def _count_failure(self, error: ForebayError) -> None:
        if self._producer.open:
            self._replica.metrics.aborted()
        self._replica.metrics.error(error)

    def _narrow(self, error: TransactionAborted) -> None:
        events = self._open.events
        self._suspect_until = self._committed.events + events
        self._is_skipping = events == 1
        log.warning("records refused: sending them again in smaller transactions", events=events, reason=str(error))

    def _back_off(self, error: ForebayError) -> None:
        log.error(
            "not delivered, trying again",
            error=type(error).__name__,
            reason=str(error),
            position=self._committed.source,
            wait_s=self._backoff_s,
        )
        self._replica.stopping.wait(self._backoff_s)
        self._backoff_s = min(_LAST_BACKOFF_S, self._backoff_s * 2)

    def _complete(self) -> None:
        """The source is done: say so, and stay ready until asked to stop, unless the process is to end then."""
        self._replica.metrics.completed.set(1)
        log.info("completed", events=self._committed.events, undeliverable=self._complaints.total)
        while not self._replica.settings.exit_when_done and not self._replica.stopping.wait(IDLE_S):
            self._replica.health.beat()


class _ComplaintLog:
    """Logs events that are not delivered before the commit that passes over them, and counts them after it.

    A transaction that is tried again does not log them again.
    """

    def __init__(self, replica: Replica[Producer]) -> None:
        self.total = 0
        self._replica = replica
        self._said: set[int] = set()
        """Events that were logged and are not yet committed."""
        self._logged = 0
        self._unlogged = 0
        self._silent_until = 0.0

    def log(self, complaints: Iterable[_Complaint]) -> None:
        """Log what was not logged before: the first ones singly, the later ones now and then."""
        for complaint in complaints:
            if complaint.event not in self._said:
                self._say(complaint)
                self._said.add(complaint.event)

    def _say(self, complaint: _Complaint) -> None:
        now = time.monotonic()
        if self._logged >= _LOGGED_SINGLY and now < self._silent_until:
            self._unlogged += 1
            return
        log.error(
            "event not delivered",
            event_number=complaint.event,
            reason=complaint.reason,
            detail=complaint.detail,
            not_logged_before=self._unlogged,
        )
        self._logged += 1
        self._unlogged = 0
        self._silent_until = now + _LOG_PAUSE_S

    def count(self, complaints: Sequence[_Complaint]) -> None:
        """Count what a committed transaction passed over."""
        self.total += len(complaints)
        self._said.difference_update(complaint.event for complaint in complaints)
        for complaint in complaints:
            self._replica.metrics.error(Undeliverable(complaint.detail))
            _UNDELIVERABLE.labels(
                self._replica.pipeline.metadata.name, self._replica.stage.name, complaint.reason
            ).inc()


def _max_message_bytes(replica: Replica[Producer]) -> int:
    """The topic's own limit: what the client refuses need not be searched for."""
    topic = replica.pipeline.spec.topic(replica.stage.to)
    return int(topic.config.get("max.message.bytes", settings.MAX_MESSAGE_BYTES))


def _position_key(replica: Replica[Producer]) -> bytes:
    return str(replica.ordinal).encode()
