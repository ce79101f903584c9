import pytest

from forebay_cli.run.draining import Patience, is_drained, lag_of, left_over


def test_lag_is_what_the_group_has_not_committed_yet():
    assert lag_of({0: 18, 1: 7}, {0: 18, 1: 5}, {}) == 2


def test_a_partition_without_a_commit_counts_from_its_oldest_record():
    assert lag_of({0: 18}, {0: None}, {0: 10}) == 8
    assert lag_of({0: 0}, {}, {0: 0}) == 0


def test_a_commit_beyond_a_frozen_end_is_no_negative_lag():
    assert lag_of({0: 10, 1: 10}, {0: 25, 1: 4}, {}) == 6


def test_two_observations_in_a_row_without_lag_are_a_drained_run():
    still = {"enrich": 0, "warehouse": 0}

    assert is_drained(still, still, failed=())
    assert not is_drained(None, still, failed=())


@pytest.mark.parametrize("busy", [{"enrich": 0, "warehouse": 3}, {"enrich": None, "warehouse": 0}])
def test_lag_or_ignorance_in_either_observation_is_not_drained(busy):
    still = {"enrich": 0, "warehouse": 0}

    assert not is_drained(busy, still, failed=())
    assert not is_drained(still, busy, failed=())


def test_nobody_waits_for_a_stage_that_failed_for_good():
    stuck = {"enrich": 1000, "warehouse": 0}

    assert is_drained(stuck, stuck, failed={"enrich"})


def test_what_is_left_is_named_by_stage():
    assert left_over({"enrich": 4, "warehouse": 0, "archive": None}, failed=()) == {"enrich": 4, "archive": None}


def test_a_long_backlog_may_take_as_long_as_it_makes_progress():
    assert not Patience(60).is_over(now=3600, last_progress=3590, hurried_since=None)
    assert Patience(60).is_over(now=3600, last_progress=3540, hurried_since=None)


def test_after_a_signal_the_whole_drain_has_a_deadline():
    assert Patience(60).is_over(now=3600, last_progress=3599, hurried_since=3540)
    assert not Patience(60).is_over(now=3600, last_progress=3000, hurried_since=3590)
