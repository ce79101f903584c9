"""What a Pipeline's status says: conditions, columns, stages. Values in, values out.

Conditions change as soon as they do. Everything else that moves with the load is written at most every 30 seconds, numbers
rounded to two significant digits: while a Pipeline runs evenly nothing is written at all. Exact numbers are metrics.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from statistics import median
from typing import Any, NamedTuple

from forebay.pipeline import names
from forebay.pipeline.spec import Kafka, Pipeline, Producer, Sink
from forebay.planning import scaling
from forebay.planning.credentials import formats, managing, users
from forebay.planning.credentials.checks import Problem
from forebay.planning.pods import PodState, Trouble
from forebay.planning.reconciling import TOPIC_STEPS, Apply, Observation, Plan, Remove, Wanted, Workload, workloads_of
from forebay.planning.scaling import Decision, Memory, Reason

NUMBERS_EVERY_S = 30.0
SCALED_WITHIN_S = 60.0
"""So long after a change of replicas the new ones may still be on their way: the others do the work meanwhile."""
_TENS = 10
_NEAR = 0.25
_NEAR_OF_STAGE = 0.5
"""Figures of one stage are written again when they have doubled or halved: there are many, and each write is one too many."""
_LITTLE = 2.0
"""Records, seconds or records per second: differences below are none."""
_IN_FLIGHT_S = 1.0
"""What arrives in so long may be between a commit and the next, with all stages together."""
AT_LEAST = "at least"
"""Among numbers: behind is more than it says."""

Figure = tuple[str, str]
"""A stage and what is measured of it: lag, behind, rate or capacity; without a stage it is the Pipeline's."""
Figures = Mapping[Figure, float]

TRUE, FALSE, UNKNOWN = "True", "False", "Unknown"
_MOST_PROBLEMS = 20
"""Sentences in one message; nobody reads more."""
_LONGEST_MESSAGE = 32_000
"""Characters; Kubernetes takes 32 KiB."""
LOGIN_REFUSED, TLS_FAILS = "LoginRefused", "TlsFails"
"""The reasons where Kafka does not take a login, and where no TLS connection comes about."""
WAITING = "Waiting"
"""The reason where a replica says what it waits for."""
NOT_PERMITTED = "UsersNotPermitted"
"""The reason where the administrator of a Pipeline may not manage users."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One aspect of a Pipeline."""

    type: str
    status: str
    reason: str
    message: str

    @property
    def is_good(self) -> bool:
        """Whether this aspect is as it should be."""
        return self.status == TRUE


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the status should say."""

    generation: int
    conditions: tuple[Condition, ...]
    numbers: Mapping[str, str] = field(default_factory=dict)
    """The columns lag, behind and rate."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Everything else; written at once when it changes."""

    @property
    def is_ready(self) -> bool:
        """Whether the Pipeline does all that it was asked for."""
        return any(condition.type == "Ready" and condition.is_good for condition in self.conditions)


def invalid(generation: int, problems: Iterable[str]) -> Report:
    """The spec contradicts itself in a way that the API server could not see. What runs is left as it is."""
    return _not_ready(generation, "Invalid", _joined(problems))


def leaving(generation: int, plan: Plan) -> Report:
    """The Pipeline is being deleted."""
    return _not_ready(generation, "Deleting", plan.waits_for or "what the Pipeline made is being removed")


def _not_ready(generation: int, reason: str, message: str) -> Report:
    return Report(
        generation=generation, conditions=(Condition("Ready", FALSE, reason, message),), facts={"why": reason}
    )


