"""Topics that are deleted, made again, grow or lose records below a processor. Cases 19 to 22.

What Kafka does not tell, a stage must notice: another topic of the same name, a changelog that is empty all of a sudden,
a group that has forgotten where it was. It may wait or refuse; it may not go on with wrong state, nor create a topic.
"""

import functools
import signal

import pytest
import topics
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions
from promises import HEALED_S
from services import unready, until
from world import (
    AVERAGE,
    World,
    assert_all_is_right,
    assert_exactly_once,
    assert_no_open_transactions,
    assert_state_is_the_input_folded,
    averages_of,
    expected_averages,
    readings,
)

from cluster import Cluster

REFUSED = 78
STOP = "      onOffsetLost: Stop"
EARLIEST = "      onOffsetLost: Earliest"
WARM = """
        - name: warm
          filter: {where: [{field: temperature_c, exists: true}]}
"""


@functools.cache
def admin_of(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap})


def admin(world: World) -> AdminClient:
    """Kept, for an answer that is waited for ends with its client."""
    return admin_of(world.bootstrap)


def delete(world: World, topic: str) -> None:
    for deleted in admin(world).delete_topics([topic]).values():
        deleted.result(10)
    until(lambda: topic not in admin(world).list_topics(timeout=10).topics, what=f"{topic} is deleted")


def create(world: World, topic: str, partitions: int = 3) -> None:
    config = {"cleanup.policy": "compact"} if topic == world.changelog else {}
    topics.create(world.bootstrap, topic, partitions=partitions, config=config)


def delete_group(world: World) -> None:
    def gone() -> bool:
        (future,) = admin(world).delete_consumer_groups([world.group]).values()
        return future.exception() is None

    until(gone, what="the group is deleted", every_s=0.5)


def set_offsets(world: World, offsets: dict[int, int]) -> None:
    consumer = Consumer({"bootstrap.servers": world.bootstrap, "group.id": world.group})
    consumer.commit(
        offsets=[TopicPartition(world.raw, each, offset) for each, offset in offsets.items()], asynchronous=False
    )
    consumer.close()


def drop_records(world: World) -> None:
    """Delete all records of the input, as retention would."""
    ends = topics.ends(world.bootstrap, world.raw, "read_committed")
    wanted = [TopicPartition(world.raw, partition, end) for partition, end in ends.items()]
    for dropped in admin(world).delete_records(wanted).values():
        dropped.result(10)


def refused(service, deadline_s: float = 30) -> str:
    """The one sentence with which the service gave up."""
    assert service.wait(deadline_s) == REFUSED
    sentences = [line for line in service.log().splitlines() if '"event": "refused"' in line]
    assert sentences
    assert "Traceback" not in service.log()
    return sentences[-1]


def processed(world: World, records, **extra) -> None:
    """Run a processor over the records, and stop it in order."""
    world.write(records)
    with world.service(**extra) as service:
        until(world.drained, what="the first part processed")
        assert service.stop() == 0


# -- 19 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transforms", [AVERAGE, WARM], ids=["stateful", "stateless"])
def test_19_the_output_topic_is_deleted_and_comes_back(kafka, tmp_path, transforms):
    timeout = "      delivery: {timeoutMs: 2000}"
    world = World(kafka, tmp_path, transforms, extra=timeout, stateful=transforms == AVERAGE)
    records = list(readings(6_000))
    world.write(records[:2_000])
    with world.service() as service:
        until(world.drained, what="the first part processed")
        delete(world, world.enriched)
        world.write(records[2_000:4_000])
        until(lambda: world.enriched in (unready(service) or ""), what="it waits, not ready, and says for what")
        assert service.is_running()
        assert not world.drained(), "what cannot be written is not committed"
        assert world.enriched not in admin(world).list_topics(timeout=10).topics, "nobody creates it but its owner"
        assert service.log().count('"event": "waiting"') == 1
        create(world, world.enriched)
        until(lambda: unready(service) is None, what="it is ready again")
        world.write(records[4_000:])
        until(world.drained, what="the rest processed")
        assert service.stop() == 0

    assert_no_open_transactions(world)
    if not world.stateful:
        assert sorted(each.value() for each in world.output()) == sorted(value for _key, value in records[2_000:])
        return
    wanted = {place: mean for place, mean in expected_averages(records).items() if place[1] >= 2_000}
    assert averages_of(world.output()) == wanted
    assert_state_is_the_input_folded(world, records, tmp_path / "enrich-0")


