"""Making, filling and reading topics for tests."""

import time
import uuid
from collections.abc import Callable
from typing import TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

T = TypeVar("T")


def unique(name: str) -> str:
    """A name that no other test uses."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


def create(
    bootstrap: str,
    *topics: str,
    partitions: int = 3,
    config: dict[str, str] | None = None,
    replicas: list[list[int]] | None = None,
) -> None:
    """Create topics; `replicas` names the brokers of each partition."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    placed = {} if replicas is None else {"replica_assignment": replicas}
    wanted = [NewTopic(topic, partitions, config=config or {}, **placed) for topic in topics]
    for created in admin.create_topics(wanted).values():
        created.result(30)


def configure(bootstrap: str, topic: str, name: str, value: str) -> None:
    """Set one configuration of a topic."""
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for altered in admin.incremental_alter_configs([resource]).values():
        altered.result(10)


def write(bootstrap: str, topic: str, records, **properties) -> None:
    """Write (key, value) pairs, partitioned as Java clients do; in order and once each, also when a broker stands still."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "partitioner": "murmur2_random",
            "enable.idempotence": True,
            "linger.ms": 5,
            **properties,
        }
    )
    failed = []

    def delivered(error, _message):
        if error is not None:
            failed.append(error)

    for key, value in records:
        while True:
            try:
                producer.produce(topic, value, key, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    assert producer.flush(60) == 0
    assert not failed


def read(bootstrap: str, topic: str, *, isolation: str = "read_committed", deadline_s: float = 60):
    """All messages up to the end that readers of this isolation see now, partition by partition in order."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "unused",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": isolation,
            "auto.offset.reset": "earliest",
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        messages, ended, end = [], set(), time.monotonic() + deadline_s
        while len(ended) < len(partitions):
            assert time.monotonic() < end, f"{topic} was not read to its end"
            for message in consumer.consume(10_000, 0.2):
                if message.error() is None:
                    messages.append(message)
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    ended.add(message.partition())
        return sorted(messages, key=lambda message: (message.partition(), message.offset()))
    finally:
        consumer.close()


def ends(bootstrap: str, topic: str, isolation: str) -> dict[int, int]:
    """End offset of each partition, as readers of this isolation see it."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "unused", "isolation.level": isolation})
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        return {each: _watermarks(consumer, TopicPartition(topic, each))[1] for each in partitions}
    finally:
        consumer.close()


def lag(bootstrap: str, group: str, topic: str) -> int:
    """How far the group's committed offsets are behind the ends that committed readers see."""
    return sum(lags(bootstrap, group, topic).values())


def lags(bootstrap: str, group: str, topic: str) -> dict[int, int]:
    """`lag` of each partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "isolation.level": "read_committed"})
    try:
        numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        partitions = [TopicPartition(topic, each) for each in numbers]
        found = {}
        for committed in _answer(lambda: consumer.committed(partitions, timeout=10)):
            low, high = _watermarks(consumer, committed)
            found[committed.partition] = high - (committed.offset if committed.offset >= 0 else low)
        return found
    finally:
        consumer.close()


def _watermarks(consumer: Consumer, partition: TopicPartition) -> tuple[int, int]:
    """First offset and end of a partition."""
    return _answer(lambda: consumer.get_watermark_offsets(partition, timeout=10))


def _answer(ask: Callable[[], T]) -> T:
    """What Kafka says; asked again while leaders or a coordinator are being found, as after a topic was made."""
    end = time.monotonic() + 30
    while True:
        try:
            return ask()
        except KafkaException:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
