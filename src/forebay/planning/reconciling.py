"""One Pipeline: from what was observed to the next steps. Values in, values out; the operator reads before and acts after.

Steps are small and ordered, and each leaves a world from which planning again reaches the same end: topics before the
stages that read them, what pods need before pods, stages before what they leave behind. An operator may die after any.

Nothing is decided on what could not be observed. While Kafka does not answer, or somebody has to settle something about
a topic, workloads stay as they are.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from forebay.pipeline import names
from forebay.pipeline.spec import Autoscaling, DeletionPolicy, Pipeline, Producer, Workloads
from forebay.planning import objects, pods, scaling, topics
from forebay.planning.credentials import managing, rotation, users
from forebay.planning.credentials.checks import Problem
from forebay.planning.credentials.managing import Logins
from forebay.planning.objects import Manifest, ObjectKey, Owner
from forebay.planning.pods import PodState, Trouble
from forebay.planning.scaling import Decision, Lasting, Reason, policy_of
from forebay.planning.topics import Purpose, TopicState, WantedTopic

DELETION_DEADLINE_S = 600.0
"""A Pipeline that is deleted waits so long for Kafka and its pods, and is then let go with what is left behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What Kubernetes knows of the Pipeline object, beside its spec."""

    owner: Owner
    annotations: Mapping[str, str] = field(default_factory=dict)
    has_finalizer: bool = False
    deleted_for_s: float | None = None
    """Seconds since somebody asked for its deletion."""
    topics: Mapping[str, str] = field(default_factory=dict)
    """Topics that it created or adopted, with Kafka's ids: the ledger in its status."""
    users: frozenset[str] = frozenset()
    """Users that it made or adopted in Kafka: recorded in its status."""
    scaling: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By stage, what its status holds of `scaling.remembered`, as it stands there."""

    @property
    def is_paused(self) -> bool:
        """Whether the user wants everything left as it is."""
        return self.annotations.get(names.PAUSED_ANNOTATION) == "true"

    @property
    def may_adopt(self) -> bool:
        """Whether topics, users and Secrets of users that existed before may be changed."""
        return self.annotations.get(names.ADOPT_ANNOTATION) == "true"

    @property
    def is_released(self) -> bool:
        """Whether the user wants it to go without cleaning up."""
        return self.annotations.get(names.RELEASE_ANNOTATION) == "true"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Everything that was read for one Pipeline. A Trouble stands for what could not be."""

    identity: Identity
    topics: topics.Observed | Trouble
    claims: Mapping[str, str] = field(default_factory=dict)
    """Topics that an older Pipeline manages, with its name."""
    secrets: tuple[Problem, ...] | Trouble = ()
    """What is wrong with the Secrets that it needs."""
    logins: Logins | Trouble | None = None
    """Its managed users; None where it has none, or this operator may not make any."""
    manifests: tuple[Manifest, ...] | Trouble = ()
    live: tuple[Mapping[str, Any], ...] = ()
    """Objects with the Pipeline's label, without pods."""
    remembered: Mapping[ObjectKey, str] = field(default_factory=dict)
    """Fingerprints of objects right after they were applied; see `objects.is_as_applied`."""
    pods: tuple[PodState, ...] = ()
    decided: Mapping[str, Decision] = field(default_factory=dict)
    """By stage, the last decision on its replicas; those alone of which something is known now."""
    lasting: Mapping[str, Lasting] = field(default_factory=dict)
    """By stage, what its scaling has measured for good."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How many replicas a stage should have, and why."""

    replicas: int
    reason: str
    """One word: a `scaling.Reason`, Pinned, External, Starting or Frozen."""
    sentence: str
    is_kept: bool = False
    """For so long has something kept it from being scaled that the Pipeline's user should know."""


@dataclass(frozen=True, slots=True)
class Apply:
    """Create an object, or bring it back to what it should be."""

    manifest: Manifest
    why: str

    def __str__(self) -> str:
        return f"apply {self.manifest.key} ({self.why})"


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete an object that the Pipeline no longer has."""

    key: ObjectKey

    def __str__(self) -> str:
        return f"delete {self.key}"


@dataclass(frozen=True, slots=True)
class Scale:
    """Set the number of replicas of a workload."""

    key: ObjectKey
    stage: str
    present: int
    verdict: Wanted

    @property
    def change(self) -> str:
        """What is done, without the figures that it is done for."""
        return f"scale {self.key} from {self.present} to {self.verdict.replicas}"

    def __str__(self) -> str:
        return f"{self.change}: {self.verdict.sentence}"


@dataclass(frozen=True, slots=True)
class ReplacePod:
    """Delete a broken pod of an old revision, so that the rollout goes on."""

    name: str
    trouble: Trouble

    def __str__(self) -> str:
        return f"replace pod {self.name}, which stands in the way of the rollout ({self.trouble.reason})"


@dataclass(frozen=True, slots=True)
class RememberTopics:
    """Write down which topics are the Pipeline's, before anything may rely on it."""

    topics: Mapping[str, str]

    def __str__(self) -> str:
        return f"remember {len(self.topics)} topics"


