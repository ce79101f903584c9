"""From observations to a situation: rates, capacity, prices. A fold: what is remembered plus one observation.

Capacity is measured where it shows: between two observations at both of which a replica had more to do than it does in a
second, in a settled group. What a replica does while it keeps up only says that it can do at least that.

Everything that is remembered is bounded, and `Memory` minus its tables is what survives a restart (`Lasting`).
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from statistics import median
from typing import NamedTuple

from forebay.planning.scaling import ends, lag
from forebay.planning.scaling.ends import Row, Table
from forebay.planning.scaling.lag import Effective
from forebay.planning.scaling.observation import LOOK_S, GroupState, Observation
from forebay.planning.scaling.policy import ScalingPolicy
from forebay.planning.scaling.situation import Ineffective, Peak, Situation, StuckPartition

SATURATED_S = 1.0
"""A replica with a backlog of more than a second's work is busy all the time: transactions of 0.2 s leave less than that
in flight."""
CAPACITY_WEIGHT = 0.3
"""Of a new sample in the running mean: a handful of polls follows a real change, one odd poll does little."""
SHARES_WEIGHT = 0.2
SETTLING_WEIGHT = 0.5
STUCK_AFTER_S = 60.0
"""A hanging transaction ends after the same time (`transaction.timeout.ms`); until then a partition may come back."""
JUMP = 1.25
"""Growth between two polls that noise does not show: the load has changed between them."""
RISES = 4
"""So many polls in a row with more arrivals each are a trend: by chance that is one in 120."""
LOOK_AHEAD_S = 30.0
"""Beyond the start-up: a growing load is met by one change of replicas for that long, not by one per poll."""
EFFECT_SAMPLES = 2
LITTLE_EFFECT = 0.2
"""Of the expected gain in throughput: less is no effect. Noise of capacities is about a tenth."""
EFFECT_FORGOTTEN_S = 900.0
QUIET_TIMES = (1.0, 1.5, 2.0, 3.0, 5.0)
"""Multiples of the policy's: what a costly rescale may have to wait for."""
MAX_RATES = 2048
RECALLED_S = 900.0
"""A load that was there within a quarter of an hour may be back at once. Simulated: half an hour costs more replicas and saves
next to no second."""
RECALLED_EVERY_S = 60.0


class Lasting(NamedTuple):
    """What a restart must not forget; small enough for a status."""

    capacity: float | None = None
    """Records per second and replica, measured."""
    fastest: float = 0.0
    """The most that a replica was seen to do (records/s)."""
    scale_out_s: float = 10.0
    """Start-up of 3-5 s, and a rebalance; then this stage's own measure."""
    scale_in_s: float = 5.0
    """A rebalance takes up to a heartbeat (3 s) to reach everybody; then this stage's own measure."""
    changed_at: float | None = None


class Rates(NamedTuple):
    """Arrivals of all partitions, by the end of the interval that they were measured over, ascending."""

    times: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    """Records per second."""

    def extended(self, time: float, value: float, *, keep_s: float) -> "Rates":
        """With one more, and of the old ones those that matter for so long."""
        first = max(0, bisect_left(self.times, time - keep_s) - 1, len(self.times) - MAX_RATES)
        return Rates((*self.times[first:], time), (*self.values[first:], value))


class _Change(NamedTuple):
    at: float
    before: int
    after: int
    throughput: float | None
    """Of all replicas before the change, where they were saturated."""
    is_settled: bool = False
    afterwards: tuple[float, ...] = ()
    """Throughput after it, while saturated."""


class _Last(NamedTuple):
    """What the next observation is compared with."""

    time: float
    left: tuple[Effective, ...]
    owners: tuple[str | None, ...]
    is_steady: bool


