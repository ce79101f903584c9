"""How partitions limit what replicas can do, and how far behind a number of replicas will be.

A partition has one reader, so work is split in whole partitions: with N of them and n replicas, the busiest replica has
ceil(N/n). Seven replicas of twelve partitions carry no more than six.

`behind` follows from rates: a replica whose partitions receive L records/s and that can do c falls behind by 1 - c/L
seconds per second while c < L, and catches up by c/L - 1 seconds per second otherwise.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple


@lru_cache(maxsize=256)
def useful_counts(partitions: int, *, low: int, high: int) -> tuple[int, ...]:
    """The numbers of replicas worth having between the bounds, ascending: each splits the partitions better than the one
    before. The lower bound itself is always one of them.
    """  # noqa: D205 - one sentence
    high = max(1, min(high, partitions))
    low = max(1, min(low, high))
    counts = [low]
    counts += [
        count
        for count in range(low + 1, high + 1)
        if math.ceil(partitions / count) < math.ceil(partitions / counts[-1])
        and math.ceil(partitions / count) < math.ceil(partitions / (count - 1))
    ]
    return tuple(counts)


def busiest_share(shares: Sequence[float], replicas: int) -> float:
    """The part of all records that the busiest replica gets: the heaviest partition and as many average ones as fit.

    Which partitions meet on a replica is the group's choice; the heaviest one is certain to be on one of them.
    """
    partitions = len(shares)
    if replicas >= partitions:
        return max(shares, default=0.0)
    held = math.ceil(partitions / max(1, replicas))
    heaviest = max(shares)
    return heaviest + (held - 1) * (sum(shares) - heaviest) / (partitions - 1)


class Outlook(NamedTuple):
    """What becomes of `behind` with some number of replicas."""

    load: float
    """Of the busiest replica, in parts of what it can do; above 1 it falls behind."""
    drift: float
    """Seconds that are lost per second; negative while catching up."""


def outlook(share: float, rate: float, capacity: float) -> Outlook:
    """The outlook of a replica that gets this share of the rate (records/s) and can do `capacity` (records/s)."""
    load = share * rate / capacity if capacity > 0 else math.inf
    if load <= 0:
        return Outlook(0.0, -math.inf)
    return Outlook(load, 1 - 1 / load)


def time_to(behind: float, target: float, drift: float) -> float:
    """Seconds until `behind` is down at the target with that drift; infinite when it never is."""
    if behind <= target:
        return 0.0
    return (behind - target) / -drift if drift < 0 else math.inf