def report(
    pipeline: Pipeline,
    seen: Observation,
    plan: Plan,
    *,
    generation: int,
    figures: Figures,
    now: float,
    failure: str | None = None,
) -> Report:
    """What to say of a Pipeline.

    Args:
        pipeline: what is asked for.
        seen: what was observed before the steps of the plan were taken.
        plan: what was decided on it.
        generation: the one of the spec.
        figures: from `figures_of`.
        now: seconds since the epoch.
        failure: why a step could not be taken, as a sentence.
    """
    workloads = workloads_of(pipeline, seen)
    aspects = (
        _topics(seen, plan),
        _credentials(pipeline, seen, plan),
        _workloads(seen, plan, workloads, now),
        _scaling(seen, plan),
    )
    ready = _ready(seen, aspects, failure)
    stages = tuple(_stages(pipeline, seen, plan, workloads, figures))
    return Report(
        generation=generation,
        conditions=(ready, *aspects),
        numbers=_texts(figures, ""),
        facts={
            "replicas": f"{sum(w.ready for w in workloads.values())}/{sum(v.replicas for v in plan.verdicts.values())}",
            "topics": _counted(seen, plan),
            "why": _why(ready, stages),
            "stages": list(stages),
        },
    )


def _topics(seen: Observation, plan: Plan) -> Condition:
    kind = "TopicsReady"
    if isinstance(seen.topics, Trouble):
        return Condition(kind, UNKNOWN, seen.topics.reason, seen.topics.message)
    if seen.identity.is_paused:
        return Condition(kind, UNKNOWN, "Paused", "topics are not looked after while the Pipeline is paused")
    if plan.conflicts:
        return Condition(kind, FALSE, "Conflict", _joined(plan.conflicts))
    if plan.topic_problems:
        return Condition(kind, FALSE, "TopicsDiffer", _joined(plan.topic_problems))
    if pending := [str(step) for step in plan.steps if isinstance(step, TOPIC_STEPS)]:
        return Condition(kind, FALSE, "Changing", _joined(pending))
    return Condition(kind, TRUE, "AsWanted", f"all {len(plan.wanted)} topics are as the Pipeline asks")


def _credentials(pipeline: Pipeline, seen: Observation, plan: Plan) -> Condition:
    kind = "CredentialsReady"
    if isinstance(seen.secrets, Trouble):
        return Condition(kind, UNKNOWN, seen.secrets.reason, seen.secrets.message)
    wrong = [problem for problem in seen.secrets if not problem.is_warning]
    notes = [str(problem) for problem in seen.secrets if problem.is_warning]
    logins = {wanted.name for wanted in formats.managed(pipeline)}
    unmade = [problem for problem in wrong if problem.secret in logins and problem.key is None]
    if unmade and seen.logins is None:
        others = [str(problem) for problem in wrong if problem not in unmade]
        sentence = users.not_managed(pipeline, [problem.secret for problem in unmade])
        return Condition(kind, FALSE, "UsersNotManaged", _joined([sentence, *others, *notes]))
    if (told := _users(pipeline, seen, plan)) is not None and not told.is_good:
        return replace(told, message=_joined([told.message, *notes]))
    notes += [told.message] if told is not None else []
    wrong = [problem for problem in wrong if problem not in unmade]
    return _secrets(wrong, unmade, _refused(pipeline.spec.kafka, seen.topics), notes)


def _secrets(
    wrong: Sequence[Problem], unmade: Sequence[Problem], refused: Trouble | None, notes: list[str]
) -> Condition:
    """What there is to say of the Secrets that people write, and of those that the operator is yet to write."""
    kind = "CredentialsReady"
    if wrong:
        reason = "SecretsInvalid" if all(problem.key is not None for problem in wrong) else "SecretsIncomplete"
        return Condition(kind, FALSE, reason, _joined([*map(str, wrong), *notes]))
    if refused is not None:
        return Condition(kind, FALSE, refused.reason, _joined([refused.message, *notes]))
    if unmade:
        sentences = (f"Secret {problem.secret} is yet to be written by the operator" for problem in unmade)
        return Condition(kind, FALSE, "Changing", _joined(sentences))
    fine = "every Secret that the Pipeline needs is there and complete"
    return Condition(kind, TRUE, "Complete", _joined([fine, *notes]))


