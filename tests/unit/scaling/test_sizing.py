"""What partitions allow."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.planning.scaling.sizing import busiest_share, outlook, time_to, useful_counts


@pytest.mark.parametrize(
    ("partitions", "low", "high", "counts"),
    [
        (12, 1, 12, (1, 2, 3, 4, 6, 12)),
        (12, 1, 8, (1, 2, 3, 4, 6)),
        (12, 5, 12, (5, 6, 12)),
        (7, 1, 50, (1, 2, 3, 4, 7)),
        (1, 1, 5, (1,)),
    ],
)
def test_counts_that_split_no_better_than_fewer_are_left_out(partitions, low, high, counts):
    assert useful_counts(partitions, low=low, high=high) == counts


@given(st.integers(1, 200), st.integers(1, 50), st.integers(1, 250))
def test_no_count_between_two_useful_ones_splits_better(partitions, low, high):
    counts = useful_counts(partitions, low=low, high=high)

    assert list(counts) == sorted(set(counts))
    assert counts[-1] <= max(1, min(high, partitions))
    for count in range(counts[0], max(counts[0], min(high, partitions)) + 1):
        fewest = max(each for each in counts if each <= count)
        assert math.ceil(partitions / count) == math.ceil(partitions / fewest)


def test_the_busiest_replica_has_the_heaviest_partition():
    assert busiest_share((0.25,) * 4, 2) == pytest.approx(0.5)
    assert busiest_share((0.7, 0.1, 0.1, 0.1), 2) == pytest.approx(0.8)
    assert busiest_share((0.7, 0.1, 0.1, 0.1), 4) == 0.7
    assert busiest_share((0.25,) * 4, 3) == pytest.approx(0.5)  # no better than two


def test_the_outlook_follows_from_rates():
    assert outlook(0.5, 4000, 1000) == (2.0, 0.5)  # half a second is lost in each
    assert outlook(0.5, 1000, 1000) == (0.5, -1.0)
    assert outlook(0.5, 0, 1000).load == 0.0
    assert outlook(0.5, 100, 0).load == math.inf


def test_time_to_catch_up():
    assert time_to(20.0, 10.0, -0.5) == 20.0
    assert time_to(5.0, 10.0, 0.5) == 0.0
    assert time_to(20.0, 10.0, 0.1) == math.inf
