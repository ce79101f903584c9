"""Before the operator is uninstalled: Pipelines are let go, so that none waits for an operator that is no more.

The working operator would take hold of them again, so its Lease is taken from it first; it ends, and its successor waits.
"""

import asyncio

import structlog

from forebay.pipeline.names import FINALIZER
from forebay.planning import objects
from forebay_operator.api import PIPELINES, Api, NotFound
from forebay_operator.leading import GIVE_UP_S, Lease
from forebay_operator.settings import OperatorSettings

log = structlog.get_logger()


async def release(settings: OperatorSettings) -> None:
    """Take the Lease, wait until nobody can still be working, and remove our finalizer from every Pipeline."""
    api = await Api.connect()
    try:
        await Lease(api, settings.namespace, settings.lease, settings.identity).seize()
        await asyncio.sleep(GIVE_UP_S)
        for namespace in settings.namespaces or (None,):
            for pipeline in await api.list_all(PIPELINES, namespace):
                await _let_go(api, pipeline["metadata"]["namespace"], pipeline["metadata"]["name"])
    finally:
        await api.close()


async def _let_go(api: Api, namespace: str, name: str) -> None:
    try:
        pipeline = await api.get(PIPELINES, namespace, name)
        if FINALIZER in pipeline["metadata"].get("finalizers", ()):
            await api.patch(PIPELINES, namespace, name, objects.finalizers_patch(pipeline, is_held=False))
            log.info("let go", namespace=namespace, pipeline=name)
    except NotFound:
        log.info("is gone already", namespace=namespace, pipeline=name)
