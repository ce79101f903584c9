"""A world for the plan of one Pipeline: what is there, and what becomes of it when a step is taken."""

import copy
import itertools
from dataclasses import dataclass, field, replace

from forebay.pipeline import names
from forebay.pipeline.names import PIPELINE_LABEL, STAGE_LABEL
from forebay.pipeline.spec import Autoscaling, Pipeline, Producer, Workloads
from forebay.planning import objects
from forebay.planning.credentials import managing, users
from forebay.planning.credentials.managing import Logins, LoginSecret
from forebay.planning.credentials.rotation import Issue, Issued, RemoveLogin
from forebay.planning.credentials.users import Acl, AddAcls, DeleteUser, Present, RememberUsers, RemoveAcls
from forebay.planning.objects import Manifest, ObjectKey, Owner
from forebay.planning.pods import PodState, Trouble
from forebay.planning.reconciling import (
    Apply,
    DeleteTopics,
    Hold,
    Identity,
    Observation,
    Release,
    RememberTopics,
    Remove,
    ReplacePod,
    Scale,
    plan,
)
from forebay.planning.scaling import Decision, GroupState, Reason, Situation, Verdict, policy_of
from forebay.planning.topics import AddPartitions, AlterConfig, CreateTopic, TopicState, names_of

OWNER = Owner("sensors", "uid-1")
NOW = 1_000_000.0
_ids = itertools.count()


def manifests(pipeline: Pipeline) -> tuple[Manifest, ...]:
    """Something like what the chart makes: a ConfigMap, and a workload for each stage."""
    documents = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "sensors", "labels": {PIPELINE_LABEL: "sensors"}},
            "data": {"pipeline.yaml": pipeline.model_dump_json(by_alias=True)},
        }
    ]
    for stage in pipeline.spec.stages:
        kind = "StatefulSet" if isinstance(stage, Producer) or stage in pipeline.spec.processors else "Deployment"
        documents.append(
            {
                "apiVersion": "apps/v1",
                "kind": kind,
                "metadata": {
                    "name": f"sensors-{stage.name}",
                    "labels": {PIPELINE_LABEL: "sensors", STAGE_LABEL: stage.name},
                },
                "spec": {"template": {"metadata": {"labels": {STAGE_LABEL: stage.name}}}},
            }
        )
    return objects.prepare(documents, OWNER)


@dataclass(frozen=True)
class Login:
    """A Secret of a stage's user."""

    stage: str
    user: str
    password: str
    issued: Issued
    is_ours: bool = True


@dataclass
class PlannedWorld:
    """Take steps with `take`; look at it with `seen`."""

    pipeline: Pipeline
    topics: dict[str, TopicState] = field(default_factory=dict)
    live: dict[ObjectKey, dict] = field(default_factory=dict)
    pods: list[PodState] = field(default_factory=list)
    identity: Identity = field(default_factory=lambda: Identity(owner=OWNER))
    claims: dict[str, str] = field(default_factory=dict)
    decided: dict = field(default_factory=dict)
    lasting: dict = field(default_factory=dict)
    kafka: Trouble | None = None
    makes_users: bool = True
    passwords: dict[str, str] = field(default_factory=dict)
    """Of the users in Kafka."""
    acls: set[Acl] = field(default_factory=set)
    logins: dict[str, Login] = field(default_factory=dict)
    says: dict[str, int | None] = field(default_factory=dict)
    """By pod, the generation that it exports."""
    now_s: float = NOW
    taken: list = field(default_factory=list)

    def seen(self) -> Observation:
        asked = {*names_of(self.pipeline), *self.identity.topics}
        return Observation(
            identity=self.identity,
            topics=self.kafka or {name: self.topics.get(name) for name in asked},
            claims=self.claims,
            logins=self._logins(),
            manifests=manifests(self.pipeline) if self.pipeline.spec.workloads is Workloads.MANAGED else (),
            live=tuple(copy.deepcopy(list(self.live.values()))),
            pods=tuple(self.pods),
            decided=self.decided,
            lasting=self.lasting,
        )

    def _logins(self) -> Logins | Trouble | None:
        is_concerned = managing.is_managed(self.pipeline) or self.identity.users
        if not is_concerned or not (self.makes_users or self.identity.deleted_for_s is not None):
            return None
        if self.kafka is not None:
            return self.kafka
        asked = users.names_of(self.pipeline, self.identity.users)
        present = Present(
            frozenset(self.passwords.keys() & asked), frozenset(acl for acl in self.acls if acl.user in asked)
        )
        stages = {names.login_secret(self.pipeline, stage) for stage in self.pipeline.spec.stages}
        secrets = {
            name: LoginSecret(login.is_ours, login.issued if name in stages else None)
            for name, login in self.logins.items()
        }
        pods = {
            stage: {pod.name: self.says.get(pod.name) for pod in self.pods if pod.stage == stage}
            for stage in managing.awaited(self.pipeline, present, secrets)
        }
        return Logins(present=present, secrets=secrets, pods=pods, now_s=self.now_s)

    def take(self, step, *, only_half: bool = False) -> None:
        """Take a step; of one that has two halves, if asked, the first alone."""
        self.taken.append(step)
        match step:
            case RememberUsers(recorded):
                self.identity = replace(self.identity, users=recorded)
            case AddAcls(acls):
                self.acls |= set(acls)
            case RemoveAcls(acls):
                self.acls -= set(acls)
            case Issue(stage, user, generation, asked):
                assert user in self.identity.users, "made before it was recorded"
                self.passwords[user] = f"canary-{next(_ids)}"
                if not only_half:
                    issued = Issued(generation, self.now_s, asked)
                    (owner,) = (each for each in self.pipeline.spec.stages if each.name == stage)
                    login = Login(stage, user, self.passwords[user], issued)
                    self.logins[names.login_secret(self.pipeline, owner)] = login
            case DeleteUser(user):
                assert user in self.identity.users, "somebody else's"
                del self.passwords[user]
            case RemoveLogin(secret):
                assert self.logins.pop(secret).is_ours
            case CreateTopic(name, partitions, factor, config):
                assert name not in self.topics
                self._put(name, partitions, factor, config)
            case AddPartitions(name, present, wanted):
                assert self.topics[name].partitions == present < wanted
                self.topics[name] = replace(self.topics[name], partitions=wanted)
            case AlterConfig(name, config):
                self.topics[name] = replace(self.topics[name], config={**self.topics[name].config, **config})
            case Apply(manifest):
                before = self.live.get(manifest.key, {})
                body = copy.deepcopy(manifest.body)
                if manifest.key.kind in objects.WORKLOADS:
                    body["spec"]["replicas"] = before.get("spec", {}).get("replicas", 1)
                self.live[manifest.key] = body
            case Remove(key):
                del self.live[key]
            case Scale(key, _, present, verdict):
                assert self.live[key]["spec"]["replicas"] == present != verdict.replicas
                self.live[key]["spec"]["replicas"] = verdict.replicas
            case ReplacePod(name):
                self.pods = [pod for pod in self.pods if pod.name != name]
            case RememberTopics(ledger):
                self.identity = replace(self.identity, topics=dict(ledger))
            case DeleteTopics(doomed):
                for name in doomed:
                    del self.topics[name]
            case Hold():
                self.identity = replace(self.identity, has_finalizer=True)
            case Release():
                self.identity = replace(self.identity, has_finalizer=False)
            case _:
                raise AssertionError(f"nobody knows what becomes of {step}")

    def _put(self, name, partitions, factor, config) -> None:
        self.topics[name] = TopicState(
            name=name,
            partitions=partitions,
            replication_factor=factor,
            config=dict(config),
            topic_id=f"id-{next(_ids)}",
        )


