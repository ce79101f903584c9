"""How many replicas: a tuple of rules, the first that has something to say decides.

The aim is the promise, not a utilisation: replicas are added when the stage would otherwise break `freshnessSeconds` before
more of them could work, and taken away when fewer have been enough for a while. Every verdict says why, also one that
changes nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from forebay.planning.scaling import sizing
from forebay.planning.scaling.observation import LOOK_S, GroupState
from forebay.planning.scaling.policy import ScalingPolicy
from forebay.planning.scaling.situation import Peak, Situation

ALERT = 0.7
"""Replicas are added when `behind` would reach this part of the promise before they work; the rest is for noise."""
LOAD_OUT = 0.85
"""The load that replicas are added for: at most this on the busiest one."""
LOAD_IN = 0.8
"""The load that is left on the busiest replica after a scale-in, at the mean of the quiet time. Its peaks may take the rest."""
PAYS_BACK = 10.0
"""A scale-in saves so many times the work that its rebalance costs, if the quiet lasts as long again as it has lasted."""
TRY_FEWER_AFTER = 3.0
"""Times the quiet time, before a stage whose capacity nobody has seen is tried with fewer replicas."""


class Reason(StrEnum):
    """Why, in one word: the column WHY."""

    PAUSED = "Paused"
    OUT_OF_BOUNDS = "OutOfBounds"
    MEASUREMENT_MISSING = "MeasurementMissing"
    IDLE_AT_ZERO = "IdleAtZero"
    WOKEN_UP = "WokenUp"
    ROLLING_OUT = "RollingOut"
    STARTING = "Starting"
    REBALANCING = "Rebalancing"
    WITHOUT_OWNER = "WithoutOwner"
    STUCK = "Stuck"
    WENT_IDLE = "WentIdle"
    DID_NOT_HELP = "DidNotHelp"
    LIMITED_DOWNSTREAM = "LimitedDownstream"
    HOT_PARTITION = "HotPartition"
    AT_MAXIMUM = "AtMaximum"
    CATCHING_UP = "CatchingUp"
    FALLING_BEHIND = "FallingBehind"
    LOAD_FELL = "LoadFell"
    TRYING_FEWER = "TryingFewer"
    KEEPING_UP = "KeepingUp"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many replicas there should be, and why."""

    replicas: int
    reason: Reason
    sentence: str
    inputs: Situation

    @property
    def is_change(self) -> bool:
        """Whether it differs from what there is."""
        return self.replicas != self.inputs.replicas


def decide(situation: Situation, policy: ScalingPolicy) -> Verdict:
    """The verdict of the first rule that applies."""
    for rule in RULES:
        verdict = rule(situation, policy)
        if verdict is not None:
            return verdict
    raise AssertionError("the last rule always applies")  # pragma: no cover


Rule = Callable[[Situation, ScalingPolicy], Verdict | None]


def _hold(situation: Situation, reason: Reason, sentence: str) -> Verdict:
    return Verdict(situation.replicas, reason, sentence, situation)


def paused(now: Situation, _policy: ScalingPolicy) -> Verdict | None:
    """The user said stop."""
    return _hold(now, Reason.PAUSED, "scaling is paused by the user") if now.is_paused else None


def out_of_bounds(now: Situation, policy: ScalingPolicy) -> Verdict | None:
    """The user's bounds hold whatever is measured."""
    low, high = _bounds(now, policy)
    if low <= now.replicas <= high or (now.replicas == 0 and policy.scale_to_zero):
        return None
    bound = min(max(now.replicas, low), high)
    return Verdict(
        bound,
        Reason.OUT_OF_BOUNDS,
        f"{_replicas(now.replicas)} are outside of {low} to {high}, which the Pipeline allows",
        now,
    )


def measurement_missing(now: Situation, _policy: ScalingPolicy) -> Verdict | None:
    """A missing number is not a zero."""
    if now.missing is None:
        return None
    return _hold(now, Reason.MEASUREMENT_MISSING, f"nothing is decided on half a measurement: {now.missing}")


def at_zero(now: Situation, policy: ScalingPolicy) -> Verdict | None:
    """Without replicas, the first record starts some."""
    if now.replicas > 0:
        return None
    if now.lag == 0:
        return _hold(now, Reason.IDLE_AT_ZERO, "nothing has arrived since the last replica went")
    # what an idle stage did last is the least that it can do: no reason for more than the fewest
    fewest = _counts(now, policy)[0]
    replicas = _needed(now, policy, behind=now.behind_s + now.scale_out_s) if now.capacity_is_measured else fewest
    return Verdict(replicas, Reason.WOKEN_UP, f"{now.lag} records have arrived", now)


