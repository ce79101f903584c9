"""Every client of librdkafka is made here, so that those of a process can log in anew while they run.

A connection (`settings.Properties`) may carry a `Login` under the key `LOGIN`. All clients that are made of it, now or later,
log in with what the Login holds at that moment, and `Login.change` reaches those that run: their connections stay, and new
ones use the new user. So nothing is interrupted, and nobody has to know who holds a client.
"""

import contextlib
import threading
import weakref
from collections.abc import Mapping
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient

LOGIN = "forebay.login"


class _Producer(Producer):
    """Can be referred to weakly, which the client's own class cannot."""


class _Consumer(Consumer):
    """As above."""


_ClientT = TypeVar("_ClientT", Producer, Consumer, AdminClient)


class Login:
    """User and password of clients, which may change. Use it from any thread."""

    def __init__(self, username: str, password: str) -> None:
        self._username, self._password = username, password
        self._clients: weakref.WeakSet[Any] = weakref.WeakSet()
        self._turn = threading.Lock()
        self.changes = 0
        """How often it has changed."""

    def __repr__(self) -> str:
        return f"Login({self._username})"

    def change(self, username: str, password: str) -> None:
        """Log in with these from now on, wherever a connection is made or authenticated anew."""
        with self._turn:
            self._username, self._password = username, password
            self.changes += 1
            for client in self._clients:
                with contextlib.suppress(KafkaException, RuntimeError):  # it was closed
                    client.set_sasl_credentials(username, password)

    def make(self, kind: type[_ClientT], properties: Mapping[str, Any]) -> _ClientT:
        """A client that logs in with what this holds."""
        with self._turn:
            client = kind({**properties, "sasl.username": self._username, "sasl.password": self._password})
            self._clients.add(client)
        return client


def producer(properties: Mapping[str, Any]) -> Producer:
    """A producer with these properties."""
    return _made(_Producer, properties)


def consumer(properties: Mapping[str, Any]) -> Consumer:
    """A consumer with these properties."""
    return _made(_Consumer, properties)


def admin(properties: Mapping[str, Any]) -> AdminClient:
    """An administrator's client with these properties."""
    return _made(AdminClient, properties)


def _made(kind: type[_ClientT], properties: Mapping[str, Any]) -> _ClientT:
    plain = dict(properties)
    login: Login | None = plain.pop(LOGIN, None)
    return kind(plain) if login is None else login.make(kind, plain)
