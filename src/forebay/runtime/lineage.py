"""Whether offsets, state and topics still belong together, and where to go on.

Kafka addresses a topic by its name, and neither an offset nor a changelog says which topic of that name it was made from. So
two things are written inside each transaction. The committed offsets carry a `Lineage` as their metadata: the ids of the
input and the changelogs. The last record of each changelog partition carries a `Position` as a header: the input's id and the
next offset, at which the state stands.

From the two follows what no offset tells by itself: the input was deleted and made again; a changelog was, and its state is
lost; the group was deleted or has expired, and the state knows where to go on; somebody set the group back, and its state
would count records twice.
"""

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import structlog

from forebay.errors import Refused
from forebay.kafka.group import Commit
from forebay.pipeline.spec import OnOffsetLost
from forebay.planning.topics import TopicState
from forebay.runtime.state import Position

log = structlog.get_logger()

_FORMAT = 1


class Lineage(NamedTuple):
    """The topics, by id, that a committed offset was made from."""

    input_id: str
    changelog_ids: Mapping[str, str]
    """By the changelog's name."""

    def encode(self) -> str:
        """As the metadata of a committed offset."""
        return json.dumps({"format": _FORMAT, "input": self.input_id, "changelogs": self.changelog_ids})


def decode(metadata: str) -> Lineage | None:
    """The lineage of a committed offset; None when somebody else has set it, who writes something else or nothing."""
    try:
        found = json.loads(metadata)
        if found["format"] != _FORMAT:
            return None
        return Lineage(str(found["input"]), {str(name): str(each) for name, each in found["changelogs"].items()})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def observed(source: TopicState, changelogs: Iterable[TopicState]) -> Lineage:
    """The lineage of what will be committed from now on. Refused when the sizes do not fit.

    A key would be counted in one partition and its state kept in another.
    """
    ids = {}
    for changelog in changelogs:
        if changelog.partitions != source.partitions:
            raise Refused(
                f"topic {source.name} has {source.partitions} partitions and the state in {changelog.name} has "
                f"{changelog.partitions}: more partitions move keys away from their state; raise stateVersion of the "
                "transform to start with new state, or write to a new topic and let the stage read that"
            )
        ids[changelog.name] = str(changelog.topic_id)
    return Lineage(str(source.topic_id), ids)


def check_changelogs(former: Lineage, present: Lineage) -> None:
    """Refused when the state of the former changelogs is gone. A changelog that is new to the stage begins empty."""
    for name, topic_id in present.changelog_ids.items():
        if former.changelog_ids.get(name, topic_id) != topic_id:
            raise Refused(
                f"changelog topic {name} was deleted and made again: the state up to the committed offsets is lost, and "
                "going on without it would give wrong results; raise stateVersion of the transform to go on with new state"
            )


def check_input(topic: str, former_id: str, present: Lineage, policy: OnOffsetLost) -> bool:
    """Whether the input is still the former one. Refused when it is not and the policy is to stop."""
    if former_id == present.input_id:
        return True
    if policy is OnOffsetLost.STOP:
        raise Refused(
            f"topic {topic} was deleted and made again: what was committed belongs to the former one, of which records may "
            "be lost; set onOffsetLost: Earliest to go on at the beginning of the new one"
        )
    return False


def resume_at(
    place: str, commit: Commit | None, positions: Iterable[Position], present: Lineage, policy: OnOffsetLost
) -> int | None:
    """The offset to go on at in an input partition (`place`, for messages); None where nothing is known of it.

    `positions` are those at which the partition's state stands. Of a former topic only the policy remains. Raises Refused.
    """
    topic = place.partition("/")[0]
    former = decode(commit.metadata) if commit is not None else None
    if former is not None:
        check_changelogs(former, present)
        if not check_input(topic, former.input_id, present, policy):
            return 0
    reached = max((each.next_offset for each in positions if each.topic_id == present.input_id), default=None)
    if commit is not None:
        if reached is not None and commit.offset < reached:
            raise Refused(
                f"the state of {place} stands at offset {reached}, but its committed offset is {commit.offset}: records in "
                "between would be counted twice; set the group's offset to the former, or raise stateVersion of the "
                "transforms to start with new state"
            )
        return commit.offset
    if reached is None and not all(check_input(topic, each.topic_id, present, policy) for each in positions):
        return 0
    return reached