def _refused(kafka: Kafka, asked: object) -> Trouble | None:
    """Whose fault it is that Kafka could not be asked, when it is the fault of a Secret that looks well."""
    if not isinstance(asked, Trouble):
        return None
    places = []
    if asked.reason == LOGIN_REFUSED and (login := formats.administrator(kafka)) is not None:
        places = [f"Secret {login.name}, keys {formats.USERNAME} and {formats.PASSWORD}"]
    elif asked.reason == TLS_FAILS and kafka.tls is not None:
        certificate, authority = kafka.tls.client_certificate_secret_ref, kafka.tls.ca_secret_ref
        places = [f"Secret {authority.name}, key {formats.AUTHORITY}"] if authority is not None else []
        places += [f"the certificate in Secret {certificate.name}"] if certificate is not None else []
    return Trouble(asked.reason, f"{' or '.join(places)}: {asked.message}") if places else None


def _users(pipeline: Pipeline, seen: Observation, plan: Plan) -> Condition | None:
    """What there is to say of managed users; those of a Pipeline that has other logins now stand in nobody's way."""
    kind = "CredentialsReady"
    is_managed = managing.is_managed(pipeline)
    if isinstance(seen.logins, Trouble) and is_managed:
        status = FALSE if seen.logins.reason == NOT_PERMITTED else UNKNOWN
        return Condition(kind, status, seen.logins.reason, seen.logins.message)
    if isinstance(seen.logins, Trouble):
        message = f"users that were managed before are still there: {seen.logins.message}"
        return Condition(kind, TRUE, "Complete", message)
    if plan.login_problems:
        return Condition(kind, FALSE if is_managed else TRUE, "UsersDiffer", _joined(plan.login_problems))
    if plan.rotating:
        return Condition(kind, TRUE, "Complete", _joined(f"{stage}: {why}" for stage, why in plan.rotating.items()))
    return None


def _workloads(seen: Observation, plan: Plan, workloads: Mapping[str, Workload], now: float) -> Condition:
    kind = "WorkloadsReady"
    if isinstance(seen.manifests, Trouble):
        return Condition(kind, FALSE, seen.manifests.reason, seen.manifests.message)
    troubled = [(pod, pod.trouble) for pod in seen.pods if pod.trouble is not None and not pod.is_leaving]
    if troubled:
        message = _joined(f"pod {pod.name}: {trouble.reason}: {trouble.message}" for pod, trouble in troubled)
        return Condition(kind, FALSE, troubled[0][1].reason or "Trouble", message)
    changes = [str(step) for step in plan.steps if isinstance(step, Apply | Remove)]
    if changes:
        return Condition(kind, FALSE, "Changing", _joined(changes))
    fine = {stage for stage, w in workloads.items() if w.is_rolled_out or _is_being_scaled(stage, w, seen, now)}
    missing = sorted(plan.verdicts.keys() - fine)
    if missing or not workloads:
        return _unfinished(kind, missing, seen.pods)
    if plan.held is not None:
        return Condition(kind, TRUE, "UpgradeStopped", f"every replica is ready, of the former version: {plan.held}")
    return Condition(kind, TRUE, "RolledOut", "every replica is of the newest revision and ready")


def _unfinished(kind: str, stages: Sequence[str], pods: Iterable[PodState]) -> Condition:
    """What keeps these stages from being rolled out and ready, as far as their pods say it."""
    waits = [f"pod {pod.name} waits: {pod.waits}" for pod in pods if pod.waits and pod.stage in stages]
    if waits:
        return Condition(kind, FALSE, WAITING, _joined(waits))
    words = f"not yet rolled out and ready: {', '.join(stages)}" if stages else "no stage is deployed"
    return Condition(kind, FALSE, "Progressing", words)


def _is_being_scaled(stage: str, workload: Workload, seen: Observation, now: float) -> bool:
    """Whether it lacks nothing but replicas that were asked for a moment ago, or has some that are leaving."""
    lasting = seen.lasting.get(stage)
    if lasting is None or lasting.changed_at is None or not workload.is_of_one_revision:
        return False
    return now - lasting.changed_at < SCALED_WITHIN_S


