"""Clients of Kafka's administration: one for each cluster and login, shared by all Pipelines that have both in common.

Their calls block, so they run in threads, a bounded number of them. Contents of Secrets are read when a client is made and
go straight into its properties; a Secret that changes gives another client.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from forebay.errors import ForebayError, LoginRefused, MissingSecret, Refused, Untrusted
from forebay.kafka import settings
from forebay.kafka.admin import Admin
from forebay.kafka.groups import GroupObserver
from forebay.pipeline.spec import Kafka, Pipeline
from forebay.planning import reporting
from forebay.planning.credentials import formats
from forebay.planning.pods import Trouble
from forebay_operator import credentials, metrics
from forebay_operator.api import Api
from forebay_operator.world import Key, World

_THREADS = 16
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Connection:
    """A way to one Kafka cluster."""

    admin: Admin
    properties: Mapping[str, Any]
    """librdkafka's; they hold credentials and are never shown."""
    cluster: str
    """The cluster's own id."""

    def __repr__(self) -> str:
        return f"Connection({self.cluster})"


class Connections:
    """Makes clients, and keeps them while a Pipeline needs them."""

    def __init__(self, api: Api, world: World) -> None:
        self._api = api
        self._world = world
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="kafka")
        self._known: dict[str, Connection] = {}
        self._needed: dict[Key, str] = {}
        """By Pipeline, which of those."""
        self._making: dict[str, asyncio.Lock] = {}
        self._clusters: dict[str, str] = {}
        self.groups = GroupObserver()

    async def to(self, pipeline: Pipeline) -> Connection:
        """The client for a Pipeline; MissingSecret, TryLater or Refused say why there is none."""
        key = self._key(pipeline)
        async with self._making.setdefault(key, asyncio.Lock()):
            if key not in self._known:
                self._known[key] = await self._made(pipeline)
        connection = self._known[key]
        self._clusters[pipeline.spec.kafka.bootstrap_servers] = connection.cluster
        self._needed[pipeline.metadata.namespace, pipeline.metadata.name] = key
        self._drop_unneeded()
        return connection

    def forget(self, pipeline: Key) -> None:
        """The Pipeline is gone."""
        self._needed.pop(pipeline, None)
        self._drop_unneeded()

    def _drop_unneeded(self) -> None:
        """A client ends with the last reference to it, so one that is just asked for something ends after the answer."""
        for key in self._known.keys() - self._needed.values():
            del self._known[key]
            self._making.pop(key, None)

    async def run(self, call: Callable[..., _T], *arguments: Any) -> _T:
        """A blocking call in one of the threads."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: call(*arguments))
        except ForebayError:
            metrics.KAFKA_ERRORS.labels("all").inc()
            raise

    def cluster_of(self, kafka: Kafka) -> str:
        """The id of a cluster that was reached before; until then its addresses stand for it."""
        return self._clusters.get(kafka.bootstrap_servers, kafka.bootstrap_servers)

    def close(self) -> None:
        """End threads and children."""
        self.groups.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _key(self, pipeline: Pipeline) -> str:
        namespace, kafka = pipeline.metadata.namespace, pipeline.spec.kafka
        secrets = {name: self._world.secret(namespace, name) for name in sorted(secret_names(kafka))}
        digests = {name: dict(found.digests) if found else None for name, found in secrets.items()}
        return hashlib.sha256(json.dumps([kafka.model_dump(mode="json"), digests]).encode()).hexdigest()

    async def _made(self, pipeline: Pipeline) -> Connection:
        namespace, kafka = pipeline.metadata.namespace, pipeline.spec.kafka
        secrets = {name: await self._secret(namespace, name) for name in sorted(secret_names(kafka))}
        known = {name: contents for name, contents in secrets.items() if contents is not None}
        properties = settings.admin_connection(kafka, known)
        admin = await self.run(Admin, properties)
        return Connection(admin, properties, await self.run(admin.cluster_id))

    async def _secret(self, namespace: str, name: str) -> dict[str, str] | None:
        contents = await credentials.read(self._api, namespace, name)
        return None if contents is None else {key: each.decode(errors="replace") for key, each in contents.items()}


def trouble(error: ForebayError, otherwise: str) -> Trouble:
    """Why Kafka could not be asked; `otherwise` is the reason where waiting may help."""
    match error:
        case MissingSecret():
            return Trouble("SecretMissing", str(error))
        case LoginRefused():
            return Trouble(reporting.LOGIN_REFUSED, str(error))
        case Untrusted():
            return Trouble(reporting.TLS_FAILS, str(error))
        case Refused():
            return Trouble("KafkaRefuses", str(error))
        case _:
            return Trouble(otherwise, str(error))


def secret_names(kafka: Kafka) -> frozenset[str]:
    """The Secrets that administration needs."""
    return frozenset(wanted.name for wanted in formats.wanted_for_kafka(kafka))
