"""The canary tells a watch that is deaf from one that is quick, and from an API server that does not answer."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from forebay.errors import TryLater
from forebay_operator import canary as module
from forebay_operator.canary import DEAF_AFTER_S, EVERY_S, Canary


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_800_000_000.0 + self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class Server:
    """Takes the canary's changes, and tells of each before it answers, after it has, or never."""

    def __init__(self, canary: Canary, clock: Clock, how: str, beats: int) -> None:
        self.canary, self.clock, self.how, self.left = canary, clock, how, beats
        self.told: list[Mapping[str, Any]] = []

    async def apply(self, body: dict[str, Any], namespace: str) -> dict[str, Any]:
        for late in self.told:
            self.canary.hear("ConfigMap", late)
        self.told.clear()
        self.left -= 1
        if self.left < 0:
            raise asyncio.CancelledError
        if self.how == "no answer":
            raise TryLater("no answer")
        event = {**body, "metadata": {**body["metadata"], "namespace": namespace}}
        if self.how == "at once":
            self.canary.hear("ConfigMap", event)
        elif self.how == "later":
            self.told.append(event)
        return body


@pytest.mark.parametrize(
    ("how", "is_deaf"), [("at once", False), ("later", False), ("never", True), ("no answer", False)]
)
def test_only_a_change_that_was_taken_and_never_told_of_is_deafness(monkeypatch, how, is_deaf):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module.asyncio, "sleep", clock.sleep)
    canary = Canary("shop")
    server = Server(canary, clock, how, beats=2 + int(2 * DEAF_AFTER_S / EVERY_S))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(canary.sing(server))  # type: ignore[arg-type]

    assert canary.is_deaf is is_deaf
