"""Consumed records by columns: each line here sees every record, so each is one loop in C."""

from collections.abc import Iterable
from itertools import compress, count
from typing import Any

from confluent_kafka import Message


def values(messages: Iterable[Message]) -> list[bytes]:
    """The payloads; None for a tombstone, which is left for the decoder to refuse."""
    return list(map(Message.value, messages))  # type: ignore[arg-type]


def keys(messages: Iterable[Message]) -> list[bytes | None]:
    """The keys; None where a record has none."""
    return list(map(Message.key, messages))


def with_headers(messages: Iterable[Message]) -> tuple[list[int], list[int]]:
    """Indexes of the records that carry headers, and of those whose headers the client cannot read.

    A header whose name is no UTF-8 makes the client fail, but only the first time: asked again, it would hand out memory that
    is not there. Whoever meets such a record goes on with `WithoutHeaders` of it.
    """
    carrying: list[int] = []
    unreadable: list[int] = []
    places = count()
    headers = map(Message.headers, messages)
    while True:
        try:
            carrying += compress(places, headers)
        except SystemError:
            place = next(places) - 1
            unreadable.append(place)
            places = count(place + 1)
        else:
            return carrying, unreadable


def readable(message: Message) -> "Message | WithoutHeaders":
    """The record whose headers nobody has asked for yet; without them where they cannot be read."""
    return WithoutHeaders(message) if with_headers([message])[1] else message


class WithoutHeaders:
    """A consumed record whose headers cannot be read: everything else of it."""

    def __init__(self, message: Message) -> None:
        self._message = message

    def headers(self) -> None:
        """None, as of a record that has none."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)
