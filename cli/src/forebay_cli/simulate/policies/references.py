"""Lines to compare with: fixed numbers of replicas, and an oracle that knows what will come."""

import math
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from forebay.planning.scaling.sizing import busiest_share, useful_counts
from forebay_cli.simulate.world import Arrivals, Look, simulate

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Choices = NDArray[np.int8]

BUSIEST_S = 60.0
LOAD = 0.9
"""Of the busiest replica, that the fixed number is chosen for."""

BLOCK_S = 5.0
"""The oracle changes its mind at most so often."""
LEVELS = 400
"""Into which the oracle divides the backlog."""
OVER_PRICE = 1000.0
"""Replica-seconds that it would pay for a second less above the promise."""
CHANGE_PRICE = 20.0
"""Replica-seconds of a change: what starting costs before anything works."""
TOLERATED_S = 5.0
"""Seconds over the promise beyond the best margin's, that a cheaper margin is taken with."""


class Margin(NamedTuple):
    """What the oracle keeps in hand against the dice, which it does not know."""

    promise: float
    """Part of the promise that it plans with."""
    capacity: float
    """Part of the mean capacity that it counts on."""


MARGINS = (
    Margin(0.9, 0.97),
    Margin(0.7, 0.95),
    Margin(0.5, 0.92),
    Margin(0.4, 0.88),
    Margin(0.25, 0.82),
    Margin(0.2, 0.7),
)


def fixed_replicas(load: Arrivals) -> int:
    """As many as the busiest minute of the trace needs."""
    setting = load.setting
    window = min(max(1, round(BUSIEST_S / setting.ranges.step)), load.steps)
    sums = np.cumsum(np.append(0.0, load.rates))
    busiest = float(np.max(sums[window:] - sums[:-window])) / window
    shares = load.shares[0].mean(axis=0).tolist()
    counts = useful_counts(setting.partitions, low=setting.min_replicas, high=setting.max_replicas)
    return next((n for n in counts if busiest_share(shares, n) * busiest <= LOAD * setting.capacity), counts[-1])


class Fixed:
    """Whoever sizes for the peak and leaves it."""

    def __init__(self, load: Arrivals, _index: int) -> None:
        self._replicas = fixed_replicas(load)

    def next_look(self, now: float) -> float:
        """Once, at the beginning."""
        return 1e-3 if now == 0 else math.inf

    def decide(self, _look: Look | None) -> int:
        """The same always."""
        return self._replicas


class Maximum(Fixed):
    """Whoever runs all that there can be: what is late here, no number of replicas makes fresh."""

    def __init__(self, load: Arrivals, _index: int) -> None:
        self._replicas = load.setting.max_replicas


class Oracle:
    """Knows the trace and the world's averages, not the dice: the fewest replicas that keep the promise."""

    def __init__(self, load: Arrivals, _index: int) -> None:
        self._plan, self._block = _best_plan(_Same(load)), 0

    def next_look(self, now: float) -> float:
        """At every block."""
        return now + (BLOCK_S if now else 1e-3)

    def decide(self, _look: Look | None) -> int:
        """What was planned; a lost measurement does not matter to it."""
        self._block += 1
        return self._plan[min(len(self._plan), self._block) - 1]


class _Following(Oracle):
    """Follows a plan that is being tried."""

    def __init__(self, plan: tuple[int, ...]) -> None:
        self._plan, self._block = plan, 0


def _following(plan: tuple[int, ...], _load: Arrivals, _index: int) -> Oracle:
    return _Following(plan)


class _Same:
    """Arrivals, compared by identity: a plan is made once for all seeds."""

    def __init__(self, arrivals: Arrivals) -> None:
        self.arrivals = arrivals

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.arrivals is other.arrivals

    def __hash__(self) -> int:
        return id(self.arrivals)


@lru_cache(maxsize=2)
def _best_plan(load: _Same) -> tuple[int, ...]:
    """Of the plans with each margin, the cheapest that keeps the promise as well as any in the world with its dice."""
    tried = []
    for margin in MARGINS:
        plan = tuple(planned(load.arrivals, margin).tolist())
        outcome = simulate(load.arrivals, partial(_following, plan))
        tried.append((float(np.median(outcome.seconds_over)), float(np.median(outcome.replica_hours)), plan))
    least = min(over for over, _, _ in tried)
    return min((each for each in tried if each[0] <= least + TOLERATED_S), key=lambda each: each[1])[2]