@dataclass(frozen=True, slots=True)
class DeleteTopics:
    """Delete topics with all of their records."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"delete topics {', '.join(self.names)}"


@dataclass(frozen=True, slots=True)
class Hold:
    """Add the finalizer: there is something outside Kubernetes to clean up."""

    def __str__(self) -> str:
        return "add the finalizer"


@dataclass(frozen=True, slots=True)
class Release:
    """Remove the finalizer. What is left behind in Kafka, and why, is told in an Event."""

    topics: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    why: str = ""

    @property
    def leaves_something(self) -> bool:
        """Whether anything is left behind."""
        return bool(self.topics or self.users)

    def __str__(self) -> str:
        kinds = {"topics": self.topics, "users": self.users}
        left = " and ".join(f"{kind} {', '.join(found)}" for kind, found in kinds.items() if found)
        return f"remove the finalizer{f', leaving {left}: {self.why}' if left else ''}"


Step = (
    topics.Action | rotation.Step | Apply | Remove | Scale | ReplacePod | RememberTopics | DeleteTopics | Hold | Release
)
TOPIC_STEPS = (topics.CreateTopic, topics.AddPartitions, topics.AlterConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps, in order, and what they come from. A plan without steps means: everything is as it should be."""

    steps: tuple[Step, ...] = ()
    wanted: tuple[WantedTopic, ...] = ()
    conflicts: tuple[str, ...] = ()
    topic_problems: tuple[str, ...] = ()
    login_problems: tuple[str, ...] = ()
    """What somebody has to settle about managed users."""
    rotating: Mapping[str, str] = field(default_factory=dict)
    """By stage, why its former user is still there."""
    due_s: float | None = None
    """When to look again although nothing changes, in epoch seconds."""
    verdicts: Mapping[str, Wanted] = field(default_factory=dict)
    """By stage: how many replicas, and why."""
    waits_for: str | None = None
    """What a deletion waits for."""
    held: str | None = None
    """Why a new version's objects are not applied."""


def plan(pipeline: Pipeline, seen: Observation) -> Plan:
    """The next steps for a Pipeline that is not being deleted."""
    if seen.identity.is_paused:
        return Plan(verdicts=dict(_verdicts(pipeline, seen)))
    finalizer = tuple(_finalizer(pipeline, seen))
    if isinstance(seen.topics, Trouble):
        return Plan(steps=finalizer, verdicts=_frozen(pipeline, seen))
    wanted = topics.wanted(pipeline, seen.topics)
    conflicts = tuple(_conflicts(wanted, seen.claims))
    decided = _topics(wanted, seen)
    verdicts = dict(_verdicts(pipeline, seen))
    if conflicts or decided.problems:
        return Plan(
            steps=finalizer,
            wanted=wanted,
            conflicts=conflicts,
            topic_problems=decided.problems,
            verdicts=_frozen(pipeline, seen),
        )
    workloads = tuple(_workloads(seen))
    logins = _logins(pipeline, seen, workloads)
    steps: list[Step] = [*finalizer, *decided.actions]
    steps += _ledger(wanted, seen)
    steps += logins.steps
    if logins.problems or (isinstance(seen.logins, Trouble) and managing.is_managed(pipeline)):
        # a pod that starts without the rights that it needs waits for them: those that run are better left alone
        there = {objects.key_of(body) for body in seen.live}
        steps += (step for step in _scaling(pipeline, seen, verdicts) if step.key in there)
    else:
        steps += workloads
        steps += _scaling(pipeline, seen, verdicts)
    return Plan(
        steps=tuple(steps),
        wanted=wanted,
        login_problems=logins.problems,
        rotating=logins.waiting,
        due_s=logins.due_s,
        verdicts=verdicts,
    )


