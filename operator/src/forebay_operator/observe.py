"""Every read of a round over a Pipeline, in parallel. What cannot be read becomes a Trouble, never a guess."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from http import HTTPStatus
from typing import Any

from forebay.errors import ForebayError
from forebay.pipeline import names
from forebay.pipeline.spec import Pipeline, Workloads
from forebay.planning import claims, objects, pods, reporting, topics
from forebay.planning.credentials.checks import Problem
from forebay.planning.objects import Manifest, Owner
from forebay.planning.pods import PodState, Trouble
from forebay.planning.reconciling import Identity, Observation
from forebay_operator import metrics
from forebay_operator.asking import ask
from forebay_operator.connections import Connections, trouble
from forebay_operator.credentials import Judge
from forebay_operator.logins import Keeper
from forebay_operator.measuring import Measuring, Subject
from forebay_operator.memory import Memory
from forebay_operator.rendering import Renderer
from forebay_operator.world import Key, World

TOPICS_AGE_S = 55.0
"""Topics are described anew when what is known is older, and after every change of the Pipeline."""
_MOST_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Sources:
    """Where everything is read from."""

    world: World
    connections: Connections
    judge: Judge
    logins: Keeper
    renderer: Renderer
    measuring: Measuring
    claimants: dict[Key, claims.Claimant]
    """All Pipelines that are known, with what they manage."""


async def observe(
    pipeline: Pipeline, body: Mapping[str, Any], memory: Memory, sources: Sources, now: float
) -> Observation:
    """Everything that the plan for a Pipeline looks at."""
    identity = identify(body, now)
    key = (pipeline.metadata.namespace, pipeline.metadata.name)
    observed, logins, manifests, problems = await asyncio.gather(
        _topics(pipeline, body, memory, sources, identity),
        sources.logins.look(pipeline, memory, identity, body["metadata"]["generation"], now),
        _manifests(pipeline, sources, identity),
        _secrets(pipeline, memory, sources, identity, now),
    )
    members = list(sources.world.members(key))
    states = [pods.read(member) for member in members if member["kind"] == "Pod" and not pods.has_ended(member)]
    own = sources.claimants.get(key)
    others = (claimant for other, claimant in sources.claimants.items() if other != key)
    return Observation(
        identity=identity,
        topics=observed,
        claims=claims.older_claims(own, others) if own is not None else {},
        secrets=problems,
        logins=logins,
        manifests=manifests,
        live=tuple(member for member in members if member["kind"] != "Pod"),
        remembered=dict(memory.fingerprints),
        pods=tuple(await _with_waits(states, memory, now)),
        decided=sources.measuring.decided(key),
        lasting=sources.measuring.lasting(key),
    )


def identify(body: Mapping[str, Any], now: float) -> Identity:
    """What the Pipeline object says beside its spec."""
    metadata, status = body["metadata"], body.get("status", {})
    deleted = metadata.get("deletionTimestamp")
    return Identity(
        owner=Owner(metadata["name"], metadata["uid"]),
        annotations=metadata.get("annotations", {}),
        has_finalizer=names.FINALIZER in metadata.get("finalizers", ()),
        deleted_for_s=now - datetime.fromisoformat(deleted).timestamp() if deleted else None,
        topics=reporting.ledger(status),
        users=reporting.users_recorded(status),
        scaling=reporting.scaling_kept(status),
    )


async def _with_waits(states: list[PodState], memory: Memory, now: float) -> list[PodState]:
    """Pods that are long not ready know why, and are asked."""
    late = [state for state in states if state.is_late(now)]
    if not late:
        memory.waits = {}
        return states
    answers = await ask((state.address for state in late), "/readyz", most_bytes=_MOST_BYTES)
    memory.waits = {
        state.name: pods.in_words(answer.text, memory.waits.get(state.name))
        for state, answer in zip(late, answers, strict=True)
        if answer is not None and answer.status == HTTPStatus.SERVICE_UNAVAILABLE
    }
    return [replace(state, waits=memory.waits.get(state.name)) for state in states]


async def _topics(
    pipeline: Pipeline, body: Mapping[str, Any], memory: Memory, sources: Sources, identity: Identity
) -> topics.Observed | Trouble:
    key = (pipeline.metadata.namespace, pipeline.metadata.name)
    generation = body["metadata"]["generation"]
    try:
        connection = await sources.connections.to(pipeline)
        is_known = memory.known_topics is not None and memory.topics_generation == generation
        if not is_known or time.monotonic() - memory.topics_at > TOPICS_AGE_S:
            wanted = {*topics.names_of(pipeline), *identity.topics}
            memory.known_topics = await sources.connections.run(connection.admin.observe, sorted(wanted))
            memory.topics_at, memory.topics_generation = time.monotonic(), generation
    except ForebayError as error:
        memory.distrust_topics()
        sources.measuring.lose(key)
        return trouble(error, "KafkaUnreachable")
    assert memory.known_topics is not None  # noqa: S101 - read above
    subject = Subject(pipeline, connection, memory.known_topics, identity.is_paused, identity.scaling)
    sources.measuring.track(key, subject)
    return memory.known_topics


async def _manifests(pipeline: Pipeline, sources: Sources, identity: Identity) -> tuple[Manifest, ...] | Trouble:
    if pipeline.spec.workloads is Workloads.EXTERNAL or identity.deleted_for_s is not None:
        return ()
    try:
        return objects.prepare(await sources.renderer.render(pipeline), identity.owner)
    except ForebayError as error:
        return Trouble("ChartRefuses", str(error))


async def _secrets(
    pipeline: Pipeline, memory: Memory, sources: Sources, identity: Identity, now: float
) -> tuple[Problem, ...] | Trouble:
    """What is wrong with the Secrets; on the way, metrics tell when their certificates expire."""
    if identity.deleted_for_s is not None:
        return ()
    try:
        verdicts = await sources.judge.verdicts(pipeline, now)
    except ForebayError as error:
        return Trouble("SecretsUnreadable", str(error))
    expiries = {
        (wanted.name, key): end.timestamp() for wanted, verdict in verdicts.items() for key, end in verdict.ends.items()
    }
    if expiries != memory.expiries:
        metrics.show_expiries((pipeline.metadata.namespace, pipeline.metadata.name), expiries)
        memory.expiries = expiries
    return tuple(problem for verdict in verdicts.values() for problem in verdict.problems)
