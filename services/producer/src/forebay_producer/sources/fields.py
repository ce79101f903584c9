"""The fields of a record from the values of a row: names, constants and types. Pure."""

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from forebay.pipeline.spec import FieldMapping, MappedType

Convert = Callable[[Any], Any]
Record = dict[str, Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_SHOWN_CHARACTERS = 80


class Unmappable(ValueError):  # noqa: N818 - what it says of one row
    """A row that does not become a record; the text says which value."""


def mapping(fields: Sequence[FieldMapping]) -> Callable[[Record], Record]:
    """A function from a row to a record. It raises Unmappable."""
    steps = [(field.name, field.column or field.name, _converter(field), field.type) for field in fields]
    constants = {field.name: constant_of(field) for field in fields if field.constant is not None}
    steps = [step for step in steps if step[0] not in constants]
    order = [field.name for field in fields]

    def record_of(row: Record) -> Record:
        record = dict.fromkeys(order)
        record.update(constants)
        for name, column, convert, kind in steps:
            if column not in row:
                raise Unmappable(f"field {column!r} is missing")
            try:
                record[name] = convert(row[column])
            except (ValueError, OverflowError, TypeError) as error:
                raise Unmappable(f"{column!r} is no {kind.value}: {_shown(row[column])}") from error
        return record

    return record_of


def constant_of(field: FieldMapping) -> Any:
    """The constant of a field in the field's type. Raises ValueError when it is none."""
    return _converter(field)(field.constant)


def columns_of(fields: Sequence[FieldMapping]) -> tuple[str, ...]:
    """The columns that the fields are made from."""
    return tuple(field.column or field.name for field in fields if field.constant is None)


def key_text(value: Any) -> bytes:
    """The Kafka key for a value: the UTF-8 of a text, the JSON of a number or boolean. Raises Unmappable for any other."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (bool, int, float)):
        return msgspec.json.encode(value)
    raise Unmappable(f"a key must be a text, a number or a boolean, not {_shown(value)}")


def _converter(field: FieldMapping) -> Convert:
    match field.type:
        case MappedType.STRING:
            return _string
        case MappedType.INTEGER:
            return _integer
        case MappedType.NUMBER:
            return _number
        case MappedType.BOOLEAN:
            return _boolean
        case MappedType.TIMESTAMP:
            pattern = field.format
            return _timestamp if pattern is None else lambda value: _milliseconds(datetime.strptime(value, pattern))  # noqa: DTZ007 - _milliseconds adds UTC


def _string(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float)):
        return msgspec.json.encode(value).decode()
    raise ValueError(value)


def _integer(value: Any) -> int:
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise ValueError(value)


def _number(value: Any) -> float | int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and "_" in value:
        raise ValueError(value)
    if isinstance(value, (str, float)) and math.isfinite(number := float(value)):
        return number
    raise ValueError(value)


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in _BOOLEANS:
        return _BOOLEANS[value.strip().lower()]
    raise ValueError(value)


def _timestamp(value: Any) -> int:
    """Epoch milliseconds of a number of them, or of ISO 8601."""
    if isinstance(value, str) and not _INTEGER.fullmatch(value.strip()):
        return _milliseconds(datetime.fromisoformat(value.strip()))
    return _integer(value)


def _milliseconds(moment: datetime) -> int:
    """Exact, in whole numbers; a moment without an offset is UTC."""
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MILLISECOND


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
