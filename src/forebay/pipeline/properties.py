"""The librdkafka properties that a stage may set with `kafkaProperties`.

They trade latency, throughput and memory, or decide how patient a client is. What exactly-once, ordering, the partition
of a key, security, the group and a client's identity rest on is not here: those are set in one place, `kafka.settings`.
"""

from dataclasses import dataclass

from forebay.pipeline.spec import Processor, Producer, Sink


@dataclass(frozen=True, slots=True)
class Bounds:
    """The whole numbers that librdkafka accepts."""

    low: int
    high: int


_INT32 = 2**31 - 1

# `socket.timeout.ms` stays above the 15 s of a transaction: a request that times out is repeated by librdkafka itself, the end
# of a transaction too, and a repeated one that comes late could end the next. Before that the producer is thrown away.
CLIENT = {
    "broker.address.ttl": Bounds(0, 86_400_000),
    "connections.max.idle.ms": Bounds(0, _INT32),
    "metadata.max.age.ms": Bounds(1, 86_400_000),
    "reconnect.backoff.max.ms": Bounds(0, 3_600_000),
    "reconnect.backoff.ms": Bounds(0, 3_600_000),
    "retry.backoff.max.ms": Bounds(1, 300_000),
    "retry.backoff.ms": Bounds(1, 300_000),
    "socket.connection.setup.timeout.ms": Bounds(1_000, _INT32),
    "socket.receive.buffer.bytes": Bounds(0, 100_000_000),
    "socket.send.buffer.bytes": Bounds(0, 100_000_000),
    "socket.timeout.ms": Bounds(20_000, 300_000),
    "topic.metadata.refresh.interval.ms": Bounds(1_000, 3_600_000),
}
"""For every client."""

CONSUMER = {
    "fetch.error.backoff.ms": Bounds(0, 300_000),
    "fetch.max.bytes": Bounds(1_024, 1_073_741_824),
    "fetch.message.max.bytes": Bounds(1, 1_000_000_000),
    "fetch.min.bytes": Bounds(1, 100_000_000),
    "fetch.queue.backoff.ms": Bounds(0, 300_000),
    "fetch.wait.max.ms": Bounds(0, 300_000),
    "max.partition.fetch.bytes": Bounds(1, 1_000_000_000),
    "max.poll.interval.ms": Bounds(10_000, 86_400_000),
    "queued.max.messages.kbytes": Bounds(1_024, 2_097_151),
    "queued.min.messages": Bounds(1, 10_000_000),
    "receive.message.max.bytes": Bounds(1_000_000, _INT32),
}
"""For what reads: processors and sinks."""

PRODUCER = {
    "batch.num.messages": Bounds(1, 1_000_000),
    "compression.level": Bounds(-1, 12),
    "message.max.bytes": Bounds(1_000, 1_000_000_000),
    "queue.buffering.max.kbytes": Bounds(1_024, 2_147_483),
    "queue.buffering.max.messages": Bounds(1_000, 10_000_000),
    "request.timeout.ms": Bounds(1_000, 900_000),
}
"""For what writes: producers, processors, and the dead letters of sinks."""

INSTEAD = {
    "auto.offset.reset": "startFrom and onOffsetLost",
    "batch.size": "delivery.batchBytes",
    "bootstrap.servers": "spec.kafka.bootstrapServers",
    "compression.codec": "delivery.compression",
    "compression.type": "delivery.compression",
    "delivery.timeout.ms": "delivery.timeoutMs",
    "linger.ms": "delivery.lingerMs",
    "message.timeout.ms": "delivery.timeoutMs",
    "queue.buffering.max.ms": "delivery.lingerMs",
}
"""What the Pipeline has a field of its own for."""


def allowed(stage: Producer | Processor | Sink) -> dict[str, Bounds]:
    """The properties that the stage may set, by name."""
    return CLIENT | PRODUCER if isinstance(stage, Producer) else CLIENT | CONSUMER | PRODUCER


def for_consumer(chosen: dict[str, str]) -> dict[str, str]:
    """Those of a stage's properties that its consumer understands."""
    return {name: value for name, value in chosen.items() if name in CLIENT or name in CONSUMER}


def for_producer(chosen: dict[str, str]) -> dict[str, str]:
    """Those of a stage's properties that its producer understands."""
    return {name: value for name, value in chosen.items() if name in CLIENT or name in PRODUCER}
