"""`forebay plan` and `forebay apply`: the topics of a Pipeline compared with a Kafka cluster, and brought in line."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from forebay.errors import Refused
from forebay.kafka.admin import Admin
from forebay.kafka.settings import admin_connection, user_of
from forebay.pipeline.load import load_file
from forebay.pipeline.spec import Kafka, Pipeline
from forebay.planning import topics
from forebay.planning.credentials import users
from forebay.planning.topics import Plan

File = Annotated[Path, typer.Argument(metavar="FILE", help="The Pipeline file.")]
Bootstrap = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Use this Kafka, without TLS and login, instead of spec.kafka. Replication is capped at its brokers.",
    ),
]
Secrets = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder with Secrets as they would be mounted: DIR/<secret>/<key>."),
]


Acls = Annotated[
    bool,
    typer.Option(
        "--acls",
        help="Print, as commands for an administrator of Kafka, the ACLs that the stages need. Asks no Kafka.",
    ),
]


def plan(file: File, bootstrap: Bootstrap = None, secrets: Secrets = None, acls: Acls = False) -> None:
    """Print what `apply` would change in Kafka. Changes nothing.

    A line per step: + creates, ~ changes, ! is a problem that needs you. Exit code: 0, or 1 when there are problems.
    """
    if acls:
        print("\n".join(_acls(file, secrets)))
        return
    _, pipeline, decided = _decide(file, bootstrap, secrets)
    for action in decided.actions:
        print(f"{action.sign} {action}")
    _stop_at(decided.problems)
    if not decided.actions:
        print(_nothing_to_do(pipeline))


def apply(file: File, bootstrap: Bootstrap = None, secrets: Secrets = None) -> None:
    """Create and change topics in Kafka as the Pipeline asks. Changes nothing when there are problems."""
    admin, pipeline, decided = _decide(file, bootstrap, secrets)
    _stop_at(decided.problems)
    for action in decided.actions:
        admin.apply(action)
        print(f"{action.sign} {action}")
    if not decided.actions:
        print(_nothing_to_do(pipeline))


def instead(pipeline: Pipeline, bootstrap: str) -> Pipeline:
    """The Pipeline with the Kafka at that address, in the clear, instead of its own."""
    try:
        kafka = Kafka(bootstrap_servers=bootstrap)
    except ValidationError as error:
        raise typer.BadParameter(f"{bootstrap!r} is not HOST:PORT", param_hint="--bootstrap") from error
    return pipeline.model_copy(update={"spec": pipeline.spec.model_copy(update={"kafka": kafka})})


def decide(admin: Admin, pipeline: Pipeline, *, is_capped: bool) -> tuple[Plan, tuple[str, ...]]:
    """The plan for a Pipeline's topics, and what was capped at the number of brokers, one note each."""
    observed = admin.observe(topics.names_of(pipeline))
    wanted = topics.wanted(pipeline, observed)
    if not is_capped:
        return topics.diff(wanted, observed), ()
    wanted, notes = topics.capped(wanted, admin.brokers())
    return topics.diff(wanted, observed), notes


def _decide(file: Path, bootstrap: str | None, secrets: Path | None) -> tuple[Admin, Pipeline, Plan]:
    pipeline = load_file(file)
    if bootstrap is not None:
        pipeline = instead(pipeline, bootstrap)
    admin = Admin(admin_connection(pipeline.spec.kafka, secrets))
    decided, notes = decide(admin, pipeline, is_capped=bootstrap is not None)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    refused = tuple(refusal for action in decided.actions if (refusal := admin.check(action)) is not None)
    return admin, pipeline, Plan(decided.actions, (*decided.problems, *refused))


def _acls(file: Path, secrets: Path | None) -> tuple[str, ...]:
    pipeline = load_file(file)
    sasl = pipeline.spec.kafka.sasl
    if sasl is None:
        raise Refused("spec.kafka has no sasl, so that ACLs have no user to name: add sasl")
    if sasl.secret_ref is None:
        return users.commands(pipeline)
    return users.commands(pipeline, "USER" if secrets is None else user_of(secrets, sasl.secret_ref))


def _stop_at(problems: Iterable[str]) -> None:
    lines = [f"! {problem}" for problem in problems]
    if lines:
        print("\n".join(lines), file=sys.stderr)
        raise typer.Exit(1)


def _nothing_to_do(pipeline: Pipeline) -> str:
    return f"nothing to do: the {len(topics.names_of(pipeline))} topics are as the Pipeline asks"
