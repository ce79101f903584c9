"""Bringing the stores of newly assigned partitions up to their changelogs, a slice at a time, while the loop polls on."""

import time
from dataclasses import dataclass, field

import structlog

from forebay.errors import TryLater
from forebay.kafka import settings as kafka_settings
from forebay.kafka.admin import Admin
from forebay.kafka.changelog import ChangelogReader, Slice
from forebay.planning.topics import TopicState
from forebay.runtime.metrics import StageMetrics
from forebay.runtime.state import Mark, Origin, Store, decode_position, doubt

log = structlog.get_logger()

_KEEPS_DELETES_MS = 86_400_000
"""Kafka's default of delete.retention.ms."""
_PROGRESS_EVERY_S = 5.0


@dataclass(slots=True)
class _Restore:
    """One partition on its way."""

    stores: dict[str, Store]
    """Not yet complete, by changelog topic."""
    remaining: int = 0
    """Offsets still to read, when it began."""
    changes: int = 0
    since: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)


class Restorer:
    """Restores any number of partitions side by side with one consumer."""

    def __init__(self, connection: kafka_settings.Properties, metrics: StageMetrics, *, group_id: str) -> None:
        self._admin = Admin(connection)
        self._properties = kafka_settings.assigned_consumer(connection, group_id=group_id)
        self._reader = ChangelogReader(self._properties)
        self._metrics = metrics
        self._restores: dict[int, _Restore] = {}

    @property
    def partitions(self) -> set[int]:
        """The partitions that are not restored yet."""
        return set(self._restores)

    def begin(self, stores: dict[int, dict[str, Store]]) -> dict[str, Origin]:
        """Restore each partition's stores, given by changelog topic; a store in doubt is wiped first.

        Call it after the input's committed offsets were read: a commit that lands in between would be missed. What was written
        by then is waited for, whatever its transaction comes to: of several brokers one may know of a commit later. Returns the
        changelogs' origins. Raises TryLater while a changelog is missing or cannot be read; then nothing is being restored any
        more, and the caller begins again with all that it owns.
        """
        topics = {topic for of_partition in stores.values() for topic in of_partition}
        found = self._admin.observe(topics) if topics else {}
        origins = {topic: _origin(topic, found.get(topic)) for topic in topics}
        try:
            for partition, of_partition in stores.items():
                self.drop(partition)
                restore = _Restore(dict(of_partition))
                for topic, store in of_partition.items():
                    restore.remaining += self._begin(topic, partition, store, origins[topic], found[topic])
                if of_partition:
                    self._restores[partition] = restore
        except TryLater:
            self._renew()
            raise
        self._export()
        return origins

    def step(self, timeout_s: float = 0.0) -> set[int]:
        """Apply what has come; returns the partitions that are complete now."""
        for piece in self._reader.read(timeout_s):
            self._apply(piece)
        done = {partition for partition, restore in self._restores.items() if not restore.stores}
        for partition in done:
            restore = self._restores.pop(partition)
            seconds = round(time.monotonic() - restore.since, 3)
            log.info("state restored", partition=partition, changes=restore.changes, seconds=seconds)
        self._tell_progress()
        return done

    def drop(self, partition: int) -> None:
        """The partition has gone."""
        restore = self._restores.pop(partition, None)
        if restore is not None:
            for topic in restore.stores:
                self._reader.stop(topic, partition)

    def close(self) -> None:
        """Let go of the client."""
        self._reader.close()

    def _renew(self) -> None:
        """Another client: one that was told that a partition has no leader does not ask again by itself."""
        self._restores.clear()
        self._reader.close()
        self._reader = ChangelogReader(self._properties)

    def _begin(self, topic: str, partition: int, store: Store, origin: Origin, state: TopicState | None) -> int:
        low, end = self._reader.bounds(topic, partition)
        keeps_deletes_ms = int((state.config if state else {}).get("delete.retention.ms", _KEEPS_DELETES_MS))
        reason = doubt(store.mark, origin, low=low, end=end, now_ms=_now_ms(), keeps_deletes_ms=keeps_deletes_ms)
        if reason is not None:
            log.warning("local state is wiped and restored", partition=partition, changelog=topic, reason=reason)
            store.wipe()
        start, position = (low, None) if store.mark is None else (store.mark.changelog_offset, store.mark.position)
        store.write({}, Mark(origin, start, _now_ms(), position))
        self._reader.begin(topic, partition, start, until=self._admin.log_end(topic, partition))
        return end - start

    def _apply(self, piece: Slice) -> None:
        restore = self._restores.get(piece.partition)
        store = restore.stores.get(piece.topic) if restore else None
        if restore is None or store is None or store.mark is None:
            return
        if piece.changes:
            last = piece.changes[-1]
            position = decode_position(piece.position) or store.mark.position
            mark = Mark(store.mark.origin, last.offset + 1, _now_ms(), position)
            store.write({change.key: change.value for change in piece.changes}, mark)
            restore.changes += len(piece.changes)
            restore.remaining -= last.offset + 1 - piece.changes[0].offset
        if piece.end is not None:
            del restore.stores[piece.topic]

    def _tell_progress(self) -> None:
        self._export()
        for partition, restore in self._restores.items():
            if time.monotonic() > restore.told + _PROGRESS_EVERY_S:
                restore.told = time.monotonic()
                log.info("restoring state", partition=partition, changes=restore.changes, remaining=restore.remaining)

    def _export(self) -> None:
        self._metrics.restoring_partitions.set(len(self._restores))
        self._metrics.restore_remaining.set(sum(max(0, restore.remaining) for restore in self._restores.values()))


def _origin(topic: str, state: TopicState | None) -> Origin:
    if state is None:
        raise TryLater(f"changelog topic {topic} does not exist: create it with `forebay apply`")
    return Origin(str(state.topic_id), state.partitions)


def _now_ms() -> int:
    return int(time.time() * 1000)
