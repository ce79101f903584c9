"""What Kafka says of a consumer group. Apart from what is decided on it: a process that only asks loads nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass

Partition = tuple[str, int]
"""Topic and number."""


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group: who reads what, and how far it has come."""

    state: str
    """In the words of Kafka's client."""
    owners: Mapping[Partition, str]
    """The member that reads each partition."""
    committed: Mapping[Partition, int]
    """The next offset to read; a partition that was never committed is left out."""
