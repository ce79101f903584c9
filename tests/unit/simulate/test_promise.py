"""What Forebay's decision does to a stage, in the simulated world."""

import numpy as np

from forebay_cli.simulate import reporting, world
from forebay_cli.simulate.comparison import Result
from forebay_cli.simulate.policies.forebay import Forebay
from forebay_cli.simulate.traces import Trace
from forebay_cli.simulate.world import Setting

SMALL = Setting(capacity=400.0, freshness_s=20.0, seeds=6)


def run(rates, seconds, setting=SMALL, weights=None):
    trace = Trace("t", tuple(map(float, rates)), tuple(rates.values()), weights, float(seconds))
    return world.simulate(world.arrivals(trace, setting), Forebay)


def test_a_step_to_three_replicas_worth_is_fresh_again_within_a_minute_with_two_rescales_at_most():
    outcome = run({0: 100, 120: 1200}, 360)
    a_minute_later = int((120 + 60) / SMALL.ranges.step)

    assert (outcome.behind[a_minute_later:] <= 20).all()
    assert (outcome.rescales <= 2).all()


def test_one_hot_partition_is_not_answered_with_replicas():
    even = (1.0,) * 12
    hot = (60.0, *(1.0,) * 11)
    outcome = run({0: 300, 120: 700}, 900, weights=(even, hot))

    assert np.median(outcome.replicas[-1]) <= 3
    assert outcome.behind[-1].min() > 20  # and so it is late, whatever is done


def test_replicas_return_when_the_load_does():
    outcome = run({0: 100, 120: 1500, 400: 100}, 1100)

    assert (outcome.replicas[-1] == 1).all()
    assert (outcome.rescales <= 4).all()


def test_an_idle_stage_goes_to_zero_and_is_woken():
    outcome = run({0: 50, 60: 0, 900: 50}, 1200, Setting(capacity=400.0, freshness_s=20.0, seeds=4, scale_to_zero=True))
    asleep, awake = int(800 / SMALL.ranges.step), int(960 / SMALL.ranges.step)

    assert (outcome.replicas[asleep] == 0).all()
    assert (outcome.replicas[awake] >= 1).all()
    assert (outcome.behind[awake:] <= 20).all()


def result(policy, seconds_over, replica_hours):
    figures = dict.fromkeys(("p99_freshness_s", "rescales", "partition_moves"), 0.0)
    nothing = np.zeros(0)
    figures |= {"seconds_over": seconds_over, "replica_hours": replica_hours}
    return Result("t", policy, figures, nothing, nothing, nothing, nothing)


def test_a_peer_that_is_better_is_named():
    ours = result("forebay", 10.0, 2.0)

    assert reporting.better_peers([ours, result("keda", 10.0, 1.9)]) == ("keda",)
    assert reporting.better_peers([ours, result("keda", 9.0, 2.0), result("flink", 9.0, 2.1)]) == ("keda",)
    assert reporting.better_peers([ours, result("keda", 10.0, 2.0), result("oracle", 0.0, 1.0)]) == ()
    assert reporting.better_peers([result("keda", 10.0, 1.9)]) == ()
