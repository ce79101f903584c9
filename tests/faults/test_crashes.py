"""kill -9 at the exact points where a transaction, its commit and the local state are between two steps. Cases 1 to 4."""

import random
import signal
import time

import pytest
from confluent_kafka import KafkaException
from crashing import breaking
from load import Load, committed, until_every_partition_progresses
from promises import TAKEN_OVER_S, UNBLOCKED_S
from services import until, until_it_has_all
from world import (
    AVERAGE,
    Tally,
    World,
    assert_all_is_right,
    readings,
    tally,
)

pytestmark = pytest.mark.timeout(900)

PRODUCED = ">forebay.kafka.producer:TransactionalProducer.produce_batch"
OFFSETS_SENT = "<forebay.kafka.producer:TransactionalProducer.commit"
COMMITTED = ">forebay.kafka.producer:TransactionalProducer.commit"
WRITTEN = ">forebay_processor.rocksdb_store:RocksStore.write"


def killed(service) -> None:
    """Wait until the service has killed itself."""
    assert service.wait() == -9


@pytest.mark.parametrize(
    ("point", "times"),
    [(PRODUCED, 40), (OFFSETS_SENT, 5), (COMMITTED, 5)],
    ids=["before-flush", "before-commit", "after-commit"],
)
def test_1_to_3_killed_in_the_middle_of_a_transaction(kafka, tmp_path, point, times):
    """After some transactions; each produces batches of output and changelog of three partitions."""
    world = World(kafka, tmp_path, AVERAGE)
    with Load(world) as load:
        with breaking(world.service(), point, times) as service:
            killed(service)
        if point == OFFSETS_SENT:
            with pytest.raises(KafkaException):
                committed(world, timeout_s=1)
        with world.service() as service:
            service.until_started()
            begun = time.monotonic()
            committed(world, timeout_s=UNBLOCKED_S)
            assert time.monotonic() - begun < UNBLOCKED_S
            until_every_partition_progresses(world, deadline_s=TAKEN_OVER_S)
            load.stop()
            until(world.drained, what="everything processed")
            assert service.stop() == 0

    assert_all_is_right(world, load.records, tmp_path / "enrich-0")


def test_4_killed_during_a_restore_and_again(kafka, tmp_path):
    """What a restore has written so far is continued, and nothing is processed on top of half a state."""
    world = World(kafka, tmp_path, AVERAGE, partitions=1)
    records = list(readings(105_000, devices=20_000))
    world.lose_the_stores_between(records[:100_000], records[100_000:])

    for _ in range(2):
        # The first write says where the restore begins, the second one is a slice of the changelog.
        with breaking(world.service(), WRITTEN, 2) as service:
            killed(service)
        assert "state restored" not in service.log().rpartition('"event": "started"')[2]
    with world.service() as service:
        until(world.drained, what="everything processed", deadline_s=TAKEN_OVER_S)
        assert service.stop() == 0

    assert_all_is_right(world, records, tmp_path / "enrich-0")


def test_the_partitions_of_a_killed_processor_progress_again_in_time(kafka, tmp_path):
    world = World(kafka, tmp_path, AVERAGE, partitions=4)
    with world.service(0) as first, world.service(1) as second:
        with Load(world) as load:
            until(lambda: second.metric("forebay_assigned_partitions") == 2, what="partitions shared")
            until_every_partition_progresses(world, deadline_s=TAKEN_OVER_S)
            first.kill()
            until_every_partition_progresses(world, deadline_s=TAKEN_OVER_S)
        until(world.drained, what="everything processed")
        assert second.stop() == 0

    assert_all_is_right(world, load.records, tmp_path / "enrich-1")


def test_killed_at_random_times_under_load(kafka, tmp_path, scale):
    world = World(kafka, tmp_path, AVERAGE, partitions=4)
    chance = random.Random(11)
    services = [world.service(0), world.service(1)]
    with services[0], services[1]:
        with Load(world, per_second=1_000) as load:
            killed = 0
            while killed < scale.kills:
                until(lambda: all(each.metric("forebay_records_in_total") for each in services), what="both at work")
                time.sleep(chance.uniform(0, 2))
                victim = chance.choice(services)
                victim.kill()
                killed += victim.process.returncode == -signal.SIGKILL
                victim.start()
        until(world.drained, what="everything processed")
        assert services[1].stop() == 0
        until_it_has_all(services[0], 4)
        assert services[0].stop() == 0

    found = tally(world, load.records)
    print(
        f"{killed} kill -9, {len(load.records)} records: {found.lost} lost, {found.duplicated} duplicated, {found.wrong} wrong"
    )
    assert found == Tally(lost=0, duplicated=0, wrong=0)
    assert_all_is_right(world, load.records, tmp_path / "enrich-0")