def rolling_out(now: Situation, _policy: ScalingPolicy) -> Verdict | None:
    """The figures describe two versions at once."""
    return _hold(now, Reason.ROLLING_OUT, "a new version is being rolled out") if now.is_rolling_out else None


def starting(now: Situation, _policy: ScalingPolicy) -> Verdict | None:
    """Replicas that were asked for and do not work yet are part of the answer already."""
    if now.ready >= now.replicas:
        return None
    return _hold(now, Reason.STARTING, f"{now.ready} of {now.replicas} replicas are ready")


def rebalancing(now: Situation, _policy: ScalingPolicy) -> Verdict | None:
    """While partitions move, lag says nothing about capacity; another change would start the rebalance again."""
    if now.group is GroupState.STABLE:
        return None
    sentence = (
        "the consumer group is rebalancing"
        if now.group is GroupState.REBALANCING
        else "no replica has joined the group yet"
    )
    return _hold(now, Reason.REBALANCING, sentence)


def without_owner(now: Situation, _policy: ScalingPolicy) -> Verdict | None:
    """Nobody reads a partition although the group is settled: no number of replicas explains its lag."""
    if not now.unowned:
        return None
    return _hold(now, Reason.WITHOUT_OWNER, f"{_partitions(now.unowned)} has no owner in a settled group")


def idle(now: Situation, policy: ScalingPolicy) -> Verdict | None:
    """Nothing to do for long enough, and every end committed: the last replica goes."""
    if not policy.scale_to_zero or now.lag or now.idle_s < policy.behaviour.to_zero_after_seconds:
        return None
    return Verdict(0, Reason.WENT_IDLE, f"nothing has arrived for {now.idle_s:.0f} s and every end is committed", now)


def stuck(now: Situation, _policy: ScalingPolicy) -> Verdict | None:
    """Lag that does not move is no load: a record, a transaction or a replica hangs."""
    if not now.stuck or now.lagging_owners:
        return None
    first = now.stuck[0]
    return _hold(
        now,
        Reason.STUCK,
        f"partition {first.partition} has stood at offset {first.offset} for {first.seconds:.0f} s with records left: look at "
        "its owner's log; more replicas do not help",
    )


def did_not_help(now: Situation, policy: ScalingPolicy) -> Verdict | None:
    """What more replicas did not speed up, something else limits: they go again."""
    if now.ineffective is None:
        return None
    before, after, gain = now.ineffective
    low, _ = _bounds(now, policy)
    sentence = (
        f"{_replicas(after)} did {gain:.2f} times as much as {before}: something else limits this stage, such as what it "
        "writes to"
    )
    if now.replicas >= after:
        return Verdict(max(low, before), Reason.DID_NOT_HELP, f"{sentence}; back to {max(low, before)}", now)
    return _hold(now, Reason.DID_NOT_HELP, sentence) if _is_in_danger(now, policy) else None


def limited_downstream(now: Situation, policy: ScalingPolicy) -> Verdict | None:
    """Speeding up a stage whose reader cannot follow only moves the backlog."""
    after = now.downstream
    if (
        after is None
        or not after.is_at_its_limit
        or after.behind_s <= after.freshness_s
        or not _is_in_danger(now, policy)
    ):
        return None
    return _hold(
        now,
        Reason.LIMITED_DOWNSTREAM,
        f"{after.name}, which reads what this stage writes, is {after.behind_s:.0f} s behind and cannot be given more replicas",
    )


def hot_partition(now: Situation, _policy: ScalingPolicy) -> Verdict | None:
    """A partition has one reader: when that is all that lags, replicas are no cure."""
    hot = _hot(now)
    if not hot or not now.lagging_owners or any(not set(held) & set(hot) for held in now.lagging_owners):
        return None  # others lag too
    heaviest = max(hot, key=lambda number: now.shares[number])
    return _hold(
        now,
        Reason.HOT_PARTITION,
        f"partition {heaviest} gets {now.shares[heaviest] * now.rate:.0f} records/s and one replica does {now.capacity:.0f}: "
        "only other keys or more partitions help",
    )


