"""Takes the steps of a plan, one after the other, and stops at the first that fails. Each may be repeated."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, assert_never

import structlog

from forebay.errors import ForebayError
from forebay.pipeline.spec import Pipeline
from forebay.planning import objects, reporting
from forebay.planning.credentials.rotation import Issue, RemoveLogin
from forebay.planning.credentials.users import AddAcls, DeleteUser, RememberUsers, RemoveAcls
from forebay.planning.reconciling import (
    Apply,
    DeleteTopics,
    Hold,
    Release,
    RememberTopics,
    Remove,
    ReplacePod,
    Scale,
    Step,
)
from forebay.planning.topics import AddPartitions, AlterConfig, CreateTopic
from forebay_operator import events, metrics
from forebay_operator.api import BY_KIND, PIPELINES, PODS, Api
from forebay_operator.connections import Connections
from forebay_operator.logins import Keeper
from forebay_operator.memory import Memory
from forebay_operator.observe import identify
from forebay_operator.world import World

log = structlog.get_logger()

_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a plan's steps."""

    done: tuple[Step, ...] = ()
    failure: str | None = None
    """Why the step after those could not be taken."""


@dataclass(frozen=True, slots=True)
class Actor:
    """What steps are taken with."""

    api: Api
    world: World
    connections: Connections
    logins: Keeper
    events: events.Events

    async def act(
        self, steps: Iterable[Step], pipeline: Pipeline | None, body: Mapping[str, Any], memory: Memory
    ) -> Outcome:
        """Take the steps.

        Args:
            steps: in order.
            pipeline: None when its spec cannot be read; the steps then need no Kafka.
            body: the Pipeline object.
            memory: what is remembered of it; kept up to date.
        """
        done: list[Step] = []
        where = {"namespace": body["metadata"]["namespace"], "pipeline": body["metadata"]["name"]}
        for step in steps:
            kind = type(step).__name__
            try:
                await self._take(step, pipeline, body, memory)
            except ForebayError as error:
                metrics.STEPS.labels(kind, "failed").inc()
                log.warning("step failed", step=str(step), error=str(error), **where)
                return Outcome(tuple(done), f"cannot {_briefly(step)}: {error}")
            metrics.STEPS.labels(kind, "done").inc()
            log.info("step", step=str(step), **where)
            await self.events.tell_step(body, step)
            done.append(step)
        return Outcome(tuple(done))

    async def _take(self, step: Step, pipeline: Pipeline | None, body: Mapping[str, Any], memory: Memory) -> None:
        namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
        match step:
            case CreateTopic() | AddPartitions() | AlterConfig() | DeleteTopics():
                memory.distrust_topics()
                admin = (await self.connections.to(_needed(pipeline))).admin
                if isinstance(step, DeleteTopics):
                    await self.connections.run(admin.delete_topics, step.names)
                else:
                    await self.connections.run(admin.apply, step)
            case Apply(manifest):
                applied = await self.api.apply(manifest.body, namespace)
                self.world.see(manifest.key.kind, applied)
                memory.fingerprints[manifest.key] = objects.fingerprint(manifest.body, applied)
            case Remove(key):
                await self.api.delete(BY_KIND[key.kind], namespace, key.name)
                self.world.forget(key.kind, namespace, key.name)
                memory.fingerprints.pop(key, None)
            case Scale(key, _, _, verdict):
                scaled = await self.api.scale(key.kind, namespace, key.name, verdict.replicas)
                self.world.see(key.kind, scaled)
            case ReplacePod(pod):
                await self.api.delete(PODS, namespace, pod)
                self.world.forget("Pod", namespace, pod)
            case RememberTopics() | RememberUsers():
                self.world.see("Pipeline", await self.api.patch(PIPELINES, namespace, name, _record(step), status=True))
            case AddAcls() | RemoveAcls() | DeleteUser() | Issue() | RemoveLogin():
                await self.logins.take(_needed(pipeline), identify(body, time.time()), step, memory)
            case Hold() | Release():
                current = await self.api.get(PIPELINES, namespace, name)
                patch = objects.finalizers_patch(current, is_held=isinstance(step, Hold))
                self.world.see("Pipeline", await self.api.patch(PIPELINES, namespace, name, patch))
            case _:
                assert_never(step)


def _record(step: RememberTopics | RememberUsers) -> dict[str, Any]:
    if isinstance(step, RememberTopics):
        return reporting.ledger_patch(step.topics)
    return reporting.users_patch(step.users)


def _briefly(step: Step) -> str:
    """A step that failed, without figures, which would be news at every attempt, and without lists that nobody reads."""
    match step:
        case Scale():
            return step.change
        case AddAcls(acls) | RemoveAcls(acls):
            given = "add" if isinstance(step, AddAcls) else "remove"
            return f"{given} {len(acls)} ACLs of {', '.join(sorted({acl.user for acl in acls})[:_MOST_NAMED])}"
        case _:
            return str(step)


def _needed(pipeline: Pipeline | None) -> Pipeline:
    if pipeline is None:  # without a spec no such step is planned
        raise AssertionError("a step of Kafka without a Pipeline")
    return pipeline
