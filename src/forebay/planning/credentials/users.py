"""The users that stages log in as, and what each may do: from the topology to ACLs, and from those that are there to steps.

A user may do what its stage does and nothing else; `needed` is the list, and the tests show that none can be spared. In
Kafka's authorizer READ and WRITE imply DESCRIBE, and a writer of any topic needs no IDEMPOTENT_WRITE.

Touched is only what is recorded as the Pipeline's own and has the name of one of its users. A user, or ACLs of one, that are
there without being recorded belong to somebody else: a problem for a person. So a name is recorded before its user is made.
Denials are a person's word, and stay.
"""

import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from forebay.pipeline import names
from forebay.pipeline.spec import Pipeline, Processor, Producer, Sink, Stage

TOPIC, GROUP, TRANSACTIONAL_ID = "TOPIC", "GROUP", "TRANSACTIONAL_ID"
READ, WRITE, DESCRIBE_CONFIGS = "READ", "WRITE", "DESCRIBE_CONFIGS"

GENERATIONS = (1, 2)
"""One of each kind: odd and even generations have a user each."""


@dataclass(frozen=True, slots=True, order=True)
class Acl:
    """Somebody may do something. Words for resources and operations are those of Kafka's client."""

    user: str
    operation: str
    resource: str
    name: str
    is_prefix: bool = False
    """The name is what the names of several resources begin with."""
    host: str = "*"

    def __str__(self) -> str:
        kind = self.resource.lower().replace("_", " ")
        prefix = "s that begin with" if self.is_prefix else ""
        host = "" if self.host == "*" else f" from {self.host}"
        return f"{self.user} may {self.operation} {kind}{prefix} {self.name}{host}"


@dataclass(frozen=True, slots=True)
class Present:
    """What Kafka has of the users that were asked for."""

    users: frozenset[str]
    acls: frozenset[Acl]
    """What they are allowed; denials are left out."""


@dataclass(frozen=True, slots=True)
class RememberUsers:
    """Record these names as the Pipeline's own, instead of those that were recorded before."""

    users: frozenset[str]

    def __str__(self) -> str:
        return f"record {len(self.users)} users as the Pipeline's own"


@dataclass(frozen=True, slots=True)
class AddAcls:
    """Allow it; what is allowed already is no error."""

    acls: tuple[Acl, ...]

    def __str__(self) -> str:
        return "allow: " + "; ".join(str(acl) for acl in self.acls)


@dataclass(frozen=True, slots=True)
class RemoveAcls:
    """Allow it no more; what was not allowed is no error."""

    acls: tuple[Acl, ...]

    def __str__(self) -> str:
        return "allow no more: " + "; ".join(str(acl) for acl in self.acls)


@dataclass(frozen=True, slots=True)
class DeleteUser:
    """Delete a user's credentials; one that is gone is no error."""

    user: str

    def __str__(self) -> str:
        return f"delete user {self.user}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What leads from the users and ACLs that there are to those that are wanted, by when it may be done."""

    first: tuple[RememberUsers | AddAcls, ...] = ()
    """Before a user is made."""
    last: tuple[DeleteUser | RemoveAcls | RememberUsers, ...] = ()
    """Once every pod is as the Pipeline asks: until then it may do what it did before."""
    problems: tuple[str, ...] = ()
    """With problems, no step should be taken."""


def needed(pipeline: Pipeline, stage: Stage, user: str) -> tuple[Acl, ...]:
    """Everything that a user must be allowed in order to run a stage of the Pipeline."""
    return tuple(
        dict.fromkeys(
            Acl(user, operation, resource, name, is_prefix=resource == TRANSACTIONAL_ID)
            for operation, resource, name in _uses(pipeline, stage)
        )
    )


def _uses(pipeline: Pipeline, stage: Stage) -> Iterator[tuple[str, str, str]]:
    match stage:
        case Producer():
            positions = names.positions_topic(pipeline, stage)
            yield WRITE, TOPIC, stage.to
            yield READ, TOPIC, positions
            yield WRITE, TOPIC, positions
            yield WRITE, TRANSACTIONAL_ID, names.transactional_ids(pipeline, stage)
        case Processor():
            yield READ, TOPIC, stage.from_
            yield READ, GROUP, names.group_id(pipeline, stage)
            yield WRITE, TOPIC, stage.to
            yield WRITE, TOPIC, names.dead_letter_topic(stage)
            yield WRITE, TRANSACTIONAL_ID, names.transactional_ids(pipeline, stage)
            for transform in stage.transforms:
                if transform.is_stateful:
                    changelog = names.changelog_topic(pipeline, stage, transform)
                    yield READ, TOPIC, changelog
                    yield WRITE, TOPIC, changelog
                    yield DESCRIBE_CONFIGS, TOPIC, changelog  # how long it keeps deletions decides what may be trusted
        case Sink():
            yield READ, TOPIC, stage.from_
            yield READ, GROUP, names.group_id(pipeline, stage)
            yield WRITE, TOPIC, names.dead_letter_topic(stage)


def is_own(pipeline: Pipeline, user: str) -> bool:
    """Whether a name is that of a managed user of the Pipeline, of a stage that it has or had."""
    rest = user.removeprefix(names.users(pipeline))
    stage, _, turn = rest.rpartition(".")
    return rest != user and bool(stage) and "." not in stage and turn in {"a", "b"}


