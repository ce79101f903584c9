"""Brokers that restart, die, answer late or not at all. Cases 7 to 10, and the watchdog for calls that never return."""

import json
import os
import signal
import threading
import time

import psutil
import pytest
import topics
from load import Load, until_every_partition_progresses
from promises import FAILED_OVER_S, HEALED_S
from proxy import ADD_PARTITIONS_TO_TXN, END_TXN, INIT_PRODUCER_ID, PRODUCE
from services import Service, unready, until
from world import AVERAGE, World, assert_all_is_right, readings

from cluster import Cluster
from forebay.kafka.admin import REQUEST_TIMEOUT_S
from forebay.runtime.watching import TopicsWatch

pytestmark = pytest.mark.timeout(900)

MEBIBYTE = 1 << 20


def behind(proxy, world: World) -> Service:
    """The world's processor, which knows the brokers by the proxy's address only."""
    return Service(world.folder, world.yaml, "enrich", "processor", proxy.address)


def hold_the_end(proxy, part: str) -> None:
    """Let no request to end a transaction reach the broker, or let it be done and nobody know."""
    (proxy.hold_requests if part == "request" else proxy.hold_answers)(END_TXN)


def finish(world: World, load: Load, service: Service) -> None:
    """Everything is processed, the service has ended well, and all is right."""
    load.stop()
    until(world.drained, what="everything processed")
    assert service.stop() == 0
    assert_all_is_right(world, load.records, world.folder / "enrich-0")


# -- 7 ------------------------------------------------------------------------------------------------------------------


def test_7_a_broker_that_restarts_in_order(kafka, tmp_path):
    """In two of three runs librdkafka's call for the offsets does not return after this: see `_bounded` of the producer."""
    world = World(kafka, tmp_path, AVERAGE)
    with world.supervised() as service, Load(world) as load:
        until_every_partition_progresses(world)
        kafka.restart()
        until_every_partition_progresses(world)
        finish(world, load, service)


# -- 8 ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["request", pytest.param("answer", marks=pytest.mark.long)])
def test_8_brokers_that_are_killed_one_after_the_other(tmp_path, lost):
    """Three brokers: first the one that coordinates the transactions dies, then the one that coordinates the group.

    The first dies while a transaction ends: its successor finds it open when the request was lost, committed when only the
    answer was. What the client asks of the successor is late, too, so the processor itself has to find out.
    """
    with Cluster(tmp_path / "cluster") as cluster:
        world = _world_with_two_coordinators(cluster, tmp_path)
        with world.supervised(cluster.proxied_servers) as service, Load(world) as load:
            until_every_partition_progresses(world)
            for proxy in cluster.proxies.values():
                hold_the_end(proxy, lost)
            coordinator = until(
                lambda: next((node for node, proxy in cluster.proxies.items() if proxy.held), None),
                what="the end of a transaction is held",
                every_s=0.02,
            )
            asked = {node: len(proxy.requests) for node, proxy in cluster.proxies.items()}
            _kill(cluster, coordinator)
            until(
                lambda: any(
                    INIT_PRODUCER_ID in cluster.proxies[node].requests[count:] for node, count in asked.items()
                ),
                what="a new epoch",
                deadline_s=FAILED_OVER_S,
            )
            for proxy in cluster.proxies.values():
                proxy.heal()
            _comes_back(cluster, world, coordinator)

            coordinator = cluster.coordinator_of_group(world.group)
            _kill(cluster, coordinator)
            _comes_back(cluster, world, coordinator)
            finish(world, load, service)


def _kill(cluster: Cluster, node: int) -> None:
    """Kill the broker; what was on its way between it and the processor is lost."""
    cluster.brokers[node].kill()
    cluster.proxies[node].cut()


def _comes_back(cluster: Cluster, world: World, node: int) -> None:
    """Without the broker every partition progresses; with it the cluster is whole again."""
    until_every_partition_progresses(world, deadline_s=FAILED_OVER_S)
    cluster.brokers[node].restart()
    cluster.proxies[node].heal()
    until(lambda: cluster.is_whole(world.raw), what="the broker is in sync again")


