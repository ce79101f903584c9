"""Managed users in the round over a Pipeline: what is looked at for `rotation`, and what follows beside it.

That is: Secrets that somebody else made where those of stages belong, Secrets of stages that are gone, and users of a Pipeline
that wants none managed any more.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from forebay.pipeline import names
from forebay.pipeline.spec import Pipeline, Stage
from forebay.planning.credentials import rotation, users
from forebay.planning.credentials.rotation import Issued, Plan, RemoveLogin, Seen, StageSeen, Step
from forebay.planning.credentials.users import GENERATIONS, Present, RememberUsers


@dataclass(frozen=True, slots=True)
class LoginSecret:
    """A Secret that was written for a stage of the Pipeline, or that is where one belongs; without its contents."""

    is_ours: bool
    """It was made for this very Pipeline object."""
    issued: Issued | None = None
    """None: it is not whole, or of no stage that there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logins:
    """What was seen of the managed users of a Pipeline."""

    present: Present
    secrets: Mapping[str, LoginSecret] = field(default_factory=dict)
    """By name, those that there are."""
    pods: Mapping[str, Mapping[str, int | None]] = field(default_factory=dict)
    """By stage that is `awaited`: all pods that have not ended, with the generation that each says it uses."""
    now_s: float
    """In epoch seconds."""


def is_managed(pipeline: Pipeline) -> bool:
    """Whether its stages have users of their own, which the operator makes."""
    sasl = pipeline.spec.kafka.sasl
    return sasl is not None and sasl.users is not None


def awaited(pipeline: Pipeline, present: Present, secrets: Mapping[str, LoginSecret]) -> frozenset[str]:
    """The stages whose pods have to say which generation they use: those that are between two users, or lack their Secret."""
    stages = pipeline.spec.stages if is_managed(pipeline) else ()
    return frozenset(stage.name for stage in stages if _is_between(pipeline, stage, present, secrets))


def _is_between(pipeline: Pipeline, stage: Stage, present: Present, secrets: Mapping[str, LoginSecret]) -> bool:
    issued = _issued(secrets.get(names.login_secret(pipeline, stage)))
    both = {names.user(pipeline, stage, generation) for generation in GENERATIONS}
    return issued is None or present.users & both != {names.user(pipeline, stage, issued.generation)}


def plan(
    pipeline: Pipeline, logins: Logins, *, recorded: frozenset[str], asked: str, is_settled: bool, adopt: bool
) -> Plan:
    """What to do about users and their Secrets now.

    Args:
        pipeline: whose users they are.
        logins: what was seen of them.
        recorded: the users that were recorded as the Pipeline's own.
        asked: the Pipeline's annotation `names.ROTATE_ANNOTATION`.
        is_settled: all pods are as the Pipeline asks, and those of stages that it had are gone.
        adopt: take over users and Secrets that somebody else made.
    """
    stages = {names.login_secret(pipeline, stage): stage.name for stage in pipeline.spec.stages}
    wanted = stages if is_managed(pipeline) else {}
    if foreign := [] if adopt else sorted(_foreign(wanted, logins)):
        return Plan(problems=tuple(_complaint(name) for name in foreign))
    former = sorted(name for name, found in logins.secrets.items() if found.is_ours and name not in wanted)
    removals: tuple[Step, ...] = tuple(RemoveLogin(name) for name in former) if is_settled else ()
    if not is_managed(pipeline):
        return Plan(steps=(*removals, *(_end(pipeline, logins.present, recorded) if is_settled else ())))
    seen = Seen(
        present=logins.present,
        recorded=recorded,
        stages={
            stage: StageSeen(issued=_issued(logins.secrets.get(name)), pods=logins.pods.get(stage, {}))
            for name, stage in stages.items()
        },
        now_s=logins.now_s,
        asked=asked,
        is_settled=is_settled,
        adopt=adopt,
    )
    decided = rotation.plan(pipeline, seen)
    return decided if decided.problems else replace(decided, steps=(*decided.steps, *removals))


def _issued(found: LoginSecret | None) -> Issued | None:
    """Of a Secret that is not ours nothing is believed."""
    return found.issued if found is not None and found.is_ours else None


def _foreign(wanted: Mapping[str, str], logins: Logins) -> Iterator[str]:
    for name, found in logins.secrets.items():
        if name in wanted and not found.is_ours:
            yield name


def _end(pipeline: Pipeline, present: Present, recorded: frozenset[str]) -> Iterator[Step]:
    """Nothing is managed any more, and no pod needs what was."""
    yield from users.removal(pipeline, present, recorded)
    if recorded:
        yield RememberUsers(frozenset())


def _complaint(secret: str) -> str:
    return (
        f"Secret {secret} was not made by this Pipeline: delete it, or annotate the Pipeline with "
        f'{names.ADOPT_ANNOTATION}: "true" to have it overwritten'
    )
