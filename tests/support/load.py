"""Steady input while something breaks, and how far a group has come meanwhile."""

import socket
import struct
import threading
import time

import topics
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from promises import HEALED_S
from services import until
from world import World, readings

LEAVE_GROUP = 13
"""Key of Kafka's request."""


class Load:
    """Readings at a steady rate from a thread, as a context manager; none is lost or doubled when brokers restart."""

    def __init__(self, world: World, *, per_second: int = 500, devices: int = 50) -> None:
        self.records: list[tuple[str, bytes]] = []
        """What was written, in order; complete when the load has ended."""
        self._topic = world.raw
        self._per_second = per_second
        self._source = readings(100_000_000, devices=devices)
        self._failed: list = []
        self._stopping = threading.Event()
        self._producer = Producer(
            {
                "bootstrap.servers": world.bootstrap,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 5,
                "log_level": 0,  # it would report every attempt to reach a broker that a test has stopped
            }
        )
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        begun = time.monotonic()
        while not self._stopping.wait(0.02):
            while len(self.records) < (time.monotonic() - begun) * self._per_second:
                key, value = next(self._source)
                self._producer.produce(self._topic, value, key, on_delivery=self._delivered)
                self.records.append((key, value))
            self._producer.poll(0)

    def _delivered(self, error, _message) -> None:
        if error is not None:
            self._failed.append(error)

    def stop(self) -> None:
        """Write no more; everything has arrived."""
        self._stopping.set()
        self._thread.join()
        assert self._producer.flush(60) == 0
        assert not self._failed

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, exception, *_rest) -> None:
        if exception is None:
            self.stop()
        self._stopping.set()


def committed(world: World, timeout_s: float = 10) -> dict[int, int]:
    """The group's stable offsets by partition, 0 where there is none; raises KafkaException while they are not stable."""
    consumer = Consumer({"bootstrap.servers": world.bootstrap, "group.id": world.group})
    try:
        partitions = consumer.list_topics(world.raw, timeout=10).topics[world.raw].partitions
        asked = [TopicPartition(world.raw, partition) for partition in partitions]
        return {each.partition: max(0, each.offset) for each in consumer.committed(asked, timeout=timeout_s)}
    finally:
        consumer.close()


def until_every_partition_progresses(world: World, *, deadline_s: float = HEALED_S) -> None:
    """Wait until the group has committed all that is in the input now; there must be something in each partition."""
    deadline = time.monotonic() + deadline_s

    def ends() -> dict[int, int] | None:
        found = _answer(lambda: topics.ends(world.bootstrap, world.raw, "read_committed"))
        return found if found and all(found.values()) else None

    wanted = until(ends, what="every partition has input", deadline_s=deadline_s)

    def progressed() -> bool:
        found = _answer(lambda: committed(world, timeout_s=2)) or {}
        return all(found.get(partition, 0) >= end for partition, end in wanted.items())

    until(progressed, what="every partition progresses", deadline_s=deadline - time.monotonic(), every_s=0.2)


def members(world: World) -> dict[str, int]:
    """How many partitions each of the group's members has, by its id, as the coordinator sees it."""
    admin = AdminClient({"bootstrap.servers": world.bootstrap})
    (described,) = admin.describe_consumer_groups([world.group]).values()
    return {member.member_id: len(member.assignment.topic_partitions) for member in described.result(10).members}


def expel(world: World, member: str) -> None:
    """Tell the world's only broker that the member leaves its group, as administrators can: sooner than its session ends.

    Kafka's client for Python has no call for it. The request is LeaveGroup, version 0; the answer ends with an error code.
    """
    names = b"".join(struct.pack(">h", len(name)) + name for name in (b"test", world.group.encode(), member.encode()))
    request = struct.pack(">hhi", LEAVE_GROUP, 0, 0) + names
    host, port = world.bootstrap.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as connection, connection.makefile("rb") as answer:
        connection.sendall(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", answer.read(4))
        assert answer.read(size)[-2:] == bytes(2), "it has left"


def _answer(ask):
    """What was asked for; None while the brokers cannot tell."""
    try:
        return ask()
    except KafkaException:
        return None
