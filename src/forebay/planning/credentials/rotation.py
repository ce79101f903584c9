"""When the managed users of stages are made, replaced and deleted: one round's steps from what was seen, whatever came before.

A stage has two users that take turns. The next one is made while the last one works; the Secret changes; every pod says which
generation it uses; and when all have moved, and not before, the last one is deleted. Its ACLs stay, for connections do. Each
step may be the last one that is taken, and may be taken again: planning anew reaches the same end, and no pod is ever without
a user that works.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from forebay.pipeline import names
from forebay.pipeline.spec import Pipeline, Stage
from forebay.planning.credentials import users
from forebay.planning.credentials.formats import GENERATION, PASSWORD, USERNAME
from forebay.planning.credentials.users import GENERATIONS, AddAcls, DeleteUser, Present, RememberUsers, RemoveAcls

KEEP_S = 150.0
"""A user outlives its successor's arrival by this: a pod that starts may be given the former Secret, for the kubelet looks for
another one only once a minute, and may remember it for another."""

_SECONDS = {"h": 3_600, "d": 86_400}
_MOST_NAMED = 5
_DIGITS = 15


@dataclass(frozen=True, slots=True)
class Issued:
    """What the Secret of a stage says about itself; not the password."""

    generation: int
    at_s: float
    """When it was written, in epoch seconds."""
    asked: str = ""
    """The Pipeline's annotation `names.ROTATE_ANNOTATION` at that time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSeen:
    """One stage's Secret and pods."""

    issued: Issued | None = None
    """None: there is no such Secret, or it lacks something."""
    pods: Mapping[str, int | None] = field(default_factory=dict)
    """All that have not ended, with the generation that each says it uses; None while it says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a round looks at."""

    present: Present
    """Of `users.names_of` the Pipeline and what is recorded."""
    recorded: frozenset[str]
    """The users that were recorded as the Pipeline's own."""
    stages: Mapping[str, StageSeen]
    """By name; a stage that is left out has neither Secret nor pods."""
    now_s: float
    """In epoch seconds."""
    asked: str = ""
    """The Pipeline's annotation `names.ROTATE_ANNOTATION`; "" when it has none."""
    is_settled: bool = True
    """All pods are as the Pipeline asks, and those of stages that it had are gone: what they needed may be taken away."""
    adopt: bool = False
    """Take over users that are there without being recorded."""


@dataclass(frozen=True, slots=True)
class Issue:
    """Give a user a new password, see that Kafka accepts it, and write it to the stage's Secret with the rest of this.

    The password exists nowhere else. Whoever is interrupted before the Secret is written has changed nothing for the pods.
    """

    stage: str
    user: str
    generation: int
    asked: str

    def __str__(self) -> str:
        return f"make user {self.user} and write it to the Secret of {self.stage} as generation {self.generation}"


@dataclass(frozen=True, slots=True)
class RemoveLogin:
    """Delete the Secret of a stage that the Pipeline had; one that is gone is no error."""

    secret: str

    def __str__(self) -> str:
        return f"delete Secret {self.secret}, whose stage is gone or has another login"


Step = RememberUsers | AddAcls | Issue | DeleteUser | RemoveAcls | RemoveLogin


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps, in order, and what else there is to say."""

    steps: tuple[Step, ...] = ()
    problems: tuple[str, ...] = ()
    """For a person; with problems there are no steps."""
    waiting: Mapping[str, str] = field(default_factory=dict)
    """By stage, why its former user is still there, as a sentence."""
    due_s: float | None = None
    """When to look again although nothing changes, in epoch seconds; None: no need."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    keep: frozenset[str]
    """Users that have to be there."""
    issue: Issue | None = None
    waiting: str | None = None
    due_s: float | None = None


def plan(pipeline: Pipeline, seen: Seen) -> Plan:
    """What to do about the managed users of a Pipeline now."""
    verdicts = {stage.name: _verdict(pipeline, stage, seen) for stage in pipeline.spec.stages}
    keep = frozenset[str]().union(*(verdict.keep for verdict in verdicts.values()))
    changes = users.diff(pipeline, keep, seen.present, seen.recorded, adopt=seen.adopt)
    if changes.problems:
        return Plan(problems=changes.problems)
    issues = tuple(verdict.issue for verdict in verdicts.values() if verdict.issue is not None)
    return Plan(
        steps=(*changes.first, *issues, *(changes.last if seen.is_settled else ())),
        waiting={name: verdict.waiting for name, verdict in verdicts.items() if verdict.waiting is not None},
        due_s=min((verdict.due_s for verdict in verdicts.values() if verdict.due_s is not None), default=None),
    )


