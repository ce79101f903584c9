"""A new version of the operator may render Pipelines anew. Only a few at a time may roll out, and a bad one stops the rest.

When those that were ready were rendered anew stands in their statuses, so that a restart of the operator lets no others go.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

AT_A_TIME = 5
PATIENCE_S = 300.0
"""A Pipeline that was ready, and is not so long after it was rendered anew, stops the others."""

_K = TypeVar("_K")


@dataclass(frozen=True, slots=True)
class _Begun:
    at: float
    was_ready: bool
    """One that was not says nothing about the new version, and only takes a place for a while."""


class Upgrades(Generic[_K]):
    """Who may roll out now. Times are in epoch seconds."""

    def __init__(self) -> None:
        self._begun: dict[_K, _Begun] = {}
        self._waiting: set[_K] = set()

    def admits(self, key: _K, now: float, *, was_ready: bool) -> bool:
        """Whether this Pipeline may be rendered anew now; it counts as under way from then on."""
        if key not in self._begun:
            if self.rolling(now) >= AT_A_TIME or self.blocker(now) is not None:
                self._waiting.add(key)
                return False
            self._begun[key] = _Begun(now, was_ready)
        self._waiting.discard(key)
        return True

    def recalled(self, key: _K, at: float) -> None:
        """A Pipeline that was ready was rendered anew at that time, by an operator that is gone."""
        self._begun[key] = _Begun(at, was_ready=True)

    def rolling(self, now: float) -> int:
        """How many are under way."""
        return sum(begun.was_ready or now - begun.at <= PATIENCE_S for begun in self._begun.values())

    @property
    def waiting(self) -> int:
        """How many wait for others."""
        return len(self._waiting)

    def blocker(self, now: float) -> _K | None:
        """Of those that did not become ready again, the one that was rendered anew first."""
        late = [
            (begun.at, key) for key, begun in self._begun.items() if begun.was_ready and now - begun.at > PATIENCE_S
        ]
        return min(late)[1] if late else None

    def since(self, key: _K) -> float | None:
        """When a Pipeline that was ready was rendered anew, None where that is over."""
        begun = self._begun.get(key)
        return begun.at if begun is not None and begun.was_ready else None

    def settled(self, key: _K) -> None:
        """The Pipeline is ready, or gone, or its user changed it."""
        self._begun.pop(key, None)
        self._waiting.discard(key)
