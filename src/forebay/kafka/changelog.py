"""Reading a compacted partition from an offset to its read-committed end: how positions and state come back."""

import time
from collections.abc import Generator
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from forebay.errors import TryLater
from forebay.kafka.settings import Properties

_SILENCE_S = 30.0


class Change(NamedTuple):
    """The last value of a key; None is a deletion."""

    key: bytes
    value: bytes | None
    offset: int


def read(
    properties: Properties, topic: str, partition: int, *, start: int | None = None
) -> Generator[list[Change], None, None]:
    """Batches of changes from `start` (None: the beginning) to the end that committed readers see at the time.

    The end is where the broker says "end of partition": control records of transactions take offsets too, so it lies
    behind the last record. Raises TryLater when the broker is silent for 30 s.
    """
    consumer = Consumer(properties)
    try:
        low, _ = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=_SILENCE_S)
        consumer.assign([TopicPartition(topic, partition, low if start is None else max(start, low))])
        heard = time.monotonic()
        while time.monotonic() < heard + _SILENCE_S:
            messages = consumer.consume(10_000, 0.05)
            if messages:
                heard = time.monotonic()
            changes, ended = _read(messages, f"{topic}/{partition}")
            if changes:
                yield changes
            if ended:
                return
        raise TryLater(f"{topic}/{partition} cannot be read: the broker sent nothing for {_SILENCE_S:.0f} s")
    except KafkaException as exception:
        raise TryLater(f"{topic}/{partition} cannot be read: {exception.args[0].str()}") from exception
    finally:
        consumer.close()


def _read(messages: list[Message], source: str) -> tuple[list[Change], bool]:
    """The changes in the messages, and whether the end of the partition is among them."""
    changes = []
    for message in messages:
        error = message.error()
        if error is None:
            changes.append(Change(message.key() or b"", message.value(), message.offset() or 0))
        elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
            return changes, True
        elif not error.retriable():
            raise TryLater(f"{source} cannot be read: {error.str()}")
    return changes, False