@pytest.mark.parametrize("while_it_runs", [True, False], ids=["running", "stopped"])
def test_19_a_changelog_made_again_is_refused_until_a_person_decides(kafka, tmp_path, while_it_runs):
    """The state is lost with the changelog: neither an orphaned local store nor an empty one may replace it."""
    world = World(kafka, tmp_path, AVERAGE)
    records = list(readings(3_000))
    world.write(records[:2_000])
    with world.service() as service:
        until(world.drained, what="the first part processed")
        if not while_it_runs:
            assert service.stop() == 0
        delete(world, world.changelog)
        if while_it_runs:
            until(lambda: world.changelog in (unready(service) or ""), what="it waits, not ready")
        create(world, world.changelog)
        if not while_it_runs:
            service.start()
        assert "stateVersion" in refused(service)
        world.write(records[2_000:])
        service.start()
        assert world.changelog in refused(service), "a restart is no decision"
    assert len(world.output()) == 2_000
    with world.service(FOREBAY_DATA=str(tmp_path / "elsewhere")) as service:
        assert "stateVersion" in refused(service), "nor is another disk"

    world.yaml = world.yaml.replace("- name: avg", "- name: avg\n          stateVersion: 2")
    world.changelog = world.changelog.replace(".v1.", ".v2.")
    create(world, world.changelog)
    with world.service() as service:
        until(world.drained, what="the rest processed with new state")
        assert service.stop() == 0
    found = averages_of(world.output())
    assert {place: mean for place, mean in found.items() if place[1] >= 2_000} == expected_averages(records[2_000:])


# -- 20 -----------------------------------------------------------------------------------------------------------------


def exchange_input(world: World, service, records) -> None:
    """Delete the input and make it again, with records, while the service is frozen: it sees nothing in between."""
    service.signal(signal.SIGSTOP)
    delete(world, world.raw)
    create(world, world.raw)
    world.write(records)
    service.signal(signal.SIGCONT)


@pytest.mark.parametrize("transforms", [AVERAGE, WARM], ids=["stateful", "stateless"])
def test_20_an_input_made_again_while_it_runs_stops_the_stage(kafka, tmp_path, transforms):
    """The new topic is longer than the committed offsets: only its id tells that they are of another one."""
    world = World(kafka, tmp_path, transforms, extra=STOP, stateful=transforms == AVERAGE)
    world.write(readings(500))
    with world.service() as service:
        until(world.drained, what="the first topic processed")
        exchange_input(world, service, readings(2_000, start=500))
        assert "onOffsetLost: Earliest" in refused(service)
    assert len(world.output()) == 500, "nothing behind the old offsets was taken for the old topic's"


@pytest.mark.parametrize("count", [2_000, 100], ids=["longer", "shorter"])
def test_20_an_input_made_again_while_it_runs_is_begun_by_policy(kafka, tmp_path, count):
    """A fresh process begins it at its beginning, with the state of the former topic."""
    world = World(kafka, tmp_path, AVERAGE, extra=EARLIEST)
    first, second = list(readings(500)), list(readings(count, start=500, seed=8))
    world.write(first)
    with world.service() as service:
        until(world.drained, what="the first topic processed")
        exchange_input(world, service, second)
        assert service.wait(30) == 1
        assert "made again" in service.log()
        service.start()
        until(world.drained, what="the second topic processed from its beginning")
        assert service.stop() == 0
    assert_exactly_once(world, [*first, *second])
    assert_no_open_transactions(world)


