"""One look at the stages of a Pipeline: what Kafka and Kubernetes say becomes observations, and those decisions.

Pure: the operator asks every few seconds and keeps what comes out. What Kafka did not answer is missing, never zero.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from forebay.pipeline import names
from forebay.pipeline.spec import Pipeline, Processor, Sink
from forebay.planning import scaling, topics
from forebay.planning.groups import Group, Partition
from forebay.planning.reconciling import Workload
from forebay.planning.scaling import History, PartitionOffsets

Offsets = Mapping[Partition, int | None]

KEPT_DECISIONS = 1
"""Of each stage, in memory: the operator's log and the Pipeline's Events hold the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What Kafka said in one round of requests. What it did not say is left out, or None."""

    now: float
    """Seconds since the epoch, when the ends were read."""
    groups: Mapping[str, Group] = field(default_factory=dict)
    """By name, those of which description and offsets are both known."""
    begins: Offsets = field(default_factory=dict)
    ends: Offsets = field(default_factory=dict)


def follow(
    pipeline: Pipeline,
    histories: Mapping[str, History],
    answers: Answers,
    *,
    known_topics: topics.Observed,
    workloads: Mapping[str, Workload],
    is_paused: bool,
) -> dict[str, History]:
    """What is known of each stage after one more look; a stage that is not deployed is not looked at.

    Args:
        pipeline: as it is now.
        histories: by stage, from the looks before.
        answers: what Kafka said.
        known_topics: for the number of partitions and Kafka's ids.
        workloads: by stage, those that there are.
        is_paused: whether the user wants everything left as it is.
    """
    last = {stage: history.last.verdict for stage, history in histories.items() if history.last is not None}
    found = {}
    for stage in pipeline.spec.consuming_stages:
        history = histories.get(stage.name, History())
        workload = workloads.get(stage.name)
        if workload is not None:
            seen = scaling.Observation(
                time=answers.now,
                replicas=workload.replicas,
                ready=workload.ready,
                group=_group_state(pipeline, stage, answers),
                partitions=_partitions(pipeline, stage, answers, known_topics),
                topic_id=state.topic_id if (state := known_topics.get(stage.from_)) is not None else None,
                start=scaling.Start(stage.start_from),
                is_paused=is_paused or stage.autoscaling.is_pinned,  # measured all the same
                is_rolling_out=workload.is_rolling_out,
                downstream=scaling.downstream_of(stage, pipeline, last),
            )
            history = scaling.decided(history, seen, scaling.policy_of(stage.autoscaling), most=KEPT_DECISIONS)
        found[stage.name] = history
    return found


def _group_state(pipeline: Pipeline, stage: Processor | Sink, answers: Answers) -> scaling.GroupState:
    group = answers.groups.get(names.group_id(pipeline, stage))
    return scaling.group_state(group.state) if group is not None else scaling.GroupState.UNKNOWN


def _partitions(
    pipeline: Pipeline, stage: Processor | Sink, answers: Answers, known_topics: topics.Observed
) -> tuple[PartitionOffsets, ...]:
    group, state = answers.groups.get(names.group_id(pipeline, stage)), known_topics.get(stage.from_)
    if group is None or state is None:
        return ()
    places = ((stage.from_, number) for number in range(state.partitions))
    return tuple(
        PartitionOffsets(
            end=answers.ends.get(place),
            committed=group.committed.get(place),
            begin=answers.begins.get(place),
            owner=group.owners.get(place),
        )
        for place in places
    )


def inflow_topics(pipeline: Pipeline) -> frozenset[str]:
    """The topics that no stage of the Pipeline but producers write: what grows there is the load."""
    written = {processor.to for processor in pipeline.spec.processors}
    return frozenset(topic.name for topic in pipeline.spec.topics if topic.name not in written)


def partitions_of(wanted: Iterable[str], known_topics: topics.Observed) -> frozenset[Partition]:
    """Every partition of these topics, as far as they are known."""
    return frozenset(
        (name, number)
        for name in wanted
        if (state := known_topics.get(name)) is not None
        for number in range(state.partitions)
    )