def _scaling(seen: Observation, plan: Plan) -> Condition:
    """Whether scaling can do its work; the worst stage gives the reason, those that are kept from it before others."""
    kind = "Scaling"
    verdicts = {stage: wanted for stage, wanted in plan.verdicts.items() if wanted.reason not in _UNSCALED}
    if seen.identity.is_paused:
        return Condition(kind, FALSE, "Paused", "replicas stay as they are while the Pipeline is paused")
    if not verdicts:
        return Condition(kind, TRUE, "Pinned", "every stage has a fixed number of replicas")
    worst = max(verdicts.values(), key=lambda wanted: (wanted.is_kept, _severity(wanted.reason)))
    message = _joined(f"{stage}: {wanted.sentence}" for stage, wanted in verdicts.items())
    status = UNKNOWN if worst.reason == "Frozen" else FALSE if worst.is_kept else TRUE
    return Condition(kind, status, worst.reason, message)


_UNSCALED = frozenset({"Pinned", "External"})
_WORST_FIRST = (
    "Frozen",
    Reason.MEASUREMENT_MISSING,
    Reason.STUCK,
    Reason.WITHOUT_OWNER,
    Reason.HOT_PARTITION,
    Reason.LIMITED_DOWNSTREAM,
    Reason.DID_NOT_HELP,
    Reason.AT_MAXIMUM,
    Reason.FALLING_BEHIND,
    Reason.CATCHING_UP,
    Reason.OUT_OF_BOUNDS,
    Reason.WOKEN_UP,
    Reason.ROLLING_OUT,
    Reason.STARTING,
    Reason.REBALANCING,
    Reason.PAUSED,
    Reason.WENT_IDLE,
    Reason.LOAD_FELL,
    Reason.TRYING_FEWER,
    Reason.KEEPING_UP,
    Reason.IDLE_AT_ZERO,
)


def _severity(reason: str) -> int:
    """The more, the worse. A reason that is no verdict's is a pod's trouble, which is worse than any."""
    return -_WORST_FIRST.index(reason) if reason in _WORST_FIRST else 1


def _ready(seen: Observation, aspects: tuple[Condition, ...], failure: str | None) -> Condition:
    if failure is not None:
        return Condition("Ready", FALSE, "StepFailed", failure)
    if seen.identity.is_paused:
        message = f'annotation {names.PAUSED_ANNOTATION} is "true": nothing is changed until it is removed'
        return Condition("Ready", UNKNOWN, "Paused", message)
    for aspect in aspects:
        if not aspect.is_good and aspect.type != "Scaling":  # falling behind is no failure of the deployment
            return Condition("Ready", aspect.status, aspect.reason, aspect.message)
    return Condition("Ready", TRUE, "Running", "topics, credentials and workloads are as the Pipeline asks")


def _stages(
    pipeline: Pipeline, seen: Observation, plan: Plan, workloads: Mapping[str, Workload], figures: Figures
) -> Iterator[dict[str, Any]]:
    pods = {pod.stage: pod for pod in seen.pods if pod.waits is not None or pod.trouble is not None}
    for stage in pipeline.spec.stages:
        workload, verdict, pod = workloads.get(stage.name), plan.verdicts.get(stage.name), pods.get(stage.name)
        said: dict[str, Any] = {"name": stage.name, "kind": _kind(stage)}
        if workload is not None and verdict is not None:
            said |= {"replicas": verdict.replicas, "readyReplicas": workload.ready}
        reason = _stage_reason(pod, verdict)
        if reason is not None:
            said |= {"reason": reason.reason, "message": reason.message}
        said |= _texts(figures, stage.name)
        kept = _remembered(stage.name, seen, verdict)
        yield said | ({"scaling": dict(kept)} if kept else {})