class Memory(NamedTuple):
    """What is remembered between two observations."""

    lasting: Lasting = Lasting()
    topic_id: str | None = None
    table: Table = ()
    last: _Last | None = None
    arrivals: tuple[float, ...] = ()
    """By partition, smoothed."""
    rates: Rates = Rates()
    """What the trend and the quiet time are read from."""
    highs: tuple[tuple[float, float], ...] = ()
    """(when, records per second): rates of the last quarter of an hour that none since has reached."""
    fastest_before: float = 0.0
    """What the fastest replica did between the two observations before the last."""
    throughput: float | None = None
    """Of all replicas between the last two observations, where all were busy all the time."""
    change: _Change | None = None
    moved_at: tuple[tuple[int, float], ...] = ()
    """(position, since when), by partition."""
    idle_since: float | None = None
    ineffective: Ineffective | None = None
    ineffective_since: float = 0.0


class _Progress(NamedTuple):
    """What happened between two observations."""

    seconds: float
    arrived: tuple[float, ...]
    """Records per second, by partition."""
    done: tuple[float, ...]
    before: tuple[int, ...]
    """Lag at its begin, by partition."""


def measure(memory: Memory, seen: Observation, policy: ScalingPolicy) -> tuple[Memory, Situation]:
    """What is remembered now, and the situation to decide on."""
    if memory.topic_id is not None and seen.topic_id is not None and seen.topic_id != memory.topic_id:
        memory = _forgetting(memory)
    if memory.last is not None and len(memory.last.left) != len(seen.partitions) and seen.partitions:
        memory = _forgetting(memory)  # the topic has grown
    left, missing = _read(seen)
    if missing is not None:
        return memory, _unmeasured(memory, seen, missing)
    memory = memory._replace(topic_id=seen.topic_id or memory.topic_id)
    progress = _progress(memory.last, left, seen.time)
    is_steady = seen.group is GroupState.STABLE and seen.ready == seen.replicas
    memory = _with_arrivals(memory, left, progress, seen, policy)
    samples = _samples(memory, progress, left, seen, is_steady=is_steady)
    guess = max((rate for rate, _ in samples), default=0.0)
    guess += max(0.0, guess - memory.fastest_before) if memory.fastest_before else 0.0
    memory = _with_capacity(memory, samples)
    memory = _with_change(memory, progress, seen, is_steady=is_steady)
    situation = _situation(memory, seen, policy, left=left, progress=progress, guess=guess)
    owners = tuple(partition.owner for partition in seen.partitions)
    return memory._replace(last=_Last(seen.time, left, owners, is_steady)), situation


def _forgetting(memory: Memory) -> Memory:
    """Another topic, or more partitions: offsets and shares start anew, capacity and prices stay."""
    return Memory(lasting=memory.lasting, change=memory.change)


def _read(seen: Observation) -> tuple[tuple[Effective, ...], str | None]:
    """What is left of each partition, or what is missing to say so."""
    if seen.group is GroupState.UNKNOWN:
        return (), "Kafka did not describe the consumer group"
    if not seen.partitions:
        return (), "Kafka did not answer for the topic"
    left = [lag.effective(partition, seen.start) for partition in seen.partitions]
    unknown = [str(number) for number, each in enumerate(left) if each is None]
    if unknown:
        return (), f"Kafka did not answer for {_numbered(unknown)}"
    known = tuple(each for each in left if each is not None)
    gone = [str(number) for number, each in enumerate(known) if each.is_recreated]
    if gone:
        return (
            (),
            f"the committed offset of {_numbered(gone)} lies beyond its end: the topic was deleted and made again",
        )
    return known, None


def _numbered(partitions: Sequence[str]) -> str:
    return f"partition{'s' if len(partitions) > 1 else ''} {', '.join(partitions)}"


def _unmeasured(memory: Memory, seen: Observation, missing: str) -> Situation:
    return Situation(
        now=seen.time,
        replicas=seen.replicas,
        ready=seen.ready,
        partitions=len(seen.partitions),
        group=seen.group,
        is_paused=seen.is_paused,
        is_rolling_out=seen.is_rolling_out,
        missing=missing,
        scale_out_s=memory.lasting.scale_out_s,
        scale_in_s=memory.lasting.scale_in_s,
    )


