"""The operator's looks at Kafka: who is asked for what, how often, and what is kept when no answer comes."""

import asyncio
from types import SimpleNamespace

import pytest
from planned_world import pipeline
from prometheus_client import REGISTRY

from forebay.errors import TryLater
from forebay.planning.groups import Group
from forebay.planning.scaling import Reason
from forebay.planning.topics import TopicState
from forebay_operator import measuring
from forebay_operator.connections import Connection
from forebay_operator.measuring import Measuring, Subject
from forebay_operator.pending import Pending
from forebay_operator.world import World

KEY = ("default", "sensors")
OTHER = ("default", "others")


class Kafka:
    """Answers as a broker does, for topics of one partition that end at `end`, and counts what it was asked."""

    def __init__(self):
        self.end, self.committed = 100, 100
        self.is_away = False
        self.asked = []

    def groups(self, _connection, names):
        self._note("groups", names)
        partitions = [("raw", 0), ("enriched", 0)]
        group = Group("STABLE", dict.fromkeys(partitions, "a"), dict.fromkeys(partitions, self.committed))
        return dict.fromkeys(names, group)

    def begins(self, places):
        self._note("begins", places)
        return dict.fromkeys(places, 0)

    def ends(self, places):
        self._note("ends", places)
        return dict.fromkeys(places, self.end)

    def _note(self, what, names):
        if self.is_away:
            raise TryLater("cannot reach Kafka")
        self.asked.append((what, len(list(names))))


class Place:
    """A Measuring with a world of Pipelines whose workloads all run, and the Kafka that they share."""

    def __init__(self):
        self.kafka = Kafka()
        self.world, self.pending = World(), Pending()
        self.connection = Connection(self.kafka, {}, "cluster")
        connections = SimpleNamespace(run=self._run, groups=SimpleNamespace(observe=self.kafka.groups))
        self.measuring = Measuring(connections, self.world, self.pending, 0.02)
        self.topics = {
            name: TopicState(name=name, partitions=1, replication_factor=1, config={}, topic_id=name)
            for name in ("raw", "enriched")
        }

    @staticmethod
    async def _run(call, *arguments) -> object:
        await asyncio.sleep(0)
        return call(*arguments)

    def deploy(self, key=KEY, replicas=1):
        for stage, kind in (("enrich", "StatefulSet"), ("store", "Deployment")):
            labels = {"forebay.dev/pipeline": key[1], "forebay.dev/stage": stage}
            counts = {"replicas": replicas, "readyReplicas": replicas, "updatedReplicas": replicas}
            body = {
                "kind": kind,
                "metadata": {"name": f"sensors-{stage}", "namespace": key[0], "labels": labels},
                "spec": {"replicas": replicas},
                "status": counts,
            }
            self.world.see(kind, body)

    def track(self, key=KEY, of=None, kept=None):
        self.measuring.track(key, Subject(of or PIPELINE, self.connection, self.topics, False, kept or {}))

    async def until(self, condition):
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
                await asyncio.sleep(0.005)


PIPELINE = pipeline(partitions=1, high=4, sink_high=4)


@pytest.fixture
def looking(monkeypatch):
    """Runs a scene beside a Measuring that looks every 0.02 s."""
    monkeypatch.setattr(measuring, "_TICK_S", 0.005)

    def play(scene):
        async def both():
            place = Place()
            looks = asyncio.create_task(place.measuring.run())
            try:
                await scene(place)
            finally:
                looks.cancel()
                await asyncio.gather(looks, return_exceptions=True)
                place.measuring.forget(KEY)

        asyncio.run(both())

    return play


def reason(place, stage="enrich"):
    decision = place.measuring.decided(KEY).get(stage)
    return decision.verdict.reason if decision else None


def shown(name, **labels):
    return REGISTRY.get_sample_value(name, {"namespace": KEY[0], "pipeline": KEY[1], **labels})


def test_stages_are_looked_at_again_and_again_and_their_pipeline_woken_once(looking):
    async def scene(place):
        place.deploy()
        place.track()
        await place.until(lambda: place.kafka.asked.count(("ends", 2)) >= 4)

        assert reason(place) is Reason.KEEPING_UP
        assert await place.pending.take() == KEY
        place.pending.done(KEY)
        assert place.pending.oldest_s() == 0  # nothing new since
        assert place.measuring.figures(KEY)["", "lag"] == 0
        assert shown("forebay_operator_lag_records", stage="enrich") == 0
        counted = shown("forebay_operator_scaling_decisions_total", stage="enrich", reason="KeepingUp")
        assert counted is not None
        assert counted >= 3

    looking(scene)


