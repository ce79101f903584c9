"""Managed users: reads what there is of them, and takes the steps that are about them.

A password exists in the answer of `Users.issue` and in the body of one request, nowhere else: no error, line or Event is made of
what holds it.
"""

import asyncio
import base64
import time
from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from forebay.errors import Forbidden, ForebayError, TryLater
from forebay.kafka.users import Users
from forebay.pipeline import names
from forebay.pipeline.spec import Pipeline, Stage
from forebay.planning import objects, reporting
from forebay.planning.credentials import managing, rotation, users
from forebay.planning.credentials.managing import Logins, LoginSecret
from forebay.planning.credentials.rotation import Issue, Issued, RemoveLogin
from forebay.planning.credentials.users import AddAcls, DeleteUser, Present, RemoveAcls
from forebay.planning.objects import Owner
from forebay.planning.pods import Trouble, has_ended
from forebay.planning.reconciling import Identity
from forebay_operator import metrics
from forebay_operator.api import PODS, SECRETS, Api, Body, Denied
from forebay_operator.asking import ask
from forebay_operator.connections import Connection, Connections, trouble
from forebay_operator.memory import Memory
from forebay_operator.world import Login, World

USERS_AGE_S = 55.0
"""Users are asked for anew when what is known is older, and after every change."""
SPREAD_S = 30.0
"""So long after a user was made another broker may not have heard of it."""
ASK_AGAIN_S = (0.1, 0.3, 1.0)
"""After these pauses Kafka is asked for a user that was just made, before anything is said about it."""

_MOST_BYTES = 4 * 1024 * 1024
_GENERATION = "forebay_credential_generation"


class NotPermitted(Forbidden):
    """The administrator of a Pipeline may not manage users; the sentence lists what stages need."""