def issued(
    pipeline: Pipeline, stage: Stage, data: Mapping[str, bytes], annotations: Mapping[str, str]
) -> Issued | None:
    """What the Secret of a managed user says about itself; None when it is not whole, or not the stage's.

    Args:
        pipeline: whose stage it is.
        stage: whose Secret it is.
        data: what the Secret holds.
        annotations: of the Secret.
    """
    generation, at_s = (
        data.get(GENERATION, b"").decode(errors="replace"),
        annotations.get(names.ISSUED_AT_ANNOTATION, ""),
    )
    if not _is_number(generation) or not _is_number(at_s) or not data.get(PASSWORD):
        return None
    if data.get(USERNAME, b"").decode(errors="replace") != names.user(pipeline, stage, int(generation)):
        return None
    return Issued(int(generation), float(at_s), annotations.get(names.ROTATED_FOR_ANNOTATION, ""))


def annotations(issued: Issued) -> dict[str, str]:
    """What the Secret is annotated with, beside what `Users.issue` gives it."""
    return {names.ISSUED_AT_ANNOTATION: f"{issued.at_s:.0f}", names.ROTATED_FOR_ANNOTATION: issued.asked}


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < _DIGITS


def every_s(rotate_every: str) -> float | None:
    """The seconds of `rotateEvery`; None for Never."""
    return None if rotate_every == "Never" else float(int(rotate_every[:-1]) * _SECONDS[rotate_every[-1]])


def _verdict(pipeline: Pipeline, stage: Stage, seen: Seen) -> _Verdict:
    here = seen.stages.get(stage.name, StageSeen())
    both = frozenset(names.user(pipeline, stage, generation) for generation in GENERATIONS)
    there = both & seen.present.users
    issued = here.issued
    if issued is None or names.user(pipeline, stage, issued.generation) not in there:
        return _issue(pipeline, stage, seen, _after_loss(pipeline, stage, here, there), there)
    current = frozenset({names.user(pipeline, stage, issued.generation)})
    if there != current:
        until_s = issued.at_s + KEEP_S
        late = sorted(pod for pod, generation in here.pods.items() if generation != issued.generation)
        if late:
            return _Verdict(there, waiting=_late(late, issued.generation))
        if seen.now_s < until_s:
            return _Verdict(there, waiting="the former user is kept for pods that are just starting", due_s=until_s)
        return _Verdict(current)
    due_s = _due_s(pipeline, issued)
    if (seen.asked and seen.asked != issued.asked) or (due_s is not None and due_s <= seen.now_s):
        return _issue(pipeline, stage, seen, issued.generation + 1, there)
    return _Verdict(current, due_s=due_s)


def _issue(pipeline: Pipeline, stage: Stage, seen: Seen, generation: int, there: frozenset[str]) -> _Verdict:
    user = names.user(pipeline, stage, generation)
    return _Verdict(there | {user}, issue=Issue(stage.name, user, generation, seen.asked))


def _after_loss(pipeline: Pipeline, stage: Stage, here: StageSeen, there: frozenset[str]) -> int:
    """The next generation when the Secret, or its user in Kafka, is gone: of the user that pods do not use, if that is known."""
    if here.issued is not None:
        return here.issued.generation + 1
    known = [generation for generation in here.pods.values() if generation is not None]
    if known:
        return max(known) + 1
    unused = (generation for generation in GENERATIONS if names.user(pipeline, stage, generation) not in there)
    return next(unused, GENERATIONS[0])


def _due_s(pipeline: Pipeline, issued: Issued) -> float | None:
    sasl = pipeline.spec.kafka.sasl
    every = every_s(sasl.rotate_every) if sasl is not None else None
    return None if every is None else issued.at_s + every


def _late(pods: list[str], generation: int) -> str:
    named = ", ".join(_shortened(pods))
    return f"the former user is kept until these pods use generation {generation}: {named}"


def _shortened(pods: list[str]) -> Iterator[str]:
    yield from pods[:_MOST_NAMED]
    if len(pods) > _MOST_NAMED:
        yield f"and {len(pods) - _MOST_NAMED} more"
