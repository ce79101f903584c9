"""A batch of records on its way through the transforms.

Two forms with one interface. `TypedRows` decodes nothing but the fields that the transforms read and appends new fields to the
JSON text as it came: every other field passes through byte for byte, and no record becomes a Python dict. `ObjectRows`
holds decoded dicts, which Python transforms need.

A row that a transform cannot take is refused: it leaves the batch and becomes a dead letter.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import compress
from operator import add, attrgetter, itemgetter
from typing import Annotated, Any, Protocol

import msgspec

from forebay.kafka import columns
from forebay.runtime.stage import DeadLetter

LIMIT = 1e300
"""Numbers beyond are refused: sums of them would overflow."""

MISSING = msgspec.UNSET

_LAST_BYTE = itemgetter(-1)
_WITHOUT_LAST_BYTE = itemgetter(slice(None, -1))
_CLOSING = {ord("}")}

_Number = Annotated[float, msgspec.Meta(ge=-LIMIT, le=LIMIT)]


class Rows(Protocol):
    """What a transform sees of a batch. All columns have one entry per row."""

    keys: list[bytes | None]
    sources: list[Any]
    dead_letters: list[DeadLetter]

    def column(self, name: str) -> Sequence[Any]:
        """The values of a field; MISSING where a record lacks it."""

    def numbers(self, name: str) -> Sequence[float]:
        """The values of a field that must be a number; rows where it is none are refused first."""

    def add(self, name: str, values: list[float]) -> None:
        """Set a field in every row."""

    def keep(self, mask: list[bool]) -> None:
        """Drop the rows whose mask is False."""

    def encoded(self) -> list[bytes]:
        """The records as JSON."""


def refuse(rows: Rows, mask: list[bool], reason: str, detail: Callable[[int], str]) -> None:
    """Make dead letters of the rows whose mask is False."""
    for index, good in enumerate(mask):
        if not good:
            rows.dead_letters.append(DeadLetter(rows.sources[index], reason, detail(index)))
    rows.keep(mask)


def is_number(value: object) -> bool:
    """Whether a decoded JSON value is a number that sums can hold; a bool is none."""
    return type(value) in (float, int) and -LIMIT <= value <= LIMIT  # type: ignore[operator]


def describe(value: object) -> str:
    """A value's type or size, for a dead letter's detail; never its content."""
    if value is MISSING:
        return "is missing"
    if type(value) in (float, int):
        return "is out of range"
    names = {str: "a text", bool: "true or false", dict: "an object", list: "a list", type(None): "null"}
    return f"is {names.get(type(value), 'something else')}"


def _numbers(rows: Rows, name: str) -> Sequence[float]:
    values = rows.column(name)
    mask = [is_number(value) for value in values]
    if not all(mask):
        refuse(rows, mask, "invalid-field", lambda index: f"field {name!r} {describe(values[index])}")
    return [float(value) for value in compress(values, mask)]


class TypedRows:
    """Rows as JSON text, with the decoded columns beside it."""

    def __init__(
        self,
        keys: list[bytes | None],
        sources: list[Any],
        texts: list[bytes],
        columns: dict[str, Sequence[Any]],
        checked: frozenset[str],
    ) -> None:
        self.keys, self.sources, self.texts = keys, sources, texts
        self.dead_letters: list[DeadLetter] = []
        self._columns = columns
        self._checked = checked
        self._added: dict[str, list[float]] = {}

    def column(self, name: str) -> Sequence[Any]:
        """See Rows."""
        return self._added[name] if name in self._added else self._columns[name]

    def numbers(self, name: str) -> Sequence[float]:
        """See Rows; for most fields the decoder has seen to it already."""
        return self.column(name) if name in self._checked or name in self._added else _numbers(self, name)

    def add(self, name: str, values: list[float]) -> None:
        """See Rows."""
        self._added[name] = values

    def keep(self, mask: list[bool]) -> None:
        """See Rows."""
        self.keys = list(compress(self.keys, mask))
        self.sources = list(compress(self.sources, mask))
        self.texts = list(compress(self.texts, mask))
        self._columns = {name: list(compress(values, mask)) for name, values in self._columns.items()}
        self._added = {name: list(compress(values, mask)) for name, values in self._added.items()}

    def encoded(self) -> list[bytes]:
        """The texts as they came, with the added fields at their ends."""
        texts = self.texts
        for name, values in self._added.items():
            if set(map(_LAST_BYTE, texts)) - _CLOSING:
                texts = [text.rstrip() for text in texts]
            texts = list(map(add, map(_WITHOUT_LAST_BYTE, texts), _endings(name, values)))
            present = self._columns.get(name)
            if present is not None and present.count(MISSING) < len(present):
                texts = [text if value is MISSING else _once(text) for text, value in zip(texts, present, strict=True)]
        return texts


def _once(text: bytes) -> bytes:
    """A record that brought an added field along has two of that name: the last one stays. Other values are not touched.

    One that is nested so deeply that it could just be decoded keeps both: readers take the last.
    """
    try:
        return msgspec.json.encode(msgspec.json.decode(text, type=dict[str, msgspec.Raw]))
    except RecursionError:
        return text


def _endings(name: str, values: list[float]) -> list[bytes]:
    """Each record's last field and closing brace; numbers as the shortest texts that read back as the same floats.

    One call encodes all numbers and one splits them: a list of numbers holds a comma between each two and nowhere else.
    """
    if not values:
        return []
    opening = b"," + msgspec.json.encode(name) + b":"
    numbers = msgspec.json.encode(values)[1:-1]
    return (opening + numbers.replace(b",", b"}\n" + opening) + b"}").split(b"\n")


class ObjectRows:
    """Rows as decoded dicts."""

    def __init__(self, keys: list[bytes | None], sources: list[Any], records: list[dict[str, Any]]) -> None:
        self.keys, self.sources, self.records = keys, sources, records
        self.dead_letters: list[DeadLetter] = []

    def column(self, name: str) -> Sequence[Any]:
        """See Rows."""
        return [record.get(name, MISSING) for record in self.records]

    def numbers(self, name: str) -> Sequence[float]:
        """See Rows."""
        return _numbers(self, name)

    def add(self, name: str, values: list[float]) -> None:
        """See Rows."""
        for record, value in zip(self.records, values, strict=True):
            record[name] = value

    def keep(self, mask: list[bool]) -> None:
        """See Rows."""
        self.keys = list(compress(self.keys, mask))
        self.sources = list(compress(self.sources, mask))
        self.records = list(compress(self.records, mask))

    def encoded(self) -> list[bytes]:
        """See Rows; a record that JSON cannot hold is refused."""
        texts: list[bytes] = []
        mask: list[bool] = []
        details: dict[int, str] = {}
        for index, record in enumerate(self.records):
            try:
                texts.append(_encode(record))
            except (TypeError, ValueError, RecursionError, OverflowError) as error:
                details[index] = f"the result is no JSON: {error}"
            mask.append(index not in details)
        if details:
            refuse(self, mask, "not-json", details.__getitem__)
        return texts


def _encode(record: dict[str, Any]) -> bytes:
    return msgspec.json.encode(record)


class Decoder:
    """From a run's messages to rows; what cannot be decoded becomes dead letters at once.

    Numbers that a transform reads before any filter are required and checked while decoding. Fields that filters look at
    may be missing.
    """

    def __init__(self, *, numbers: Iterable[str], optional: Iterable[str], outputs: Iterable[str]) -> None:
        self._required = tuple(dict.fromkeys(numbers))
        self._others = tuple(name for name in dict.fromkeys((*optional, *outputs)) if name not in self._required)
        self._names = {name: f"f{index}" for index, name in enumerate((*self._required, *self._others))}
        fields: list[tuple[str, Any] | tuple[str, Any, Any]] = [(self._names[name], _Number) for name in self._required]
        fields += [(self._names[name], Any | msgspec.UnsetType, MISSING) for name in self._others]
        struct = msgspec.defstruct(
            "Fields", fields, rename={python: name for name, python in self._names.items()}, gc=False
        )
        self._decode = msgspec.json.Decoder(struct).decode
        self._getters = {name: attrgetter(python) for name, python in self._names.items()}

    def decode(self, messages: list[Any]) -> TypedRows:
        """Rows of all that can be decoded, in order."""
        texts, keys = columns.values(messages), columns.keys(messages)
        refused: list[DeadLetter] = []
        try:
            structs = list(map(self._decode, texts))
            if not b"".join(texts).isascii():
                for text in texts:
                    text.decode()
        except (ValueError, TypeError, RecursionError):
            structs, mask, refused = self._one_by_one(messages, texts)
            messages, texts, keys = (list(compress(column, mask)) for column in (messages, texts, keys))
        fields: dict[str, Sequence[Any]] = {name: list(map(get, structs)) for name, get in self._getters.items()}
        rows = TypedRows(keys, messages, texts, fields, frozenset(self._required))
        rows.dead_letters = refused
        return rows

    def _one_by_one(self, messages: list[Any], texts: list[bytes]) -> tuple[list[Any], list[bool], list[DeadLetter]]:
        structs, mask, refused = [], [], []
        for message, text in zip(messages, texts, strict=True):
            try:
                text.decode()
                structs.append(self._decode(text))
            except (ValueError, TypeError, RecursionError, AttributeError) as error:
                refused.append(DeadLetter(message, *why(text, error)))
                mask.append(False)
            else:
                mask.append(True)
        return structs, mask, refused


def decode_objects(messages: list[Any]) -> ObjectRows:
    """Rows of dicts; what is no JSON object becomes dead letters at once."""
    keys, sources, records, refused = [], [], [], []
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    for message in messages:
        text = message.value()
        try:
            text.decode()
            record = decode(text)
        except (ValueError, TypeError, RecursionError, AttributeError) as error:
            refused.append(DeadLetter(message, *why(text, error)))
        else:
            keys.append(message.key())
            sources.append(message)
            records.append(record)
    rows = ObjectRows(keys, sources, records)
    rows.dead_letters = refused
    return rows


def why(text: bytes | None, error: Exception) -> tuple[str, str]:
    """Reason and detail of a record that cannot be decoded."""
    if text is None:
        return "no-value", "the record has no value (a tombstone)"
    if isinstance(error, UnicodeDecodeError):
        return "not-utf8", f"invalid UTF-8 at byte {error.start}"
    if isinstance(error, RecursionError):
        return "too-deep", "JSON nested too deeply"
    if isinstance(error, msgspec.ValidationError):
        return "invalid-field", str(error)
    return "malformed", str(error)
