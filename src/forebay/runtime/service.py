"""The frame of every service: read the settings, log, serve probes, wait for what is missing, run, end in order.

Exit status: 0 done or asked to stop, 1 failed and worth a restart, 70 stuck, 78 nothing but an edit helps (the supervisor
of `forebay run` does not restart that; Kubernetes backs off). On SIGUSR1 it tells, on standard error, where each thread stands.
"""

import faulthandler
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Generic, TypeVar

import structlog
from prometheus_client import REGISTRY, write_to_textfile

from forebay.errors import Forbidden, ForebayError, InvalidPipeline, MissingSecret, Refused, TryLater
from forebay.kafka import settings as kafka_settings
from forebay.pipeline import load
from forebay.pipeline.names import replica
from forebay.pipeline.spec import Kafka, Pipeline, Stage
from forebay.runtime import health as probes
from forebay.runtime import logs
from forebay.runtime.credentials import Credentials
from forebay.runtime.health import Health
from forebay.runtime.metrics import StageMetrics
from forebay.runtime.settings import ReplicaSettings, from_environment

log = structlog.get_logger()

REFUSED_EXIT_STATUS = 78
_RETRY_S = 2.0

StageT = TypeVar("StageT", bound=Stage)


class Stopping:
    """Whether the loop was asked to stop; the signal handler only sets it, loops look at it between batches."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._is_interrupted = False
        self.is_final = False
        """The process is to end, too."""

    def request(self) -> None:
        """Ask the loop to finish its batch, commit and leave, and the process to end."""
        self.is_final = True
        self._event.set()

    def interrupt(self) -> None:
        """Ask the loop to finish its batch, commit and leave; it is begun again then."""
        self._is_interrupted = True
        self._event.set()

    def resume(self) -> bool:
        """Whether the loop was only interrupted: then it may go on."""
        if not self._is_interrupted or self.is_final:
            return False
        self._is_interrupted = False
        self._event.clear()
        if self.is_final:  # since the question above
            self._event.set()
        return True

    def __bool__(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep, but no longer than until the request; True when asked to stop."""
        return self._event.wait(seconds)


@dataclass(frozen=True, kw_only=True)
class Replica(Generic[StageT]):
    """Everything that the body of a service works with."""

    settings: ReplicaSettings
    pipeline: Pipeline
    stage: StageT
    ordinal: int
    connection: kafka_settings.Properties
    metrics: StageMetrics
    health: Health
    stopping: Stopping

    @property
    def name(self) -> str:
        """The replica's name, e.g. `enrich-0`."""
        return replica(self.stage, self.ordinal)

    def go_on(self) -> bool:
        """For long waits: tell the probes that the loop is alive, and whether to go on waiting."""
        self.health.beat()
        return not self.stopping


def run(kind: type[StageT], body: Callable[[Replica[StageT]], None]) -> int:
    """Run a service's body and turn its end into an exit status."""
    logs.configure(json=None, level="info")
    try:
        settings = from_environment()
        logs.configure(
            json=None if settings.log_format is None else settings.log_format == "json",
            level=settings.log_level,
            stage=settings.stage,
            ordinal=settings.replica_ordinal,
        )
        pipeline, stage = _stage(settings, kind)
    except (Refused, InvalidPipeline) as error:
        log.error("cannot start", reason=str(error))  # noqa: TRY400 - the cause is in the message
        return REFUSED_EXIT_STATUS

    stopping, health = Stopping(), Health(settings.stuck_after_s)
    _listen_for_signals(stopping)
    if settings.parent_pid is not None:
        _follow_parent(settings.parent_pid, stopping)
    port = probes.serve(health, host=settings.http_host, port=settings.http_port, inherited=settings.http_fd)
    health.watch()
    log.info("started", pipeline=pipeline.metadata.name, http_port=port, pid=os.getpid())
    metrics = StageMetrics(pipeline.metadata.name, stage.name, kind.__name__.lower())
    credentials = Credentials(pipeline, stage, settings.secrets, metrics)
    try:
        while (connection := _wait_for(credentials.connection, stopping, health)) is not None:
            replica = Replica(
                settings=settings,
                pipeline=pipeline,
                stage=stage,
                ordinal=settings.replica_ordinal,
                connection=connection,
                metrics=metrics,
                health=health,
                stopping=stopping,
            )
            with credentials.watched(stopping.interrupt):
                body(replica)
            if not stopping.resume():
                break
            gc.unfreeze()  # what the loop froze is not needed any more
            gc.collect()
            health.not_ready("new credentials need new clients")
    except Refused as error:
        metrics.error(error)
        log.error("refused", reason=str(error))  # noqa: TRY400
        return REFUSED_EXIT_STATUS
    except ForebayError as error:
        metrics.error(error)
        log.error("failed", error=type(error).__name__, reason=str(error))  # noqa: TRY400
        return 1
    except Exception as error:
        metrics.error(error)
        log.exception("crashed", error=type(error).__name__)
        return 1
    finally:
        if settings.last_metrics is not None:
            write_to_textfile(str(settings.last_metrics), REGISTRY)
    log.info("stopped")
    return 0


def wait_until(check: Callable[[], str | None], replica: Replica[StageT]) -> bool:
    """Wait, not ready, until `check` returns None; it returns or raises (MissingSecret, TryLater, Forbidden) what is missing.

    Logs each reason once. False when the process was asked to stop meanwhile.
    """

    def attempt() -> bool:
        missing = check()
        if missing is not None:
            raise TryLater(missing)
        return True

    return _wait_for(attempt, replica.stopping, replica.health) is not None


ResultT = TypeVar("ResultT")


def _wait_for(attempt: Callable[[], ResultT], stopping: Stopping, health: Health) -> ResultT | None:
    said: set[str] = set()
    while not stopping:
        health.beat()
        try:
            return attempt()
        except (MissingSecret, TryLater, Forbidden) as error:
            reason = str(error)
            if reason not in said:
                said.add(reason)
                log.warning("waiting", reason=reason)
            health.not_ready(reason)
        stopping.wait(_RETRY_S)
    return None


def _stage(settings: ReplicaSettings, kind: type[StageT]) -> tuple[Pipeline, StageT]:
    pipeline = load.load_file(settings.pipeline)
    if settings.bootstrap is not None:
        spec = pipeline.spec.model_copy(update={"kafka": Kafka(bootstrap_servers=settings.bootstrap)})
        pipeline = pipeline.model_copy(update={"spec": spec})
    for stage in pipeline.spec.stages:
        if stage.name == settings.stage and isinstance(stage, kind):
            return pipeline, stage
    known = ", ".join(stage.name for stage in pipeline.spec.stages if isinstance(stage, kind)) or "none"
    raise Refused(
        f"FOREBAY_STAGE={settings.stage} is no {kind.__name__.lower()} of Pipeline {pipeline.metadata.name}; "
        f"it has: {known}"
    )


def _listen_for_signals(stopping: Stopping) -> None:
    def on_signal(number: int, _frame: FrameType | None) -> None:
        if stopping.is_final:
            sys.exit(128 + number)
        stopping.request()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN if os.environ.get("FOREBAY_PARENT_PID") else on_signal)
    faulthandler.register(signal.SIGUSR1)  # tells where each thread stands, also when no Python code can run


def _follow_parent(parent: int, stopping: Stopping) -> None:
    """Stop when the parent is gone, so that a killed `forebay run` leaves nothing behind."""

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        log.warning("the parent process is gone; stopping")
        stopping.request()
        time.sleep(10)
        os._exit(1)

    threading.Thread(target=follow, name="parent", daemon=True).start()