def _remembered(stage: str, seen: Observation, verdict: Wanted | None) -> Mapping[str, Any]:
    """What a restart must not forget. That is what stands there while nothing is known here, or nothing carried out."""
    before, lasting = seen.identity.scaling.get(stage), seen.lasting.get(stage)
    if lasting is None or verdict is None or verdict.reason == "Frozen":
        return before or {}
    return scaling.remembered(Memory(lasting=lasting), before) if before or lasting != scaling.Lasting() else {}


def _kind(stage: object) -> str:
    return "producer" if isinstance(stage, Producer) else "sink" if isinstance(stage, Sink) else "processor"


def _stage_reason(pod: PodState | None, verdict: Wanted | None) -> Trouble | None:
    if pod is not None and pod.trouble is not None:
        return pod.trouble
    if pod is not None and pod.waits is not None:
        return Trouble(WAITING, pod.waits)
    return Trouble(verdict.reason, verdict.sentence) if verdict is not None else None


def _why(ready: Condition, stages: tuple[dict[str, Any], ...]) -> str:
    """The one word of the column: what keeps the Pipeline from being ready, else what its worst stage does."""
    if not ready.is_good:
        return ready.reason
    reasons = [stage["reason"] for stage in stages if stage.get("reason", "Pinned") not in _UNSCALED]
    return max(reasons, key=_severity, default="Running")


def _counted(seen: Observation, plan: Plan) -> str:
    if isinstance(seen.topics, Trouble) or not plan.wanted:
        return "?"
    pending = {step.name for step in plan.steps if isinstance(step, TOPIC_STEPS)}
    wrong = len(plan.topic_problems) + len(plan.conflicts)
    return f"{max(0, len(plan.wanted) - len(pending) - wrong)}/{len(plan.wanted)}"


def figures_of(pipeline: Pipeline, decided: Mapping[str, Decision], rate: float | None) -> dict[Figure, float]:
    """Lag (records), behind (seconds), rate (records/s) of a Pipeline and its stages, as far as they are known.

    An unknown number of one stage makes the sum unknown: a missing measurement is no zero.

    Args:
        pipeline: the stages that count.
        decided: the last decision on each of them.
        rate: records per second into the first topics.
    """
    figures = {} if rate is None else {("", "rate"): rate}
    known = {stage: each.verdict.inputs for stage, each in decided.items() if each.verdict.inputs.missing is None}
    for stage, seen in known.items():
        figures |= {(stage, "lag"): float(seen.lag), (stage, "behind"): seen.behind_s, (stage, "rate"): seen.rate}
        figures |= {(stage, "capacity"): seen.capacity} if seen.capacity_is_measured else {}
        figures |= {(stage, AT_LEAST): 1.0} if seen.behind_is_at_least else {}
    if known and known.keys() == {stage.name for stage in pipeline.spec.consuming_stages}:
        oldest = max(known.values(), key=lambda seen: seen.behind_s)
        figures["", "lag"] = float(sum(seen.lag for seen in known.values()))
        figures["", "behind"] = oldest.behind_s
        figures |= {("", AT_LEAST): 1.0} if oldest.behind_is_at_least else {}
    return figures


def middle(recent: Sequence[Figures]) -> dict[Figure, float]:
    """The median of the last looks; a figure that is unknown now is unknown."""
    latest = recent[-1] if recent else {}
    return {figure: median(look[figure] for look in recent if figure in look) for figure in latest}


def steady(shown: Figures, fresh: Figures) -> dict[Figure, float]:
    """What to show: a number that changed by less than a quarter, or two, is the one that is shown already.

    Even load is not even at the moments at which it is looked at, lag least of all: it is what came since the last transaction.
    """
    return {
        figure: shown[figure] if figure in shown and _is_near(figure, shown[figure], value, fresh) else value
        for figure, value in fresh.items()
    }


