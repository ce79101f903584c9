"""How often a status is written while a load comes and goes: looks, decisions, replicas and reports, round after round."""

import math
import random
from collections import deque
from dataclasses import replace

import pytest
from planned_world import PlannedWorld, decision, pipeline, settle
from scaling_stage import Stage

from forebay.planning import reconciling, reporting
from forebay.planning.objects import ObjectKey
from forebay.planning.scaling import History, decided, policy_of

LOOK_S = 5.0
ENRICH = ObjectKey("StatefulSet", "sensors-enrich")
CAPACITY = 400


class Life:
    """A Pipeline whose processor has 12 partitions and up to 12 replicas, which take ten seconds to start."""

    def __init__(self) -> None:
        self.world = settle(PlannedWorld(pipeline(partitions=12, low=1, high=12)))
        for body in self.world.live.values():
            body.setdefault("status", {})
        self.stage = Stage(partitions=12, replicas=1)
        self.history = History()
        self.recent: deque = deque(maxlen=12)
        self.shown: dict = {}
        self.told: dict = {}
        self.status: dict = {}
        self.written: list[float] = []
        """When the status was written."""
        self.replicas: list[int] = []
        self._dice = random.Random(7)
        self._starting_since = 0.0

    def live(self, seconds: float, load) -> "Life":
        """Look every five seconds at a load, records per second by the time, which comes in unevenly."""
        for _ in range(int(seconds / LOOK_S)):
            self._pass(load(self.stage.now) * self._dice.uniform(0.85, 1.15))
            self._round()
        return self

    def _pass(self, load: float) -> None:
        if self.stage.now - self._starting_since > 10:
            self.stage.ready = self.stage.replicas
        seen = self.stage.look(after_s=LOOK_S, arrive=load, per_replica=CAPACITY)
        spec = self.world.pipeline.spec
        self.history = decided(self.history, seen, policy_of(spec.processors[0].autoscaling), most=1)
        assert self.history.last is not None
        store = decision(spec.sinks[0].autoscaling, lag=int(load * self._dice.uniform(0, 0.5)), behind_s=0.2, rate=load)
        self.world.decided = {"enrich": self.history.last, "store": store}
        self.world.lasting = {"enrich": self.history.memory.lasting}
        self.recent.append(reporting.figures_of(self.world.pipeline, self.world.decided, load))

    def _round(self) -> None:
        now = self.stage.now
        for body in self.world.live.values():
            wanted = body.get("spec", {}).get("replicas", 0)
            ready = self.stage.ready if body["metadata"]["name"] == "sensors-enrich" else wanted
            body["status"] = {"replicas": wanted, "readyReplicas": min(ready, wanted), "updatedReplicas": wanted}
        seen = self.world.seen()
        plan = reconciling.plan(self.world.pipeline, seen)
        for step in plan.steps:
            self.world.take(step)
            self.stage.scale(step.verdict.replicas, ready=min(self.stage.ready, step.verdict.replicas))
            self._starting_since = now
        self.replicas.append(self.stage.replicas)
        self.shown = reporting.steady(self.shown, reporting.middle(self.recent))
        self.told = reporting.told_before(self.told, plan.verdicts, self.shown)
        plan = replace(plan, verdicts={stage: told.wanted for stage, told in self.told.items()})
        seen = replace(seen, identity=replace(seen.identity, scaling=reporting.scaling_kept(self.status)))
        report = reporting.report(self.world.pipeline, seen, plan, generation=1, figures=self.shown, now=now)
        since = now - (self.written[-1] if self.written else -math.inf)
        patch = reporting.status_patch(self.status, report, now=str(now), written_s=since)
        if patch is not None:
            self.status |= patch["status"]
            self.written.append(now)


@pytest.mark.parametrize("load", [0, 1, 20, 350, 900, 3_000])
def test_at_even_load_nothing_is_written_for_ten_minutes(load):
    life = Life().live(1_200, lambda _: load)
    settled = len(life.written)
    life.live(600, lambda _: load)

    assert len(life.written) == settled


@pytest.mark.parametrize("period_s", [60, 300, 900, 3_600])
def test_at_changing_load_it_is_written_twice_a_minute_at_most(period_s):
    life = Life().live(3_600, lambda now: 1_500 + 1_400 * math.sin(2 * math.pi * now / period_s))
    minutes = [sum(begin <= at < begin + 60 for at in life.written) for begin in range(0, 3_600, 5)]

    assert max(life.replicas) > min(life.replicas)
    assert max(minutes[12:]) <= 2


def test_what_was_decided_is_in_the_status_within_half_a_minute():
    life = Life().live(600, lambda _: 300)
    life.live(35, lambda _: 1_400)
    (stage,) = [stage for stage in life.status["stages"] if stage["name"] == "enrich"]

    assert stage["replicas"] == life.replicas[-1] > 1
    assert stage["scaling"]["changedAt"] == round(life.history.memory.lasting.changed_at)
