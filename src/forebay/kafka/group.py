"""One member of a consumer group: runs of records of the partitions that it owns, and nothing of the others.

The broker fences members, not partitions: it would accept a commit for a partition that has moved on. So ownership is kept
here, and whoever commits asks `owned`. Rebalance callbacks run inside `read`, in the caller's thread; an error raised in
one is kept until librdkafka has its answer, and then raised by `read`.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from forebay.errors import Fatal, Refused, TryLater
from forebay.kafka import clients
from forebay.kafka.errors import ADD_THE_ACL, ClientErrors, TransactionAborted
from forebay.kafka.settings import Properties
from forebay.pipeline.spec import OnOffsetLost, StartFrom

log = structlog.get_logger()

COMMITTED_TIMEOUT_S = 60.0
"""How long to wait for stable offsets: a dead member's open transaction hides them until it times out."""

_TRUNCATED = "log truncation"
"""librdkafka's words when a new leader has less than was read; the event has the same code as others, and no offset."""


class Commit(NamedTuple):
    """What a group has committed for a partition."""

    offset: int
    metadata: str
    """What was said with it."""


class Run(NamedTuple):
    """Consecutive records of one partition."""

    partition: int
    messages: list[Message]
    next_offset: int
    """The offset behind the last record: what is committed once the run is done."""


Partitions = list[int]
Answer = TypeVar("Answer")


def _ignore(_told: object) -> None:
    pass


def _nothing() -> None:
    pass


