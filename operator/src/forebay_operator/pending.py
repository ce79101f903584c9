"""Which Pipelines to look at next: each at most once in line, and never by two workers at the same time."""

import asyncio
import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)


class Pending(Generic[_K]):
    """A queue of keys. A key that is added while it is worked on comes back when that is done."""

    def __init__(self) -> None:
        self._ready: dict[_K, float] = {}
        self._working: dict[_K, float] = {}
        self._again: dict[_K, float] = {}
        self._later: list[tuple[float, int, _K]] = []
        self._due: dict[_K, float] = {}
        self._count = 0
        self._changed = asyncio.Event()

    def add(self, key: _K) -> None:
        """Look at it as soon as possible."""
        now = asyncio.get_running_loop().time()
        if key in self._working:
            self._again.setdefault(key, now)
        else:
            self._ready.setdefault(key, now)
        self._changed.set()

    def add_later(self, key: _K, delay_s: float) -> None:
        """Look at it after a while, unless something happens earlier; the nearest time counts."""
        at = asyncio.get_running_loop().time() + delay_s
        if at < self._due.get(key, float("inf")):
            self._due[key] = at
            self._count += 1
            heapq.heappush(self._later, (at, self._count, key))
            self._changed.set()

    async def take(self) -> _K:
        """The next key; waits for one. It is the caller's until `done`."""
        while True:
            wait_s = self._wake()
            if self._ready:
                key = next(iter(self._ready))
                self._working[key] = self._ready.pop(key)
                self._due.pop(key, None)
                return key
            self._changed.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def done(self, key: _K) -> None:
        """The caller has finished with the key."""
        self._working.pop(key, None)
        if (since := self._again.pop(key, None)) is not None:
            self._ready[key] = since
            self._changed.set()

    def oldest_s(self) -> float:
        """How long the oldest key has been waiting or worked on."""
        started = [*self._ready.values(), *self._working.values(), *self._again.values()]
        return asyncio.get_running_loop().time() - min(started) if started else 0.0

    def _wake(self) -> float | None:
        """Bring in what is due; seconds until the next, None when nothing is planned."""
        now = asyncio.get_running_loop().time()
        while self._later:
            at, _, key = self._later[0]
            if self._due.get(key) != at:  # it was looked at meanwhile, or is planned for another time
                heapq.heappop(self._later)
                continue
            if at > now:
                return at - now
            heapq.heappop(self._later)
            del self._due[key]
            self.add(key)
        return None