class Keeper:
    """Of the managed users of all Pipelines."""

    def __init__(self, api: Api, world: World, connections: Connections, *, is_allowed: bool) -> None:
        self._api = api
        self._world = world
        self._connections = connections
        self._is_allowed = is_allowed
        """Whether the operator may write Secrets. Users of former times are removed all the same."""

    async def look(
        self, pipeline: Pipeline, memory: Memory, identity: Identity, generation: int, now: float
    ) -> Logins | Trouble | None:
        """What there is of a Pipeline's managed users; None where it has none, or none can be made here."""
        is_leaving = identity.deleted_for_s is not None
        is_concerned = bool(identity.users) or managing.is_managed(pipeline)
        if not is_concerned or not (self._is_allowed or is_leaving):
            self._show(pipeline, {}, memory)
            return None
        secrets = {} if is_leaving else self._secrets(pipeline, identity.owner)
        self._show(pipeline, secrets, memory)
        try:
            present = await self._present(pipeline, memory, identity, generation)
            awaited = frozenset[str]() if is_leaving else managing.awaited(pipeline, present, secrets)
            pods = await self._pods(pipeline, awaited)
        except NotPermitted as error:
            return Trouble(reporting.NOT_PERMITTED, str(error))
        except ForebayError as error:
            return trouble(error, "UsersUnknown")
        return Logins(present=present, secrets=secrets, pods=pods, now_s=now)

    async def take(
        self,
        pipeline: Pipeline,
        identity: Identity,
        step: AddAcls | RemoveAcls | DeleteUser | Issue | RemoveLogin,
        memory: Memory,
    ) -> None:
        """Take a step that is about users or their Secrets."""
        memory.distrust_users()
        match step:
            case Issue():
                await self._issue(pipeline, identity, step, memory)
            case RemoveLogin(secret):
                await self._remove(pipeline, identity.owner, secret)
            case DeleteUser(user):
                if managing.is_managed(pipeline) and identity.deleted_for_s is None:
                    await self._check_unused(pipeline, user)
                await self._change(pipeline, step)
                memory.made.pop(user, None)
            case _:
                await self._change(pipeline, step)

    async def _change(self, pipeline: Pipeline, step: AddAcls | RemoveAcls | DeleteUser) -> None:
        connection = await self._connections.to(pipeline)
        await self._permitted(pipeline, _users(pipeline, connection).take, step)

    async def _issue(self, pipeline: Pipeline, identity: Identity, step: Issue, memory: Memory) -> None:
        stage = _stage(pipeline, step.stage)
        name, namespace = names.login_secret(pipeline, stage), pipeline.metadata.namespace
        before = await self._api.find(SECRETS, namespace, name)
        if before is not None:
            self._check_expected(pipeline, stage, before, identity, step)
        connection = await self._connections.to(pipeline)
        issue = _users(pipeline, connection).issue
        keys = await self._connections.run(issue, step.user, step.generation, connection.properties)
        memory.made[step.user] = time.monotonic()
        body = secret_body(pipeline, stage, identity.owner, keys, Issued(step.generation, time.time(), step.asked))
        self._world.see("Secret", await self._write(namespace, body, before))
        metrics.CREDENTIALS_ISSUED.labels(namespace, pipeline.metadata.name, stage.name).inc()

    async def _remove(self, pipeline: Pipeline, owner: Owner, name: str) -> None:
        namespace = pipeline.metadata.namespace
        body = await self._api.find(SECRETS, namespace, name)
        if body is not None and objects.is_owned(body, owner):
            await self._api.delete(SECRETS, namespace, name)
        self._world.forget("Secret", namespace, name)

    async def _present(self, pipeline: Pipeline, memory: Memory, identity: Identity, generation: int) -> Present:
        connection = await self._connections.to(pipeline)
        is_known = memory.known_users is not None and memory.users_generation == generation
        if not is_known or time.monotonic() - memory.users_at > USERS_AGE_S:
            asked = users.names_of(pipeline, identity.users)
            fresh = {user for user, at in memory.made.items() if time.monotonic() - at < SPREAD_S} & asked
            for pause_s in ASK_AGAIN_S:
                found = await self._permitted(pipeline, _users(pipeline, connection).present, sorted(asked))
                if fresh <= found.users:
                    break
                await asyncio.sleep(pause_s)
            else:  # another one would take the place of what is there
                raise TryLater(
                    f"Kafka does not know yet that it has user {min(fresh - found.users)}: it is asked again"
                )
            memory.known_users, memory.users_at, memory.users_generation = found, time.monotonic(), generation
        assert memory.known_users is not None  # noqa: S101 - read above
        return memory.known_users

    def _secrets(self, pipeline: Pipeline, owner: Owner) -> dict[str, LoginSecret]:
        namespace = pipeline.metadata.namespace
        stages = {names.login_secret(pipeline, stage): stage for stage in pipeline.spec.stages}
        found = {name: self._world.secret(namespace, name) for name in stages}
        there = {name: known.login for name, known in found.items() if known is not None}
        there |= self._world.logins((namespace, pipeline.metadata.name))
        return {name: _login_secret(pipeline, stages.get(name), login, owner) for name, login in there.items()}

    @staticmethod
    def _show(pipeline: Pipeline, secrets: Mapping[str, LoginSecret], memory: Memory) -> None:
        found = {stage.name: secrets.get(names.login_secret(pipeline, stage)) for stage in pipeline.spec.stages}
        since = {name: each.issued.at_s for name, each in found.items() if each is not None and each.issued is not None}
        if since != memory.credentials:
            metrics.show_credentials((pipeline.metadata.namespace, pipeline.metadata.name), since)
            memory.credentials = since

    async def _pods(self, pipeline: Pipeline, stages: frozenset[str]) -> dict[str, dict[str, int | None]]:
        """Listed anew: a pod that a watch missed must not lose its user."""
        if not stages:
            return {}
        selector = f"{names.PIPELINE_LABEL}={pipeline.metadata.name}"
        listed = await self._api.list_all(PODS, pipeline.metadata.namespace, selector=selector)
        secrets = {
            stage.name: names.login_secret(pipeline, stage) for stage in pipeline.spec.stages if stage.name in stages
        }
        asked = [
            (stage, pod)
            for pod in listed
            if (stage := pod["metadata"]["labels"].get(names.STAGE_LABEL)) in secrets and not has_ended(pod)
        ]
        answers = await generations([(pod.get("status", {}).get("podIP"), secrets[stage]) for stage, pod in asked])
        found: dict[str, dict[str, int | None]] = {stage: {} for stage in stages}
        for (stage, pod), answer in zip(asked, answers, strict=True):
            found[stage][pod["metadata"]["name"]] = answer
        return found

    async def _check_unused(self, pipeline: Pipeline, user: str) -> None:
        """What was decided on may be a moment old: no user is deleted that a Secret names now."""
        for stage in pipeline.spec.stages:
            if user not in {names.user(pipeline, stage, turn) for turn in users.GENERATIONS}:
                continue
            body = await self._api.find(SECRETS, pipeline.metadata.namespace, names.login_secret(pipeline, stage))
            issued = _issued(pipeline, stage, Login.of(body)) if body is not None else None
            if issued is not None and names.user(pipeline, stage, issued.generation) == user:
                raise TryLater(f"user {user} is in use again: it is looked at anew")

    def _check_expected(self, pipeline: Pipeline, stage: Stage, body: Body, identity: Identity, step: Issue) -> None:
        """The Secret is the one on which the step was decided, or nothing is overwritten."""
        name = body["metadata"]["name"]
        self._world.see("Secret", body)
        is_ours = objects.is_owned(body, identity.owner)
        if not is_ours and not identity.may_adopt:
            raise TryLater(f"Secret {name} was made by somebody else meanwhile")
        issued = _issued(pipeline, stage, Login.of(body))
        if is_ours and issued is not None and issued.generation >= step.generation:
            raise TryLater(f"Secret {name} is of generation {issued.generation} already")

    async def _write(self, namespace: str, body: Body, before: Body | None) -> Body:
        """Create it, or replace the one that was read; what an API server answers may repeat what it was given."""
        name = body["metadata"]["name"]
        try:
            if before is None:
                return await self._api.create(SECRETS, namespace, body)
            version = {"resourceVersion": before["metadata"]["resourceVersion"]}
            patch = {"metadata": {**body["metadata"], **version}, "data": body["data"]}
            return await self._api.patch(SECRETS, namespace, name, patch)
        except Denied as error:  # it has not looked at the contents
            raise TryLater(f"Secret {name} was not written: {error}") from None
        except ForebayError as error:
            raise TryLater(f"Secret {name} was not written ({type(error).__name__}): it is tried again") from None

    async def _permitted(self, pipeline: Pipeline, call: Any, *arguments: Any) -> Any:
        try:
            return await self._connections.run(call, *arguments)
        except Forbidden as error:
            raise NotPermitted(users.not_permitted(pipeline)) from error