@pytest.mark.long
def test_8_the_only_broker_of_the_changelog_is_away_when_it_starts(tmp_path):
    """State cannot be restored, and the answer to that needs it too: it is given again until that broker is back."""
    with Cluster(tmp_path / "cluster") as cluster:
        world = _world_with_two_coordinators(cluster, tmp_path, stateful=False)
        coordinators = {
            cluster.coordinator_of_transactions(_transactional_id(world)),
            cluster.coordinator_of_group(world.group),
        }
        (other,) = cluster.brokers.keys() - coordinators
        config = {"cleanup.policy": "compact", "min.insync.replicas": "1"}
        topics.create(world.bootstrap, world.changelog, replicas=[[other]] * 3, config=config)
        cluster.brokers[other].kill()
        with world.service() as service, Load(world) as load:
            in_vain = "changelog/0 cannot be read"
            until(lambda: service.log().count(in_vain) >= 3, what="restored in vain", deadline_s=150)
            assert service.is_running()
            cluster.brokers[other].restart()
            until_every_partition_progresses(world)
            assert service.metric("forebay_assigned_partitions") == 3
            assert unready(service) is None
            finish(world, load, service)


def _transactional_id(world: World) -> str:
    return f"{world.group}.0"


def _world_with_two_coordinators(cluster: Cluster, folder, *, stateful: bool = True) -> World:
    while True:
        world = World(cluster, folder, AVERAGE, stateful=stateful)
        transactions = cluster.coordinator_of_transactions(_transactional_id(world))
        if transactions != cluster.coordinator_of_group(world.group):
            return world


# -- 9 ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", ["request", "answer"])
def test_9_the_end_of_a_transaction_comes_too_late(kafka, proxy, tmp_path, late):
    """Whether the broker has committed is unknown, and a late request arrives while the next transaction is open.

    Only a new producer epoch keeps it from ending that one.
    """
    world = World(kafka, tmp_path, AVERAGE)
    with behind(proxy, world) as service, Load(world) as load:
        until_every_partition_progresses(world)
        hold_the_end(proxy, late)
        held = len(proxy.requests)
        until(lambda: INIT_PRODUCER_ID in proxy.requests[held:], what="a new epoch", deadline_s=HEALED_S, every_s=0.02)
        requests = list(proxy.requests)
        renewed = requests.index(INIT_PRODUCER_ID, held)
        ended = renewed - 1 - requests[:renewed][::-1].index(END_TXN)
        assert ADD_PARTITIONS_TO_TXN not in requests[ended:renewed]
        if late == "request":
            until(lambda: ADD_PARTITIONS_TO_TXN in proxy.requests[renewed:], what="the next one is open", every_s=0.02)
        proxy.heal()
        until_every_partition_progresses(world)
        finish(world, load, service)


def test_9_records_that_are_not_acknowledged_in_time(kafka, proxy, tmp_path):
    """The transaction is aborted, and what was read for it is read again: the client does not go back by itself."""
    world = World(kafka, tmp_path, AVERAGE, extra="      delivery: {timeoutMs: 2000}")
    with behind(proxy, world) as service, Load(world) as load:
        until_every_partition_progresses(world)
        proxy.hold_requests(PRODUCE)
        until(lambda: service.metric("forebay_transactions_total", result="aborted"), what="a transaction is aborted")
        proxy.heal()
        until_every_partition_progresses(world)
        assert "starting over" not in service.log(), "an abort is enough"
        finish(world, load, service)


def test_9_a_transaction_that_the_broker_has_never_heard_of(kafka, proxy, tmp_path):
    """Its records time out in a full queue; when it is to be aborted the broker says that there is none.

    It lasts so long that the queue is full before it is to be committed, on a slow machine, too.
    """
    extra = """
      kafkaProperties: {queue.buffering.max.messages: "1000"}
      delivery: {timeoutMs: 2000}
      batch: {maxWaitMs: 3000}
"""
    world = World(kafka, tmp_path, AVERAGE, extra=extra)
    records = list(readings(6_000))
    world.write(records[:500])
    with behind(proxy, world) as service:
        until(world.drained, what="the first part processed")
        proxy.hold_requests(ADD_PARTITIONS_TO_TXN)
        world.write(records[500:])
        until(lambda: "transaction aborted" in service.log(), what="the records have timed out")
        proxy.cut()
        proxy.heal()
        until(world.drained, what="everything processed")
        assert "INVALID_TXN_STATE" in service.log()
        assert service.stop() == 0
    assert_all_is_right(world, records, tmp_path / "enrich-0")


