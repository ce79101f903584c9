"""A run for people: a live table on a terminal, one line every two seconds elsewhere, and the summary at the end."""

import shlex
import sys
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from forebay.pipeline.spec import Pipeline
from forebay_cli.run.durations import spoken
from forebay_cli.run.snapshots import Snapshot, StageState

PLAIN_INTERVAL_S = 2.0
_BAR_WIDTH = 40


class View(Protocol):
    """Where a run's state and news go."""

    def say(self, text: str) -> None:
        """One line of news."""

    def show(self, snapshot: Snapshot) -> None:
        """The state of the run; called about once a second."""

    def close(self) -> None:
        """Leave the screen in order."""


class PlainView:
    """Lines on standard error: news as they come, the state every two seconds."""

    def __init__(self) -> None:
        self._shown_at = -PLAIN_INTERVAL_S

    def say(self, text: str) -> None:
        """One line of news."""
        print(f"forebay: {text}", file=sys.stderr, flush=True)

    def show(self, snapshot: Snapshot) -> None:
        """The state of the run, if the last line is old enough."""
        if snapshot.seconds - self._shown_at >= PLAIN_INTERVAL_S - 0.1:
            self._shown_at = snapshot.seconds
            print(plain_line(snapshot), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing to leave behind."""


class LiveView:
    """A table on the terminal of standard error that changes in place; news scroll by above it."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._started = False

    def say(self, text: str) -> None:
        """One line of news."""
        self._console.print(text, markup=False, soft_wrap=True)

    def show(self, snapshot: Snapshot) -> None:
        """The state of the run."""
        if not self._started:
            self._live.start()
            self._started = True
        self._live.update(screen(snapshot), refresh=True)

    def close(self) -> None:
        """Give the cursor back."""
        if self._started:
            self._live.stop()


def plain_line(snapshot: Snapshot) -> str:
    """The state in one line of key=value, stages separated by bars."""
    head = f"{snapshot.phase} elapsed={snapshot.seconds:.0f}s"
    if snapshot.expected is not None:
        head += f" produced={snapshot.produced}/{snapshot.expected}"
    return " | ".join([head, *(_plain_stage(stage) for stage in snapshot.stages)])


def screen(snapshot: Snapshot) -> RenderableType:
    """The state as it is drawn on a terminal."""
    header = Text.assemble(
        (snapshot.pipeline, "bold"),
        f"  {snapshot.phase}  {spoken(snapshot.seconds)}  Kafka {snapshot.bootstrap}\n{snapshot.folder}",
        overflow="fold",
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("stage", no_wrap=True)
    table.add_column("kind")
    for title in ("ready", "records/s", "total", "lag", "dead", "restarts", "p50", "p99"):
        table.add_column(title, justify="right", no_wrap=True)
    for stage in snapshot.stages:
        style = "red" if stage.failure else None
        table.add_row(stage.name, stage.kind, *_cells(stage), style=style)
    parts: list[RenderableType] = [header, table]
    if snapshot.expected:
        parts.append(_bar(snapshot.produced, snapshot.expected))
    return Group(*parts)


def summary(snapshot: Snapshot, pipeline: Pipeline, *, keeps_kafka: bool) -> Iterator[str]:
    """What came of the run, line by line."""
    yield f"{snapshot.pipeline}: {spoken(snapshot.seconds)}"
    width = max(len(stage.name) for stage in snapshot.stages)
    for stage in snapshot.stages:
        yield f"  {stage.name:<{width}}  {stage.kind:<9}  {_counts(stage)}"
    p50, p99 = (snapshot.latency.quantile(share) for share in (0.5, 0.99))
    if p50 is not None and p99 is not None:
        yield f"  latency from intake to stored: p50 {p50 * 1000:,.0f} ms, p99 {p99 * 1000:,.0f} ms"
    for stage in snapshot.stages:
        yield from _result(stage, pipeline)
    for stage in snapshot.stages:
        if stage.counted.dead_letters:
            gone = "" if keeps_kafka else " (removed with this run's Kafka; --data DIR keeps it)"
            yield f"  {stage.counted.dead_letters:,} dead letters of {stage.name}: topic {stage.dead_letter_topic}{gone}"
    if any(stage.restarts for stage in snapshot.stages):
        yield "  replicas were restarted: what they committed in the second before they died may be missing from the counts"
    yield f"  folder: {snapshot.folder}"


def _counts(stage: StageState) -> str:
    counted = stage.counted
    text = f"{counted.records_in:,} in, {counted.records_out:,} out, {stage.average:,.0f} records/s"
    rare = {"dead letters": counted.dead_letters, "errors": counted.errors, "restarts": stage.restarts}
    for word, count in rare.items():
        if count:
            text += f", {count:,} {word}"
    return f"{text}, FAILED: {stage.failure}" if stage.failure else text


def _result(stage: StageState, pipeline: Pipeline) -> Iterator[str]:
    for sink in pipeline.spec.sinks:
        if sink.name != stage.name:
            continue
        if sink.destination.duckdb is not None:
            yield f"  results of {stage.name}: table {sink.destination.duckdb.table} in {stage.output}; look at them with"
            query = f'table("{sink.destination.duckdb.table}").limit(5).show()'
            code = f"import duckdb; duckdb.connect({stage.output!r}, read_only=True).{query}"
            yield f"    {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
        elif sink.destination.postgres is not None:
            yield f"  results of {stage.name}: PostgreSQL table {stage.output}"


def _plain_stage(stage: StageState) -> str:
    words = [stage.name, f"ready={stage.ready}/{stage.replicas}"]
    words += [f"in={stage.counted.records_in}"] if stage.kind != "producer" else []
    words += [f"out={stage.counted.records_out}", f"rate={stage.rate:.0f}/s"]
    if stage.kind != "producer":
        words.append(f"lag={'?' if stage.lag is None else stage.lag}")
    words += [f"dead={stage.counted.dead_letters}", f"restarts={stage.restarts}"]
    p99 = stage.counted.latency.quantile(0.99)
    words += [] if p99 is None else [f"p99={p99 * 1000:.0f}ms"]
    return " ".join(words)


def _cells(stage: StageState) -> tuple[str, ...]:
    state = "failed" if stage.failure else "done" if stage.is_done else f"{stage.ready}/{stage.replicas}"
    lag = "-" if stage.kind == "producer" else "?" if stage.lag is None else f"{stage.lag:,}"
    quantiles = (stage.counted.latency.quantile(share) for share in (0.5, 0.99))
    return (
        state,
        f"{stage.rate:,.0f}",
        f"{stage.counted.moved:,}",
        lag,
        f"{stage.counted.dead_letters:,}",
        f"{stage.restarts}",
        *("-" if seconds is None else f"{seconds * 1000:,.0f} ms" for seconds in quantiles),
    )


def _bar(done: int, expected: int) -> RenderableType:
    line = Table.grid(padding=(0, 1))
    shown = min(done, expected)  # the number of lines in a large file is an estimate
    line.add_row(
        ProgressBar(total=expected, completed=shown, width=_BAR_WIDTH),
        f"{done:,} of {max(done, expected):,} records produced",
    )
    return line
