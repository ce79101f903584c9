"""What a Pipeline's status says: conditions, columns, stages. Values in, values out.

Conditions change as soon as they do. Numbers are rounded to two significant digits and change at most every 30 seconds:
while a Pipeline runs evenly nothing is written at all. Exact numbers are metrics.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from forebay.pipeline import names
from forebay.pipeline.spec import Pipeline, Producer, Sink
from forebay.planning.by_lag import Measured
from forebay.planning.pods import PodState, Trouble
from forebay.planning.reconciling import TOPIC_STEPS, Apply, Observation, Plan, Remove, Workload, workloads_of

NUMBERS_EVERY_S = 30.0
_TENS = 10
_NEAR = 0.25
AT_LEAST = "at least"
"""Among numbers: behind is more than it says."""

TRUE, FALSE, UNKNOWN = "True", "False", "Unknown"
_MOST_PROBLEMS = 20
"""Sentences in one message; Kubernetes takes 32 KiB, and nobody reads more."""


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
    message = _joined(problems)
    return Report(
        generation=generation,
        conditions=(Condition("Ready", FALSE, "Invalid", message),),
        facts={"why": "Invalid"},
    )


def leaving(generation: int, plan: Plan) -> Report:
    """The Pipeline is being deleted."""
    message = plan.waits_for or "what the Pipeline made is being removed"
    return Report(
        generation=generation,
        conditions=(Condition("Ready", FALSE, "Deleting", message),),
        facts={"why": "Deleting"},
    )


def report(
    pipeline: Pipeline,
    seen: Observation,
    plan: Plan,
    *,
    generation: int,
    numbers: Mapping[str, float],
    failure: str | None = None,
) -> Report:
    """What to say of a Pipeline.

    Args:
        pipeline: what is asked for.
        seen: what was observed before the steps of the plan were taken.
        plan: what was decided on it.
        generation: the one of the spec.
        numbers: from `numbers_of`.
        failure: why a step could not be taken, as a sentence.
    """
    workloads = workloads_of(pipeline, seen)
    aspects = (
        _topics(seen, plan),
        _credentials(seen),
        _workloads(seen, plan, workloads),
        _scaling(seen, plan),
    )
    ready = _ready(seen, aspects, failure)
    stages = tuple(_stages(pipeline, seen, plan, workloads))
    return Report(
        generation=generation,
        conditions=(ready, *aspects),
        numbers=_texts(numbers),
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


def _credentials(seen: Observation) -> Condition:
    if seen.secrets:
        return Condition("CredentialsReady", FALSE, "SecretsIncomplete", _joined(seen.secrets))
    return Condition("CredentialsReady", TRUE, "Complete", "every Secret that the Pipeline names is there and complete")


def _workloads(seen: Observation, plan: Plan, workloads: Mapping[str, Workload]) -> Condition:
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
    missing = sorted(plan.verdicts.keys() - {stage for stage, w in workloads.items() if w.is_rolled_out})
    if missing or not workloads:
        words = "no stage is deployed" if not workloads else f"not yet rolled out and ready: {', '.join(missing)}"
        return Condition(kind, FALSE, "Progressing", words)
    return Condition(kind, TRUE, "RolledOut", "every replica is of the newest revision and ready")


def _scaling(seen: Observation, plan: Plan) -> Condition:
    """Whether scaling can do its work; the worst stage gives the reason."""
    kind = "Scaling"
    verdicts = {stage: v for stage, v in plan.verdicts.items() if v.reason not in {"Pinned", "External"}}
    if seen.identity.is_paused:
        return Condition(kind, FALSE, "Paused", "replicas stay as they are while the Pipeline is paused")
    if not verdicts:
        return Condition(kind, TRUE, "Pinned", "every stage has a fixed number of replicas")
    worst = max(verdicts.values(), key=lambda verdict: _SEVERITY.get(verdict.reason, 1))
    message = _joined(f"{stage}: {verdict.sentence}" for stage, verdict in verdicts.items())
    return Condition(kind, _SCALING_STATUS.get(worst.reason, TRUE), worst.reason, message)


_SEVERITY = {
    "Frozen": 9,
    "LagUnknown": 8,
    "AtMaximum": 7,
    "Behind": 6,
    "Woken": 5,
    "Rebalancing": 4,
    "KeepingUp": 0,
    "Idle": 0,
}
_SCALING_STATUS = {"Frozen": UNKNOWN, "LagUnknown": UNKNOWN, "AtMaximum": FALSE}


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
    pipeline: Pipeline, seen: Observation, plan: Plan, workloads: Mapping[str, Workload]
) -> Iterator[dict[str, Any]]:
    pods = {pod.stage: pod for pod in seen.pods if pod.trouble is not None}
    for stage in pipeline.spec.stages:
        workload, verdict, pod = workloads.get(stage.name), plan.verdicts.get(stage.name), pods.get(stage.name)
        said: dict[str, Any] = {"name": stage.name, "kind": _kind(stage)}
        if workload is not None and verdict is not None:
            said |= {"replicas": verdict.replicas, "readyReplicas": workload.ready}
        reason = _stage_reason(pod, verdict)
        if reason is not None:
            said |= {"reason": reason.reason, "message": reason.message}
        if (changed_at := seen.identity.changed_at.get(stage.name)) is not None:
            said["scaling"] = {"changedAt": changed_at}
        yield said


def _kind(stage: object) -> str:
    return "producer" if isinstance(stage, Producer) else "sink" if isinstance(stage, Sink) else "processor"


def _stage_reason(pod: PodState | None, verdict: Any) -> Trouble | None:
    if pod is not None and pod.trouble is not None:
        return pod.trouble
    return Trouble(verdict.reason, verdict.sentence) if verdict is not None else None


def _why(ready: Condition, stages: tuple[dict[str, Any], ...]) -> str:
    """The one word of the column: what keeps the Pipeline from being ready, else what its worst stage does."""
    if not ready.is_good:
        return ready.reason
    reasons = [stage.get("reason", "") for stage in stages if stage.get("reason") not in {None, "Pinned", "External"}]
    return max(reasons, key=lambda reason: _SEVERITY.get(reason, 1), default="Running")


def _counted(seen: Observation, plan: Plan) -> str:
    if isinstance(seen.topics, Trouble) or not plan.wanted:
        return "?"
    pending = {step.name for step in plan.steps if isinstance(step, TOPIC_STEPS)}
    wrong = len(plan.topic_problems) + len(plan.conflicts)
    return f"{max(0, len(plan.wanted) - len(pending) - wrong)}/{len(plan.wanted)}"


def numbers_of(measured: Iterable[Measured], rate: float | None) -> dict[str, float]:
    """Lag (records), behind (seconds), rate (records/s) of a Pipeline, as far as they are known.

    An unknown number of one stage makes the sum unknown: a missing measurement is no zero.
    """
    known = list(measured)
    lags = [one.lag for one in known if one.lag is not None]
    ages = [one for one in known if one.behind_s is not None]
    result = {}
    if known and len(lags) == len(known):
        result["lag"] = float(sum(lags))
    if known and len(ages) == len(known):
        oldest = max(ages, key=lambda one: one.behind_s or 0)
        result["behind"] = oldest.behind_s or 0.0
        result |= {AT_LEAST: 1.0} if oldest.is_at_least else {}
    if rate is not None:
        result["rate"] = rate
    return result


def steady(shown: Mapping[str, float], fresh: Mapping[str, float]) -> dict[str, float]:
    """What to show: a number that changed by less than a quarter, or two, is the one that is shown already.

    Even load is not even at the moments at which it is looked at.
    """
    return {
        name: shown[name] if name in shown and _is_near(shown[name], value) else value for name, value in fresh.items()
    }


def _is_near(one: float, other: float) -> bool:
    return abs(one - other) <= max(2.0, _NEAR * max(one, other)) and (one == 0) == (other == 0)


def _texts(found: Mapping[str, float]) -> dict[str, str]:
    texts = {}
    if "lag" in found:
        texts["lag"] = amount(found["lag"])
    if "behind" in found:
        texts["behind"] = f"{'>' if AT_LEAST in found else ''}{duration(found['behind'])}"
    if "rate" in found:
        texts["rate"] = f"{amount(found['rate'])}/s"
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
    is_urgent = any(_lasting(name, value) != _lasting(name, previous.get(name)) for name, value in changed.items())
    return {"status": changed} if changed and (is_urgent or written_s >= NUMBERS_EVERY_S) else None


def _lasting(name: str, value: Any) -> Any:
    """A part of a status without what flickers: numbers, and sentences that hold some."""
    match name:
        case "lag" | "behind" | "rate":
            return None
        case "stages":
            return [{key: one[key] for key in one if key != "message"} for one in value or ()]
        case "conditions":
            return [one | {"message": ""} if one["type"] == "Scaling" else one for one in value or ()]
        case _:
            return value


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
                "message": condition.message,
            }
        )
    return result


def ledger(status: Mapping[str, Any]) -> dict[str, str]:
    """The topics that a Pipeline created or adopted, with Kafka's ids, from its status."""
    return {entry["name"]: entry["id"] for entry in status.get("managedTopics", ())}


def ledger_patch(known: Mapping[str, str]) -> dict[str, Any]:
    """The patch that writes them down."""
    return {"status": {"managedTopics": [{"name": name, "id": known[name]} for name in sorted(known)]}}


def changes(status: Mapping[str, Any]) -> dict[str, float]:
    """When each stage's replicas were changed last, from the status."""
    return {
        stage["name"]: float(stage["scaling"]["changedAt"])
        for stage in status.get("stages", ())
        if "changedAt" in stage.get("scaling", {})
    }
