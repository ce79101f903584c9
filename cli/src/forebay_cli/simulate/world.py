"""A consumer group, a load and replicas, in steps of half a second, for all seeds at once.

Records are a fluid: a replica serves its partitions in proportion to what waits in them and does what it can. The group is
Kafka's classic protocol with the cooperative sticky assignor: a change is heard of at the heartbeats, then the partitions that
change their owner stand still until they are handed over; with `--rebalance eager` all do. Policies see offsets, owners and
readiness as Kafka and Kubernetes tell them, some of it late, some of it lost.

Freshness is the age of the oldest record that is not done, over all partitions, and one transaction interval.
"""

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from forebay.planning.scaling import GroupState
from forebay_cli.simulate.ranges import RANGES, Range, Ranges
from forebay_cli.simulate.traces import Trace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
NOBODY = -1
WOBBLE_STEPS = 4
"""Capacities are drawn anew so often: they change over half a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is simulated: the same for every policy."""

    partitions: int = 12
    capacity: float = 2000.0
    """Records per second of one replica, on average."""
    freshness_s: float = 10.0
    min_replicas: int = 1
    max_replicas: int = 12
    scale_to_zero: bool = False
    is_eager: bool = False
    """Whether a rebalance stops everybody."""
    seeds: int = 20
    first_seed: int = 0
    ranges: Ranges = RANGES


@dataclass(frozen=True, slots=True)
class Look:
    """What a policy can see of its stage at one time."""

    now: float
    replicas: int
    ready: int
    group: GroupState
    ends: list[int | None]
    """By partition; None where no answer came."""
    committed: list[int]
    owners: list[int]
    """The replica's ordinal, or NOBODY."""
    done: float
    """Counter of records that the replicas have processed."""
    rate: float
    """Records per second that they process just now."""
    busy: float
    """How busy the busiest replica was since the last look, 0 to 1."""


class Policy(Protocol):
    """Decides for one stage."""

    def next_look(self, now: float) -> float:
        """When it wants to look again."""

    def decide(self, look: Look | None) -> int | None:
        """How many replicas there should be, or None to leave them; no look means that the measurement was lost."""


