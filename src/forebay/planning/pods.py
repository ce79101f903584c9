"""What a pod says about itself, in the words that `kubectl get pods` uses, and which pods stand in the way of a rollout."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from forebay.pipeline.names import STAGE_LABEL

_PATIENT = frozenset({"ContainerCreating", "PodInitializing"})
"""Reasons to wait that pass by themselves."""

_REVISION = "controller-revision-hash"
_LONGEST_MESSAGE = 300
_SOON_READY_S = 8.0
"""A replica that starts is ready within seconds; one that is not is asked what it waits for."""
_DIGITS = re.compile(r"[0-9.]+")


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something is not as it should be: one word for machines and columns, one sentence for people."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PodState:
    """One pod of a stage."""

    name: str
    stage: str
    is_ready: bool
    is_leaving: bool
    revision: str | None
    """Of the StatefulSet's template; None for other pods."""
    trouble: Trouble | None
    address: str | None = None
    running_since: float | None = None
    """When its container was started that runs now, in epoch seconds."""
    waits: str | None = None
    """What it waits for, in its own words."""

    @property
    def is_starting(self) -> bool:
        """Whether it runs, is not ready, and nothing is known to be wrong with it."""
        return self.running_since is not None and not (self.is_ready or self.is_leaving or self.trouble)

    def is_late(self, now: float) -> bool:
        """Whether that lasts for longer than a start does."""
        return self.is_starting and now - (self.running_since or now) > _SOON_READY_S


def read(pod: Mapping[str, Any]) -> PodState:
    """The state of a pod, from its object."""
    metadata, status = pod["metadata"], pod.get("status", {})
    labels = metadata.get("labels", {})
    conditions = {condition["type"]: condition for condition in status.get("conditions", ())}
    is_ready = conditions.get("Ready", {}).get("status") == "True"
    return PodState(
        name=metadata["name"],
        stage=labels.get(STAGE_LABEL, ""),
        is_ready=is_ready,
        is_leaving="deletionTimestamp" in metadata,
        revision=labels.get(_REVISION),
        trouble=None if is_ready else next(_troubles(status, conditions), None),
        address=status.get("podIP"),
        running_since=_running_since(status),
    )


def _running_since(status: Mapping[str, Any]) -> float | None:
    states = (container.get("state", {}).get("running") for container in status.get("containerStatuses", ()))
    running = next((state for state in states if state and state.get("startedAt")), None)
    return None if running is None else datetime.fromisoformat(running["startedAt"]).timestamp()


def in_words(answer: str, before: str | None) -> str:
    """What a replica answered when it was asked what it waits for; as before where only numbers differ."""
    words = _short(answer)
    return before if before is not None and _DIGITS.sub("", before) == _DIGITS.sub("", words) else words


def has_ended(pod: Mapping[str, Any]) -> bool:
    """Whether all of its containers have ended for good: an object that is left over."""
    return pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}


def _troubles(status: Mapping[str, Any], conditions: Mapping[str, Any]) -> Iterator[Trouble]:
    for container in status.get("containerStatuses", ()):
        waiting = container.get("state", {}).get("waiting")
        ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated")
        if waiting and waiting.get("reason", "") not in _PATIENT:
            last = _last_words(ended)
            yield Trouble(waiting.get("reason", "Waiting"), last or _short(waiting.get("message", "")))
        elif ended and container.get("restartCount", 0):
            yield Trouble(ended.get("reason", "Error"), _last_words(ended) or f"exit code {ended.get('exitCode')}")
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        yield Trouble(scheduled.get("reason", "Unschedulable"), _short(scheduled.get("message", "")))
    if status.get("reason"):  # Evicted, NodeLost
        yield Trouble(status["reason"], _short(status.get("message", "")))


def _last_words(ended: Mapping[str, Any] | None) -> str:
    """The last line of a container's log, which the kubelet keeps when a container fails without another message."""
    if not ended:
        return ""
    lines = [line for line in ended.get("message", "").splitlines() if line.strip()]
    words = _short(lines[-1]) if lines else ""
    return f"exit code {ended.get('exitCode')}: {words}" if words else ""


def _short(text: str) -> str:
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[:_LONGEST_MESSAGE]}..."


def in_the_way(workload: Mapping[str, Any], pods: Iterable[PodState]) -> Iterator[PodState]:
    """Broken pods of an old revision, for which a StatefulSet waits for ever instead of replacing them.

    The controller replaces a pod of an old revision only when all others are ready, and one that crashes never is
    (https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#forced-rollback).
    """
    status = workload.get("status", {})
    revision = status.get("updateRevision")
    seen = status.get("observedGeneration") == workload["metadata"].get("generation")
    if workload["kind"] != "StatefulSet" or not seen or not revision:
        return
    stage = workload["metadata"].get("labels", {}).get(STAGE_LABEL)
    for pod in pods:
        if pod.stage == stage and pod.trouble and not pod.is_leaving and pod.revision not in {None, revision}:
            yield pod
