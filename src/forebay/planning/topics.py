"""Which topics a Pipeline needs, and the steps from what was observed to that: values in, values out.

Three kinds of topics: those that the Pipeline declares; dead letters, as many partitions as the input; and state
(positions of sources, changelogs), compacted. External topics are compared, never changed.

Every step leaves Kafka in a state from which planning again reaches the same end, so it may be interrupted after any of
them. What would lose data or tear keys from their state is a problem for a person and never a step: fewer partitions,
more partitions below keyed state, another replication factor.
Configuration is compared for the keys that the Pipeline names; a key that was removed from the Pipeline keeps its value.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import ClassVar

from forebay.pipeline import names
from forebay.pipeline.spec import ConsumingStage, Management, Pipeline, Topic

DAY_MS = 86_400_000

DEAD_LETTER_RETENTION_MS = 14 * DAY_MS
"""Twice Kafka's default: a weekend and a holiday pass before somebody looks."""

HEADER_BYTES = 65_536
"""What a dead letter may be longer than the record that failed: its headers name reason and origin."""

STATE_CONFIG = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1"}
CHANGELOG_CONFIG = {
    **STATE_CONFIG,
    "segment.bytes": str(64 << 20),
    "delete.retention.ms": str(7 * DAY_MS),  # a replica that was away for less restores without seeing deleted keys
}
POSITIONS_CONFIG = {
    **STATE_CONFIG,
    "segment.bytes": str(1 << 20),  # the least that Kafka takes; a source reads the whole topic when it starts
    "segment.ms": "600000",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicState:
    """A topic as Kafka describes it."""

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str] = field(default_factory=dict)
    """The values in force, whether set or by default; a key that is left out counts as different."""
    topic_id: str | None = None
    """Changes when a topic is deleted and made again."""


Observed = Mapping[str, TopicState | None]
"""What Kafka has, by name; None where there is no such topic. Every topic of `names_of` has an entry."""


class Purpose(StrEnum):
    """What a topic is for."""

    DECLARED = "declared"
    DEAD_LETTERS = "dead letters"
    POSITIONS = "positions of a source"
    CHANGELOG = "state"


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedTopic:
    """A topic as the Pipeline asks for it."""

    name: str
    purpose: Purpose
    partitions: int | None
    """None: the Pipeline does not say; an External topic of any size."""
    replication_factor: int
    config: Mapping[str, str] = field(default_factory=dict)
    is_external: bool = False
    pinned_by: tuple[str, ...] = ()
    """The stages with keyed state on this topic: more partitions would move keys away from it."""


@dataclass(frozen=True, slots=True)
class CreateTopic:
    """Create a topic that does not exist."""

    sign: ClassVar[str] = "+"
    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str]
    purpose: Purpose

    def __str__(self) -> str:
        config = "".join(f", {key}={value}" for key, value in sorted(self.config.items()))
        return (
            f"create topic {self.name}: {_count(self.partitions, 'partition')}, "
            f"replication factor {self.replication_factor}{config} ({self.purpose})"
        )


@dataclass(frozen=True, slots=True)
class AddPartitions:
    """Let a topic grow."""

    sign: ClassVar[str] = "~"
    name: str
    present: int
    wanted: int

    def __str__(self) -> str:
        return f"grow topic {self.name} from {self.present} to {self.wanted} partitions"


@dataclass(frozen=True, slots=True)
class AlterConfig:
    """Set configuration values of a topic; other keys stay as they are."""

    sign: ClassVar[str] = "~"
    name: str
    config: Mapping[str, str]
    present: Mapping[str, str | None]

    def __str__(self) -> str:
        changes = (
            f"{key} from {self.present.get(key) or 'unset'} to {self.config[key]}" for key in sorted(self.config)
        )
        return f"set in topic {self.name}: {', '.join(changes)}"


