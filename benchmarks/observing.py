"""Watching a process from outside: its processor time and memory, and how far its group's commits have come.

A figure is the difference of two looks, each taken when Kafka has just told the group's committed offsets. What the process
had begun beyond them cancels out.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil
from confluent_kafka import Consumer, KafkaException, TopicPartition
from workload import PARTITIONS

from forebay.kafka.admin import Admin

_EVERY_S = 0.1
_SILENCE_S = 60.0
_STOP_S = 40.0
_MEBIBYTE = 1 << 20


class Failed(Exception):  # noqa: N818
    """A subject ended by itself or made no progress; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class Look:
    """What could be seen at one moment."""

    at: float
    records: int
    cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one run of a subject gave."""

    cpu_us_per_record: float
    records_per_second: float
    peak_memory_mb: float
    memory_growth_mb: float = 0.0
    """From the end of the warm-up to the end."""


class Child:
    """A subject's process: its log, its end, and all the processor time that its threads took."""

    def __init__(self, command: Sequence[str], log_file: Path, environment: dict[str, str] | None = None) -> None:
        self.log_file = log_file
        with log_file.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._seen = psutil.Process(self.process.pid)

    def cpu_s(self) -> float:
        """User and system time of all threads so far."""
        self.require_running()
        times = self._seen.cpu_times()
        return float(times.user + times.system)

    def memory_mb(self) -> float:
        """Resident memory now."""
        self.require_running()
        return float(self._seen.memory_info().rss) / _MEBIBYTE

    def require_running(self) -> None:
        """Raise Failed when the process has ended."""
        if self.process.poll() is not None:
            raise Failed(f"it ended with status {self.process.returncode}: {self.last_words()}")

    def last_words(self) -> str:
        """The end of its log."""
        return self.log_file.read_text(errors="replace")[-1500:].strip() or "it left no word"

    def stop(self) -> None:
        """Ask it to finish, and wait."""
        self.process.terminate()
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            raise Failed(f"it does not stop within {_STOP_S:.0f} s: {self.last_words()}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGKILL)
            self.process.wait()


class Commits:
    """How many records a group has committed, over all partitions. The input holds no transactions: an offset is a count."""

    def __init__(self, bootstrap: str, group: str, topic: str) -> None:
        self._group, self._topic = group, topic
        self._admin = Admin({"bootstrap.servers": bootstrap})
        self._asking = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": group, "isolation.level": "read_uncommitted", "log_level": 0}
        )

    def now(self) -> int:
        """At this moment; an open transaction is not waited for."""
        places = [TopicPartition(self._topic, partition) for partition in range(PARTITIONS)]
        try:
            offsets = [place.offset for place in self._asking.committed(places, timeout=_SILENCE_S)]
        except KafkaException as exception:
            if exception.args[0].retriable():  # the group's coordinator is being found
                return 0
            raise
        return sum(max(0, offset) for offset in offsets)

    def final(self) -> int:
        """Once nobody commits any more: with what the last transaction left."""
        offsets = self._admin.committed(self._group, self._topic, range(PARTITIONS))
        return sum(offset or 0 for offset in offsets.values())


def measure(children: Sequence[Child], commits: Commits, *, warm_up: int, measured: int) -> Figures:
    """The figures between two commits: the first behind the warm-up, the first behind the measured records."""
    first = _until(warm_up, children, commits)
    peaks = [_memory(children)]
    begun_with = peaks[0]
    last = _until(warm_up + measured, children, commits, each=lambda: peaks.append(_memory(children)))
    records = last.records - first.records
    if records < measured // 2:
        raise Failed(f"{measured:,} records went by between two looks: the machine is too busy to measure on")
    return Figures(
        cpu_us_per_record=(last.cpu_s - first.cpu_s) / records * 1e6,
        records_per_second=records / (last.at - first.at),
        peak_memory_mb=max(peaks),
        memory_growth_mb=peaks[-1] - begun_with,
    )


def _memory(children: Sequence[Child]) -> float:
    return sum(child.memory_mb() for child in children)


def _until(records: int, children: Sequence[Child], commits: Commits, each: Callable[[], None] = lambda: None) -> Look:
    changed, before = time.monotonic(), -1
    while True:
        count = commits.now()
        look = Look(time.monotonic(), count, sum(child.cpu_s() for child in children))
        if count >= records:
            return look
        if count != before:
            changed, before = look.at, count
        elif look.at > changed + _SILENCE_S:
            raise Failed(f"nothing was committed for {_SILENCE_S:.0f} s: {children[0].last_words()}")
        each()
        time.sleep(_EVERY_S)