def decision(
    verdict_on: Autoscaling, *, replicas=1, wanted=None, reason="KeepingUp", held_s=0.0, **figures
) -> Decision:
    """A decision on a stage with these bounds that has so many replicas and should have others."""
    inputs = Situation(
        **{"now": NOW, "replicas": replicas, "ready": replicas, "partitions": 4, "group": GroupState.STABLE} | figures
    )
    verdict = Verdict(replicas if wanted is None else wanted, Reason(reason), f"because of {reason}", inputs)
    return Decision(verdict=verdict, policy=policy_of(verdict_on), since=NOW - held_s)


def pipeline(
    *,
    partitions=4,
    low=1,
    high=1,
    sink=True,
    deletion="Retain",
    retention=None,
    workloads="Managed",
    to_zero=False,
    sink_high=1,
    users=None,
    rotate_every="Never",
) -> Pipeline:
    config = {"retention.ms": retention} if retention else {}
    autoscaling = {"minReplicas": low, "maxReplicas": high, "scaleToZero": to_zero}
    average = {"name": "average", "movingAverage": {"field": "temperature_c", "output": "avg"}}
    spec = {
        "kafka": {"bootstrapServers": "kafka:9092", **_security(users, rotate_every)},
        "workloads": workloads,
        "deletionPolicy": deletion,
        "topics": [
            {"name": "raw", "partitions": partitions, "config": config},
            {"name": "enriched", "partitions": partitions},
        ],
        "producers": [{"name": "devices", "to": "raw", "key": {"field": "device_id"}, "source": {"simulator": {}}}],
        "processors": [
            {"name": "enrich", "from": "raw", "to": "enriched", "transforms": [average], "autoscaling": autoscaling}
        ],
        "sinks": [
            {
                "name": "store",
                "from": "enriched",
                "destination": {"stdout": {}},
                "autoscaling": {"maxReplicas": sink_high},
            }
        ]
        if sink
        else [],
    }
    return Pipeline.model_validate({"metadata": {"name": "sensors"}, "spec": copy.deepcopy(spec)})


def _security(users: str | None, rotate_every: str) -> dict:
    if users is None:
        return {}
    return {"tls": {}, "sasl": {"users": users, "rotateEvery": rotate_every}, "adminSecretRef": {"name": "admin"}}


def settle(world: PlannedWorld, *, rounds: int = 6) -> PlannedWorld:
    """Plan and take steps until nothing is left to do."""
    for _ in range(rounds):
        steps = plan(world.pipeline, world.seen()).steps
        if not steps:
            return world
        for step in steps:
            world.take(step)
    raise AssertionError(f"it does not come to rest: {[str(step) for step in steps]}")
