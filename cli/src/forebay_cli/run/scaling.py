"""How many replicas the stages of a run have: what is seen of them, given to the decision that the operator takes too."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

from forebay.kafka.admin import Admin
from forebay.pipeline import names
from forebay.pipeline.spec import Pipeline
from forebay.planning.groups import Group
from forebay.planning.scaling import (
    Downstream,
    GroupState,
    History,
    Observation,
    PartitionOffsets,
    Start,
    Verdict,
    decided,
    downstream_of,
    group_state,
    policy_of,
    stored,
)
from forebay_cli.run.launches import Consuming
from forebay_cli.run.observation import answer

READ_WITHIN_S = 0.5

Groups = Callable[[list[str]], Mapping[str, Group | None]]


class StageScaling:
    """One stage's scaling: `look` and `write` block, one call at a time; `decide` is pure but for what it remembers."""

    def __init__(
        self,
        stage: Consuming,
        *,
        pipeline: Pipeline,
        admin: Admin,
        groups: Groups,
        partitions: int,
        file: Path | None = None,
    ) -> None:
        self.stage = stage
        self.policy = policy_of(stage.autoscaling)
        self._admin, self._groups, self._partitions = admin, groups, range(partitions)
        self._group = names.group_id(pipeline, stage)
        self._history = History()
        self._file = file

    @property
    def verdict(self) -> Verdict | None:
        """The last one."""
        return self._history.last.verdict if self._history.last else None

    @property
    def has_news(self) -> bool:
        """Whether the last verdict says something else than the one before."""
        return self._history.last is not None and self._history.last.times == 1

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
        self._history = decided(self._history, seen, self.policy)
        return self._history.log[-1].verdict

    def write(self) -> None:
        """Write the last decisions where `forebay explain` finds them. Without room on the disk the run goes on."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                partial = self._file.with_suffix(".partial")
                partial.write_bytes(stored(self._history.log))
                partial.replace(self._file)

    def _read(self) -> tuple[GroupState, tuple[PartitionOffsets, ...]]:
        topic = self.stage.from_
        observed = self._groups([self._group])[self._group]
        if observed is None:
            return GroupState.UNKNOWN, ()
        begins = self._admin.begin_offsets(topic, self._partitions)
        ends = self._admin.end_offsets(topic, self._partitions)  # last: an end is never older than what was committed
        return group_state(observed.state), tuple(
            PartitionOffsets(
                end=ends.get(number),
                committed=observed.committed.get((topic, number)),
                begin=begins.get(number),
                owner=observed.owners.get((topic, number)),
            )
            for number in self._partitions
        )


def scalings(pipeline: Pipeline, admin: Admin, groups: Groups, folder: Path) -> dict[str, StageScaling]:
    """The consuming stages by name, if there is one among them whose number of replicas can change.

    Args:
        pipeline: what runs.
        admin: a client of their own.
        groups: asks for groups by name.
        folder: where each stage's decisions are written, as STAGE.jsonl.
    """
    stages = pipeline.spec.consuming_stages
    if all(stage.autoscaling.is_pinned for stage in stages):
        return {}
    folder.mkdir(exist_ok=True)
    states = admin.observe({stage.from_ for stage in stages})
    return {
        stage.name: StageScaling(
            stage,
            pipeline=pipeline,
            admin=admin,
            groups=groups,
            partitions=state.partitions,
            file=folder / f"{stage.name}.jsonl",
        )
        for stage in stages
        if (state := states[stage.from_]) is not None
    }


def downstream(stage: Consuming, pipeline: Pipeline, all_of_them: Mapping[str, StageScaling]) -> Downstream | None:
    """The stage that reads what this one writes, as it was seen last."""
    last = {name: scaling.verdict for name, scaling in all_of_them.items()}
    return downstream_of(stage, pipeline, {name: verdict for name, verdict in last.items() if verdict is not None})
