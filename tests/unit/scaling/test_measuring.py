"""From observations to figures: rates, capacity, what a rescale costs, what is stuck."""

import pytest
from scaling_stage import Stage

from forebay.planning.scaling import GroupState, Memory, ScalingPolicy, measuring
from forebay.planning.scaling.measuring import Rates, expected, peaks
from forebay.planning.scaling.situation import Peak

POLICY = ScalingPolicy(max_replicas=12)


def situations(stage, observations):
    memory = Memory()
    for observation in observations:
        memory, situation = measuring.measure(memory, observation, POLICY)
        yield situation


def last(stage, observations):
    return list(situations(stage, observations))[-1]


def test_capacity_is_measured_while_replicas_are_busy_all_the_time():
    stage = Stage(partitions=4, replicas=2)

    found = last(stage, [stage.look(after_s=5, arrive=2000, per_replica=300) for _ in range(6)])

    assert found.capacity_is_measured
    assert found.capacity == pytest.approx(300, rel=0.02)


def test_what_a_replica_does_while_it_keeps_up_is_only_a_floor():
    stage = Stage(partitions=4, replicas=2)

    found = last(stage, [stage.look(after_s=5, arrive=400, per_replica=5000) for _ in range(6)])

    assert not found.capacity_is_measured
    assert found.capacity == pytest.approx(200, rel=0.02)


def test_nothing_is_measured_while_the_group_rebalances():
    stage = Stage(partitions=4, replicas=2)
    looks = [
        stage.look(after_s=5, arrive=2000, per_replica=300, group=GroupState.REBALANCING if number % 2 else None)
        for number in range(8)
    ]

    assert not last(stage, looks).capacity_is_measured


def test_a_trickle_says_nothing_of_the_capacity():
    stage = Stage(partitions=4, replicas=1)
    on_their_way = stage.look(after_s=2, arrive=2, per_replica=0)
    looks = [on_their_way] + [stage.look(after_s=2, arrive=2, per_replica=2) for _ in range(8)]
    found = last(stage, looks)

    assert found.lag > found.rate == 2
    assert not found.capacity_is_measured


def test_a_partition_that_hangs_does_not_spoil_the_capacity_of_its_owner():
    stage = Stage(partitions=4, replicas=2)
    stage.hang(0)
    looks = [stage.look(after_s=5, arrive=200, per_replica=5000) for _ in range(8)]

    assert not last(stage, looks).capacity_is_measured


def test_a_partition_that_stands_still_for_a_minute_with_records_is_stuck():
    stage = Stage(partitions=4, replicas=2)
    stage.hang(2)
    found = list(situations(stage, [stage.look(after_s=5, arrive=200, per_replica=5000) for _ in range(16)]))

    assert found[10].stuck == ()
    assert [each.partition for each in found[-1].stuck] == [2]
    assert found[-1].behind_s < 2.0  # those that move are fresh


def test_a_partition_without_records_is_not_stuck():
    stage = Stage(partitions=4, replicas=2)

    assert last(stage, [stage.look(after_s=5, arrive=0, per_replica=100) for _ in range(20)]).stuck == ()


def test_behind_follows_from_offsets_alone():
    stage = Stage(partitions=4, replicas=2)

    found = last(stage, [stage.look(after_s=5, arrive=1200, per_replica=300) for _ in range(9)])

    assert found.behind_s == pytest.approx(20.0, abs=3.0)  # half of 40 s of arrivals is done


def test_an_incomplete_answer_is_named_and_forgets_nothing():
    stage = Stage(partitions=4, replicas=2)
    looks = [stage.look(after_s=5, arrive=2000, per_replica=300) for _ in range(6)]
    looks += [stage.look(after_s=5, arrive=2000, per_replica=300, lost={3})]
    looks += [stage.look(after_s=5, arrive=2000, per_replica=300)]
    *_, gap, after = situations(stage, looks)

    assert gap.missing == "Kafka did not answer for partition 3"
    assert after.missing is None
    assert after.rate == pytest.approx(2000, rel=0.01)
    assert after.capacity == pytest.approx(300, rel=0.02)


def test_a_topic_that_was_made_again_starts_anew_and_keeps_the_capacity():
    stage = Stage(partitions=4, replicas=2)
    looks = [stage.look(after_s=5, arrive=2000, per_replica=300) for _ in range(6)]
    stage.recreate()
    looks += [stage.look(after_s=5, arrive=100, per_replica=300), stage.look(after_s=5, arrive=100, per_replica=300)]
    *_, after = situations(stage, looks)

    assert after.missing is None
    assert after.rate == pytest.approx(100, rel=0.05)
    assert after.capacity == pytest.approx(300, rel=0.02)


def test_an_offset_beyond_the_end_is_no_lag_but_a_sentence():
    stage = Stage(partitions=2, replicas=1)
    look = stage.look(after_s=5, arrive=10, per_replica=100)
    beyond = look.partitions[1]._replace(committed=10_000)
    _, found = measuring.measure(Memory(), measuring_with(look, beyond), POLICY)

    assert "partition 1" in found.missing
    assert "made again" in found.missing