def _progress(last: _Last | None, left: tuple[Effective, ...], now: float) -> _Progress | None:
    if last is None or now <= last.time:
        return None
    seconds = now - last.time
    pairs = tuple(zip(last.left, left, strict=True))
    return _Progress(
        seconds=seconds,
        arrived=tuple(max(0, new.end - old.end) / seconds for old, new in pairs),
        done=tuple(max(0, new.position - old.position - new.lost) / seconds for old, new in pairs),
        before=tuple(old.lag for old in last.left),
    )


def _with_arrivals(
    memory: Memory, left: tuple[Effective, ...], progress: _Progress | None, seen: Observation, policy: ScalingPolicy
) -> Memory:
    now = seen.time
    moved = memory.moved_at or tuple((each.position, now) for each in left)
    moved = tuple(
        old if old[0] == each.position and each.lag and owner.owner is not None else (each.position, now)
        for old, each, owner in zip(moved, left, seen.partitions, strict=True)
    )
    row = Row(now, array("q", [each.end for each in left]))
    memory = memory._replace(table=ends.extended(memory.table, row), moved_at=moved)
    if progress is None:
        return memory
    arrivals = progress.arrived
    if any(memory.arrivals):
        arrivals = tuple(
            old + SHARES_WEIGHT * (new - old) for old, new in zip(memory.arrivals, progress.arrived, strict=True)
        )
    if not any(progress.arrived):
        arrivals = memory.arrivals or progress.arrived  # shares are still those of the last records
    keep_s = max(QUIET_TIMES[-1] * policy.behaviour.scale_in_after_seconds, LOOK_AHEAD_S)
    rates = memory.rates.extended(now, sum(progress.arrived), keep_s=keep_s)
    is_idle = not any(progress.arrived) and not any(each.lag for each in left)
    idle_since = (memory.idle_since if memory.idle_since is not None else now) if is_idle else None
    highs = _with_high(memory.highs, now, rates.values[-1])
    return memory._replace(arrivals=arrivals, rates=rates, highs=highs, idle_since=idle_since)


def _with_high(highs: tuple[tuple[float, float], ...], now: float, rate: float) -> tuple[tuple[float, float], ...]:
    """With one more rate; of those that fall, one a minute."""
    kept = tuple(high for high in highs if high[0] > now - RECALLED_S and high[1] > rate)
    return kept if kept and kept[-1][0] > now - RECALLED_EVERY_S else (*kept, (now, rate))


def _by_owner(owners: Sequence[str | None]) -> Iterator[tuple[int, ...]]:
    """The partitions of each owner."""
    held: dict[str, list[int]] = {}
    for partition, owner in enumerate(owners):
        if owner is not None:
            held.setdefault(owner, []).append(partition)
    for partitions in held.values():
        yield tuple(partitions)


def _samples(
    memory: Memory, progress: _Progress | None, left: tuple[Effective, ...], seen: Observation, *, is_steady: bool
) -> tuple[tuple[float, bool], ...]:
    """(records per second, whether that was all it could do) of each replica between the last two observations."""
    last = memory.last
    owners = tuple(partition.owner for partition in seen.partitions)
    if progress is None or last is None or not (is_steady and last.is_steady) or owners != last.owners:
        return ()
    samples = []
    for held in _by_owner(owners):
        rate = sum(progress.done[partition] for partition in held)
        moving = [partition for partition in held if progress.done[partition]]  # one that hangs says nothing
        least = min(
            sum(progress.before[partition] for partition in moving), sum(left[partition].lag for partition in moving)
        )
        in_flight = SATURATED_S * rate + len(moving)  # a trickle always has a record of each partition on its way
        samples.append((rate, rate > 0 and least > in_flight))
    return tuple(samples)


