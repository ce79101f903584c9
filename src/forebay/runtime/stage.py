"""What a processing stage is to the loop: a pure function of a run of records and the state of their partition."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from forebay.kafka.group import Run
from forebay.runtime.state import State


class DeadLetter(NamedTuple):
    """A record that cannot be processed, and why."""

    source: Any
    """The consumed message."""
    reason: str
    """A short constant word."""
    detail: str


@dataclass(slots=True)
class Outcome:
    """What became of a run."""

    keys: Sequence[bytes | None]
    """Of the records to write, in order."""
    values: Sequence[bytes]
    with_headers: Sequence[int] = ()
    """Indexes of the records whose sources have headers, ascending."""
    sources: Sequence[Any] = ()
    """The consumed message of each record."""
    dead_letters: list[DeadLetter] = field(default_factory=list)
    dropped: int = 0


class PartitionStage(Protocol):
    """A stage's work on one partition."""

    @property
    def states(self) -> dict[str, State]:
        """State of each stateful transform, by the transform's name."""

    def process(self, run: Run) -> Outcome:
        """Process records in order. Changes state in `states` only, so that an abort can undo it."""
