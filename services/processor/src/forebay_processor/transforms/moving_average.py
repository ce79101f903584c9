"""The mean of each key's last values.

The sum of a window is computed anew for every record: the mean depends on nothing but the values in the window, cannot
drift however long a key lives, and an absurd reading leaves no trace once it has left. The built-in `sum` of ten floats takes
0.1 microseconds; `math.fsum` would take 0.25 and be right in the last digit, a running sum 0.04 and be wrong in time.
"""

import struct
from array import array
from collections.abc import Sequence

from forebay.errors import Refused
from forebay.pipeline.spec import MovingAverage
from forebay.runtime.state import KeyedState
from forebay_processor.rows import Rows, refuse

WINDOW_BYTES = 350
"""What an empty live window takes in memory, with its key and its place in the cache (measured)."""
FLOAT_BYTES = 34
"""What each of its values adds: a float and its place in the list."""

_FORMAT = 1
_HEADER = struct.Struct("<BI")
_VALUE_BYTES = 8


class Window:
    """A ring of the last values; `next` is where the oldest stands once the ring is full."""

    __slots__ = ("changed", "next", "values")

    def __init__(self, values: list[float], next_: int = 0) -> None:
        self.values = values
        self.next = next_
        self.changed = False

    def encode(self) -> bytes:
        """Format, place of the oldest, values: little-endian."""
        return _HEADER.pack(_FORMAT, self.next) + array("d", self.values).tobytes()


def decode(data: bytes | None, size: int) -> Window:
    """The window as it was, or its latest values when it was made for another size: a longer one fills up again.

    Raises Refused for what this version did not write.
    """
    if data is None:
        return Window([])
    version, oldest = _HEADER.unpack_from(data.ljust(_HEADER.size, b"\0"))
    count, rest = divmod(len(data) - _HEADER.size, _VALUE_BYTES)
    if version != _FORMAT or rest or oldest >= max(1, count):
        raise Refused(
            f"moving average state has format {version}, this version reads {_FORMAT}: run the version that wrote it, or "
            "raise stateVersion of the transform to start with new state"
        )
    values = array("d", data[_HEADER.size :]).tolist()
    if len(values) < size and oldest == 0:
        return Window(values)
    in_order = values[oldest:] + values[:oldest]
    return Window(in_order[-size:]) if len(values) != size else Window(values, oldest)


class MovingAverageTransform:
    """Adds the mean field; a record without a key is refused."""

    def __init__(self, spec: MovingAverage, state: KeyedState[Window]) -> None:
        self._spec = spec
        self._state = state

    def apply(self, rows: Rows) -> None:
        """Add the mean to every row, in order."""
        if None in rows.keys:
            refuse(rows, [key is not None for key in rows.keys], "no-key", lambda _: "a moving average needs a key")
        numbers = rows.numbers(self._spec.field)
        rows.add(self._spec.output, self._means(rows.keys, numbers))  # type: ignore[arg-type]

    def _means(self, keys: list[bytes], numbers: Sequence[float]) -> list[float]:
        size = self._spec.window
        live, load, changed = self._state.live.get, self._state.load, self._state.changed
        means: list[float] = []
        add = means.append
        for key, number in zip(keys, numbers, strict=True):
            window = live(key) or load(key)
            values = window.values
            count = len(values)
            if count == size:
                place = window.next
                values[place] = number
                place += 1
                window.next = place if place < size else 0
            else:
                values.append(number)
                count += 1
            if not window.changed:
                window.changed = True
                changed.append((key, window))
            add(sum(values) / count)
        return means
