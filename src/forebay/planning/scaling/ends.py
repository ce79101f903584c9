"""How many seconds a stage is behind, from offsets alone.

A table of (time, end offset of every partition) is kept. The record at the position of the group was written when the
end offset passed that position; the time in between two rows is interpolated. No timestamp of a record is trusted, and
no record is read. The table is bounded: when it is full, every second row of its older half goes, so the error of an old
answer stays in proportion to its age.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

MAX_ROWS = 512
"""At a row every 5 s, the newest 20 minutes are always there row by row."""


class Row(NamedTuple):
    """The end offsets of all partitions at one time."""

    time: float
    ends: Sequence[int]
    """By partition; an array, where there are many rows: a fourth of the memory of a tuple's numbers."""


Table = tuple[Row, ...]


class Behind(NamedTuple):
    """An age in seconds, or the least that it can be."""

    seconds: float
    is_at_least: bool = False
    """The position is older than the table."""


def extended(table: Table, row: Row) -> Table:
    """The table with one more row, thinned when it is full.

    Of a time in which nothing arrived the first and the last row say everything: a table of an idle stage stays small.
    """
    if len(table) > 1 and table[-1].ends == table[-2].ends == row.ends:
        return (*table[:-1], row)
    if len(table) >= MAX_ROWS:
        half = MAX_ROWS // 2
        table = (*table[:half:2], *table[half:])
    return (*table, row)


def behind(table: Table, partition: int, position: int, now: float) -> Behind:
    """For how long the record at `position` of a partition has been waiting; 0 when it is not written yet."""
    if not table or position >= table[-1].ends[partition]:
        return Behind(0.0)
    if len(table) > 1 and position >= table[-2].ends[partition]:  # what is in flight was written a moment ago
        after = len(table) - 1
    else:
        after = bisect_right(table, position, key=lambda row: row.ends[partition])
    if after == 0:
        return Behind(now - table[0].time, is_at_least=True)
    earlier, later = table[after - 1], table[after]
    low, high = earlier.ends[partition], later.ends[partition]
    share = (position - low) / (high - low)
    return Behind(now - (earlier.time + share * (later.time - earlier.time)))


def furthest(table: Table, positions: Sequence[tuple[int, int]], now: float) -> Behind:
    """The maximum over (partition, position) pairs; 0 for none."""
    ages = [behind(table, partition, position, now) for partition, position in positions]
    return max(ages, key=lambda age: age.seconds, default=Behind(0.0))
