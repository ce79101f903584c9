"""How much a stage really has to do, which is not always end minus committed offset.

Four traps make that difference wrong. Commit markers of transactions take offsets, so the end must be the last stable
offset, and a stage commits the end of a partition when it has reached it (`runtime/processing.py` does): only then is a
lag of zero reachable. Records that retention has deleted cannot be read any more. A group without a commit starts where
`startFrom` says. And a topic that was deleted and made again begins anew below what was committed.
"""

from enum import StrEnum
from typing import NamedTuple


class Start(StrEnum):
    """Where a partition without a committed offset is read from: `startFrom` of the stage."""

    EARLIEST = "Earliest"
    LATEST = "Latest"


class PartitionOffsets(NamedTuple):
    """One partition as Kafka answers for it; None is "no answer", except for `committed`."""

    end: int | None
    """The last stable offset: what a read-committed consumer can reach."""
    committed: int | None
    """The group's next offset to read, None where it has not committed."""
    begin: int | None = 0
    """The offset of the oldest record that retention has left."""
    owner: str | None = None
    """The member of the group that reads it."""


class Effective(NamedTuple):
    """What is left to read of one partition."""

    position: int
    """The next offset that will be read."""
    end: int
    lost: int = 0
    """Committed records' successors that retention deleted before they were read."""
    is_recreated: bool = False
    """The committed offset lies beyond the end: it belongs to a topic of the same name that is gone."""

    @property
    def lag(self) -> int:
        """Records left to read."""
        return self.end - self.position


def effective(offsets: PartitionOffsets, start: Start) -> Effective | None:
    """What is left to read; None where Kafka's answer is not complete, which is never to be taken for zero."""
    begin, end, committed = offsets.begin, offsets.end, offsets.committed
    if end is None:
        return None
    if committed is None and start is Start.LATEST:
        return Effective(end, end)
    if begin is None:
        return None
    if committed is not None and begin <= committed <= end:  # by far the most frequent case
        return Effective(committed, end)
    oldest = min(begin, end)
    if committed is None:
        return Effective(oldest, end)
    return Effective(oldest, end, lost=max(0, begin - committed), is_recreated=committed > end)


def total(partitions: tuple[PartitionOffsets, ...], start: Start) -> int | None:
    """Records left to read of all partitions; None unless every partition is known."""
    left = [effective(partition, start) for partition in partitions]
    return None if None in left or not left else sum(each.lag for each in left if each is not None)