def planned(load: Arrivals, margin: Margin) -> Ints:
    """The replicas to ask for in each block of 5 s: the cheapest schedule that keeps the promise, by dynamic programming.

    The state is (replicas, backlog). The backlog keeps the promise while it is less than what arrived within it. Replicas
    cost while they are asked for; they work a start-up and a rebalance later; in a rebalance the part of the partitions that
    moves stands still.
    """
    setting, second = load.setting, load.setting.ranges.step
    counts = list(useful_counts(setting.partitions, low=setting.min_replicas, high=setting.max_replicas))
    counts = [0, *counts] if setting.scale_to_zero else counts
    per = round(BLOCK_S / second)
    blocks = math.ceil(load.steps / per)
    arriving = np.append(load.rates, np.full(blocks * per - load.steps, load.rates[-1]))
    arriving = arriving.reshape(blocks, per).mean(axis=1) * BLOCK_S
    sums = np.cumsum(np.append(0.0, arriving))
    ends = np.arange(1, blocks + 1)
    allowed = sums[1:] - np.interp(ends - margin.promise * setting.freshness_s / BLOCK_S, np.arange(blocks + 1), sums)
    served = _served(load, counts, blocks, per) * margin.capacity
    unit = max(1.0, float(allowed.max()) * 2 / LEVELS)
    levels = np.arange(LEVELS) * unit
    kept = _kept(counts)
    price = np.array(counts, dtype=float) * BLOCK_S
    ahead = np.zeros((len(counts), LEVELS))
    choices = np.zeros((blocks, len(counts), LEVELS), dtype=np.int8)
    for block in range(blocks - 1, -1, -1):
        work = kept * served[block][None, :]  # (before, after)
        left = np.maximum(0.0, levels[None, None, :] + arriving[block] - work[:, :, None])
        index = np.minimum(LEVELS - 1, np.rint(left / unit)).astype(np.int64)
        cost = np.where(left > allowed[block] + 0.5 * unit, BLOCK_S * OVER_PRICE, 0.0)
        cost += price[None, :, None] + CHANGE_PRICE * (1 - np.eye(len(counts)))[:, :, None]
        cost += 1e-3 * left / unit + np.take_along_axis(ahead[None, :, :], index, axis=2)
        choices[block] = cost.argmin(axis=1)
        ahead = cost.min(axis=1)
    return _followed(load, counts, choices, arriving, served, kept, unit)


def _served(load: Arrivals, counts: list[int], blocks: int, per: int) -> Floats:
    """Records that each number of replicas does in each block, by its busiest replica: (blocks, counts)."""
    setting = load.setting
    result = np.zeros((blocks, len(counts)))
    known: dict[bytes, list[float]] = {}
    for block in range(blocks):
        shares = load.shares[min(block * per, load.steps - 1) if len(load.shares) > 1 else 0].mean(axis=0)
        key = shares.tobytes()
        if key not in known:
            parts = shares.tolist()
            known[key] = [setting.capacity * BLOCK_S / busiest_share(parts, n) if n else 0.0 for n in counts]
        result[block] = known[key]
    return result


def _kept(counts: list[int]) -> Floats:
    """The part of a block's work that is done in the block of a change, by (before, after).

    More replicas work only in the block after they have started (they are asked for that much earlier), when a part of the
    partitions stands still for about 2 s; when some go, their partitions stand still for about 3 s.
    """
    kept = np.ones((len(counts), len(counts)))
    for row, before in enumerate(counts):
        for column, after in enumerate(counts):
            if after > before:
                kept[row, column] = 1 - 0.4 * (1 - before / after)
            elif after < before:
                kept[row, column] = 1 - 0.6 * (1 - after / before)
    return kept


def _followed(  # noqa: PLR0917 - the arrays of `planned`
    load: Arrivals, counts: list[int], choices: Choices, arriving: Floats, served: Floats, kept: Floats, unit: float
) -> Ints:
    """The schedule from the beginning, each start asked for as early as it takes."""
    ranges = load.setting.ranges
    needed = math.ceil(load.rates[0] / load.setting.capacity)
    at = next((place for place, count in enumerate(counts) if count >= needed), len(counts) - 1)
    backlog, works = 0.0, []
    for block in range(len(choices)):
        level = min(LEVELS - 1, round(backlog / unit))
        after = int(choices[block, at, level])
        backlog = max(0.0, backlog + arriving[block] - kept[at, after] * served[block, after])
        at = after
        works.append(counts[after])
    lead = math.ceil((sum(ranges.start_up) / 2 + ranges.notice.high / 2) / BLOCK_S)
    return np.array([max(works[block : block + lead + 1]) for block in range(len(works))])