def names_of(pipeline: Pipeline, recorded: Iterable[str] = ()) -> frozenset[str]:
    """All users to look for: both of each stage, and those that are recorded."""
    return frozenset(_possible(pipeline)) | {user for user in recorded if is_own(pipeline, user)}


def diff(
    pipeline: Pipeline, keep: Collection[str], present: Present, recorded: frozenset[str], *, adopt: bool = False
) -> Changes:
    """What to change. Users are deleted here, and made by `rotation.Issue` alone.

    Both users of a stage have their ACLs as long as there is the stage: a connection goes on as the user that it was made with,
    for ever where the brokers have no `connections.max.reauth.ms`, and without ACLs it would fail.

    Args:
        pipeline: whose users they are.
        keep: the users that are not to be deleted.
        present: what Kafka has of `names_of`.
        recorded: the names that were recorded as the Pipeline's own.
        adopt: take over what is there without being recorded.
    """
    possible = _possible(pipeline)
    own = frozenset(user for user in recorded if is_own(pipeline, user))
    there = present.users | {acl.user for acl in present.acls}
    foreign = sorted((there & possible.keys()) - own) if not adopt else []
    if foreign:
        return Changes(problems=tuple(_foreign(user) for user in foreign))
    ours = own | possible.keys()
    allowed = {acl for user, stage in possible.items() for acl in needed(pipeline, stage, user)}
    missing = tuple(sorted(allowed - present.acls))
    too_much = tuple(sorted(acl for acl in present.acls - allowed if acl.user in ours))
    gone = sorted((present.users & ours).difference(keep))
    first = (RememberUsers(ours),) if ours != recorded else ()
    last: list[DeleteUser | RemoveAcls | RememberUsers] = [DeleteUser(user) for user in gone]
    last += [RemoveAcls(too_much)] if too_much else []
    if not last and ours != possible.keys():
        last.append(RememberUsers(frozenset(possible)))
    return Changes(first=(*first, *([AddAcls(missing)] if missing else [])), last=tuple(last))


def _possible(pipeline: Pipeline) -> dict[str, Stage]:
    return {
        names.user(pipeline, stage, generation): stage for stage in pipeline.spec.stages for generation in GENERATIONS
    }


def removal(pipeline: Pipeline, present: Present, recorded: frozenset[str]) -> tuple[DeleteUser | RemoveAcls, ...]:
    """What takes away every user and ACL of a Pipeline that is deleted, and nothing else."""
    own = frozenset(user for user in recorded if is_own(pipeline, user))
    acls = tuple(sorted(acl for acl in present.acls if acl.user in own))
    return (*(DeleteUser(user) for user in sorted(present.users & own)), *([RemoveAcls(acls)] if acls else []))


def not_permitted(pipeline: Pipeline) -> str:
    """What to say where the administrator's user may not manage users."""
    lines = commands(pipeline, "USER")
    return (
        "the user of adminSecretRef may not manage users and ACLs: allow it ALTER and DESCRIBE on the cluster, or make a user "
        f"that may do the following, and name its Secret in sasl.secretRef: {'; '.join(lines)}"
    )


def not_managed(pipeline: Pipeline, secrets: Sequence[str]) -> str:
    """What to say where the operator may not make the users that a Pipeline wants managed.

    Args:
        pipeline: what asks for them.
        secrets: those of its stages that are missing, or lack something.
    """
    sasl = pipeline.spec.kafka.sasl
    assert sasl is not None  # noqa: S101 - who asks for users has it
    return (
        "this operator may not make users: set managedUsers of charts/operator, which lets it write Secrets; or make in Kafka, "
        "for each stage, one of the two users that "
        f"`forebay plan FILE --acls` prints, with those rights and mechanism {sasl.mechanism.value}, and create the stage's "
        f"Secret with its username and password (missing or incomplete: {', '.join(secrets)}); or use sasl.secretRef, with one "
        "login for all stages"
    )


def commands(pipeline: Pipeline, user: str | None = None) -> tuple[str, ...]:
    """The ACLs that the stages need, as commands for an administrator of Kafka.

    Args:
        pipeline: with the stages.
        user: who all stages log in as; None: each as its managed users, of which both need them.
    """
    managed = _possible(pipeline).items()
    pairs = managed if user is None else [(user, stage) for stage in pipeline.spec.stages]
    acls = dict.fromkeys(acl for each, stage in pairs for acl in needed(pipeline, stage, each))
    return tuple(_command(pipeline.spec.kafka.bootstrap_servers, acl) for acl in acls)


def _command(servers: str, acl: Acl) -> str:
    option = {TOPIC: "--topic", GROUP: "--group", TRANSACTIONAL_ID: "--transactional-id"}[acl.resource]
    words = ["kafka-acls", "--bootstrap-server", servers, "--command-config", "admin.properties", "--add"]
    words += ["--allow-principal", f"User:{acl.user}", "--operation", acl.operation.title().replace("_", "")]
    words += [option, acl.name, *(["--resource-pattern-type", "prefixed"] if acl.is_prefix else [])]
    return shlex.join(words)


def _foreign(user: str) -> str:
    return (
        f"Kafka has a user {user}, or ACLs of it, that this Pipeline did not make: delete them, or annotate the Pipeline with "
        f'{names.ADOPT_ANNOTATION}: "true" to take them over'
    )
