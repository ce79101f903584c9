"""Forebay's own decision, by the code that the operator and `forebay run` call, on the observations that they make."""

from forebay.planning.scaling import (
    GroupState,
    Log,
    Memory,
    Observation,
    PartitionOffsets,
    ScalingPolicy,
    Start,
    logged,
    look_again_s,
    step,
)
from forebay.planning.scaling.observation import LOOK_S
from forebay_cli.simulate.world import NOBODY, Arrivals, Look, Setting


def scaling_policy(setting: Setting) -> ScalingPolicy:
    """What a user would write for this setting."""
    return ScalingPolicy(
        min_replicas=setting.min_replicas,
        max_replicas=setting.max_replicas,
        freshness_seconds=setting.freshness_s,
        scale_to_zero=setting.scale_to_zero,
    )


class Forebay:
    """`forebay.planning.scaling`, as the operator runs it."""

    def __init__(self, load: Arrivals, index: int) -> None:
        self._policy = scaling_policy(load.setting)
        self._memory = Memory()
        self._is_first = index == 0
        self.log: Log = ()
        """The decisions, of the first seed alone."""
        self._phase = phase(load, index, LOOK_S)
        self._look_again = LOOK_S
        self._replicas, self._ready, self._now = 0, 0, 0.0

    def next_look(self, now: float) -> float:
        """As soon as the last verdict asks for it."""
        return now + (self._look_again if now else self._phase)

    def decide(self, look: Look | None) -> int | None:
        """The verdict's number of replicas."""
        self._memory, verdict = step(self._memory, self._observed(look), self._policy)
        self._look_again = look_again_s(verdict)
        if self._is_first:
            self.log = logged(self.log, verdict, self._policy)
        return verdict.replicas if verdict.is_change else None

    def _observed(self, look: Look | None) -> Observation:
        if look is None:  # Kafka did not answer; Kubernetes did
            return Observation(
                time=self._now,
                replicas=self._replicas,
                ready=self._ready,
                group=GroupState.UNKNOWN,
                partitions=(),
            )
        self._replicas, self._ready, self._now = look.replicas, look.ready, look.now
        return Observation(
            time=look.now,
            replicas=look.replicas,
            ready=look.ready,
            group=look.group,
            partitions=tuple(
                PartitionOffsets(end, committed, 0, None if owner == NOBODY else NAMES[owner])
                for end, committed, owner in zip(look.ends, look.committed, look.owners, strict=True)
            ),
            topic_id="simulated",
            start=Start.EARLIEST,
        )


def phase(load: Arrivals, index: int, every_s: float) -> float:
    """When somebody who looks at regular times looks first: any time within the first interval, by seed."""
    spread = (index * 0.618034 + 0.1 * load.setting.first_seed) % 1.0
    return max(1e-3, every_s * spread)


NAMES = tuple(f"replica-{ordinal}" for ordinal in range(10_000))
