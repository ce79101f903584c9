"""Partitions that move while transactions are open. Case 11."""

import time

import pytest
import topics
from confluent_kafka import Producer
from load import Load, until_every_partition_progresses
from promises import TAKEN_OVER_S
from services import until
from without_pauses import losing_pauses
from world import AVERAGE, World, assert_all_is_right, readings

pytestmark = pytest.mark.timeout(1200)

EVERY_S = 5


def test_11_a_storm_of_rebalances(kafka, tmp_path, scale):
    """A second processor comes, works, and goes every five seconds; each revocation commits what it can and aborts little."""
    world = World(kafka, tmp_path, AVERAGE, partitions=4)
    with world.service(0) as steady:
        with Load(world, per_second=1_000) as load:
            until_every_partition_progresses(world, deadline_s=TAKEN_OVER_S)
            for _ in range(scale.storm_rounds):
                with world.service(1) as guest:
                    guest.until_started()
                    leave = time.monotonic() + EVERY_S
                    until(
                        lambda guest=guest: guest.metric("forebay_records_in_total"),
                        what="the guest works",
                        deadline_s=TAKEN_OVER_S,
                    )
                    time.sleep(max(0.0, leave - time.monotonic()))
                    assert guest.stop() == 0
                until_every_partition_progresses(world, deadline_s=TAKEN_OVER_S)
            committed = steady.metric("forebay_transactions_total", result="committed")
            aborted = steady.metric("forebay_transactions_total", result="aborted")
            assert aborted <= max(2 * scale.storm_rounds, 0.1 * committed)
        until(world.drained, what="everything processed")
        assert steady.stop() == 0

    assert_all_is_right(world, load.records, tmp_path / "enrich-0")


def test_a_restore_waits_for_a_transaction_that_is_about_to_end(kafka, tmp_path):
    """Of several brokers one may know later than the others that the former owner has committed."""
    world = World(kafka, tmp_path, AVERAGE)
    records = list(readings(3_000))
    world.write(records[:2_000])
    with world.service() as service:
        until(world.drained, what="the first part processed")
        assert service.stop() == 0
        last = [each for each in topics.read(world.bootstrap, world.changelog) if each.partition() == 0][-1]
        former = Producer({"bootstrap.servers": world.bootstrap, "transactional.id": world.name})
        former.init_transactions(30)
        former.begin_transaction()
        former.produce(world.changelog, last.value(), last.key(), partition=0, headers=last.headers())
        assert former.flush(30) == 0

        service.start()
        restored = '"changes": 0,', '"changes": 1,'
        until(lambda: service.log().count(restored[0]) == 3 + 2, what="the other partitions are restored")
        time.sleep(2)
        assert restored[1] not in service.log()
        former.commit_transaction(30)
        until(lambda: restored[1] in service.log(), what="the last partition is restored with it")
        world.write(records[2_000:])
        until(world.drained, what="everything processed")
        assert service.stop() == 0

    assert_all_is_right(world, records, tmp_path / "enrich-0")


def test_nothing_is_lost_of_what_comes_during_a_restore(kafka, tmp_path):
    """A pause can get lost in the client; records of a partition that is not restored yet have to come again."""
    world = World(kafka, tmp_path, AVERAGE)
    records = list(readings(110_000, devices=20_000))
    world.lose_the_stores_between(records[:100_000], records[100_000:])
    with losing_pauses(world.service()) as service:
        until(world.drained, what="everything processed")
        assert service.stop() == 0

    assert_all_is_right(world, records, tmp_path / "enrich-0")
