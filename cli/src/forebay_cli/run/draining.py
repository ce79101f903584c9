"""When everything in flight has been processed: pure decisions over observed lags.

Each observation reads the stages in the direction of the flow. A stage's output and its input offsets appear in one
transaction, so once the sources have stopped, a stage seen without lag has written all it ever will, and what is read of
the next stage afterwards includes it. One thing is not atomic: the markers that end a transaction reach its partitions
within milliseconds of each other. Two observations in a row bridge that.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

Offsets = Mapping[int, int]
"""By partition."""
Lags = Mapping[str, int | None]
"""By stage; None where it could not be read."""


def lag_of(ends: Offsets, committed: Mapping[int, int | None], begins: Offsets) -> int:
    """Offsets still to be committed. A partition without a commit counts from its oldest record."""
    total = 0
    for partition, end in ends.items():
        offset = committed.get(partition)
        total += max(0, end - (begins.get(partition, 0) if offset is None else offset))
    return total


def is_drained(before: Lags | None, now: Lags, *, failed: Collection[str]) -> bool:
    """Whether two consecutive observations saw no lag anywhere; a stage that failed for good is not waited for."""
    return before is not None and not left_over(before, failed=failed) and not left_over(now, failed=failed)


def left_over(lags: Lags, *, failed: Collection[str]) -> Lags:
    """The stages that still have something to do, or of which that is not known."""
    return {stage: lag for stage, lag in lags.items() if lag != 0 and stage not in failed}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a drain may take: in total once somebody waits for it, without any progress when it is the work itself."""

    seconds: float

    def is_over(self, *, now: float, last_progress: float, hurried_since: float | None) -> bool:
        """Whether to give up; all times on the same clock. `hurried_since`: the first signal or failure, None without."""
        return now - (last_progress if hurried_since is None else hurried_since) >= self.seconds
