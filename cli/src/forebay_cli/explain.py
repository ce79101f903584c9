"""`forebay explain`: what is decided on the replicas of each stage, and on which figures, in sentences.

Three places tell: the status of a Pipeline in a cluster (read through kubectl, with the user's own rights), the folder of a
run, and the operator's log. The last two hold whole decisions, so that each can be made again with the rules of today.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from forebay.errors import ForebayError, InvalidPipeline
from forebay.pipeline.load import load_object
from forebay.pipeline.spec import DNS_LABEL, Pipeline
from forebay.planning.scaling import Decision, Log, ScalingPolicy, policy_of, recalled, replayed

MOST_CHANGES = 10
_KUBECTL_TIMEOUT_S = 30


class _NothingToExplainError(ForebayError):
    """There is no decision where one was looked for."""


def explain(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PIPELINE|FOLDER|FILE|-",
            help="A Pipeline in the cluster that kubectl talks to; the folder of a run; a file, or - for standard input, "
            "with a Pipeline as JSON, decisions of a run, or the operator's log.",
        ),
    ],
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", metavar="NAME", help="Of the Pipeline; default: kubectl's.")
    ] = None,
) -> None:
    """Tell how many replicas each stage should have, why, and on which figures that was decided.

    From a run's folder or the operator's log: also the changes before, and where today's rules would decide otherwise.
    """
    path = Path(source)
    if source == "-":
        lines = _of_text(sys.stdin.read(), "standard input")
    elif (path / "decisions").is_dir():
        lines = _of_folder(path)
    elif path.is_file():
        lines = _of_text(_read(path), path.stem)
    elif re.fullmatch(DNS_LABEL, source):
        lines = of_pipeline(_ask_cluster(source, namespace), time.time())
    else:
        raise typer.BadParameter(
            f"{source!r} is neither the name of a Pipeline, nor the folder of a run in which stages are scaled, nor a file",
            param_hint="PIPELINE",
        )
    print("\n".join(lines))


def _of_folder(folder: Path) -> Iterator[str]:
    for file in sorted((folder / "decisions").glob("*.jsonl")):
        yield from of_log(file.stem, _parsed(_read(file), file.stem).get(file.stem, ()))


def _of_text(text: str, name: str) -> Iterator[str]:
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if isinstance(document, dict) and document.get("kind") == "Pipeline":
        yield from of_pipeline(document, time.time())
        return
    logs = _parsed(text, name)
    if not logs:
        raise _NothingToExplainError(f"{name} holds neither a Pipeline nor a decision on replicas")
    for stage, log in logs.items():
        yield from of_log(stage, log)


def _parsed(text: str, name: str) -> dict[str, Log]:
    """The decisions among lines of JSON, by stage; other lines of a log are passed over.

    Args:
        text: decisions as a run stores them, or the operator's log.
        name: the stage, where the lines themselves do not say.
    """
    found: dict[str, Log] = {}
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            is_logged = isinstance(entry, dict) and entry.get("event") == "decision"
            decision = msgspec.convert(entry["decision"] if is_logged else entry, type=Decision)
        except (ValueError, KeyError):  # msgspec.ValidationError is a ValueError
            continue
        stage = f"{entry.get('namespace')}/{entry.get('pipeline')} {entry.get('stage')}" if is_logged else name
        found[stage] = (*found.get(stage, ()), decision)
    return found


def of_log(stage: str, log: Log) -> Iterator[str]:
    """What is to be said of a stage's decisions, the last first."""
    if not log:
        yield f"{stage}: nothing has been decided yet"
        return
    last = log[-1]
    seen = last.verdict.inputs
    yield f"{stage}: {_replicas(last.verdict.replicas)} ({last.verdict.reason}): {last.verdict.sentence}"
    yield f"  said {last.times} times in {last.held_s:.0f} s; {_allowed(last.policy)}"
    if seen.missing is None:
        yield f"  seen: {seen.lag} records left to read, {seen.behind_s:.1f} s behind, {seen.rate:.0f} records/s arriving"
        measured = seen.capacity if seen.capacity_is_measured else None
        yield f"  {_known(measured, seen.capacity, seen.scale_out_s, seen.scale_in_s)}"
    changes = [decision for decision in log if decision.verdict.is_change]
    for decision in changes[-MOST_CHANGES:]:
        yield f"  {seen.now - decision.verdict.inputs.now:.0f} s before: {_change(decision)}"
    for decision in log:
        again = replayed(decision)
        if again != decision.verdict:
            yield (
                f"  {seen.now - decision.verdict.inputs.now:.0f} s before, today's rules would have said: "
                f"{_replicas(again.replicas)} ({again.reason}): {again.sentence}"
            )


