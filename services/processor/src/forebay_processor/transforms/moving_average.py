"""The mean of each key's last values.

The sum of a window is computed anew for every record: the mean depends on nothing but the values in the window, cannot
drift however long a key lives, and an absurd reading leaves no trace once it has left.
"""

from forebay.pipeline.spec import MovingAverage
from forebay_processor.rows import Rows, refuse
from forebay_processor.transforms.windows import Windows


class MovingAverageTransform:
    """Adds the mean field; a record without a key is refused."""

    def __init__(self, spec: MovingAverage, windows: Windows) -> None:
        self._spec = spec
        self._windows = windows

    def apply(self, rows: Rows) -> None:
        """Add the mean to every row, in order."""
        if None in rows.keys:
            refuse(rows, [key is not None for key in rows.keys], "no-key", lambda _: "a moving average needs a key")
        numbers = rows.numbers(self._spec.field)
        rows.add(self._spec.output, self._windows.means(rows.keys, numbers))  # type: ignore[arg-type]