def farewell(pipeline: Pipeline | None, seen: Observation) -> Plan:
    """The next steps for a Pipeline that is being deleted: its stages, then its users and topics, then itself.

    Without the finalizer nothing is left to do here: Kubernetes removes what the Pipeline owns.

    Args:
        pipeline: None when its spec cannot be read; nothing in Kafka can then be reached.
        seen: what was observed.
    """
    identity = seen.identity
    if not identity.has_finalizer:
        return Plan()
    keeps_topics = pipeline is not None and pipeline.spec.deletion_policy is not DeletionPolicy.DELETE
    left = Release(() if keeps_topics else tuple(sorted(identity.topics)), tuple(sorted(identity.users)))
    removals = tuple(_removals(seen))
    obstacle = next(_obstacles(seen), None)
    if identity.is_released:
        return Plan(steps=(replace(left, why=f"annotation {names.RELEASE_ANNOTATION}"),))
    if (removals or obstacle) and (identity.deleted_for_s or 0) > DELETION_DEADLINE_S:
        why = f"after {DELETION_DEADLINE_S:.0f} s: {obstacle or 'too slow'}"
        return Plan(steps=(*removals, replace(left, why=why)))
    if removals or obstacle or isinstance(seen.topics, Trouble) or pipeline is None:
        return Plan(steps=removals, waits_for=obstacle or "the stages are being removed")
    steps: list[Step] = []
    if isinstance(seen.logins, Logins):
        steps += users.removal(pipeline, seen.logins.present, identity.users)
    if doomed := tuple(name for name in left.topics if _is_ours(seen.topics.get(name), identity)):
        steps.append(DeleteTopics(doomed))
    return Plan(steps=(*steps, Release()))


def _removals(seen: Observation) -> Iterator[Remove]:
    for body in seen.live:
        if objects.is_owned(body, seen.identity.owner) and "deletionTimestamp" not in body["metadata"]:
            yield Remove(objects.key_of(body))


def _obstacles(seen: Observation) -> Iterator[str]:
    """What has to pass before topics and users can be deleted: readers and writers, and a Kafka that does not answer.

    Pods that somebody else deployed are not waited for, unless they would lose the users that they log in as.
    """
    foreign = {
        body["metadata"]["labels"].get(names.STAGE_LABEL)
        for body in seen.live
        if body["kind"] in objects.WORKLOADS
        and not objects.is_owned(body, seen.identity.owner)
        and not seen.identity.users
    }
    if remaining := [pod.name for pod in seen.pods if pod.stage not in foreign]:
        yield f"pods have not ended: {', '.join(remaining[:5])}"
    if isinstance(seen.topics, Trouble):
        yield seen.topics.message
    if seen.identity.users and not isinstance(seen.logins, Logins):
        yield seen.logins.message if isinstance(seen.logins, Trouble) else "nobody has looked at its users"


def _finalizer(pipeline: Pipeline, seen: Observation) -> Iterator[Step]:
    """It is held only while there is work outside Kubernetes: a Pipeline without any goes whatever becomes of us."""
    identity = seen.identity
    makes_users = managing.is_managed(pipeline) and seen.logins is not None
    is_needed = pipeline.spec.deletion_policy is DeletionPolicy.DELETE or makes_users or bool(identity.users)
    if is_needed and not identity.has_finalizer:
        yield Hold()
    if identity.has_finalizer and not is_needed:
        yield Release()


def _conflicts(wanted: Iterable[WantedTopic], claims: Mapping[str, str]) -> Iterator[str]:
    for topic in wanted:
        if topic.purpose is Purpose.DECLARED and not topic.is_external and topic.name in claims:
            yield (
                f"topic {topic.name} is managed by the older Pipeline {claims[topic.name]}: declare it here with "
                "management: External, or use a topic with another name"
            )


def _topics(wanted: tuple[WantedTopic, ...], seen: Observation) -> topics.Plan:
    """The topics' steps. Those that were there before us are taken over only as they are."""
    assert not isinstance(seen.topics, Trouble)  # noqa: S101 - the caller has looked
    own = [topic for topic in wanted if not (topic.name in seen.claims and seen.topics.get(topic.name))]
    decided = topics.diff(own, seen.topics)
    strange = tuple(_misfits(decided.actions, seen.topics, seen.identity))
    return replace(decided, problems=(*decided.problems, *strange))


