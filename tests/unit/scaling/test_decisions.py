"""The log of decisions: bounded, complete, and good for making each decision again."""

from dataclasses import replace

import msgspec
import pytest
from scaling_stage import Stage

from forebay.pipeline.spec import Autoscaling
from forebay.planning.scaling import (
    Behaviour,
    GroupState,
    History,
    Lasting,
    Memory,
    Reason,
    ScalingPolicy,
    condition,
    decided,
    group_state,
    logged,
    look_again_s,
    policy_of,
    read,
    replayed,
    step,
    stored,
)
from forebay.planning.scaling.decisions import LOOK_SOON_S, MAX_DECISIONS
from forebay.planning.scaling.observation import LOOK_S

POLICY = ScalingPolicy(max_replicas=4, freshness_seconds=10, behaviour=Behaviour(scale_in_after_seconds=60))


def incident(stage, loads, *, policy=POLICY, log=(), memory=None, **more):
    """What is decided while that many records per second arrive, five seconds each; replicas follow at once."""
    memory = memory or Memory()
    verdicts = []
    for load in loads:
        memory, verdict = step(memory, stage.look(after_s=5, arrive=load, per_replica=300, **more), policy)
        stage.scale(verdict.replicas)
        log = logged(log, verdict, policy)
        verdicts.append(verdict)
    return log, verdicts, memory


def test_a_step_and_back_is_two_changes_each_with_its_reason():
    stage = Stage(partitions=4, replicas=1)
    log, verdicts, _ = incident(stage, [200] * 6 + [800] * 20 + [100] * 40)
    changes = [verdict for verdict in verdicts if verdict.is_change]

    assert [verdict.reason for verdict in changes] == [Reason.FALLING_BEHIND, Reason.LOAD_FELL]
    assert [verdict.replicas for verdict in changes] == [4, 1]
    assert len(log) < 12


def test_a_stored_decision_is_made_again_from_its_own_inputs():
    stage = Stage(partitions=4, replicas=1)
    log, _, _ = incident(stage, [200] * 6 + [800] * 20 + [100] * 40)

    again = read(stored(log))

    assert again == log
    assert [replayed(decision) for decision in again] == [decision.verdict for decision in log]


def test_a_decision_can_be_tried_with_another_policy():
    stage = Stage(partitions=4, replicas=1)
    log, _, _ = incident(stage, [200] * 6 + [800] * 3)
    change = next(decision for decision in log if decision.verdict.is_change)

    patient = replayed(change, replace(POLICY, freshness_seconds=600.0))

    assert not patient.is_change


def test_what_was_not_stored_by_us_is_refused():
    with pytest.raises(msgspec.ValidationError):
        read(b'{"verdict": 1}\n')


def test_the_log_is_bounded_and_one_line_stands_for_all_that_say_the_same():
    stage = Stage(partitions=4, replicas=1)
    log, _, memory = incident(stage, [100] * 100)

    assert [decision.verdict.reason for decision in log] == [Reason.KEEPING_UP]
    assert log[0].times == 100
    for number in range(2 * MAX_DECISIONS):
        log, _, memory = incident(stage, [100], log=log, memory=memory, is_paused=number % 2 == 0)
    assert len(log) == MAX_DECISIONS


def test_a_history_keeps_what_was_decided_and_as_much_of_it_as_is_asked_for():
    stage = Stage(partitions=4, replicas=1)
    whole, short = History(), History()
    assert whole.last is None
    for load in [200] * 6 + [800] * 20:
        seen = stage.look(after_s=5, arrive=load, per_replica=300)
        whole, short = decided(whole, seen, POLICY), decided(short, seen, POLICY, most=1)
        stage.scale(whole.log[-1].verdict.replicas)

    assert len(whole.log) > 2
    assert short.log == whole.log[-1:]
    assert short.last == whole.last
    assert short.memory == whole.memory


def test_the_bounds_and_the_patience_of_a_pipeline_are_its_policy():
    autoscaling = Autoscaling.model_validate(
        {
            "minReplicas": 2,
            "maxReplicas": 8,
            "freshnessSeconds": 20,
            "scaleToZero": True,
            "behaviour": {"scaleInAfterSeconds": 45, "toZeroAfterSeconds": 60},
        }
    )

    assert policy_of(autoscaling) == ScalingPolicy(
        min_replicas=2,
        max_replicas=8,
        freshness_seconds=20,
        scale_to_zero=True,
        behaviour=Behaviour(scale_in_after_seconds=45, to_zero_after_seconds=60),
    )
    assert policy_of(Autoscaling()) == ScalingPolicy()


