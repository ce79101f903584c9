"""The operator's process: probes at once, the Lease, then everything that works, until one of it ends or it is told to."""

import asyncio
import logging
import signal
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

import kopf
import structlog

from forebay.errors import Fatal, ForebayError, Refused
from forebay.pipeline.names import PIPELINE_LABEL
from forebay.runtime import logs
from forebay.runtime.health import Health, serve
from forebay_operator import handlers, metrics
from forebay_operator.act import Actor
from forebay_operator.api import APPLIED, PIPELINES, PODS, SECRETS, Api, NotFound
from forebay_operator.canary import Canary
from forebay_operator.connections import Connections
from forebay_operator.credentials import Judge
from forebay_operator.events import Events
from forebay_operator.leading import Lease
from forebay_operator.logins import Keeper
from forebay_operator.measuring import Measuring
from forebay_operator.observe import Sources
from forebay_operator.pending import Pending
from forebay_operator.reconcile import Reconciler
from forebay_operator.releasing import release
from forebay_operator.rendering import Renderer
from forebay_operator.settings import OperatorSettings, from_environment
from forebay_operator.world import Key, World

log = structlog.get_logger()

FAILED = 1
WRONG_USAGE = 2
REFUSED = 78
_STUCK_AFTER_S = 30.0
"""Objects that vanished while a watch was interrupted are missed by kopf; a listing finds them out."""


def main(arguments: Sequence[str]) -> int:
    """Run the operator; with the argument `release`, let all Pipelines go instead.

    Exit code: 0 when told to stop, 78 when only a person can help, 2 for wrong arguments, 1 otherwise.
    """
    if arguments not in ([], ["release"]):
        print("usage: forebay_operator [release]", file=sys.stderr)  # noqa: T201 - a usage line is no log
        return WRONG_USAGE
    logs.configure(json=None, level="info")
    try:
        settings = from_environment()
        logs.configure(
            json=None if settings.log_format is None else settings.log_format == "json", level=settings.log_level
        )
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
        asyncio.run(release(settings) if arguments else run(settings))
    except Refused as error:
        log.error("refused", reason=str(error))  # noqa: TRY400 - the sentence is enough
        return REFUSED
    except ForebayError as error:
        log.error("ends", reason=str(error))  # noqa: TRY400
        return FAILED
    return 0


async def run(settings: OperatorSettings, stop: asyncio.Event | None = None) -> None:
    """Work until `stop` is set or a signal comes; Fatal when a part ended that must not."""
    health = Health(_STUCK_AFTER_S)
    port = serve(health, host=settings.http_host, port=settings.http_port)
    log.info("serving probes and metrics", port=port)
    stopping = stop or _on_signals()
    api = await Api.connect(managed_users=settings.managed_users)
    lease = Lease(api, settings.namespace, settings.lease, settings.identity)
    canary = Canary(settings.namespaces[0] if settings.namespaces else settings.namespace)
    beating = asyncio.create_task(_beat(health, canary), name="beat")
    try:
        if settings.elect and not await _unless(stopping, lease.acquire()):
            return
        health.ready()
        await _work(settings, api, lease, canary, stopping)
    finally:
        beating.cancel()
        if settings.elect:
            await lease.release()
        await api.close()


async def _work(settings: OperatorSettings, api: Api, lease: Lease, canary: Canary, stopping: asyncio.Event) -> None:
    await _check(api, settings.namespaces)
    world, pending = World(), Pending[Key]()
    connections = Connections(api, world)
    measuring = Measuring(connections, world, pending, settings.measure_s)
    renderer = Renderer(
        helm=settings.helm,
        chart=settings.chart,
        images=settings.images,
        pod_defaults=settings.pod_defaults,
        kubernetes=await api.version(),
    )
    logins = Keeper(api, world, connections, is_allowed=settings.managed_users)
    sources = Sources(world, connections, Judge(api, world), logins, renderer, measuring, {})
    actor = Actor(api, world, connections, logins, Events(api, settings.identity))
    reconciler = Reconciler(sources, actor, pending, settings.resync_s)
    parts: dict[str, Coroutine[Any, Any, None]] = {
        "watches": kopf.operator(
            registry=handlers.registry(world, pending, reconciler, canary, stopping),
            settings=handlers.settings(),
            namespaces=settings.namespaces,
            clusterwide=not settings.namespaces,
            standalone=True,
            identity=settings.identity,  # type: ignore[arg-type]  # else kopf asks for the user's name, which a pod has not
            stop_flag=stopping,
        ),
        "measuring": measuring.run(),
        "canary": canary.sing(api),
        "relisting": _relist(api, world, pending, settings),
        "gauges": _gauge(pending),
        **{f"worker {number}": reconciler.work() for number in range(settings.workers)},
    }
    if settings.elect:
        parts["lease"] = lease.keep()
    tasks = [asyncio.create_task(part, name=name) for name, part in parts.items()]
    waiting = asyncio.create_task(stopping.wait(), name="stop")
    try:
        done, _ = await asyncio.wait([*tasks, waiting], return_when=asyncio.FIRST_COMPLETED)
        _explain(done - {waiting}, is_wanted=stopping.is_set())
    finally:
        for task in (*tasks, waiting):
            task.cancel()
        await asyncio.gather(*tasks, waiting, return_exceptions=True)
        connections.close()


async def _check(api: Api, namespaces: tuple[str, ...]) -> None:
    """Everything can be listed: a right or a definition that is missing is told now, and not by silence."""
    for namespace in namespaces or (None,):
        for resource in (PIPELINES, SECRETS, *handlers.LABELLED):
            try:
                await api.list_all(resource, namespace, selector="forebay.dev/none" if resource != PIPELINES else "")
            except NotFound as error:
                raise Fatal("this cluster knows no Pipelines: install the CustomResourceDefinition") from error


def _explain(done: set[asyncio.Task[Any]], *, is_wanted: bool) -> None:
    """A part that ends takes the process with it: a fresh one is better than half of an old one."""
    for task in done:
        error = task.exception()
        if isinstance(error, ForebayError):
            raise error
        if error is not None or not is_wanted:
            raise Fatal(f"{task.get_name()} ended{f': {error}' if error else ''}") from error


async def _beat(health: Health, canary: Canary) -> None:
    loop = asyncio.get_running_loop()
    while True:
        if not canary.is_deaf:
            health.beat()
        before = loop.time()
        await asyncio.sleep(1)
        metrics.LOOP_LAG.set(max(0.0, loop.time() - before - 1))


async def _gauge(pending: Pending[Key]) -> None:
    while True:
        metrics.OLDEST_UNFINISHED.set(pending.oldest_s())
        await asyncio.sleep(5)


async def _relist(api: Api, world: World, pending: Pending[Key], settings: OperatorSettings) -> None:
    """Compare what is known with what there is, now and then."""
    while True:
        await asyncio.sleep(settings.relist_s)
        try:
            for namespace in settings.namespaces or (None,):
                for resource in (PIPELINES, SECRETS, PODS, *APPLIED):
                    selector = "" if resource in {PIPELINES, SECRETS} else PIPELINE_LABEL
                    before = world.names(resource.kind, namespace)
                    world.replace_all(resource.kind, before, await api.list_all(resource, namespace, selector=selector))
        except ForebayError as error:
            log.warning("not everything could be listed", error=str(error))
        for key in world.pipelines():
            pending.add(key)


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work unless told to stop first; whether it was done."""
    tasks = [asyncio.create_task(work), asyncio.create_task(stopping.wait())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return not stopping.is_set()


def _on_signals() -> asyncio.Event:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping
