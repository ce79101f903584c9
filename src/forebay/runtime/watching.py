"""Looks at a stage's topics: every few seconds in a thread of its own, and whenever the loop asks.

A topic that is deleted is no error to most calls: a client goes on with what it knew of it, or reports it under many names,
minutes later, and reads of its successor by its name alone. The loop compares what is seen here instead.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping

import structlog

from forebay.errors import ForebayError, TryLater
from forebay.kafka import settings as kafka_settings
from forebay.kafka.admin import Admin
from forebay.planning.topics import TopicState

log = structlog.get_logger()

EVERY_S = 3.0
_PATIENCE_S = 30.0
"""The broker that was asked may be the one that has just died. With the wait for offsets it stays below the watchdog's time."""
_ANSWER_S = 4.0
"""A transaction is open meanwhile, and the broker that was asked may have died: better to ask again."""
_RETRY_S = 0.5


class TopicsWatch:
    """What the topics were when last seen."""

    def __init__(self, connection: kafka_settings.Properties, topics: Iterable[str]) -> None:
        self._topics = tuple(topics)
        self._admin = Admin(connection, timeout_s=_ANSWER_S)
        self._turn = threading.Lock()
        self._ended = threading.Event()
        self.seen: Mapping[str, TopicState | None] = {}
        """Replaced as a whole at every look, so that a new one is noticed by its identity."""
        threading.Thread(target=self._watch, name="topics", daemon=True).start()

    def look(self) -> Mapping[str, TopicState]:
        """The topics as they are now. Raises TryLater when one is missing or Kafka stays silent."""
        end = time.monotonic() + _PATIENCE_S
        said = None
        with self._turn:
            while True:
                try:
                    self.seen = found = self._admin.describe(self._topics)
                    break
                except TryLater as error:
                    if time.monotonic() > end:
                        raise
                    if str(error) != said:
                        said = str(error)
                        log.warning("waiting", reason=said)
                    time.sleep(_RETRY_S)  # some answers come at once
        return present(found)

    def looking(self) -> Callable[[], Mapping[str, TopicState]]:
        """Ask once, now, and wait for the answer in what is returned, which raises as `look` does, but soon."""
        asked = self._admin.describing(self._topics)

        def answered() -> Mapping[str, TopicState]:
            self.seen = found = asked()
            return present(found)

        return answered

    def close(self) -> None:
        """Look no more."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_S):
            try:
                with self._turn:
                    self.seen = self._admin.describe(self._topics)
            except ForebayError as error:  # the loop has troubles of its own with such brokers, and tells them
                log.debug("topics not seen", reason=str(error))


def present(found: Mapping[str, TopicState | None]) -> Mapping[str, TopicState]:
    """The topics, when all of them exist; TryLater names those that do not."""
    absent = missing(found)
    if absent is not None:
        raise TryLater(absent)
    return {name: state for name, state in found.items() if state is not None}


def missing(found: Mapping[str, TopicState | None]) -> str | None:
    """Which topics do not exist, as a sentence; None when all do."""
    absent = sorted(name for name, state in found.items() if state is None)
    if not absent:
        return None
    return f"topics do not exist: {', '.join(absent)}; create them, for example with `forebay apply`"
