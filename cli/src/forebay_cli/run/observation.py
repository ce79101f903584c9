"""What can be seen of a run from outside: /metrics and /readyz of its processes, offsets in Kafka. IO, no decisions."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from forebay.errors import Refused, TryLater
from forebay.kafka.admin import Admin
from forebay.pipeline import names
from forebay.pipeline.spec import Pipeline
from forebay_cli.run import draining, launches, samples
from forebay_cli.run.draining import Lags, Offsets
from forebay_cli.run.launches import Consuming

SCRAPE_TIMEOUT_S = 1.0
MAX_ANSWER_BYTES = 4 << 20
_T = TypeVar("_T")
READ_WITHIN_S = 0.3


@dataclass(frozen=True, slots=True)
class Scrape:
    """What a process said of itself."""

    sample: samples.Sample
    is_ready: bool


async def scrape(port: int) -> Scrape | None:
    """Ask the process behind a loopback port; None when it does not answer in time or in order."""
    with contextlib.suppress(OSError, TimeoutError, ValueError):
        async with asyncio.timeout(SCRAPE_TIMEOUT_S):
            status, metrics = await _get(port, "/metrics")
            if status == 200:  # noqa: PLR2004 - OK
                ready, _ = await _get(port, "/readyz")
                return Scrape(samples.parse(metrics), is_ready=ready == 200)  # noqa: PLR2004
    return None


async def _get(port: int, path: str) -> tuple[int, str]:
    """The status and body of one HTTP/1.0 request, whose answer ends with the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = bytearray()
        while chunk := await reader.read(64 << 10):
            answer += chunk
            if len(answer) > MAX_ANSWER_BYTES:
                raise ValueError(f"the answer to {path} is longer than {MAX_ANSWER_BYTES} bytes")
    finally:
        writer.close()
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    return int(head.split(maxsplit=2)[1]) if head.count(b" ") else 0, body.decode()


def answer(ask: Callable[[], _T], *, within_s: float) -> _T | None:
    """What Kafka answers; None when it does not.

    Offsets that a transaction is committing just now cannot be read; that is over in a moment, so it is asked again. A failure
    that took long is no such moment, and the next observation tries again.
    """
    give_up_at = time.monotonic() + within_s
    while True:
        with contextlib.suppress(TryLater, Refused):
            return ask()
        if time.monotonic() >= give_up_at:
            return None
        time.sleep(within_s / 10)


class OffsetReader:
    """Reads how far the consuming stages are behind. One call at a time; each blocks."""

    def __init__(self, admin: Admin, pipeline: Pipeline) -> None:
        self._admin, self._pipeline = admin, pipeline
        self._stages = launches.in_flow_order(pipeline)
        self._outside = {stage.from_ for stage in self._stages} - launches.written_topics(pipeline)
        states = admin.observe({stage.from_ for stage in self._stages}) if self._stages else {}
        self._partitions = {name: range(state.partitions) for name, state in states.items() if state is not None}
        self._frozen: dict[str, Offsets] | None = None

    def freeze(self) -> None:
        """From the next observation on, topics that others write count up to where they end then: a drain has an end."""
        self._frozen = {}

    def lags(self) -> Lags:
        """Every stage's lag, read in the direction of the flow; None where Kafka does not answer."""
        return {stage.name: self._lag(stage) for stage in self._stages}

    def _lag(self, stage: Consuming) -> int | None:
        return answer(lambda: self._read(stage), within_s=READ_WITHIN_S)

    def _read(self, stage: Consuming) -> int:
        topic = stage.from_
        ends = self._ends(topic)
        committed = self._admin.committed(names.group_id(self._pipeline, stage), topic, self._partitions[topic])
        uncommitted = [partition for partition in ends if committed.get(partition) is None]
        begins = self._admin.begin_offsets(topic, uncommitted) if uncommitted else {}
        return draining.lag_of(ends, committed, begins)

    def _ends(self, topic: str) -> Offsets:
        if self._frozen is not None and topic in self._frozen:
            return self._frozen[topic]
        ends = self._admin.end_offsets(topic, self._partitions[topic])
        if self._frozen is not None and topic in self._outside:
            self._frozen[topic] = ends
        return ends
