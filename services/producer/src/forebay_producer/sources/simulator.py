"""Readings of devices that do not exist, as a function of (seed, replica, event number).

Random numbers are drawn in blocks, each seeded by its number, so that any event can be made without those before it.
A device's timestamps rise strictly: (device_id, timestamp) is unique over the whole life of the pipeline, which lets a
reader prove that nothing is lost and nothing is twice.
"""

import math
import random
from collections.abc import Callable
from typing import Any

import msgspec

from forebay.errors import Refused
from forebay.kafka.producer import Message
from forebay.pipeline.spec import Simulator
from forebay.runtime.sourcing import Batch

FIELDS = ("device_id", "timestamp", "temperature_c", "humidity_pct")

_BLOCK = 2_000
"""Events that share a seed: about 3 ms of work, and what a restart makes again at most."""
_DAY_MS = 86_400_000

Breakage = Callable[[str, str], bytes]


def _truncated(reading: str, _temperature: str) -> bytes:
    return reading[: len(reading) // 2].encode()


def _not_json(reading: str, _temperature: str) -> bytes:
    return b"sensor fault " + str(len(reading)).encode()


def _temperature_as_text(reading: str, temperature: str) -> bytes:
    return reading.replace(f'_c":{temperature}', f'_c":"{temperature}"').encode()


def _temperature_missing(reading: str, temperature: str) -> bytes:
    return reading.replace(f',"temperature_c":{temperature}', "").encode()


def _invalid_utf8(reading: str, temperature: str) -> bytes:
    return reading.replace(f'_c":{temperature}', '_c":"\udcff\udcfe"').encode(errors="surrogateescape")


def _nan(reading: str, temperature: str) -> bytes:
    return reading.replace(f'_c":{temperature}', '_c":NaN').encode()


BREAKAGES: tuple[Breakage, ...] = (
    _truncated,
    _not_json,
    _temperature_as_text,
    _temperature_missing,
    _invalid_utf8,
    _nan,
)
"""Ways to break a reading; a reader that needs `temperature_c` must refuse every one."""


class SimulationPosition(msgspec.Struct, frozen=True):
    """Where a replica's simulation stands."""

    event: int
    """The next one."""
    since: int
    """The event at `start_ms`: 0, or the first one after the simulator was changed."""
    start_ms: int
    """The epoch milliseconds of the first readings."""
    step_ms: int
    """Between two readings of a device."""
    devices: int
    """Of this replica."""
    replicas: int


class Simulation:
    """The share of a simulator that one replica sends: every `replicas`-th device, and as much of rate and records."""

    speedup = None

    def __init__(
        self, spec: Simulator, *, key: str | None, ordinal: int, replicas: int, now_ms: Callable[[], int]
    ) -> None:
        if key is not None and key not in FIELDS:
            raise Refused(f"key.field {key!r} is no field of a simulated reading: use one of {', '.join(FIELDS)}")
        self._spec = spec
        self._key = None if key is None else FIELDS.index(key)
        self._ordinal = ordinal
        self._replicas = min(replicas, spec.devices)
        self._devices = len(range(ordinal, spec.devices, self._replicas)) if ordinal < self._replicas else 0
        self._now_ms = now_ms
        self._made: tuple[SimulationPosition, list[Message]] | None = None

    @property
    def per_second(self) -> float | None:
        """This replica's part of `eventsPerSecond`."""
        rate = self._spec.events_per_second
        return None if rate is None else rate / self._replicas

    @property
    def records(self) -> int | None:
        """This replica's part of `records`."""
        total = self._spec.records
        return None if total is None else len(range(self._ordinal, total, self._replicas))

    def close(self) -> None:
        """Nothing is held."""

    def take(self, position: Any, at_most: int) -> Batch:
        """Events up to the end of a block."""
        at = self._at(position)
        end = at.event + at_most if self._devices else at.event
        if self.records is not None:
            end = min(end, self.records)
        block, offset = divmod(at.event, _BLOCK)
        count = max(0, min(end - at.event, _BLOCK - offset))
        behind = msgspec.structs.replace(at, event=at.event + count)
        messages = self._block(block, at)[offset : offset + count] if count else []
        return Batch(
            messages=messages, events=count, position=msgspec.to_builtins(behind), is_last=behind.event == self.records
        )

    def _at(self, position: Any) -> SimulationPosition:
        """The position, or a new start behind it where devices, rate or replicas are not what they were."""
        step_ms = self._step_ms()
        if position is None:
            return SimulationPosition(0, 0, self._now_ms(), step_ms, self._devices, self._replicas)
        try:
            at = msgspec.convert(position, SimulationPosition)
        except msgspec.ValidationError as error:
            raise Refused(
                f"the recorded position {position} is none of a simulator: give the stage another name, and it starts anew"
            ) from error
        if (at.step_ms, at.devices, at.replicas) == (step_ms, self._devices, self._replicas):
            return at
        rounds = -(-(at.event - at.since) // max(1, at.devices))
        start_ms = max(self._now_ms(), at.start_ms + rounds * at.step_ms)
        return SimulationPosition(at.event, at.event, start_ms, step_ms, self._devices, self._replicas)

    def _step_ms(self) -> int:
        """The time between two readings of a device that fits the rate; 1 ms where there is no rate."""
        rate = self._spec.events_per_second
        return 1 if rate is None else max(1, round(1000 * self._spec.devices / rate))

    def _block(self, number: int, at: SimulationPosition) -> list[Message]:
        """The block's messages, from the last call if it was the same block."""
        wanted = msgspec.structs.replace(at, event=number)
        if self._made is None or self._made[0] != wanted:
            self._made = wanted, self._make(number, at)
        return self._made[1]

    def _make(self, number: int, at: SimulationPosition) -> list[Message]:
        draw = random.Random(f"{self._spec.seed}/{self._ordinal}/{number}").random  # noqa: S311 - no secret
        share, key, turn, sin = self._spec.malformed_share, self._key, 2 * math.pi / _DAY_MS, math.sin
        messages: list[Message] = []
        first = number * _BLOCK - at.since
        for event in range(first, first + _BLOCK):
            step, index = divmod(event, at.devices)
            device = self._ordinal + index * at.replicas
            timestamp = at.start_ms + step * at.step_ms
            wave = 6 * sin(timestamp * turn + device)
            name = f"device-{device:05d}"
            temperature = f"{12 + device * 7919 % 1000 / 100 + wave + draw():.2f}"
            humidity = f"{50 - 2 * wave + 10 * draw():.1f}"
            reading = (
                f'{{"device_id":"{name}","timestamp":{timestamp},"temperature_c":{temperature},'
                f'"humidity_pct":{humidity}}}'
            )
            if share and draw() < share:
                value = BREAKAGES[int(draw() * len(BREAKAGES))](reading, temperature)
            else:
                value = reading.encode()
            text = name if key == 0 else None if key is None else (name, str(timestamp), temperature, humidity)[key]
            messages.append({"key": None if text is None else text.encode(), "value": value})
        return messages
