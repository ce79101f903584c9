"""What a Python transform is given."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class State:
    """The durable value of one key: any JSON value, None at first.

    Assign `value` to change it; changing a list or dict in place is not noticed.
    """

    _value: Any = None
    changed: bool = False

    @property
    def value(self) -> Any:
        """What was assigned last for this key."""
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        self._value = value
        self.changed = True


@dataclass(slots=True)
class Record:
    """One event: its key, its decoded JSON object, and where it came from."""

    key: str | None
    value: dict[str, Any]
    timestamp_ms: int
    """When the record was written to Kafka, not when the event took place."""
    topic: str
    partition: int
    offset: int
    state: State = field(default_factory=State)
    """Durable only in a transform with `stateful: true`."""
