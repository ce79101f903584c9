"""The round over one Pipeline: observe, plan, act, report. Whatever woke it, it looks at everything anew."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog

from forebay.errors import ForebayError, InvalidPipeline
from forebay.pipeline.load import load_object
from forebay.pipeline.spec import Pipeline
from forebay.planning import claims, reconciling, reporting
from forebay.planning.claims import Claimant
from forebay.planning.pods import Trouble
from forebay.planning.reconciling import Apply, Observation, Plan, Remove
from forebay.planning.reporting import Report
from forebay_operator import metrics
from forebay_operator.act import Actor, Outcome
from forebay_operator.api import PIPELINES, NotFound
from forebay_operator.credentials import secrets_of
from forebay_operator.memory import Memory
from forebay_operator.observe import Sources, identify, observe
from forebay_operator.pending import Pending
from forebay_operator.upgrades import Upgrades
from forebay_operator.world import Key

log = structlog.get_logger()

_AFTER_STEPS_S = (0.2, 0.5, 1.0, 2.0, 5.0, 15.0)
"""A plan is looked at again soon after its steps were taken; ever less soon while it does not come to rest."""
_AFTER_FAILURE_S = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
_UPGRADE_WAITS_S = 10.0
_SHORTLY_S = 5.0
"""Pods are asked so often which user they have, while a former one waits for them, and what a late one waits for."""
_SOON_S = 0.2


@dataclass(slots=True)
class Parsed:
    """A Pipeline object read into the models, or what is wrong with it."""

    version: tuple[str, bytes]
    """uid and digest of the spec"""
    pipeline: Pipeline | None
    problems: tuple[str, ...]
    claim: Claimant | None


class Reconciler:
    """Works through what is pending."""

    def __init__(self, sources: Sources, actor: Actor, pending: Pending[Key], resync_s: float) -> None:
        self._sources = sources
        self._actor = actor
        self._pending = pending
        self._resync_s = resync_s
        self._memories: dict[Key, Memory] = {}
        self._parsed: dict[Key, Parsed] = {}
        self._restless: dict[Key, int] = {}
        self._failures: dict[Key, int] = {}
        self._ready: dict[Key, bool] = {}
        self._conflicting: set[Key] = set()
        self._upgrades: Upgrades[Key] = Upgrades()
        self._claimants = sources.claimants

    async def work(self) -> None:
        """For ever: one Pipeline after the other."""
        while True:
            key = await self._pending.take()
            try:
                with metrics.RECONCILE_SECONDS.time():
                    delay_s = await self._round(key)
                metrics.RECONCILES.labels("done").inc()
                self._failures.pop(key, None)
            except ForebayError as error:
                delay_s = self._failed(key)
                log.warning("round failed", namespace=key[0], pipeline=key[1], error=str(error))
            except Exception:
                delay_s = self._failed(key)
                log.exception("round failed in a way that nobody thought of", namespace=key[0], pipeline=key[1])
            finally:
                self._pending.done(key)
            if delay_s is not None:
                self._pending.add_later(key, delay_s)

    def _failed(self, key: Key) -> float:
        metrics.RECONCILES.labels("failed").inc()
        count = self._failures[key] = self._failures.get(key, 0) + 1
        return _AFTER_FAILURE_S[min(count, len(_AFTER_FAILURE_S)) - 1]

    def users_of(self, namespace: str, secret: str) -> list[Key]:
        """The Pipelines that name a Secret."""
        return [
            key
            for key, parsed in self._parsed.items()
            if key[0] == namespace and parsed.pipeline is not None and secret in secrets_of(parsed.pipeline)
        ]

    async def _round(self, key: Key) -> float | None:
        """One look; the seconds until the next, None when there is nothing left to look at."""
        self._read_all()
        body = self._sources.world.pipeline(key)
        if body is None:
            self._let_go(key)
            return None
        memory = self._memories.get(key)
        if memory is None or memory.uid != body["metadata"]["uid"]:
            self._sources.measuring.forget(key)
            metrics.forget_credentials(key)
            memory = self._memories[key] = Memory(
                uid=body["metadata"]["uid"], fingerprints={}, written_at=asyncio.get_running_loop().time()
            )
        parsed = self._parsed[key]
        if "deletionTimestamp" in body["metadata"]:
            return await self._see_off(key, body, parsed.pipeline, memory)
        if parsed.pipeline is None:
            await self._tell(key, body, reporting.invalid(body["metadata"]["generation"], parsed.problems), memory)
            return self._resync_s
        return await self._look_after(key, body, parsed.pipeline, memory)

    async def _look_after(self, key: Key, body: Mapping[str, Any], pipeline: Pipeline, memory: Memory) -> float:
        now = time.time()
        seen = await observe(pipeline, body, memory, self._sources, now)
        plan = reconciling.plan(pipeline, seen)
        plan, is_held_back = await self._paced(key, body, plan)
        outcome = await self._actor.act(plan.steps, pipeline, body, memory)
        if plan.conflicts:
            self._conflicting.add(key)
        else:
            self._conflicting.discard(key)
        memory.shown = reporting.steady(memory.shown, self._sources.measuring.figures(key))
        memory.told = reporting.told_before(memory.told, plan.verdicts, memory.shown)
        report = reporting.report(
            pipeline,
            seen,
            replace(plan, verdicts={stage: told.wanted for stage, told in memory.told.items()}),
            generation=body["metadata"]["generation"],
            figures=memory.shown,
            now=now,
            failure=outcome.failure,
        )
        if report.is_ready and not is_held_back:
            self._upgrades.settled(key)
        report = reporting.upgraded(report, self._upgrades.since(key))
        for stage, verdict in plan.verdicts.items():
            metrics.REPLICAS.labels(*key, stage).set(verdict.replicas)
        await self._tell(key, body, report, memory)
        return _UPGRADE_WAITS_S if is_held_back else self._next(key, seen, plan, outcome)

    async def _see_off(self, key: Key, body: Mapping[str, Any], pipeline: Pipeline | None, memory: Memory) -> float:
        now = time.time()
        if pipeline is not None:
            seen = await observe(pipeline, body, memory, self._sources, now)
        else:
            trouble = Trouble("Invalid", "its spec cannot be read, and so not which Kafka it used")
            seen = Observation(identity=identify(body, now), topics=trouble)
        plan = reconciling.farewell(pipeline, seen)
        outcome = await self._actor.act(plan.steps, pipeline, body, memory)
        if not any(isinstance(step, reconciling.Release) for step in outcome.done):
            await self._tell(key, body, reporting.leaving(body["metadata"]["generation"], plan), memory)
        return self._next(key, seen, plan, outcome)

    def _next(self, key: Key, seen: Observation, plan: Plan, outcome: Outcome) -> float:
        if outcome.failure is not None:
            return self._failed(key)
        if outcome.done:
            count = self._restless[key] = self._restless.get(key, 0) + 1
            return _AFTER_STEPS_S[min(count, len(_AFTER_STEPS_S)) - 1]
        self._restless.pop(key, None)
        if isinstance(seen.topics, Trouble) or isinstance(seen.logins, Trouble):
            return self._resync_s / 4
        is_starting = any(pod.is_starting and pod.waits is None for pod in seen.pods)
        soonest_s = min(self._resync_s, _SHORTLY_S) if plan.rotating or is_starting else self._resync_s
        return soonest_s if plan.due_s is None else min(soonest_s, max(plan.due_s - time.time(), _SOON_S))

    async def _paced(self, key: Key, body: Mapping[str, Any], plan: Plan) -> tuple[Plan, bool]:
        """Pipelines that are rendered anew without a change of theirs come a few at a time."""
        now = time.time()
        is_own_change = body.get("status", {}).get("observedGeneration") != body["metadata"]["generation"]
        is_upgrade = any(isinstance(step, Apply) and step.why == "changed" for step in plan.steps)
        if is_own_change:
            self._upgrades.settled(key)
        is_held_back = is_upgrade and not is_own_change and not await self._admitted(key, body, now)
        metrics.UPGRADING.labels("rolling").set(self._upgrades.rolling(now))
        metrics.UPGRADING.labels("waiting").set(self._upgrades.waiting)
        if not is_held_back:
            return plan, False
        kept = tuple(step for step in plan.steps if not isinstance(step, Apply | Remove))
        blocker = self._upgrades.blocker(now)
        return replace(plan, steps=kept, held=None if blocker is None else reporting.held(*blocker)), True

    async def _admitted(self, key: Key, body: Mapping[str, Any], now: float) -> bool:
        """Whether it may be rendered anew now, which is then recorded."""
        status = body.get("status", {})
        if not self._upgrades.admits(key, now, was_ready=reporting.is_ready(status)):
            return False
        if (since := self._upgrades.since(key)) is not None and reporting.upgraded_at(status) is None:
            written = await self._actor.api.patch(PIPELINES, *key, reporting.upgrade_patch(since), status=True)
            self._sources.world.see("Pipeline", written)
            log.info("rendered anew for a new version", namespace=key[0], pipeline=key[1])
        return True

    async def _tell(self, key: Key, body: Mapping[str, Any], report: Report, memory: Memory) -> None:
        """Write the status when it says something else, and an Event when readiness or its reason changed."""
        current = self._sources.world.pipeline(key) or body
        status = current.get("status", {})
        loop_time = asyncio.get_running_loop().time()
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")  # noqa: TID251 - IO: the status carries times
        patch = reporting.status_patch(status, report, now=now, written_s=loop_time - memory.written_at)
        self._ready[key] = report.is_ready
        self._count()
        if patch is None:
            return
        try:
            written = await self._actor.api.patch(PIPELINES, *key, patch, status=True)
        except NotFound:
            return  # it went away meanwhile
        metrics.STATUS_PATCHES.inc()
        self._sources.world.see("Pipeline", written)
        memory.written_at = loop_time
        before = {condition["type"]: condition for condition in status.get("conditions", ())}
        for condition in report.conditions:
            await self._actor.events.tell_condition(current, before.get(condition.type, {}), condition)

    def _read_all(self) -> None:
        """Read what is new among all Pipelines: claims on topics need every one."""
        for key, version in self._sources.world.pipelines().items():
            parsed = self._parsed.get(key)
            if parsed is None or parsed.version != version:
                body = self._sources.world.pipeline(key)
                assert body is not None  # noqa: S101 - it was named a moment ago
                if parsed is None and (since := reporting.upgraded_at(body.get("status", {}))) is not None:
                    self._upgrades.recalled(key, since)
                parsed = self._parsed[key] = _parsed(body, version)
                self._claimants.pop(key, None)
            if parsed.claim is not None and parsed.pipeline is not None:
                cluster = self._sources.connections.cluster_of(parsed.pipeline.spec.kafka)
                self._claimants[key] = replace(parsed.claim, cluster=cluster)

    def _let_go(self, key: Key) -> None:
        """The Pipeline is gone: forget it, and let those go on that it stood in the way of."""
        remembered: tuple[dict[Key, Any], ...] = (
            self._memories,
            self._parsed,
            self._restless,
            self._failures,
            self._ready,
        )
        for one in (*remembered, self._claimants):
            one.pop(key, None)
        self._sources.measuring.forget(key)
        self._sources.connections.forget(key)
        metrics.forget_credentials(key)
        self._upgrades.settled(key)
        self._conflicting.discard(key)
        self._count()
        for other in self._conflicting:
            self._pending.add(other)

    def _count(self) -> None:
        ready = sum(self._ready.values())
        metrics.PIPELINES.labels("true").set(ready)
        metrics.PIPELINES.labels("false").set(len(self._ready) - ready)


def _parsed(body: Mapping[str, Any], version: tuple[str, bytes]) -> Parsed:
    metadata = body["metadata"]
    try:
        pipeline = load_object(
            {name: body[name] for name in ("apiVersion", "kind", "metadata", "spec") if name in body}
        )
    except InvalidPipeline as error:
        return Parsed(version, None, error.problems, None)
    claim = claims.claimant(pipeline, created=metadata["creationTimestamp"], uid=metadata["uid"], cluster="")
    return Parsed(version, pipeline, (), claim)