def _is_near(figure: Figure, one: float, other: float, fresh: Figures) -> bool:
    stage, name = figure
    in_flight = _IN_FLIGHT_S * fresh.get((stage, "rate"), 0.0) if name == "lag" else 0.0
    share = _NEAR_OF_STAGE if stage else _NEAR
    is_shown_as_none = not stage and not in_flight and (one == 0) != (other == 0)
    return abs(one - other) <= max(_LITTLE, share * max(one, other), in_flight) and not is_shown_as_none


class Told(NamedTuple):
    """A verdict in the words in which it was told, and what it was told of."""

    wanted: Wanted
    figures: Figures


def told_before(before: Mapping[str, Told], verdicts: Mapping[str, Wanted], figures: Figures) -> dict[str, Told]:
    """Each verdict in the words of before, unless it says something else, or of other figures.

    Sentences hold numbers that are never twice the same; a status that repeated each would be written at every look.
    """
    told = {}
    for stage, wanted in verdicts.items():
        own = {figure: value for figure, value in figures.items() if figure[0] == stage}
        known = before.get(stage)
        is_same = known is not None and known.figures == own and _says(known.wanted) == _says(wanted)
        told[stage] = known if known is not None and is_same else Told(wanted, own)
    return told


def _says(wanted: Wanted) -> Wanted:
    return replace(wanted, sentence="")


def _texts(figures: Figures, stage: str) -> dict[str, str]:
    """The figures of a stage, or of the Pipeline, for people."""
    found = {name: value for (owner, name), value in figures.items() if owner == stage}
    texts = {}
    if "lag" in found:
        texts["lag"] = amount(found["lag"])
    if "behind" in found:
        texts["behind"] = f"{'>' if AT_LEAST in found else ''}{duration(found['behind'])}"
    for name in ("rate", "capacity"):
        if name in found:
            texts[name] = f"{amount(found[name])}/s"
    return texts


def rounded(number: float) -> float:
    """To two significant digits, away from digits that only flicker."""
    if number <= 0:
        return 0.0
    scale = 10.0 ** (math.floor(math.log10(number)) - 1)
    return round(number / scale) * scale


def amount(number: float) -> str:
    """Two significant digits, as people write them: 7, 43, 120, 1.2k, 35M."""
    value = rounded(number)
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.2g}{suffix}" if value < 100 * size else f"{value / size:.0f}{suffix}"
    return f"{value:.2g}" if value < _TENS and value != int(value) else f"{value:.0f}"


def duration(seconds: float) -> str:
    """A rough age, in the coarsest unit that tells: 0s, 4s, 40s, 3m, 5h, 2d."""
    for size, suffix in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{rounded(seconds / size):.0f}{suffix}"
    return f"{rounded(seconds):.0f}s"


def _joined(sentences: Iterable[str]) -> str:
    all_of_them = list(sentences)
    shown = "; ".join(all_of_them[:_MOST_PROBLEMS])
    more = len(all_of_them) - _MOST_PROBLEMS
    return f"{shown}; and {more} more" if more > 0 else shown


def status_patch(previous: Mapping[str, Any], wanted: Report, *, now: str, written_s: float) -> dict[str, Any] | None:
    """The merge patch that brings a status to what it should say; None when it need not be written now.

    Args:
        previous: the status as it is.
        wanted: what it should say.
        now: the time, as Kubernetes writes it.
        written_s: seconds since it was written last.
    """
    numbers = {name: wanted.numbers.get(name) for name in ("lag", "behind", "rate")}
    status = {
        "observedGeneration": wanted.generation,
        "conditions": _conditions(previous.get("conditions", ()), wanted, now),
        **wanted.facts,
        **numbers,
    }
    changed = {name: value for name, value in status.items() if previous.get(name) != value}
    is_urgent = any(_urgent(name, value) != _urgent(name, previous.get(name)) for name, value in changed.items())
    return {"status": changed} if changed and (is_urgent or written_s >= NUMBERS_EVERY_S) else None


