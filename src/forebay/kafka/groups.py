"""Consumer groups as their coordinators know them, asked for in a process of its own.

An administrator's request to a coordinator can end the process that makes it: librdkafka 2.16 dereferences a null pointer when
the coordinator moves (its issue 5040), and aborts on an assertion of its own when the broker goes away while it waits for
one (measured; requests that need no coordinator do not). A consumer per group would not, but costs threads and connections
of each: too much for hundreds of groups. So a child asks: when it dies nobody has an answer for this once, and the next
question starts another. Each keeps its clients; there is a second child only while the first waits for a Kafka that is slow.
"""

import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import structlog
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConsumerGroupDescription

from forebay.kafka import clients
from forebay.planning.groups import Group, Partition

log = structlog.get_logger()

ANSWER_TIMEOUT_S = 45.0
"""For two requests' time-outs, and for another question before."""
_REQUEST_TIMEOUT_S = 10.0
_MOST_CHILDREN = 3
_MOST_CLIENTS = 32


class GroupObserver:
    """Asks in child processes; use it from any thread, and close it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None
        self._is_closed = False

    def observe(self, connection: Mapping[str, Any], groups: Iterable[str]) -> dict[str, Group | None]:
        """The groups by name; None where there is no complete answer, and an empty one where there is no such group.

        Args:
            connection: librdkafka properties of an administrator.
            groups: their names.
        """
        names = list(groups)
        with self._lock:
            if not names or self._is_closed:
                return dict.fromkeys(names)
            pool = self._pool = self._pool or ProcessPoolExecutor(
                _MOST_CHILDREN, multiprocessing.get_context("spawn"), initializer=_prepare
            )
        try:
            return pool.submit(_observed, dict(connection), names).result(timeout=ANSWER_TIMEOUT_S)
        except (BrokenProcessPool, TimeoutError, RuntimeError) as error:  # the last: it was closed meanwhile
            log.warning("the observer of groups is started anew", error=type(error).__name__)
            self._discard(pool)
            return dict.fromkeys(names)

    def close(self) -> None:
        """End the children."""
        self._is_closed = True
        if self._pool is not None:
            self._discard(self._pool)

    def _discard(self, pool: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._pool is pool:
                self._pool = None
        for child in multiprocessing.active_children():
            if child.pid in (getattr(pool, "_processes", None) or {}):
                child.kill()
        pool.shutdown(wait=False, cancel_futures=True)


_clients: dict[str, AdminClient] = {}
"""In a child: by a hash of the connection, the latest last."""


def _prepare() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the parent
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Whoever kills the parent leaves nobody to tell its children."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


def _client_of(connection: dict[str, Any]) -> AdminClient:
    key = hashlib.sha256(json.dumps(connection, sort_keys=True).encode()).hexdigest()
    client = _clients.pop(key, None) or clients.admin(connection | {"log_level": 0, "error_cb": _ignore})
    _clients[key] = client
    while len(_clients) > _MOST_CLIENTS:  # credentials change
        del _clients[next(iter(_clients))]
    return client


def _ignore(_error: object) -> None:
    """A Kafka that does not answer is told by who else asks it."""


def _observed(connection: dict[str, Any], names: list[str]) -> dict[str, Group | None]:
    """All requests are on their way before the first answer is awaited: the client takes one group a request for offsets."""
    client = _client_of(connection)
    described = client.describe_consumer_groups(names, request_timeout=_REQUEST_TIMEOUT_S)
    committed: dict[str, Future[ConsumerGroupTopicPartitions]] = {}
    for name in names:
        with contextlib.suppress(KafkaException, ValueError):
            asked = [ConsumerGroupTopicPartitions(name)]
            committed |= client.list_consumer_group_offsets(asked, request_timeout=_REQUEST_TIMEOUT_S)
    return {name: _group(described[name], committed.get(name)) for name in names}


def _group(
    described: "Future[ConsumerGroupDescription]", committed: "Future[ConsumerGroupTopicPartitions] | None"
) -> Group | None:
    offsets = _offsets(committed)
    if offsets is None:
        return None
    try:
        description = described.result(timeout=_REQUEST_TIMEOUT_S)
    except KafkaException as exception:
        return Group("DEAD", {}, offsets) if exception.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND else None
    except TimeoutError:
        return None
    owners = {
        (partition.topic, partition.partition): member.member_id
        for member in description.members
        for partition in (member.assignment.topic_partitions if member.assignment else ())
    }
    return Group(description.state.name, owners, offsets)


def _offsets(committed: "Future[ConsumerGroupTopicPartitions] | None") -> dict[Partition, int] | None:
    if committed is None:
        return None
    try:
        partitions = committed.result(timeout=_REQUEST_TIMEOUT_S).topic_partitions or []
    except (KafkaException, TimeoutError):
        return None
    if any(partition.error is not None for partition in partitions):
        return None
    return {(p.topic, p.partition): p.offset for p in partitions if p.offset >= 0}
