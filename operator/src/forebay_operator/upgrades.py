"""A new version of the operator may render Pipelines anew. Only a few at a time may roll out, and a bad one stops the rest."""

from typing import Generic, TypeVar

AT_A_TIME = 5
PATIENCE_S = 300.0
"""A Pipeline that is not ready so long after it was rendered anew stops the others."""

_K = TypeVar("_K")


class Upgrades(Generic[_K]):
    """Who may roll out now. Times are in seconds and only differences matter."""

    def __init__(self) -> None:
        self._since: dict[_K, float] = {}

    def admits(self, key: _K, now: float) -> bool:
        """Whether this Pipeline may be rendered anew now; it counts as under way from then on."""
        if key in self._since:
            return True
        if len(self._since) >= AT_A_TIME or self.is_stopped(now):
            return False
        self._since[key] = now
        return True

    def is_stopped(self, now: float) -> bool:
        """Whether one did not become ready."""
        return any(now - since > PATIENCE_S for since in self._since.values())

    def settled(self, key: _K) -> None:
        """The Pipeline is ready, or gone, or its user changed it."""
        self._since.pop(key, None)