def of_pipeline(document: Mapping[str, Any], now: float) -> Iterator[str]:
    """What the status of a Pipeline object says of its stages' replicas. `now` in seconds since the epoch."""
    name, status = document["metadata"]["name"], document.get("status", {})
    stages = {stage["name"]: stage for stage in status.get("stages", ())}
    for condition in status.get("conditions", ()):
        if condition.get("type") in {"Ready", "Scaling"} and condition.get("status") != "True":
            yield f"{name}: {condition.get('type')} is {condition.get('status')}: {condition.get('message')}"
    if not stages:
        yield f"{name}: the operator has not looked at it yet"
        return
    policies = dict(_policies(document))
    for stage, said in stages.items():
        yield from _of_stage(stage, said, policies.get(stage), now)


def _of_stage(stage: str, said: Mapping[str, Any], policy: ScalingPolicy | None, now: float) -> Iterator[str]:
    ready = f"{said.get('readyReplicas', '?')} of {said.get('replicas', '?')} replicas are ready"
    yield f"{stage}: {ready} ({said.get('reason', '?')}): {said.get('message', 'nothing has been decided yet')}"
    if policy is None:
        return
    yield f"  {_allowed(policy)}"
    figures = {"lag": "records left to read", "behind": "behind", "rate": "arriving"}
    if seen := [f"{said[figure]} {words}" for figure, words in figures.items() if figure in said]:
        yield f"  seen: {', '.join(seen)}"
    lasting = recalled(said.get("scaling"), now).lasting
    yield f"  {_known(lasting.capacity, lasting.fastest, lasting.scale_out_s, lasting.scale_in_s)}"
    if lasting.changed_at is not None:
        at = datetime.fromtimestamp(lasting.changed_at, UTC)
        yield f"  replicas were changed last at {at:%Y-%m-%d %H:%M:%S} UTC, {now - lasting.changed_at:.0f} s ago"


def _policies(document: Mapping[str, Any]) -> Iterator[tuple[str, ScalingPolicy]]:
    """Of the stages whose replicas are decided on; of none where the spec cannot be read."""
    parts = ("apiVersion", "kind", "metadata", "spec")
    try:
        pipeline: Pipeline = load_object({part: document[part] for part in parts if part in document})
    except InvalidPipeline:
        return
    for stage in pipeline.spec.consuming_stages:
        if not stage.autoscaling.is_pinned:
            yield stage.name, policy_of(stage.autoscaling)


def _allowed(policy: ScalingPolicy) -> str:
    zero = ", none while idle" if policy.scale_to_zero else ""
    return (
        f"allowed: {policy.min_replicas} to {_replicas(policy.max_replicas)}{zero}, "
        f"{policy.freshness_seconds:g} s behind at most"
    )


def _known(capacity: float | None, fastest: float, scale_out_s: float, scale_in_s: float) -> str:
    replica = f"one replica did up to {fastest:.0f} records/s, and was never busy enough to be measured"
    if capacity is not None:
        replica = f"one replica does {capacity:.0f} records/s"
    return f"known: {replica}; a scale-out takes {scale_out_s:.0f} s, a scale-in {scale_in_s:.0f} s"


def _change(decision: Decision) -> str:
    verdict = decision.verdict
    return f"{verdict.inputs.replicas} -> {_replicas(verdict.replicas)} ({verdict.reason}): {verdict.sentence}"


def _replicas(count: int) -> str:
    return f"{count} replica{'' if count == 1 else 's'}"


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError as error:
        raise _NothingToExplainError(f"cannot read {file}: {error.strerror}") from error


def _ask_cluster(name: str, namespace: str | None) -> dict[str, Any]:
    """The Pipeline object, as kubectl has it."""
    where = [] if namespace is None else ["--namespace", namespace]
    command = ["kubectl", "get", "pipelines.forebay.dev", name, "--output", "json", *where]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_KUBECTL_TIMEOUT_S, check=False)
    except FileNotFoundError as error:
        raise _NothingToExplainError(
            "kubectl is not installed here: install it, or hand over what it says elsewhere: "
            f"kubectl get pipeline {name} -o json | forebay explain -"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise _NothingToExplainError(f"the cluster did not answer kubectl within {_KUBECTL_TIMEOUT_S} s") from error
    if answer.returncode != 0:
        raise _NothingToExplainError(answer.stderr.strip() or f"kubectl ended with exit code {answer.returncode}")
    found: dict[str, Any] = json.loads(answer.stdout)
    return found