Action = CreateTopic | AddPartitions | AlterConfig


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps, in order, and what no step may solve. With problems, no step should be taken."""

    actions: tuple[Action, ...] = ()
    problems: tuple[str, ...] = ()


def names_of(pipeline: Pipeline) -> tuple[str, ...]:
    """All topics to observe before anything can be wanted."""
    return tuple(topic.name for topic in wanted(pipeline, {}))


def wanted(pipeline: Pipeline, observed: Observed) -> tuple[WantedTopic, ...]:
    """All topics that the Pipeline needs, the declared ones first.

    Observed matters for what is derived: an External topic's real size and replication decide, and a changelog has as
    many partitions as its input really has.
    """
    topics = {topic.name: _declared(pipeline, topic) for topic in pipeline.spec.topics}
    for derived in _derived(pipeline, topics, observed):
        known = topics.setdefault(derived.name, derived)
        if known.purpose is Purpose.DEAD_LETTERS:  # two stages share it: the larger one
            topics[derived.name] = _larger(known, derived)
    return tuple(topics.values())


def capped(topics: Iterable[WantedTopic], brokers: int) -> tuple[tuple[WantedTopic, ...], tuple[str, ...]]:
    """The topics as a smaller cluster can hold them, and what was lowered, one note for each kind of change."""
    lowered, notes = [], dict[str, None]()
    for topic in topics:
        factor = min(topic.replication_factor, brokers)
        config = dict(topic.config)
        if factor < topic.replication_factor and not topic.is_external:
            notes[f"replicationFactor is lowered from {topic.replication_factor} to {factor}: {_has(brokers)}"] = None
        in_sync = config.get("min.insync.replicas", "")
        if in_sync.isdecimal() and int(in_sync) > brokers:
            config["min.insync.replicas"] = str(brokers)
            notes[f"min.insync.replicas is lowered from {in_sync} to {brokers}: {_has(brokers)}"] = None
        lowered.append(replace(topic, replication_factor=factor, config=config))
    return tuple(lowered), tuple(notes)


def diff(topics: Iterable[WantedTopic], observed: Observed) -> Plan:
    """The steps from what was observed to what is wanted."""
    actions: list[Action] = []
    problems: list[str] = []
    for topic in topics:
        present = observed.get(topic.name)
        found = list(_problems(topic, present))
        problems += found
        if not found and not topic.is_external:
            actions += _actions(topic, present)
    return Plan(tuple(actions), tuple(problems))


def _declared(pipeline: Pipeline, topic: Topic) -> WantedTopic:
    return WantedTopic(
        name=topic.name,
        purpose=Purpose.DECLARED,
        partitions=topic.partitions,
        replication_factor=topic.replication_factor,
        config=topic.config,
        is_external=topic.management is Management.EXTERNAL,
        pinned_by=tuple(
            processor.name
            for processor in pipeline.spec.processors
            if processor.from_ == topic.name and any(transform.is_stateful for transform in processor.transforms)
        ),
    )


def _derived(pipeline: Pipeline, declared: Mapping[str, WantedTopic], observed: Observed) -> Iterator[WantedTopic]:
    spec = pipeline.spec
    for producer in spec.producers:
        factor = _factor(declared[producer.to], observed)
        yield WantedTopic(
            name=names.positions_topic(pipeline, producer),
            purpose=Purpose.POSITIONS,
            partitions=1,
            replication_factor=factor,
            config={**POSITIONS_CONFIG, **_in_sync(factor)},
        )
    for stage in spec.consuming_stages:
        yield _dead_letters(stage, declared[stage.from_], observed)
    for processor in spec.processors:
        source = declared[processor.from_]
        factor = _factor(source, observed)
        for transform in processor.transforms:
            if transform.is_stateful:
                yield WantedTopic(
                    name=names.changelog_topic(pipeline, processor, transform),
                    purpose=Purpose.CHANGELOG,
                    partitions=state.partitions if (state := observed.get(source.name)) else source.partitions,
                    replication_factor=factor,
                    config={**CHANGELOG_CONFIG, **_in_sync(factor)},
                    pinned_by=(processor.name,),
                )


def _dead_letters(stage: ConsumingStage, source: WantedTopic, observed: Observed) -> WantedTopic:
    factor = _factor(source, observed)
    longest = source.config.get("max.message.bytes", "")
    room = {"max.message.bytes": str(int(longest) + HEADER_BYTES)} if longest.isdecimal() else {}
    return WantedTopic(
        name=names.dead_letter_topic(stage),
        purpose=Purpose.DEAD_LETTERS,
        partitions=_partitions(source, observed),
        replication_factor=factor,
        config={
            "cleanup.policy": "delete",
            "retention.ms": str(DEAD_LETTER_RETENTION_MS),
            **room,
            **_in_sync(factor),
        },
    )


def _partitions(topic: WantedTopic, observed: Observed) -> int | None:
    """How many the topic has, as far as it is somebody else's, or will have."""
    state = observed.get(topic.name)
    return state.partitions if topic.is_external and state is not None else topic.partitions


def _factor(topic: WantedTopic, observed: Observed) -> int:
    state = observed.get(topic.name)
    return state.replication_factor if topic.is_external and state is not None else topic.replication_factor


