"""Effective lag: what is left to read, where end minus committed offset is not the answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.planning.scaling.lag import PartitionOffsets, Start, effective, total

EARLIEST, LATEST = Start.EARLIEST, Start.LATEST


def lag(start=EARLIEST, **offsets):
    found = effective(PartitionOffsets(**{"end": 100, "committed": 60, "begin": 0} | offsets), start)
    return None if found is None else found.lag


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ({}, 40),
        ({"committed": 100}, 0),  # the end of a partition is committed behind its last marker: zero is reachable
        ({"begin": 80}, 20),  # retention was faster: what is gone cannot be read
        ({"begin": 100}, 0),
        ({"committed": None}, 100),
        ({"committed": None, "begin": 30}, 70),
        ({"committed": 500}, 100),  # the topic was made again and is shorter than what was committed
        ({"end": None}, None),
        ({"committed": None, "begin": None}, None),
        ({"committed": 60, "begin": None}, None),
    ],
)
def test_what_is_left_to_read(offsets, expected):
    assert lag(**offsets) == expected


def test_a_group_that_starts_at_the_latest_record_has_nothing_to_do_before_its_first_commit():
    assert lag(LATEST, committed=None) == 0
    assert lag(LATEST, committed=None, begin=None) == 0
    assert lag(LATEST, committed=60) == 40


def test_lost_records_and_recreated_topics_are_told_apart():
    overtaken = effective(PartitionOffsets(end=100, committed=60, begin=80), EARLIEST)
    recreated = effective(PartitionOffsets(end=100, committed=500, begin=0), EARLIEST)

    assert (overtaken.lost, overtaken.is_recreated) == (20, False)
    assert (recreated.lost, recreated.is_recreated) == (0, True)


def test_one_unknown_partition_makes_the_sum_unknown():
    known = PartitionOffsets(end=10, committed=4)

    assert total((known, known), EARLIEST) == 12
    assert total((known, PartitionOffsets(end=None, committed=4)), EARLIEST) is None
    assert total((), EARLIEST) is None


OFFSETS = st.one_of(st.none(), st.integers(0, 10**6))


@given(OFFSETS, OFFSETS, OFFSETS, st.sampled_from(Start))
def test_lag_is_never_negative_nor_more_than_what_exists(begin, end, committed, start):
    found = effective(PartitionOffsets(end=end, committed=committed, begin=begin), start)

    assert found is None or 0 <= found.lag <= max(0, end - (begin or 0))
