"""A processor's transforms, compiled once per partition into steps over batches of rows."""

from collections.abc import Callable, Iterator
from typing import Any

from forebay.kafka import columns
from forebay.kafka.group import Run
from forebay.pipeline.spec import Processor, Transform
from forebay.runtime.stage import DeadLetter, Outcome
from forebay.runtime.state import KeyedState, State, Store
from forebay_processor import rows as forms
from forebay_processor.transforms import python
from forebay_processor.transforms.filtering import FilterTransform
from forebay_processor.transforms.moving_average import MovingAverageTransform
from forebay_processor.transforms.python import PythonStep
from forebay_processor.transforms.windows import Windows

Opener = Callable[[Transform], Store]
"""Opens the store of a stateful transform for the partition at hand."""


class Chain:
    """The stage's work on one partition."""

    def __init__(self, processor: Processor, open_store: Opener, *, cache_bytes: int) -> None:
        self._states: dict[str, State] = {}
        self._steps: list[Any] = []
        for transform in processor.transforms:
            if transform.is_stateful:
                self._states[transform.name] = _state(transform, open_store(transform), cache_bytes)
            self._steps.append(_step(transform, self._states.get(transform.name)))
        self._decode = _decoder(processor)

    @property
    def states(self) -> dict[str, State]:
        """State of each stateful transform, by name."""
        return self._states

    def process(self, run: Run) -> Outcome:
        """Decode, apply every transform, encode."""
        dropped = self._dropped()
        messages = run.messages
        with_headers, unreadable = columns.with_headers(messages)
        if unreadable:
            messages = [message for index, message in enumerate(messages) if index not in unreadable]
            with_headers, _ = columns.with_headers(messages)
        rows = self._decode(messages)
        for step in self._steps:
            step.apply(rows)
        values = rows.encoded()
        return Outcome(
            keys=rows.keys,
            values=values,
            with_headers=with_headers if rows.sources is messages else columns.with_headers(rows.sources)[0],
            sources=rows.sources,
            dead_letters=[*rows.dead_letters, *(_unreadable(run.messages[index]) for index in unreadable)],
            dropped=self._dropped() - dropped,
        )

    def _dropped(self) -> int:
        return sum(getattr(step, "dropped", 0) for step in self._steps)


def _unreadable(message: Any) -> DeadLetter:
    return DeadLetter(
        columns.WithoutHeaders(message), "invalid-header", "a header's name is no UTF-8; no header is kept"
    )


def _state(transform: Transform, store: Store, cache_bytes: int) -> State:
    if transform.moving_average is not None:
        return Windows(store, size=transform.moving_average.window, cache_bytes=cache_bytes)
    return KeyedState(
        store, decode=python.decode, encode=python.encode, value_bytes=python.VALUE_BYTES, cache_bytes=cache_bytes
    )


def _step(transform: Transform, state: Any) -> Any:
    if transform.moving_average is not None:
        return MovingAverageTransform(transform.moving_average, state)
    if transform.filter is not None:
        return FilterTransform(transform.filter)
    if transform.python is not None:
        return PythonStep(transform.python, python.load(transform.python.entrypoint), state)
    raise AssertionError(transform)


def _decoder(processor: Processor) -> Callable[[list[Any]], forms.TypedRows | forms.ObjectRows]:
    if any(transform.python is not None for transform in processor.transforms):
        return forms.decode_objects
    fields = list(_fields(processor))
    return forms.Decoder(
        numbers=[name for name, required in fields if required],
        optional=[name for name, required in fields if not required],
        outputs=[each.moving_average.output for each in processor.transforms if each.moving_average is not None],
    ).decode


def _fields(processor: Processor) -> Iterator[tuple[str, bool]]:
    """The input's fields that the transforms read, and whether each must be there: once a filter came, it need not."""
    made: set[str] = set()
    filtered = False
    for transform in processor.transforms:
        if transform.filter is not None:
            filtered = True
            yield from ((each.field, False) for each in transform.filter.where if each.field not in made)
        elif transform.moving_average is not None:
            if transform.moving_average.field not in made:
                yield transform.moving_average.field, not filtered
            made.add(transform.moving_average.output)
