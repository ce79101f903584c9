"""Records from a file, once, from the first line to the last.

The position is the byte at which the next row begins, with a checksum of what stands before it: a restart seeks there, and
refuses a file that is another one by now.
"""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from forebay.errors import Refused
from forebay.kafka.producer import Message
from forebay.pipeline.spec import FieldMapping, FileFormat, FileSource
from forebay.runtime.sourcing import Batch, Flaw
from forebay_producer.sources import fields
from forebay_producer.sources.fields import Record, Unmappable
from forebay_producer.sources.lines import Lines, Unreadable
from forebay_producer.sources.rows import CsvRows, JsonRows, Rows

_PACE_S = 0.01
"""Records this close to each other go together."""
_PIECE_BYTES = 8 << 20
"""A batch ends here, so that long lines do not add up."""


class FilePosition(msgspec.Struct, frozen=True):
    """Where the next row begins."""

    offset: int
    line: int
    """Counted from 1."""
    checksum: int
    """Of the bytes before it."""


def open_file(spec: FileSource, *, key: str | None, folder: Path) -> "FileRecords":
    """The file's records; relative paths start at the folder. Refused tells what is wrong with file or mapping."""
    path = folder / spec.path
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise Refused(f"source file {path} is no regular file")
        lines = Lines(path)
    except OSError as error:
        raise Refused(
            f"source file {path} cannot be read: {error.strerror}; relative paths start at {folder}"
        ) from error
    try:
        rows: Rows = CsvRows(lines, str(path)) if spec.format is FileFormat.CSV else JsonRows(lines)
        _check_names(spec, rows, key, path)
    except Refused:
        lines.close()
        raise
    return FileRecords(spec, rows, key=key, path=path)


def _check_names(spec: FileSource, rows: Rows, key: str | None, path: Path) -> None:
    """Everything that is wrong before the first record is read."""
    for field in spec.fields:
        if field.constant is not None:
            _check_constant(field)
    if rows.columns is not None:
        wanted = fields.columns_of(spec.fields)
        missing = [column for column in wanted if column not in rows.columns]
        if missing:
            raise Refused(f"{path} has no column {_listed(missing)}; it has {_listed(rows.columns)}")
    made = tuple(field.name for field in spec.fields) or rows.columns
    for use, name in (("key", key), ("source.file.pace", spec.pace.field if spec.pace else None)):
        if made is not None and name is not None and name not in made:
            raise Refused(f"{use}.field {name!r} is no field of the records; they have {_listed(made)}")


def _check_constant(field: FieldMapping) -> None:
    try:
        fields.constant_of(field)
    except ValueError as error:
        raise Refused(f"the constant of field {field.name!r} is no {field.type.value}: {field.constant!r}") from error


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(repr(name) for name in names)


class FileRecords:
    """The records of one file."""

    per_second = None

    def __init__(self, spec: FileSource, rows: Rows, *, key: str | None, path: Path) -> None:
        self._rows = rows
        self._lines = rows.lines
        self._first = (self._lines.offset, self._lines.number)
        """The first row: behind a header, where there is one."""
        self._key = key
        self._path = path
        self._pace = spec.pace
        self._record_of: Callable[[Record], Record] | None = fields.mapping(spec.fields) if spec.fields else None
        self._encode = msgspec.json.Encoder().encode

    @property
    def speedup(self) -> float | None:
        """How much faster than recorded to send."""
        return None if self._pace is None else self._pace.speedup

    def close(self) -> None:
        """Let go of the file."""
        self._lines.close()

    def take(self, position: Any, at_most: int) -> Batch:
        """Rows behind the position; of a paced file those that are due together."""
        self._go_to(position)
        began, is_last = self._lines.offset, False
        messages: list[Message] = []
        flaws: list[Flaw] = []
        due_ms: float | None = None
        while (taken := len(messages) + len(flaws)) < at_most:
            if taken and self._lines.offset - began > _PIECE_BYTES:
                break
            start = (self._lines.offset, self._lines.number)
            try:
                row = self._rows.read()
                if row is None:
                    continue
                record = self._record(row)
                if self._pace is not None:
                    time_ms = self._time_ms(record, self._pace.field)
                    due_ms = time_ms if due_ms is None else due_ms
                    if time_ms > due_ms + _PACE_S * 1000 * self._pace.speedup:
                        self._lines.seek(*start)
                        break
                messages.append(self._message(record))
            except StopIteration:
                is_last = True
                break
            except Unreadable as error:
                flaws.append(Flaw(taken, error.reason, f"line {start[1]}: {error}"))
            except Unmappable as error:
                flaws.append(Flaw(taken, "invalid-field", f"line {start[1]}: {error}"))
        return Batch(
            messages=messages,
            events=len(messages) + len(flaws),
            position=self._position(),
            flaws=flaws,
            due_ms=due_ms,
            is_last=is_last,
        )

    def _record(self, row: Record) -> Record:
        return row if self._record_of is None else self._record_of(row)

    def _message(self, record: Record) -> Message:
        try:
            value = self._encode(record)
        except (OverflowError, RecursionError, ValueError) as error:
            raise Unmappable(f"not to be written as JSON: {error}") from error
        if self._key is None:
            return {"key": None, "value": value}
        if self._key not in record:
            raise Unmappable(f"the key's field {self._key!r} is missing")
        return {"key": fields.key_text(record[self._key]), "value": value}

    @staticmethod
    def _time_ms(record: Record, field: str) -> float:
        value = record.get(field)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise Unmappable(f"the pace's field {field!r} holds no epoch milliseconds")
        return value

    def _position(self) -> Any:
        offset = self._lines.offset
        return msgspec.to_builtins(FilePosition(offset, self._lines.number, self._lines.checksum(offset) or 0))

    def _go_to(self, position: Any) -> None:
        """Stand at the position. Nothing is read again where the lines stand there already."""
        if position is None:
            self._lines.seek(*self._first)
            return
        try:
            at = msgspec.convert(position, FilePosition)
        except msgspec.ValidationError as error:
            raise Refused(
                f"the recorded position {position} is none of a file: give the stage another name, and it starts anew"
            ) from error
        if at.offset != self._lines.offset and self._lines.checksum(at.offset) != at.checksum:
            raise Refused(
                f"{self._path} is not the file it was: it differs before line {at.line} (byte {at.offset}), up to where its "
                "records were sent; bring the old file back, or give the stage another name to send the new one whole"
            )
        self._lines.seek(at.offset, at.line)
