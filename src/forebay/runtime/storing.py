"""The sink loop: consume, decode, store rows and positions in one transaction of the destination, exactly once.

The destination's own row (topic id, partition, next offset) is the truth; the group's committed offset follows it, for lag
alone. Each transaction moves that row from the offset that this process believes in to the next one, so a process that was
overtaken while it slept moves nothing, stores nothing, and learns of it (`LostOwnership`). Every other trouble has the same
answer: what the destination knows is read again, and the consumer is rewound to it. A commit of which nobody knows whether it
took place needs no care of its own that way.

While the destination is away the partitions are paused and the group is still polled: no rebalance has to wait for a database.
"""

import gc
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import structlog

from forebay.errors import Fatal, Forbidden, ForebayError, LostOwnership, MissingSecret, TryLater, Undeliverable
from forebay.kafka import columns
from forebay.kafka import settings as kafka_settings
from forebay.kafka.admin import Admin
from forebay.kafka.dead_letters import DeadLetterProducer
from forebay.kafka.group import GroupReader, Run
from forebay.messages import headers
from forebay.pipeline import names, properties
from forebay.pipeline.spec import Delivery, Sink
from forebay.runtime import service
from forebay.runtime.pacing import TokenBucket
from forebay.runtime.service import Replica
from forebay.runtime.stage import DeadLetter
from forebay.runtime.watching import present

log = structlog.get_logger()

FIRST_BACKOFF_S = 0.5
LAST_BACKOFF_S = 10.0
_COLLECT_EVERY_S = 5.0
_MADE_AGAIN = "it was deleted and made again; a fresh process begins it where startFrom says"

RowT = TypeVar("RowT")
Offsets = Mapping[int, int]
"""By partition."""


class Unstorable(Undeliverable):
    """The destination refuses one of these rows, today and tomorrow; the others it would take."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class NobodyReads(ForebayError):  # noqa: N818 - named by what happened
    """The destination was closed by whoever read it: stop."""


class Move(NamedTuple):
    """A partition's position goes from one next offset to another."""

    partition: int
    expected: int | None
    """What the destination must hold for the move to count; None: nothing was stored yet."""
    next_offset: int


class Destination(Protocol[RowT]):
    """Where a sink stores. Trouble that may pass is TryLater, after which `prepare` is called again."""

    def prepare(self, topic_id: str) -> None:
        """Connect, and create or check what rows are stored in; without effect when that is done. Raises Refused."""

    def positions(self, partitions: Collection[int]) -> Mapping[int, int | None]:
        """The next offset of each partition; None where nothing was stored. Left out: the group's offset decides."""

    def decode(self, messages: Sequence[Any]) -> tuple[list[RowT], list[DeadLetter]]:
        """Rows of what can be read, and letters of the rest, both in order."""

    def store(self, rows: Sequence[RowT], moves: Sequence[Move], before_commit: Callable[[], None]) -> None:
        """Store rows and moves in one transaction; `before_commit` runs inside it, once the rows are accepted.

        Raises Unstorable (nothing was stored), LostOwnership (a move's expectation failed; nothing was stored), TryLater.
        """

    def close(self) -> None:
        """Let go of the connection; an open transaction is lost."""


