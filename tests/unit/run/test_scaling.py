"""The replicas of a run: which stages are scaled, what is written down, and that a stage sleeps and wakes."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
from planned_world import decision, pipeline

from forebay.planning.groups import Group
from forebay.planning.scaling import Reason, read
from forebay.planning.topics import TopicState
from forebay_cli.run import launches, scaling
from forebay_cli.run.launches import Surroundings
from forebay_cli.run.restarts import Life
from forebay_cli.run.scaling import StageScaling
from forebay_cli.run.session import Plan, Session
from forebay_cli.run.supervision import Phase, Replica

SLEEPY = pipeline(partitions=2, low=1, high=1, to_zero=True)
(ENRICH,) = SLEEPY.spec.processors


class Kafka:
    """Admin and observer of a cluster whose topics have two partitions, all of them read up to the end by one member."""

    def __init__(self):
        self.is_away = False

    def observe(self, names):
        return {
            name: TopicState(name=name, partitions=2, replication_factor=1, config={}, topic_id=name) for name in names
        }

    def observe_groups(self, names):
        partitions = [("raw", 0), ("raw", 1)]
        group = Group("STABLE", dict.fromkeys(partitions, "member"), dict.fromkeys(partitions, 100))
        return dict.fromkeys(names, None if self.is_away else group)

    def begin_offsets(self, _topic, partitions):
        return dict.fromkeys(partitions, 0)

    def end_offsets(self, _topic, partitions):
        return dict.fromkeys(partitions, 100)


def groups_of(kafka):
    return kafka.observe_groups


@pytest.mark.parametrize(
    ("of", "is_scaled"),
    [(pipeline(low=1, high=1), False), (pipeline(low=1, high=2), True), (SLEEPY, True)],
    ids=["pinned", "bounds", "to zero"],
)
def test_stages_are_scaled_unless_all_are_pinned(of, is_scaled, tmp_path):
    assert bool(scaling.scalings(of, Kafka(), groups_of(Kafka()), tmp_path / "decisions")) is is_scaled


def test_decisions_are_written_when_they_say_something_else(tmp_path):
    kafka, folder = Kafka(), tmp_path / "decisions"
    stage = scaling.scalings(SLEEPY, kafka, groups_of(kafka), folder)["enrich"]

    said = []
    for number in range(4):
        kafka.is_away = number == 2
        stage.decide(stage.look(now=5.0 * number, replicas=1, ready=1))
        said.append(stage.has_news)
    stage.write()

    assert said == [True, False, True, True]
    reasons = [decided.verdict.reason for decided in read((folder / "enrich.jsonl").read_bytes())]
    assert reasons == [Reason.KEEPING_UP, Reason.MEASUREMENT_MISSING, Reason.KEEPING_UP]


def test_a_full_disk_does_not_end_the_run(tmp_path):
    kafka, nowhere = Kafka(), tmp_path / "no" / "such" / "folder"
    stage = StageScaling(ENRICH, pipeline=SLEEPY, admin=kafka, groups=groups_of(kafka), partitions=2, file=nowhere)

    stage.write()


class Script:
    """A StageScaling that says what it is told to say."""

    stage = ENRICH
    verdict = None
    has_news = False

    def __init__(self):
        self.replicas = 1
        self.looks = []

    def look(self, **seen):
        self.looks.append((seen["replicas"], seen["ready"]))
        return seen["replicas"]

    def decide(self, replicas):
        reason = "WentIdle" if self.replicas == 0 else "WokenUp"
        return decision(ENRICH.autoscaling, replicas=replicas, wanted=self.replicas, reason=reason).verdict


async def _live(self) -> Life:
    """A process that works until it is asked to stop."""
    asked = asyncio.Event()
    self._process = SimpleNamespace(returncode=None, pid=1, send_signal=lambda _: asked.set())
    self.phase, self._ready_since = Phase.RUNNING, 0.0
    await asked.wait()
    self._process.returncode = 0
    return Life(returncode=0, ready_s=1.0, progressed=True)


def test_a_stage_goes_to_zero_and_is_woken(monkeypatch, tmp_path):
    monkeypatch.setattr(Replica, "_live", _live)
    around = Surroundings(
        pipeline_file=Path("p.yaml"), bootstrap="127.0.0.1:1", secrets=None, folder=tmp_path, parent_pid=1
    )
    planned = launches.launches(SLEEPY, None)
    said = []
    view = SimpleNamespace(say=said.append, show=lambda _: None, close=lambda: None)
    plan = Plan(pipeline=SLEEPY, planned=planned, around=around, duration_s=None, drain_s=1.0, expected_records=None)

    def state(session):
        return next(stage for stage in session.snapshot().stages if stage.name == "enrich")

    async def scene():
        script = Script()
        session = Session(plan, offsets=None, scalings={"enrich": script}, broker=None, view=view)
        session._phase = "running"
        session._start([session._add(launch) for launch in planned if launch.stage is ENRICH])
        await asyncio.sleep(0.01)
        script.replicas = 0
        await session._scale_once(script)
        asleep = state(session)
        await asyncio.sleep(0.2)  # the replica commits and leaves
        script.replicas = 1
        await session._scale_once(script)
        await asyncio.sleep(0.01)
        await session._scale_once(script)
        awake = state(session)
        for replica in session._replicas.values():
            replica.kill()
        await asyncio.gather(*session._lives)
        return script.looks, asleep, awake

    looks, asleep, awake = asyncio.run(scene())

    assert looks == [(1, 1), (0, 0), (1, 1)]
    assert (asleep.replicas, asleep.is_done) == (0, False)
    assert (awake.replicas, awake.ready) == (1, 1)
    assert [line.split(":", 2)[1].strip() for line in said] == [
        "1 -> 0 replicas (WentIdle)",
        "0 -> 1 replicas (WokenUp)",
    ]