def secret_body(pipeline: Pipeline, stage: Stage, owner: Owner, keys: Mapping[str, str], issued: Issued) -> Body:
    """The Secret of a stage's user. It has no stamp of what was applied: nothing prunes it as an object of the chart."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": names.login_secret(pipeline, stage),
            "labels": {names.PIPELINE_LABEL: pipeline.metadata.name, names.STAGE_LABEL: stage.name},
            "annotations": rotation.annotations(issued),
            "ownerReferences": [objects.reference(owner)],
        },
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in keys.items()},
    }


def generation_in(exported: str, secret: str) -> int | None:
    """Which generation of a login a pod says it uses, in what it exports; None when it does not say."""
    try:
        for family in text_string_to_metric_families(exported):
            for sample in family.samples:
                if sample.name == _GENERATION and sample.labels.get("secret") == secret:
                    return int(sample.value)
    except (ValueError, OverflowError):  # whatever it is, it is none of ours
        return None
    return None


async def generations(places: Sequence[tuple[str | None, str]]) -> list[int | None]:
    """Ask pods at their addresses, each about a Secret, which generation they use; None for each that does not say."""
    answers = await ask((address for address, _ in places), "/metrics", most_bytes=_MOST_BYTES)
    return [
        None if answer is None else generation_in(answer.text, secret)
        for answer, (_, secret) in zip(answers, places, strict=True)
    ]


def _users(pipeline: Pipeline, connection: Connection) -> Users:
    sasl = pipeline.spec.kafka.sasl
    is_managed = sasl is not None and managing.is_managed(pipeline)
    return Users(connection.admin, sasl.mechanism) if sasl is not None and is_managed else Users(connection.admin)


def _stage(pipeline: Pipeline, name: str) -> Stage:
    return next(stage for stage in pipeline.spec.stages if stage.name == name)


def _login_secret(pipeline: Pipeline, stage: Stage | None, login: Login, owner: Owner) -> LoginSecret:
    issued = _issued(pipeline, stage, login) if stage is not None else None
    return LoginSecret(is_ours=owner.uid in login.owners, issued=issued)


def _issued(pipeline: Pipeline, stage: Stage, login: Login) -> Issued | None:
    return rotation.issued(pipeline, stage, login.said, login.annotations)
