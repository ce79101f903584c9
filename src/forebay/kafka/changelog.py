"""Reading compacted topics to their read-committed ends: how positions and state come back.

The end of a partition is where the broker says so: control records of transactions take offsets too, so it lies behind
the last record. One consumer reads any number of partitions, for each new one costs a tenth of a second to set up.
"""

import time
from collections.abc import Generator
from itertools import groupby
from typing import Any, NamedTuple

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from forebay.errors import TryLater
from forebay.kafka import clients
from forebay.kafka.settings import Properties
from forebay.messages import headers

log = structlog.get_logger()

SILENCE_S = 30.0


class Change(NamedTuple):
    """The last value of a key; None is a deletion."""

    key: bytes
    value: bytes | None
    offset: int


class Slice(NamedTuple):
    """What came of one partition; `end` is the partition's end once it has been reached."""

    topic: str
    partition: int
    changes: list[Change]
    end: int | None = None
    position: bytes | None = None
    """The last record's header `STATE_POSITION`; the last record of a changelog has one."""


class ChangelogReader:
    """Reads partitions that it is told to, side by side. Raises TryLater when the brokers do not answer."""

    def __init__(self, properties: Properties) -> None:
        self._consumer = clients.consumer(properties)
        self._heard = time.monotonic()
        self._reading: dict[tuple[str, int], int] = {}
        """Where each partition may end at the earliest."""

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """First offset and read-committed end."""
        try:
            low, end = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=SILENCE_S)
        except KafkaException as exception:
            raise TryLater(f"{topic}/{partition} cannot be read: {exception.args[0].str()}") from exception
        return low, end

    def begin(self, topic: str, partition: int, offset: int, *, until: int = 0) -> None:
        """Read this partition, too, from the offset on, and at least until the other: see Slice.

        What committed readers see may end before it for a moment: Kafka answers a commit before its markers are written.
        """
        self.stop(topic, partition)
        self._consumer.incremental_assign([TopicPartition(topic, partition, offset)])
        self._reading[topic, partition] = until
        self._heard = time.monotonic()

    def stop(self, topic: str, partition: int) -> None:
        """Read this partition no more."""
        if (topic, partition) in self._reading:
            del self._reading[topic, partition]
            self._consumer.incremental_unassign([TopicPartition(topic, partition)])

    def read(self, timeout_s: float) -> list[Slice]:
        """What has come, at most 10 000 changes. A partition is read no more after the slice that has its end."""
        slices = []
        messages = self._consumer.consume(10_000, timeout_s)
        for place, run in groupby(messages, key=lambda message: (message.topic(), message.partition())):
            if place in self._reading:
                slices += self._slices(*place, list(run))
        if messages:
            self._heard = time.monotonic()
        elif time.monotonic() > self._heard + SILENCE_S:
            names = ", ".join(sorted(f"{topic}/{partition}" for topic, partition in self._reading))
            raise TryLater(f"{names} cannot be read: the brokers sent nothing for {SILENCE_S:.0f} s")
        return slices

    def close(self) -> None:
        """Let go of the client."""
        self._consumer.close()

    def _slices(self, topic: str, partition: int, messages: list[Message]) -> list[Slice]:
        records = [message for message in messages if message.error() is None]
        changes = [Change(message.key() or b"", message.value(), message.offset() or 0) for message in records]
        position = _position(records[-1]) if records else None
        for message in messages:
            error = message.error()
            if error is None:
                continue
            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                if (message.offset() or 0) < self._reading[topic, partition]:
                    continue
                self.stop(topic, partition)
                return [Slice(topic, partition, changes, message.offset(), position)]
            if not error.retriable():
                raise TryLater(f"{topic}/{partition} cannot be read: {error.str()}")
            log.warning("changelog", topic=topic, partition=partition, error=error.str())
        return [Slice(topic, partition, changes, position=position)]


def _position(message: Message) -> bytes | None:
    found: Any = message.headers()
    for name, value in found or ():
        if name == headers.STATE_POSITION and isinstance(value, bytes):
            return value
    return None


def read(properties: Properties, topic: str, partition: int) -> Generator[list[Change], None, None]:
    """Batches of changes from the beginning of one partition to the end that committed readers see at the time."""
    reader = ChangelogReader(properties)
    try:
        reader.begin(topic, partition, reader.bounds(topic, partition)[0])
        while True:
            for piece in reader.read(0.05):
                if piece.changes:
                    yield piece.changes
                if piece.end is not None:
                    return
    finally:
        reader.close()
