"""A user's function in the middle of the pipeline.

It is given records and returns for each: None (drop), a dict, or a list of dicts (several records, same key). Any
exception makes the record a dead letter; its state stays as it was. State values are decoded anew for every record, so
that a function that changes one in place and then fails leaves no trace.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from forebay.errors import Refused, Undeliverable
from forebay.messages import Record, State
from forebay.pipeline.spec import PythonMode, PythonTransform
from forebay.runtime.stage import DeadLetter
from forebay.runtime.state import KeyedState
from forebay_processor.rows import ObjectRows, refuse

VALUE_BYTES = 500
"""An estimate of what a live value takes in memory, with its key."""


class Held:
    """A state value as JSON, None at first."""

    __slots__ = ("changed", "json")

    def __init__(self, json: bytes | None) -> None:
        self.json = json
        self.changed = False


def decode(data: bytes | None) -> Held:
    """The value as the store kept it. Refused when it is no JSON: the transform's state was of another kind before."""
    if data is not None and data[:1] < b" ":
        raise Refused(
            "the state of a python transform holds something else than JSON: the transform of that name was of another "
            "kind before; raise its stateVersion to start with new state"
        )
    return Held(data)


def encode(held: Held) -> bytes | None:
    """What the store keeps."""
    return held.json


def load(entrypoint: str) -> Callable[..., Any]:
    """The user's function. Refused says what cannot be imported."""
    module_name, _, name = entrypoint.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except Exception as error:
        raise Refused(
            f"python transform {entrypoint!r} cannot be imported: {type(error).__name__}: {error}; "
            "the module must be on the Python path of the processor (its image, or PYTHONPATH)"
        ) from error
    if not callable(function):
        raise Refused(f"python transform {entrypoint!r} is no function")
    return function  # type: ignore[no-any-return]


class _Result(NamedTuple):
    records: list[dict[str, Any]]
    state: bytes | None
    state_changed: bool


class PythonStep:
    """Calls the function for each record, or for the whole run at once."""

    def __init__(self, spec: PythonTransform, function: Callable[..., Any], state: KeyedState[Held] | None) -> None:
        self._spec = spec
        self._function = function
        self._state = state
        self.dropped = 0

    def apply(self, rows: ObjectRows) -> None:
        """Replace every row by the function's results for it."""
        if self._state is not None and None in rows.keys:
            refuse(rows, [key is not None for key in rows.keys], "no-key", lambda _: "a stateful transform needs a key")
        results = self._batch(rows) if self._spec.mode is PythonMode.BATCH else None
        keys: list[bytes | None] = []
        sources: list[Any] = []
        records: list[dict[str, Any]] = []
        for index, (key, source) in enumerate(zip(rows.keys, rows.sources, strict=True)):
            state = self._state_of(key) if results is None else State()  # a damaged store is no fault of the function
            try:
                result = results[index] if results is not None else self._one(key, source, rows.records[index], state)
            except Exception as error:  # noqa: BLE001 - whatever a user's function raises
                rows.dead_letters.append(DeadLetter(source, *_reason(error)))
                continue
            self.dropped += not result
            keys += [key] * len(result)
            sources += [source] * len(result)
            records += result
        rows.keys, rows.sources, rows.records = keys, sources, records

    def _one(self, key: bytes | None, source: Any, value: dict[str, Any], state: State) -> list[dict[str, Any]]:
        if self._spec.mode is PythonMode.BATCH:
            (returned,) = self._function([_record(key, source, value, state)])
        else:
            returned = self._function(_record(key, source, value, state))
        results = _results(returned)
        if state.changed:
            self._keep(key, _encoded(state))
        return results

    def _batch(self, rows: ObjectRows) -> list[list[dict[str, Any]]] | None:
        """The results of one call for all records; None when it failed and each must be tried by itself."""
        states: dict[bytes | None, State] = {}
        batch = []
        try:
            originals = [msgspec.json.encode(value) for value in rows.records]
        except RecursionError:  # nested so deeply that it could just be decoded: found out record by record
            return None
        for key, source, value in zip(rows.keys, rows.sources, rows.records, strict=True):
            state = states[key] if key in states else states.setdefault(key, self._state_of(key))
            batch.append(_record(key, source, value, state))
        try:
            returned = self._function(batch)
            if len(returned) != len(batch):
                raise ValueError(f"{len(batch)} records went in, {len(returned)} results came out")
            results = [_results(each) for each in returned]
            encoded = [(key, _encoded(state)) for key, state in states.items() if state.changed]
        except Exception:  # noqa: BLE001 - found out record by record
            rows.records = [msgspec.json.decode(original) for original in originals]
            return None
        for key, json in encoded:
            self._keep(key, json)
        return results

    def _state_of(self, key: bytes | None) -> State:
        if self._state is None or key is None:
            return State()
        held = self._state.live.get(key) or self._state.load(key)
        return State(None if held.json is None else msgspec.json.decode(held.json))

    def _keep(self, key: bytes | None, json: bytes | None) -> None:
        if self._state is None or key is None:
            return
        held = self._state.live.get(key) or self._state.load(key)
        held.json = json
        if not held.changed:
            held.changed = True
            self._state.changed.append((key, held))


def _encoded(state: State) -> bytes | None:
    return None if state.value is None else msgspec.json.encode(state.value)


def _record(key: bytes | None, source: Any, value: dict[str, Any], state: State) -> Record:
    return Record(
        key=None if key is None else key.decode(errors="replace"),
        value=value,
        timestamp_ms=source.timestamp()[1],
        topic=source.topic(),
        partition=source.partition(),
        offset=source.offset(),
        state=state,
    )


def _results(returned: Any) -> list[dict[str, Any]]:
    if returned is None:
        return []
    results: Sequence[Any] = returned if isinstance(returned, list) else [returned]
    for result in results:
        if not isinstance(result, dict):
            raise TypeError(f"returned {type(result).__name__}; return a dict, a list of dicts, or None to drop")
    return list(results)


def _reason(error: Exception) -> tuple[str, str]:
    if isinstance(error, Undeliverable):
        return "undeliverable", str(error)
    return "python-error", f"{type(error).__name__}: {error}"
