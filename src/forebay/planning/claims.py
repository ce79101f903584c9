"""Who may manage a topic when several Pipelines ask for it: the oldest."""

from collections.abc import Iterable
from dataclasses import dataclass

from forebay.pipeline.spec import Pipeline
from forebay.planning import topics


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimant:
    """A Pipeline and the topics that it would create and change."""

    name: str
    """namespace/name"""
    age: tuple[str, str]
    """Time of creation as Kubernetes writes it, and uid: the smaller one is older."""
    cluster: str
    """The Kafka cluster's id; where that is unknown, its addresses."""
    topics: frozenset[str]


def claimant(pipeline: Pipeline, *, created: str, uid: str, cluster: str) -> Claimant:
    """What a Pipeline claims."""
    name = f"{pipeline.metadata.namespace}/{pipeline.metadata.name}"
    managed = frozenset(topic.name for topic in topics.wanted(pipeline, {}) if not topic.is_external)
    return Claimant(name=name, age=(created, uid), cluster=cluster, topics=managed)


def older_claims(own: Claimant, others: Iterable[Claimant]) -> dict[str, str]:
    """The topics that an older Pipeline manages, by name, with the name of the oldest."""
    older = sorted((one for one in others if one.cluster == own.cluster and one.age < own.age), key=lambda one: one.age)
    return {topic: one.name for one in reversed(older) for topic in one.topics & own.topics}
