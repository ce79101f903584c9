"""How many replicas the stages of a run have: what is seen of them, given to the decision that the operator takes too."""

from collections.abc import Mapping

from forebay.kafka.admin import Admin
from forebay.pipeline import names
from forebay.pipeline.spec import Pipeline, Processor
from forebay.planning.scaling import (
    Downstream,
    GroupState,
    Memory,
    Observation,
    PartitionOffsets,
    Start,
    Verdict,
    group_state,
    policy_of,
    step,
)
from forebay_cli.run.launches import Consuming
from forebay_cli.run.observation import answer

READ_WITHIN_S = 0.5


class StageScaling:
    """One stage's scaling: `look` blocks, one call at a time; `decide` is pure but for what it remembers."""

    def __init__(self, stage: Consuming, *, pipeline: Pipeline, admin: Admin, partitions: int) -> None:
        self.stage = stage
        self.policy = policy_of(stage.autoscaling)
        self._admin, self._partitions = admin, range(partitions)
        self._group = names.group_id(pipeline, stage)
        self._memory = Memory()
        self._verdict: Verdict | None = None

    def look(self, *, now: float, replicas: int, ready: int, downstream: Downstream | None = None) -> Observation:
        """What there is to see just now. Where Kafka does not answer, that is what is seen."""
        group, partitions = answer(self._read, within_s=READ_WITHIN_S) or (GroupState.UNKNOWN, ())
        return Observation(
            time=now,
            replicas=replicas,
            ready=ready,
            group=group,
            partitions=partitions,
            start=Start(self.stage.start_from),
            downstream=downstream,
        )

    def decide(self, seen: Observation) -> Verdict:
        """The verdict on it."""
        self._memory, self._verdict = step(self._memory, seen, self.policy)
        return self._verdict

    def as_downstream(self) -> Downstream | None:
        """This stage as those that write its input see it; None before it was looked at."""
        if self._verdict is None or self._verdict.inputs.missing is not None:
            return None
        seen = self._verdict.inputs
        return Downstream(
            name=self.stage.name,
            behind_s=seen.behind_s,
            freshness_s=self.policy.freshness_seconds,
            is_at_its_limit=seen.replicas >= min(self.policy.max_replicas, len(self._partitions)),
        )

    def _read(self) -> tuple[GroupState, tuple[PartitionOffsets, ...]]:
        topic = self.stage.from_
        described = self._admin.groups([self._group])[self._group]
        if described is None:
            return GroupState.UNKNOWN, ()
        begins = self._admin.begin_offsets(topic, self._partitions)
        committed = self._admin.committed(self._group, topic, self._partitions)
        ends = self._admin.end_offsets(topic, self._partitions)  # last: an end is never older than what was committed
        return group_state(described.state), tuple(
            PartitionOffsets(
                end=ends.get(number),
                committed=committed.get(number),
                begin=begins.get(number),
                owner=described.owners.get((topic, number)),
            )
            for number in self._partitions
        )


def scalings(pipeline: Pipeline, admin: Admin) -> dict[str, StageScaling]:
    """The consuming stages by name, if there is one among them whose number of replicas can change."""
    stages = pipeline.spec.consuming_stages
    if all(stage.autoscaling.min_replicas >= stage.autoscaling.max_replicas for stage in stages):
        return {}
    states = admin.observe({stage.from_ for stage in stages})
    return {
        stage.name: StageScaling(stage, pipeline=pipeline, admin=admin, partitions=state.partitions)
        for stage in stages
        if (state := states[stage.from_]) is not None
    }


def downstream_of(stage: Consuming, all_of_them: Mapping[str, StageScaling]) -> Downstream | None:
    """The stage that reads what this one writes and is the furthest beyond its promise."""
    if not isinstance(stage, Processor):
        return None
    readers = [
        reader
        for scaling in all_of_them.values()
        if scaling.stage.from_ == stage.to and (reader := scaling.as_downstream()) is not None
    ]
    return max(readers, key=lambda reader: reader.behind_s - reader.freshness_s, default=None)