def falling_behind(now: Situation, policy: ScalingPolicy) -> Verdict | None:
    """The promise would be broken before more replicas could work, unless they are started now."""
    if not _is_in_danger(now, policy):
        return None
    _, high = _bounds(now, policy)
    better = [count for count in _counts(now, policy) if count > now.replicas]
    load = now.expected_rate
    head = f"{now.behind_s:.1f} s behind at {load:.0f} records/s with {_replicas(now.replicas)}"
    if not better:
        return _hold(
            now, Reason.AT_MAXIMUM, f"{head}: {high} is the most that the bounds and {now.partitions} partitions allow"
        )
    replicas = max(_needed(now, policy, behind=_behind_when_started(now)), better[0])
    target = ALERT * policy.freshness_seconds
    drift = _drift(now, now.replicas, load)
    alone = sizing.time_to(now.behind_s, target, drift)
    held_up = _behind_when_started(now) + now.scale_in_s
    together = now.scale_out_s + sizing.time_to(held_up, target, _drift(now, replicas, load))
    if drift < 0 and alone <= together:
        return _hold(
            now,
            Reason.CATCHING_UP,
            f"{head}, which catch up within {alone:.0f} s; with {replicas} it would take {together:.0f} s, rebalance included",
        )
    return Verdict(
        replicas,
        Reason.FALLING_BEHIND,
        f"{head}: {_replicas(replicas)} of {now.capacity:.0f} records/s keep {policy.freshness_seconds:g} s",
        now,
    )


def load_fell(now: Situation, policy: ScalingPolicy) -> Verdict | None:
    """As few replicas as are enough now would have been for the whole quiet time: all that are too many go, in one change."""
    if now.capacity <= 0 or not _is_quiet(now, policy):
        return None
    fewer = [count for count in _fewer(now, policy) if _load(now, count, now.expected_rate) <= LOAD_IN]
    fewest = next((count for count in fewer if _bridges_a_return(now, policy, count)), None)
    if fewest is not None:
        quiet = _quiet_time(now, policy, fewest)
        if quiet is None or not _is_enough(now, fewest, quiet):
            return None  # part of them now and the rest a little later would be two rebalances
        sentence = (
            f"at most {quiet.rate:.0f} records/s for {quiet.seconds:.0f} s: {_replicas(fewest)} of {now.capacity:.0f} records/s "
            f"{'is' if fewest == 1 else 'are'} enough"
        )
        return Verdict(fewest, Reason.LOAD_FELL, sentence, now)
    if fewer:
        return _hold(
            now,
            Reason.KEEPING_UP,
            f"{_replicas(now.replicas)} at {now.rate:.0f} records/s: fewer would not keep {policy.freshness_seconds:g} s, should "
            f"the {now.recalled_rate:.0f} records/s of the last quarter of an hour come back",
        )
    return None


def try_fewer(now: Situation, policy: ScalingPolicy) -> Verdict | None:
    """A stage that has never been busy does not tell what it can do: one step at a time finds out."""
    fewer = _fewer(now, policy)
    if now.capacity_is_measured or not fewer or not _is_quiet(now, policy):
        return None
    if not now.peaks or now.peaks[-1].seconds < TRY_FEWER_AFTER * policy.behaviour.scale_in_after_seconds:
        return None
    if any(_is_enough(now, count, now.peaks[0]) for count in fewer):
        return None  # what was seen is enough to know soon
    return Verdict(
        fewer[-1], Reason.TRYING_FEWER, f"{_replicas(now.replicas)} have never been busy: trying {fewer[-1]}", now
    )


def keeping_up(now: Situation, policy: ScalingPolicy) -> Verdict | None:
    """Nothing to do."""
    del policy
    at_least = "at least " if now.behind_is_at_least else ""
    return _hold(
        now,
        Reason.KEEPING_UP,
        f"{at_least}{now.behind_s:.1f} s behind at {now.rate:.0f} records/s with {_replicas(now.replicas)}",
    )


RULES: tuple[Rule, ...] = (
    paused,  # the user said stop
    out_of_bounds,  # what the user wrote holds without any measurement
    measurement_missing,  # everything below reads figures
    at_zero,  # an empty group is normal there
    rolling_out,  # two versions at once
    starting,  # a change is under way
    rebalancing,  # and so is that
    without_owner,  # no capacity explains it
    idle,  # the last replica goes
    stuck,  # diagnosis before action: only a slow stage gets replicas
    did_not_help,
    limited_downstream,
    hot_partition,
    falling_behind,  # slow
    load_fell,
    try_fewer,
    keeping_up,
)


def _bounds(now: Situation, policy: ScalingPolicy) -> tuple[int, int]:
    """The least and the most replicas; never more than partitions, as far as those are known."""
    high = min(policy.max_replicas, now.partitions) if now.partitions else policy.max_replicas
    return min(policy.min_replicas, high), high


def _counts(now: Situation, policy: ScalingPolicy) -> tuple[int, ...]:
    low, high = _bounds(now, policy)
    return sizing.useful_counts(now.partitions, low=low, high=high)