def _misfits(actions: Iterable[topics.Action], observed: topics.Observed, identity: Identity) -> Iterator[str]:
    for action in actions:
        present = observed.get(action.name)
        if present is not None and not _is_ours(present, identity) and not identity.may_adopt:
            yield (
                f"topic {action.name} existed before this Pipeline and differs ({action}): let the Pipeline say what "
                f'the topic has, or annotate the Pipeline with {names.ADOPT_ANNOTATION}: "true" to have it changed'
            )


def _is_ours(present: TopicState | None, identity: Identity) -> bool:
    return present is not None and identity.topics.get(present.name) == present.topic_id


def _ledger(wanted: Iterable[WantedTopic], seen: Observation) -> Iterator[Step]:
    """Topics that are there and that nobody else answers for are ours from now on; what is gone no longer is."""
    assert not isinstance(seen.topics, Trouble)  # noqa: S101 - the caller has looked
    known = seen.identity.topics
    kept = {name: one for name, one in known.items() if name not in seen.topics or _has_id(seen.topics, name, one)}
    fitting = {
        topic.name: state.topic_id
        for topic in wanted
        if not topic.is_external
        and topic.name not in seen.claims
        and (state := seen.topics.get(topic.name)) is not None
        and state.topic_id is not None
    }
    if (ledger := kept | fitting) != known:
        yield RememberTopics(ledger)


def _has_id(observed: topics.Observed, name: str, known: str) -> bool:
    state = observed[name]
    return state is not None and state.topic_id == known


def _logins(pipeline: Pipeline, seen: Observation, workloads: Iterable[Step]) -> rotation.Plan:
    """Users before the stages that log in as them; what stages needed, once they need it no more."""
    if not isinstance(seen.logins, Logins):
        return rotation.Plan()
    return managing.plan(
        pipeline,
        seen.logins,
        recorded=seen.identity.users,
        asked=seen.identity.annotations.get(names.ROTATE_ANNOTATION, ""),
        is_settled=not any(workloads) and _is_settled(pipeline, seen),
        adopt=seen.identity.may_adopt,
    )


def _is_settled(pipeline: Pipeline, seen: Observation) -> bool:
    """No pod is of a stage that is gone, of a former template, or on its way out: all need what the Pipeline says."""
    if isinstance(seen.manifests, Trouble):
        return False
    stages = {stage.name for stage in pipeline.spec.stages}
    if any(pod.is_leaving or pod.stage not in stages for pod in seen.pods):
        return False
    return not any(workload.is_rolling_out for workload in live_workloads(pipeline, seen.live).values())


def _workloads(seen: Observation) -> Iterator[Step]:
    if isinstance(seen.manifests, Trouble) or not seen.manifests:
        return  # not rendered, or deployed by somebody else: nothing is removed because of that
    live = {objects.key_of(body): body for body in seen.live}
    for manifest in seen.manifests:
        body = live.get(manifest.key)
        if body is None:
            yield Apply(manifest, "missing")
        elif objects.template_of(body) != manifest.template:
            yield Apply(manifest, "changed")
        elif not objects.is_as_applied(manifest, body, seen.remembered.get(manifest.key)):
            yield Apply(manifest, "somebody changed it")
    for key in objects.abandoned(seen.live, seen.manifests, seen.identity.owner):
        yield Remove(key)
    for body in seen.live:
        for pod in pods.in_the_way(body, seen.pods):
            assert pod.trouble is not None  # noqa: S101 - those alone are in the way
            yield ReplacePod(pod.name, pod.trouble)