Make = Callable[["Arrivals", int], Policy]
"""A policy for the seed of that index."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A trace as it arrives, for every seed."""

    trace: Trace
    setting: Setting
    cumulative: Floats
    """(steps + 1, seeds x partitions): records that have arrived by the end of each step."""
    rates: Floats
    """(steps): records per second, without noise."""
    shares: NDArray[np.float32]
    """(steps, seeds, partitions), of the trace; (1, seeds, partitions) where they stay the same."""

    @property
    def steps(self) -> int:
        """How many steps it takes."""
        return len(self.rates)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a policy, by seed."""

    seconds_over: Floats
    """Seconds that the stage was further behind than it may be."""
    p99_freshness_s: Floats
    """So far behind, or less, for 99 % of the time."""
    replica_hours: Floats
    rescales: Floats
    """Changes of the number of replicas that was asked for."""
    partition_moves: Floats
    replicas: NDArray[np.int16]
    """(steps, seeds)"""
    behind: NDArray[np.float32]
    """(steps, seeds), seconds"""


def arrivals(trace: Trace, setting: Setting) -> Arrivals:
    """The trace with the noise of each seed."""
    ranges, partitions, seeds = setting.ranges, setting.partitions, setting.seeds
    steps = max(1, round(trace.seconds / ranges.step))
    at = np.searchsorted(np.array(trace.times), np.arange(steps) * ranges.step + 1e-9, side="right") - 1
    rates = np.array(trace.rates)[at]
    cumulative = np.zeros((steps + 1, seeds, partitions))
    shares = np.empty((1 if trace.weights is None else steps, seeds, partitions), dtype=np.float32)
    for index in range(seeds):
        rng = np.random.default_rng([setting.first_seed + index, 1])
        if trace.weights is None:
            own = np.exp(rng.normal(0.0, ranges.partition_spread, partitions))
            parts = np.broadcast_to(own / own.sum(), (steps, partitions))
        else:
            weights = np.array(trace.weights)
            parts = (weights / weights.sum(axis=1, keepdims=True))[at]
        shares[:, index] = parts[:1] if trace.weights is None else parts
        mean = rates[:, None] * parts * ranges.step
        noise = rng.normal(0.0, ranges.arrival_noise / np.sqrt(ranges.step), (steps, 1))
        sway = rng.normal(0.0, 1.0, (steps, partitions)) * np.sqrt(mean)
        cumulative[1:, index] = np.cumsum(np.maximum(0.0, mean * (1 + noise) + sway), axis=0)
    return Arrivals(trace, setting, cumulative.reshape(steps + 1, seeds * partitions), rates, shares)


def simulate(load: Arrivals, make: Make) -> Outcome:
    """Run a policy on the arrivals, once for every seed."""
    return _Run(load, make).outcome()


def initial_replicas(load: Arrivals) -> int:
    """What every policy begins with: enough for the first rate, without reserve."""
    setting = load.setting
    needed = int(np.ceil(load.rates[0] / setting.capacity))
    low = 0 if setting.scale_to_zero and load.rates[0] == 0 else max(1, setting.min_replicas)
    return min(max(low, needed), setting.max_replicas)


def balanced(owners: Sequence[int], members: Sequence[int], rng: np.random.Generator) -> list[int]:
    """The cooperative sticky assignment: as even as it gets, moving as few partitions as that takes."""
    if not members:
        return [NOBODY] * len(owners)
    least, extra = divmod(len(owners), len(members))
    held: dict[int, list[int]] = {member: [] for member in members}
    loose: list[int] = []
    for partition in rng.permutation(len(owners)).tolist():
        held.get(owners[partition], loose).append(partition)
    for member in sorted(members, key=lambda member: -len(held[member])):
        room = least + (1 if extra > 0 and len(held[member]) > least else 0)
        extra -= room - least
        loose += held[member][room:]
        held[member] = held[member][:room]
    for partition in loose:
        held[min(members, key=lambda member: (len(held[member]), member))].append(partition)
    result = [NOBODY] * len(owners)
    for member, partitions in held.items():
        for partition in partitions:
            result[partition] = member
    return result


class _Group:
    """Replicas, members and owners of one seed: events only, no records."""

    def __init__(self, run: "_Run", index: int, replicas: int) -> None:
        self._run, self._index, self._setting = run, index, run.setting
        self._rng = np.random.default_rng([run.setting.first_seed + index, 2])
        self._round = 0
        self.replicas = replicas
        self.members = set(range(replicas))
        self.state = GroupState.STABLE if replicas else GroupState.EMPTY
        self.owners = balanced([NOBODY] * run.setting.partitions, sorted(self.members), self._rng)
        self.rescales = self.moves = 0

    def scale(self, replicas: int, now: float) -> None:
        """Ask for so many replicas."""
        replicas = min(max(replicas, 0), self._setting.max_replicas)
        if replicas == self.replicas:
            return
        self.rescales += 1
        for ordinal in range(self.replicas, replicas):
            self._run.later(now + self._drawn(self._setting.ranges.start_up), self._join, ordinal)
        gone = {ordinal for ordinal in self.members if ordinal >= replicas}
        self.replicas = replicas
        if gone:  # they finish, commit and leave
            self.members -= gone
            self.owners = [NOBODY if owner in gone else owner for owner in self.owners]
            self._rebalance(now)

    def _join(self, now: float, ordinal: int) -> None:
        if ordinal >= self.replicas or ordinal in self.members:  # it is not wanted any more
            return
        was_empty = not self.members
        self.members.add(ordinal)
        self._rebalance(now, was_empty=was_empty)

    def _rebalance(self, now: float, *, was_empty: bool = False) -> None:
        self._round += 1  # a round that is under way begins again
        if not self.members:
            self.state = GroupState.EMPTY
            self._run.owners_changed(self._index, self.owners)
            return
        self.state = GroupState.REBALANCING
        ranges = self._setting.ranges
        notice = ranges.first_member if was_empty else self._drawn(ranges.notice)
        self._run.owners_changed(self._index, self.owners)
        if self._setting.is_eager:
            self._run.stand_still(self._index, range(self._setting.partitions), now + notice)
        self._run.later(now + notice, self._assign, self._round)

    def _assign(self, now: float, number: int) -> None:
        if number != self._round:
            return
        before = self.owners
        self.owners = balanced(before, sorted(self.members), self._rng)
        moved = [partition for partition, owner in enumerate(self.owners) if owner != before[partition]]
        ranges = self._setting.ranges
        revoked = [partition for partition in moved if before[partition] != NOBODY]
        self.moves += len(moved)
        second = self._drawn(ranges.notice) if revoked and not self._setting.is_eager else 0.0
        for partition in range(len(self.owners)) if self._setting.is_eager else moved:
            waits = second if partition in revoked else 0.0
            self._run.stand_still(self._index, [partition], now + waits + self._drawn(ranges.hand_over))
        self._run.owners_changed(self._index, self.owners)
        self._run.later(now + second, self._settle, number)

    def _settle(self, _now: float, number: int) -> None:
        if number == self._round:
            self.state = GroupState.STABLE

    def _drawn(self, between: Range) -> float:
        return float(self._rng.uniform(between.low, between.high))


class _Run:
    """One policy on one trace."""

    def __init__(self, load: Arrivals, make: Make) -> None:
        self.setting, self._load = load.setting, load
        setting, ranges = self.setting, self.setting.ranges
        width = setting.seeds * setting.partitions
        self._bins = setting.seeds * setting.max_replicas  # one per replica, and one for partitions that nobody reads
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = itertools.count()
        self._owner = np.full(width, self._bins, dtype=np.int64)
        self._still_until = np.zeros(width)
        self._done, self._served, self._committed = np.zeros(width), np.zeros(width), np.zeros(width)
        self._busy, self._busy_since = np.zeros(self._bins), np.zeros(setting.seeds)
        self._noise = np.random.default_rng([setting.first_seed, setting.seeds, 4])
        self._means = setting.capacity * np.exp(self._noise.normal(0.0, ranges.replica_spread, self._bins))
        self._sway = self._noise.normal(0.0, ranges.wobble, self._bins)
        self._budget = np.zeros(self._bins + 1)
        self._looking = [np.random.default_rng([setting.first_seed + index, 3]) for index in range(setting.seeds)]
        first = initial_replicas(load)
        self._groups = [_Group(self, index, first) for index in range(setting.seeds)]
        for index, group in enumerate(self._groups):
            self.owners_changed(index, group.owners)
        self._policies = [make(load, index) for index in range(setting.seeds)]
        for index, policy in enumerate(self._policies):
            self.later(policy.next_look(0.0), self._look, index)

    def later(self, time: float, do: Callable[..., None], *arguments: Any) -> None:
        """Have something done at a time."""
        heapq.heappush(self._events, (time, next(self._count), do, arguments))

    def owners_changed(self, index: int, owners: Sequence[int]) -> None:
        """The partitions of a seed have these owners now."""
        partitions, most = self.setting.partitions, self.setting.max_replicas
        bins = [self._bins if owner == NOBODY else index * most + owner for owner in owners]
        self._owner[index * partitions : (index + 1) * partitions] = bins

    def stand_still(self, index: int, partitions: Sequence[int], until: float) -> None:
        """Nobody reads these partitions until then."""
        for partition in partitions:
            place = index * self.setting.partitions + partition
            self._still_until[place] = max(self._still_until[place], until)
        self.later(until, lambda _now: None)  # whoever serves looks again at who stands still

    def outcome(self) -> Outcome:
        """Run to the end."""
        setting, load = self.setting, self._load
        second, seeds, steps = setting.ranges.step, setting.seeds, load.steps
        replicas = np.zeros((steps, seeds), dtype=np.int16)
        done = np.empty((steps, seeds * setting.partitions))
        reading = self._reading(0.0)
        for step in range(steps):
            now = step * second
            if self._events[0][0] <= now:
                while self._events and self._events[0][0] <= now:
                    time, _, do, arguments = heapq.heappop(self._events)
                    do(max(time, now - second), *arguments)
                reading = self._reading(now)
            if step % WOBBLE_STEPS == 0:
                self._wobble()
            replicas[step] = self._asked_for
            self._serve(load.cumulative[step + 1], reading)
            done[step] = self._done
        behind = ages(load, done)
        over = (behind > setting.freshness_s).sum(axis=0) * second
        return Outcome(
            seconds_over=over.astype(float),
            p99_freshness_s=np.percentile(behind, 99, axis=0).astype(float),
            replica_hours=replicas.sum(axis=0) * second / 3600,
            rescales=np.array([group.rescales for group in self._groups], dtype=float),
            partition_moves=np.array([group.moves for group in self._groups], dtype=float),
            replicas=replicas,
            behind=behind,
        )

    def _reading(self, now: float) -> Ints:
        """The replica that reads each partition just now."""
        self._asked_for = [group.replicas for group in self._groups]
        return np.where(self._still_until > now, self._bins, self._owner)

    def _wobble(self) -> None:
        ranges = self.setting.ranges
        keep = float(np.exp(-WOBBLE_STEPS * ranges.step / ranges.wobble_time))
        fresh = ranges.wobble * float(np.sqrt(1 - keep**2))
        self._sway = self._sway * keep + fresh * self._noise.standard_normal(self._bins)
        self._budget[:-1] = self._means * (1 + self._sway) * ranges.step

    def _serve(self, arrived: Floats, reading: Ints) -> None:
        """Process what can be processed in one step."""
        waiting = arrived - self._done
        wanted = np.bincount(reading, weights=waiting, minlength=self._bins + 1)
        np.maximum(wanted, 1e-9, out=wanted)
        share = self._budget / wanted  # of what waits, that is done; nothing where nobody reads
        mine = share[reading]
        self._served = waiting * np.minimum(mine, 1.0)
        self._done = np.where(mine >= 1.0, arrived, self._done + self._served)
        self._busy += np.minimum(1.0, 1.0 / np.maximum(share[:-1], 1e-9))

    def _look(self, now: float, index: int) -> None:
        """A policy looks, and what it decides takes effect a little later."""
        policy, group, rng = self._policies[index], self._groups[index], self._looking[index]
        ranges = self.setting.ranges
        luck = float(rng.random())
        look = None if luck < ranges.lost else self._seen(now, index, rng)
        if look is not None and luck > 1 - ranges.partial:
            look.ends[int(rng.integers(self.setting.partitions))] = None
        wanted = policy.decide(look)
        if wanted is not None and wanted != group.replicas:
            answer = float(rng.uniform(ranges.answer.low, ranges.answer.high))
            self.later(now + answer, self._carry_out, group, wanted)
        self.later(policy.next_look(now), self._look, index)

    @staticmethod
    def _carry_out(now: float, group: _Group, wanted: int) -> None:
        group.scale(wanted, now)

    def _seen(self, now: float, index: int, rng: np.random.Generator) -> Look:
        setting, group = self.setting, self._groups[index]
        second = setting.ranges.step
        part = slice(index * setting.partitions, (index + 1) * setting.partitions)
        bins = slice(index * setting.max_replicas, (index + 1) * setting.max_replicas)
        ended = self._load.cumulative[min(self._load.steps, int(now / second)), part]
        in_flight = self._served[part] / second * setting.ranges.transaction * rng.random()
        committed = np.maximum(self._committed[part], np.minimum(self._done[part], ended) - in_flight)
        self._committed[part] = committed
        since = max(now - self._busy_since[index], second)
        busy = float(self._busy[bins].max()) * second / since
        self._busy[bins] = 0.0
        self._busy_since[index] = now
        return Look(
            now=now,
            replicas=group.replicas,
            ready=len(group.members),
            group=group.state,
            ends=ended.astype(np.int64).tolist(),
            committed=committed.astype(np.int64).tolist(),
            owners=group.owners,
            done=float(self._done[part].sum()),
            rate=float(self._served[part].sum()) / second,
            busy=min(1.0, busy),
        )


def ages(load: Arrivals, done: Floats) -> NDArray[np.float32]:
    """How far behind each seed is at the end of every step, in seconds: (steps, seeds).

    Of each partition the time at which the record that is next arrived, by interpolation; of those the oldest.
    """
    setting, steps = load.setting, load.steps
    second = setting.ranges.step
    ends = np.arange(1, steps + 1)
    behind = np.zeros((steps, setting.seeds), dtype=np.float32)
    for column in range(done.shape[1]):
        arrived = np.ascontiguousarray(load.cumulative[:, column])
        finished = np.ascontiguousarray(done[:, column])
        since = np.searchsorted(arrived, finished, side="right") - 1
        since = np.minimum(since, steps - 1)
        part = (finished - arrived[since]) / np.maximum(arrived[since + 1] - arrived[since], 1e-9)
        age = (ends - since - np.clip(part, 0.0, 1.0)) * second + setting.ranges.transaction
        age[finished >= arrived[1:]] = 0.0
        seed = column // setting.partitions
        np.maximum(behind[:, seed], age, out=behind[:, seed], casting="unsafe")
    return behind