def _urgent(name: str, value: Any) -> Any:
    """The part of a status that is written at once. What follows the load waits: it may change at every look."""
    match name:
        case "conditions":
            return [_without_load(condition) for condition in value or ()]
        case "observedGeneration" | "topics" | "upgradedAt":
            return value
        case _:
            return None


def _without_load(condition: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**condition, "reason": "", "message": ""} if condition["type"] == "Scaling" else condition


def _conditions(previous: Iterable[Mapping[str, Any]], wanted: Report, now: str) -> list[dict[str, Any]]:
    known = {condition["type"]: condition for condition in previous}
    result = []
    for condition in wanted.conditions:
        before = known.get(condition.type, {})
        is_same = before.get("status") == condition.status
        result.append(
            {
                "type": condition.type,
                "status": condition.status,
                "observedGeneration": wanted.generation,
                "lastTransitionTime": before.get("lastTransitionTime", now) if is_same else now,
                "reason": condition.reason,
                "message": condition.message[:_LONGEST_MESSAGE],
            }
        )
    return result


PASSING = frozenset({"Deleting", "Paused"})
"""Not good, and nothing to worry about."""
_BUSY = frozenset({"Changing", "Progressing"})
"""What is being done has Events of its own."""


def is_worth_an_event(before: Mapping[str, Any], now: Condition) -> bool:
    """Whether a condition has changed so that its users should hear of it; `before` is what the status says."""
    match now.type:
        case "Ready":
            is_same = (before.get("status"), before.get("reason")) == (now.status, now.reason)
            return not is_same and now.reason not in _BUSY
        case "Scaling":
            flipped = {before.get("status"), now.status} == {TRUE, FALSE}
            return flipped and not {before.get("reason"), now.reason} & PASSING
        case _:
            return False


def ledger(status: Mapping[str, Any]) -> dict[str, str]:
    """The topics that a Pipeline created or adopted, with Kafka's ids, from its status."""
    return {entry["name"]: entry["id"] for entry in status.get("managedTopics", ())}


def ledger_patch(known: Mapping[str, str]) -> dict[str, Any]:
    """The patch that writes them down."""
    return {"status": {"managedTopics": [{"name": name, "id": known[name]} for name in sorted(known)]}}


def users_recorded(status: Mapping[str, Any]) -> frozenset[str]:
    """The users that a Pipeline made or adopted in Kafka, from its status."""
    return frozenset(status.get("managedUsers", ()))


def users_patch(recorded: Iterable[str]) -> dict[str, Any]:
    """The patch that records them."""
    return {"status": {"managedUsers": sorted(recorded)}}


def is_ready(status: Mapping[str, Any]) -> bool:
    """Whether a status says that the Pipeline does all that it was asked for."""
    return any(each["type"] == "Ready" and each["status"] == TRUE for each in status.get("conditions", ()))


def upgraded_at(status: Mapping[str, Any]) -> float | None:
    """When a Pipeline that has not been ready since was rendered anew, in epoch seconds, from its status."""
    try:
        return datetime.fromisoformat(status["upgradedAt"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return None


def upgrade_patch(at: float) -> dict[str, Any]:
    """The patch that records it."""
    return {"status": {"upgradedAt": _moment(at)}}


def upgraded(report: Report, at: float | None) -> Report:
    """The report with the same, or without it once that is over."""
    return replace(report, facts={**report.facts, "upgradedAt": None if at is None else _moment(at)})


def held(namespace: str, name: str) -> str:
    """Why a Pipeline is not rendered anew: that one was, and is not ready."""
    return (
        f"a new version of the operator stops at {namespace}/{name}, which is not ready since it was rendered anew: "
        "see its conditions; mend it, or take the upgrade back"
    )


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def scaling_kept(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What the status holds for `scaling.recalled`, by stage; whether it makes sense is judged there."""
    return {
        stage["name"]: stage["scaling"]
        for stage in status.get("stages", ())
        if isinstance(stage.get("scaling"), Mapping)
    }
