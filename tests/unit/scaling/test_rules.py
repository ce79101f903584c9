"""Each rule of the scaling decision, on situations that differ from a healthy one in a single thing."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forebay.planning.scaling import Behaviour, Downstream, GroupState, Reason, ScalingPolicy, Situation
from forebay.planning.scaling.rules import RULES, decide
from forebay.planning.scaling.situation import Ineffective, Peak, StuckPartition

POLICY = ScalingPolicy(
    min_replicas=1, max_replicas=12, freshness_seconds=10, behaviour=Behaviour(scale_in_after_seconds=120)
)
EVEN = (1 / 12,) * 12

HEALTHY = Situation(
    now=10_000.0,
    replicas=2,
    ready=2,
    partitions=12,
    group=GroupState.STABLE,
    lag=300,
    behind_s=0.2,
    rate=1500.0,
    expected_rate=1500.0,
    peaks=(),
    shares=EVEN,
    busiest_share=0.5,
    capacity=1000.0,
    capacity_is_measured=True,
    since_change_s=1000.0,
)
SLOW = replace(HEALTHY, lag=9000, behind_s=4.0, rate=4000.0, expected_rate=4000.0, lagging_owners=((0, 2), (1, 3)))
CALM = replace(HEALTHY, rate=200.0, expected_rate=200.0, peaks=(Peak(120.0, 250.0, 200.0), Peak(180.0, 260.0, 200.0)))


def verdict(situation, policy=POLICY):
    decided = decide(situation, policy)
    return decided.replicas, decided.reason


def test_a_stage_that_keeps_up_is_left_alone():
    assert verdict(HEALTHY) == (2, Reason.KEEPING_UP)


def test_paused_is_inert_whatever_else_is_true():
    for situation in (SLOW, CALM, replace(SLOW, missing="x"), replace(HEALTHY, replicas=40)):
        assert verdict(replace(situation, is_paused=True)) == (situation.replicas, Reason.PAUSED)


def test_the_users_bounds_hold_without_any_measurement():
    pinned = ScalingPolicy(min_replicas=3, max_replicas=5)

    assert verdict(replace(HEALTHY, missing="no answer"), pinned) == (3, Reason.OUT_OF_BOUNDS)
    assert verdict(replace(HEALTHY, replicas=9, missing="no answer"), pinned) == (5, Reason.OUT_OF_BOUNDS)


def test_more_replicas_than_partitions_are_taken_back():
    assert verdict(replace(HEALTHY, partitions=4, shares=(0.25,) * 4, replicas=6, ready=6)) == (4, Reason.OUT_OF_BOUNDS)


def test_a_missing_measurement_changes_nothing_and_says_what_is_missing():
    decided = decide(replace(SLOW, missing="Kafka did not answer for partition 3"), POLICY)

    assert (decided.replicas, decided.reason) == (2, Reason.MEASUREMENT_MISSING)
    assert "partition 3" in decided.sentence


def test_the_first_record_wakes_a_stage_at_zero():
    asleep = replace(HEALTHY, replicas=0, ready=0, group=GroupState.EMPTY, lag=0, busiest_share=None)
    to_zero = replace(POLICY, scale_to_zero=True)

    assert verdict(asleep, to_zero) == (0, Reason.IDLE_AT_ZERO)
    assert verdict(replace(asleep, lag=1, rate=0.2, expected_rate=0.2), to_zero) == (1, Reason.WOKEN_UP)


def test_a_stage_whose_capacity_nobody_has_seen_wakes_up_with_the_fewest():
    asleep = replace(HEALTHY, replicas=0, ready=0, group=GroupState.EMPTY, lag=90, rate=50.0, expected_rate=50.0,
                     busiest_share=None, capacity=50.0, capacity_is_measured=False)  # fmt: skip

    assert verdict(asleep, replace(POLICY, scale_to_zero=True)) == (1, Reason.WOKEN_UP)


def test_a_stage_that_wakes_up_under_load_gets_what_it_needs_at_once():
    asleep = replace(
        HEALTHY,
        replicas=0,
        ready=0,
        group=GroupState.EMPTY,
        lag=9000,
        rate=3000.0,
        expected_rate=3000.0,
        busiest_share=None,
    )

    assert verdict(asleep, replace(POLICY, scale_to_zero=True))[0] >= 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"is_rolling_out": True}, Reason.ROLLING_OUT),
        ({"ready": 1}, Reason.STARTING),
        ({"group": GroupState.REBALANCING}, Reason.REBALANCING),
        ({"group": GroupState.EMPTY}, Reason.REBALANCING),
        ({"unowned": (4,)}, Reason.WITHOUT_OWNER),
    ],
)
def test_nothing_is_changed_while_the_figures_describe_something_else(change, reason):
    assert verdict(replace(SLOW, **change)) == (2, reason)
    assert verdict(replace(CALM, **change)) == (2, reason)


def test_the_last_replica_goes_only_when_nothing_arrived_and_every_end_is_committed():
    policy = replace(POLICY, scale_to_zero=True)
    idle = replace(HEALTHY, replicas=1, ready=1, lag=0, behind_s=0.0, rate=0.0, expected_rate=0.0, idle_s=300.0)

    assert verdict(idle, policy) == (0, Reason.WENT_IDLE)
    assert verdict(replace(idle, lag=1), policy)[0] == 1
    assert verdict(replace(idle, idle_s=299.0), policy)[0] == 1
    assert verdict(idle, POLICY)[0] == 1


def test_a_partition_that_stands_still_is_said_and_not_scaled():
    standing = replace(SLOW, lagging_owners=(), stuck=(StuckPartition(7, 4711, 90.0),))
    decided = decide(standing, POLICY)

    assert (decided.replicas, decided.reason) == (2, Reason.STUCK)
    assert "partition 7" in decided.sentence
    assert "4711" in decided.sentence


def test_a_stuck_partition_does_not_hide_a_slow_stage():
    assert verdict(replace(SLOW, stuck=(StuckPartition(7, 4711, 90.0),)))[1] is Reason.FALLING_BEHIND


def test_replicas_that_did_not_help_go_again_and_are_not_asked_for_once_more():
    useless = replace(SLOW, replicas=6, ready=6, ineffective=Ineffective(2, 6, 1.05), busiest_share=1 / 6)

    assert verdict(useless) == (2, Reason.DID_NOT_HELP)
    assert verdict(replace(SLOW, ineffective=Ineffective(2, 6, 1.05))) == (2, Reason.DID_NOT_HELP)


def test_a_stage_is_not_sped_up_for_a_reader_that_cannot_follow():
    full = Downstream(name="warehouse", behind_s=50.0, freshness_s=10.0, is_at_its_limit=True)

    assert verdict(replace(SLOW, downstream=full)) == (2, Reason.LIMITED_DOWNSTREAM)
    assert verdict(replace(SLOW, downstream=replace(full, is_at_its_limit=False)))[1] is Reason.FALLING_BEHIND
    assert verdict(replace(SLOW, downstream=replace(full, behind_s=2.0)))[1] is Reason.FALLING_BEHIND


def test_one_hot_partition_is_said_and_not_scaled():
    shares = (0.6, *(0.4 / 11,) * 11)
    hot = replace(
        SLOW, rate=2000.0, expected_rate=2000.0, shares=shares, lagging_owners=((0, 2, 4),), busiest_share=0.7
    )
    decided = decide(hot, POLICY)

    assert (decided.replicas, decided.reason) == (2, Reason.HOT_PARTITION)
    assert "partition 0 gets 1200 records/s" in decided.sentence


def test_a_hot_partition_does_not_hide_others_that_lag():
    shares = (0.3, *(0.7 / 11,) * 11)
    both = replace(
        SLOW, rate=4000.0, expected_rate=4000.0, shares=shares, lagging_owners=((0, 2), (1, 3)), busiest_share=0.6
    )

    assert verdict(both)[1] is Reason.FALLING_BEHIND


def test_replicas_are_added_before_the_promise_is_broken():
    decided = decide(SLOW, POLICY)

    assert SLOW.behind_s < POLICY.freshness_seconds
    assert decided.reason is Reason.FALLING_BEHIND
    assert (
        decided.replicas == 6
    )  # 4000 / 1000 at a load of 0.85 takes five; five split twelve partitions no better than four


def test_a_stage_that_falls_behind_slowly_is_left_alone_while_there_is_time():
    slightly = replace(SLOW, behind_s=3.0, rate=2040.0, expected_rate=2040.0)

    assert verdict(slightly) == (2, Reason.KEEPING_UP)
    assert verdict(replace(slightly, behind_s=7.5))[0] > 2


def test_a_backlog_that_is_gone_sooner_than_replicas_could_start_needs_none():
    draining = replace(SLOW, behind_s=12.0, rate=900.0, expected_rate=900.0)

    assert verdict(draining) == (2, Reason.CATCHING_UP)


def test_a_backlog_that_takes_long_gets_replicas_even_though_the_rate_is_small():
    flood = replace(SLOW, behind_s=600.0, rate=1900.0, expected_rate=1900.0)

    assert verdict(flood)[0] > 2


def test_the_price_of_a_rescale_is_in_the_decision():
    flood = replace(SLOW, behind_s=40.0, rate=1000.0, expected_rate=1000.0)

    assert verdict(flood)[0] > 2
    assert verdict(replace(flood, scale_out_s=60.0)) == (2, Reason.CATCHING_UP)


def test_at_the_most_that_is_allowed_the_verdict_says_so():
    decided = decide(SLOW, replace(POLICY, max_replicas=2))

    assert (decided.replicas, decided.reason) == (2, Reason.AT_MAXIMUM)
    assert "2 is the most" in decided.sentence


def test_fewer_replicas_follow_when_fewer_were_enough_for_long_enough():
    assert verdict(CALM) == (1, Reason.LOAD_FELL)


def test_all_replicas_that_are_too_many_go_in_one_change():
    assert verdict(replace(CALM, replicas=12, ready=12, busiest_share=1 / 12)) == (1, Reason.LOAD_FELL)


@pytest.mark.parametrize(
    "change",
    [
        {"peaks": ()},  # not watched for long enough
        {"since_change_s": 60.0},
        {"behind_s": 6.0},
        {"peaks": (Peak(120.0, 1100.0, 200.0),)},  # it was needed a minute ago
        {"peaks": (Peak(120.0, 850.0, 810.0),)},  # it would do, without any reserve
        {"expected_rate": 810.0},  # it would do just now, without any reserve
        {"recalled_rate": 3000.0},  # it may be needed in a minute
        {"peaks": (Peak(120.0, 250.0, 200.0),), "scale_in_s": 8.0},  # such a pause pays back after 160 s
        {"scale_in_s": 11.0},  # and this one breaks the promise by itself
    ],
)
def test_replicas_stay_without_evidence(change):
    assert verdict(replace(CALM, **change)) == (2, Reason.KEEPING_UP)


def test_none_go_while_the_quiet_time_asks_for_more_than_what_arrives_now():
    burst = replace(CALM, replicas=12, ready=12, busiest_share=1 / 12, peaks=(Peak(120.0, 3000.0, 1500.0),))

    assert verdict(burst) == (12, Reason.KEEPING_UP)
    assert verdict(replace(burst, expected_rate=3000.0)) == (4, Reason.LOAD_FELL)


def test_a_peak_takes_replicas_without_the_reserve_that_the_mean_leaves():
    sways = replace(CALM, peaks=(Peak(120.0, 950.0, 790.0),))

    assert verdict(sways) == (1, Reason.LOAD_FELL)


def test_as_many_replicas_stay_as_bridge_the_time_until_others_answer_a_load_that_was_there_lately():
    burst = replace(CALM, replicas=12, ready=12, busiest_share=1 / 12, recalled_rate=6000.0)  # answered after 12.5 s

    assert verdict(burst) == (3, Reason.LOAD_FELL)
    assert verdict(replace(burst, scale_out_s=2.0)) == (1, Reason.LOAD_FELL)
    assert verdict(replace(burst, scale_out_s=60.0)) == (6, Reason.LOAD_FELL)


def test_what_replicas_stay_for_is_said():
    decided = decide(replace(CALM, recalled_rate=3000.0), POLICY)

    assert (decided.replicas, decided.reason) == (2, Reason.KEEPING_UP)
    assert "the 3000 records/s of the last quarter of an hour" in decided.sentence


def test_a_stage_that_was_never_busy_is_tried_with_fewer_one_step_at_a_time():
    unknown = replace(
        CALM,
        replicas=6,
        ready=6,
        busiest_share=1 / 6,
        capacity=40.0,
        capacity_is_measured=False,
        peaks=(Peak(600.0, 260.0, 250.0),),
    )

    assert verdict(unknown) == (4, Reason.TRYING_FEWER)
    assert verdict(replace(unknown, peaks=(Peak(240.0, 260.0, 250.0),))) == (6, Reason.KEEPING_UP)
    assert verdict(replace(unknown, capacity_is_measured=True)) == (6, Reason.KEEPING_UP)


def test_every_rule_is_somebodys_word():
    reasons = {
        verdict(situation, policy)[1]
        for situation, policy in (
            (replace(HEALTHY, is_paused=True), POLICY),
            (replace(HEALTHY, replicas=40), POLICY),
            (replace(HEALTHY, missing="x"), POLICY),
        )
    }

    assert len(reasons) == 3
    assert len({rule.__name__ for rule in RULES}) == len(RULES)


RATES = st.floats(0, 1e6)


@st.composite
def situations(draw):
    partitions = draw(st.integers(1, 40))
    weights = [draw(st.sampled_from([0.0, 1.0, 30.0])), *[draw(st.sampled_from([0.0, 1.0]))] * (partitions - 1)]
    total = sum(weights)
    shares = tuple(weight / total for weight in weights) if total > 0 else (0.0,) * partitions
    replicas = draw(st.integers(0, 60))
    return Situation(
        now=1000.0,
        replicas=replicas,
        ready=draw(st.sampled_from([replicas, max(0, replicas - 1)])),
        partitions=partitions,
        group=draw(st.sampled_from(GroupState)),
        is_paused=draw(st.booleans()),
        is_rolling_out=draw(st.booleans()),
        missing=draw(st.sampled_from([None, "no answer"])),
        lag=draw(st.integers(0, 10**9)),
        behind_s=draw(st.floats(0, 1e6)),
        rate=draw(RATES),
        expected_rate=draw(RATES),
        recalled_rate=draw(RATES),
        peaks=draw(st.sampled_from([(), (Peak(120.0, 1.0, 1.0),), (Peak(120.0, 1.0, 1.0), Peak(600.0, 1e5, 1e4))])),
        shares=shares,
        busiest_share=draw(st.one_of(st.none(), st.floats(0, 1))),
        lagging_owners=draw(st.sampled_from([(), ((0,),)])),
        capacity=draw(st.sampled_from([0.0, 1.0, 1000.0])),
        capacity_is_measured=draw(st.booleans()),
        scale_out_s=draw(st.floats(1, 100)),
        scale_in_s=draw(st.floats(1, 100)),
        since_change_s=draw(st.one_of(st.none(), st.floats(0, 1e5))),
        idle_s=draw(st.floats(0, 1000)),
    )


POLICIES = st.builds(
    ScalingPolicy,
    min_replicas=st.integers(1, 5),
    max_replicas=st.integers(5, 50),
    freshness_seconds=st.floats(1, 1000),
    scale_to_zero=st.booleans(),
    behaviour=st.builds(Behaviour, scale_in_after_seconds=st.floats(1, 1000)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(situations(), POLICIES)
def test_a_change_stays_within_bounds_and_partitions(situation, policy):
    decided = decide(situation, policy)
    lowest = 0 if policy.scale_to_zero else min(policy.min_replicas, situation.partitions)

    assert decided.sentence
    assert not decided.is_change or lowest <= decided.replicas <= min(policy.max_replicas, situation.partitions)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(situations(), POLICIES)
def test_nothing_but_the_users_bounds_acts_without_a_measurement(situation, policy):
    decided = decide(replace(situation, missing="no answer"), policy)

    assert not decided.is_change or decided.reason is Reason.OUT_OF_BOUNDS


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(situations(), POLICIES, st.floats(1, 100))
def test_being_further_behind_never_asks_for_fewer(situation, policy, more):
    """In danger already, a larger backlog means as many replicas or more."""
    first = decide(situation, policy)
    worse = decide(replace(situation, behind_s=situation.behind_s + more), policy)

    if first.reason is Reason.FALLING_BEHIND and worse.reason is Reason.FALLING_BEHIND:
        assert worse.replicas >= first.replicas
    if worse.reason is Reason.LOAD_FELL:
        assert first.reason is Reason.LOAD_FELL
