"""The readings that every subject is given, and the averages that it must give back.

A reading's timestamp is EPOCH_MS plus its number, so an output record tells which reading it came from, and every one of
them can be compared.
"""

import random
from array import array
from collections import deque
from collections.abc import Iterator
from math import fsum
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from forebay.kafka import settings

DEVICES = 10_000
PARTITIONS = 12
WINDOW = 10
EPOCH_MS = 1_700_000_000_000
FIELD = "avg_temperature_c"

_CHUNK = 10_000
_TOLERANCE = 1e-9
"""Degrees; how the sum is rounded is each subject's own affair."""


class Wrong(Exception):  # noqa: N818
    """A subject's output is not what it must be."""


def readings(count: int, devices: int = DEVICES, seed: int = 1) -> Iterator[tuple[int, float, float]]:
    """(device, temperature, humidity), the same for the same seed."""
    source = random.Random(seed)
    for _ in range(count):
        yield int(source.random() * devices), int(source.random() * 7000 - 2000) / 100, int(source.random() * 1000) / 10


def key_of(device: int) -> bytes:
    """A device's id, which is its records' key."""
    return b"device-%07d" % device


def text_of(key: bytes, timestamp_ms: int, temperature: float, humidity: float) -> bytes:
    """A reading as JSON."""
    return b'{"device_id":"%b","timestamp":%d,"temperature_c":%b,"humidity_pct":%b}' % (
        key,
        timestamp_ms,
        repr(temperature).encode(),
        repr(humidity).encode(),
    )


def fill(bootstrap: str, topic: str, count: int) -> "array[float]":
    """Write that many readings to the topic; returns the average that belongs to each."""
    writer = BatchWriter(bootstrap, topic)
    keys = [key_of(device) for device in range(DEVICES)]
    windows: list[deque[float]] = [deque(maxlen=WINDOW) for _ in keys]
    expected = array("d")
    batch: list[dict[str, Any]] = []
    for number, (device, temperature, humidity) in enumerate(readings(count)):
        window = windows[device]
        window.append(temperature)
        expected.append(fsum(window) / len(window))
        key = keys[device]
        batch.append({"key": key, "value": text_of(key, EPOCH_MS + number, temperature, humidity)})
        if len(batch) == _CHUNK:
            writer.write(batch)
            batch = []
    writer.write(batch)
    writer.finish()
    return expected


class BatchWriter:
    """Writes batches as the product's clients do: the same partitioner and compression."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._topic = topic
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "partitioner": "murmur2_random",
                "compression.type": "lz4",
                "linger.ms": 20,
                "max.in.flight": 1,  # keeps the order without idempotence, whose set-up a young broker delays
                "queue.buffering.max.messages": 200_000,
            }
        )

    def write(self, batch: list[dict[str, Any]]) -> None:
        """Queue the batch, waiting while the queue is full."""
        while len(self._producer) > 100_000:  # noqa: PLR2004 - half of the queue
            self._producer.poll(0.01)
        if self._producer.produce_batch(self._topic, batch) != len(batch):
            raise RuntimeError(f"readings cannot be written: {next(m['_error'] for m in batch if '_error' in m)}")
        self._producer.poll(0)

    def finish(self) -> None:
        """Wait until everything is in the topic."""
        if self._producer.flush(60):
            raise RuntimeError("readings cannot be written: the broker does not take them")


def check(bootstrap: str, topic: str, expected: "array[float]", count: int) -> None:
    """Compare every committed record of a subject's output: each reading once, each average right, none missing."""
    decode = msgspec.json.Decoder(_Average).decode
    seen = bytearray(len(expected))
    found = 0
    for messages in _batches(bootstrap, topic):
        found += len(messages)
        for message in messages:
            average = decode(message.value())
            number = average.timestamp - EPOCH_MS
            if seen[number]:
                raise Wrong(f"{topic}: reading {number} has two averages")
            seen[number] = 1
            if abs(average.avg_temperature_c - expected[number]) > _TOLERANCE:
                raise Wrong(f"{topic}: reading {number} has {average.avg_temperature_c}, not {expected[number]}")
    if found != count:
        raise Wrong(f"{topic}: {found} records, for {count} readings taken in")


class _Average(msgspec.Struct, gc=False):
    timestamp: int
    avg_temperature_c: float


def _batches(bootstrap: str, topic: str) -> Iterator[list[Any]]:
    consumer = Consumer(settings.assigned_consumer({"bootstrap.servers": bootstrap}))
    try:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
        ended = 0
        while ended < PARTITIONS:
            batch = consumer.consume(_CHUNK, 5.0)
            messages = [message for message in batch if message.error() is None]
            errors = [error.code() for error in (message.error() for message in batch) if error is not None]
            ended += errors.count(KafkaError._PARTITION_EOF)  # noqa: SLF001
            if not batch:
                raise RuntimeError(f"{topic} cannot be read to its end within 5 s")
            yield messages
    finally:
        consumer.close()