class GroupReader:
    """A subscribed consumer that hands out records in runs and tells when its assignment changes.

    `starts` gives the offset to begin each newly assigned partition at; None for a partition (and no `starts` at all) means the
    committed offset, or where there is none, `start_from`. `on_refused` is told why the group cannot be joined; it is tried
    again, and `on_assigned` tells that it succeeded. `on_records_lost` is told how many offsets `on_offset_lost` passed over;
    before that `check_topic` raises if the topic is not the one that was read before.
    """

    def __init__(
        self,
        properties: Properties,
        topic: str,
        *,
        start_from: StartFrom,
        on_offset_lost: OnOffsetLost,
        starts: Callable[[Partitions], Mapping[int, int | None]] | None = None,
        on_assigned: Callable[[Partitions], None] = _ignore,
        on_revoked: Callable[[Partitions], None] = _ignore,
        on_lost: Callable[[Partitions], None] = _ignore,
        on_refused: Callable[[str], None] = _ignore,
        on_records_lost: Callable[[int], None] = _ignore,
        check_topic: Callable[[], object] = _nothing,
    ) -> None:
        self.topic = topic
        self.owned: set[int] = set()
        self.ends: dict[int, int] = {}
        self._start_from = OFFSET_BEGINNING if start_from is StartFrom.EARLIEST else OFFSET_END
        self._starts = starts
        self._on_assigned, self._on_revoked, self._on_lost = on_assigned, on_revoked, on_lost
        self._on_refused = on_refused
        self._on_offset_lost, self._on_records_lost = on_offset_lost, on_records_lost
        self._check_topic = check_topic
        self._lost: dict[int, tuple[int, int]] = {}
        """From where to where lost offsets have been told, by partition: an abort meets them again."""
        self._next: dict[int, int] = {}
        """The offset from which each partition is still to be handed out."""
        self._begun: dict[int, int] = {}
        """Where partitions without a commit were begun at what was the end then: records have come since."""
        self._failure: BaseException | None = None
        self._rebalanced = False
        self._properties = properties
        self._consumer = clients.consumer({**properties, "error_cb": ClientErrors()})
        self._consumer.subscribe(
            [topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._assignment_lost
        )

    def read(self, max_records: int, timeout_s: float) -> list[Run]:
        """Up to so many records in runs; returns when they are there or the time is over. Raises what callbacks raised."""
        self._rebalanced = False
        messages = self._consumer.consume(max_records, timeout_s)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        begins = self._next.copy()  # what is in hand lies before what an event makes this seek
        if any(map(Message.error, messages)):  # in C: this line sees every record
            again = self._note([message for message in messages if message.error() is not None])
            messages = [
                message
                for message in messages
                if message.error() is None
                and not (message.partition() in again and _offset(message) >= again[_partition(message)])
            ]
        if self._rebalanced:
            messages = [message for message in messages if message.partition() in self.owned]
        runs = (
            self._run(partition, list(run), begins.get(partition, 0))
            for partition, run in groupby(messages, key=Message.partition)
            if partition is not None
        )
        return [run for run in runs if run.messages]

    def _run(self, partition: int, messages: list[Message], begin: int) -> Run:
        """What of these was not handed out before: librdkafka may give again what it gave when a rebalance paused it."""
        if _offset(messages[0]) < begin:
            messages = [message for message in messages if _offset(message) >= begin]
        run = Run(partition, messages, _offset(messages[-1]) + 1 if messages else begin)
        self._next[partition] = max(run.next_offset, self._next.get(partition, 0))
        return run

    def take_ends(self) -> dict[int, int]:
        """Where "end of partition" was seen since the last call.

        Markers of transactions take offsets: only by committing this end does the lag become zero.
        """
        ends, self.ends = self.ends, {}
        return ends

    def committed(self, partitions: Iterable[int]) -> dict[int, int | None]:
        """The group's stable committed offsets, None where there is none. Raises TryLater when they stay unstable."""
        return {each: commit and commit.offset for each, commit in self.commits(partitions).items()}

    def commits(self, partitions: Iterable[int]) -> dict[int, Commit | None]:
        """Like `committed`, with the metadata."""
        wanted = [TopicPartition(self.topic, partition) for partition in partitions]
        if not wanted:
            return {}
        found = self._ask(
            f"committed offsets of {self.topic}",
            lambda asking, timeout_s: asking.committed(wanted, timeout=timeout_s),
        )
        for partition in found:
            if partition.error is not None:
                raise TryLater(
                    f"committed offset of {self.topic}/{partition.partition} cannot be read: {partition.error.str()}"
                )
        return {
            each.partition: None if each.offset == OFFSET_INVALID else Commit(each.offset, each.metadata or "")
            for each in found
        }

    def _range_of(self, partition: int) -> tuple[int, int]:
        """The offset of the first record, and the one behind the last that committed readers see."""
        place = TopicPartition(self.topic, partition)
        return self._ask(
            f"the offsets of {self.topic}/{partition}",
            lambda asking, timeout_s: asking.get_watermark_offsets(place, timeout=timeout_s),
        )

    def _ask(self, what: str, question: Callable[[Consumer, float], Answer]) -> Answer:
        """Ask until answered: a coordinator that moves or loads its offsets is no reason to give up. Raises TryLater.

        A client of its own asks. In librdkafka 2.16 fetched records hold on to the broker that they came from: when Kafka
        has declared that one dead, the member's client finds no way back to it before they are read, and nobody reads here.
        """
        end = time.monotonic() + COMMITTED_TIMEOUT_S
        asking = clients.consumer(self._properties)
        try:
            while True:
                try:
                    return question(asking, max(0.1, end - time.monotonic()))
                except KafkaException as exception:
                    error = exception.args[0]
                    if time.monotonic() > end or error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                        raise TryLater(f"{what} cannot be read: {error.str()}") from exception
                    log.info("waiting for an answer", asked=what, reason=error.str())
                    time.sleep(0.2)
        finally:
            asking.close()

    def rewind(self, offsets: Mapping[int, int | None]) -> None:
        """Continue the owned partitions among these at the offsets (None: `start_from`); what was fetched is dropped.

        An aborted transaction does not rewind the consumer by itself. A rebalance that waits for its callback takes this for the
        answer: what it takes away may have another owner before `on_revoked` is called. So nothing may be in work now.
        """
        again = [
            TopicPartition(self.topic, partition, self._start_of(partition) if offset is None else offset)
            for partition, offset in offsets.items()
            if partition in self.owned
        ]
        if again:
            self._consumer.incremental_unassign([TopicPartition(self.topic, each.partition) for each in again])
            self._assign(again)
        for each in again:
            self.ends.pop(each.partition, None)

    def _assign(self, places: list[TopicPartition]) -> None:
        """Begin to fetch the places; returns when the client has queued that for its own thread.

        It does so in its own time, once what was fetched before has ended. In librdkafka 2.16 a pause, a resume and a start take
        their number before they are queued: of two at one moment the later number may come first, and the other is thrown away
        without a word (its issue 5591). The partition would be paused, or not read, for ever. Any question to that thread is
        answered behind the start.
        """
        self._consumer.incremental_assign(places)
        self._consumer.assignment()
        self._next.update({each.partition: max(0, each.offset) for each in places})

    def _start_of(self, partition: int) -> int:
        """Where a partition without a commit begins, the same at every look: "latest" would skip what has come since."""
        if self._start_from == OFFSET_BEGINNING:
            return OFFSET_BEGINNING
        if partition not in self._begun:
            self._begun[partition] = self._range_of(partition)[1]
        return self._begun[partition]

    def seek(self, partition: int, offset: int) -> None:
        """Continue one partition at the offset."""
        self.rewind({partition: offset})

    def pause(self, partitions: Iterable[int]) -> None:
        """Stop fetching, keep owning.

        Like `resume` it may be lost when a rebalance begins at the same moment (see `_assign`): say it again in `on_assigned`,
        with which every rebalance ends, and expect records until then.
        """
        self._consumer.pause(self._of(partitions))

    def resume(self, partitions: Iterable[int]) -> None:
        """Fetch again."""
        self._consumer.resume(self._of(partitions))

    def commit(self, offsets: Mapping[int, int]) -> bool:
        """Commit offsets of owned partitions outside of transactions; a failure is logged, and to be repeated."""
        owned = [TopicPartition(self.topic, each, offset) for each, offset in offsets.items() if each in self.owned]
        if not owned:
            return True
        try:
            self._consumer.commit(offsets=owned, asynchronous=False)
        except KafkaException as exception:
            log.warning("offsets not committed", topic=self.topic, error=exception.args[0].str())
            return False
        return True

    def group_metadata(self) -> Any:
        """What a transactional producer needs to commit this member's offsets."""
        return self._consumer.consumer_group_metadata()

    def close(self) -> None:
        """Leave the group, so that the others need not wait for the session's end."""
        self._consumer.close()

    def _of(self, partitions: Iterable[int]) -> list[TopicPartition]:
        return [TopicPartition(self.topic, partition) for partition in partitions]

    def _note(self, events: Sequence[Message]) -> dict[int, int]:
        """Answer events that came in place of records. Where partitions were sought, whose records from there come again."""
        again: dict[int, int] = {}
        for event in events:
            error = event.error()
            if error is None:
                continue
            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                if event.partition() in self.owned:
                    self.ends[_partition(event)] = event.offset() or 0
            elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):  # noqa: SLF001
                partition, offset = _partition(event), event.offset()
                if partition not in self.owned:
                    continue
                if offset is None:
                    self._answer_unplaced(partition, error)
                elif offset >= self._next.get(partition, 0):  # not of an earlier place
                    again[partition] = self._pass_over_lost(partition, offset)
            else:
                self._raise_unless_passing(error)
        return again

    def _answer_unplaced(self, partition: int, error: KafkaError) -> None:
        """The client could not find out where the partition begins, or a new leader told it that records are gone."""
        if _TRUNCATED not in error.str():
            raise TryLater(f"{self.topic}/{partition} cannot be read: {error.str()}")
        self._check_topic()
        raise self._behind_the_end(partition, self._range_of(partition)[1])

    def _behind_the_end(self, partition: int, end: int) -> Refused:
        return Refused(
            f"the offset at which {self.topic}/{partition} was to be read lay behind its end (now {end}): the group was set "
            "there, or the topic has lost records, and what comes next may have been read before or not; set the "
            "group's offset to where it is to go on"
        )

    def _pass_over_lost(self, partition: int, offset: int) -> int:
        """Seek the first record of a partition that does not hold the offset, if that may be. Raises Refused."""
        self._check_topic()
        begin, end = self._range_of(partition)
        if offset >= begin:  # the end may have risen since
            raise self._behind_the_end(partition, end)
        if self._on_offset_lost is OnOffsetLost.STOP:
            raise Refused(
                f"offset {offset}, where {self.topic}/{partition} was to be read, is no longer in the topic, which begins at "
                f"{begin}: records were deleted before they were processed; set onOffsetLost: Earliest to go on with what is left"
            )
        log.warning("records were deleted before they were read", partition=partition, offset=offset, begin=begin)
        told_from, told_to = self._lost.get(partition, (begin, begin))
        self._on_records_lost(begin - offset - max(0, told_to - max(offset, told_from)))
        self._lost[partition] = (min(offset, told_from), begin)
        self.seek(partition, begin)
        return begin

    def _raise_unless_passing(self, error: KafkaError) -> None:
        code = error.code()
        if error.fatal() or code == KafkaError._FATAL:  # noqa: SLF001
            raise Fatal(f"consumer of {self.topic}: {error.str()}")
        if code == KafkaError.GROUP_AUTHORIZATION_FAILED:
            self._on_refused(f"the user may not join the consumer group {self._properties['group.id']}: {ADD_THE_ACL}")
        log.warning("consumer", topic=self.topic, error=error.str(), code=error.name())

    def _assigned(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        added = [each.partition for each in partitions]

        def assign() -> None:
            try:
                given = self._starts(added) if self._starts else {}
                unknown = [partition for partition in added if given.get(partition) is None]
                offsets = {**given, **self.committed(unknown)}
                places = [
                    TopicPartition(self.topic, partition, self._start_of(partition) if offset is None else offset)
                    for partition, offset in offsets.items()
                ]
            except TryLater as error:  # a partition that is not taken would never be read
                raise Fatal(f"assigned partitions cannot be taken: {error}") from error
            self.owned.update(added)
            self._assign(places)
            self._on_assigned(added)

        self._guarded(assign)

    def _revoked(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._leave(partitions, self._on_revoked)

    def _assignment_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._leave(partitions, self._on_lost)

    def _leave(self, partitions: list[TopicPartition], tell: Callable[[Partitions], None]) -> None:
        gone = [each.partition for each in partitions]
        try:
            self._guarded(lambda: tell(gone))
        finally:
            self.owned.difference_update(gone)
            for partition in gone:
                self.ends.pop(partition, None)
                self._begun.pop(partition, None)
                self._next.pop(partition, None)
            self._guarded(lambda: self._consumer.incremental_unassign(partitions))

    def _guarded(self, action: Callable[[], None]) -> None:
        self._rebalanced = True
        try:
            action()
        except Exception as error:  # noqa: BLE001 - raised again by read()
            if self._failure is None or isinstance(self._failure, TransactionAborted):  # the least of all troubles
                self._failure = error


def _partition(message: Message) -> int:
    return message.partition()  # type: ignore[return-value]  # a consumed record has one


def _offset(message: Message) -> int:
    return message.offset()  # type: ignore[return-value]  # likewise
