"""Consumed records by columns: each line here sees every record, so each is one loop in C."""

from collections.abc import Iterable
from itertools import compress, count

from confluent_kafka import Message


def values(messages: Iterable[Message]) -> list[bytes]:
    """The payloads; None for a tombstone, which is left for the decoder to refuse."""
    return list(map(Message.value, messages))  # type: ignore[arg-type]


def keys(messages: Iterable[Message]) -> list[bytes | None]:
    """The keys; None where a record has none."""
    return list(map(Message.key, messages))


def with_headers(messages: Iterable[Message]) -> list[int]:
    """Indexes of the records that carry headers."""
    return list(compress(count(), map(Message.headers, messages)))
