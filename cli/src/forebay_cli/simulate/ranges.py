"""The ranges that the simulated world draws from: one place, a reason for each, the same for every policy.

What was measured on this project's own processor and a local cluster is said to be measured. Nothing here depends on the
policy that is running.
"""

from typing import NamedTuple


class Range(NamedTuple):
    """Both ends included; drawn evenly."""

    low: float
    high: float


class Ranges(NamedTuple):
    """The world's figures, in seconds where nothing else is said."""

    step: float = 0.5
    """Resolution of the simulation; start-up and rebalances are several of it."""
    start_up: Range = Range(3.0, 6.0)
    """From the decision until a replica joins its group. Measured: 3-5 s for a pod of a warm node, Python's imports included; one
    more for a scheduler that has other work."""
    notice: Range = Range(0.5, 3.0)
    """Until every member has heard of a rebalance: at its next heartbeat, which comes every 3 s."""
    first_member: float = 3.0
    """A group without members waits so long for more: `group.initial.rebalance.delay.ms`, at its default."""
    hand_over: Range = Range(0.3, 1.5)
    """Between two owners: the former's transaction ends (0.2 s), the new one's offsets and state are read."""
    transaction: float = 0.2
    """Commit interval of the processor: what is done shows in the offsets after up to so long, and in the output too."""
    replica_spread: float = 0.06
    """Standard deviation of the replicas' capacities, in parts: nodes are not alike."""
    wobble: float = 0.05
    """Standard deviation of one replica's capacity over time."""
    wobble_time: float = 30.0
    """How long such a deviation lasts."""
    partition_spread: float = 0.1
    """Standard deviation of the partitions' shares, in parts, where a trace gives no weights: murmur2 spreads keys evenly, keys
    do not send evenly."""
    arrival_noise: float = 0.05
    """Standard deviation of the arrivals in one second, in parts, beside that of a Poisson process."""
    answer: Range = Range(0.05, 0.5)
    """From a measurement to the effect of what was decided on it: requests to Kafka and to Kubernetes."""
    lost: float = 0.01
    """Of all measurements: Kafka did not answer in time."""
    partial: float = 0.01
    """Of all measurements: one partition's leader did not answer."""


RANGES = Ranges()
