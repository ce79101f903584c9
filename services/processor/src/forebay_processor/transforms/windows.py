"""The last values of many keys, as rows of one array.

An object per key would cost nine times the memory of its values, and every record would look for it in another place: with
many keys that wait for memory is most of the work. In one array a batch of records is a handful of operations. Where whole
windows are moved, numpy is told that each is one value of so many bytes: that takes a third of the time of moving ten.
"""

import struct
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forebay.errors import Refused
from forebay.runtime.state import Changes, Mark, Store

KEY_BYTES = 190
"""What a live key takes beside its values: the text, its places in a dict and a list, a row's number (measured)."""

_VALUE_BYTES = 8
_FORMAT = 1
_HEADER = struct.Struct("<BI")
_SMALL = 1 << 16
"""Up to here row numbers fit 16 bits, which numpy sorts by radix."""

Floats = NDArray[np.float64]
Places = NDArray[np.intp]


class Windows:
    """State of a moving average (see forebay.runtime.state.State): up to `size` values per key, oldest first.

    A row holds its values at its end, and zeros before them: a sum needs no look at their number.
    """

    def __init__(self, store: Store, *, size: int, cache_bytes: int) -> None:
        self.store = store
        self._size = size
        self._capacity = max(1_000, cache_bytes // (KEY_BYTES + _VALUE_BYTES * size))
        self._rows: dict[bytes, int] = {}
        self._keys: list[bytes] = []
        """By row."""
        self._free: list[int] = []
        self._window = np.dtype((np.void, size * _VALUE_BYTES))
        self._windows: NDArray[np.void] = np.zeros(0, self._window)
        self._counts: Places = np.zeros(0, np.intp)
        self._changed: NDArray[np.bool_] = np.zeros(0, np.bool_)

    def __len__(self) -> int:
        return len(self._rows)

    def means(self, keys: Sequence[bytes], numbers: Sequence[float]) -> list[float]:
        """Take the numbers into their keys' windows, in order; each window's mean right after its number came."""
        if not keys:
            return []
        rows = self._rows_of(keys)
        size, count = self._size, len(keys)
        # All values in one line: for each key what its window held, then its new numbers. A mean looks `size` back.
        order = (rows.astype(np.uint16) if len(self._keys) <= _SMALL else rows).argsort(kind="stable")
        by_key = rows[order]
        is_first = np.empty(count, np.bool_)
        is_first[0] = True
        np.not_equal(by_key[1:], by_key[:-1], out=is_first[1:])
        starts = is_first.nonzero()[0]
        ends = np.append(starts[1:], count)
        touched = by_key[starts]
        nth_key = is_first.cumsum()  # from 1
        room = np.arange(1, len(touched) + 1) * size
        places = np.arange(count) + nth_key * size
        line = np.empty(count + len(touched) * size)
        windows = self._sliding(line)
        windows[starts + room - size] = self._windows[touched]
        line[places] = np.fromiter(numbers, np.float64, count)[order]
        held = np.arange(1, count + 1) + (self._counts[touched] - starts)[nth_key - 1]
        np.minimum(held, size, out=held)
        means = np.empty(count)
        means[order] = np.einsum("ij->i", self._values(windows[places - (size - 1)])) / held

        self._windows[touched] = windows[ends + room - size]
        self._counts[touched] = held[ends - 1]
        self._changed[touched] = True
        return means.tolist()

    def _rows_of(self, keys: Sequence[bytes]) -> Places:
        find = self._rows.get
        try:
            return np.fromiter(map(find, keys), np.intp, len(keys))
        except TypeError:  # None: a key that is not live
            for key in keys:
                if key not in self._rows:
                    self._load(key)
        return np.fromiter(map(find, keys), np.intp, len(keys))

    def _load(self, key: bytes) -> None:
        values = decode(self.store.get(key), self._size)
        if self._free:
            row = self._free.pop()
            self._keys[row] = key
        else:
            row = len(self._keys)
            self._keys.append(key)
            if row == len(self._counts):
                self._grow()
        self._rows[key] = row
        held = self._values(self._windows)
        held[row, : self._size - len(values)] = 0.0
        held[row, self._size - len(values) :] = values
        self._counts[row] = len(values)
        self._changed[row] = False

    def _grow(self) -> None:
        more = max(256, len(self._counts) // 2)
        self._windows = np.concatenate((self._windows, np.zeros(more, self._window)))
        self._counts = np.concatenate((self._counts, np.zeros(more, np.intp)))
        self._changed = np.concatenate((self._changed, np.zeros(more, np.bool_)))

    def _values(self, windows: NDArray[np.void]) -> Floats:
        """The windows as rows of numbers, without a copy."""
        return windows.view(np.float64).reshape(-1, self._size)

    def _sliding(self, line: Floats) -> NDArray[np.void]:
        """Every `size` neighbours as a window, without a copy; they overlap."""
        return np.ndarray((len(line) - self._size + 1,), self._window, line, strides=(line.itemsize,))

    # -- what the loop does with state ------------------------------------------------------------------------------

    @property
    def has_changes(self) -> bool:
        """See State."""
        return bool(self._changed.any())

    def changes(self) -> dict[bytes, bytes | None]:
        """See State."""
        rows = self._changed.nonzero()[0]
        width = self._size * _VALUE_BYTES
        header = _HEADER.pack(_FORMAT, 0)
        text = self._values(self._windows[rows]).astype("<f8", copy=False).tobytes()
        return {
            self._keys[row]: header + text[end - count * _VALUE_BYTES : end]
            for row, count, end in zip(
                rows.tolist(), self._counts[rows].tolist(), range(width, len(text) + 1, width), strict=True
            )
        }

    def committed(self, changes: Changes, mark: Mark) -> None:
        """See State."""
        self.store.write(changes, mark)
        self._changed[:] = False
        surplus = len(self._rows) - self._capacity
        if surplus > 0:
            self._drop(list(islice(self._rows, surplus)))

    def aborted(self) -> None:
        """See State."""
        self._drop([self._keys[row] for row in self._changed.nonzero()[0].tolist()])

    def forget(self) -> None:
        """See State."""
        self._drop(list(self._rows))

    def _drop(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            row = self._rows.pop(key)
            self._changed[row] = False
            self._keys[row] = b""
            self._free.append(row)


def decode(data: bytes | None, size: int) -> Floats:
    """The window that a store kept, oldest first, or its latest values when it was made for a larger size.

    Format 1, little-endian: one byte of format, four of the oldest value's place, then the values as a ring. Raises Refused
    for what this version did not write.
    """
    if data is None:
        return np.empty(0)
    version, oldest = _HEADER.unpack_from(data.ljust(_HEADER.size, b"\0"))
    count, rest = divmod(len(data) - _HEADER.size, _VALUE_BYTES)
    if version != _FORMAT or rest or oldest >= max(1, count):
        raise Refused(
            f"moving average state has format {version}, this version reads {_FORMAT}: run the version that wrote it, or "
            "raise stateVersion of the transform to start with new state"
        )
    values: Floats = np.frombuffer(data, "<f8", offset=_HEADER.size)
    latest: Any = np.concatenate((values[oldest:], values[:oldest]))[-size:]
    return latest  # type: ignore[no-any-return]