def test_20_an_input_made_again_while_it_was_stopped_is_refused_or_begun_by_policy(kafka, tmp_path):
    world = World(kafka, tmp_path, AVERAGE, extra=STOP)
    first = list(readings(500))
    processed(world, first)
    delete(world, world.raw)
    create(world, world.raw)
    second = list(readings(2_000, start=500, seed=8))
    world.write(second)
    with world.service() as service:
        assert "onOffsetLost: Earliest" in refused(service)
    world.yaml = world.yaml.replace(STOP, EARLIEST)
    with world.service() as service:
        until(world.drained, what="the second topic processed from its beginning")
        assert service.stop() == 0
    assert_exactly_once(world, [*first, *second])
    assert_no_open_transactions(world)

    world.yaml = world.yaml.replace(EARLIEST, STOP)
    third = list(readings(100, start=2_500, seed=9))
    processed(world, third)
    assert_exactly_once(world, [*first, *second, *third])


def test_20_an_offset_in_range_of_another_topic_is_not_used(kafka, tmp_path):
    """Kafka forgets offsets of a deleted topic, unless somebody commits them again: the id in the commit counts."""
    world = World(kafka, tmp_path, WARM, extra=EARLIEST, partitions=1, stateful=False)
    processed(world, readings(300))
    consumer = Consumer({"bootstrap.servers": world.bootstrap, "group.id": world.group})
    (commit,) = consumer.committed([TopicPartition(world.raw, 0)], timeout=10)
    assert commit.offset == 300
    delete(world, world.raw)
    create(world, world.raw, partitions=1)
    second = list(readings(1_000, start=300, seed=8))
    world.write(second)
    consumer.commit(offsets=[commit], asynchronous=False)
    consumer.close()
    with world.service() as service:
        until(world.drained, what="the second topic processed")
        assert service.stop() == 0
    assert len(world.output()) == 300 + 1_000


# -- 21 -----------------------------------------------------------------------------------------------------------------


def grow(world: World, partitions: int) -> None:
    for grown in admin(world).create_partitions([NewPartitions(world.raw, partitions)]).values():
        grown.result(10)


def test_21_a_stage_without_state_reads_new_partitions(kafka, tmp_path):
    refresh = '      kafkaProperties: {topic.metadata.refresh.interval.ms: "1000"}'
    world = World(kafka, tmp_path, WARM, extra=refresh, stateful=False)
    records = list(readings(2_000))
    world.write(records[:1_000])
    with world.service() as service:
        until(world.drained, what="three partitions processed")
        grow(world, 5)
        until(lambda: service.metric("forebay_assigned_partitions") == 5, what="it has taken the new ones")
        world.write(records[1_000:])
        until(world.drained, what="five partitions processed")
        assert service.stop() == 0
    assert sorted(each.value() for each in world.output()) == sorted(value for _key, value in records)
    assert {each.partition() for each in topics.read(world.bootstrap, world.raw)} == set(range(5))


def test_21_a_stage_with_state_refuses_them(kafka, tmp_path):
    world = World(kafka, tmp_path, AVERAGE)
    records = list(readings(1_000))
    world.write(records)
    with world.service() as service:
        until(world.drained, what="processed")
        service.signal(signal.SIGSTOP)
        grow(world, 4)
        world.write(readings(1_000, start=1_000))
        service.signal(signal.SIGCONT)
        assert "has 4 partitions" in refused(service)
        service.start()
        assert "stateVersion" in refused(service)
    assert_exactly_once(world, records)  # nothing of what has come since, some of it without its state


# -- 22 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [STOP, EARLIEST], ids=["stop", "earliest"])
def test_22_records_that_were_deleted_before_they_were_processed(kafka, tmp_path, policy):
    world = World(kafka, tmp_path, AVERAGE, extra=policy)
    records = list(readings(3_000))
    processed(world, records[:1_000])
    world.write(records[1_000:2_000])
    drop_records(world)
    world.write(records[2_000:])
    with world.service() as service:
        if policy == STOP:
            assert "onOffsetLost: Earliest" in refused(service)
            assert_exactly_once(world, records[:1_000])
            return
        until(world.drained, what="what is left processed")
        assert service.metric("forebay_records_lost_total") == 1_000
        assert service.stop() == 0
    seen = [*records[:1_000], *records[2_000:]]
    assert_all_is_right(world, seen, tmp_path / "enrich-0")


