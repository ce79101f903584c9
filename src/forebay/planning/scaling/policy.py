"""What the user asks of a stage's scaling: bounds, the promise, and how patient to be."""

from dataclasses import dataclass

from forebay.pipeline import spec
from forebay.pipeline.spec import Autoscaling

_DEFAULTS = spec.Behaviour()


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How long evidence has to last before replicas are taken away."""

    scale_in_after_seconds: float = _DEFAULTS.scale_in_after_seconds
    """So long fewer replicas must have been enough; longer where a rebalance is costly. Simulated: two minutes cost a tenth more
    replica-hours on bursty load and save no rescale."""
    to_zero_after_seconds: float = _DEFAULTS.to_zero_after_seconds
    """So long nothing may have arrived before the last replica goes. KEDA's cooldown is the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPolicy:
    """`spec.*.autoscaling` of a stage."""

    min_replicas: int = 1
    max_replicas: int = 1
    freshness_seconds: float = 10.0
    """How far behind its input the stage may be."""
    scale_to_zero: bool = False
    """Whether an idle stage may have no replica at all, whatever `min_replicas` says."""
    behaviour: Behaviour = Behaviour()


def policy_of(autoscaling: Autoscaling) -> ScalingPolicy:
    """What a Pipeline's stage asks for."""
    return ScalingPolicy(
        min_replicas=autoscaling.min_replicas,
        max_replicas=autoscaling.max_replicas,
        freshness_seconds=autoscaling.freshness_seconds,
        scale_to_zero=autoscaling.scale_to_zero,
        behaviour=Behaviour(
            scale_in_after_seconds=autoscaling.behaviour.scale_in_after_seconds,
            to_zero_after_seconds=autoscaling.behaviour.to_zero_after_seconds,
        ),
    )
