"""From an observation to a verdict, and the record of it: what was decided, on which figures, and for how long it stands.

A decision holds everything that it was made of, so that it can be made again: `replayed` runs the rules on the stored
situation, of an incident or of yesterday, also with another policy.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import msgspec

from forebay.planning.scaling import measuring, rules
from forebay.planning.scaling.measuring import Memory
from forebay.planning.scaling.observation import LOOK_S, Observation
from forebay.planning.scaling.policy import ScalingPolicy
from forebay.planning.scaling.rules import Reason, Verdict

MAX_DECISIONS = 256
LOOK_SOON_S = 2.0
"""Between two looks where something begins: a second look tells a jump from the part of it that fell into the first."""
LONG_HOLD_S = 300.0
"""A verdict that keeps replicas from changing for longer becomes a condition."""
ALL_IS_WELL = frozenset({Reason.KEEPING_UP, Reason.IDLE_AT_ZERO})


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A verdict, the policy it was made under, and since when it has been the same."""

    verdict: Verdict
    policy: ScalingPolicy
    since: float
    """When a verdict of this reason and number was first given, with no other in between."""
    times: int = 1
    """How often it was given since then; the figures are those of the last time."""

    @property
    def held_s(self) -> float:
        """For how long it has stood."""
        return self.verdict.inputs.now - self.since


@dataclass(frozen=True, slots=True)
class Condition:
    """The condition `Scaling` of a stage: whether scaling can do its work, and if not, what keeps it."""

    is_true: bool
    reason: Reason
    message: str


Log = tuple[Decision, ...]
"""The last decisions, the latest last."""


class History(NamedTuple):
    """What is known of a stage's scaling between two looks."""

    memory: Memory = Memory()
    log: Log = ()

    @property
    def last(self) -> Decision | None:
        """The last decision, None before the first."""
        return self.log[-1] if self.log else None


def step(memory: Memory, seen: Observation, policy: ScalingPolicy) -> tuple[Memory, Verdict]:
    """One look, one verdict. Whoever carries it out calls this again with what is then."""
    memory, situation = measuring.measure(memory, seen, policy)
    verdict = rules.decide(situation, policy)
    if verdict.is_change:
        memory = measuring.acted(memory, situation, verdict.replicas)
    return memory, verdict


def decided(history: History, seen: Observation, policy: ScalingPolicy, *, most: int = MAX_DECISIONS) -> History:
    """One look, and its verdict in the log, which keeps the last `most` that differ."""
    memory, verdict = step(history.memory, seen, policy)
    return History(memory, logged(history.log, verdict, policy, most=most))


def look_again_s(verdict: Verdict) -> float:
    """When the next look is worth its requests: soon while a replica lags or the load jumps, and nothing is done yet."""
    now = verdict.inputs
    is_waiting = verdict.is_change or now.ready != now.replicas or now.missing is not None
    is_moving = bool(now.lagging_owners) or now.expected_rate > measuring.JUMP * now.rate
    return LOOK_SOON_S if is_moving and not is_waiting else LOOK_S


def logged(log: Log, verdict: Verdict, policy: ScalingPolicy, *, most: int = MAX_DECISIONS) -> Log:
    """The log with one more verdict. One that says the same as the last takes its place, so the log tells changes."""
    last = log[-1] if log else None
    if last and not verdict.is_change and last.policy == policy and _says(last.verdict) == _says(verdict):
        return (*log[:-1], replace(last, verdict=verdict, times=last.times + 1))
    decision = Decision(verdict=verdict, policy=policy, since=verdict.inputs.now)
    return (*log, decision)[-most:]


def condition(decision: Decision) -> Condition:
    """False where something has kept the stage from being scaled for longer than a change takes."""
    verdict = decision.verdict
    is_kept = not verdict.is_change and verdict.reason not in ALL_IS_WELL and decision.held_s >= LONG_HOLD_S
    held = f" (for more than {LONG_HOLD_S / 60:.0f} minutes)"  # for how much more would be another message every minute
    message = f"{verdict.sentence}{held}" if is_kept else verdict.sentence
    return Condition(not is_kept, verdict.reason, message)


def replayed(decision: Decision, policy: ScalingPolicy | None = None) -> Verdict:
    """The verdict of today's rules on the figures of then, under the policy of then or another."""
    return rules.decide(decision.verdict.inputs, policy or decision.policy)


def stored(log: Log) -> bytes:
    """The log as JSON lines, one decision each."""
    return b"".join(msgspec.json.encode(decision) + b"\n" for decision in log)


def read(lines: bytes) -> Log:
    """A stored log; ValueError (msgspec.ValidationError is one) where a line is none of ours."""
    return tuple(msgspec.json.decode(line, type=Decision) for line in lines.splitlines() if line.strip())


def _says(verdict: Verdict) -> tuple[int, Reason]:
    return verdict.replicas, verdict.reason
