"""`forebay run`: usage, the run's surroundings (folder, broker, topics) from the outside in, and the summary."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from forebay.errors import ForebayError
from forebay.kafka.admin import Admin
from forebay.kafka.groups import GroupObserver
from forebay.kafka.settings import admin_connection
from forebay.pipeline.load import load_file
from forebay.pipeline.spec import Pipeline
from forebay_cli import plan as planning
from forebay_cli.embedded_kafka import EmbeddedKafka
from forebay_cli.run import folders, launches, preflight, scaling, snapshots, sources
from forebay_cli.run.durations import parse_duration
from forebay_cli.run.folders import RunFolder
from forebay_cli.run.observation import OffsetReader
from forebay_cli.run.session import Plan, Session
from forebay_cli.run.snapshots import Outcome, Snapshot
from forebay_cli.run.view import LiveView, PlainView, View, summary

INTERRUPTED = 130


class _TopicError(ForebayError):
    """Topics that nothing but a person can bring in line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What the user asked for, checked as far as that goes without starting anything."""

    file: Path
    pipeline: Pipeline
    bootstrap: str | None
    secrets: Path | None
    data: Path | None
    records: int | None
    duration_s: float | None
    drain_s: float
    report: Path | None


@dataclass(slots=True)
class Result:
    """How far the run came: filled in while it goes, so that a report can be written whatever happens."""

    outcome: Outcome
    snapshot: Snapshot | None = None
    was_ended_at_once: bool = False


def run(  # noqa: PLR0917 - typer makes options of them
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The Pipeline file.")],
    bootstrap: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Use this Kafka, without TLS and login, instead of starting one. Topics and offsets stay there.",
        ),
    ] = None,
    secrets: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder with Secrets as they would be mounted: DIR/<secret>/<key>."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep everything here (Kafka's data, databases, logs) and continue from it next time. "
            "Without it each run starts with a fresh folder, of which results and logs stay.",
        ),
    ] = None,
    records: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Stop the producers after N records in all, drain, and exit. With --data, records of earlier runs count.",
        ),
    ] = None,
    for_: Annotated[
        str | None,
        typer.Option("--for", metavar="DURATION", help="Stop the producers after 30s, 5m, 1h ..., drain, and exit."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json", help="Write counts, rates and latency as JSON at the end, also of a failure."
        ),
    ] = None,
    drain_timeout: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="How long draining may take after Ctrl-C, SIGTERM or a failure. Where the sources came to their end, "
            "how long it may go on without any progress.",
        ),
    ] = "60s",
) -> None:
    """Run a Pipeline on this machine, on a real Kafka, one process per replica.

    Ctrl-C drains: sources stop, everything in flight is processed and stored, a summary follows; a second Ctrl-C ends at
    once. With bounded sources, --records or --for the run ends by itself.

    Exit code: 0 done, 1 a stage or the run failed, 2 the file or the usage is wrong, 130 ended at once.
    """
    result = Result(Outcome(ok=False, reason="ended before anything was started"))
    if report is not None and (problem := preflight.unwritable(report)):
        raise typer.BadParameter(problem, param_hint="--report")
    try:
        with _signals_interrupt():
            duration_s = None if for_ is None else _duration(for_, "--for")
            request = Request(
                file=file.absolute(),
                pipeline=load_file(file),
                bootstrap=bootstrap,
                secrets=None if secrets is None else secrets.absolute(),
                data=data,
                records=records,
                duration_s=duration_s,
                drain_s=_duration(drain_timeout, "--drain-timeout"),
                report=report,
            )
            _run(_checked(request), result)
    except KeyboardInterrupt:
        result.was_ended_at_once = True
        result.outcome = Outcome(ok=False, reason="interrupted")
    except ForebayError as error:
        result.outcome = Outcome(ok=False, reason=str(error))
        raise
    except typer.BadParameter as error:
        result.outcome = Outcome(ok=False, reason=error.message)
        raise
    finally:
        if report is not None:
            _write_report(report, result)
    _leave(result)


def _checked(request: Request) -> Request:
    """The request, if it can be carried out."""
    if request.records is not None and not request.pipeline.spec.producers:
        raise typer.BadParameter("the Pipeline has no producers to count records of", param_hint="--records")
    if request.bootstrap is not None:
        planning.instead(request.pipeline, request.bootstrap)
    if missing := list(preflight.missing_secrets(request.pipeline, request.secrets)):
        raise typer.BadParameter("; ".join(missing), param_hint="--secrets")
    return request


def _run(request: Request, result: Result) -> None:
    """Folder, broker, topics, processes: each is undone in the opposite order, whatever happens inside."""
    planned = launches.launches(request.pipeline, request.records)
    view = _view(planned)
    name = request.pipeline.metadata.name
    with folders.opened(request.data, name, os.environ.get("XDG_STATE_HOME")) as folder:
        view.say(f"data, logs and results: {folder.path}")
        try:
            with _broker(request, folder, view) as (bootstrap, broker):
                pipeline = planning.instead(request.pipeline, bootstrap)
                view.say(f"spec.kafka ({request.pipeline.spec.kafka.bootstrap_servers}) is replaced by {bootstrap}")
                admin = Admin(admin_connection(pipeline.spec.kafka, None))
                _prepare_topics(admin, pipeline, view)
                plan = Plan(
                    pipeline=pipeline,
                    planned=launches.launches(pipeline, request.records),
                    around=launches.Surroundings(
                        pipeline_file=request.file,
                        bootstrap=bootstrap,
                        secrets=request.secrets,
                        folder=folder.path,
                        parent_pid=os.getpid(),
                    ),
                    duration_s=request.duration_s,
                    drain_s=request.drain_s,
                    expected_records=sources.expected_records(planned, request.file.parent),
                )
                properties = admin_connection(pipeline.spec.kafka, None)
                with contextlib.closing(GroupObserver()) as observer:
                    session = Session(
                        plan,
                        offsets=OffsetReader(admin, pipeline),
                        scalings=scaling.scalings(
                            pipeline, Admin(properties), partial(observer.observe, properties), folder.decisions
                        ),
                        broker=broker,
                        view=view,
                    )
                    result.outcome, result.snapshot = asyncio.run(_conduct(session))
                    result.was_ended_at_once = session.was_ended_at_once
                if result.was_ended_at_once and broker is not None:
                    broker.kill()
        finally:
            view.close()
            folder.tidy()
        _print_summary(result, pipeline, keeps_kafka=folder.is_kept or request.bootstrap is not None)


async def _conduct(session: Session) -> tuple[Outcome, Snapshot]:
    outcome = await session.run(_write)
    return outcome, session.snapshot()


@contextlib.contextmanager
def _broker(request: Request, folder: RunFolder, view: View) -> Iterator[tuple[str, EmbeddedKafka | None]]:
    """The address of Kafka, and the embedded broker where it is one."""
    if request.bootstrap is not None:
        yield request.bootstrap, None
        return
    with EmbeddedKafka.start(folder.kafka, on_progress=view.say) as broker:
        yield broker.bootstrap_servers, broker


def _prepare_topics(admin: Admin, pipeline: Pipeline, view: View) -> None:
    decided, notes = planning.decide(admin, pipeline, is_capped=True)
    for note in notes:
        view.say(note)
    if decided.problems:
        raise _TopicError("; ".join(decided.problems))
    for action in decided.actions:
        admin.apply(action)
    view.say(f"{len(decided.actions)} changes to topics" if decided.actions else "topics are as the Pipeline asks")


def _view(planned: Sequence[launches.Launch]) -> View:
    """A live view would garble what a stdout sink writes to the same terminal."""
    has_data_on_stdout = any(launch.writes_to_stdout for launch in planned)
    return LiveView() if sys.stderr.isatty() and not has_data_on_stdout else PlainView()


def _write(lines: bytes) -> None:
    try:
        sys.stdout.buffer.write(lines)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        _discard_stdout()
        raise


def _discard_stdout() -> None:
    """Send what is still buffered, and all that follows, nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _print_summary(result: Result, pipeline: Pipeline, *, keeps_kafka: bool) -> None:
    if result.snapshot is None or result.was_ended_at_once:
        return
    try:
        print("\n".join(summary(result.snapshot, pipeline, keeps_kafka=keeps_kafka)), flush=True)
    except BrokenPipeError:
        _discard_stdout()


def _leave(result: Result) -> None:
    if result.was_ended_at_once:
        print("forebay: ended at once", file=sys.stderr)
        _exit_now(INTERRUPTED)
    if not result.outcome.ok:
        print(f"forebay: {result.outcome.reason}", file=sys.stderr)
        raise typer.Exit(1)


def _exit_now(status: int) -> NoReturn:
    """Leave without waiting for threads, one of which may sit in a request to a broker that is gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _write_report(file: Path, result: Result) -> None:
    try:
        folders.write_report(file.absolute(), snapshots.report(result.outcome, result.snapshot))
    except OSError as error:
        print(f"forebay: the report {file} cannot be written: {error.strerror}", file=sys.stderr)


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Until the event loop listens, and after it: a signal unwinds what was set up."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _duration(text: str, option: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