class StoringLoop(Generic[RowT]):
    """Drives a sink's replica."""

    def __init__(self, replica: Replica[Sink], destination: Destination[RowT]) -> None:
        self._replica = replica
        self._stage = replica.stage
        self._destination = destination
        self._admin = Admin(replica.connection)
        self._input_id = ""
        """Of the topic that the positions belong to."""
        self._positions: dict[int, int | None] = {}
        """What the destination's rows hold, for the partitions that are read."""
        self._unplaced: set[int] = set()
        """Partitions that are owned and paused until the destination has told where to begin."""
        self._uncommitted: dict[int, int] = {}
        """Offsets that are stored, and that the group has yet to be told."""
        self._retry_at = 0.0
        self._backoff_s = FIRST_BACKOFF_S
        self._trouble: str | None = None
        rate = replica.stage.rate_limit
        self._bucket = None if rate is None else TokenBucket(rate, time.monotonic())

    def run(self) -> None:
        """Store until asked to stop; then finish the batch, commit and leave the group."""
        if not service.wait_until(self._missing, self._replica):
            return
        self._dead_letters = DeadLetterProducer(
            kafka_settings.plain_producer(
                self._replica.connection,
                delivery=Delivery(linger_ms=5),
                overrides=_of(self._stage.kafka_properties, {**properties.CLIENT, **properties.PRODUCER}),
            ),
            topic=names.dead_letter_topic(self._stage),
            stage=self._stage.name,
        )
        self._reader = GroupReader(
            kafka_settings.group_consumer(
                self._replica.connection,
                group_id=names.group_id(self._replica.pipeline, self._stage),
                overrides=_of(self._stage.kafka_properties, {**properties.CLIENT, **properties.CONSUMER}),
            ),
            self._stage.from_,
            start_from=self._stage.start_from,
            on_offset_lost=self._stage.on_offset_lost,
            on_assigned=self._assigned,
            on_revoked=self._left,
            on_lost=self._left,
            on_refused=self._replica.health.not_ready,
            on_records_lost=self._replica.metrics.records_lost.inc,
            check_topic=lambda: self._check_input(self._topic_id()),
        )
        try:
            self._loop()
        except NobodyReads as error:
            log.info("stopping", reason=str(error))
        finally:
            self._destination.close()
            self._reader.close()
            self._dead_letters.close()

    def _loop(self) -> None:
        """Batches make millions of short-lived objects and no cycles: the collector looks now and then, in between."""
        self._replica.health.ready()
        collected = time.monotonic()
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            while not self._replica.stopping:
                self._round()
                if time.monotonic() > collected + _COLLECT_EVERY_S:
                    gc.collect(1)
                    collected = time.monotonic()
        finally:
            gc.enable()

    def _missing(self) -> None:
        """Raises what has to exist before this replica can join the group."""
        found = present(self._admin.describe((self._stage.from_, names.dead_letter_topic(self._stage))))
        self._destination.prepare(str(found[self._stage.from_].topic_id))

    def _topic_id(self) -> str:
        """Of the input as it is now: positions of a deleted topic mean nothing for its successor of the same name."""
        return str(present(self._admin.describe([self._stage.from_]))[self._stage.from_].topic_id)

    # -- one round ----------------------------------------------------------------------------------------------

    def _round(self) -> None:
        self._replica.health.beat()
        self._place()
        limit = self._allowed()
        if limit == 0:
            return
        try:
            self._read_and_store(limit)
        except LostOwnership as error:
            self._replica.metrics.aborted()
            self._replica.metrics.error(error)
            log.warning("overtaken: reading the positions again", reason=str(error))
            self._displace()
        except (TryLater, MissingSecret, Forbidden) as error:
            self._replica.metrics.aborted()
            self._wait(error)

    def _read_and_store(self, limit: int) -> None:
        runs = self._reader.read(limit, self._stage.batch.max_wait_ms / 1000)
        messages: list[Any] = [message for run in runs if self._is_expected(run) for message in run.messages]
        for unreadable in columns.with_headers(messages)[1]:
            messages[unreadable] = columns.WithoutHeaders(messages[unreadable])
        ends = {each: end for each, end in self._reader.take_ends().items() if each in self._positions}
        if self._bucket is not None:
            self._bucket.spend(len(messages))
        untold = bool(self._uncommitted) and not self._unplaced
        if messages or ends or untold:
            self._check_input(self._topic_id())
        if messages or ends:
            self._store(messages, ends)
        elif untold:
            self._tell_group({})

    def _allowed(self) -> int:
        """How many records may be read now; a rate limit first waits until there are some."""
        most = self._stage.batch.max_records
        if self._bucket is None:
            return most
        allowed = min(most, self._bucket.available(time.monotonic()))
        if allowed == 0:
            self._replica.stopping.wait(min(1.0, self._bucket.wait_s()))
        return allowed

    def _is_expected(self, run: Run) -> bool:
        """Whether the run may be stored: its partition is placed, and it goes on where the position says."""
        if run.partition not in self._positions:
            return False
        expected, first = self._positions[run.partition], run.messages[0].offset()
        if expected is not None and first is not None and first < expected:
            raise Fatal(
                f"{self._stage.from_}/{run.partition} went back from offset {expected} to {first}: {_MADE_AGAIN}"
            )
        return True

    def _check_input(self, topic_id: str) -> None:
        """The client reads by name: nothing is stored of a topic that is not the one the positions belong to."""
        if topic_id != self._input_id:
            raise Fatal(f"{self._stage.from_} is another topic than before: {_MADE_AGAIN}")

    # -- placing ------------------------------------------------------------------------------------------------

    def _assigned(self, partitions: list[int]) -> None:
        self._unplaced.update(partitions)
        self._reader.pause(self._unplaced)
        self._reader.resume(self._positions)  # see `GroupReader.pause`
        self._replica.metrics.partitions.set(len(self._reader.owned))

    def _left(self, partitions: list[int]) -> None:
        """Nothing is pending here: what was read is stored before the next read."""
        for partition in partitions:
            self._unplaced.discard(partition)
            self._positions.pop(partition, None)
            self._uncommitted.pop(partition, None)
        self._replica.metrics.partitions.set(len(self._reader.owned.difference(partitions)))

    def _displace(self) -> None:
        """Believe nothing any more; the destination is asked again."""
        self._reader.pause(self._positions)
        self._unplaced.update(self._positions)
        self._positions.clear()

    def _place(self) -> None:
        """Begin the owned partitions where the destination says."""
        if not self._unplaced or time.monotonic() < self._retry_at:
            return
        try:
            topic_id = self._topic_id()
            if self._input_id:
                self._check_input(topic_id)
            self._input_id = topic_id
            self._destination.prepare(topic_id)
            known = self._destination.positions(self._unplaced)
            others = self._reader.committed(self._unplaced.difference(known))
        except (TryLater, MissingSecret, Forbidden) as error:
            self._wait(error)
            return
        positions = {**known, **others}
        self._reader.rewind(positions)
        self._reader.resume(positions)
        self._positions.update(positions)
        self._unplaced.clear()
        self._replica.health.ready()
        log.info("storing", partitions=len(self._positions))

    def _wait(self, error: ForebayError) -> None:
        """Ask Kafka and the destination again later, and say so once."""
        self._destination.close()
        self._displace()
        self._replica.metrics.error(error)
        self._replica.health.not_ready(str(error))
        if str(error) != self._trouble:
            self._trouble = str(error)
            log.warning("waiting", reason=self._trouble)
        self._retry_at = time.monotonic() + self._backoff_s
        self._backoff_s = min(LAST_BACKOFF_S, self._backoff_s * 2)

    # -- storing ------------------------------------------------------------------------------------------------

    def _store(self, messages: Sequence[Any], ends: Offsets) -> None:
        """Store a batch. Rows that the destination refuses are found by halving, and travel on as dead letters.

        Halves are transactions of their own, in order, so that what was found out is kept.
        """
        parts = [messages]
        refused: list[DeadLetter] = []
        passed: Offsets = {}
        while parts:
            part = parts.pop()
            behind = {**passed, **_behind(part)}
            begun = time.perf_counter()
            rows, letters = self._destination.decode(part)
            self._replica.metrics.processing_seconds.observe(time.perf_counter() - begun)
            try:
                self._transact(rows, refused + letters, behind if parts else _furthest(behind, ends))
            except Unstorable as refusal:
                if len(part) > 1:
                    parts += (part[len(part) // 2 :], part[: len(part) // 2])
                else:
                    refused.append(DeadLetter(part[0], refusal.reason, str(refusal)))
                    passed = behind
            else:
                refused, passed = [], {}
                self._observe_latency(part)
        if refused:
            self._transact([], refused, _furthest(passed, ends))

    def _transact(self, rows: list[RowT], letters: list[DeadLetter], behind: Offsets) -> None:
        """One transaction: rows and positions; the letters are acknowledged before it commits."""
        replica = self._replica
        replica.health.beat()
        begun = time.perf_counter()
        moves = [
            Move(partition, self._positions[partition], offset)
            for partition, offset in sorted(behind.items())
            if offset != self._positions[partition]
        ]
        if moves:
            self._destination.store(rows, moves, (lambda: self._dead_letters.send(letters)) if letters else _nothing)
            self._positions.update(behind)
            replica.metrics.committed()
        self._tell_group(behind)
        self._trouble, self._backoff_s = None, FIRST_BACKOFF_S
        records = len(rows) + len(letters)
        if records:
            replica.metrics.commit_seconds.observe(time.perf_counter() - begun)
            replica.metrics.batch_records.observe(records)
            replica.metrics.records_in.inc(records)
            replica.metrics.records_out.inc(len(rows))
        for letter in letters:
            replica.metrics.dead_letters(letter.reason)

    def _tell_group(self, behind: Offsets) -> None:
        """Commit what is stored, for the lag; what fails, for example in a rebalance, is committed with the next."""
        self._uncommitted.update(behind)
        if self._reader.commit(self._uncommitted):
            self._uncommitted.clear()

    def _observe_latency(self, messages: Sequence[Any]) -> None:
        now_ms = time.time_ns() // 1_000_000
        for found in filter(None, (message.headers() for message in messages)):
            ingest_time_ms = headers.ingest_time_ms(found)
            if ingest_time_ms is not None:
                self._replica.metrics.latency_seconds.observe(max(0, now_ms - ingest_time_ms) / 1000)


def _behind(messages: Sequence[Any]) -> dict[int, int]:
    """The offset behind the last of each partition's messages."""
    return {message.partition(): message.offset() + 1 for message in messages}


def _furthest(behind: Offsets, ends: Offsets) -> Offsets:
    """Positions that pass over the markers behind the last records too.

    They are stored, not committed alone: a stored position that stayed in front of markers would point before the
    beginning of a partition whose records have all been deleted, and look like lost records.
    """
    return {
        partition: max(behind.get(partition, -1), ends.get(partition, -1)) for partition in behind.keys() | ends.keys()
    }


def _of(overrides: Mapping[str, str], allowed: Mapping[str, object]) -> dict[str, str]:
    return {name: value for name, value in overrides.items() if name in allowed}


def _nothing() -> None:
    pass
