"""The state of a run as one value: what the view shows, the plain lines say, and the report holds."""

from collections.abc import Mapping
from dataclasses import dataclass

from forebay_cli.run.samples import Histogram, Sample, total


@dataclass(frozen=True, kw_only=True, slots=True)
class StageState:
    """One stage, all replicas and lives together."""

    name: str
    kind: str
    """producer, processor or sink."""
    replicas: int
    ready: int
    done: int
    """Replicas that sent everything, or stopped when they were asked to."""
    counted: Sample
    rate: float
    """Records per second over the last seconds."""
    average: float
    """Records per second from the first record to the last."""
    lag: int | None
    """Committed records (and transaction markers) of the input not yet committed by the stage; None: not known, or no input."""
    restarts: int
    output: str
    dead_letter_topic: str | None
    failure: str | None

    @property
    def is_done(self) -> bool:
        """Whether nothing is left for it to do; a stage without replicas waits for a first record."""
        return 0 < self.replicas == self.done


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """The whole run at one moment."""

    pipeline: str
    phase: str
    seconds: float
    bootstrap: str
    folder: str
    stages: tuple[StageState, ...]
    """In the order of the file: producers, processors, sinks."""
    expected: int | None
    """Records that the sources will send in all, near enough; None when there is no end to them."""

    @property
    def produced(self) -> int:
        """Events that the sources have worked off; undeliverable ones count, or a progress bar would never be full."""
        return sum(stage.counted.moved for stage in self.stages if stage.kind == "producer")

    @property
    def latency(self) -> Histogram:
        """From intake to stored, over all sinks."""
        return total(stage.counted for stage in self.stages if stage.kind == "sink").latency


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a run ended."""

    ok: bool
    reason: str | None = None
    """Why it is not ok."""


def report(outcome: Outcome, snapshot: Snapshot | None) -> Mapping[str, object]:
    """The content of the report file. Without a snapshot nothing was started."""
    p50, p99 = (snapshot.latency.quantile(share) if snapshot else None for share in (0.5, 0.99))
    content: dict[str, object] = {
        "ok": outcome.ok,
        "seconds": round(snapshot.seconds, 3) if snapshot else 0.0,
        "latency_ms": {"p50": _milliseconds(p50), "p99": _milliseconds(p99)},
        "stages": [_stage(stage) for stage in snapshot.stages] if snapshot else [],
    }
    return content if outcome.reason is None else {**content, "reason": outcome.reason}


def _stage(stage: StageState) -> Mapping[str, object]:
    return {
        "name": stage.name,
        "kind": stage.kind,
        "records_in": stage.counted.records_in,
        "records_out": stage.counted.records_out,
        "dead_letters": stage.counted.dead_letters,
        "errors": stage.counted.errors,
        "restarts": stage.restarts,
        "records_per_second": round(stage.average, 1),
        "output": stage.output,
    }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