def measuring_with(look, partition):
    from dataclasses import replace

    return replace(look, partitions=(look.partitions[0], partition))


def test_what_a_change_takes_is_learnt_from_changes():
    stage = Stage(partitions=4, replicas=1)
    memory, situation = measuring.measure(Memory(), stage.look(after_s=5, arrive=500, per_replica=100), POLICY)
    memory = measuring.acted(memory, situation, 4)
    stage.scale(4, ready=1)
    for _ in range(7):
        memory, _ = measuring.measure(memory, stage.look(after_s=5, arrive=500, per_replica=100), POLICY)
    stage.scale(4, ready=4)
    memory, situation = measuring.measure(memory, stage.look(after_s=5, arrive=500, per_replica=100), POLICY)

    assert situation.scale_out_s == pytest.approx((10 + 37.5) / 2)
    assert situation.scale_in_s == 5.0


def test_a_scale_out_that_brings_nothing_is_noticed():
    stage = Stage(partitions=4, replicas=2)
    memory, situation = Memory(), None
    for _ in range(4):
        memory, situation = measuring.measure(memory, stage.look(after_s=5, arrive=2000, per_replica=300), POLICY)
    memory = measuring.acted(memory, situation, 4)
    stage.scale(4)
    for _ in range(5):
        memory, situation = measuring.measure(memory, stage.look(after_s=5, arrive=2000, per_replica=152), POLICY)

    assert situation.ineffective is not None
    assert situation.ineffective[:2] == (2, 4)
    assert situation.ineffective.gain == pytest.approx(1.01, abs=0.03)


def test_a_scale_out_that_helps_is_not_called_useless():
    stage = Stage(partitions=4, replicas=2)
    memory, situation = Memory(), None
    for _ in range(4):
        memory, situation = measuring.measure(memory, stage.look(after_s=5, arrive=2000, per_replica=300), POLICY)
    memory = measuring.acted(memory, situation, 4)
    stage.scale(4)
    for _ in range(5):
        memory, situation = measuring.measure(memory, stage.look(after_s=5, arrive=2000, per_replica=290), POLICY)

    assert situation.ineffective is None


def test_a_jump_is_taken_to_have_happened_half_way_between_two_looks():
    assert expected(Rates((0, 5, 10), (100, 100, 200)), 30) == 300
    assert expected(Rates((0, 5, 10), (100, 200, 200)), 30) == 200
    assert expected(Rates((), ()), 30) == 0


def test_a_steady_rise_goes_on():
    rising = Rates((0, 5, 10, 15, 20), (100, 110, 120, 130, 140))

    assert expected(rising, 15) == 140 + 2 * 15
    assert expected(Rates(rising.times, (100, 110, 105, 130, 140)), 15) == 140


def test_a_rise_is_believed_for_as_long_as_it_has_been_seen():
    assert expected(Rates((0, 2, 4, 6, 8), (100, 110, 120, 130, 140)), 40) == 140 + 5 * 8


def test_peaks_are_known_only_for_times_that_were_watched():
    rates = Rates(tuple(range(0, 205, 5)), (900.0, *[100.0] * 30, *[50.0] * 10))

    assert peaks(rates, 100, 200.0, 10.0) == (Peak(100.0, 100.0, 1600 / 21), Peak(150.0, 100.0, 2600 / 31))
    assert peaks(rates, 300, 200.0, 10.0) == ()


def test_a_peak_counts_as_it_is_on_average_over_as_long_as_the_promise():
    rates = Rates(tuple(range(0, 205, 5)), (*[100.0] * 30, 200.0, *[100.0] * 10))

    assert [peak.rate for peak in peaks(rates, 100, 200.0, 5.0)] == [200.0, 200.0]
    assert [peak.rate for peak in peaks(rates, 100, 200.0, 20.0)] == [125.0, 125.0]


def test_the_highest_rate_of_the_last_quarter_of_an_hour_is_recalled():
    stage = Stage(partitions=2, replicas=1)
    loads = [100] * 2 + [900] + [400] * 60 + [50] * 120

    found = [
        each.recalled_rate
        for each in situations(stage, [stage.look(after_s=5, arrive=load, per_replica=1000) for load in loads])
    ]

    assert found[2] == found[2 + 179] == 900
    assert found[2 + 180] == 400
    assert len(found) == 183


def test_the_slowest_replica_alone_does_not_say_what_one_can_do():
    stage = Stage(partitions=4, replicas=4)

    found = last(stage, [stage.look(after_s=5, arrive=1600, per_replica=[300, 500, 500, 500]) for _ in range(6)])

    assert found.capacity_is_measured
    assert found.capacity == pytest.approx(375, rel=0.02)


def test_memory_is_bounded():
    stage = Stage(partitions=2, replicas=1)
    memory = Memory()
    for number in range(3000):
        look = stage.look(after_s=5, arrive=4000 - number, per_replica=90)  # each rate is the highest of those after it
        memory, _ = measuring.measure(memory, look, POLICY)

    assert len(memory.table) <= 512
    assert len(memory.highs) <= 16
    assert len(memory.rates.times) <= 130
