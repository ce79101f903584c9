"""What the rules look at: everything that was measured and remembered about a stage, flat, so that it can be stored."""

from dataclasses import dataclass
from typing import NamedTuple

from forebay.planning.scaling.observation import Downstream, GroupState


class StuckPartition(NamedTuple):
    """A partition that has records and an owner and does not move."""

    partition: int
    offset: int
    seconds: float


class Ineffective(NamedTuple):
    """A scale-out that brought next to nothing."""

    before: int
    """Replicas, before it."""
    after: int
    gain: float
    """Throughput afterwards, in parts of what it was before."""


class Peak(NamedTuple):
    """What arrived within the last `seconds`, all of which were observed."""

    seconds: float
    rate: float
    """The highest that lasted for as long as the promise: what is shorter, the promise bridges."""
    mean: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """The inputs of a decision. Rates are records per second."""

    now: float
    replicas: int
    """Asked for."""
    ready: int
    partitions: int
    group: GroupState
    is_paused: bool = False
    is_rolling_out: bool = False
    missing: str | None = None
    """Why the measurement is not complete; then the figures below mean nothing."""
    lag: int = 0
    behind_s: float = 0.0
    """The furthest partition's, those that are stuck left out."""
    behind_is_at_least: bool = False
    rate: float = 0.0
    """Arrivals between the last two observations."""
    expected_rate: float = 0.0
    """Arrivals as they will be when a change has taken effect: at least `rate`."""
    recalled_rate: float = 0.0
    """The highest of the last quarter of an hour."""
    peaks: tuple[Peak, ...] = ()
    """The most that arrived within the last seconds, for the quiet times that a scale-in may wait for."""
    shares: tuple[float, ...] = ()
    """Of the arrivals, by partition; they add up to 1, or are all 0."""
    busiest_share: float | None = None
    """Of the replica that has the most to do now; None where the owners are not known."""
    lagging_owners: tuple[tuple[int, ...], ...] = ()
    """The partitions of each replica that cannot keep up just now."""
    capacity: float = 0.0
    """What one replica can do. Until it was measured, the most that one was seen to do; 0 before anything was seen."""
    capacity_is_measured: bool = False
    scale_out_s: float = 10.0
    """How long this stage takes from a decision for more replicas until they work."""
    scale_in_s: float = 5.0
    """How long a rebalance holds up the partitions that move."""
    since_change_s: float | None = None
    """None: nothing was ever changed."""
    idle_s: float = 0.0
    """For how long nothing has arrived and nothing was left to do."""
    stuck: tuple[StuckPartition, ...] = ()
    unowned: tuple[int, ...] = ()
    ineffective: Ineffective | None = None
    downstream: Downstream | None = None
    poll_s: float = 5.0
    """Between two observations."""