def _with_capacity(memory: Memory, samples: tuple[tuple[float, bool], ...]) -> Memory:
    if not samples:
        return memory._replace(throughput=None)
    capacity = memory.lasting.capacity
    saturated = [rate for rate, is_saturated in samples if is_saturated]
    if saturated:
        busy = sum(saturated) / len(saturated)
        # the slowest is busy first, alone, and is not what one replica can do: who keeps up with more counts, too
        able = [rate for rate, is_saturated in samples if is_saturated or rate > busy]
        sample = sum(able) / len(able)
        capacity = sample if capacity is None else capacity + CAPACITY_WEIGHT * (sample - capacity)
    now = max(rate for rate, _ in samples)
    fastest = max(memory.lasting.fastest, now)
    return memory._replace(
        lasting=memory.lasting._replace(capacity=capacity, fastest=fastest),
        fastest_before=now,
        throughput=sum(rate for rate, _ in samples) if len(saturated) == len(samples) else None,
    )


def _with_change(memory: Memory, progress: _Progress | None, seen: Observation, *, is_steady: bool) -> Memory:
    """Follows the last change: how long it takes to settle, and whether it helps."""
    change = memory.change
    if memory.ineffective is not None and seen.time - memory.ineffective_since > EFFECT_FORGOTTEN_S:
        memory = memory._replace(ineffective=None)
    if change is None or change.after != seen.replicas:
        return memory._replace(change=None)
    if not change.is_settled:
        is_over = is_steady or (seen.replicas == 0 and seen.group is GroupState.EMPTY)
        return _with_price(memory, change, seen.time, progress) if is_over else memory
    return _with_effect(memory, change, seen.time)


def _with_price(memory: Memory, change: _Change, now: float, progress: _Progress | None) -> Memory:
    """A change has settled: somewhere between the last observation and this one."""
    took = max(1.0, now - change.at - (progress.seconds / 2 if progress else 0.0))
    lasting = memory.lasting
    if change.after > change.before:
        price = lasting.scale_out_s + SETTLING_WEIGHT * (took - lasting.scale_out_s)
        lasting = lasting._replace(scale_out_s=price)
    else:
        price = lasting.scale_in_s + SETTLING_WEIGHT * (took - lasting.scale_in_s)
        lasting = lasting._replace(scale_in_s=price)
    return memory._replace(lasting=lasting, change=change._replace(is_settled=True))


def _with_effect(memory: Memory, change: _Change, now: float) -> Memory:
    """More replicas are busy all the time, as fewer were before: whether they get more done."""
    if change.throughput is None or memory.throughput is None or not 0 < change.before < change.after:
        return memory
    if len(change.afterwards) >= EFFECT_SAMPLES:
        return memory
    afterwards = (*change.afterwards, memory.throughput)
    memory = memory._replace(change=change._replace(afterwards=afterwards))
    gain = max(afterwards) / change.throughput
    if len(afterwards) < EFFECT_SAMPLES or gain - 1 >= LITTLE_EFFECT * (change.after / change.before - 1):
        return memory
    return memory._replace(ineffective=Ineffective(change.before, change.after, gain), ineffective_since=now)


def expected(rates: Rates, ahead_s: float) -> float:
    """The arrivals to provide for: at least the last rate.

    A jump happened somewhere between two polls, half-way on average, so the new rate is as far above what was measured as
    that is above the one before. A steady rise goes on for `ahead_s`, but for no longer than it has been seen: to a few looks
    close together noise looks like a rise.
    """
    times, values = rates.times[-RISES - 1 :], rates.values[-RISES - 1 :]
    if not values:
        return 0.0
    last = values[-1]
    if len(values) > 1 and last > JUMP * values[-2] and last >= max(values):
        return min(2 * last, last + (last - values[-2]))
    if len(values) > RISES:
        steps = [(values[n + 1] - values[n]) / (times[n + 1] - times[n]) for n in range(RISES)]
        if min(steps) > 0:
            return min(2 * last, last + median(steps) * min(ahead_s, times[-1] - times[0]))
    return last