def _in_sync(factor: int) -> dict[str, str]:
    """One replica may fail without stopping the writers, and what was acknowledged is on two, from three replicas on."""
    return {"min.insync.replicas": "2" if factor > 2 else "1"}  # noqa: PLR2004 - explained above


def _larger(one: WantedTopic, other: WantedTopic) -> WantedTopic:
    sizes = [topic.partitions for topic in (one, other) if topic.partitions is not None]
    larger = max((one, other), key=lambda topic: int(topic.config.get("max.message.bytes", "0")))
    factor = max(one.replication_factor, other.replication_factor)
    return replace(
        one,
        partitions=max(sizes, default=None),
        replication_factor=factor,
        config={**larger.config, **_in_sync(factor)},
    )


def _problems(topic: WantedTopic, present: TopicState | None) -> Iterator[str]:
    if present is None:
        yield from _missing(topic)
    elif topic.is_external:
        yield from _external(topic, present)
    else:
        yield from _partition_problems(topic, present)
        if present.replication_factor != topic.replication_factor:
            yield _replication_problem(topic, present)


def _replication_problem(topic: WantedTopic, present: TopicState) -> str:
    declared = f", or set replicationFactor: {present.replication_factor}"
    return (
        f"topic {topic.name} has replication factor {present.replication_factor}, the Pipeline asks for "
        f"{topic.replication_factor}, which Forebay does not change: reassign its partitions with "
        f"kafka-reassign-partitions{declared if topic.purpose is Purpose.DECLARED else ''}"
    )


def _missing(topic: WantedTopic) -> Iterator[str]:
    if topic.is_external:
        yield f"topic {topic.name} is External and does not exist: create it, or make it `management: Managed`"


def _external(topic: WantedTopic, present: TopicState) -> Iterator[str]:
    if topic.partitions is not None and present.partitions < topic.partitions:
        yield (
            f"topic {topic.name} is External and has {_count(present.partitions, 'partition')}, the Pipeline asks for "
            f"{topic.partitions} at least: let its owner add some, or set partitions: {present.partitions}"
        )
    for key, value in sorted(_changes(topic, present).items()):
        yield (
            f"topic {topic.name} is External and has {key}={present.config.get(key)}, the Pipeline asks for {value}: "
            f"let its owner change it, or remove {key} from the Pipeline"
        )


def _partition_problems(topic: WantedTopic, present: TopicState) -> Iterator[str]:
    if topic.partitions is None or present.partitions == topic.partitions:
        return
    counts = (
        f"topic {topic.name} has {_count(present.partitions, 'partition')}, the Pipeline asks for {topic.partitions}"
    )
    if topic.purpose is Purpose.CHANGELOG:
        yield (
            f"{counts}, as many as the input of {', '.join(topic.pinned_by)}: its state would not match the keys: raise "
            "stateVersion of the transform to start with new state, or give the input its former size"
        )
    elif present.partitions > topic.partitions and topic.purpose is Purpose.DECLARED:
        yield (
            f"{counts}, and Kafka cannot take partitions away: set partitions: {present.partitions}, or use a topic with "
            "another name"
        )
    elif topic.pinned_by:
        yield (
            f"{counts}, which would move keys away from the state of {', '.join(topic.pinned_by)}: keep partitions: "
            f"{present.partitions}, or write to a new topic of {topic.partitions} partitions and let the stage read that"
        )


def _actions(topic: WantedTopic, present: TopicState | None) -> Iterator[Action]:
    if topic.partitions is None:  # derived from an External topic that is missing, which is a problem of its own
        return
    if present is None:
        yield CreateTopic(topic.name, topic.partitions, topic.replication_factor, topic.config, topic.purpose)
        return
    if present.partitions < topic.partitions:
        yield AddPartitions(topic.name, present.partitions, topic.partitions)
    if changes := _changes(topic, present):
        yield AlterConfig(topic.name, changes, {key: present.config.get(key) for key in changes})


def _changes(topic: WantedTopic, present: TopicState) -> dict[str, str]:
    return {
        key: value
        for key, value in topic.config.items()
        if key not in present.config or _normal(present.config[key]) != _normal(value)
    }


def _normal(value: str) -> str:
    """As Kafka writes the value back: no spaces around list items, booleans in small letters, numbers without a sign."""
    text = ",".join(item.strip() for item in value.split(","))
    if text.lower() in {"true", "false"}:
        return text.lower()
    digits = text.removeprefix("+").removeprefix("-")
    return str(int(text)) if digits.isascii() and digits.isdecimal() and len(digits) < 20 else text  # noqa: PLR2004


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _has(brokers: int) -> str:
    return f"this Kafka has {_count(brokers, 'broker')}"
