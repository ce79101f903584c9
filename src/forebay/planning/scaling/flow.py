"""What stages of a Pipeline know of each other: speeding one up is no use where its reader cannot follow."""

from collections.abc import Mapping

from forebay.pipeline.spec import Pipeline, Processor, Sink
from forebay.planning.scaling.observation import Downstream
from forebay.planning.scaling.policy import policy_of
from forebay.planning.scaling.rules import Verdict


def downstream_of(stage: Processor | Sink, pipeline: Pipeline, last: Mapping[str, Verdict]) -> Downstream | None:
    """The stage that reads what this one writes and is the furthest beyond its promise.

    Args:
        stage: the one that is looked at.
        pipeline: its Pipeline.
        last: the last verdict on each stage; one without a complete measurement says nothing.
    """
    if not isinstance(stage, Processor):
        return None
    readers = [
        seen
        for reader in pipeline.spec.consuming_stages
        if reader.from_ == stage.to and (seen := _as_downstream(reader, last.get(reader.name))) is not None
    ]
    return max(readers, key=lambda reader: reader.behind_s - reader.freshness_s, default=None)


def _as_downstream(reader: Processor | Sink, verdict: Verdict | None) -> Downstream | None:
    if verdict is None or verdict.inputs.missing is not None:
        return None
    policy, seen = policy_of(reader.autoscaling), verdict.inputs
    return Downstream(
        name=reader.name,
        behind_s=seen.behind_s,
        freshness_s=policy.freshness_seconds,
        is_at_its_limit=seen.replicas >= min(policy.max_replicas, seen.partitions),
    )
