"""How long something that should go on stood still."""

import threading
import time
from collections.abc import Callable

EVERY_S = 0.05


class Pauses(threading.Thread):
    """The longest time in which a count did not grow, from its first growth on; as a context manager."""

    def __init__(self, count: Callable[[], float]) -> None:
        super().__init__(daemon=True)
        self._count = count
        self._ended = threading.Event()
        self._longest_s = 0.0

    def run(self) -> None:
        last, since = self._count(), None
        while not self._ended.wait(EVERY_S):
            now, value = time.monotonic(), self._count()
            if value > last:
                self._grew(now, since)
                last, since = value, now
        self._grew(time.monotonic(), since)

    def _grew(self, now: float, since: float | None) -> None:
        if since is not None:
            self._longest_s = max(self._longest_s, now - since)

    def end(self) -> float:
        """The longest pause in seconds, the one that lasts until now included."""
        self._ended.set()
        self.join()
        return self._longest_s

    def __enter__(self) -> "Pauses":
        self.start()
        return self

    def __exit__(self, *_rest) -> None:
        self._ended.set()
