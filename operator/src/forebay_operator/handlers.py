"""What kopf watches, and what each event wakes. Nothing is decided here.

Indices are filled from every listing before any event is handled, so the world is whole when the first Pipeline is looked
at. There are no change handlers, timers or daemons: those would put a finalizer on every Pipeline, and copies of Secrets
into annotations.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import kopf

from forebay.pipeline.names import PIPELINE_LABEL
from forebay_operator.api import APPLIED, PIPELINES, PODS, SECRETS, Resource
from forebay_operator.canary import Canary
from forebay_operator.pending import Pending
from forebay_operator.reconcile import Reconciler
from forebay_operator.world import Key, World

LABELLED: tuple[Resource, ...] = (*APPLIED, PODS)


def registry(
    world: World, pending: Pending[Key], reconciler: Reconciler, canary: Canary, stopping: asyncio.Event
) -> kopf.OperatorRegistry:
    """The handlers, bound to what they feed. `stopping` is set when kopf was told to stop: signals reach it alone."""
    made = kopf.OperatorRegistry()

    @kopf.on.login(registry=made)
    async def log_in(**arguments: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)

    @kopf.on.cleanup(registry=made)
    async def stop(**_: Any) -> None:
        stopping.set()

    for resource in (PIPELINES, SECRETS, *LABELLED):
        _feed(made, resource, world, canary)

    @kopf.on.event(*_place(PIPELINES), registry=made)
    async def on_pipeline(namespace: str | None, name: str | None, type: str | None, **_: Any) -> None:  # noqa: A002 - kopf's name
        if type == "DELETED":
            world.forget("Pipeline", namespace or "", name or "")
        pending.add((namespace or "", name or ""))

    @kopf.on.event(*_place(SECRETS), registry=made)
    async def on_secret(namespace: str | None, name: str | None, type: str | None, **_: Any) -> None:  # noqa: A002
        if type == "DELETED":
            world.forget("Secret", namespace or "", name or "")
        for key in reconciler.users_of(namespace or "", name or ""):
            pending.add(key)

    for resource in LABELLED:
        _wake(made, resource, world, pending)
    return made


def _feed(made: kopf.OperatorRegistry, resource: Resource, world: World, canary: Canary) -> None:
    @kopf.index(*_place(resource), registry=made, id=f"feed-{resource.plural}")
    async def feed(body: kopf.Body, **_: Any) -> None:
        canary.hear(resource.kind, body)
        world.see(resource.kind, body)


def _wake(made: kopf.OperatorRegistry, resource: Resource, world: World, pending: Pending[Key]) -> None:
    @kopf.on.event(*_place(resource), registry=made, id=f"wake-{resource.plural}")
    async def wake(
        namespace: str | None,
        name: str | None,
        labels: Mapping[str, str],
        type: str | None,  # noqa: A002 - kopf's name
        **_: Any,
    ) -> None:
        if type == "DELETED":
            world.forget(resource.kind, namespace or "", name or "")
        if owner := labels.get(PIPELINE_LABEL):
            pending.add((namespace or "", owner))


def _place(resource: Resource) -> tuple[str, str, str]:
    return resource.group, resource.version, resource.plural


def settings() -> kopf.OperatorSettings:
    """Kopf's settings, with reasons where they are not its defaults."""
    made = kopf.OperatorSettings()
    made.peering.standalone = True  # a Lease decides who works
    made.persistence.finalizer = "forebay.dev/kopf"  # never used: there is no handler that would add it
    made.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix="forebay.dev")
    made.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix="forebay.dev", key="last-handled")
    made.networking.connect_timeout = 10
    made.networking.request_timeout = 45
    made.networking.error_backoffs = [1, 2, 5, 10, 20, 30, 30]  # ends: kopf retries a missing right too
    made.watching.server_timeout = 300
    made.watching.client_timeout = 330
    made.watching.chunk_size = 500
    for resource in LABELLED:
        made.watching.label_selectors[_place(resource)] = PIPELINE_LABEL
    made.queueing.exit_timeout = 20
    made.posting.enabled = False  # Events are written by `events`, in the words of the plan
    made.posting.level = logging.CRITICAL
    made.scanning.disabled = True  # what is watched does not change, and looking for it takes rights over the cluster
    return made
