"""A member of a consumer group and what its client does to partitions that begin anew."""

import logging
import time

import topics
from confluent_kafka import Producer

from forebay.kafka import settings
from forebay.kafka.group import GroupReader
from forebay.pipeline.spec import OnOffsetLost, StartFrom

PARTITIONS = 60
ROUNDS = 80


def test_partitions_that_begin_anew_and_are_resumed_at_once_are_read(kafka):
    """One in a thousand was paused for ever when resuming did not wait for the beginning.

    With its debug messages the client takes longer between taking a number for what it was told and queueing that.
    """
    topic = topics.unique("g")
    topics.create(kafka.bootstrap_servers, topic, partitions=PARTITIONS)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for partition in range(PARTITIONS):
        producer.produce(topic, b"a record", partition=partition)
    assert producer.flush(30) == 0
    quiet = logging.getLogger("a client that nobody listens to")
    quiet.disabled = True
    reader = GroupReader(
        settings.group_consumer(
            {"bootstrap.servers": kafka.bootstrap_servers, "debug": "topic", "logger": quiet},
            group_id=topic,
            overrides={"fetch.min.bytes": "1"},
        ),
        topic,
        start_from=StartFrom.EARLIEST,
        on_offset_lost=OnOffsetLost.STOP,
    )
    try:
        read_all(reader)
        for _ in range(ROUNDS):
            reader.pause(reader.owned)
            reader.rewind(dict.fromkeys(reader.owned, 0))
            reader.resume(reader.owned)
            read_all(reader)
    finally:
        reader.close()


def read_all(reader: GroupReader) -> None:
    """Read until every partition has given a record."""
    missing, end = set(range(PARTITIONS)), time.monotonic() + 10
    while missing:
        missing.difference_update(run.partition for run in reader.read(1_000, 0.05))
        assert time.monotonic() < end, f"nothing came of {missing}"
