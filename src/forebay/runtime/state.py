"""Keyed state of one partition: live values in front, a store of committed bytes behind.

A transaction changes live values only. When it has been committed its changes are written to the store together with the
changelog offset that they stand at; when it was aborted the changed values are forgotten, and the next access reads the
store again. The store therefore never holds anything uncommitted, and the changelog can always rebuild it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, Protocol, TypeVar

Changes = Mapping[bytes, bytes | None]
"""New values by key; None deletes."""


class Store(Protocol):
    """Committed state of one transform and partition. Keys and values are bytes."""

    @property
    def changelog_offset(self) -> int | None:
        """The next changelog offset to read; None when the store is empty and unknown."""

    def get(self, key: bytes) -> bytes | None:
        """The committed value. Raises StoreDamaged when it cannot be trusted."""

    def write(self, changes: Changes, *, changelog_offset: int) -> None:
        """Apply the changes and the offset at once or not at all."""

    def close(self) -> None:
        """Let go of files and locks."""

    def destroy(self) -> None:
        """Close and delete: whatever it held is restored from the changelog."""


class MemoryStore:
    """A store that forgets everything with its process."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._changelog_offset: int | None = None

    @property
    def changelog_offset(self) -> int | None:
        """See Store."""
        return self._changelog_offset

    def get(self, key: bytes) -> bytes | None:
        """See Store."""
        return self._values.get(key)

    def write(self, changes: Changes, *, changelog_offset: int) -> None:
        """See Store."""
        for key, value in changes.items():
            if value is None:
                self._values.pop(key, None)
            else:
                self._values[key] = value
        self._changelog_offset = changelog_offset

    def close(self) -> None:
        """See Store."""

    def destroy(self) -> None:
        """See Store."""
        self._values.clear()
        self._changelog_offset = None


class Live(Protocol):
    """A live value, which knows whether the open transaction has changed it."""

    changed: bool


LiveT = TypeVar("LiveT", bound=Live)


class KeyedState(Generic[LiveT]):
    """The live values of one partition: a cache of the store, bounded by bytes, and what the open transaction changed.

    A transform looks into `live` itself, calls `load` for a key that is not there, and after changing a value whose
    `changed` is False sets it and appends (key, value) to `changed`: so a record costs no call.
    """

    def __init__(
        self,
        store: Store,
        *,
        decode: Callable[[bytes | None], LiveT],
        encode: Callable[[LiveT], bytes | None],
        value_bytes: int,
        cache_bytes: int,
    ) -> None:
        self.live: dict[bytes, LiveT] = {}
        self.changed: list[tuple[bytes, LiveT]] = []
        self.store = store
        self._decode, self._encode = decode, encode
        self._capacity = max(1_000, cache_bytes // value_bytes)

    def load(self, key: bytes) -> LiveT:
        """The value of a key that is not live, from the store."""
        value = self._decode(self.store.get(key))
        self.live[key] = value
        return value

    def changes(self) -> dict[bytes, bytes | None]:
        """Each changed key's last value, encoded."""
        encode = self._encode
        return {key: encode(value) for key, value in self.changed}

    def committed(self, changes: Changes, *, changelog_offset: int) -> None:
        """Write to the store what the broker has committed, and make room."""
        self.store.write(changes, changelog_offset=changelog_offset)
        for _key, value in self.changed:
            value.changed = False
        self.changed.clear()
        self._evict()

    def aborted(self) -> None:
        """Forget what the transaction changed."""
        for key, _value in self.changed:
            self.live.pop(key, None)
        self.changed.clear()

    def _evict(self) -> None:
        """Drop the values that have been live longest; nothing is changed between transactions."""
        surplus = len(self.live) - self._capacity
        if surplus > 0:
            for key in _first(self.live, surplus):
                del self.live[key]


def _first(keys: Iterable[bytes], count: int) -> list[bytes]:
    return [key for key, _ in zip(keys, range(count), strict=False)]
