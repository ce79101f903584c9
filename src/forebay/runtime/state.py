"""Keyed state of one partition: live values in front, a store of committed bytes behind.

A transaction changes live values only. When it has been committed its changes are written to the store together with the
changelog offset that they stand at; when it was aborted the changed values are forgotten, and the next access reads the
store again. The store therefore never holds anything uncommitted, and the changelog can always rebuild it.
"""

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Generic, NamedTuple, Protocol, TypeVar

from forebay.errors import ForebayError

Changes = Mapping[bytes, bytes | None]
"""New values by key; None deletes."""


class Origin(NamedTuple):
    """The changelog that a store's content comes from. A topic that was deleted and made again has another id."""

    topic_id: str
    partitions: int


class Position(NamedTuple):
    """Where in the input a state stands. Written as a header of the last change of each transaction."""

    topic_id: str
    next_offset: int

    def encode(self) -> bytes:
        """As the value of a header."""
        return f"{self.topic_id} {self.next_offset}".encode()


def decode_position(header: bytes | None) -> Position | None:
    """The position that a header holds; None when it holds none."""
    topic_id, _, offset = (header or b"").decode(errors="replace").partition(" ")
    return Position(topic_id, int(offset)) if offset.isascii() and offset.isdecimal() else None


class Mark(NamedTuple):
    """What a store knows of its content, written with it at once or not at all."""

    origin: Origin
    changelog_offset: int
    """The next changelog offset to read."""
    written_ms: int
    """Epoch milliseconds of the write."""
    position: Position | None = None
    """Where in the input the content stands; None when nothing was ever changed."""


class StoreDamaged(ForebayError):  # noqa: N818
    """What the store read cannot be trusted: wipe it and restore from the changelog."""

    def __init__(self, store: "Store", detail: str) -> None:
        super().__init__(detail)
        self.store = store


class Store(Protocol):
    """Committed state of one transform and partition. Keys and values are bytes."""

    @property
    def mark(self) -> Mark | None:
        """None when nothing was ever written."""

    def get(self, key: bytes) -> bytes | None:
        """The committed value. Raises StoreDamaged when it cannot be trusted."""

    def write(self, changes: Changes, mark: Mark) -> None:
        """Apply the changes and the mark at once or not at all. Raises Fatal when that is impossible (disk full)."""

    def wipe(self) -> None:
        """Be empty, whatever it held, and have no mark."""

    def close(self) -> None:
        """Let go of files and locks."""


class MemoryStore:
    """A store that forgets everything with its process."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._mark: Mark | None = None

    @property
    def mark(self) -> Mark | None:
        """See Store."""
        return self._mark

    def get(self, key: bytes) -> bytes | None:
        """See Store."""
        return self._values.get(key)

    def write(self, changes: Changes, mark: Mark) -> None:
        """See Store."""
        for key, value in changes.items():
            if value is None:
                self._values.pop(key, None)
            else:
                self._values[key] = value
        self._mark = mark

    def wipe(self) -> None:
        """See Store."""
        self._values.clear()
        self._mark = None

    def close(self) -> None:
        """See Store."""


def doubt(  # noqa: PLR0911 - a list of reasons
    mark: Mark | None, origin: Origin, *, low: int, end: int, now_ms: int, keeps_deletes_ms: int
) -> str | None:
    """Why a store must be wiped and restored from the beginning of its changelog; None when it may be continued.

    `low` and `end` are the changelog partition's first offset and read-committed end. A store that slept for longer than the
    changelog keeps deletions may have missed some.
    """
    if mark is None:
        return None
    if mark.origin.topic_id != origin.topic_id:
        return "the changelog was deleted and made again"
    if mark.origin.partitions != origin.partitions:
        return f"the changelog had {mark.origin.partitions} partitions and has {origin.partitions}"
    if mark.changelog_offset > end:
        return f"the store is at offset {mark.changelog_offset}, beyond the changelog's end {end}"
    if mark.changelog_offset < low:
        return f"the store is at offset {mark.changelog_offset}, before the changelog's start {low}"
    if mark.written_ms > now_ms + keeps_deletes_ms:
        return "the store was written in the future"
    if now_ms - mark.written_ms > keeps_deletes_ms:
        return "the store is older than the changelog keeps deletions"
    return None


class State(Protocol):
    """Keyed state of one partition as the loop sees it: what a transaction changed, and what becomes of that."""

    store: Store

    @property
    def has_changes(self) -> bool:
        """Whether the open transaction changed anything."""

    def changes(self) -> dict[bytes, bytes | None]:
        """Each changed key's last value, encoded."""

    def committed(self, changes: Changes, mark: Mark) -> None:
        """Write to the store what the broker has committed, and make room."""

    def aborted(self) -> None:
        """Forget what the transaction changed."""

    def forget(self) -> None:
        """Forget all live values: the store is about to change behind them."""


class Live(Protocol):
    """A live value, which knows whether the open transaction has changed it."""

    changed: bool


LiveT = TypeVar("LiveT", bound=Live)


class KeyedState(Generic[LiveT]):
    """State whose live values are objects: a cache of the store, bounded by bytes, and what the open transaction changed.

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

    @property
    def has_changes(self) -> bool:
        """See State."""
        return bool(self.changed)

    def changes(self) -> dict[bytes, bytes | None]:
        """See State."""
        encode = self._encode
        return {key: encode(value) for key, value in self.changed}

    def committed(self, changes: Changes, mark: Mark) -> None:
        """See State."""
        self.store.write(changes, mark)
        for _key, value in self.changed:
            value.changed = False
        self.changed.clear()
        self._evict()

    def aborted(self) -> None:
        """See State."""
        for key, _value in self.changed:
            self.live.pop(key, None)
        self.changed.clear()

    def forget(self) -> None:
        """See State."""
        self.live.clear()
        self.changed.clear()

    def _evict(self) -> None:
        """Drop the values that have been live longest; nothing is changed between transactions."""
        surplus = len(self.live) - self._capacity
        if surplus > 0:
            for key in list(islice(self.live, surplus)):
                del self.live[key]