@pytest.mark.parametrize("policy", [STOP, EARLIEST], ids=["stop", "earliest"])
def test_22_offsets_behind_the_end_are_refused(kafka, tmp_path, policy):
    """From the earliest, as the client would go on, all would be counted twice; from the end, what comes next is skipped."""
    world = World(kafka, tmp_path, AVERAGE, extra=policy)
    records = list(readings(2_000))
    processed(world, records[:1_000])
    ends = topics.ends(world.bootstrap, world.raw, "read_committed")
    set_offsets(world, {partition: end + 100 for partition, end in ends.items()})
    with world.service() as service:
        assert "behind its end" in refused(service)
    set_offsets(world, ends)
    processed(world, records[1_000:])
    assert_all_is_right(world, records, tmp_path / "enrich-0")


@pytest.mark.long
@pytest.mark.parametrize("policy", [STOP, EARLIEST], ids=["stop", "earliest"])
def test_22_an_input_that_has_lost_records_is_refused(tmp_path, policy):
    """A broker that lagged became the leader: what it lacks was processed already, and the rest must not be once more."""
    with Cluster(tmp_path / "cluster") as cluster:
        world = World(cluster, tmp_path, AVERAGE, extra=policy, partitions=1)
        leader, lagging = 1, 2
        delete(world, world.raw)
        config = {"unclean.leader.election.enable": "true", "min.insync.replicas": "1"}
        topics.create(world.bootstrap, world.raw, partitions=1, replicas=[[leader, lagging]], config=config)
        records = list(readings(2_000))
        world.write(records[:1_000])
        with world.service() as service:
            until(world.drained, what="the first part processed")
            cluster.brokers[lagging].kill()
            until(lambda: in_sync(world) == [leader], what="the other one lags")
            world.write(records[1_000:])
            until(world.drained, what="everything processed")
            cluster.brokers[leader].kill()
            cluster.brokers[lagging].restart()
            assert "behind its end" in refused(service, 2 * HEALED_S)  # two brokers were away, one after the other
        assert_exactly_once(world, records)


def in_sync(world: World) -> list[int]:
    (partition,) = admin(world).list_topics(world.raw, timeout=20).topics[world.raw].partitions.values()
    return partition.isrs


@pytest.mark.parametrize("disk", ["enrich-0", "elsewhere"], ids=["same-disk", "new-disk"])
def test_22_a_group_that_was_deleted_goes_on_where_its_state_stands(kafka, tmp_path, disk):
    """From the beginning, the state restored from the changelog would count all of history twice."""
    world = World(kafka, tmp_path, AVERAGE)
    records = list(readings(3_000))
    processed(world, records[:2_000])
    delete_group(world)
    processed(world, records[2_000:], FOREBAY_DATA=str(tmp_path / disk))
    assert_all_is_right(world, records, tmp_path / disk)


def test_22_offsets_set_back_below_the_state_are_refused(kafka, tmp_path):
    world = World(kafka, tmp_path, AVERAGE)
    records = list(readings(1_000))
    processed(world, records)
    set_offsets(world, {0: 0, 1: 0, 2: 0})
    with world.service() as service:
        assert "counted twice" in refused(service)
    assert_exactly_once(world, records)
    world.yaml = world.yaml.replace("- name: avg", "- name: avg\n          stateVersion: 2")
    create(world, world.changelog.replace(".v1.", ".v2."))
    with world.service() as service:
        until(world.drained, what="all of it processed again, with new state")
        assert service.stop() == 0
    output = sorted(each.value() for each in world.output())
    assert len(output) == 2_000
    assert output[::2] == output[1::2], "each mean as the first time"
