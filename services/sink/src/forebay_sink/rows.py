"""From a record's JSON to a row: strict, so that a column never holds something else than its field's type says.

A missing field and null are NULL, unknown fields are ignored. A text is no number, 1.0 is no integer, integers have 64 bits,
numbers are finite. Whatever cannot be read is a dead letter: broken JSON, invalid UTF-8 anywhere in the value (msgspec
skips what it does not need), nesting too deep to follow, and a record without a value, for there is nothing to store.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Annotated, Any

import msgspec

from forebay.errors import Refused
from forebay.pipeline.spec import FieldType, RecordField
from forebay.runtime.stage import DeadLetter
from forebay.runtime.storing import Unstorable

Row = tuple[Any, ...]
Fields = tuple[RecordField, ...]

KEY_AND_VALUE: Fields = (
    RecordField(name="key", type=FieldType.STRING),
    RecordField(name="value", type=FieldType.JSON),
)
"""The columns for records of which nobody knows the fields."""

_NULL = b"null"
_NUL_ESCAPE = b"\\u0000"
_TYPES: dict[FieldType, Any] = {
    FieldType.STRING: str | None,
    FieldType.INTEGER: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None,
    FieldType.NUMBER: float | None,
    FieldType.BOOLEAN: bool | None,
    FieldType.JSON: msgspec.Raw,
}


class RowDecoder:
    """Decodes records of known fields, or of None: then a row is the key and the whole value.

    `refuses_nul` is for databases whose texts cannot hold the character NUL.
    """

    def __init__(self, fields: Fields | None, *, refuses_nul: bool = False) -> None:
        self.fields = KEY_AND_VALUE if fields is None else fields
        self._refuses_nul = refuses_nul
        self._row: Callable[[Any, bytes], Row] = _key_and_value if fields is None else _by_fields(fields)

    def decode(self, messages: Sequence[Any]) -> tuple[list[Row], list[DeadLetter]]:
        """Rows of the messages that can be read, dead letters of the others."""
        rows: list[Row] = []
        letters: list[DeadLetter] = []
        to_row, refuses_nul = self._row, self._refuses_nul
        for message in messages:
            value = message.value()
            try:
                if not value.isascii():
                    value.decode()
                row = to_row(message, value)
                if refuses_nul:
                    self._check_nul(row, value)
                rows.append(row)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, AttributeError, Unstorable) as error:
                letters.append(_letter(message, value, error))
        return rows, letters

    def _check_nul(self, row: Row, value: bytes) -> None:
        if _NUL_ESCAPE in value or self.fields is KEY_AND_VALUE:
            for field, cell in zip(self.fields, row, strict=True):
                if field.type is FieldType.STRING and cell is not None and "\0" in cell:
                    raise Unstorable("invalid-field", f"{field.name} holds the character NUL, which no text column can")


def _letter(message: Any, value: bytes | None, error: Exception) -> DeadLetter:
    if value is None:
        return DeadLetter(
            message, "no-value", "the record has no value: a deletion, which a table of events cannot hold"
        )
    if isinstance(error, Unstorable):
        return DeadLetter(message, error.reason, str(error))
    if isinstance(error, msgspec.ValidationError):
        return DeadLetter(message, "invalid-field", str(error))
    if isinstance(error, RecursionError):
        return DeadLetter(message, "malformed", "the JSON is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return DeadLetter(message, "malformed", f"not UTF-8: {error}")
    if isinstance(error, msgspec.DecodeError):
        return DeadLetter(message, "malformed", str(error))
    raise error


def _by_fields(fields: Fields) -> Callable[[Any, bytes], Row]:
    """A function from a message and its value to the row of its fields."""
    unusable = [field.name for field in fields if '"' in field.name or "\\" in field.name]
    if unusable:
        raise Refused(f"field {unusable[0]!r} cannot become a column: rename it without quotes and backslashes")
    attributes = [f"f{index}" for index in range(len(fields))]
    struct = msgspec.defstruct(
        "Stored",
        [
            (attribute, _TYPES[field.type], msgspec.field(default=_default(field), name=field.name))
            for attribute, field in zip(attributes, fields, strict=True)
        ],
        gc=False,
        frozen=True,
    )
    decode = msgspec.json.Decoder(struct).decode
    documents = [index for index, field in enumerate(fields) if field.type is FieldType.JSON]
    cells: Callable[[Any], Row] = attrgetter(*attributes) if len(fields) > 1 else lambda stored: (stored.f0,)

    def plain(_message: Any, value: bytes) -> Row:
        return cells(decode(value))

    def with_documents(_message: Any, value: bytes) -> Row:
        row = list(cells(decode(value)))
        for index in documents:
            row[index] = _document(row[index])
        return tuple(row)

    return with_documents if documents else plain


def _default(field: RecordField) -> Any:
    return msgspec.Raw(_NULL) if field.type is FieldType.JSON else None


_raw_decoder = msgspec.json.Decoder(msgspec.Raw)


def _key_and_value(message: Any, value: bytes) -> Row:
    key = message.key()
    return (None if key is None else key.decode(), _document(_raw_decoder.decode(value)))


def _document(raw: msgspec.Raw) -> str | None:
    text = bytes(raw)
    return None if text == _NULL else text.decode()