def test_a_hold_of_more_than_five_minutes_becomes_a_condition_with_its_cause():
    stage = Stage(partitions=4, replicas=2)
    log, _, memory = incident(stage, [500] * 4)
    log, _, memory = incident(stage, [500] * 59, log=log, memory=memory, group=GroupState.REBALANCING)
    assert condition(log[-1]).is_true

    log, _, _ = incident(stage, [500] * 3, log=log, memory=memory, group=GroupState.REBALANCING)
    held = condition(log[-1])

    assert not held.is_true
    assert held.reason is Reason.REBALANCING
    assert held.message == "the consumer group is rebalancing (for more than 5 minutes)"


def test_keeping_up_for_hours_is_no_complaint():
    stage = Stage(partitions=4, replicas=1)
    log, _, _ = incident(stage, [100] * 1000)

    assert condition(log[-1]).is_true


def test_an_outage_of_kafka_changes_nothing_and_forgets_nothing():
    stage = Stage(partitions=4, replicas=1)
    known = Memory(lasting=Lasting(capacity=300.0))
    _, _, memory = incident(stage, [200] * 6 + [800] * 20, memory=known)
    before = memory.lasting
    for _ in range(50):
        memory, verdict = step(memory, stage.look(after_s=5, arrive=800, per_replica=300, partitions=()), POLICY)
        assert (verdict.replicas, verdict.reason) == (4, Reason.MEASUREMENT_MISSING)

    assert memory.lasting == before
    memory, verdict = step(memory, stage.look(after_s=5, arrive=800, per_replica=300), POLICY)
    assert not verdict.is_change


def test_what_lasts_is_enough_to_go_on_after_a_restart():
    stage = Stage(partitions=4, replicas=1)
    _, _, memory = incident(stage, [200] * 6 + [800] * 20)
    restarted = Memory(lasting=memory.lasting)

    _, verdicts, _ = incident(stage, [800] * 10, memory=restarted)

    assert not any(verdict.is_change for verdict in verdicts)
    assert verdicts[-1].inputs.capacity == pytest.approx(300, rel=0.05)


def test_a_stage_at_zero_sleeps_and_is_woken_by_the_first_record():
    policy = replace(POLICY, scale_to_zero=True)
    stage = Stage(partitions=4, replicas=1)
    _, asleep, memory = incident(stage, [100] * 3 + [0] * 70, policy=policy)
    _, awake, _ = incident(stage, [1, 1], policy=policy, memory=memory)

    assert asleep[-1].replicas == 0
    assert awake[0].reason is Reason.WOKEN_UP
    assert awake[0].replicas == 1


def test_a_commit_marker_does_not_wake_a_stage_that_committed_the_end():
    """Three transactions leave three markers; the stage commits the end behind them (measured on a broker)."""
    policy = replace(POLICY, scale_to_zero=True)
    stage = Stage(partitions=1, replicas=1)
    stage.ends, stage.done = [18.0], [18.0]
    _, verdicts, _ = incident(stage, [0] * 120, policy=policy)

    assert verdicts[-1].reason is Reason.IDLE_AT_ZERO
    assert sum(verdict.is_change for verdict in verdicts) == 1


def test_the_next_look_comes_soon_only_where_something_begins():
    stage = Stage(partitions=4, replicas=1)
    _, verdicts, _ = incident(stage, [200] * 6 + [310, 320, 800])

    assert look_again_s(verdicts[4]) == LOOK_S
    lagging = next(verdict for verdict in verdicts if verdict.inputs.lagging_owners)
    assert look_again_s(lagging) == (LOOK_S if lagging.is_change else LOOK_SOON_S)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("STABLE", GroupState.STABLE),
        ("Stable", GroupState.STABLE),
        ("EMPTY", GroupState.EMPTY),
        ("DEAD", GroupState.EMPTY),
        ("PREPARING_REBALANCING", GroupState.REBALANCING),
        ("COMPLETING_REBALANCING", GroupState.REBALANCING),
        ("UNKNOWN", GroupState.UNKNOWN),
    ],
)
def test_the_clients_words_for_a_groups_state(word, state):
    assert group_state(word) is state