# -- 10 -----------------------------------------------------------------------------------------------------------------


def test_10_brokers_that_are_away_when_it_starts(kafka, tmp_path):
    world = World(kafka, tmp_path, AVERAGE)
    kafka.kill()
    with world.service() as service, Load(world, per_second=50) as load:
        time.sleep(40)
        waiting = [line for line in service.log().splitlines() if '"event": "waiting"' in line]
        assert len(waiting) == 1, "each attempt takes ten seconds; their cause is one and is said once"
        assert "Connection refused" in waiting[0]
        kafka.restart()
        until_every_partition_progresses(world)
        finish(world, load, service)


@pytest.mark.parametrize("how", ["cut", pytest.param("hold", marks=pytest.mark.long)])
def test_10_brokers_out_of_reach(kafka, proxy, tmp_path, how, scale):
    """`cut` refuses connections, `hold` lets nothing pass: the processor waits with bounded memory and then goes on."""
    world = World(kafka, tmp_path, AVERAGE)
    with behind(proxy, world) as service, Load(world, per_second=300) as load:
        until_every_partition_progresses(world)
        process = psutil.Process(service.process.pid)
        before, said = process.memory_info().rss, len(service.log())
        getattr(proxy, how)()
        end = time.monotonic() + scale.outage_s
        while time.monotonic() < end:
            assert service.is_running()
            assert process.memory_info().rss < before + 64 * MEBIBYTE
            time.sleep(1)
        assert len(service.log()) - said < 20_000 + 1_000 * scale.outage_s, "it floods its log"
        proxy.heal()
        until_every_partition_progresses(world)
        assert service.is_running()
        finish(world, load, service)


def test_10_a_broker_that_does_not_answer_what_topics_there_are(kafka, proxy, tmp_path):
    """Of several brokers the one that is asked may have died: whoever is given partitions then asks again."""
    world = World(kafka, tmp_path, AVERAGE)
    watch = TopicsWatch({"bootstrap.servers": proxy.address}, [world.raw])
    try:
        watch.look()
        proxy.hold()
        healing = threading.Timer(REQUEST_TIMEOUT_S + 2, proxy.heal)
        healing.start()
        assert watch.look().keys() == {world.raw}
        healing.join()
    finally:
        watch.close()


@pytest.mark.long
def test_10_a_slow_network(kafka, proxy, tmp_path):
    world = World(kafka, tmp_path, AVERAGE)
    with behind(proxy, world) as service, Load(world) as load:
        proxy.delay_s = 0.2
        until_every_partition_progresses(world)
        proxy.heal()
        finish(world, load, service)
    assert "aborted" not in service.log()


# -- the watchdog -------------------------------------------------------------------------------------------------------


def test_a_call_that_does_not_return_ends_the_process(kafka, tmp_path):
    """A frozen broker keeps its connections and answers nothing, so the commit blocks."""
    world = World(kafka, tmp_path, AVERAGE)
    with world.service(FOREBAY_STUCK_AFTER_S="8") as service, Load(world) as load:
        until_every_partition_progresses(world)
        os.kill(kafka.pid, signal.SIGSTOP)
        try:
            assert service.wait(25) == 70
        finally:
            os.kill(kafka.pid, signal.SIGCONT)
        (stuck,) = [json.loads(line) for line in service.log().splitlines() if "does not return" in line]
        assert any("forebay/kafka/producer.py" in call for call in stuck["at"]), stuck["at"]
        with world.service() as successor:
            until_every_partition_progresses(world)
            finish(world, load, successor)