def peaks(rates: Rates, quiet_s: float, now: float, bridged_s: float) -> tuple[Peak, ...]:
    """What arrived within each quiet time that has been observed from its beginning.

    Args:
        rates: the arrivals, the last of them now.
        quiet_s: the shortest quiet time.
        now: its end.
        bridged_s: a rate counts as it is on average over so long.
    """
    times = rates.times
    pieces = (rate * (end - begin) for rate, (begin, end) in zip(rates.values[1:], pairwise(times), strict=True))
    arrived = list(accumulate(pieces, initial=0.0))
    lasting = [0.0]
    for place in range(1, len(times)):
        since = max(0, bisect_right(times, times[place] - bridged_s) - 1)
        lasting.append((arrived[place] - arrived[since]) / (times[place] - times[since]))
    found = []
    for multiple in QUIET_TIMES:
        first = bisect_left(times, now - multiple * quiet_s)
        if first == 0:  # nothing was seen before it
            break
        mean = (arrived[-1] - arrived[first - 1]) / (times[-1] - times[first - 1])
        found.append(Peak(multiple * quiet_s, max(lasting[first:]), mean))
    return tuple(found)


def _situation(
    memory: Memory,
    seen: Observation,
    policy: ScalingPolicy,
    *,
    left: tuple[Effective, ...],
    progress: _Progress | None,
    guess: float,
) -> Situation:
    now, lasting = seen.time, memory.lasting
    stuck = tuple(
        StuckPartition(partition, position, now - since)
        for partition, (position, since) in enumerate(memory.moved_at)
        if now - since >= STUCK_AFTER_S
    )
    hanging = {each.partition for each in stuck}
    waiting = [(number, each.position) for number, each in enumerate(left) if each.lag and number not in hanging]
    age = ends.furthest(memory.table, waiting, now)
    arriving = sum(memory.arrivals)
    shares = tuple(rate / arriving for rate in memory.arrivals) if arriving else (0.0,) * len(left)
    owners = tuple(partition.owner for partition in seen.partitions)
    held = tuple(_by_owner(owners))
    ahead = lasting.scale_out_s + LOOK_AHEAD_S
    rate = memory.rates.values[-1] if memory.rates.values else 0.0
    changed_at = lasting.changed_at
    quiet_s = policy.behaviour.scale_in_after_seconds
    return Situation(
        now=now,
        replicas=seen.replicas,
        ready=seen.ready,
        partitions=len(left),
        group=seen.group,
        is_paused=seen.is_paused,
        is_rolling_out=seen.is_rolling_out,
        lag=sum(each.lag for each in left),
        behind_s=age.seconds,
        behind_is_at_least=age.is_at_least,
        rate=rate,
        expected_rate=expected(memory.rates, ahead),
        recalled_rate=max((high for _, high in memory.highs), default=0.0),
        peaks=peaks(memory.rates, quiet_s, now, min(policy.freshness_seconds, quiet_s)),
        shares=shares,
        busiest_share=max((sum(shares[number] for number in each) for each in held), default=None),
        lagging_owners=tuple(each for each in held if _lags(each, left, hanging, progress)),
        capacity=lasting.capacity if lasting.capacity is not None else max(lasting.fastest, guess),
        capacity_is_measured=lasting.capacity is not None,
        scale_out_s=lasting.scale_out_s,
        scale_in_s=lasting.scale_in_s,
        since_change_s=None if changed_at is None else now - changed_at,
        idle_s=0.0 if memory.idle_since is None else now - memory.idle_since,
        stuck=stuck,
        unowned=tuple(number for number, owner in enumerate(owners) if owner is None) if any(owners) else (),
        ineffective=memory.ineffective,
        downstream=seen.downstream,
        poll_s=progress.seconds if progress else LOOK_S,
    )


def _lags(held: tuple[int, ...], left: tuple[Effective, ...], hanging: set[int], progress: _Progress | None) -> bool:
    """Whether a replica has more than a second's work waiting, by what it did last."""
    waiting = sum(left[partition].lag for partition in held if partition not in hanging)
    done = sum(progress.done[partition] for partition in held) if progress else 0.0
    return waiting > SATURATED_S * done and waiting > 0


def acted(memory: Memory, situation: Situation, replicas: int) -> Memory:
    """What is remembered once the number of replicas was changed to this."""
    change = _Change(situation.now, situation.replicas, replicas, memory.throughput)
    return memory._replace(lasting=memory.lasting._replace(changed_at=situation.now), change=change)
