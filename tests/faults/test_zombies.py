"""Processors that have lost their right to commit and do not know it yet. Cases 5, 6, 12 and 13."""

import json
import os
import signal
import time

import pytest
from crashing import breaking
from load import Load, expel, members, until_every_partition_progresses
from promises import TAKEN_OVER_S, TRANSACTION_S
from services import until, until_it_has_all
from world import AVERAGE, World, assert_all_is_right, assert_no_open_transactions

pytestmark = pytest.mark.timeout(300)

BEFORE_OFFSETS = "<forebay.kafka.producer:TransactionalProducer.send_offsets"
BEFORE_COMMIT = "<forebay.kafka.producer:TransactionalProducer.commit"


def has_let_go(service) -> bool:
    """Whether it was told that its partitions are gone: as lost, or after an abort has moved positions, as revoked."""
    return "partitions lost" in service.log() or '"owned": 0, "event": "partitions revoked"' in service.log()


def test_5_a_processor_that_slept_through_session_and_transaction_is_fenced_and_exits(kafka, tmp_path):
    world = World(kafka, tmp_path, AVERAGE, partitions=2)
    with breaking(world.service(0), BEFORE_COMMIT, 5, signal.SIGSTOP) as zombie, world.service(1) as successor:
        with Load(world) as load:
            until(zombie.is_frozen, what="the first is frozen in an open transaction")
            frozen = time.monotonic()
            until(
                lambda: successor.metric("forebay_assigned_partitions") == 2,
                what="the other one has all",
                deadline_s=TAKEN_OVER_S,
            )
            until(lambda: time.monotonic() - frozen > TRANSACTION_S + 3, what="the transaction timed out")
            until_every_partition_progresses(world, deadline_s=TAKEN_OVER_S)
            zombie.signal(signal.SIGCONT)
            assert zombie.wait(10) == 1
            until_every_partition_progresses(world, deadline_s=TAKEN_OVER_S)
        until(world.drained, what="everything processed")
        assert successor.stop() == 0

    assert '"error": "Fenced"' in zombie.log()
    assert_all_is_right(world, load.records, tmp_path / "enrich-1")


def test_6_of_two_processors_with_one_transactional_id_the_older_dies(kafka, tmp_path):
    world = World(kafka, tmp_path, AVERAGE, partitions=2)
    with world.service() as older, Load(world) as load:
        until(lambda: older.metric("forebay_records_in_total"), what="the older one works")
        with world.service(FOREBAY_DATA=str(tmp_path / "twin")) as newer:
            assert older.wait(TAKEN_OVER_S) == 1
            until_every_partition_progresses(world, deadline_s=TAKEN_OVER_S)
            load.stop()
            until(world.drained, what="everything processed")
            assert newer.stop() == 0

    assert '"error": "Fenced"' in older.log()
    assert_all_is_right(world, load.records, tmp_path / "twin")


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(BEFORE_OFFSETS, id="before-offsets"),
        pytest.param(BEFORE_COMMIT, id="before-commit", marks=pytest.mark.long),
    ],
)
def test_12_partitions_that_move_on_between_consume_and_commit(kafka, tmp_path, point):
    """The broker would still take a commit under fresh group metadata, and the successor's work would be done twice."""
    world = World(kafka, tmp_path, AVERAGE, partitions=2)
    with Load(world) as load, world.service(1) as successor:
        until(lambda: successor.metric("forebay_assigned_partitions") == 2, what="one has both partitions")
        former = members(world)
        with breaking(world.service(0), point, 5, signal.SIGSTOP) as sleeper:
            until(sleeper.is_frozen, what="the other one is frozen in an open transaction")
            frozen = time.monotonic()
            (member,) = members(world).keys() - former.keys()
            expel(world, member)
            until(lambda: members(world) == former, what="its partition has moved on")
            if point == BEFORE_OFFSETS:  # the successor waits for what becomes of offsets that were sent
                until_every_partition_progresses(world)
            assert time.monotonic() - frozen < TRANSACTION_S
            sleeper.signal(signal.SIGCONT)
            until(lambda: has_let_go(sleeper), what="the sleeper knows", deadline_s=TAKEN_OVER_S)
            until(
                lambda: sleeper.metric("forebay_assigned_partitions") == 1, what="it is back", deadline_s=TAKEN_OVER_S
            )
            until_every_partition_progresses(world, deadline_s=TAKEN_OVER_S)
            load.stop()
            until(world.drained, what="everything processed")
            assert successor.stop() == 0
            until_it_has_all(sleeper, 2)
            assert sleeper.stop() == 0

    assert_all_is_right(world, load.records, tmp_path / "enrich-0")


SLOW_ONCE = """
import pathlib, time

SLEPT = pathlib.Path(__file__).with_name("slept")

def count(record):
    if record.value["timestamp"] == 3_000 and not SLEPT.exists():
        SLEPT.touch()
        time.sleep(12)
    record.state.value = (record.state.value or 0) + 1
    return {**record.value, "seen": record.state.value}
"""


def test_13_a_transform_slower_than_the_poll_interval(kafka, tmp_path):
    """The member is expelled while its function computes: what it has made of the batch must never be seen."""
    (tmp_path / "usercode.py").write_text(SLOW_ONCE)
    transforms = """
        - name: avg
          python: {entrypoint: "usercode:count", stateful: true}
"""
    extra = '      kafkaProperties: {max.poll.interval.ms: "10000"}'
    world = World(kafka, tmp_path, transforms, partitions=2, extra=extra)
    paths = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    services = [world.service(ordinal, PYTHONPATH=paths) for ordinal in (0, 1)]
    with services[0], services[1]:
        with Load(world) as load:
            expelled = "maximum poll interval"
            until(lambda: any(expelled in each.log() for each in services), what="the slow one was expelled")
            (slow,) = (each for each in services if expelled in each.log())
            until(lambda: slow.metric("forebay_assigned_partitions") == 1, what="it is back", deadline_s=TAKEN_OVER_S)
            until_every_partition_progresses(world, deadline_s=TAKEN_OVER_S)
        until(world.drained, what="everything processed")
        assert [each.stop() for each in services] == [0, 0]

    seen: dict[str, int] = {}
    expected, found = [], []
    for key, text in load.records:
        seen[key] = seen.get(key, 0) + 1
        expected.append((json.loads(text)["timestamp"], seen[key]))
    for message in world.output():
        value = json.loads(message.value())
        found.append((value["timestamp"], value["seen"]))
    assert sorted(found) == expected
    assert_no_open_transactions(world)
