"""Which processes a Pipeline needs on one machine, in which order, and what each of them is told.

Pure: values in, values out. The environment of a process is built from nothing, so that no credential of the user's shell
reaches a service and two machines run the same.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

from forebay.pipeline import names
from forebay.pipeline.spec import ConsumingStage, Pipeline, Processor, Producer, Sink

AnyStage = Producer | Processor | Sink
Consuming = Processor | Sink

_PASSED_ON = frozenset({"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "FOREBAY_LOG_LEVEL"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """One replica to run."""

    stage: AnyStage
    ordinal: int
    records: int | None = None
    """Producers: stop after so many records; None leaves it to the source."""

    @property
    def name(self) -> str:
        """The replica's name, e.g. `enrich-0`."""
        return names.replica(self.stage, self.ordinal)

    @property
    def is_bounded(self) -> bool:
        """Whether its source comes to an end by itself."""
        return isinstance(self.stage, Producer) and (self.records is not None or _has_an_end(self.stage))

    @property
    def writes_to_stdout(self) -> bool:
        """Whether its standard output is data for the user."""
        return isinstance(self.stage, Sink) and self.stage.destination.stdout is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What all replicas of a run share."""

    pipeline_file: Path
    bootstrap: str
    secrets: Path | None
    folder: Path
    parent_pid: int

    def data_folder(self, launch: Launch) -> Path:
        """Where a replica keeps its state and embedded database."""
        return self.folder / launch.name

    def log_file(self, launch: Launch) -> Path:
        """Where a replica's log is written."""
        return self.folder / "logs" / f"{launch.name}.log"

    def last_metrics_file(self, launch: Launch) -> Path:
        """Where a replica leaves its counters when it ends."""
        return self.folder / "logs" / f"{launch.name}.prom"


def kind_of(stage: AnyStage) -> str:
    """`producer`, `processor` or `sink`."""
    return type(stage).__name__.lower()


def replicas_of(stage: AnyStage) -> int:
    """How many replicas a stage runs with: the least that its Pipeline allows."""
    return stage.replicas if isinstance(stage, Producer) else stage.autoscaling.min_replicas


def launches(pipeline: Pipeline, records: int | None) -> tuple[Launch, ...]:
    """Every replica in the order of starting: who reads before who writes, so that nothing waits unread."""
    consuming = [
        Launch(stage=stage, ordinal=ordinal)
        for stage in reversed(in_flow_order(pipeline))
        for ordinal in range(replicas_of(stage))
    ]
    sources = [(stage, ordinal) for stage in pipeline.spec.producers for ordinal in range(stage.replicas)]
    parts = shares(records, len(sources)) if records is not None and sources else (None,) * len(sources)
    producing = [
        Launch(stage=stage, ordinal=ordinal, records=part)
        for (stage, ordinal), part in zip(sources, parts, strict=True)
    ]
    return (*consuming, *producing)


def shares(total: int, parts: int) -> tuple[int, ...]:
    """A total split into whole numbers that differ by one at most."""
    least, rest = divmod(total, parts)
    return tuple(least + (part < rest) for part in range(parts))


def in_flow_order(pipeline: Pipeline) -> tuple[Consuming, ...]:
    """The stages that read, each behind all whose output (dead letters included) it reads."""
    stages = pipeline.spec.consuming_stages
    by_name = {stage.name: stage for stage in stages}
    graph = {stage.name: [writer.name for writer in stages if stage.from_ in _written_by(writer)] for stage in stages}
    return tuple(by_name[name] for name in TopologicalSorter(graph).static_order())


def written_topics(pipeline: Pipeline) -> set[str]:
    """The topics that stages of the Pipeline write, dead letters included."""
    return {topic for stage in pipeline.spec.stages for topic in _written_by(stage)}


def ends_by_itself(pipeline: Pipeline, planned: Iterable[Launch]) -> bool:
    """Whether a run is over once its sources are: all of them are bounded, and nobody else writes what is read."""
    sources = [launch for launch in planned if isinstance(launch.stage, Producer)]
    written = written_topics(pipeline)
    return (
        bool(sources)
        and all(launch.is_bounded for launch in sources)
        and all(stage.from_ in written for stage in pipeline.spec.consuming_stages)
    )


def environment(launch: Launch, around: Surroundings, inherited: Mapping[str, str], http_fd: int) -> dict[str, str]:
    """Everything that a replica's process finds in its environment."""
    passed_on = {name: value for name, value in inherited.items() if name in _PASSED_ON or name.startswith("PYTHON")}
    told = {
        "FOREBAY_PIPELINE": str(around.pipeline_file),
        "FOREBAY_STAGE": launch.stage.name,
        "FOREBAY_ORDINAL": str(launch.ordinal),
        "FOREBAY_BOOTSTRAP": around.bootstrap,
        "FOREBAY_DATA": str(around.data_folder(launch)),
        "FOREBAY_HTTP_FD": str(http_fd),
        "FOREBAY_PARENT_PID": str(around.parent_pid),
        "FOREBAY_EXIT_WHEN_DONE": "true",
        "FOREBAY_LOG_FORMAT": "json",
        "FOREBAY_LAST_METRICS": str(around.last_metrics_file(launch)),
        # a python transform's module may lie beside the Pipeline file
        "PYTHONPATH": os.pathsep.join(filter(None, [str(around.pipeline_file.parent), inherited.get("PYTHONPATH")])),
    }
    if around.secrets is not None:
        told["FOREBAY_SECRETS"] = str(around.secrets)
    if launch.records is not None:
        told["FOREBAY_RECORDS"] = str(launch.records)
    return passed_on | told


def output_of(stage: AnyStage, around: Surroundings) -> str:
    """Where a stage's records end up: a topic, a database file, a table."""
    if not isinstance(stage, Sink):
        return stage.to
    if stage.destination.duckdb is not None:
        return str(around.data_folder(Launch(stage=stage, ordinal=0)) / stage.destination.duckdb.file)
    if stage.destination.postgres is not None:
        return f"{stage.destination.postgres.db_schema}.{stage.destination.postgres.table}"
    return "stdout"


def _written_by(stage: AnyStage) -> set[str]:
    topics = {stage.to} if isinstance(stage, Producer | Processor) else set()
    return topics | ({names.dead_letter_topic(stage)} if isinstance(stage, ConsumingStage) else set())


def _has_an_end(stage: Producer) -> bool:
    simulator = stage.source.simulator
    return stage.source.file is not None or (simulator is not None and simulator.records is not None)