def _hot(now: Situation) -> tuple[int, ...]:
    """The partitions that are too much for a replica of their own."""
    if not now.capacity_is_measured:
        return ()
    return tuple(number for number, share in enumerate(now.shares) if share * now.rate > now.capacity)


def _load(now: Situation, replicas: int, rate: float) -> float:
    """Of the busiest replica, hot partitions left out: no number of replicas helps those."""
    hot = set(_hot(now))
    shares = [share for number, share in enumerate(now.shares) if number not in hot] if hot else now.shares
    share = sizing.busiest_share(shares, replicas) if shares else 0.0
    if not hot and replicas == now.replicas and now.busiest_share is not None:
        share = now.busiest_share  # known, not estimated
    return sizing.outlook(share, rate, now.capacity).load


def _drift(now: Situation, replicas: int, rate: float) -> float:
    load = _load(now, replicas, rate)
    return 1 - 1 / load if load > 0 else -float("inf")


def _behind_when_started(now: Situation) -> float:
    """How far behind the stage will be when more replicas work, if they are started now."""
    return now.behind_s + max(0.0, _drift(now, now.replicas, now.expected_rate)) * now.scale_out_s


def _is_in_danger(now: Situation, policy: ScalingPolicy) -> bool:
    """Whether the promise would be broken before a decision at the next look could take effect."""
    if not now.lag:
        return False
    if now.capacity <= 0:
        return now.behind_s > ALERT * policy.freshness_seconds
    drift = _drift(now, now.replicas, now.expected_rate)
    reaction = now.scale_out_s + now.poll_s
    if drift <= 0:
        return now.behind_s > policy.freshness_seconds
    return bool(now.lagging_owners) and now.behind_s + drift * reaction > ALERT * policy.freshness_seconds


def _needed(now: Situation, policy: ScalingPolicy, *, behind: float) -> int:
    """The fewest replicas that carry the expected load and bring `behind` under the promise in one promise's time."""
    counts = _counts(now, policy)
    target = ALERT * policy.freshness_seconds
    for count in counts:
        load = _load(now, count, now.expected_rate)
        if load <= LOAD_OUT:
            drift = 1 - 1 / load if load > 0 else -float("inf")
            if sizing.time_to(behind, target, drift) <= policy.freshness_seconds:
                return count
    return counts[-1] if now.capacity > 0 else counts[0]


def _fewer(now: Situation, policy: ScalingPolicy) -> tuple[int, ...]:
    return tuple(count for count in _counts(now, policy) if count < now.replicas)


def _is_quiet(now: Situation, policy: ScalingPolicy) -> bool:
    """Whether the stage is fresh and the last change is long ago."""
    is_settled = now.since_change_s is None or now.since_change_s >= policy.behaviour.scale_in_after_seconds
    return is_settled and now.behind_s <= policy.freshness_seconds / 2


def _patience(now: Situation, policy: ScalingPolicy, fewer: int) -> float:
    """How long the quiet must have lasted before it is worth a rebalance.

    The rebalance costs `scale_in_s` of everybody's work at most, and saves the replicas that go for as long as the quiet
    lasts; where it would break the promise by itself, five times that.
    """
    pays_back = PAYS_BACK * now.scale_in_s * now.replicas / (now.replicas - fewer)
    breaks = now.behind_s + now.scale_in_s > policy.freshness_seconds
    return max(policy.behaviour.scale_in_after_seconds, pays_back) * (5.0 if breaks else 1.0)


def _quiet_time(now: Situation, policy: ScalingPolicy, fewer: int) -> Peak | None:
    """What arrived within the time that must have been quiet; None while it has not been watched for so long."""
    patience = _patience(now, policy, fewer)
    return next((peak for peak in now.peaks if peak.seconds >= patience), None)


def _is_enough(now: Situation, fewer: int, quiet: Peak) -> bool:
    """Whether fewer replicas carry the mean of such a time with a reserve, and its peak without one."""
    return _load(now, fewer, quiet.mean) <= LOAD_IN and _load(now, fewer, quiet.rate) <= 1


def _bridges_a_return(now: Situation, policy: ScalingPolicy, fewer: int) -> bool:
    """Whether the promise is kept until more replicas work, should a load that was there lately be back at once.

    It comes half-way between two looks, on average.
    """
    reaction = LOOK_S / 2 + now.scale_out_s
    return _drift(now, fewer, now.recalled_rate) * reaction <= ALERT * policy.freshness_seconds


def _partitions(numbers: tuple[int, ...]) -> str:
    return f"partition{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _replicas(count: int) -> str:
    return f"{count} replica{'' if count == 1 else 's'}"