def _scaling(pipeline: Pipeline, seen: Observation, verdicts: Mapping[str, Wanted]) -> Iterator[Scale]:
    workloads = workloads_of(pipeline, seen)
    for stage, verdict in verdicts.items():
        if (workload := workloads.get(stage)) is not None and workload.replicas != verdict.replicas:
            yield Scale(workload.key, stage, workload.replicas, verdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The StatefulSet or Deployment of a stage, there already or about to be."""

    key: ObjectKey
    replicas: int
    """Asked for."""
    ready: int = 0
    present: int = 0
    """Pods that there are, those among them that are coming or going."""
    is_observed: bool = False
    """The controller has seen the last change."""
    is_of_one_revision: bool = False
    """No pod is of an older version of the template."""

    @property
    def is_rolling_out(self) -> bool:
        """Whether two versions may be at work."""
        return not (self.is_observed and self.is_of_one_revision)

    @property
    def is_rolled_out(self) -> bool:
        """Every replica that is asked for is of the newest revision and ready, and there is no other."""
        return not self.is_rolling_out and self.present == self.replicas == self.ready


def workloads_of(pipeline: Pipeline, seen: Observation) -> dict[str, Workload]:
    """By stage. One that will be created starts with a single replica, as Kubernetes has it."""
    rendered = () if isinstance(seen.manifests, Trouble) else seen.manifests
    made = {m.key.name: m.key for m in rendered if m.key.kind in objects.WORKLOADS}
    live = live_workloads(pipeline, seen.live)
    found: dict[str, Workload] = {}
    for stage in pipeline.spec.stages:
        name = names.workload(pipeline, stage)
        workload = live.get(stage.name)
        if workload is not None and made.get(name, workload.key) == workload.key:
            found[stage.name] = workload
        elif name in made:
            found[stage.name] = Workload(key=made[name], replicas=1)
    return found


def live_workloads(pipeline: Pipeline, bodies: Iterable[Mapping[str, Any]]) -> dict[str, Workload]:
    """Those of the Pipeline's stages that there are, by stage, among these objects."""
    there = {body["metadata"]["name"]: body for body in bodies if body["kind"] in objects.WORKLOADS}
    named = {stage.name: there.get(names.workload(pipeline, stage)) for stage in pipeline.spec.stages}
    return {stage: _workload(body) for stage, body in named.items() if body is not None}


def _workload(body: Mapping[str, Any]) -> Workload:
    status = body.get("status", {})
    present = status.get("replicas", 0)
    is_of_one_revision = status.get("updatedReplicas", 0) == present
    if body["kind"] == "StatefulSet":  # its controller counts updated pods only while a rollout is under way
        is_of_one_revision |= status.get("currentRevision") == status.get("updateRevision")
    return Workload(
        key=objects.key_of(body),
        replicas=body["spec"].get("replicas", 1),
        ready=status.get("readyReplicas", 0),
        present=present,
        is_observed=status.get("observedGeneration", 0) >= body["metadata"].get("generation", 0),
        is_of_one_revision=is_of_one_revision,
    )


def _verdicts(pipeline: Pipeline, seen: Observation) -> Iterator[tuple[str, Wanted]]:
    workloads = workloads_of(pipeline, seen)
    is_external = pipeline.spec.workloads is Workloads.EXTERNAL
    there = {body["metadata"]["name"] for body in seen.live if body["kind"] in objects.WORKLOADS}
    for stage in pipeline.spec.stages:
        workload = workloads.get(stage.name)
        if workload is None:
            continue
        least = stage.replicas if isinstance(stage, Producer) else stage.autoscaling.min_replicas
        is_pinned = isinstance(stage, Producer) or stage.autoscaling.is_pinned
        if is_pinned and is_external:  # whoever deploys it says how many
            yield stage.name, Wanted(workload.replicas, "External", "somebody else deploys it and says how many")
        elif is_pinned:
            yield stage.name, Wanted(least, "Pinned", f"the Pipeline asks for {least}")
        elif workload.key.name not in there:
            yield stage.name, Wanted(least, Reason.STARTING, f"it starts with minReplicas {least}")
        else:
            assert not isinstance(stage, Producer)  # noqa: S101 - those are pinned
            yield stage.name, _wanted(stage.autoscaling, workload, seen.decided.get(stage.name))


def _wanted(bounds: Autoscaling, workload: Workload, decision: Decision | None) -> Wanted:
    """The decision, if it was made on what there is now: by these bounds, on this number of replicas.

    Another is made within seconds; until then the number of replicas stays as it is.
    """
    if decision is None:
        sentence = "nothing has been measured yet: the number of replicas stays as it is"
        return Wanted(workload.replicas, Reason.MEASUREMENT_MISSING, sentence)
    verdict, condition = decision.verdict, scaling.condition(decision)
    is_current = decision.policy == policy_of(bounds) and workload.replicas in {
        verdict.inputs.replicas,
        verdict.replicas,
    }
    return Wanted(
        verdict.replicas if is_current else workload.replicas,
        condition.reason,
        condition.message,
        is_kept=not condition.is_true,
    )


def _frozen(pipeline: Pipeline, seen: Observation) -> dict[str, Wanted]:
    sentence = "topics are not as they must be: the number of replicas stays as it is"
    return {
        stage: Wanted(workload.replicas, "Frozen", sentence) for stage, workload in workloads_of(pipeline, seen).items()
    }
