"""Seconds behind, from a table of end offsets."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.planning.scaling.ends import MAX_ROWS, Behind, Row, behind, extended, furthest

TABLE = (Row(0.0, (0, 0)), Row(5.0, (500, 0)), Row(10.0, (500, 100)), Row(15.0, (1500, 100)))


@pytest.mark.parametrize(
    ("position", "seconds"),
    [
        (1500, 0.0),  # nothing is left
        (1000, 5.0 - 2.5 + 2.5),  # half-way between two rows, seen at 17.5
        (500, 17.5 - 10.0),  # the end did not pass it before 10
        (250, 17.5 - 2.5),
    ],
)
def test_behind_is_interpolated(position, seconds):
    assert behind(TABLE, 0, position, 17.5) == Behind(pytest.approx(seconds))


def test_a_position_older_than_the_table_is_at_least_as_old_as_it():
    later = (Row(100.0, (5000,)), Row(105.0, (5100,)))

    assert behind(later, 0, 4999, 110.0) == Behind(10.0, is_at_least=True)


def test_an_idle_time_takes_two_rows_however_long_it_is():
    table = (Row(0.0, (0,)),)
    for second in range(5, 5_000, 5):
        table = extended(table, Row(float(second), (100,)))

    assert table == (Row(0.0, (0,)), Row(5.0, (100,)), Row(4_995.0, (100,)))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40), st.integers(0, 90))
def test_rows_that_are_left_out_change_no_answer(steps, position):
    whole: tuple[Row, ...] = ()
    short: tuple[Row, ...] = ()
    ends = (0, 0)
    for number, step in enumerate(steps):
        ends = (ends[0] + step[0], ends[1] + step[1])
        row = Row(5.0 * number, ends)
        whole, short = (*whole, row), extended(short, row)

    for partition in (0, 1):
        assert behind(short, partition, position, 300.0) == behind(whole, partition, position, 300.0)


def test_the_furthest_partition_counts():
    assert furthest(TABLE, [(0, 1000), (1, 0)], 17.5).seconds == pytest.approx(12.5)
    assert furthest(TABLE, [], 17.5) == Behind(0.0)


def test_the_table_is_bounded_and_keeps_its_age():
    table = ()
    for second in range(0, 100_000, 5):
        table = extended(table, Row(float(second), (second * 10,)))

    assert len(table) <= MAX_ROWS
    assert table[0].time == 0.0
    recent = [row.time for row in table[-100:]]
    assert all(later - earlier == 5.0 for earlier, later in itertools.pairwise(recent))
    assert behind(table, 0, 500_000, 99_995.0).seconds == pytest.approx(49_995.0, rel=0.01)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=30), st.integers(0, 30_000), st.integers(0, 30_000))
def test_an_older_position_is_never_less_behind(arrivals, one, other):
    ends, rows = 0, []
    for number, count in enumerate(arrivals):
        ends += count
        rows.append(Row(5.0 * number, (ends,)))
    now = rows[-1].time
    low, high = sorted((one, other))

    assert behind(tuple(rows), 0, low, now).seconds >= behind(tuple(rows), 0, high, now).seconds
