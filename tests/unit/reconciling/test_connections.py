"""How long the operator keeps a client of Kafka: as long as a Pipeline needs it, and no longer."""

import asyncio
import gc
import weakref
from typing import Any

import pytest

from forebay.pipeline.spec import Pipeline
from forebay_operator import connections
from forebay_operator.connections import Connections
from forebay_operator.world import World


class Admin:
    """A client of a Kafka that answers."""

    def __init__(self, properties) -> None:
        self.servers = properties["bootstrap.servers"]
        OPEN.add(self)

    def cluster_id(self) -> str:
        return "cluster"


OPEN: weakref.WeakSet[Admin] = weakref.WeakSet()
"""Those that somebody holds."""


async def at_once(call, *arguments) -> Any:
    """Threads would hold an answer for a moment longer than who asked."""
    return call(*arguments)


def pipeline(name: str, servers: str) -> Pipeline:
    spec = {
        "kafka": {"bootstrapServers": servers},
        "topics": [{"name": "raw", "partitions": 1}],
        "sinks": [{"name": "store", "from": "raw", "destination": {"stdout": {}}}],
    }
    return Pipeline.model_validate({"metadata": {"name": name, "namespace": "shop"}, "spec": spec})


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(connections, "Admin", Admin)
    api: Any = None  # no Secret is read
    clients = Connections(api, World())
    monkeypatch.setattr(clients, "run", at_once)
    yield clients
    clients.close()


def clients_open() -> list[str]:
    return sorted(admin.servers for admin in OPEN)


def test_a_client_ends_with_the_last_pipeline_that_needs_it(known):
    async def scene():
        first, second = pipeline("first", "one:9092"), pipeline("second", "one:9092")
        assert (await known.to(first)) is (await known.to(second)) is (await known.to(first))
        await known.to(pipeline("first", "two:9092"))
        assert clients_open() == ["one:9092", "two:9092"]
        known.forget(("shop", "second"))
        assert clients_open() == ["two:9092"]
        known.forget(("shop", "first"))
        known.forget(("shop", "first"))

    gc.disable()  # a client must end without it
    try:
        asyncio.run(scene())
        assert clients_open() == []
    finally:
        gc.enable()


def test_a_client_that_is_asked_for_something_ends_after_the_answer(known):
    async def scene():
        asked = await known.to(pipeline("first", "one:9092"))
        known.forget(("shop", "first"))
        assert clients_open() == ["one:9092"]
        assert await known.run(asked.admin.cluster_id) == "cluster"

    asyncio.run(scene())
    assert clients_open() == []
