"""Lag of many groups at once: what the operator asks a cluster every few seconds."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial

import psutil
import pytest
import topics
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from forebay.kafka.admin import Admin
from forebay.kafka.groups import GroupObserver
from forebay.planning.groups import Group


@pytest.fixture
def observer(kafka):
    """Asks this broker."""
    asking = GroupObserver()
    yield partial(asking.observe, {"bootstrap.servers": kafka.bootstrap_servers})
    asking.close()


NO_SUCH = Group("DEAD", {}, {})


@pytest.fixture
def topic(kafka):
    name = topics.unique("many")
    topics.create(kafka.bootstrap_servers, name, partitions=3)
    topics.write(kafka.bootstrap_servers, name, [(str(number).encode(), b"x") for number in range(60)])
    return name


def commit(bootstrap: str, group: str, topic: str, offsets: dict[int, int]) -> None:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False})
    wanted = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
    consumer.commit(offsets=wanted, asynchronous=False)
    consumer.close()


def test_committed_offsets_of_many_groups(kafka, observer, topic):
    groups = [topics.unique("group") for _ in range(20)]
    for number, group in enumerate(groups):
        commit(kafka.bootstrap_servers, group, topic, {0: number, 2: number + 1})
    found = observer([*groups, "never-seen"])

    assert {name: group.committed for name, group in found.items()} == {
        **{group: {(topic, 0): number, (topic, 2): number + 1} for number, group in enumerate(groups)},
        "never-seen": {},
    }


def test_two_hundred_groups_take_less_than_their_share_of_five_seconds(kafka, observer, topic):
    commit(kafka.bootstrap_servers, topics.unique("group"), topic, {0: 1})
    groups = [f"none-{number}" for number in range(200)]
    observer(groups)
    started = time.monotonic()
    found = observer(groups)

    assert time.monotonic() - started < 2.5
    assert all(group == NO_SUCH for group in found.values())


def test_an_observer_that_dies_costs_one_answer(kafka, observer, topic):
    commit(kafka.bootstrap_servers, topics.unique("group"), topic, {0: 1})  # a broker without any group would do it too
    assert observer(["never-seen"]) == {"never-seen": NO_SUCH}
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGSEGV)
    time.sleep(0.2)

    assert observer(["never-seen"]) == {"never-seen": None}
    assert observer(["never-seen"]) == {"never-seen": NO_SUCH}


def test_a_kafka_that_does_not_answer_is_unknown_and_not_zero():
    observer = GroupObserver()
    assert observer.observe({"bootstrap.servers": "127.0.0.1:1"}, ["any"]) == {"any": None}
    observer.close()
    assert observer.observe({"bootstrap.servers": "127.0.0.1:1"}, ["any"]) == {"any": None}


def test_ends_and_beginnings_of_many_topics(kafka, topic):
    admin = Admin({"bootstrap.servers": kafka.bootstrap_servers})
    partitions = [(topic, number) for number in range(3)]
    ends = admin.ends([*partitions, ("no-such-topic", 0)])

    assert sum(ends[partition] or 0 for partition in partitions) == 60
    assert ends["no-such-topic", 0] is None
    assert admin.begins(partitions) == dict.fromkeys(partitions, 0)


def test_groups_tell_who_reads_what(kafka, observer, topic):
    group = topics.unique("group")
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": group})
    consumer.subscribe([topic])
    deadline = time.monotonic() + 30
    while len(consumer.assignment()) < 3:
        consumer.poll(0.1)
        assert time.monotonic() < deadline
    found = observer([group, "never-seen"])
    consumer.close()

    assert found[group] is not None
    assert found[group].state == "STABLE"
    assert found[group].owners.keys() == {(topic, number) for number in range(3)}
    assert len(set(found[group].owners.values())) == 1
    assert found["never-seen"] == NO_SUCH


def test_the_cluster_has_one_name_whatever_its_address(kafka):
    first = Admin({"bootstrap.servers": kafka.bootstrap_servers}).cluster_id()
    other = Admin({"bootstrap.servers": kafka.bootstrap_servers.replace("localhost", "127.0.0.1")}).cluster_id()

    assert first == other
    assert AdminClient({"bootstrap.servers": kafka.bootstrap_servers}).list_topics(timeout=10).cluster_id == first


def test_observers_end_with_their_parent(kafka):
    """Also with one that is killed."""
    ask = (
        "import multiprocessing, sys, time\n"
        "from forebay.kafka.groups import GroupObserver\n"
        "if __name__ == '__main__':\n"
        "    GroupObserver().observe({'bootstrap.servers': sys.argv[1]}, ['any'])\n"
        "    print(multiprocessing.active_children()[0].pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", ask, kafka.bootstrap_servers], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait(10)
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
