"""A member of a consumer group, and what its client does to partitions that begin anew."""

import logging
import time
from contextlib import contextmanager

import pytest
import topics
from confluent_kafka import Producer, TopicPartition

from forebay.kafka import settings
from forebay.kafka.group import GroupReader
from forebay.pipeline.spec import OnOffsetLost, StartFrom

PARTITIONS = 60
ROUNDS = 80


@pytest.fixture
def topic(kafka):
    """One record in each partition."""
    name = topics.unique("g")
    topics.create(kafka.bootstrap_servers, name, partitions=PARTITIONS)
    write_to_each(kafka, name)
    return name


def write_to_each(kafka, topic: str) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for partition in range(PARTITIONS):
        producer.produce(topic, b"a record", partition=partition)
    assert producer.flush(30) == 0


@contextmanager
def member(kafka, topic: str, **connection):
    """The only one of its group."""
    properties = settings.group_consumer(
        {"bootstrap.servers": kafka.bootstrap_servers, **connection},
        group_id=topic,
        overrides={"fetch.min.bytes": "1"},
    )
    reader = GroupReader(properties, topic, start_from=StartFrom.EARLIEST, on_offset_lost=OnOffsetLost.STOP)
    try:
        yield reader
    finally:
        reader.close()


def offsets_until_all_have_given(reader: GroupReader) -> dict[int, list[int]]:
    """Read until every partition has given a record; what each has given."""
    found: dict[int, list[int]] = {}
    end = time.monotonic() + 10
    while len(found) < PARTITIONS:
        assert time.monotonic() < end, f"nothing came of {set(range(PARTITIONS)).difference(found)}"
        for run in reader.read(1_000, 0.05):
            found.setdefault(run.partition, []).extend(message.offset() for message in run.messages)
    return found


def test_partitions_that_begin_anew_and_are_resumed_at_once_are_read(kafka, topic):
    """One in a thousand was paused for ever when resuming did not wait for the beginning.

    With its debug messages the client takes longer between taking a number for what it was told and queueing that.
    """
    quiet = logging.getLogger("a client that nobody listens to")
    quiet.disabled = True
    with member(kafka, topic, debug="topic", logger=quiet) as reader:
        offsets_until_all_have_given(reader)
        for _ in range(ROUNDS):
            reader.pause(reader.owned)
            reader.rewind(dict.fromkeys(reader.owned, 0))
            reader.resume(reader.owned)
            offsets_until_all_have_given(reader)


def test_what_the_client_gives_again_is_not_handed_out_again(kafka, topic):
    with member(kafka, topic) as reader:
        offsets_until_all_have_given(reader)
        for partition in range(PARTITIONS):
            reader._consumer.seek(TopicPartition(topic, partition, 0))
        write_to_each(kafka, topic)

        found = offsets_until_all_have_given(reader)
    assert found == {partition: [1] for partition in range(PARTITIONS)}
