"""One look at a stage from outside: what Kafka and Kubernetes (or `forebay run`) say of it."""

from dataclasses import dataclass
from enum import StrEnum

from forebay.planning.scaling.lag import PartitionOffsets, Start

LOOK_S = 5.0
"""Between two looks at a stage where nothing happens."""


class GroupState(StrEnum):
    """A consumer group, as far as it matters here."""

    STABLE = "Stable"
    REBALANCING = "Rebalancing"
    EMPTY = "Empty"
    """No members, or no such group."""
    UNKNOWN = "Unknown"
    """Kafka did not answer."""


def group_state(word: str) -> GroupState:
    """From the word that Kafka's client has for it: STABLE, PREPARING_REBALANCING, Assigning ..."""
    match word.upper():
        case "STABLE":
            return GroupState.STABLE
        case "EMPTY" | "DEAD":
            return GroupState.EMPTY
        case (
            "PREPARING_REBALANCING" | "COMPLETING_REBALANCING" | "PREPARING_REBALANCE" | "COMPLETING_REBALANCE"
            | "ASSIGNING" | "RECONCILING"
        ):  # fmt: skip
            return GroupState.REBALANCING
        case _:
            return GroupState.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Downstream:
    """The stage that reads this stage's output and is the furthest behind."""

    name: str
    behind_s: float
    freshness_s: float
    is_at_its_limit: bool
    """It cannot be given more replicas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What was seen at one time."""

    time: float
    """Seconds; only differences matter."""
    replicas: int
    """How many were asked for."""
    ready: int
    group: GroupState
    partitions: tuple[PartitionOffsets, ...]
    """Every partition of the input, by number; empty when the topic could not be read."""
    topic_id: str | None = None
    start: Start = Start.EARLIEST
    is_paused: bool = False
    is_rolling_out: bool = False
    downstream: Downstream | None = None