def test_pipelines_of_one_login_are_asked_for_together_and_ends_last(looking):
    async def scene(place):
        for key in (KEY, OTHER):
            place.track(key)
        await place.until(lambda: len(place.kafka.asked) >= 3)

        assert sorted(place.kafka.asked[:2]) == [("begins", 2), ("groups", 2)]
        assert place.kafka.asked[2] == ("ends", 2)
        place.measuring.forget(OTHER)

    looking(scene)


def test_without_an_answer_nothing_is_decided_and_nothing_forgotten(looking):
    async def scene(place):
        place.deploy()
        place.track(kept={"enrich": {"capacity": 400.0, "changedAt": 5.0}})
        await place.until(lambda: reason(place) is Reason.KEEPING_UP)
        place.kafka.is_away = True
        await place.until(lambda: reason(place) is Reason.MEASUREMENT_MISSING)

        assert place.measuring.figures(KEY) == {}
        assert shown("forebay_operator_lag_records", stage="enrich") is None
        place.measuring.lose(KEY)
        assert place.measuring.decided(KEY) == {}
        assert place.measuring.lasting(KEY)["enrich"].capacity == 400.0

        place.kafka.is_away = False
        place.track()
        await place.until(lambda: reason(place) is Reason.KEEPING_UP)
        assert place.measuring.lasting(KEY)["enrich"].capacity == 400.0

    looking(scene)


def test_of_a_pinned_stage_the_lag_is_told_and_nothing_decided(looking):
    async def scene(place):
        place.deploy()
        place.track(of=pipeline(partitions=1, high=4))
        await place.until(lambda: reason(place, "store") is not None)

        assert shown("forebay_operator_lag_records", stage="store") == 0
        assert shown("forebay_operator_scaling_decisions_total", stage="store", reason="KeepingUp") is None

    looking(scene)


def test_what_the_status_holds_is_recalled_and_nonsense_is_not(looking):
    async def scene(place):
        place.track(kept={"enrich": {"capacity": 400.0, "changedAt": 5.0}, "store": {"capacity": "nonsense"}})

        lasting = place.measuring.lasting(KEY)
        assert (lasting["enrich"].capacity, lasting["enrich"].changed_at) == (400.0, 5.0)
        assert lasting["store"].capacity is None

    looking(scene)


def test_a_change_of_the_pipeline_is_looked_at_at_once(looking):
    async def scene(place):
        place.measuring._interval_s = 3_600.0
        place.deploy()
        place.track()
        await place.until(lambda: reason(place) is Reason.KEEPING_UP)
        place.track(of=pipeline(partitions=1, high=7))
        await place.until(lambda: place.measuring.decided(KEY)["enrich"].policy.max_replicas == 7)

    looking(scene)


def test_of_a_pipeline_that_is_gone_nothing_is_shown(looking):
    async def scene(place):
        place.deploy()
        place.track()
        await place.until(lambda: reason(place) is Reason.KEEPING_UP)
        place.measuring.forget(KEY)

        assert (place.measuring.decided(KEY), place.measuring.lasting(KEY), place.measuring.figures(KEY)) == (
            {},
            {},
            {},
        )
        assert shown("forebay_operator_lag_records", stage="enrich") is None
        assert shown("forebay_operator_scaling_decisions_total", stage="enrich", reason="KeepingUp") is None

    looking(scene)


def test_the_rate_is_that_of_what_producers_write(looking):
    async def scene(place):
        place.track()
        await place.until(lambda: len(place.kafka.asked) >= 3)
        place.kafka.end += 1_000
        await place.until(lambda: place.measuring.figures(KEY).get(("", "rate"), 0) > 0)

        place.kafka.end = 3  # the topic was made anew
        asked = len(place.kafka.asked)
        await place.until(lambda: len(place.kafka.asked) > asked + 8)
        assert place.measuring.figures(KEY)["", "rate"] >= 0

    looking(scene)
