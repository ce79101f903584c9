"""Committed offsets of many groups, read in a process of its own.

librdkafka 2.16 dereferences a null pointer when the coordinator of a group moves while an administrator asks for its
offsets (its issue 5040). A consumer per group does not, but costs threads and connections of each: too much for hundreds
of groups. So the administrator's request it is, in a child: when that dies, nobody has an answer for this once, and the
next question starts another.
"""

import contextlib
import hashlib
import json
import multiprocessing
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import structlog
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException
from confluent_kafka.admin import AdminClient

log = structlog.get_logger()

ANSWER_TIMEOUT_S = 20.0
_REQUEST_TIMEOUT_S = 10.0
_MOST_CLIENTS = 64

Offsets = dict[tuple[str, int], int]
"""By topic and partition; one that was never committed is left out."""


class OffsetReader:
    """Asks in a child process; use it from any thread, and close it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None

    def committed(self, connection: Mapping[str, Any], groups: Iterable[str]) -> dict[str, Offsets | None]:
        """All committed offsets of each group; None where there is no answer.

        Args:
            connection: librdkafka properties of an administrator.
            groups: their names.
        """
        names = list(groups)
        if not names:
            return {}
        with self._lock:
            pool = self._pool = self._pool or ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        try:
            return pool.submit(_committed, dict(connection), names).result(timeout=ANSWER_TIMEOUT_S)
        except (BrokenProcessPool, TimeoutError) as error:
            log.warning("the reader of offsets is started anew", error=type(error).__name__)
            self._discard(pool)
            return dict.fromkeys(names)

    def close(self) -> None:
        """End the child."""
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
"""In the child: by a hash of the connection."""


def _committed(connection: dict[str, Any], groups: list[str]) -> dict[str, Offsets | None]:
    key = hashlib.sha256(json.dumps(connection, sort_keys=True).encode()).hexdigest()
    if key not in _clients:
        while len(_clients) >= _MOST_CLIENTS:  # credentials change
            del _clients[next(iter(_clients))]
        _clients[key] = AdminClient(connection | {"log_level": 0, "error_cb": _ignore})
    client = _clients[key]
    futures: dict[str, Future[ConsumerGroupTopicPartitions]] = {}
    for group in groups:  # the client takes one group a request; all are on their way before the first is awaited
        with contextlib.suppress(KafkaException, ValueError):
            asked = [ConsumerGroupTopicPartitions(group)]
            futures |= client.list_consumer_group_offsets(asked, request_timeout=_REQUEST_TIMEOUT_S)
    return {group: _offsets(futures.get(group)) for group in groups}


def _ignore(_error: object) -> None:
    """A Kafka that does not answer is told by who else asks it."""


def _offsets(future: "Future[ConsumerGroupTopicPartitions] | None") -> Offsets | None:
    if future is None:
        return None
    try:
        partitions = future.result(timeout=_REQUEST_TIMEOUT_S).topic_partitions or []
    except (KafkaException, TimeoutError):
        return None
    if any(partition.error is not None for partition in partitions):
        return None
    return {(p.topic, p.partition): p.offset for p in partitions if p.offset >= 0}
