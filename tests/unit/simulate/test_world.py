"""The simulated world: what arrives is processed once, and rebalances cost what they should."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forebay.planning.scaling import GroupState
from forebay_cli.simulate import world
from forebay_cli.simulate.ranges import RANGES, Range
from forebay_cli.simulate.traces import Trace
from forebay_cli.simulate.world import NOBODY, Setting, balanced

QUIET = RANGES._replace(replica_spread=0.0, wobble=0.0, partition_spread=0.0, arrival_noise=0.0, lost=0.0, partial=0.0)
FAST = QUIET._replace(start_up=Range(4.0, 4.0), notice=Range(2.0, 2.0), hand_over=Range(1.0, 1.0))


class Scripted:
    """Asks for what a script says: {second: replicas}."""

    def __init__(self, script, looks):
        self._script, self._looks = script, looks

    def next_look(self, now):
        return 0.25 if now == 0 else now + 1.0

    def decide(self, look):
        if look is None:
            return None
        self._looks.append(look)
        due = [replicas for second, replicas in sorted(self._script.items()) if look.now >= second]
        return due[-1] if due else None


def run(rate, seconds, script, *, ranges=FAST, weights=None, **setting):
    looks = []
    chosen = Setting(**{"partitions": 4, "capacity": 1000.0, "max_replicas": 4, "seeds": 1, "ranges": ranges} | setting)
    rates = rate if isinstance(rate, dict) else {0: rate}
    times = tuple(float(time) for time in rates)
    trace = Trace("t", times, tuple(rates.values()), weights, float(seconds))
    outcome = world.simulate(world.arrivals(trace, chosen), lambda _load, _index: Scripted(script, looks))
    return outcome, looks


def test_a_stage_with_enough_replicas_is_fresh_and_costs_their_time():
    outcome, looks = run(1500, 600, {0: 2})

    assert outcome.seconds_over[0] == 0
    assert outcome.p99_freshness_s[0] < 1.0
    assert outcome.replica_hours[0] == pytest.approx(2 / 6, rel=0.01)
    assert looks[-1].done == pytest.approx(1500 * looks[-1].now, rel=0.03)


def test_a_stage_with_too_few_replicas_falls_behind_as_arithmetic_says():
    outcome, looks = run({0: 900, 100: 2000}, 200, {})

    assert outcome.behind[-1, 0] == pytest.approx(50, abs=2.5)  # 100 s at half of what arrives
    assert looks[-1].busy == pytest.approx(1.0, abs=0.01)


def test_nothing_is_lost_and_nothing_processed_twice():
    _, looks = run({0: 500, 60: 3000, 120: 100}, 300, {30: 3, 150: 1, 200: 4})

    for look in looks:
        assert all(0 <= done <= end for done, end in zip(look.committed, look.ends, strict=True))
    assert all(later.done >= earlier.done for earlier, later in itertools.pairwise(looks))
    assert sum(looks[-1].ends) - sum(looks[-1].committed) < 100


def test_a_replica_works_after_start_up_rebalance_and_hand_over():
    _, looks = run(500, 60, {10: 2})
    ready = next(look.now for look in looks if look.ready == 2)
    shared = next(look.now for look in looks if len(set(look.owners)) == 2)
    settled = next(look.now for look in looks if look.now > ready and look.group is GroupState.STABLE)

    assert ready == pytest.approx(10 + 4, abs=2)
    assert shared == pytest.approx(ready + 2, abs=1.5)
    assert settled >= shared


def test_only_partitions_that_move_stand_still_unless_rebalances_are_eager():
    def standing(*, is_eager):
        _, looks = run(400, 80, {20: 2}, is_eager=is_eager)
        before = next(index for index, look in enumerate(looks) if look.ready == 2)
        window = looks[before : before + 5]
        return sum(window[0].committed[p] == window[-1].committed[p] for p in range(4)), looks

    cooperative, looks = standing(is_eager=False)
    eager, _ = standing(is_eager=True)

    assert eager >= cooperative
    assert len(set(looks[-1].owners)) == 2
    moved = sum(old != new for old, new in zip(looks[0].owners, looks[-1].owners, strict=True))
    assert moved == 2


def test_a_replica_that_leaves_hands_its_partitions_over():
    outcome, looks = run(500, 60, {0: 2, 30: 1})

    assert set(looks[-1].owners) == {0}
    assert outcome.rescales[0] == 2
    assert outcome.behind[-1, 0] < 1.0


def test_without_replicas_the_group_is_empty_and_the_first_member_waits_for_more():
    _, looks = run({0: 0, 30: 100}, 60, {0: 0, 35: 1}, scale_to_zero=True)
    asleep = next(look for look in looks if 20 < look.now < 30)
    ready = next(look.now for look in looks if look.now > 35 and look.ready == 1)
    owned = next(look.now for look in looks if look.now > ready and look.owners[0] != NOBODY)

    assert (asleep.group, asleep.ready, set(asleep.owners)) == (GroupState.EMPTY, 0, {NOBODY})
    assert owned - ready == pytest.approx(3.0, abs=1.0)


def test_an_idle_stage_has_committed_every_end():
    _, looks = run({0: 500, 30: 0}, 60, {})

    assert looks[-1].ends == looks[-1].committed


def test_weights_are_the_partitions_shares():
    _, looks = run(1000, 100, {0: 4}, weights=((7.0, 1.0, 1.0, 1.0),))

    assert looks[-1].ends[0] / sum(looks[-1].ends) == pytest.approx(0.7, abs=0.01)


def test_the_same_seed_is_the_same_run_and_another_is_not():
    def behind(first_seed):
        return run({0: 800, 60: 1500}, 200, {80: 2}, ranges=RANGES, first_seed=first_seed)[0].behind

    assert np.array_equal(behind(0), behind(0))
    assert not np.array_equal(behind(0), behind(1))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 40), st.lists(st.sets(st.integers(0, 12), max_size=12), min_size=1, max_size=6))
def test_assignments_are_even_and_move_as_little_as_possible(partitions, rounds):
    owners = [NOBODY] * partitions
    for members in rounds:
        before, owners = owners, balanced(owners, sorted(members), np.random.default_rng(0))
        if not members:
            assert set(owners) == {NOBODY}
            continue
        counts = [owners.count(member) for member in members]
        assert max(counts) - min(counts) <= 1
        least, extra = divmod(partitions, len(members))
        held = sorted((before.count(member) for member in members), reverse=True)
        kept = sum(min(count, least + (place < extra)) for place, count in enumerate(held))
        assert sum(old == new for old, new in zip(before, owners, strict=True)) >= kept
